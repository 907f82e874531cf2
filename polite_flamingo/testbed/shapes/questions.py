"""Questions about a scene, their terse answers, reasons, and polite statements of any answer, correct or wrong.

`follow_up` asks what only the question before explains: "And the star?", "Where is it?".
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Literal

from polite_flamingo.testbed.shapes.grammar import (
    BESIDE,
    NUMBERS,
    PLURALS,
    TRAITS,
    WHERE,
    count_of,
    item,
    join,
    parse,
    say,
    true_of,
)
from polite_flamingo.testbed.shapes.scene import (
    BACKGROUNDS,
    COLOURS,
    PATTERNS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
)

_TERSE = re.compile(r"(?:Answer: |The answer is )([^.,\n]+)(.*)", re.DOTALL)
"""An annotation (`sources.records.responses.answer_response`), or a template's text: the answer, then a rationale."""

Kind = Literal["colour", "shape_at", "count", "exists", "beside", "size", "where", "ground", "pattern"]
KINDS: tuple[Kind, ...] = ("colour", "shape_at", "count", "exists", "beside", "size", "where", "ground", "pattern")

_KNOWN: dict[Kind, tuple[Kind, ...]] = {
    "colour": ("size", "where"), "shape_at": ("colour", "size"), "size": ("where",), "where": ("size",),
    "exists": ("size", "where"),
}  # fmt: skip
"""What may be asked about "it" after a question of each kind: not what that question or its answer has said."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question with what is needed to state any answer.

    Attributes:
        kind: what is asked.
        text: the question.
        answer: the correct answer, tersely.
        others: the wrong answers, in random order.
        slots: those of the statement, except the answer.
        reason: why the answer is correct; "" if there is nothing to say.
        about: the one thing that the question is about, which a following one may call "it".
    """

    kind: Kind
    text: str
    answer: str
    others: tuple[str, ...]
    slots: dict[str, str]
    reason: str = ""
    about: Thing | None = None

    def statement(self, answer: str, wording: int = 0) -> str:
        """Return the polite sentence that gives `answer`: "There are two red circles in the image."."""
        s = self.slots
        if self.kind == "colour":
            return say("colour", wording, colour=answer, **s)
        if self.kind == "shape_at":
            return say("shape_at", wording, shape=answer, **s)
        if self.kind == "count":
            return _count(s["noun"], s.get("colour"), int(answer), wording)
        if self.kind in ("exists", "beside"):
            return say(self.kind if answer == "yes" else f"{self.kind}_not", wording, **s)
        if self.kind == "size":
            return say("size", wording, size=answer, **s)
        if self.kind == "where":
            return say("where", wording, where=WHERE[answer], **s)
        return say(self.kind, wording, **{self.kind: answer})

    def polite(self, wording: int = 0, *, reasoned: bool = False) -> str:
        """Return the correct answer politely, with its reason if `reasoned`: "The circle is red, as …"."""
        sentence = self.statement(self.answer, wording)
        return f"{sentence[:-1]}, as {self.reason}." if reasoned else sentence

    def keeps_meaning(self, text: str, *, reasoned: bool = False) -> bool:
        """Check exactly whether `text` is some wording of the correct answer (and the reason), and nothing else."""
        found = parse(text)
        return found is not None and any(found == parse(self.polite(w, reasoned=reasoned)) for w in range(2))

    def answered_by(self, text: str, scene: Scene | None = None, *, reasoned: bool = False) -> bool:
        """Check exactly whether `text` gives the correct answer, and a true reason if `reasoned`, and nothing false.

        A polite answer has one sentence or more that the grammar parses, all of them true of `scene`; without a scene
        it may say nothing else. A terse answer is bare, or worded like an annotation (`Answer: red`) or a template; its
        rationale counts as a reason unchecked.
        """
        if text.strip().removesuffix(".").lower() == self.answer:
            return not reasoned
        if terse := _TERSE.fullmatch(text):
            return terse[1].strip() == self.answer and (len(terse[2]) > 1 or not reasoned)
        found = parse(text)
        right = [claim for wording in range(2) for claim in parse(self.polite(wording)) or ()]
        if found is None or not any(claim in found for claim in right):
            return False
        if reasoned and not any(claim.kind.startswith("why") for claim in found):
            return False
        return all(true_of(claim, scene) for claim in found) if scene else all(claim in right for claim in found)


def _count(noun: str, colour: str | None, number: int, wording: int) -> str:
    colours = {"colour": colour} if colour else {}
    plural = PLURALS.get(noun, "shapes")
    if number == 0:
        return say("count_no", wording, shapes=plural, **colours)
    if number == 1:
        return say("count_one", wording, one=noun, **colours)
    return say("count", wording, many=NUMBERS[number], shapes=plural, **colours)


def ask(rng: random.Random, scene: Scene, kinds: tuple[Kind, ...] = KINDS) -> Question:
    """Return a question of one of `kinds` that has exactly one correct answer in `scene`."""
    while True:
        question = _ask(rng, scene, rng.choice(kinds))
        if question is not None:
            return question


def _ask(rng: random.Random, scene: Scene, kind: Kind) -> Question | None:
    thing = rng.choice(scene.things)
    if kind == "colour":
        if count_of(scene, thing.shape, None) != 1:
            return None
        text = rng.choice((f"What colour is the {thing.shape}?", f"What is the colour of the {thing.shape}?"))
        return _of(rng, kind, text, thing)
    if kind == "shape_at":
        where = WHERE[thing.place]
        text = rng.choice((f"What shape is {where}?", f"Which shape can you see {where}?"))
        return _of(rng, kind, text, thing)
    if kind == "count":
        noun = rng.choice(("shape", rng.choice(scene.things).shape, rng.choice(SHAPES)))
        colour = rng.choice((None, rng.choice(scene.things).colour))
        number = count_of(scene, noun, colour)
        things = [t for t in scene.things if noun in ("shape", t.shape) and colour in (None, t.colour)]
        reason = f"you can see {join([item(t) for t in things])}" if things else "you can see none of them"
        words = f"{colour} {PLURALS.get(noun, 'shapes')}" if colour else PLURALS.get(noun, "shapes")
        text = rng.choice((f"How many {words} are there?", f"How many {words} do you see?"))
        slots = {"noun": noun} | ({"colour": colour} if colour else {})
        return _make(rng, kind, text, str(number), tuple("012345"), slots, reason)
    if kind == "exists":
        colour, shape = thing.colour, thing.shape
        if rng.random() < 0.5:
            colour, shape = rng.choice(((rng.choice(list(COLOURS)), shape), (colour, rng.choice(SHAPES))))
        answer = "yes" if scene.find(colour, shape) else "no"
        text = rng.choice((f"Is there a {colour} {shape}?", f"Do you see a {colour} {shape}?"))
        slots = {"colour": colour, "shape": shape}
        return _make(rng, kind, text, answer, ("yes", "no"), slots, about=scene.find(colour, shape))
    if kind == "beside":
        others = [t for t in scene.things if t is not thing]
        if not others:
            return None
        other, relation = rng.choice(others), rng.choice(RELATIONS)
        answer = "yes" if scene.holds(thing, relation, other) else "no"
        text = f"Is the {thing.name} {BESIDE[relation]} the {other.name}?"
        slots = {"colour": thing.colour, "shape": thing.shape, "colour2": other.colour, "shape2": other.shape}
        return _make(rng, kind, text, answer, ("yes", "no"), slots | {"beside": BESIDE[relation]})
    if kind == "size":
        text = rng.choice((f"What size is the {thing.name}?", f"Is the {thing.name} small or large?"))
        return _of(rng, kind, text, thing)
    if kind == "where":
        text = rng.choice((f"Where is the {thing.name}?", f"Where do you see the {thing.name}?"))
        return _of(rng, kind, text, thing)
    if kind == "ground":
        text = rng.choice(("What colour is the background?", "What is the colour of the background?"))
        return _make(rng, kind, text, scene.background, tuple(BACKGROUNDS), {})
    text = "Is the background plain, striped or dotted?"
    return _make(rng, kind, text, scene.pattern, PATTERNS, {})


def follow_up(rng: random.Random, scene: Scene, before: Question, kinds: tuple[Kind, ...] = KINDS) -> Question | None:
    """Return a question of one of `kinds` that refers back to `before`, which was about one thing; else None."""
    if before.about is None:
        return None
    found = [*_about_it(rng, before.about, before.kind, kinds), *_about_others(rng, scene, before.about, before.kind)]
    return rng.choice(found) if found else None


def _about_it(rng: random.Random, thing: Thing, kind: Kind, kinds: tuple[Kind, ...]) -> list[Question]:
    asked = {"colour": "What colour is it?", "size": "Is it small or large?", "where": "Where is it?"}
    return [_of(rng, other, asked[other], thing) for other in _KNOWN[kind] if other in kinds]


def _about_others(rng: random.Random, scene: Scene, thing: Thing, kind: Kind) -> list[Question]:
    """Return the same question about every other thing that can be told by its name or by where it stands."""
    found: list[Question] = []
    if kind == "exists":
        return found
    others = [t for t in scene.things if t is not thing]
    if kind == "colour":
        others = [t for t in others if count_of(scene, t.shape, None) == 1]
    for other in others:
        name = {"colour": f"the {other.shape}", "shape_at": WHERE[other.place]}.get(kind, f"the {other.name}")
        found.append(_of(rng, kind, f"And {name}?", other))
        if len(scene.things) == 2:
            found.append(_of(rng, kind, "And the one beside it?", other))
        found += [
            _of(rng, kind, f"And the one {BESIDE[relation]} it?", other)
            for relation in RELATIONS
            if [t for t in scene.things if scene.holds(t, relation, thing)] == [other]
        ]
    return found


def _of(rng: random.Random, kind: Kind, text: str, thing: Thing) -> Question:
    """Make a question for the colour, shape, size or place of one thing."""
    name = {"colour": thing.colour, "shape": thing.shape}
    if kind == "colour":
        reason = f"the {thing.shape} {WHERE[thing.place]} is painted {thing.colour}"
        return _make(rng, kind, text, thing.colour, tuple(COLOURS), {"shape": thing.shape}, reason, thing)
    if kind == "shape_at":
        slots = {"where": WHERE[thing.place]}
        return _make(rng, kind, text, thing.shape, SHAPES, slots, TRAITS[thing.shape], thing)
    if kind == "size":
        return _make(rng, kind, text, thing.size, tuple(SIZES), name, about=thing)
    return _make(rng, kind, text, thing.place, PLACES, name, about=thing)


def _make(
    rng: random.Random, kind: Kind, text: str, answer: str, domain: tuple[str, ...], slots: dict[str, str],
    reason: str = "", about: Thing | None = None,
) -> Question:  # fmt: skip
    others = [a for a in domain if a != answer]
    rng.shuffle(others)
    return Question(kind=kind, text=text, answer=answer, others=tuple(others), slots=slots, reason=reason, about=about)
