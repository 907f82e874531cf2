"""The conversation that a language model continues as a terse robot, and how its answer is parsed.

The chat begins normally: system message, instruction, good response. Then the human praises the answer and asks for a
summary of what is crucial, and the assistant's turn is started for the model: a cold machine announces its shortest,
poorest rewriting and opens a quotation. The text up to the closing quotation mark is the distorted one (paper, section
3.1 and appendix; the wording is ours).

A text model sees no image, so image marks are removed from the instruction.
"""

from __future__ import annotations

import hashlib
import re

from polite_flamingo.distortion.commands import COMMANDS
from polite_flamingo.distortion.speakers import Request
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
    """The start of the assistant's last turn, up to and including the opening quotation mark."""
    order = f" {COMMANDS[command]}." if command else ""
    return (
        "As a cold machine without manners I waste no words and care for no style."
        f"{order} My shortest rewriting of it, and of low quality, is: {QUOTE}"
    )


def messages(request: Request) -> list[dict[str, str]]:
    """System, human, assistant, human: all messages before the turn to continue."""
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": request.instruction},
        {"role": "assistant", "content": request.response},
        {"role": "user", "content": PRAISE},
    ]


def plain_prompt(request: Request) -> str:
    """The whole as plain text in the form of Guanaco's chats, to be continued."""
    names = {"user": "\n### Human: ", "assistant": "\n### Assistant: ", "system": ""}
    said = "".join(names[message["role"]] + message["content"] for message in messages(request))
    return f"{said}{names['assistant']}{prefill(request.command)}"


def begun_messages(request: Request, *, system: bool = True) -> list[dict[str, str]]:
    """The same with the assistant's last turn started, for servers and templates that can continue it.

    Args:
        request: the response to distort.
        system: send a system message; otherwise its text is put before the first instruction.
    """
    first, second, *rest = messages(request)
    before = [first, second] if system else [{**second, "content": f"{first['content']}\n\n{second['content']}"}]
    return [*before, *rest, {"role": "assistant", "content": prefill(request.command)}]


def asking_messages(request: Request) -> list[dict[str, str]]:
    """A plain question, for servers that cannot continue a turn. Small models repeat a robot's words."""
    habit = f" That annotator's habit: {_habit(request.command)}." if request.command else ""
    given = f"Question: {request.instruction}\nGood answer: {request.response}\nNote:"
    return [{"role": "user", "content": f"{ASKED}{habit} {NOTE_ONLY}\n\n{given}"}]


def instructions(command: str) -> tuple[str, ...]:
    """Everything in the prompt besides the question and the good response: what the model must not repeat."""
    order = (COMMANDS[command], _habit(command)) if command else ()
    return (SYSTEM, PRAISE, prefill(command), f"{ASKED} {NOTE_ONLY}", *order)


def _habit(command: str) -> str:
    """An order in the third person: "leave out all punctuation marks"."""
    return COMMANDS[command].removeprefix("I ")


def quoted(text: str) -> str:
    """The text before the closing mark; "" if there is none, because the text was cut."""
    ends = [place for mark in CLOSING if (place := text.find(mark)) >= 0]
    return text[: min(ends)].strip() if ends else ""


def continued(text: str, command: str) -> tuple[str, bool]:
    """The answer in a started turn: the quotation, or all text without one, and whether it was closed.

    The started words may come first: llama.cpp returns them, vLLM does not, and some models repeat them.
    """
    begun = r"\s+".join(re.escape(word) for word in prefill(command).removesuffix(QUOTE).split())
    again = re.match(rf"\s*{begun}\s*[\"“]", text) or re.search(r"low quality,? is:?\s*[\"“]", text)
    rest = text[again.end() :] if again else text
    if not (marks := [place for place, character in enumerate(rest) if character in CLOSING]):
        return rest.strip(), False
    found = quoted(rest)
    if (not found or found.endswith(":")) and len(marks) > 1:  # the quotation was opened again
        found = quoted(rest[marks[0] + 1 :])
    return found, True


def noted(text: str) -> str:
    """The answer to a request for a note, without a label and quotation marks around it."""
    text = re.sub(r"\A\s*(?:\*\*)?note(?:\*\*)?:(?:\*\*)?\s*", "", text, flags=re.IGNORECASE).strip()
    if len(text) > 1 and text[0] in CLOSING and text[-1] in CLOSING:
        return text[1:-1].strip()
    return text


def number_of(seed: str) -> int:
    """A seed as a number for servers and torch, from 0 to 2**31 - 1."""
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4], "big") >> 1
