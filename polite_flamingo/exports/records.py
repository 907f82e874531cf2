"""Kept samples as records of chat formats: one function per format, over all turns of a conversation.

A turn without a polite response is context, and the assistant says its annotation there.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import Any

from polite_flamingo.conversations import polite_text, polite_turns
from polite_flamingo.endpoints.pictures import data_url
from polite_flamingo.sample import IMAGE_MARK, BadSample, Image, Sample, Turn, unmarked

Part = dict[str, Any]
"""A part of a message: {"type": "text", "text": …} or one that stands for a picture."""


def sharegpt_record(sample: Sample, images: Sequence[str]) -> dict[str, Any]:
    """Return a sample as LLaMA-Factory reads it ("sharegpt" with roles): an `<image>` in a text stands for a picture.

    Args:
        sample: a kept sample.
        images: path of each image, relative to the folder of `dataset_info.json`.
    """
    messages = [
        {"role": role, "content": text}
        for turn in polite_turns(sample)
        for role, text in (("user", turn.instruction), ("assistant", unmarked(polite_text(turn))))
    ]
    return {"messages": messages, "images": list(images)}


def openai_record(sample: Sample, urls: Sequence[str]) -> dict[str, Any]:
    """Return a sample as OpenAI's fine-tuning and chat completions have it: pictures are parts of a user's message.

    Responses that are only context have weight 0, which keeps a trainer from learning them.

    Args:
        sample: a kept sample.
        urls: of each image (`picture_url`, or a path).
    """
    left = iter(urls)
    messages: list[dict[str, Any]] = []
    for turn in polite_turns(sample):
        parts = [
            part if part["type"] == "text" else {"type": "image_url", "image_url": {"url": next(left)}}
            for part in parts_of_text(turn.instruction)
        ]
        answer = {"role": "assistant", "content": unmarked(polite_text(turn))}
        messages += [{"role": "user", "content": parts}, answer | ({"weight": 0} if turn.rewritten is None else {})]
    return {"messages": messages}


def pairs(sample: Sample) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield a preference pair for each turn with a polite response: chosen is the polite text, rejected the annotation.

    The format is TRL's, conversational with pictures. The prompt is the conversation so far, with polite responses.

    Yields:
        `prompt`, `chosen` and `rejected`, and how many of the sample's images the prompt shows. Nothing for a turn
        whose polite response is the annotation.
    """
    prompt: list[dict[str, Any]] = []
    shown = 0
    for turn in polite_turns(sample):
        shown += turn.instruction.count(IMAGE_MARK)
        prompt.append({"role": "user", "content": parts_of_text(turn.instruction)})
        if turn.rewritten is not None and not same_text(turn):
            yield (
                {
                    "prompt": list(prompt),
                    "chosen": [_said(turn.rewritten)],
                    "rejected": [_said(turn.response)],
                },
                shown,
            )
        prompt.append(_said(polite_text(turn)))


def same_text(turn: Turn) -> bool:
    """Whether the polite response is the annotation."""
    return turn.rewritten is not None and turn.rewritten.strip() == turn.response.strip()


def _said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": unmarked(text)}]}


def parts_of_text(instruction: str) -> list[Part]:
    """Split an instruction at its image marks; a picture is {"type": "image", "text": None}."""
    parts: list[Part] = []
    for number, text in enumerate(instruction.split(IMAGE_MARK)):
        if number:
            parts.append({"type": "image", "text": None})
        if text.strip():
            parts.append({"type": "text", "text": text.strip()})
    return parts


def picture_url(image: Image) -> str:
    """Return an image as a `data:` URL that every server reads alike; a broken image's bytes as they are."""
    try:
        return data_url(image)
    except BadSample:
        return f"data:image/{image.extension};base64,{base64.b64encode(image.data).decode()}"
