from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from polite_flamingo.filters.thresholds import CHECKS, Thresholds
from polite_flamingo.report.selection_charts import reward_chart, what_if_chart
from polite_flamingo.selection.histograms import Curve, Histogram
from polite_flamingo.selection.select_shard import select_shard
from polite_flamingo.selection.statistics import Statistics
from tests.support.scored import scored, world

STATISTICS = select_shard(world(600), shard="s", thresholds=Thresholds()).statistics


def points(element: ET.Element) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", element.get("points", ""))]


def inside(chart: ET.Element) -> bool:
    _, _, width, height = map(float, chart.get("viewBox", "").split())
    found = [point for element in chart for point in points(element)]
    found += [(float(e.get("x1", 0)), float(e.get("y1", 0))) for e in chart.iter("line")]
    found += [(float(e.get("x", 0)), float(e.get("y", 0))) for e in chart.iter("text")]
    return all(0 <= x <= width and 0 <= y <= height for x, y in found)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
@pytest.mark.parametrize("width", [340, 700])
def test_a_curve_runs_through_the_dot_of_this_run(check, width: float) -> None:  # type: ignore[no-untyped-def]
    threshold = getattr(Thresholds(), check.name)
    chart = ET.fromstring(what_if_chart(check, STATISTICS.curves[check.name], threshold, width=width))
    assert inside(chart)
    [curve] = [points(element) for element in chart if element.get("class") == "curve"]
    [dot] = chart.iter("circle")
    x, y = float(dot.get("cx", "")), float(dot.get("cy", ""))
    before = max((point for point in curve if point[0] <= x + 0.1), default=curve[0])
    after = min((point for point in curve if point[0] >= x - 0.1), default=curve[-1])
    low, high = sorted([before[1], after[1]])
    assert low - 2 <= y <= high + 2
    heights = [height for _, height in curve]
    rising = check.comparison in ("at_most", "below")
    assert heights == sorted(heights, reverse=rising), "a stricter threshold never keeps more"


def test_a_threshold_far_from_all_scores_stays_on_the_chart() -> None:
    check = CHECKS[2]
    chart = what_if_chart(check, STATISTICS.curves[check.name], 600, width=340)
    assert "600 →" in chart and inside(ET.fromstring(chart))


def test_equal_scores_are_no_trouble() -> None:
    statistics = select_shard([scored("a/b/1")], shard="s", thresholds=Thresholds()).statistics
    for check in CHECKS:
        chart = what_if_chart(check, statistics.curves[check.name], getattr(Thresholds(), check.name), width=340)
        assert chart == "" or inside(ET.fromstring(chart))
    assert inside(ET.fromstring(reward_chart(statistics, width=360)))


def test_nothing_judged_is_no_chart() -> None:
    empty = Curve(scores=Histogram(step=1), deciding=Histogram(step=1))
    assert what_if_chart(CHECKS[0], empty, 3, width=340) == ""
    assert reward_chart(Statistics(), width=360) == ""


@pytest.mark.parametrize("width", [360, 1060])
def test_the_reward_chart_names_its_axes_and_both_means(width: float) -> None:
    chart = ET.fromstring(reward_chart(STATISTICS, width=width))
    words = [element.text or "" for element in chart.iter("text")]
    total = STATISTICS.total()
    assert inside(chart) and {"reward (logit)", "share of samples"} <= set(words)
    for mean in (total.reward_raw.value, total.reward_kept.value):
        assert mean is not None
        assert any(f"{abs(mean):.2f}".rstrip("0").rstrip(".") in word for word in words)
    areas = [element for element in chart if (element.get("class") or "").startswith("area")]
    assert len(areas) == 3
