"""Rewriting pairs over Shapes: image(s), instruction, raw annotation → polite response, each with its exact check.

The raw side is made by the source adapters' own functions, so the rewriter is trained on what the job will give it.
Scenes come from the caller's random generator: training and held-out sets have different seeds.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from polite_flamingo.sources.records.instructions import INSTRUCTIONS
from polite_flamingo.sources.records.instructions import with_image_marks as put
from polite_flamingo.sources.records.responses import (
    answer_response,
    captions_and_boxes,
    class_response,
    distinct_lines,
)
from polite_flamingo.testbed.shapes.captions import (
    describe,
    keeps_description,
    polite_change,
    polite_class,
    terse_captions,
    terse_changes,
    terse_class,
)
from polite_flamingo.testbed.shapes.grammar import parse
from polite_flamingo.testbed.shapes.questions import KINDS, Kind, ask
from polite_flamingo.testbed.shapes.scene import CANVAS, Scene, random_change, random_scene
from polite_flamingo.world import words_of

CLASS_TEMPLATE = "a photo of a {}."

REASONED: tuple[Kind, ...] = ("colour", "shape_at", "count")
"""Kinds of question whose answers carry a reason."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One training or test pair. `keeps(text)` is the exact check of a rewrite."""

    task: str
    scenes: tuple[Scene, ...]
    instruction: str
    raw: str
    polite: str
    keeps: Callable[[str], bool]
    others: tuple[str, ...] = ()
    """Polite statements of wrong answers (VQA only)."""
    wrong: tuple[str, ...] = ()
    """The wrong answers themselves, in the same order."""


def random_pair(rng: random.Random, task: str | None = None) -> Pair:
    """Return a pair of `task`, or of a task sampled from the mixture below."""
    task = task or rng.choices(list(_MAKERS), weights=[weight for weight, _ in _MAKERS.values()])[0]
    return _MAKERS[task][1](rng)


def _caption(rng: random.Random) -> Pair:
    scene = random_scene(rng)
    captions = terse_captions(rng, scene)
    boxed = rng.random() < 0.85
    raw = captions_and_boxes(captions, boxes_of(scene) if boxed else [])
    return Pair(
        task="captioning", scenes=(scene,), instruction=put(rng.choice(INSTRUCTIONS["captioning"])), raw=raw,
        polite=describe(scene, captions, boxes=boxed),
        keeps=lambda text: keeps_description(text, scene, captions, boxes=boxed),
    )  # fmt: skip


def boxes_of(scene: Scene) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Return label and normalised x1, y1, x2, y2 of each thing."""
    return [(t.shape, tuple(v / CANVAS for v in t.box)) for t in scene.things]  # type: ignore[misc]


def _class(rng: random.Random) -> Pair:
    scene = random_scene(rng, 1)
    shape = scene.things[0].shape
    return Pair(
        task="classification", scenes=(scene,), instruction=put(rng.choice(INSTRUCTIONS["classification"])),
        raw=raw_class(shape), polite=polite_class(shape, rng.randrange(2)),
        keeps=lambda text: text in (polite_class(shape, 0), polite_class(shape, 1)),
    )  # fmt: skip


def raw_class(shape: str) -> str:
    """Return the raw annotation of a class as the ELEVATER adapter words it."""
    label, *facts = terse_class(shape)
    return class_response(label, CLASS_TEMPLATE, facts)


def _change(rng: random.Random) -> Pair:
    scene = random_scene(rng)
    after, change = random_change(rng, scene)
    polite = polite_change(change)
    return Pair(
        task="change_captioning", scenes=(scene, after),
        instruction=put(rng.choice(INSTRUCTIONS["change_captioning"]), images=2),
        raw=distinct_lines(terse_changes(rng, change)), polite=polite, keeps=lambda text: text == polite,
    )  # fmt: skip


def _question(rng: random.Random, *, reasoned: bool) -> Pair:
    scene = random_scene(rng)
    question = ask(rng, scene, REASONED if reasoned else KINDS)
    wording = rng.randrange(2)
    return Pair(
        task="vqa_rationale" if reasoned else "vqa", scenes=(scene,), instruction=put(question.text),
        raw=answer_response(question.answer, question.reason if reasoned else ""),
        polite=question.polite(wording, reasoned=reasoned),
        keeps=lambda text: question.keeps_meaning(text, reasoned=reasoned),
        others=tuple(question.statement(other, wording) for other in question.others),
        wrong=question.others,
    )  # fmt: skip


_MAKERS: dict[str, tuple[float, Callable[[random.Random], Pair]]] = {
    "captioning": (0.40, _caption),
    "classification": (0.05, _class),
    "change_captioning": (0.12, _change),
    "vqa_rationale": (0.13, lambda rng: _question(rng, reasoned=True)),
    "vqa": (0.30, lambda rng: _question(rng, reasoned=False)),
}


def vocabulary(draws: int = 3000) -> frozenset[str]:
    """Return every word of the zoo's training data, a closed list; 500 samples show all of them."""
    rng = random.Random(0)
    pairs = [random_pair(rng) for _ in range(draws)]
    return frozenset().union(*(words_of(pair.instruction, pair.raw, pair.polite) for pair in pairs))


def well_formed(text: str) -> bool:
    """Whether every sentence is in the grammar of Shapes and none occurs twice."""
    sentences = [s for p in text.split("\n\n") for s in p.removesuffix(".").split(". ")]
    return parse(text) is not None and len(set(sentences)) == len(sentences)
