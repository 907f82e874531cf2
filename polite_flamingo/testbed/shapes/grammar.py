"""The sentences of Shapes: one table for writing and parsing them.

`say` fills a template; `parse` reads a text back into `Claim`s, or reports that a sentence is not in the grammar.
`true_of` checks one claim against a scene. Because writing and parsing share the table, the exact check of a rewrite
against the scene covers every sentence that a well-formed rewrite can contain.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

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

WHERE: dict[str, str] = {
    "top left": "in the top left", "top": "at the top", "top right": "in the top right",
    "left": "on the left", "centre": "in the centre", "right": "on the right",
    "bottom left": "in the bottom left", "bottom": "at the bottom", "bottom right": "in the bottom right",
}  # fmt: skip
PLACE_OF = {phrase: place for place, phrase in WHERE.items()}

BESIDE: dict[str, str] = {
    "left of": "to the left of", "right of": "to the right of", "above": "above", "below": "below",
}  # fmt: skip
RELATION_OF = {phrase: relation for relation, phrase in BESIDE.items()}

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven")
PLURALS: dict[str, str] = {shape: shape + ("es" if shape == "cross" else "s") for shape in SHAPES}
SINGULARS = {plural: shape for shape, plural in PLURALS.items()}

TRAITS: dict[str, str] = {
    "circle": "it is round and has no corners",
    "square": "it has four equal sides",
    "triangle": "it has three corners",
    "star": "it has five sharp points",
    "cross": "it is made of two crossing bars",
    "heart": "it has two round lobes and one tip",
}
KNOWLEDGE: dict[str, tuple[str, str]] = {
    "circle": ("a round plane figure whose edge is everywhere the same distance from its middle",
               "wheels, coins and clocks have this form"),
    "square": ("a flat figure with four equal sides and four right angles",
               "tiles and chess boards are made of this form"),
    "triangle": ("a flat figure with three straight sides and three corners",
                 "roofs and warning signs often have this form"),
    "star": ("a figure with five points that go out from its middle",
             "it is seen on many flags and in the night sky"),
    "cross": ("a figure made of two bars that cross in the middle",
              "first aid kits and maps carry this sign"),
    "heart": ("a figure with two round lobes on top and a tip below",
              "it stands for love on cards and letters"),
}  # fmt: skip
"""Two facts per class, as in ELEVATER's knowledge files: an encyclopaedia's and a language model's."""


@dataclass(frozen=True)
class Claim:
    """One parsed sentence: the template's kind and slots; `items` of a list are nested claims of kind "item"."""

    kind: str
    slots: Mapping[str, str]
    items: tuple[Claim, ...] = ()


_SLOTS: dict[str, tuple[str, ...]] = {
    "size": tuple(SIZES), "size2": tuple(SIZES), "colour": tuple(COLOURS), "colour2": tuple(COLOURS),
    "shape": SHAPES, "shape2": SHAPES, "shapes": (*SINGULARS, "shapes"), "one": (*SHAPES, "shape"),
    "where": tuple(PLACE_OF), "place": PLACES, "place2": PLACES, "beside": tuple(RELATION_OF),
    "ground": tuple(BACKGROUNDS), "pattern": PATTERNS, "many": NUMBERS[2:], "trait": tuple(TRAITS.values()),
    "fact": tuple(f[0] for f in KNOWLEDGE.values()), "fact2": tuple(f[1] for f in KNOWLEDGE.values()),
}  # fmt: skip

TEMPLATES: dict[str, tuple[str, ...]] = {
    # answers to questions
    "colour": ("The {shape} is {colour}", "The {shape} in the image is {colour}"),
    "shape_at": ("The shape {where} is a {shape}", "The shape you see {where} is a {shape}"),
    "count": ("There are {many} {shapes} in the image", "There are {many} {colour} {shapes} in the image"),
    "count_one": ("There is one {one} in the image", "There is one {colour} {one} in the image"),
    "count_no": ("There are no {shapes} in the image", "There are no {colour} {shapes} in the image"),
    "exists": ("Yes, there is a {colour} {shape} in the image",),
    "exists_not": ("No, there is no {colour} {shape} in the image",),
    "beside": ("Yes, the {colour} {shape} is {beside} the {colour2} {shape2}",),
    "beside_not": ("No, the {colour} {shape} is not {beside} the {colour2} {shape2}",),
    "size": ("The {colour} {shape} is {size}", "The {colour} {shape} in the image is {size}"),
    "where": ("The {colour} {shape} is {where}", "The {colour} {shape} is {where} of the image"),
    "ground": ("The background is {ground}", "The background of the image is {ground}"),
    "pattern": ("The background is {pattern}",),
    # reasons, joined to an answer by ", as "
    "why_colour": ("the {shape} {where} is painted {colour}",),
    "why_shape": ("{trait}",),
    "why_count": ("you can see {items}", "you can see none of them"),
    # descriptions
    "opening": ("The image shows {many} shapes", "The image shows one shape"),
    "opening_ground": (
        "The image shows {many} shapes on a {pattern} {ground} background",
        "The image shows one shape on a {pattern} {ground} background",
    ),
    "list": ("There is {items}",),
    "relation": ("The {colour} {shape} is {beside} the {colour2} {shape2}",),
    "background": ("In the background, the surface is {pattern} and {ground}",),
    "addition": ("In addition, there is {items}",),
    # classes
    "class": ("This is a {shape}", "The image shows a {shape}"),
    "fact": ("It is {fact}",),
    "fact2": ("As you may know, {fact2}",),
    # changes
    "same": ("The two images show the same scene, and nothing has changed",),
    "added": ("Comparing the two images, a {size} {colour} {shape} has appeared {where}",),
    "removed": ("Comparing the two images, the {size} {colour} {shape} {where} has been removed",),
    "moved": ("Comparing the two images, the {size} {colour} {shape} has moved from the {place} to the {place2}",),
    "recoloured": ("Comparing the two images, the {shape} {where} has turned from {colour} to {colour2}",),
}
"""Polite wordings by kind, without the full stop. A slot's final 2 marks the second of its kind."""

ITEM = ("a {size} {colour} {shape} {where}", "a {size} {colour} {shape}", "a {colour} {shape}")


def say(kind: str, wording: int = 0, /, **slots: str) -> str:
    """Return a sentence of that kind with its full stop; `wording` picks among the templates that these slots fill."""
    fitting = [t for t in TEMPLATES[kind] if set(re.findall(r"\{(\w+)\}", t)) == set(slots)]
    if not fitting:
        raise ValueError(f"no {kind!r} sentence takes exactly the slots {sorted(slots)}")
    sentence = fitting[wording % len(fitting)].format(**slots)
    return sentence[0].upper() + sentence[1:] + "."


def join(parts: list[str]) -> str:
    """Join as "a", "a and b" or "a, b and c"."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def item(thing: Thing, *, size: bool = True, where: bool = True) -> str:
    """Return the thing as a list item: "a small red circle in the top left"."""
    words = f"a {thing.size} {thing.name}" if size else f"a {thing.name}"
    return f"{words} {WHERE[thing.place]}" if where else words


@cache
def _patterns() -> list[tuple[str, re.Pattern[str]]]:
    compiled = []
    for kind, templates in TEMPLATES.items():
        for template in templates:
            expression = re.escape(template).replace(r"\{", "{").replace(r"\}", "}")
            compiled.append((kind, re.compile(_fill(expression))))
    return compiled


@cache
def _item_patterns() -> list[re.Pattern[str]]:
    return [re.compile(_fill(re.escape(t).replace(r"\{", "{").replace(r"\}", "}"))) for t in ITEM]


def _fill(expression: str) -> str:
    def group(match: re.Match[str]) -> str:
        name = match.group(1)
        if name == "items":
            return r"(?P<items>.+)"
        options = "|".join(re.escape(o) for o in sorted(_SLOTS[name], key=len, reverse=True))
        return f"(?P<{name}>{options})"

    return re.sub(r"\{(\w+)\}", group, expression)


def parse_sentence(sentence: str) -> list[Claim] | None:
    """Return the claims of one sentence without its full stop; None if it does not parse. "…, as …" gives two."""
    main, joint, reason = sentence.partition(", as ")
    claims = _match(main, lambda kind: not kind.startswith("why_"))
    if claims is None or not joint:
        return claims
    because = _match(reason, lambda kind: kind.startswith("why_"))
    return None if because is None else claims + because


def _match(text: str, wanted: object) -> list[Claim] | None:
    assert callable(wanted)
    for kind, pattern in _patterns():
        if not wanted(kind):
            continue
        match = pattern.fullmatch(text) or (pattern.fullmatch(text[:1].lower() + text[1:]) if text else None)
        if match is None:
            continue
        slots = match.groupdict()
        listed = slots.pop("items", None)
        if listed is None:
            return [Claim(kind, slots)]
        items = [_item(part) for part in re.split(r", | and ", listed)]
        if all(i is not None for i in items):
            return [Claim(kind, slots, tuple(i for i in items if i is not None))]
    return None


def _item(text: str) -> Claim | None:
    for pattern in _item_patterns():
        match = pattern.fullmatch(text)
        if match:
            return Claim("item", match.groupdict())
    return None


def parse(text: str) -> list[Claim] | None:
    """Return every claim of a text of one or more paragraphs, or None if any sentence is malformed."""
    claims: list[Claim] = []
    paragraphs = text.split("\n\n")
    if not text.strip() or any(not p.endswith(".") for p in paragraphs):
        return None
    for sentence in itertools.chain.from_iterable(p[:-1].split(". ") for p in paragraphs):
        found = parse_sentence(sentence)
        if found is None or not sentence[:1].isupper():
            return None
        claims += found
    return claims


def true_of(claim: Claim, scene: Scene) -> bool:
    """Whether a claim about one picture is true. Kinds that say nothing about its contents (facts) are."""
    s = claim.slots
    if claim.kind == "item":
        thing = scene.find(s["colour"], s["shape"])
        return (
            thing is not None
            and s.get("size", thing.size) == thing.size
            and PLACE_OF.get(s.get("where", ""), thing.place) == thing.place
        )
    if claim.kind in ("list", "addition", "why_count"):
        return all(true_of(i, scene) for i in claim.items)
    if claim.kind in ("opening", "opening_ground"):
        count = NUMBERS.index(s["many"]) if "many" in s else 1
        return count == len(scene.things) and _ground(s, scene)
    if claim.kind in ("background", "ground", "pattern"):
        return _ground(s, scene)
    if claim.kind in ("relation", "beside", "beside_not"):
        first, second = scene.find(s["colour"], s["shape"]), scene.find(s["colour2"], s["shape2"])
        if first is None or second is None:
            return False
        return scene.holds(first, RELATION_OF[s["beside"]], second) == (claim.kind != "beside_not")
    if claim.kind in ("exists", "exists_not"):
        return (scene.find(s["colour"], s["shape"]) is not None) == (claim.kind == "exists")
    if claim.kind in ("count", "count_one", "count_no"):
        said = {"count_one": 1, "count_no": 0}.get(claim.kind)
        said = NUMBERS.index(s["many"]) if said is None else said
        noun = s.get("shapes", s.get("one", "shapes"))
        return said == count_of(scene, SINGULARS.get(noun, noun), s.get("colour"))
    if claim.kind in ("colour", "why_colour", "shape_at", "size", "where"):
        return any(
            s.get("shape", t.shape) == t.shape
            and s.get("colour", t.colour) == t.colour
            and s.get("size", t.size) == t.size
            and PLACE_OF.get(s.get("where", ""), t.place) == t.place
            for t in scene.things
        )
    if claim.kind == "class":
        return any(t.shape == s["shape"] for t in scene.things)
    return True


def count_of(scene: Scene, noun: str, colour: str | None) -> int:
    """Count the things of that shape ("shape", "shapes": any) and colour (None: any)."""
    return sum(
        (noun in ("shape", "shapes") or t.shape == noun) and (colour is None or t.colour == colour)
        for t in scene.things
    )


def _ground(slots: Mapping[str, str], scene: Scene) -> bool:
    return (
        slots.get("ground", scene.background) == scene.background
        and slots.get("pattern", scene.pattern) == scene.pattern
    )


assert set(WHERE) == set(PLACES) and set(BESIDE) == set(RELATIONS)
