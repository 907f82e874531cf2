from __future__ import annotations

import dataclasses
import re

from polite_flamingo.filters.thresholds import Thresholds
from polite_flamingo.selection.card import card
from polite_flamingo.selection.statistics import Statistics
from polite_flamingo.storage.run_info import RunInfo
from tests.support.report_example import RUN, example, shards


def test_counts_models_and_thresholds_are_stated() -> None:
    statistics, _ = example(Thresholds(), shards(600))
    text = card(statistics, Thresholds(sts=0.45), RUN)
    total = statistics.total()
    everything = next(line for line in text.splitlines() if line.startswith("| **all** |"))
    numbers = [int(cell) for cell in re.findall(r"[\d,]+", everything.replace(",", ""))]
    assert numbers[0] == total.rows == numbers[1] + sum(numbers[2:]), "in = kept + each reason + quarantined"
    for name in statistics.datasets:
        assert name.replace("_", "\\_") in text
    for model in RUN.models:
        assert f"`{model.name}` (fingerprint `{model.fingerprint}`)" in text
    assert "| sts | 0.45 | similarity to the annotation, kept from 0.45 |" in text
    assert text.startswith("---\ntask_categories:") and "licences of the datasets" in text


def test_a_hostile_name_stays_in_its_cell() -> None:
    statistics = Statistics()
    statistics.dataset("x|y\n# z <script>\ud83d").kept = 1
    run = dataclasses.replace(RUN, title="a\nb", command="x `rm` y")
    text = card(statistics, Thresholds(), run)
    assert "x\\|y # z &lt;script>?" in text and "\n# z" not in text
    assert "`x 'rm' y`" in text and "# a b\n" in text


def test_a_run_of_nothing_has_a_card() -> None:
    assert "0 instructions" in card(Statistics(), Thresholds(), RunInfo(title="t", command="c", started="2026-01-01"))
