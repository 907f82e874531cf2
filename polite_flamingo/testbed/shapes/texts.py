"""Text-only exchanges about the world of Shapes: an instruction, what it speaks of, a polite answer.

    reading     a scene told in words, and a question about it
    knowledge   what is known of a shape, and the question which shape that is
    note        a question and a terse note of its answer, to be said politely
    telling     terse captions, a class's clue or a change, to be told in full sentences

Every answer is in the wordings of `grammar.py`, which the tiny judges know, and the questions are those of
`questions.py`. The first three have one right answer and politely worded wrong ones, so they can be measured; `telling`
is for training. Nothing here writes a file (`instruct.py`, `evaluation_sets.py`).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from polite_flamingo.sources.records.instructions import INSTRUCTIONS
from polite_flamingo.testbed.shapes.captions import (
    describe,
    polite_change,
    polite_class,
    terse_captions,
    terse_changes,
)
from polite_flamingo.testbed.shapes.grammar import KNOWLEDGE, TRAITS, WHERE
from polite_flamingo.testbed.shapes.questions import KINDS, Kind, Question, ask
from polite_flamingo.testbed.shapes.scene import PLACES, SHAPES, Scene, random_change, random_scene

REASONED: tuple[Kind, ...] = ("colour", "shape_at", "count")
"""Kinds of question whose answers carry a reason."""

RESERVED = 8
"""One text in so many is kept for evaluation."""


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One instruction with its answer.

    Attributes:
        question: what is asked; alone, it is what a judge of answers should read.
        given: what the question is about, in words.
        polite: the good response.
        answer: the right answer, tersely; "" where there is not one right answer.
        others: polite statements of wrong answers.
    """

    question: str
    given: str
    polite: str
    answer: str = ""
    others: tuple[str, ...] = ()

    @property
    def reserved(self) -> bool:
        """Whether this text is kept for evaluation: training never shows it, by its hash alone."""
        return hashlib.sha256(f"{self.question}\n{self.given}".encode()).digest()[0] % RESERVED == 0


def drawn(rng: random.Random, make: Callable[[random.Random], Exchange], *, reserved: bool = False) -> Exchange:
    """What `make` gives, drawn until it is (not) among the texts that are kept for evaluation."""
    while True:
        exchange = make(rng)
        if exchange.reserved == reserved:
            return exchange


def told(rng: random.Random, scene: Scene) -> str:
    """The scene in words, its ground included, so that every question about it can be answered."""
    words = describe(scene, [*terse_captions(rng, scene), f"{scene.pattern} {scene.background} background"])
    assert "\n" not in words
    return words


def read_and_asked(rng: random.Random, scene: Scene, text: str, kinds: tuple[Kind, ...] = KINDS) -> Exchange:
    """A question of one of `kinds` about `text`, which tells `scene`."""
    return _answered(ask(rng, scene, kinds), text, rng.randrange(2))


def reading(rng: random.Random, kinds: tuple[Kind, ...] = KINDS) -> Exchange:
    """A scene told in words and a question about it."""
    scene = random_scene(rng)
    return read_and_asked(rng, scene, told(rng, scene), kinds)


def note(rng: random.Random, kinds: tuple[Kind, ...] = KINDS) -> Exchange:
    """A question and its answer as a note: "Note: red"."""
    question = ask(rng, random_scene(rng), kinds)
    return _answered(question, f"Note: {question.answer}", rng.randrange(2))


def _answered(question: Question, given: str, wording: int) -> Exchange:
    return Exchange(
        question=question.text,
        given=given,
        polite=question.polite(wording),
        answer=question.answer,
        others=tuple(question.statement(other, wording) for other in question.others),
    )


def clue(rng: random.Random, shape: str) -> str:
    """Something known of the shape that does not name it, as a clause: "it has three corners"."""
    fact, fact2 = KNOWLEDGE[shape]
    return rng.choice((TRAITS[shape], f"it is {fact}", fact2))


def knowledge(rng: random.Random) -> Exchange:
    """One to three unnamed shapes with a clue each, and the question which shape one of them is."""
    places = rng.sample(PLACES, rng.randint(1, 3))
    shapes = rng.sample(SHAPES, len(places))
    clues = [f"About the shape {WHERE[p]}: {clue(rng, s)}." for p, s in zip(places, shapes, strict=True)]
    shape, where = shapes[0], WHERE[places[0]]
    question = Question(
        kind="shape_at",
        text=rng.choice((f"What shape is {where}?", f"Which shape can you see {where}?")),
        answer=shape,
        others=tuple(other for other in SHAPES if other != shape),
        slots={"where": where},
    )
    return _answered(question, " ".join(rng.sample(clues, len(clues))), rng.randrange(2))


def telling(rng: random.Random) -> Exchange:
    """Terse words on a picture, a class or a change, and the instruction to tell of it."""
    return rng.choice((_told_captions, _told_class, _told_change, _told_reason))(rng)


def _told_captions(rng: random.Random) -> Exchange:
    scene = random_scene(rng)
    captions = terse_captions(rng, scene)
    text = describe(scene, captions, boxes=False).split("\n\n")[0]
    return Exchange(question=rng.choice(INSTRUCTIONS["captioning"]), given=_notes(captions), polite=text)


def _told_class(rng: random.Random) -> Exchange:
    shape = rng.choice(SHAPES)
    polite = polite_class(shape, rng.randrange(2))
    return Exchange(
        question=rng.choice(INSTRUCTIONS["classification"]), given=_notes([clue(rng, shape)]), polite=polite
    )


def _told_change(rng: random.Random) -> Exchange:
    _, change = random_change(rng, random_scene(rng))
    given = _notes(terse_changes(rng, change))
    return Exchange(question=rng.choice(INSTRUCTIONS["change_captioning"]), given=given, polite=polite_change(change))


def _told_reason(rng: random.Random) -> Exchange:
    question = ask(rng, random_scene(rng), REASONED)
    return Exchange(
        question=question.text,
        given=_notes([question.answer, question.reason]),
        polite=question.polite(rng.randrange(2), reasoned=True),
    )


def _notes(lines: Sequence[str]) -> str:
    return "Notes: " + "; ".join(dict.fromkeys(lines))
