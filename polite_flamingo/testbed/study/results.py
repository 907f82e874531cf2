"""What every study has: models by role, held-out sets, and seeds whose models answered the same questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from polite_flamingo.evaluation.judging import Judged
from polite_flamingo.report.gallery import Thumbnail, readable, thumbnail
from polite_flamingo.sample import Sample


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """A held-out set that models answer.

    Attributes:
        domain: "in" has pictures and questions of the kinds that tuning shows, "out" of other kinds, or crowded
            scenes; "text" has no pictures.
        task: the samples' task, one of `sample.TASKS`.
        title: what it measures, in words.
    """

    domain: str
    task: str
    title: str


class Repetition(Protocol):
    """One seed of a study."""

    @property
    def number(self) -> int:
        """The seed."""

    @property
    def judged(self) -> Judged:
        """Every model's numbers on the held-out sets, by set. The questions are those of every other seed."""

    @property
    def counts(self) -> Mapping[str, float]:
        """What was counted along the way."""


Seed = TypeVar("Seed", bound=Repetition, covariant=True)


class Study(Protocol, Generic[Seed]):
    """The results of a study."""

    @property
    def roles(self) -> Mapping[str, str]:
        """Role -> name of the contestant in `Repetition.judged`."""

    @property
    def sets(self) -> Mapping[str, HeldOut]:
        """Dataset -> what it measures."""

    @property
    def seeds(self) -> Sequence[Seed]:
        """The repetitions."""


def check(study: Study[Any]) -> None:
    """Raise ValueError for results that do not fit together."""
    if not study.seeds:
        raise ValueError("results need at least one seed")
    for seed in study.seeds:
        if seed.judged.keys != study.seeds[0].judged.keys:
            raise ValueError(f"seed {seed.number} was asked other questions than seed {study.seeds[0].number}")
        if missing := sorted({*seed.judged.tasks} - {*study.sets}):
            raise ValueError(f"seed {seed.number} has the sets {missing}, which `sets` does not describe")
        if absent := sorted({*study.roles.values()} - {*seed.judged.contestants}):
            raise ValueError(f"seed {seed.number} has no answers by {', '.join(absent)}")


@dataclass(frozen=True, kw_only=True)
class Example:
    """A sample to show.

    Attributes:
        kind: what is shown of it; a page has a heading for each kind.
        dataset: the sample's dataset.
        question: the question without image marks.
        raw: the annotation.
        said: model -> its text.
        pictures: thumbnails.
    """

    kind: str
    dataset: str
    question: str
    raw: str
    said: Mapping[str, str]
    pictures: tuple[Thumbnail, ...] = ()

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Example:
        """Read what `dataclasses.asdict` wrote."""
        return Example(**{**record, "pictures": tuple(Thumbnail(**one) for one in record["pictures"])})


def example_of(sample: Sample, kind: str, said: Mapping[str, str]) -> Example:
    """Return a sample with the models' texts, cut to what a page can show."""
    return Example(
        kind=kind,
        dataset=sample.dataset,
        question=readable(sample.question),
        raw=readable(sample.response),
        said={name: readable(text) for name, text in said.items()},
        pictures=tuple(thumbnail(image.data, side=192) for image in sample.images),
    )
