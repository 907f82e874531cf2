"""Turn a polite text of Shapes into a raw annotation, worded as `captions`, `questions` and the adapters word them.

The tiny profile names `terse` as the note taker of the rule-based speaker, which sees only the text: `grammar.parse`
reads it, and each kind of claim has its terse forms. If the polite text names places, boxes are added, as annotators
would draw them: with the size and in the cell that the text says, at a random place within it.
"""

from __future__ import annotations

import random

from polite_flamingo.sources.records.responses import (
    answer_response,
    captions_and_boxes,
    class_response,
    distinct_lines,
)
from polite_flamingo.testbed.shapes.captions import ground_caption, listed_caption, relation_caption, terse_changes
from polite_flamingo.testbed.shapes.grammar import NUMBERS, PLACE_OF, RELATION_OF, Claim, parse
from polite_flamingo.testbed.shapes.scene import CANVAS, CELL, PLACES, SIZES, Change, Thing

_CHANGES = ("same", "added", "removed", "moved", "recoloured")
_ANSWERED_BY = {"colour": "colour", "shape_at": "shape", "size": "size", "ground": "ground", "pattern": "pattern"}
"""Kinds of claim whose answer is a slot."""


def terse(text: str, rng: random.Random) -> str | None:
    """Return the text as an annotator would note it, in one of several forms; None if it is not a text of Shapes."""
    claims = parse(text)
    if claims is None:
        return None
    kinds = [claim.kind for claim in claims]
    if kinds[0] == "class":
        return _class(rng, claims)
    if kinds[0] in _CHANGES and len(claims) == 1:
        return distinct_lines(terse_changes(rng, _change(rng, claims[0])))
    if "list" in kinds:
        return _description(rng, claims)
    if len(claims) == 1 or (len(claims) == 2 and kinds[1].startswith("why_")):
        return _answer(rng, claims[0], text.removesuffix(".").partition(", as ")[2])
    return None


def _answer(rng: random.Random, claim: Claim, reason: str) -> str | None:
    answer = _value(claim)
    if answer is None:
        return None
    named = answer_response(answer, reason)
    if reason:
        return rng.choices((named, f"{answer}\n{reason}", f"{answer}, {reason}"), (8, 1, 1))[0]
    return rng.choices((named, answer, f"{answer.capitalize()}.", f"answer {answer}"), (7, 2, 1, 1))[0]


def _value(claim: Claim) -> str | None:
    """Return what a dataset would give as the answer."""
    slots = claim.slots
    if claim.kind in ("exists", "beside"):
        return "yes"
    if claim.kind in ("exists_not", "beside_not"):
        return "no"
    if claim.kind in ("count", "count_one", "count_no"):
        return {"count_one": "1", "count_no": "0"}.get(claim.kind) or str(NUMBERS.index(slots["many"]))
    if claim.kind == "where":
        return PLACE_OF[slots["where"]]
    return slots.get(_ANSWERED_BY.get(claim.kind, ""))


def _class(rng: random.Random, claims: list[Claim]) -> str:
    shape = claims[0].slots["shape"]
    facts = [claim.slots[name] for claim in claims[1:] for name in ("fact", "fact2") if name in claim.slots]
    templates = ("a photo of a {}.", "{}", "{}.")
    return class_response(shape, rng.choices(templates, (8, 1, 1))[0], facts)


def _change(rng: random.Random, claim: Claim) -> Change:
    """Return the change that a claim describes, with things at the places that it names."""
    slots = claim.slots
    if claim.kind == "same":
        return Change(kind="none")
    place = slots.get("place") or PLACE_OF[slots["where"]]
    old = _thing(rng, slots.get("size", "small"), slots["colour"], slots["shape"], place)
    if claim.kind == "added":
        return Change(kind="added", after=old)
    if claim.kind == "removed":
        return Change(kind="removed", before=old)
    if claim.kind == "moved":
        new = _thing(rng, old.size, old.colour, old.shape, slots["place2"])
        return Change(kind="moved", before=old, after=new)
    return Change(kind="recoloured", before=old, after=_thing(rng, old.size, slots["colour2"], old.shape, place))


def _thing(rng: random.Random, size: str, colour: str, shape: str, place: str) -> Thing:
    cell = PLACES.index(place)
    slack = CELL / 2 - SIZES[size] - 1
    x, y = ((side + 0.5) * CELL + rng.uniform(-slack, slack) for side in (cell % 3, cell // 3))
    return Thing(size=size, colour=colour, shape=shape, cell=cell, centre=(round(x, 2), round(y, 2)))


def _description(rng: random.Random, claims: list[Claim]) -> str:
    """Return captions of listed things, relations and (if the first sentence names it) the ground; boxes for places."""
    items = [item for claim in claims for item in claim.items]
    names = [" ".join(item.slots[name] for name in ("size", "colour", "shape") if name in item.slots) for item in items]
    captions = [listed_caption(rng, names)]
    for s in (claim.slots for claim in claims if claim.kind == "relation"):
        first, second = f"{s['colour']} {s['shape']}", f"{s['colour2']} {s['shape2']}"
        captions.append(relation_caption(rng, first, RELATION_OF[s["beside"]], second))
    grounds = (claim.slots for claim in claims if claim.kind == "opening_ground")
    captions += [ground_caption(rng, s["pattern"], s["ground"]) for s in grounds]
    boxes = []
    for item in items:
        if "where" in item.slots:
            place = PLACE_OF[item.slots["where"]]
            thing = _thing(rng, item.slots.get("size", "small"), item.slots["colour"], item.slots["shape"], place)
            x1, y1, x2, y2 = (value / CANVAS for value in thing.box)
            boxes.append((thing.shape, (x1, y1, x2, y2)))
    return captions_and_boxes(captions, boxes)
