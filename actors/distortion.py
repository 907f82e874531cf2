"""The actor that distorts: a thin shell around `Distorter`, which holds the speaker and the index of captions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from actors.base import RowActor
from polite_flamingo.distortion.config import DistortionConfig
from polite_flamingo.distortion.loading import load_speaker
from polite_flamingo.distortion.pairs import Distorter, check_good
from polite_flamingo.distortion.retrieval import CaptionIndex
from polite_flamingo.distortion.speakers import Speaker
from polite_flamingo.sample import BadSample, Reason, Sample
from polite_flamingo.storage.location import location
from polite_flamingo.usage import Usage


@dataclass(frozen=True, kw_only=True)
class DistorterConfig:
    """What an actor needs to build its `Distorter`.

    Attributes:
        distortion: how to distort.
        captions: place of the index of COCO's captions, written by the job; "" if there is none.
    """

    distortion: DistortionConfig
    captions: str = ""


class DistortionActor(RowActor):
    """Holds one speaker and distorts single-turn good responses."""

    name = "distortion"
    reason: ClassVar[Reason] = "distortion_failed"
    model: Distorter

    def load(self, config: DistorterConfig) -> Distorter:
        """Load the speaker, if its kind of distortion has a share, and open the index of captions."""
        return Distorter(
            config.distortion,
            speaker=self.load_speaker(config.distortion) if config.distortion.shares.llm else None,
            captions=CaptionIndex(location(config.captions)) if config.captions else None,
        )

    def load_speaker(self, config: DistortionConfig) -> Speaker:
        """Load the speaker."""
        return load_speaker(config)

    def check(self, sample: Sample) -> None:
        """Raise `BadSample` for a sample that cannot become a pair."""
        check_good(sample)

    def work(self, samples: list[Sample], usage: Usage) -> list[Sample | BadSample]:
        """Turn each sample into a pair."""
        return list(self.model.distort(samples))
