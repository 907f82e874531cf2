"""The rewriting actor over a server: a job that is killed with SIGKILL pays for no answer twice."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from polite_flamingo.storage.ledger import OutputLayout, read_manifest
from polite_flamingo.usage import Usage
from tests.support.build_world import outcome, write_world
from tests.support.fake_chat import FakeChat, fake_chat
from tests.support.patience import PATIENCE, wait_until
from tests.support.processes import kill

REPO = Path(__file__).parents[2]


def start(chat: FakeChat, source: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.support.run_rewriting", chat.url, str(source), str(out)]
    return subprocess.Popen(command, cwd=REPO)


def usage_of(out: Path) -> Usage:
    """Return what the rewriter consumed for all shards, without its time."""
    layout, usage = OutputLayout(root=out), Usage()
    for name in layout.finished():
        usage.update(read_manifest(layout.manifest(name)).usage)
    found = {name.removeprefix("rewriting."): count for name, count in usage.items() if "milliseconds" not in name}
    return Usage(found)


def kept(out: Path) -> int:
    """Number of answers that are on disk or that a finished shard has used."""
    lines = [file.read_text().count("\n") for file in (out / "answers").rglob("*.jsonl")]
    return sum(lines) + 30 * len(OutputLayout(root=out).finished())


@pytest.mark.slow
def test_a_job_that_is_killed_again_and_again_asks_no_answered_question_twice(tmp_path: Path) -> None:
    source = write_world(tmp_path / "in", shards=3, rows=30)
    out, calm = tmp_path / "out", tmp_path / "calm"
    with fake_chat() as chat:
        assert start(chat, source, calm).wait(PATIENCE) == 0
        everything = Counter(chat.asked)
        assert len(everything) == 90 == sum(everything.values())
    with fake_chat() as chat:
        limit, released = 0, threading.Event()
        answered: list[int] = []

        def hold() -> None:
            """Answer as many requests as `limit` says, and no more before the process is dead."""
            with chat.lock:
                if may := len(answered) < limit:
                    answered.append(1)
            if not may:
                released.wait(PATIENCE)

        chat.hold = hold
        for limit in (17, 40, 77):
            released.clear()
            doomed = start(chat, source, out)
            wait_until(lambda: len(answered) == limit and kept(out) >= limit)  # noqa: B023
            kill([psutil.Process(doomed.pid)])
            doomed.wait()
            released.set()  # its requests are answered into the void
            wait_until(lambda: chat.at_once == 0)
        limit = 1000
        assert start(chat, source, out).wait(PATIENCE) == 0
        assert set(chat.asked) == set(everything), "the same questions"
        again = {digest: count for digest, count in chat.asked.items() if count > 1}
        assert sum(chat.asked.values()) - 90 <= 3 * 6, "only those that were in flight at a kill, six at most"
        assert len(again) <= 18
    assert outcome(out) == outcome(calm) == {"scored": 90}
    first, second = usage_of(calm), usage_of(out)
    assert second["answers_reused"] > 0 == first["answers_reused"]
    del second["answers_reused"]
    assert second == first and first["requests"] == 90, "the sums are those of a calm run"
    assert not list((out / "answers").rglob("*.jsonl")), "answers go with their shards"


def test_a_row_that_is_tried_alone_is_alone_among_threads(tmp_path: Path) -> None:
    """Else a row that kills the process would condemn the innocent rows beside it."""
    from polite_flamingo.faults.journal import Journal
    from polite_flamingo.storage.location import location

    journal = Journal(location(tmp_path), "rewriting")
    notes = [journal.open(f"s{n}") for n in range(3)]
    inside, go_on = [threading.Event() for _ in notes], [threading.Event() for _ in notes]

    def run(number: int, *, alone: bool) -> None:
        with notes[number].busy(0, [number], alone=alone):
            inside[number].set()
            go_on[number].wait(PATIENCE)

    threads: list[Any] = [threading.Thread(target=run, args=(n,), kwargs={"alone": n == 1}) for n in range(3)]
    threads[0].start()
    inside[0].wait(PATIENCE)
    threads[1].start()
    wait_until(lambda: journal._side._waiting)
    threads[2].start()
    assert not inside[1].is_set() and not inside[2].is_set(), "it waits for the first, and the third waits for it"
    go_on[0].set()
    assert inside[1].wait(PATIENCE) and not inside[2].is_set()
    go_on[1].set()
    assert inside[2].wait(PATIENCE)
    go_on[2].set()
    for thread in threads:
        thread.join()
