"""Terse annotations of a scene, and a polite assistant's version: captions, classes and changes.

Every pair has an exact check: a rewrite keeps the annotation's meaning if it parses, says all that the annotation says,
and says nothing false about the picture.
"""

from __future__ import annotations

import random

from polite_flamingo.testbed.shapes.grammar import (
    BESIDE,
    KNOWLEDGE,
    NUMBERS,
    WHERE,
    Claim,
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
    RELATIONS,
    SHAPES,
    SIZES,
    Change,
    Relation,
    Scene,
    Thing,
)


def terse_captions(rng: random.Random, scene: Scene) -> list[str]:
    """Return one to four captions in annotators' style: a list of things, then a relation, the ground, a repetition."""
    captions = [listed_caption(rng, [t.full_name for t in scene.things])]
    if len(scene.things) > 1 and rng.random() < 0.6:
        first, relation, second = random_relation(rng, scene)
        captions.append(relation_caption(rng, first.name, relation, second.name))
    if rng.random() < 0.5:
        captions.append(ground_caption(rng, scene.pattern, scene.background))
    if rng.random() < 0.3:
        captions.append(captions[0])
    return captions


def listed_caption(rng: random.Random, names: list[str]) -> str:
    """Return a caption that lists things: "small red circle, large blue star"."""
    return rng.choice([", ".join(names), " and ".join(names), "a " + join([names[0], *(f"a {n}" for n in names[1:])])])


def relation_caption(rng: random.Random, first: str, relation: str, second: str) -> str:
    """Return a caption about the relation of two things: "red circle left of blue star"."""
    return rng.choice((f"{first} {relation} {second}", f"a {first} {relation} a {second}"))


def ground_caption(rng: random.Random, pattern: str, ground: str) -> str:
    """Return a caption about the background: "dotted pink background"."""
    return rng.choice((f"{pattern} {ground} background", f"shapes on {pattern} {ground}"))


def random_relation(rng: random.Random, scene: Scene) -> tuple[Thing, Relation, Thing]:
    """Choose two things of the scene and a relation that holds between them."""
    first, second = rng.sample(scene.things, 2)
    return first, rng.choice([r for r in RELATIONS if scene.holds(first, r, second)]), second


def describe(scene: Scene, captions: list[str], *, boxes: bool = True) -> str:
    """Return the polite description of `scene` that says what `captions` (from `terse_captions`) and the boxes say.

    If no caption mentions the ground, a second paragraph adds it from the picture: as in the paper, that is where a
    rewriter hallucinates.
    """
    count = len(scene.things)
    many = {"many": NUMBERS[count]} if count > 1 else {}
    ground = {"pattern": scene.pattern, "ground": scene.background}
    grounded = any(scene.background in c.split() and scene.pattern in c.split() for c in captions)
    text = say("opening_ground", **many, **ground) if grounded else say("opening", **many)
    text += " " + say("list", items=join([item(t, where=boxes) for t in scene.things]))
    for caption in captions:
        for first in scene.things:
            for second in scene.things:
                for relation in RELATIONS:
                    if caption.removeprefix("a ").replace(f"{relation} a ", f"{relation} ") == (
                        f"{first.name} {relation} {second.name}"
                    ):
                        text += " " + say(
                            "relation", colour=first.colour, shape=first.shape, beside=BESIDE[relation],
                            colour2=second.colour, shape2=second.shape,
                        )  # fmt: skip
    return text if grounded else text + "\n\n" + say("background", **ground)


def keeps_description(text: str, scene: Scene, captions: list[str], *, boxes: bool = True) -> bool:
    """Check a rewritten description exactly: it makes every wanted claim, and every claim it makes is true."""
    found, wanted = parse(text), parse(describe(scene, captions, boxes=boxes))
    assert wanted is not None
    if found is None or not all(true_of(claim, scene) for claim in found):
        return False
    said = set(_flat(found))
    return all(claim in said for claim in _flat(wanted) if claim[0] in ("item", "relation", "opening_ground"))


def _flat(claims: list[Claim]) -> list[tuple[str, frozenset[tuple[str, str]]]]:
    flat = []
    for claim in claims:
        flat += [(i.kind, frozenset(i.slots.items())) for i in claim.items]
        flat.append((claim.kind, frozenset(claim.slots.items())))
    return flat


def hallucinated(rng: random.Random, scene: Scene, text: str) -> str:
    """Return `text` about `scene` with something false: a wrong colour, shape, size or ground, or an added thing."""
    while True:
        words = rng.choice(("colour", "shape", "size", "add", "add", "ground"))
        changed = text
        if words == "add":
            cell = rng.choice([c for c in range(9) if all(t.cell != c for t in scene.things)])
            new = Thing(size=rng.choice(list(SIZES)), colour=rng.choice(list(COLOURS)), shape=rng.choice(SHAPES),
                        cell=cell, centre=(0, 0))  # fmt: skip
            changed = f"{text} " + say("addition", items=item(new))
        else:
            thing = rng.choice(scene.things)
            old, new_words = {
                "colour": (thing.name, f"{rng.choice(list(COLOURS))} {thing.shape}"),
                "shape": (thing.name, f"{thing.colour} {rng.choice(SHAPES)}"),
                "size": (thing.full_name, f"{rng.choice(list(SIZES))} {thing.name}"),
                "ground": (scene.background, rng.choice(list(BACKGROUNDS))),
            }[words]
            changed = text.replace(old, new_words)
            if words == "ground":
                changed = changed.replace(scene.pattern, rng.choice(PATTERNS))
        claims = parse(changed)
        if claims is not None and not all(true_of(c, scene) for c in claims):
            return changed


def terse_class(shape: str) -> tuple[str, str, str]:
    """Return a class's name, definition and further knowledge, as in ELEVATER's knowledge files."""
    return shape, *KNOWLEDGE[shape]


def polite_class(shape: str, wording: int = 0) -> str:
    """Return the polite answer to "What is this?"."""
    fact, fact2 = KNOWLEDGE[shape]
    return f"{say('class', wording, shape=shape)} {say('fact', fact=fact)} {say('fact2', fact2=fact2)}"


def terse_changes(rng: random.Random, change: Change) -> list[str]:
    """Return one to three paraphrases of a change, in the style of LEVIR-CC's annotators."""
    options = all_terse_changes(change)
    return rng.sample(options, rng.randint(1, len(options)))


def all_terse_changes(change: Change) -> list[str]:
    """Return every paraphrase of a change."""
    old, new = change.before, change.after
    if change.kind == "none":
        options = ["there is no difference", "the two scenes seem identical", "no change has occurred"]
    elif change.kind == "added":
        assert new is not None
        options = [f"a {new.full_name} appears {WHERE[new.place]}", f"{new.full_name} added {WHERE[new.place]}"]
    elif change.kind == "removed":
        assert old is not None
        options = [f"the {old.full_name} {WHERE[old.place]} is gone", f"{old.full_name} {WHERE[old.place]} removed"]
    elif change.kind == "moved":
        assert old is not None and new is not None
        places = f"from the {old.place} to the {new.place}"
        options = [f"the {old.full_name} moves {places}", f"{old.full_name} shifted {places}"]
    else:
        assert old is not None and new is not None
        options = [
            f"the {old.shape} {WHERE[old.place]} turns from {old.colour} to {new.colour}",
            f"{old.shape} {WHERE[old.place]} goes from {old.colour} to {new.colour}",
        ]
    return options


def polite_change(change: Change) -> str:
    """Return the polite sentence about a change."""
    old, new = change.before, change.after
    if change.kind == "none":
        return say("same")
    if change.kind == "recoloured":
        assert old is not None and new is not None
        return say("recoloured", shape=old.shape, where=WHERE[old.place], colour=old.colour, colour2=new.colour)
    thing = old or new
    assert thing is not None
    slots = {"size": thing.size, "colour": thing.colour, "shape": thing.shape}
    if change.kind == "moved":
        assert new is not None
        return say("moved", place=thing.place, place2=new.place, **slots)
    return say(change.kind, where=WHERE[thing.place], **slots)
