"""One writer per output: of many, one; after a kill, the next; a writer that slept too long is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from polite_flamingo.storage.bucket import Bucket
from polite_flamingo.storage.lease import Lease, exclusive
from polite_flamingo.storage.location import location
from polite_flamingo.storage.store import Entry
from tests.support.patience import wait_until

SECONDS = 2.0
HOLD = f"""
import sys
from polite_flamingo.storage.lease import exclusive
from polite_flamingo.storage.location import location

with exclusive(location(sys.argv[1]), lambda why: print("lost:", why, flush=True), {SECONDS}):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(place: str, before: str = "") -> subprocess.Popen[str]:
    """A process that holds a place until its stdin ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"{before}\n{HOLD}", place], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "out") if request.param == "folder" else str(request.getfixturevalue("bucket"))


def hold(place: str) -> bool:
    """Whether this process could hold the place for a moment."""
    try:
        with exclusive(location(place), pytest.fail, SECONDS):
            return True
    except ValueError as error:
        assert "is writing to" in str(error) and "give another --out" in str(error)
        return False


def test_a_second_writer_is_refused_and_the_place_is_free_afterwards(place: str) -> None:
    with holder(place) as process:
        assert not hold(place)
        process.communicate()
    assert hold(place)
    assert hold(place)


def test_a_killed_writer_leaves_the_place_to_the_next(place: str) -> None:
    with holder(place) as process:
        process.kill()
    assert hold(place)


def test_an_interrupted_command_leaves_it_at_once(bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    listening = "from ray_jobs import interruption; interruption.listen(['-m', 'job'])"
    with holder(bucket, listening) as process:
        process.terminate()
    assert process.returncode == 143
    assert hold(bucket) and "has not released" not in capsys.readouterr().err


@pytest.mark.parametrize("content", ["[]", "{", "null", '{"pid": 1}', b"\xff"])
def test_a_lease_that_cannot_be_read_runs_out_like_another(
    content: str | bytes, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (location(bucket) / "lock.json").put(content)
    Lease(location(bucket) / "lock.json", 0.1).take()
    assert "another job has not released" in capsys.readouterr().err


def test_of_many_writers_at_once_one_holds_a_bucket(bucket: str) -> None:
    def writer(number: int) -> subprocess.Popen[str] | None:
        try:
            return holder(bucket)
        except AssertionError:
            return None

    with ThreadPoolExecutor(4) as pool:
        held = [one for one in pool.map(writer, range(4)) if one]
    assert len(held) == 1
    held[0].communicate()


def test_while_the_store_is_away_a_lease_does_not_run_out(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = location(bucket) / "lock.json"
    assert Lease(place, SECONDS).attempt()
    other = Lease(place, SECONDS)
    assert not other.attempt()

    head = Bucket.head

    def late(store: Bucket, key: str) -> Entry | None:
        time.sleep(SECONDS)
        return head(store, key)

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "head", late)
        assert not other.attempt()
    wait_until(other.attempt)


def test_a_writer_that_slept_past_its_lease_is_told(bucket: str) -> None:
    with holder(bucket) as process:
        process.send_signal(signal.SIGSTOP)
        with exclusive(location(bucket), pytest.fail, SECONDS):
            process.send_signal(signal.SIGCONT)
            assert process.stdout is not None
            assert process.stdout.readline().startswith(f"lost: another job has taken over {bucket}")
            process.communicate()
            assert location(bucket).entries(), "the one who woke must not release another's lease"
            assert (location(bucket) / "lock.json").head() is not None
