"""The token bucket against a plain model of what it promises, with times chosen by hypothesis."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.http.rates import MINUTE, SECOND, Account, Bucket, duration

LIMITS = st.integers(1, 200) | st.sampled_from([1, 7, 59, 61, 6_000, 1_000_000])
PAUSES = st.lists(st.integers(0, 3 * MINUTE) | st.integers(0, SECOND), min_size=1, max_size=40)


def test_a_fresh_bucket_gives_a_minute_of_requests_at_once_and_then_one_by_one() -> None:
    bucket = Bucket(6)
    assert [bucket.take(0) for _ in range(6)] == [0] * 6
    assert bucket.take(0) == 10 * SECOND, "six a minute are one in ten seconds"
    assert bucket.take(10 * SECOND - 1) == 1
    assert bucket.take(10 * SECOND) == 0
    assert bucket.take(10 * SECOND) == 10 * SECOND
    assert bucket.until_full(10 * SECOND) == MINUTE
    assert bucket.left(70 * SECOND) == 6, "a minute later it is full again"


@given(LIMITS, PAUSES)
def test_no_more_come_in_than_were_promised(limit: int, pauses: list[int]) -> None:
    """In any stretch of time: the bucket's content, and what has been refilled since."""
    bucket, now, let_in = Bucket(limit), 5 * MINUTE, []
    for pause in pauses:
        now += pause
        if bucket.take(now) == 0:
            let_in.append(now)
    for first in range(len(let_in)):
        passed = let_in[-1] - let_in[first]
        assert len(let_in) - first <= limit + passed * limit // MINUTE


@given(LIMITS, PAUSES)
def test_who_waits_as_long_as_he_is_told_is_let_in_and_a_moment_earlier_is_not(limit: int, pauses: list[int]) -> None:
    bucket, now, refused = Bucket(limit), 0, 0
    for pause in pauses:
        now += pause
        for _ in range(min(limit + 1, 100)):
            wait = bucket.take(now)
            if wait:
                refused += 1
                assert bucket.left(now) == 0
                assert bucket.take(now + wait - 1) > 0
                now += wait
                assert bucket.take(now) == 0
                break
    assert refused or limit >= 100


@given(LIMITS, PAUSES)
def test_what_is_left_counts_down_by_one_and_a_refusal_costs_nothing(limit: int, pauses: list[int]) -> None:
    bucket, now = Bucket(limit), 0
    for pause in pauses:
        now += pause
        left, until_full = bucket.left(now), bucket.until_full(now)
        assert 0 <= left <= limit
        if bucket.take(now):
            assert (left, until_full) == (0, bucket.until_full(now)), "refused: nothing was taken"
        else:
            assert bucket.left(now) == left - 1 >= 0
        assert bucket.left(now + bucket.until_full(now)) == limit


def test_a_bucket_that_lets_nobody_in_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="lets nobody in"):
        Bucket(0)


def test_an_account_keeps_its_bucket_for_as_long_as_its_rate_stays() -> None:
    account = Account(None, 0)
    account.set_limits(2, 5)
    bucket = account.bucket
    assert bucket is not None and bucket.take(0) == bucket.take(0) == 0
    account.set_limits(2, 7)
    assert account.bucket is bucket and account.at_once == 7
    account.set_limits(3, 7)
    assert account.bucket is not None and account.bucket.left(0) == 3
    account.set_limits(0, 0)
    assert account.bucket is None


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0ms"),
        (1, "1ms"),
        (20_000_000, "20ms"),
        (SECOND, "1s"),
        (1_500_000_000, "1.5s"),
        (60 * SECOND, "1m0s"),
        (6 * MINUTE + 1, "6m0.001s"),
        (59_999_999_999, "1m0s"),
    ],
)
def test_durations_are_written_as_openai_writes_them(nanoseconds: int, text: str) -> None:
    assert duration(nanoseconds) == text
