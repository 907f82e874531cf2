"""The actor that distorts: a thin shell around `Distorter`, which holds the speaker and the index of captions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from actors.stage import StageSettings, run_blocks
from polite_flamingo.distortion.config import DistortionConfig
from polite_flamingo.distortion.pairs import Distorter, check_good
from polite_flamingo.distortion.retrieval import CaptionIndex
from polite_flamingo.distortion.speakers import Speaker, load_speaker
from polite_flamingo.faults.guard import Guard


@dataclass(frozen=True, kw_only=True)
class DistortionWork:
    """What an actor needs to know.

    Attributes:
        config: how to distort.
        captions: path of the index of COCO's captions, which the job has written; "" where there is none.
    """

    config: DistortionConfig
    captions: str = ""


class DistortionActor:
    """Holds one speaker and answers blocks of single-turn good responses."""

    def __init__(self, work: DistortionWork, settings: StageSettings):
        settings.check()
        self._journal = settings.journal("distortion")
        self._guard = Guard(
            reason="distortion_failed",
            rows_per_call=settings.rows_per_call,
            max_failures_in_a_row=settings.max_failures_in_a_row,
        )
        with self._journal.loading(patience=settings.actors + 1):
            self._distorter = Distorter(
                work.config,
                speaker=self.load(work.config) if work.config.shares.llm else None,
                captions=CaptionIndex(Path(work.captions)) if work.captions else None,
            )

    def load(self, config: DistortionConfig) -> Speaker:
        """The speaker. Importing a model takes seconds, so the driver never does."""
        return load_speaker(config)

    def __call__(self, table: pa.Table) -> pa.Table:
        """A pair of every sample; what fails becomes a quarantined row."""
        return run_blocks(table, self._guard, self._journal, self._distorter.distort, check_good)
