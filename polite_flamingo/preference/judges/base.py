"""What every judge does: samples with candidates in, the same with ratings added out, or why there are none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from polite_flamingo.candidates import Rating
from polite_flamingo.endpoints.answer_store import AnswerStore
from polite_flamingo.sample import BadSample, Sample
from polite_flamingo.usage import Usage


class Judge(Protocol):
    """A judge.

    Attributes:
        name: `Rating.judge` of its ratings, as far as it is known before it answers.
    """

    name: str

    def rate(
        self, samples: Sequence[Sample], usage: Usage, answers: AnswerStore | None = None
    ) -> list[Sample | BadSample]:
        """Return each sample with ratings added to every candidate, in order, or why it is not rated.

        Args:
            samples: that have passed `check_candidates`.
            usage: what the ratings cost is added to it, also if an earlier attempt has paid for them.
            answers: those of earlier attempts; new ones are added.

        Raises:
            EndpointDown: no sample is at fault, and the rest is not rated.
        """


def check_candidates(sample: Sample) -> None:
    """Raise `BadSample` for a sample without answers to rate."""
    if not sample.candidates:
        raise BadSample("unsupported", f"{sample.key}: has no answers to rate; polite-flamingo sample makes some")


def with_ratings(sample: Sample, ratings: Sequence[Sequence[Rating]]) -> Sample:
    """Return a sample with ratings added. Args: ratings: those of each candidate, in order."""
    rated = [replace(one, ratings=(*one.ratings, *new)) for one, new in zip(sample.candidates, ratings, strict=True)]
    return replace(sample, candidates=tuple(rated))


_DATED = re.compile(r"[-@:](?:\d{4}-?\d{2}-?\d{2}|\d{4}|latest)\Z")


def same_model(first: str, second: str) -> bool:
    """Whether two names are of one model, whatever folder, date, case or file type they come with.

    Stricter than `endpoints.responses.same_model`: gpt-4o and gpt-4o-mini are two.
    """
    return _bare(first) == _bare(second) != ""


def _bare(name: str) -> str:
    last = re.split(r"[/\\]", name.casefold().strip())[-1].removesuffix(".gguf")
    return _DATED.sub("", last)
