"""The choices of a multiple-choice question: what a sample lists, which one is right, and how they are asked.

Choices come from a field of the sample's `meta`, or from the options that end its question as "(A) …" lines, which is
how ScienceQA, A-OKVQA, AI2D, IconQA and others are ingested (`instructions.multiple_choice`). The right one is the one
that the annotation gives.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from polite_flamingo.sample import IMAGE_MARK, BadSample, Sample
from polite_flamingo.sources.records.instructions import listed_options, option_letter
from polite_flamingo.sources.records.responses import answer_in

By = Literal["sum", "mean", "letter"]
"""How choices are compared."""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, kw_only=True)
class ChoicesConfig:
    """Multiple choice by log-probability, for contestants that run here.

    Attributes:
        by: how choices are compared: "sum", "mean" or "letter" (`evaluation/multiple_choice.py`); "off" asks nobody.
        field: field of a sample's `meta` that lists its choices. Samples without it have those that their question
            lists as (A), (B) and so on.
    """

    by: Literal["off", "sum", "mean", "letter"] = "off"
    field: str = "choices"

    @property
    def asked_by(self) -> By:
        """How choices are compared, where they are. Raises ValueError if nobody is asked."""
        if self.by == "off":
            raise ValueError("evaluation.choices.by is off, so no choices are compared")
        return self.by


@dataclass(frozen=True, kw_only=True)
class Options:
    """What there is to choose from.

    Attributes:
        texts: at least two.
        right: index of the right one.
    """

    texts: tuple[str, ...]
    right: int

    def __post_init__(self) -> None:
        """Raise ValueError if there is nothing to choose from."""
        if not 2 <= len(self.texts) <= len(LETTERS) or not 0 <= self.right < len(self.texts):
            raise ValueError(f"{len(self.texts)} choices, of which number {self.right} is right")

    def is_longest(self, index: int) -> bool:
        """Whether no choice has more characters than this one."""
        return len(self.texts[index]) == max(map(len, self.texts))


@dataclass(frozen=True, kw_only=True)
class Choices:
    """A question with its choices.

    Attributes:
        sample: its last instruction is the question.
        options: what there is to choose from.
        listed: whether the question already lists the options, as (A), (B) and so on.
    """

    sample: Sample
    options: Options
    listed: bool = False


def choices_of(sample: Sample, field: str = "choices") -> Choices | None:
    """Return a sample's question with its choices; None if it has none.

    Args:
        sample: its last turn is the question, and its response the right answer.
        field: see `ChoicesConfig`.

    Raises:
        BadSample: it has choices, but fewer than two, too many, or none that the annotation gives.
    """
    last = sample.turns[-1]
    listed = field not in sample.meta
    found = list(listed_options(last.instruction)) if listed else sample.meta[field]
    if not isinstance(found, list) or not all(isinstance(text, str) and text.strip() for text in found):
        raise BadSample("bad_field", f"{sample.key}: field {field!r} of meta must be a list of texts")
    if not found and listed:
        return None
    if not 2 <= len(found) <= len(LETTERS):
        raise BadSample("bad_field", f"{sample.key}: {len(found)} choices; from 2 to {len(LETTERS)} can be compared")
    letters = [option_letter(index) for index in range(len(found))]
    if any(IMAGE_MARK in text for text in found):  # pictures to choose from: the answer is a letter
        found = letters
    answer = answer_in(last.response)
    for texts in (found, [text.strip() for text in found], letters):
        if answer in texts:
            options = Options(texts=tuple(found), right=texts.index(answer))
            return Choices(sample=sample, options=options, listed=listed)
    raise BadSample("bad_field", f"{sample.key}: the annotation {answer[:60]!r} is none of its {len(found)} choices")


def asked_of(question: Choices, by: By) -> list[tuple[Sample, str]]:
    """Return what a model is asked to score: the question, with each choice's text or letter."""
    if by != "letter":
        return [(question.sample, text) for text in question.options.texts]
    sample = with_letters(question)
    indices = range(len(question.options.texts))
    return [(sample, option_letter(index) if question.listed else LETTERS[index]) for index in indices]


def with_letters(question: Choices) -> Sample:
    """Return the question's sample with the choices listed under letters, in a line each, and asked for by letter."""
    *before, last = question.sample.turns
    lines = [last.instruction.rstrip()]
    if not question.listed:
        lines += [f"{letter}. {text}" for letter, text in zip(LETTERS, question.options.texts, strict=False)]
    asked = "\n".join([*lines, "Answer with the letter of the right choice."])
    return replace(question.sample, turns=(*before, replace(last, instruction=asked)))
