"""A commit in a store that fails, by writers that die, stop and wake: no shard is lost, none is there twice.

`COMMIT_FAULTS=1000` in the environment makes the storm as long as that.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from polite_flamingo.storage.attempts import new_attempt
from polite_flamingo.storage.lease import exclusive
from polite_flamingo.storage.ledger import (
    Manifest,
    OutputLayout,
    change_manifest,
    read_manifest,
    read_quarantine,
    read_scored,
    write_file,
)
from polite_flamingo.storage.location import location
from tests.support.committers import (
    KILL,
    LOST,
    STOP,
    WAKE,
    commit,
    count_steps,
    exit_status,
    is_stopped,
    rows_of,
    writers,
)
from tests.support.patience import wait_until
from tests.support.s3_proxy import PASSING, random_faults, s3_proxy

COMMITS = int(os.environ.get("COMMIT_FAULTS", "60"))
WRITERS = 3
KILLS = 4
LEASE_SECONDS = 2.0
Start = Callable[..., ForkServerProcess]


@pytest.fixture(params=["folder", "bucket"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "out") if request.param == "folder" else str(request.getfixturevalue("bucket"))


@pytest.fixture
def start() -> Iterator[Start]:
    with writers() as start:
        yield start


def environment() -> dict[str, str]:
    """Return what leads a writer to the store."""
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


def assert_whole(layout: OutputLayout, names: Sequence[str]) -> int:
    """Every shard is there once, whole, with its own rows; return how many files no manifest named."""
    assert layout.finished() == sorted(names), "lost or foreign"
    manifests = {name: read_manifest(layout.manifest(name)) for name in names}

    def check(name: str) -> tuple[list[str], set[str]]:
        named = set()
        for file in manifests[name].files.values():
            data = (layout.root / file.path).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (file.size, file.sha256)
            named.add(file.path)
        assert len(named) == 3
        good, bad = read_scored(layout, name), read_quarantine(layout, name)
        assert [*good, *bad] == rows_of(name)
        return [row.key for row in good], named

    with ThreadPoolExecutor(16) as pool:
        checked = list(pool.map(check, names))
    keys = [key for found, _ in checked for key in found]
    assert len(keys) == len(set(keys)) == 3 * len(names), "lost or doubled"
    named = set().union(*(files for _, files in checked))

    def files() -> set[str]:
        return {
            f"{folder}/{name}" for folder in ("scored", "quarantine", "keys") for name in (layout.root / folder).names()
        }

    left = files() - named
    assert layout.sweep_attempts({name: sorted(files) for name, (_, files) in zip(names, checked, strict=True)}) == len(
        left
    )
    assert files() == named
    return len(left)


def test_a_writer_may_die_or_stop_at_any_step(out: str, start: Start) -> None:
    layout = OutputLayout(root=location(out))
    commit(layout, "measured")
    winning = count_steps(lambda: commit(layout, "winner"))
    losing = count_steps(lambda: commit(layout, "measured"))
    assert losing > winning > 10
    plans = [{step: sign} for step in range(winning) for sign in (STOP, KILL)]
    plans += [{0: STOP, step: KILL} for step in range(1, losing)]  # overtaken in its sleep, it dies after all
    names = [f"{number:03d}" for number in range(len(plans))]
    started = [start(out, [name], environment(), signals=plan) for name, plan in zip(names, plans, strict=True)]
    for writer, plan in zip(started, plans, strict=True):
        if STOP in plan.values():
            wait_until(lambda writer=writer: is_stopped(writer))  # type: ignore[misc]
        else:
            exit_status(writer)
    with ThreadPoolExecutor(8) as pool:
        published = list(pool.map(lambda name: commit(layout, name), names))
    for writer, plan in zip(started, plans, strict=True):
        if STOP in plan.values():
            os.kill(writer.pid or 0, WAKE)
        assert exit_status(writer) == (-KILL if KILL in plan.values() else 0), plan
    assert [read_manifest(layout.manifest(name)) for name in names] == published, "what is published stays"
    assert assert_whole(layout, [*names, "measured", "winner"]), "those that died left nothing to sweep"


def test_writers_that_sleep_past_their_leases_do_no_harm(bucket: str, start: Start) -> None:
    layout = OutputLayout(root=location(bucket))
    names = [f"{number:03d}" for number in range(8)]
    steps = count_steps(lambda: commit(layout, "measured"))
    zombies = []
    for step in (steps // 2, 2 * steps - 2, 3 * steps - 1):  # between two files, before a manifest, after one
        zombies.append(start(bucket, names, environment(), signals={step: STOP}, lease_seconds=LEASE_SECONDS))
        wait_until(lambda: is_stopped(zombies[-1]))
    with exclusive(layout.root, pytest.fail, LEASE_SECONDS):
        for name in names[:4]:
            commit(layout, name)
        for zombie in zombies:
            os.kill(zombie.pid or 0, WAKE)
        for name in names[4:]:
            commit(layout, name)
        for zombie in zombies:
            assert exit_status(zombie) == LOST
    assert_whole(layout, [*names, "measured"])


def test_a_change_by_a_job_that_slept_while_its_files_were_swept_is_refused(out: str) -> None:
    layout = OutputLayout(root=location(out))
    before = commit(layout, "a")

    def change(manifest: Manifest) -> Manifest:
        file = write_file(layout, "a", new_attempt(), "keys", b"")
        assert layout.sweep_attempts({"a": [file.path for file in manifest.files.values()]}) == 1  # another job
        return replace(manifest, files={**manifest.files, "keys": file})

    with pytest.raises(ValueError, match="another job has changed"):
        change_manifest(layout, "a", change)
    assert read_manifest(layout.manifest("a")) == replace(before, changes=1)
    assert assert_whole(layout, ["a"]) == 0


def test_a_storm_of_faults_and_kills_loses_nothing_and_doubles_nothing(
    bucket: str, s3: dict[str, str], start: Start
) -> None:
    """Two of three processes commit each shard, often at once; each process dies again and again."""
    names = [f"{number:04d}" for number in range(COMMITS)]
    layout = OutputLayout(root=location(bucket))  # past the proxy
    with s3_proxy(s3, random_faults(seed=14, share=0.1)) as (proxy, failing):

        def write(writer: int) -> int:
            rng, kills = random.Random(writer), 0
            mine = left = [name for number, name in enumerate(names) if number % WRITERS != writer]
            while left:
                signals = {rng.randrange(COMMITS): KILL} if kills < KILLS else {}
                process = start(bucket, left, failing, signals=signals, threads=4)
                status = exit_status(process)
                assert status in (-KILL, 0)
                kills += status == -KILL
                finished = set(layout.finished())
                left = [name for name in mine if name not in finished]
            return kills

        with ThreadPoolExecutor(WRITERS) as pool:
            kills = sum(pool.map(write, range(WRITERS)))
    swept = assert_whole(layout, names)
    print(f"{COMMITS} shards, {kills} writers killed, {len(proxy.requests)} requests, {swept} files swept;", end=" ")
    print({fault.name: count for fault, count in proxy.faults().items()})
    assert kills >= WRITERS
    assert set(proxy.faults()) == set(PASSING), "every kind was tried"
