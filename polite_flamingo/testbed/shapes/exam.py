"""Questions about unseen scenes, each with its exact check: no judge is asked whether an answer is right.

    in         kinds of question that tuning shows, about scenes of one to four things; some also ask why
    out        kinds that tuning leaves out, and crowded scenes
    second     second turns that refer back: "And the one beside it?"
    described  "What can you see in this image?"
    changes    two pictures and what has changed
    text       no pictures: reading a text, knowledge, notes

`evaluation_sets.py` writes sets in the formats of real datasets, for judges that know only the annotation.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from polite_flamingo.sample import Image, Sample, Turn
from polite_flamingo.sources.records.instructions import INSTRUCTIONS
from polite_flamingo.sources.records.instructions import with_image_marks as put
from polite_flamingo.sources.records.responses import answer_response, captions_and_boxes, distinct_lines
from polite_flamingo.testbed.shapes.captions import all_terse_changes, polite_change, terse_captions, terse_changes
from polite_flamingo.testbed.shapes.checks import META, Check, plain
from polite_flamingo.testbed.shapes.draw import draw, encode
from polite_flamingo.testbed.shapes.evaluation_sets import CROWDS, HELD_OUT
from polite_flamingo.testbed.shapes.instruct import WHY
from polite_flamingo.testbed.shapes.questions import KINDS, Kind, Question, ask, follow_up
from polite_flamingo.testbed.shapes.scene import Scene, random_change, random_scene
from polite_flamingo.testbed.shapes.texts import REASONED, Exchange, drawn, knowledge, note, reading

Part = Literal["in", "out", "second", "described", "changes", "text"]
PARTS: tuple[Part, ...] = get_args(Part)

SHOWN: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind not in HELD_OUT)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question with its check.

    Attributes:
        sample: what the model is asked; its response is the annotation, its dataset the part of the exam. Its
            `meta["shapes"]` is the check.
        kind: the kind of question.
        check: what makes an answer right.
        next: the question that follows in the same conversation.
    """

    sample: Sample
    kind: str
    check: Check
    next: Item | None = None

    @property
    def scene(self) -> Scene | None:
        """The scene that is asked about; None if there is no picture."""
        return self.check.scene

    def right(self, text: str) -> bool:
        """Whether an answer is right and says nothing false."""
        return self.check.right(text)

    def after(self, answer: str) -> Sample:
        """Return the conversation in which `answer` was given and the next question is asked."""
        assert self.next is not None
        first = dataclasses.replace(self.sample.turns[0], response=answer)
        return dataclasses.replace(self.next.sample, turns=(first, *self.next.sample.turns), images=self.sample.images)


def exam(part: Part, size: int, seed: int | str = 0) -> list[Item]:
    """Return `size` items; the same seed gives the same ones."""
    rng = random.Random(f"exam-{part}-{seed}")
    return [_MAKERS[part](rng, f"exam/{part}/{number}") for number in range(size)]


def prompts(part: Part, size: int, seed: int | str = 0) -> list[Sample]:
    """Return the samples of an exam, each with its check; of "second", both turns, the first with its right answer."""
    return [item.after(_polite(item)) if item.next else item.sample for item in exam(part, size, seed)]


def _polite(item: Item) -> str:
    assert item.check.question is not None
    return item.check.question.polite()


def _in(rng: random.Random, key: str) -> Item:
    scene = random_scene(rng)
    if rng.random() < 1 / (1 + len(SHOWN)):
        return _why(key, scene, ask(rng, scene, REASONED))
    return _asked(key, scene, ask(rng, scene, SHOWN))


def _out(rng: random.Random, key: str) -> Item:
    if rng.random() < 0.5:
        scene = random_scene(rng)
        return _asked(key, scene, ask(rng, scene, HELD_OUT))
    scene = random_scene(rng, rng.choice(CROWDS))
    item = _asked(key, scene, ask(rng, scene, SHOWN))
    return dataclasses.replace(item, kind=f"crowded: {item.kind}")


def _second(rng: random.Random, key: str) -> Item:
    while True:
        scene = random_scene(rng)
        first = ask(rng, scene, SHOWN)
        second = follow_up(rng, scene, first, SHOWN)
        if second is not None:
            following = _asked(f"{key}/turn1", scene, second, pictures=0)
            return dataclasses.replace(_asked(key, scene, first), next=following)


def _described(rng: random.Random, key: str) -> Item:
    scene = random_scene(rng)
    captions = terse_captions(rng, scene)
    asked = rng.choice(INSTRUCTIONS["captioning"])
    check = Check(kind="description", scene=scene)
    return Item(
        sample=_sample(key, "captioning", asked, captions_and_boxes(captions), [scene], check),
        kind="description", check=check,
    )  # fmt: skip


def _changes(rng: random.Random, key: str) -> Item:
    scene = random_scene(rng)
    after, change = random_change(rng, scene)
    terse = terse_changes(rng, change)
    right = tuple(sorted({plain(text) for text in (polite_change(change), *all_terse_changes(change))}))
    asked = rng.choice(INSTRUCTIONS["change_captioning"])
    check = Check(kind="change", scene=scene, sentences=right)
    sample = _sample(key, "change_captioning", asked, distinct_lines(terse), [scene, after], check)
    return Item(sample=sample, kind="change", check=check)


def _text(rng: random.Random, key: str) -> Item:
    name, make = rng.choice((("reading", reading), ("knowledge", knowledge), ("note", note)))
    exchange: Exchange = drawn(rng, make, reserved=True)
    question = exchange.asked
    assert question is not None
    asked = f"{exchange.question}\n\n{exchange.given}"
    check = Check(kind="question", question=question)
    sample = _sample(key, "text", asked, answer_response(exchange.answer), [], check)
    return Item(sample=sample, kind=name, check=check)


_MAKERS: dict[Part, Callable[[random.Random, str], Item]] = {
    "in": _in, "out": _out, "second": _second, "described": _described, "changes": _changes, "text": _text,
}  # fmt: skip


def _asked(key: str, scene: Scene, question: Question, pictures: int = 1) -> Item:
    check = Check(kind="question", scene=scene, question=question)
    sample = _sample(key, "vqa", question.text, answer_response(question.answer), [scene] * pictures, check)
    return Item(sample=sample, kind=question.kind, check=check)


def _why(key: str, scene: Scene, question: Question) -> Item:
    raw = answer_response(question.answer, question.reason)
    check = Check(kind="question", scene=scene, question=question, reasoned=True)
    return Item(sample=_sample(key, "vqa_rationale", question.text + WHY, raw, [scene], check), kind="why", check=check)


def _sample(key: str, task: str, instruction: str, response: str, scenes: list[Scene], check: Check) -> Sample:
    return Sample(
        key=key, dataset=key.split("/")[1], task=task,
        turns=(Turn(instruction=put(instruction, images=len(scenes)) if scenes else instruction, response=response),),
        images=tuple(Image(extension="png", data=encode(draw(scene), "png")) for scene in scenes),
        meta={META: check.to_record()},
    )  # fmt: skip
