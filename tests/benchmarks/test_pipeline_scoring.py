"""The scoring benchmark reaches into the scorer by name, so a renamed part must show here and not in a long run."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml

from benchmarks.pipeline.scorers import FILTERS_TIMED, SWITCHES, Ours, Reference, shapes_samples
from benchmarks.pipeline.scoring import largest_differences
from polite_flamingo.filters.scorer import ScoringConfig

PROFILE = Path(__file__).parents[2] / "profiles" / "tiny.yaml"
SAMPLES = shapes_samples(12)


@pytest.mark.slow
def test_every_way_of_scoring_that_is_timed_gives_the_references_scores() -> None:
    config = ScoringConfig(**{**yaml.safe_load(PROFILE.read_text())["scoring"], "threads": 1})
    expected, seconds, _ = Reference(config).run(SAMPLES)
    assert all(seconds[part] > 0 for part in FILTERS_TIMED)
    for switched_off in (nullcontext, *SWITCHES.values()):
        with switched_off():
            found, seconds, _ = Ours(config).run(SAMPLES, call=4)
        assert all(seconds[part] > 0 for part in FILTERS_TIMED), switched_off
        assert max(largest_differences(expected, found).values()) < 1e-3, switched_off
