"""What a chat model is asked: the messages of a request to rewrite one turn, with the turns before it.

The system message and the examples come first and are the same for every request, so a server computes them once
(prefix caching). The turns of a conversation are appended one after the other, for the same reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from polite_flamingo.endpoints.pictures import content
from polite_flamingo.rewriters.config import PLACEHOLDERS, ChatConfig
from polite_flamingo.sample import IMAGE_MARK, Image, unmarked

Message = dict[str, Any]

SAME_LANGUAGE = "the language of the annotation"

_TASK = (
    "You edit the annotations of a dataset of pictures and texts. Each message gives an instruction and the annotation "
    "that somebody wrote for it, which is correct but curt. Rewrite the annotation as a polite assistant would reply "
    "to the instruction: in complete, natural sentences that answer it directly, free of errors. Keep everything that "
    "the annotation says: the answer itself, each name, number, colour and position, and the reason if there is one. "
    "Turn several captions into one description. Boxes only tell you where things are: never repeat their numbers."
)
_SEEING = (
    " The pictures help you to understand the annotation; add only what they plainly show. If the annotation "
    "contradicts a picture, keep what the annotation says."
)
_BLIND = (
    " You cannot see the pictures, and need not: take the annotation as true even if it is odd (the answer may be "
    '"nothing"), add no fact to it, and never say that you cannot see.'
)
_END = " Reply with the rewritten text alone, in {language}; do not mention the annotation or this task."
_AS_JSON = ' Write it as JSON: {"polite": "the rewritten text"}.'

SCHEMA = {
    "type": "object",
    "properties": {"polite": {"type": "string"}},
    "required": ["polite"],
    "additionalProperties": False,
}
"""What `structured` asks for."""


def opening(config: ChatConfig) -> list[Message]:
    """Return the messages that every request begins with: the system message and the examples."""
    messages = [{"role": "system", "content": _system(config)}]
    for example in config.prompt.examples:
        asked = filled(config, config.prompt.template, example.instruction, example.annotation, "vqa")
        messages += [{"role": "user", "content": asked}, assistant(config, example.polite)]
    return messages


def user(config: ChatConfig, instruction: str, annotation: str, task: str, images: Sequence[Image]) -> Message:
    """Return the message that asks to rewrite an annotation.

    Args:
        config: whether pictures are sent, and the template.
        instruction: with one mark per image.
        annotation: the raw response.
        task: one of `sample.TASKS`.
        images: those of the instruction.

    Raises:
        BadSample: an image cannot be read.
    """
    shown = instruction if config.pictures else instruction.replace(IMAGE_MARK, "").strip()
    text = filled(config, config.prompt.template, shown, unmarked(annotation), task)
    return {"role": "user", "content": content(text, images if config.pictures else (), config.max_side)}


def assistant(config: ChatConfig, text: str) -> Message:
    """Return an answer as the model should have written it."""
    said = json.dumps({"polite": text}, ensure_ascii=False) if config.structured else text
    return {"role": "assistant", "content": said}


def filled(config: ChatConfig, template: str, instruction: str, annotation: str, task: str) -> str:
    """Replace the placeholders of a template. Braces in what replaces them stay as they are."""
    language = SAME_LANGUAGE if config.prompt.language == "same" else config.prompt.language
    values = dict(zip(PLACEHOLDERS, (instruction, annotation, task, language), strict=True))
    return re.sub(rf"\{{({'|'.join(PLACEHOLDERS)})\}}", lambda match: values[match[1]], template)


def version(config: ChatConfig) -> list[Message]:
    """Return what identifies the wording, built-in texts included."""
    return [*opening(config), user(config, "instruction", "annotation", "task", ())]


def _system(config: ChatConfig) -> str:
    built_in = _TASK + (_SEEING if config.pictures else _BLIND) + _END
    return filled(config, config.prompt.system or built_in, "", "", "") + (_AS_JSON if config.structured else "")
