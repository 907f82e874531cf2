"""Text-only exchanges about the world of Shapes: an instruction, the text it is about, a polite answer.

    reading     a scene described in words, and a question about it
    knowledge   clues about shapes, and the question which shape one of them is
    note        a question and a terse note of its answer, to be put politely
    telling     terse captions, a class's clue or a change, to be written in full sentences

Answers use the wordings of `grammar.py`, which the tiny judges know; questions are those of `questions.py`. The first
three have one correct answer and politely worded wrong ones, so they can be measured; `telling` is for training.
`instruct.py` and `evaluation_sets.py` write the files.
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
"""One text in this many is kept for evaluation."""


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One instruction with its answer.

    Attributes:
        question: the question, which is all that a judge of answers should read.
        given: the text that the question is about.
        polite: the good response.
        answer: the correct answer, tersely; "" if there is more than one.
        others: polite statements of wrong answers.
        asked: the question with its answer, if there is one correct answer.
    """

    question: str
    given: str
    polite: str
    answer: str = ""
    others: tuple[str, ...] = ()
    asked: Question | None = None

    @property
    def reserved(self) -> bool:
        """Whether this text is kept for evaluation, as its hash decides; training never shows it."""
        return is_reserved(self.question, self.given)


def is_reserved(question: str, given: str) -> bool:
    """Whether this question about this text is kept for evaluation."""
    return hashlib.sha256(f"{question}\n{given}".encode()).digest()[0] % RESERVED == 0


def drawn(rng: random.Random, make: Callable[[random.Random], Exchange], *, reserved: bool = False) -> Exchange:
    """Call `make` until its text is one that is (`reserved`) or is not kept for evaluation."""
    while True:
        exchange = make(rng)
        if exchange.reserved == reserved:
            return exchange


def told(rng: random.Random, scene: Scene) -> str:
    """Describe the scene in words, including its ground, so that every question about it can be answered."""
    words = describe(scene, [*terse_captions(rng, scene), f"{scene.pattern} {scene.background} background"])
    assert "\n" not in words
    return words


def read_and_asked(rng: random.Random, scene: Scene, text: str, kinds: tuple[Kind, ...] = KINDS) -> Exchange:
    """Return a question of one of `kinds` about `text`, which describes `scene`."""
    return _answered(ask(rng, scene, kinds), text, rng.randrange(2))


def reading(rng: random.Random, kinds: tuple[Kind, ...] = KINDS) -> Exchange:
    """Return a scene described in words and a question about it."""
    scene = random_scene(rng)
    return read_and_asked(rng, scene, told(rng, scene), kinds)


def note(rng: random.Random, kinds: tuple[Kind, ...] = KINDS) -> Exchange:
    """Return a question with its answer as a note: "Note: red"."""
    question = ask(rng, random_scene(rng), kinds)
    return _answered(question, f"Note: {question.answer}", rng.randrange(2))


def _answered(question: Question, given: str, wording: int) -> Exchange:
    return Exchange(
        question=question.text,
        given=given,
        polite=question.polite(wording),
        answer=question.answer,
        others=tuple(question.statement(other, wording) for other in question.others),
        asked=question,
    )


def clue(rng: random.Random, shape: str) -> str:
    """Return a clue about the shape that does not name it: "it has three corners"."""
    fact, fact2 = KNOWLEDGE[shape]
    return rng.choice((TRAITS[shape], f"it is {fact}", fact2))


def knowledge(rng: random.Random) -> Exchange:
    """Return one to three unnamed shapes with one clue each, and the question which shape one of them is."""
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
    """Return terse notes on a picture, a class or a change, and the instruction to write them out."""
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
