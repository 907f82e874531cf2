from __future__ import annotations

import re
from itertools import pairwise

import pytest

from polite_flamingo.formatting import fixed, trimmed
from polite_flamingo.report.chart_types import Bar, Cell, Line, Point, bars, heat_map, lines
from polite_flamingo.report.svg import ticks
from tests.support.page_reader import Page

HOSTILE = '<script>alert("1")</script>&'


def numbers(text: str, attribute: str) -> list[float]:
    return [float(found) for found in re.findall(rf'\b{attribute}="(-?[\d.]+)"', text)]


def test_a_heat_map_has_its_number_in_every_cell() -> None:
    cells = [
        [None, Cell(text="79.6", small="70 to 85", shade=0.6, title="a beats b")],
        [Cell(text="20.4", shade=-2), None],
    ]
    found = heat_map("win rates", ["a", "b"], ["a", "b"], cells)
    page = Page(str(found))
    assert page.open == [] and page.unmatched == []
    fills = [attributes["style"] for tag, attributes in page.tags if tag == "rect"]
    assert ["--high) 60%" in fills[0], "--low) 100%" in fills[1]] == [True, True], (
        "blue wins, orange loses, clipped at 1"
    )
    for shown in ("79.6", "70 to 85", "20.4", "a beats b"):
        assert shown in page.words
    assert [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"] == ["win rates"]


def test_bars_grow_from_zero_either_way_and_whiskers_lie_inside() -> None:
    found = str(
        bars(
            "reward",
            [Bar(name="good", value=2.0, low=1.0, high=3.0, text="2.00"), Bar(name="bad", value=-1.0)],
        )
    )
    (good, bad) = re.findall(r'<rect class="bar " x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', found)
    zero = float(good[0])
    assert float(bad[0]) + float(bad[1]) == pytest.approx(zero, abs=0.2)
    assert float(good[1]) == pytest.approx(2 * float(bad[1]), rel=0.02)
    start, end = map(float, re.findall(r'class="whisker" d="M([\d.]+) .*H([\d.]+)', found)[0])
    assert zero < start < zero + float(good[1]) < end < 520
    assert "reward: good 2.00, bad −1" in found


def test_all_zero_and_nothing_can_be_drawn() -> None:
    assert "0" in bars("nothing", [Bar(name="a", value=0.0)]) and "<svg" in bars("none", [])
    assert "nothing to show" in lines("empty", [], x_label="x", y_label="y")
    assert "<svg" in heat_map("none", [], [], [])


def test_lines_rise_with_their_values_and_carry_a_band_and_a_legend() -> None:
    rising = [Point(x=float(x), y=float(x * x), low=x * x - 1.0, high=x * x + 1.0) for x in range(4)]
    flat = [Point(x=0.0, y=5.0), Point(x=3.0, y=5.0)]
    found = str(lines("growth", [Line(name="rising", points=rising), Line(name="flat", points=flat)], x_label="step",
                      y_label="score", x_names=("one", "two", "three", "four")))  # fmt: skip
    heights = numbers(found, "cy")
    assert all(after < before for before, after in pairwise(heights[:4])) and heights[4] == heights[5]
    assert found.count('class="band') == 1 and found.count('class="curve') == 4
    page = Page(found)
    for word in ("rising", "flat", "step", "score", "one", "four"):
        assert word in page.words
    dashes = [attributes["stroke-dasharray"] for tag, attributes in page.tags if "curve" in attributes.get("class", "")]
    assert len(set(dashes)) == 2, "not by colour alone"


def test_one_point_alone_is_drawn() -> None:
    found = lines("one", [Line(name="a", points=[Point(x=1.0, y=1.0)])], x_label="x", y_label="y")
    assert 'r="3.6"' in found and "nan" not in found


def test_names_are_escaped_and_cut_to_their_room() -> None:
    for found in (
        heat_map(HOSTILE, [HOSTILE], [HOSTILE], [[Cell(text=HOSTILE, small=HOSTILE, title=HOSTILE)]]),
        bars(HOSTILE, [Bar(name=HOSTILE * 9, value=1.0, text=HOSTILE)]),
        lines(HOSTILE, [Line(name=HOSTILE, points=[Point(x=0, y=0)])], x_label=HOSTILE, y_label=HOSTILE),
    ):
        page = Page(str(found))
        assert page.open == [] and page.unmatched == [] and "script" not in {tag for tag, _ in page.tags}
    assert "…" in bars("x", [Bar(name="n" * 200, value=1.0)])


def test_long_column_names_take_two_lines() -> None:
    names = [f"twice the epochs {number}" for number in range(12)]
    words = Page(str(heat_map("many", names, names, [[Cell(text="1")] * 12] * 12))).words
    assert words.count("twice the") == 24 and "epochs 11" in words and "…" not in words


def test_ticks_are_round() -> None:
    assert ticks(0, 100, 4) == [0, 50, 100] and ticks(-2.3, 5.1, 4) == [-2, 0, 2, 4]
    assert trimmed(-0.0004) == "0" and trimmed(-1.5) == "−1.5"
    assert fixed(-0.001) == "0.00" and fixed(-1.5) == "−1.50" and fixed(None) == "–"
