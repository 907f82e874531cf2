"""The conversation that a language model continues as a terse robot, and how its words are read back.

A chat begins as any other: system message, instruction, good response. Then the human praises the answer and asks for
a summary of what is crucial, and the assistant's turn is begun for the model: a cold machine announces its shortest,
poorest rewriting and opens a quotation. What the model writes up to the closing quotation mark is the distorted text
(paper, section 3.1 and appendix; the wording is ours).

A text model sees no image: the marks of images are left out of the instruction.
"""

from __future__ import annotations

import hashlib

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


def asking_messages(request: Request) -> list[dict[str, str]]:
    """For servers that cannot continue a turn: the human dictates its beginning."""
    *before, last = messages(request)
    dictated = (
        f"{last['content']}\nBegin your reply with exactly these words and go on from there: {prefill(request.command)}"
    )
    return [*before, {**last, "content": dictated}]


def quoted(text: str) -> str:
    """What stands before the closing mark; "" where there is none: the text was cut, not closed."""
    ends = [place for mark in CLOSING if (place := text.find(mark)) >= 0]
    return text[: min(ends)].strip() if ends else ""


def quoted_after_asking(text: str, command: str) -> str:
    """Of a reply to `asking_messages`: the quotation, whether the model repeated the dictated words or only went on."""
    start = prefill(command)
    if text.lstrip().startswith(start):
        rest = text.lstrip()[len(start) :]
        return quoted(rest) or ("" if any(mark in rest for mark in CLOSING) else rest.strip())
    marks = [place for place, character in enumerate(text) if character in CLOSING]
    if len(marks) >= 2:
        return text[marks[0] + 1 : marks[1]].strip()
    return text[: marks[0]].strip() if marks else text.strip()


def number_of(seed: str) -> int:
    """A seed as the number that servers and torch take, from 0 to 2**31 - 1."""
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4], "big") >> 1
