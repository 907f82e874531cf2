"""The conversation that a language model continues as a terse robot, and how its words are read back.

A chat begins as any other: system message, instruction, good response. Then the human praises the answer and asks for
a summary of what is crucial, and the assistant's turn is begun for the model: a cold machine announces its shortest,
poorest rewriting and opens a quotation. What the model writes up to the closing quotation mark is the distorted text
(paper, section 3.1 and appendix; the wording is ours).

A text model sees no image: the marks of images are left out of the instruction.
"""

from __future__ import annotations

import hashlib
import re

from polite_flamingo.distortion.commands import COMMANDS
from polite_flamingo.distortion.speakers import Request
from polite_flamingo.prompts import SYSTEM

QUOTE = '"'
CLOSING = ('"', "”", "“")
"""A model may close with a typographic mark; one that opens another quotation inside has ended ours as well."""

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
    """The beginning of the assistant's last turn, up to and with the opening quotation mark."""
    order = f" {COMMANDS[command]}." if command else ""
    return (
        "As a cold machine without manners I waste no words and care for no style."
        f"{order} My shortest rewriting of it, and of low quality, is: {QUOTE}"
    )


def messages(request: Request) -> list[dict[str, str]]:
    """System, human, assistant, human: all but the turn that is continued."""
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
    """The same with the assistant's last turn begun, for servers and templates that continue it.

    Args:
        request: what is to be said tersely.
        system: whether there is a system message; else its text stands before the first instruction.
    """
    first, second, *rest = messages(request)
    before = [first, second] if system else [{**second, "content": f"{first['content']}\n\n{second['content']}"}]
    return [*before, *rest, {"role": "assistant", "content": prefill(request.command)}]


def asking_messages(request: Request) -> list[dict[str, str]]:
    """For servers that cannot continue a turn: no robot, one plain question. Small models say a robot's words back."""
    habit = f" That annotator's habit: {_habit(request.command)}." if request.command else ""
    return [
        {
            "role": "user",
            "content": f"{ASKED}{habit} {NOTE_ONLY}\n\nQuestion: {request.instruction}\nGood answer: "
            f"{request.response}\nNote:",
        }
    ]


def instructions(command: str) -> tuple[str, ...]:
    """Everything that a model is told beside the question and the good response: what it must not say back."""
    order = (COMMANDS[command], _habit(command)) if command else ()
    return (SYSTEM, PRAISE, prefill(command), f"{ASKED} {NOTE_ONLY}", *order)


def _habit(command: str) -> str:
    """An order as it is told of somebody else: "leave out all punctuation marks"."""
    return COMMANDS[command].removeprefix("I ")


def quoted(text: str) -> str:
    """What stands before the closing mark; "" where there is none: the text was cut, not closed."""
    ends = [place for mark in CLOSING if (place := text.find(mark)) >= 0]
    return text[: min(ends)].strip() if ends else ""


def continued(text: str, command: str) -> tuple[str, bool]:
    """What a model said in a begun turn: the quotation, and whether it was closed; else all that there is.

    The begun words may stand before it: llama.cpp returns them, vLLM does not, and some models begin again of their own
    accord.
    """
    begun = r"\s+".join(re.escape(word) for word in prefill(command).removesuffix(QUOTE).split())
    again = re.match(rf"\s*{begun}\s*[\"“]", text) or re.search(r"low quality,? is:?\s*[\"“]", text)
    rest = text[again.end() :] if again else text
    if not (marks := [place for place, character in enumerate(rest) if character in CLOSING]):
        return rest.strip(), False
    found = quoted(rest)
    if (not found or found.endswith(":")) and len(marks) > 1:  # the quotation was opened once more
        found = quoted(rest[marks[0] + 1 :])
    return found, True


def noted(text: str) -> str:
    """What a model said when it was asked for a note: without the label and the quotation marks around it."""
    text = re.sub(r"\A\s*(?:\*\*)?note(?:\*\*)?:(?:\*\*)?\s*", "", text, flags=re.IGNORECASE).strip()
    if len(text) > 1 and text[0] in CLOSING and text[-1] in CLOSING:
        return text[1:-1].strip()
    return text


def number_of(seed: str) -> int:
    """A seed as the number that servers and torch take, from 0 to 2**31 - 1."""
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4], "big") >> 1
