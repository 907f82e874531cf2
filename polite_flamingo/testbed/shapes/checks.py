"""The exact check of an answer about Shapes, as data that travels in a sample's `meta["shapes"]`.

A check knows the scene (or why there is none) and the question; it needs no model and no annotation.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from polite_flamingo.sample import Sample
from polite_flamingo.testbed.shapes.grammar import parse_sentence, true_of
from polite_flamingo.testbed.shapes.questions import Question
from polite_flamingo.testbed.shapes.scene import Scene, Thing

META = "shapes"
"""Name of the check in a sample's `meta`."""

Kind = Literal["question", "description", "change"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """What makes an answer right.

    Attributes:
        kind: what was asked for.
        scene: what the picture shows; None for a text without a picture.
        question: of the kind "question".
        reasoned: whether the answer must give its reason.
        sentences: of the kind "change", every right sentence, as `plain` writes it.
    """

    kind: Kind
    scene: Scene | None = None
    question: Question | None = None
    reasoned: bool = False
    sentences: tuple[str, ...] = ()

    def right(self, text: str) -> bool:
        """Whether an answer is right and says nothing false."""
        if self.kind == "question":
            assert self.question is not None
            return self.question.answered_by(text, self.scene, reasoned=self.reasoned)
        if self.kind == "change":
            return {plain(sentence) for sentence in re.split(r"\n|\. ", text)} <= {*self.sentences}
        assert self.scene is not None
        return all(sentences(text, self.scene)) and all(mentioned(text, self.scene))

    def to_record(self) -> dict[str, Any]:
        """Convert to JSON types; `check_of` is the inverse."""
        return dataclasses.asdict(self)


def check_of(sample: Sample) -> Check | None:
    """Return the check that a sample carries; None if it is not of Shapes.

    Raises:
        KeyError, TypeError: it is damaged.
    """
    record = sample.meta.get(META)
    if record is None:
        return None
    scene, question = record["scene"], record["question"]
    return Check(
        kind=record["kind"],
        scene=_scene(scene) if scene else None,
        question=_question(question) if question else None,
        reasoned=record["reasoned"],
        sentences=tuple(record["sentences"]),
    )


def sentences(text: str, scene: Scene) -> list[bool]:
    """Return for each sentence of a description whether the grammar knows it and `scene` makes it true."""
    said = [s for p in text.split("\n\n") for s in p.strip().removesuffix(".").split(". ")]
    claims = [parse_sentence(sentence) for sentence in said]
    return [found is not None and all(true_of(claim, scene) for claim in found) for found in claims]


def mentioned(text: str, scene: Scene) -> list[bool]:
    """Return for each thing of `scene` whether a description names its colour and shape."""
    return [thing.name in text for thing in scene.things]


def plain(sentence: str) -> str:
    """Return a sentence without its capital and full stop, which templates add."""
    return sentence.strip().removesuffix(".").lower()


def _scene(record: Mapping[str, Any]) -> Scene:
    things = tuple(map(_thing, record["things"]))
    return Scene(things=things, background=record["background"], pattern=record["pattern"])


def _thing(record: Mapping[str, Any]) -> Thing:
    return Thing(**{**record, "centre": tuple(record["centre"])})


def _question(record: Mapping[str, Any]) -> Question:
    about = _thing(record["about"]) if record["about"] else None
    return Question(**{**record, "others": tuple(record["others"]), "about": about})
