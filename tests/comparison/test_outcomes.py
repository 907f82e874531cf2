"""Two builds are compared turn by turn: what each keeps, which text is preferred, and where they differ most."""

from __future__ import annotations

from typing import Any

import pytest

from polite_flamingo.comparison.outcomes import MAX_SHOWN, Comparison, judged_turns
from polite_flamingo.evaluation.bootstrap import Resampling
from polite_flamingo.filters.thresholds import Thresholds
from polite_flamingo.report.comparison import interval
from polite_flamingo.sample import Sample
from polite_flamingo.selection.select_shard import select_shard
from tests.support.scored import conversation, said, scored

RESAMPLING = Resampling(draws=200)
WRONG: dict[str, Any] = {"nli": [3.0, 0.0, 0.0]}
NONE: frozenset[str] = frozenset()


def judged(*samples: Sample) -> Any:
    return judged_turns(samples, select_shard(samples, shard="s", thresholds=Thresholds()).records)


def test_every_turn_has_an_outcome_in_both_builds() -> None:
    first = judged(
        scored("vqa/t/1"), scored("vqa/t/2", **WRONG), scored("vqa/t/3"), scored("vqa/t/4"),
        conversation("chat/t/1", said("<image>A?"), said("B?")),
    )  # fmt: skip
    second = judged(
        scored("vqa/t/1"), scored("vqa/t/2"), conversation("chat/t/1", said("<image>A?"), said("B?", **WRONG))
    )
    comparison = Comparison()
    comparison.add_shard(first, second, (frozenset({"vqa/t/5"}), frozenset({"vqa/t/3", "vqa/t/5"})))
    assert comparison.outcomes == {
        ("kept", "kept"): 2, ("rejected", "kept"): 1, ("kept", "rejected"): 1, ("kept", "quarantined"): 1,
        ("kept", "absent"): 1, ("quarantined", "quarantined"): 1,
    }  # fmt: skip
    assert [one.key for one in comparison.shown["only_first"]] == ["chat/t/1/turn1"]
    assert [one.key for one in comparison.shown["only_second"]] == ["vqa/t/2"]


def test_the_text_with_the_higher_reward_wins_and_a_tie_counts_half() -> None:
    comparison = Comparison()
    rewards = {"vqa/t/1": 2.0, "vqa/t/2": 1.0, "vqa/t/3": 0.0, "vqa/t/4": 3.0}
    comparison.add_shard(
        judged(*(scored(key) for key in rewards)), judged(*(scored(key, reward=r) for key, r in rewards.items())),
        (NONE, NONE),
    )  # fmt: skip
    rate = comparison.win_rate(RESAMPLING)
    assert rate.value == pytest.approx((1 + 0.5 + 0 + 1) / 4) and rate.n == 4
    assert comparison.win_rate(RESAMPLING, "vqa").value == rate.value
    assert comparison.win_rate(RESAMPLING, "captioning").value is None
    first, second, apart = comparison.means(RESAMPLING)["reward"]
    assert (first.value, second.value, apart.value) == (1.0, 1.5, 0.5)
    assert "CLIPScore" not in comparison.means(RESAMPLING), "no text has one in both"
    assert [one.key for one in comparison.shown["second_preferred"]] == ["vqa/t/4", "vqa/t/1"]
    assert [one.key for one in comparison.shown["first_preferred"]] == ["vqa/t/3"]


def test_only_the_greatest_differences_are_held() -> None:
    comparison = Comparison()
    for shard in range(5):
        keys = [f"vqa/t/{shard}-{number}" for number in range(6)]
        comparison.add_shard(
            judged(*(scored(key) for key in keys)),
            judged(*(scored(key, reward=2.0 + shard + number) for number, key in enumerate(keys))),
            (NONE, NONE),
        )
    assert [one.apart for one in comparison.shown["second_preferred"]] == [10.0, 9.0, 9.0, 8.0]
    assert len(comparison.shown["second_preferred"]) == MAX_SHOWN


def test_intervals_are_readable() -> None:
    comparison = Comparison()
    assert interval(comparison.win_rate(RESAMPLING), share=True) == "–"
    comparison.add_shard(judged(scored("vqa/t/1")), judged(scored("vqa/t/1", reward=2.0)), (NONE, NONE))
    assert interval(comparison.win_rate(RESAMPLING), share=True) == "100.0 %"
