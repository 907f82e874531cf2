"""The requests of the serving benchmark: conversations about drawn scenes, as bodies of /v1/chat/completions.

They are sampled with a seed: questions about an image, descriptions, pairs of images, follow-up questions, text only
(`SHARES`). All are greedy, so every server must give the same answers. Each request has new images, as with many users:
the image cache helps only where a conversation continues.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from polite_flamingo.packing.chat_turns import Exchange
from polite_flamingo.prompts import chat_prompt
from polite_flamingo.sample import IMAGE_MARK
from polite_flamingo.sources.records.instructions import INSTRUCTIONS
from polite_flamingo.testbed.shapes.draw import draw, encode
from polite_flamingo.testbed.shapes.instruct import random_text
from polite_flamingo.testbed.shapes.questions import ask
from polite_flamingo.testbed.shapes.scene import Scene, random_change, random_scene

Messages = list[dict[str, Any]]


def bodies(count: int, seed: int, model: str) -> list[bytes]:
    """Return streaming requests with usage, as JSON. Args: count: number of requests."""
    rng = random.Random(seed)
    found: list[Messages] = []
    while len(found) < count:
        make = rng.choices(list(SHARES), list(SHARES.values()))[0]
        found += make(rng)
    more = {"model": model, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    return [json.dumps({**more, "messages": messages}).encode() for messages in found[:count]]


def write(path: Path, requests: Sequence[bytes]) -> None:
    """Write one body per line, as `benchmarks.serving.load_generator` reads them."""
    path.write_bytes(b"\n".join(requests) + b"\n")


def question(rng: random.Random) -> list[Messages]:
    """A question about an image."""
    scene = random_scene(rng)
    return [[user(ask(rng, scene).text, picture(rng, scene))]]


def description(rng: random.Random) -> list[Messages]:
    """A description of an image: the longest answers."""
    return [[user(rng.choice(INSTRUCTIONS["captioning"]), picture(rng, random_scene(rng)))]]


def pair(rng: random.Random) -> list[Messages]:
    """Two images, and a question about the change."""
    before = random_scene(rng)
    after, _ = random_change(rng, before)
    asked = rng.choice(INSTRUCTIONS["change_captioning"])
    return [[user(asked, picture(rng, before), picture(rng, after))]]


def two_turns(rng: random.Random) -> list[Messages]:
    """A question, then the same conversation with its answer and a second question; the image is sent again."""
    scene = random_scene(rng)
    first, second = ask(rng, scene), ask(rng, scene)
    opening = user(first.text, picture(rng, scene))
    answer = {"role": "assistant", "content": first.polite()}
    return [[opening], [opening, answer, user(second.text)]]


def text(rng: random.Random) -> list[Messages]:
    """A question without an image."""
    exchange = random_text(rng)
    return [[user(f"{exchange.question}\n\n{exchange.given}")]]


SHARES: dict[Callable[[random.Random], list[Messages]], float] = {
    question: 0.4,
    description: 0.2,
    pair: 0.1,
    two_turns: 0.15,
    text: 0.15,
}
"""Sampling weights of the kinds; `two_turns` gives two requests."""


def user(said: str, *pictures: str) -> dict[str, Any]:
    """A user message: its images, then the text."""
    if not pictures:
        return {"role": "user", "content": said}
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in pictures]
    return {"role": "user", "content": [*parts, {"type": "text", "text": said}]}


def picture(rng: random.Random, scene: Scene) -> str:
    """The scene, drawn, as a data URL."""
    extension, kind = rng.choice((("jpg", "jpeg"), ("png", "png")))
    return f"data:image/{kind};base64,{base64.b64encode(encode(draw(scene), extension)).decode()}"


def understood(messages: Messages) -> tuple[tuple[Exchange, ...], tuple[bytes, ...]]:
    """A conversation of this file as a server reads it: its exchanges and its images.

    It is independent of the service's own reading, so that equal answers confirm both.
    """
    turns, images = [], []
    for place in range(0, len(messages), 2):
        content = messages[place]["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        said = "".join(IMAGE_MARK if part["type"] == "image_url" else part["text"] for part in parts)
        answer = messages[place + 1]["content"] if place + 1 < len(messages) else ""
        turns.append(Exchange(prompt=chat_prompt(said, first=place == 0), target=answer, images=len(urls)))
        images += [base64.b64decode(url.partition(",")[2]) for url in urls]
    return tuple(turns), tuple(images)
