"""Store conversations with good responses in the formats of LLaVA-Instruct, UltraChat and Alpaca.

The paper distorts such data into rewriting pairs, and tunes on it beside PF-1M: conversations about one picture,
detailed descriptions, answers with reasons, and text without pictures. Every response is a polite text of `grammar.py`.
The pictures of the LLaVA-like parts also have COCO captions and instances with the same image ids, for the retrieval of
captions and boxes. Texts that `texts.Exchange.reserved` keeps for evaluation are never written.
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polite_flamingo.sample import IMAGE_MARK
from polite_flamingo.sources.records.instructions import INSTRUCTIONS
from polite_flamingo.sources.records.source import SourceOptions
from polite_flamingo.testbed.shapes.captions import describe, terse_captions
from polite_flamingo.testbed.shapes.questions import KINDS, Kind, Question, ask, follow_up
from polite_flamingo.testbed.shapes.scene import CANVAS, SHAPES, Scene, random_scene
from polite_flamingo.testbed.shapes.texts import (
    REASONED,
    Exchange,
    drawn,
    knowledge,
    note,
    read_and_asked,
    reading,
    telling,
    told,
)
from polite_flamingo.testbed.shapes.write import allowed_of, save_json, save_picture

MAKERS = {reading: 0.4, knowledge: 0.2, note: 0.15, telling: 0.25}
"""Kinds of text and their shares."""

WHY = " Why?"

DESCRIBE = (
    *INSTRUCTIONS["captioning"], "What can you see?", "What is in the picture?", "Describe what you see.",
    "What does this image contain?", "Please tell me what is in this image.", "What is there to see here?",
)  # fmt: skip
"""Requests for a description: people word them in more ways than the adapters of datasets do."""

TALKATIVE = 0.6
"""Share of answers in conversations that give their reason unasked, if they have one: good responses say more than
annotations do, and a reward model prefers them."""


@dataclass(frozen=True, kw_only=True)
class Instructions:
    """The files that were written.

    Attributes:
        sources: source name -> options for its adapter: `SOURCES[name].read(options)`.
        captions: COCO captions of every picture, by the image ids of the LLaVA parts.
        instances: COCO instances of every picture.
    """

    sources: dict[str, SourceOptions]
    captions: Path
    instances: Path


def write_instruct(
    folder: Path, *, samples: int = 180, seed: int | str = 0, held_out: Collection[Kind] = ()
) -> Instructions:
    """Write `samples` samples of each source under `folder`.

    Args:
        folder: the folder to write; it is created.
        samples: number of samples of llava_conversation, llava_detail, llava_reasoning, ultrachat and alpaca_gpt4 each.
        seed: the same seed writes the same bytes.
        held_out: kinds of question that are never asked about pictures; texts ask all kinds.

    Raises:
        ValueError: `samples` is below 1, or too few kinds of question are left.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, not {samples}")
    asked = allowed_of(KINDS, held_out)
    album = _Album(folder / "llava", random.Random(f"llava-{seed}"))
    parts = {
        "llava_conversation": _save(
            album, "conversation_58k.json", [album.conversation(asked) for _ in range(samples)]
        ),
        "llava_detail": _save(album, "detail_23k.json", [album.description() for _ in range(samples)]),
        "llava_reasoning": _save(
            album,
            "complex_reasoning_77k.json",
            [album.reasoning(allowed_of(REASONED, held_out)) for _ in range(samples)],
        ),
    }
    captions, instances = album.save_annotations()
    text = folder / "text"
    text.mkdir(parents=True, exist_ok=True)
    parts["ultrachat"] = SourceOptions(annotations=(_ultrachat(random.Random(f"chat-{seed}"), text, samples),))
    parts["alpaca_gpt4"] = SourceOptions(annotations=(_alpaca(random.Random(f"alpaca-{seed}"), text, samples),))
    return Instructions(sources=parts, captions=captions, instances=instances)


class _Album:
    """Pictures with all texts about them: conversations, and COCO's annotations of the same pictures."""

    def __init__(self, home: Path, rng: random.Random):
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        self._rng = rng
        self._images: list[dict[str, Any]] = []
        self._captions: list[dict[str, Any]] = []
        self._boxes: list[dict[str, Any]] = []

    def conversation(self, kinds: tuple[Kind, ...]) -> dict[str, Any]:
        """Return one to five different questions about one picture; half of the later ones refer back."""
        scene = random_scene(self._rng)
        said: dict[str, str] = {}
        question: Question | None = None
        for _ in range(self._rng.randint(1, 5)):
            back = follow_up(self._rng, scene, question, kinds) if question and self._rng.random() < 0.5 else None
            asked = back or ask(self._rng, scene, kinds)
            if asked.text not in said:
                question = asked
                talks = bool(question.reason) and self._rng.random() < TALKATIVE
                said[question.text] = question.polite(self._rng.randrange(2), reasoned=talks)
        return self._record(scene, terse_captions(self._rng, scene), list(said.items()))

    def description(self) -> dict[str, Any]:
        """Return a detailed description: all that the captions and boxes say."""
        scene = random_scene(self._rng)
        captions = terse_captions(self._rng, scene)
        asked = self._rng.choice(DESCRIBE)
        return self._record(scene, captions, [(asked, describe(scene, captions))])

    def reasoning(self, kinds: tuple[Kind, ...]) -> dict[str, Any]:
        """Return a question that also asks for the reason."""
        scene = random_scene(self._rng)
        question = ask(self._rng, scene, kinds)
        said = (question.text + WHY, question.polite(self._rng.randrange(2), reasoned=True))
        return self._record(scene, terse_captions(self._rng, scene), [said])

    def _record(self, scene: Scene, captions: list[str], said: list[tuple[str, str]]) -> dict[str, Any]:
        """Return a record in LLaVA's format about a new picture, whose mark is before or after the first question."""
        number = len(self._images) + 1
        file = f"{number:012d}.jpg"
        save_picture(scene, self.home / "train2014" / f"COCO_train2014_{file}")
        self._annotate(number, scene, captions)
        turns = []
        for place, (human, assistant) in enumerate(said):
            if place == 0:
                human = self._rng.choice((f"{IMAGE_MARK}\n{human}", f"{human}\n{IMAGE_MARK}"))
            turns += [{"from": "human", "value": human}, {"from": "gpt", "value": assistant}]
        return {"id": file.removesuffix(".jpg"), "image": file, "conversations": turns}

    def _annotate(self, number: int, scene: Scene, captions: list[str]) -> None:
        self._images.append(
            {"id": number, "file_name": f"COCO_train2014_{number:012d}.jpg", "width": CANVAS, "height": CANVAS}
        )
        for caption in captions:
            self._captions.append({"image_id": number, "id": len(self._captions) + 1, "caption": caption})
        for thing in scene.things:
            x1, y1, x2, y2 = thing.box
            self._boxes.append({
                "id": len(self._boxes) + 1, "image_id": number, "category_id": SHAPES.index(thing.shape) + 1,
                "bbox": [round(x1, 2), round(y1, 2), round(x2 - x1, 2), round(y2 - y1, 2)],
                "area": round((x2 - x1) * (y2 - y1), 2), "iscrowd": 0,
            })  # fmt: skip

    def save_annotations(self) -> tuple[Path, Path]:
        """Write COCO's captions and instances of all pictures so far; return both paths."""
        head = {"info": {"description": "Shapes in the format of COCO 2014", "year": 2026}, "images": self._images}
        categories = [{"id": i + 1, "name": shape, "supercategory": "shape"} for i, shape in enumerate(SHAPES)]
        return (
            save_json(self.home / "captions_train2014.json", head | {"annotations": self._captions}),
            save_json(
                self.home / "instances_train2014.json", head | {"annotations": self._boxes, "categories": categories}
            ),
        )


def _save(album: _Album, name: str, records: list[dict[str, Any]]) -> SourceOptions:
    return SourceOptions(annotations=(save_json(album.home / name, records),), images=album.home, split="train")


def random_text(rng: random.Random) -> Exchange:
    """Return an exchange of the mixture `MAKERS` that is not reserved for evaluation."""
    return drawn(rng, rng.choices(list(MAKERS), list(MAKERS.values()))[0])


def _ultrachat(rng: random.Random, home: Path, samples: int) -> Path:
    """Write JSON lines. Half of the conversations stay with one text, half move on to others."""
    lines = []
    for number in range(samples):
        exchanges = _about_one_text(rng) if rng.random() < 0.5 else [random_text(rng) for _ in range(rng.randint(1, 3))]
        data = []
        for place, exchange in enumerate(exchanges):
            repeated = place > 0 and exchange.given == exchanges[0].given
            data += [exchange.question if repeated else f"{exchange.question}\n\n{exchange.given}", exchange.polite]
        lines.append(json.dumps({"id": str(number), "data": data}))
    path = home / "ultrachat_shapes.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _about_one_text(rng: random.Random) -> list[Exchange]:
    """Return one to three different questions about the same described scene."""
    scene = random_scene(rng)
    text = told(rng, scene)
    exchanges = {}
    for _ in range(rng.randint(1, 3)):
        exchange = drawn(rng, lambda r: read_and_asked(r, scene, text))
        exchanges[exchange.question] = exchange
    return list(exchanges.values())


def _alpaca(rng: random.Random, home: Path, samples: int) -> Path:
    """Write one exchange per record, each once: a record's key is its content."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    while len(found) < samples:
        exchange = random_text(rng)
        record = {"instruction": exchange.question, "input": exchange.given, "output": exchange.polite}
        found.setdefault((exchange.question, exchange.given), record)
    return save_json(home / "alpaca_shapes.json", list(found.values()))
