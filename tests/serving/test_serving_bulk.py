"""Bulk jobs as a user of the official client has them: upload, start, wait, download; and what others may not see.

The service is real, on a port; the build is `tiny_build.py`, in a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
import uvicorn
from rewriting_service import data_url, png
from run_batches import bulk_config, runner

from serving.app import create_app
from serving.batch_runner import BatchRunner, end_orphan
from serving.batch_store import BatchStore
from serving.config import AccessConfig, BatchesConfig, ServiceConfig
from serving.errors import ApiError
from serving.keys import new_key, write_keys
from serving.local import LocalBackend

HERE = Path(__file__).parent


def line(custom_id: str, raw: str = "a plain row", **body: Any) -> str:
    asked = {"instruction": "Say it nicely.", "raw": raw} | body
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/rewrite", "body": asked})


class Site:
    """A service on a port, with two keys."""

    def __init__(self, config: ServiceConfig, folder: Path):
        made = {name: new_key(name) for name in ("ann", "bob")}
        write_keys(folder / "keys.json", [key for _, key in made.values()])
        self.secrets = {name: secret for name, (secret, _) in made.items()}
        access = AccessConfig(keys=str(folder / "keys.json"), log=False)
        self.config = replace(config, serving=replace(config.serving, access=access))
        self.store = BatchStore(config.serving.batches)
        self.server = uvicorn.Server(
            uvicorn.Config(create_app(self.config, LocalBackend([])), port=0, log_level="error", lifespan="off")
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}/v1"

    def client(self, key: str = "ann") -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key=self.secrets[key], max_retries=0)


@contextlib.contextmanager
def site(config: ServiceConfig, folder: Path) -> Iterator[Site]:
    """A service without a runner."""
    made = Site(config, folder)
    thread = threading.Thread(target=made.server.run)
    thread.start()
    try:
        wait_until(lambda: made.server.started)
        yield made
    finally:
        made.server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("bulk")
    with site(bulk_config(folder / "jobs", file_bytes=50_000), folder) as made:
        yield made


def wait_until(condition: Callable[[], Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def upload(client: openai.OpenAI, *lines: str | bytes, **changes: Any) -> Any:
    data = b"\n".join(one.encode() if isinstance(one, str) else one for one in lines)
    return client.files.create(**({"file": ("lines.jsonl", data), "purpose": "batch"} | changes))


def start(client: openai.OpenAI, file: Any, **changes: Any) -> Any:
    wanted = {"input_file_id": file.id, "endpoint": "/v1/rewrite", "completion_window": "24h"}
    return client.batches.create(**(wanted | changes))


def run(config: ServiceConfig, until: Callable[[], bool], made: BatchRunner | None = None) -> None:
    """A runner, for as long as it takes."""

    async def work() -> None:
        batches = made or runner(config)
        batches.start()
        try:
            deadline = time.monotonic() + 60
            while not until():
                assert batches.failure is None
                assert time.monotonic() < deadline, "it never happened"
                await asyncio.sleep(0.02)
        finally:
            await batches.stop()

    asyncio.run(work())


def read(client: openai.OpenAI, file: str | None) -> list[dict[str, Any]]:
    """The lines of a result file."""
    return [json.loads(one) for one in client.files.content(file).text.splitlines()] if file else []


def ended(client: openai.OpenAI, *jobs: Any) -> Callable[[], bool]:
    words = ("completed", "failed", "cancelled", "expired")
    return lambda: all(client.batches.retrieve(job.id).status in words for job in jobs)


def accounted(client: openai.OpenAI, job: Any, names: set[str | None]) -> tuple[Any, list[Any], list[Any]]:
    """Asserts that each line is in exactly one result file, and that the counts say so."""
    job = client.batches.retrieve(job.id)
    good, bad = read(client, job.output_file_id), read(client, job.error_file_id)
    assert sorted(str(one["custom_id"]) for one in good + bad) == sorted(map(str, names))
    numbers = [one["line"] for one in good + bad]
    assert len(numbers) == len(set(numbers))
    counts = job.request_counts
    assert (counts.completed, counts.failed, counts.total) == (len(good), len(bad), len(good) + len(bad))
    return job, good, bad


def test_a_job_from_upload_to_download(shared: Site) -> None:
    client = shared.client()
    lines = [line(f"row {number}", f"row {number}") for number in range(11)]
    lines += [line("pictured", "Answer: red", instruction="What colour?", image=data_url(png(1)))]
    bad = [b"{", b"\xff\xfe", line("row 1"), line("poison", "raise"), line("blind", task="vqa")]
    bad += [line("broken", image=data_url(b"no picture"))]
    file = upload(client, *lines, "", *bad, "")
    assert (file.purpose, file.filename, file.status) == ("batch", "lines.jsonl", "processed")
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).read() == b"\n".join(
        one.encode() if isinstance(one, str) else one for one in (*lines, "", *bad, "")
    )
    job = start(client, file, metadata={"who": "ann"})
    assert (job.status, job.metadata, job.output_file_id) == ("validating", {"who": "ann"}, None)
    run(shared.config, ended(client, job))
    names = {f"row {number}" for number in range(11)} | {"pictured", "poison", "blind", "broken"}
    job = client.batches.retrieve(job.id)
    assert job.status == "completed" and job.errors is None
    assert job.in_progress_at and job.finalizing_at and job.completed_at and not job.cancelled_at
    good, wrong = read(client, job.output_file_id), read(client, job.error_file_id)
    assert {one["custom_id"] for one in good} == names - {"poison", "blind", "broken"}
    first = next(one for one in good if one["custom_id"] == "row 3")
    body = first["response"]["body"]
    assert first["response"]["status_code"] == 200 and first["error"] is None and first["line"] == 4
    assert body["rewritten"] == body["response"] == "Certainly! It seems to be row 3, as one can see."
    assert body["kept"] is True and body["verdicts"][0]["rule"] == "kept from 3" and body["task"] == "text"
    assert next(one for one in good if one["custom_id"] == "pictured")["response"]["body"]["task"] == "vqa"
    codes = [(one["line"], one["custom_id"], one["error"]["code"]) for one in wrong]
    assert sorted(codes) == [
        (14, None, "invalid_json"), (15, None, "invalid_json"), (16, "row 1", "duplicate_custom_id"),
        (17, "poison", "rewriting_failed"), (18, "blind", "missing_image"), (19, "broken", "invalid_image"),
    ]  # fmt: skip
    assert all(one["response"]["body"]["error"]["message"] == one["error"]["message"] for one in wrong)
    counts = job.request_counts
    assert counts is not None and (counts.total, counts.completed, counts.failed) == (18, 12, 6)
    assert not list(shared.store.job_folder(job.id).glob("work")), "the work is done and its files are gone"
    assert shared.store.root.stat().st_mode & 0o777 == 0o700, "others on this machine must not read what clients sent"
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_what_others_made_is_not_there(shared: Site) -> None:
    ann, bob = shared.client("ann"), shared.client("bob")
    file = upload(ann, line("a"))
    job = start(ann, file)
    attempts: list[Callable[[], Any]] = [
        lambda: bob.files.retrieve(file.id),
        lambda: bob.files.content(file.id),
        lambda: bob.files.delete(file.id),
        lambda: start(bob, file),
        lambda: bob.batches.retrieve(job.id),
        lambda: bob.batches.cancel(job.id),
        lambda: ann.files.retrieve(job.id),
        lambda: ann.batches.retrieve(file.id),
        lambda: ann.files.content("file-" + "0" * 32),
        lambda: ann.files.retrieve("..%2f..%2fkeys.json"),
    ]
    for attempt in attempts:
        with pytest.raises(openai.NotFoundError):
            attempt()
    assert not list(bob.files.list()) and not list(bob.batches.list())
    assert file.id in [one.id for one in ann.files.list()] and job.id in [one.id for one in ann.batches.list()]
    ann.batches.cancel(job.id)
    assert ann.batches.retrieve(job.id).status == "cancelling"
    run(shared.config, ended(ann, job))
    job = ann.batches.retrieve(job.id)
    assert job.status == "cancelled" and job.cancelling_at and job.cancelled_at
    with pytest.raises(openai.ConflictError, match="nothing is left to cancel"):
        ann.batches.cancel(job.id)


def test_lists_come_in_pages(tmp_path: Path) -> None:
    with site(bulk_config(tmp_path / "jobs"), tmp_path) as made:
        client = made.client()
        files = [upload(client, line(str(number))) for number in range(5)]
        jobs = [start(client, file) for file in files]
        assert [one.id for one in client.files.list(limit=2)] == [one.id for one in reversed(files)]
        assert [one.id for one in client.files.list(limit=2, order="asc")] == [one.id for one in files]
        assert [one.id for one in client.batches.list(limit=2)] == [one.id for one in reversed(jobs)]
        page = client.batches.list(limit=2, after=jobs[3].id)
        assert page.has_more and [one.id for one in page.data] == [jobs[2].id, jobs[1].id]
        assert not list(client.files.list(purpose="batch_output"))
        with pytest.raises(openai.BadRequestError, match="after"):
            client.files.list(after="file-" + "0" * 32)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"purpose": "fine-tune"}, "purpose: must be 'batch'"),
        ({"file": ("a", b"x" * 50_001)}, "50,000 bytes"),
        ({"expires_after": {"anchor": "created_at", "seconds": 0}}, "number of seconds above 0"),
    ],
)
def test_an_upload_that_does_not_fit_leaves_nothing(shared: Site, change: dict[str, Any], says: str) -> None:
    before = list(shared.store.root.glob("*/file-*"))
    with pytest.raises(openai.APIStatusError, match=says):
        upload(shared.client(), line("a"), **change)
    assert list(shared.store.root.glob("*/file-*")) == before


def test_a_key_has_so_much_room(tmp_path: Path) -> None:
    with site(bulk_config(tmp_path / "jobs", key_bytes=1000, waiting=2), tmp_path) as made:
        ann = made.client("ann")
        first = upload(ann, b"x" * 700)
        with pytest.raises(openai.APIStatusError, match="key_bytes") as refused:
            upload(ann, b"x" * 301)
        assert refused.value.status_code == 413
        upload(made.client("bob"), b"x" * 700)
        start(ann, first)
        start(ann, first)
        with pytest.raises(openai.RateLimitError, match=r"serving\.batches.waiting is 2"):
            start(ann, first)
        ann.files.delete(first.id)
        upload(ann, b"x" * 1000)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"endpoint": "/v1/chat/completions"}, "does not run in bulk; '/v1/rewrite' does"),
        ({"completion_window": "0h"}, "completion_window"),
        ({"completion_window": "2 days"}, "completion_window"),
        ({"metadata": {"a": "b" * 513}}, "metadata"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
    ],
)
def test_a_job_that_cannot_be_is_refused(shared: Site, change: dict[str, Any], says: str) -> None:
    client = shared.client()
    with pytest.raises(openai.BadRequestError, match=says):
        start(client, upload(client, line("a")), **change)


def test_jobs_that_have_nothing_to_do(shared: Site) -> None:
    client = shared.client()
    empty, gone, wrong = upload(client, b" \n\n"), upload(client, line("a")), upload(client, b"x", b"y")
    jobs = [start(client, file) for file in (empty, gone, wrong)]
    client.files.delete(gone.id)
    run(shared.config, ended(client, *jobs))
    found = [client.batches.retrieve(job.id) for job in jobs]
    assert [job.status for job in found] == ["failed", "failed", "completed"]
    assert [job.errors.data[0].code for job in found[:2] if job.errors] == ["empty_file", "input_file_not_found"]
    assert found[2].output_file_id is None
    accounted(client, jobs[2], [None, None])  # type: ignore[arg-type]


def test_a_job_that_is_cancelled_keeps_what_it_has(shared: Site) -> None:
    """Ten rows are rewritten, the eleventh hangs, the fifth of all is none; whoever cancels gets the ten."""
    client = shared.client()
    names = [f"row {number}" for number in range(14)]
    lines = [line(name, "hang" if name == "row 11" else "a row") for name in names]
    job = start(client, upload(client, *lines[:4], b"{}", *lines[4:]))
    process: list[psutil.Process] = []

    def finished() -> bool:
        shown = client.batches.retrieve(job.id)
        if shown.request_counts and shown.request_counts.completed == 10 and shown.status == "in_progress":
            assert shown.request_counts.failed == 1 and shown.request_counts.total == 15
            noted = json.loads((shared.store.job_folder(job.id) / "process.json").read_text())
            process.append(psutil.Process(noted["pid"]))
            client.batches.cancel(job.id)
        return ended(client, job)()

    run(shared.config, finished)
    job, good, bad = accounted(client, job, {*names, None})
    assert job.status == "cancelled" and [one["custom_id"] for one in good] == names[:10]
    assert {one["error"]["code"] for one in bad} == {"batch_cancelled", "invalid_value"}
    assert not process[0].is_running()


def test_a_job_that_takes_too_long_expires_with_what_it_has(tmp_path: Path) -> None:
    """The clock is the store's."""
    with site(bulk_config(tmp_path / "jobs"), tmp_path) as made:
        client = made.client()
        job = start(
            client, upload(client, *(line(str(n), "hang" if n == 7 else "a") for n in range(8))), completion_window="2h"
        )
        batches = runner(made.config)

        def finished() -> bool:
            if (shown := client.batches.retrieve(job.id)).request_counts and shown.request_counts.completed == 5:
                batches._store.now = lambda: time.time() + 2 * 3600
            return ended(client, job)()

        run(made.config, finished, batches)
        job, good, bad = accounted(client, job, {str(number) for number in range(8)})
        assert job.status == "expired" and len(good) == 5
        assert {one["error"]["code"] for one in bad} == {"batch_expired"}


def test_a_build_that_dies_is_started_again_and_one_that_cannot_work_fails(shared: Site) -> None:
    client = shared.client()
    names = {str(number) for number in range(12)}
    job = start(client, upload(client, *(line(one, "kill" if one == "7" else "a row") for one in names)))
    run(shared.config, ended(client, job))
    job, good, _ = accounted(client, job, names)
    assert job.status == "completed" and len(good) == 12

    job = start(client, upload(client, line("a"), b"{"))
    broken = BatchRunner(shared.config, build=(sys.executable, "-c", "raise SystemExit(2)"), poll_seconds=0.02)
    run(shared.config, ended(client, job), broken)
    job, _, bad = accounted(client, job, {"a", None})
    assert job.status == "failed" and job.errors.data[0].code == "build_failed"
    assert {one["error"]["code"] for one in bad} == {"batch_failed", "invalid_json"}


def test_a_runner_that_is_killed_loses_no_line(shared: Site) -> None:
    """Killed once while its build works, which goes on alone, and once more after that was taken over."""
    client = shared.client()
    names = {f"row {number}" for number in range(30)}
    file = upload(client, *(line(one, "a slow row") for one in sorted(names)))
    job = start(client, file)
    folder = shared.store.job_folder(job.id)
    done: list[int] = []
    orphans: list[psutil.Process] = []
    for shards in (1, 3):
        with subprocess.Popen([sys.executable, str(HERE / "run_batches.py"), str(shared.store.root)]) as killed:
            wait_until(lambda shards=shards: len(list(folder.glob("work/out/manifests/*.json"))) >= shards)
            killed.send_signal(signal.SIGKILL)
        orphans.append(psutil.Process(json.loads((folder / "process.json").read_text())["pid"]))
        assert orphans[-1].is_running(), "the build outlives its runner: that is what the next one has to deal with"
        done.append(len(list(folder.glob("work/out/manifests/*.json"))))
    run(shared.config, ended(client, job))
    assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in orphans)
    job, good, _ = accounted(client, job, names)
    assert job.status == "completed" and len(good) == 30
    assert 0 < done[0] <= done[1] < 6, "killed too late: the test shows nothing"


def test_a_runner_that_stops_ends_its_build_and_the_next_goes_on(shared: Site) -> None:
    client = shared.client()
    job = start(client, upload(client, *(line(str(number), "a slow row") for number in range(15))))
    folder = shared.store.job_folder(job.id)
    run(shared.config, lambda: bool(list(folder.glob("work/out/manifests/*.json"))))
    noted = json.loads((folder / "process.json").read_text())
    assert not psutil.pid_exists(noted["pid"])
    assert client.batches.retrieve(job.id).status == "in_progress"
    run(shared.config, ended(client, job))
    assert accounted(client, job, {str(number) for number in range(15)})[0].status == "completed"


def test_two_runners_do_not_share_a_folder(shared: Site) -> None:
    """The second waits until the first has ended, as at a redeployment."""
    client = shared.client()

    async def both() -> None:
        first, second = runner(shared.config), runner(shared.config)
        first.start()
        await asyncio.sleep(0.1)
        second.start()
        job = start(client, upload(client, *(line(str(number), "a slow row") for number in range(10))))
        processes: set[int] = set()
        file = shared.store.job_folder(job.id) / "process.json"
        handed_over = False
        while not await asyncio.to_thread(ended(client, job)):
            await asyncio.sleep(0.01)
            if file.exists():
                processes.add(json.loads(file.read_text())["pid"])
            if processes and not handed_over:
                handed_over = True
                await first.stop()
        await second.stop()
        assert len(processes) == 2

    asyncio.run(both())


def test_another_process_of_the_same_number_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True) as other:
        (tmp_path / "process.json").write_text(json.dumps({"pid": other.pid, "started": "1", "host": "elsewhere"}))
        end_orphan(tmp_path / "process.json")
        assert other.poll() is None
        other.kill()
    assert not (tmp_path / "process.json").exists()


def test_old_files_and_jobs_are_swept(tmp_path: Path) -> None:
    config = BatchesConfig(folder=str(tmp_path), keep_days=2)
    now = 1_000_000.0
    store = BatchStore(config, lambda: now)

    def added(keep: float | None) -> str:
        upload = store.new_upload()
        (upload / "data").write_bytes(b"x")
        return store.add_file(upload, "ann", "a", "batch", keep).id

    soon, later = added(3600), added(None)
    job, running = (store.create_job("ann", later, "/v1/rewrite", "24h", None) for _ in range(2))
    store.save(replace(job, status="completed"))
    abandoned = store.new_upload()
    os.utime(abandoned, (now, now))
    now += 3600
    store.sweep()
    assert [one.id for one in store.files("ann")] == [later] and abandoned.exists()
    with pytest.raises(ApiError):
        store.file(soon, "ann")
    now += 48 * 3600
    store.sweep()
    assert not store.files("ann") and [one.id for one in store.jobs()] == [running.id]
    assert not any((tmp_path / "uploads").iterdir())


def test_a_server_without_a_folder_says_so(tmp_path: Path) -> None:
    config = bulk_config(tmp_path)
    off = replace(config, serving=replace(config.serving, batches=BatchesConfig()))
    with site(off, tmp_path) as made:
        for attempt in (lambda client: client.files.list(), lambda client: client.batches.list()):
            with pytest.raises(openai.NotFoundError, match="runs no bulk jobs"):
                attempt(made.client())
    with pytest.raises(ValueError, match=r"set serving\.batches.folder"):
        BatchRunner(off)
