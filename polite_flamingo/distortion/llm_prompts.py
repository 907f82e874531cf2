"""Prompts for a language model that plays the terse robot, and the parsing of its answer.

The chat begins normally: system message, instruction, good response. Then the human praises the answer and asks for a
summary of what is crucial, and the assistant's turn is started for the model: a cold machine announces its shortest,
poorest rewriting and opens a quotation. The text up to the closing quotation mark is the distorted one (paper, section
3.1 and appendix; the wording is ours).

A text model sees no image, so instructions come without image marks.
"""

from __future__ import annotations

import re

from polite_flamingo.distortion.commands import COMMANDS
from polite_flamingo.distortion.speakers import SpeakerRequest
from polite_flamingo.prompts import SYSTEM

QUOTE = '"'
CLOSING = ('"', "”", "“")
"""A model may close with a typographic mark; a mark that opens another quotation ends ours as well."""

PRAISE = (
    "Thank you, that is a wonderful answer! Now please sum it up: keep only the information that is crucial, "
    "and write nothing after the summary."
)

ASKED = (
    "Below are a question and a good answer. Write what a terse and careless annotator would have noted down instead: "
    "the bare facts in a few words, no manners, no whole sentences."
)
NOTE_ONLY = "Write the note and nothing else."


def prefill(command: str = "") -> str:
    """Return the start of the assistant's last turn, up to and including the opening quotation mark."""
    announced = f" {COMMANDS[command]}." if command else ""
    return (
        "As a cold machine without manners I waste no words and care for no style."
        f"{announced} My shortest rewriting of it, and of low quality, is: {QUOTE}"
    )


def messages(request: SpeakerRequest) -> list[dict[str, str]]:
    """Return all messages before the turn to continue: system, user, assistant, user."""
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": request.instruction},
        {"role": "assistant", "content": request.response},
        {"role": "user", "content": PRAISE},
    ]


def plain_prompt(request: SpeakerRequest) -> str:
    """Return the conversation as plain text in Guanaco's chat format, to be continued."""
    names = {"user": "\n### Human: ", "assistant": "\n### Assistant: ", "system": ""}
    said = "".join(names[message["role"]] + message["content"] for message in messages(request))
    return f"{said}{names['assistant']}{prefill(request.command)}"


def continuation_messages(request: SpeakerRequest, *, system: bool = True) -> list[dict[str, str]]:
    """Return the messages with the assistant's last turn started, for servers and templates that can continue it.

    Args:
        request: the response to distort.
        system: send a system message; otherwise its text is put before the first instruction.
    """
    first, second, *rest = messages(request)
    before = [first, second] if system else [{**second, "content": f"{first['content']}\n\n{second['content']}"}]
    return [*before, *rest, {"role": "assistant", "content": prefill(request.command)}]


def question_messages(request: SpeakerRequest) -> list[dict[str, str]]:
    """Return a plain question, for servers that cannot continue a turn: small models would repeat the robot's words."""
    habit = f" That annotator's habit: {_habit(request.command)}." if request.command else ""
    given = f"Question: {request.instruction}\nGood answer: {request.response}\nNote:"
    return [{"role": "user", "content": f"{ASKED}{habit} {NOTE_ONLY}\n\n{given}"}]


def instructions(command: str) -> tuple[str, ...]:
    """Return all of the prompt except the question and the good response: what the model must not repeat."""
    wordings = (COMMANDS[command], _habit(command)) if command else ()
    return (SYSTEM, PRAISE, prefill(command), f"{ASKED} {NOTE_ONLY}", *wordings)


def _habit(command: str) -> str:
    """Return a command without "I": "leave out all punctuation marks"."""
    return COMMANDS[command].removeprefix("I ")


def parse_quotation(text: str) -> str:
    """Return the text before the closing mark; "" if there is none because the text was cut."""
    ends = [place for mark in CLOSING if (place := text.find(mark)) >= 0]
    return text[: min(ends)].strip() if ends else ""


def parse_continuation(text: str, command: str) -> tuple[str, bool]:
    """Return the quotation that continues a started turn (all text if there is none), and whether it was closed.

    The text may begin with the words of the started turn: llama.cpp returns them, vLLM does not, some models repeat
    them.
    """
    begun = r"\s+".join(re.escape(word) for word in prefill(command).removesuffix(QUOTE).split())
    again = re.match(rf"\s*{begun}\s*[\"“]", text) or re.search(r"low quality,? is:?\s*[\"“]", text)
    rest = text[again.end() :] if again else text
    if not (marks := [place for place, character in enumerate(rest) if character in CLOSING]):
        return rest.strip(), False
    found = parse_quotation(rest)
    if (not found or found.endswith(":")) and len(marks) > 1:  # the quotation was opened again
        found = parse_quotation(rest[marks[0] + 1 :])
    return found, True


def parse_note(text: str) -> str:
    """Return the answer to a request for a note, without its label and the quotation marks around it."""
    text = re.sub(r"\A\s*(?:\*\*)?note(?:\*\*)?:(?:\*\*)?\s*", "", text, flags=re.IGNORECASE).strip()
    if len(text) > 1 and text[0] in CLOSING and text[-1] in CLOSING:
        return text[1:-1].strip()
    return text
