"""A job's progress: phases from the first second on, no meaningless estimate, few lines in a log."""

from __future__ import annotations

import pytest

from ray_jobs import progress as module
from ray_jobs.progress import Lines, Pace, bar, duration, progress


def seen(pace: Pace, now: float, rows_in_work: int = 0) -> str:
    pace.see(now, rows_in_work)
    return pace.words(now)


def test_while_models_are_loaded_it_says_so_and_no_time_counts() -> None:
    """69 s of loading once made an estimate of 21 minutes for a job of two."""
    pace = Pace(shards=10)
    assert seen(pace, 69) == "loading models"
    assert seen(pace, 70, 4) == "4 rows"
    assert seen(pace, 90, 84) == "84 rows, 4 rows/s", "of the twenty seconds since the first rows, not of ninety"
    pace.advance(95, 1, 100)
    assert pace.words(95) == "100 rows, 3.84 rows/s, about 4 min left"
    for _ in range(9):
        pace.advance(320, 1, 100)
    assert pace.words(320) == "1,000 rows, 3.98 rows/s"


def test_no_time_is_told_before_a_tenth_of_the_shards_is_done() -> None:
    pace = Pace(shards=30)
    assert seen(pace, 0, 1) == "1 row"
    for shard in range(30):
        pace.advance(20 + shard, 1, 10)
        assert ("left" in pace.words(20 + shard)) == (2 <= shard < 29), shard


def test_one_large_shard_shows_rows_and_speed_and_never_a_time() -> None:
    pace = Pace(shards=1)
    assert [seen(pace, now, now) for now in (1, 50, 400)] == ["1 row", "50 rows, 1 rows/s", "400 rows, 1 rows/s"]


def test_rows_that_were_seen_are_never_taken_back() -> None:
    pace = Pace(shards=3)
    assert seen(pace, 0, 50).startswith("50 rows")
    pace.advance(30, 1, 40)  # the others of the 50 are scored and not committed
    assert pace.words(30).startswith("50 rows")


def test_shards_of_no_rows_are_no_loading() -> None:
    pace = Pace(shards=2)
    pace.advance(5, 1, 0)
    assert pace.words(5) == "" and pace.left(100) is None


def test_a_log_gets_few_lines() -> None:
    pace, lines, said = Pace(shards=100), Lines(), []
    for now in range(1200):
        if now == 70:
            pace.see(now, 1)
        if now >= 100 and now % 10 == 0 and pace.shards_done < 100:
            pace.advance(now, 1, 10)
        if lines.due(now, pace):
            said.append(now)
    assert said[:4] == [0, 60, 70, 130], "the phase, still loading, the first rows, a minute later"
    assert len(said) < 30
    assert said.count(1090) == 1 and pace.shards_done == 100


def test_the_lines_of_a_job(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(2, lambda: 0) as advance:
        advance(1, 30)
        advance(1, 12)
    assert [line.partition(" after")[0] for line in capsys.readouterr().err.splitlines()] == [
        "loading models …", "1 of 2 shards", "2 of 2 shards",
    ]  # fmt: skip


def test_a_bar_is_lines_where_nobody_watches(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first line, one per minute, the last, and other prints in between: no bar, no cursor movement."""
    clock = iter(range(1000))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock) / 2)
    with bar(400, "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps{postfix}") as shown:
        shown.set_postfix_str("starting")
        for _ in range(400):
            shown.update()
            shown.refresh()
        shown.write("a worker died")
    said = capsys.readouterr().err
    first, *between, last, written = said.splitlines()
    assert (first, last) == ("0% 0/400 steps", "100% 400/400 steps, starting") and written == "a worker died"
    assert 0 < len(between) < 8 and all(line.endswith("/400 steps, starting") for line in between), between
    assert "\r" not in said and "\x1b" not in said


def test_durations_are_said_as_people_do() -> None:
    assert [duration(seconds) for seconds in (0, 40, 100, 7800)] == ["1 s", "40 s", "2 min", "2 h 10 min"]
