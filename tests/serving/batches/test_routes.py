"""Bulk jobs as a user of the official client has them: upload, start, wait, download; and what others may not see.

The service is real, on a port; the build is `tiny_build.py`, in a process of its own.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from serving.batches.runner import BatchRunner
from serving.batches.store import BatchStore, JobLost
from serving.config import BatchesConfig
from serving.errors import ApiError
from tests.support.bulk_site import Site, accounted, ended, line, read, run, site, start, upload
from tests.support.rewriting_service import data_url, png
from tests.support.run_batches import bulk_config


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
    run(shared.config, lambda: job.id not in shared.store.queue())
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
    left = {name for name in shared.store.job_folder(job.id).names() if name.startswith("work")}
    assert not left, "the work is done and its files are gone"
    root = shared.store.root.local
    assert root and root.stat().st_mode & 0o777 == 0o700, "others on this machine must not read what clients sent"
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
    with pytest.raises(openai.ConflictError, match="cannot be cancelled"):
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
        ({"expires_after": {"anchor": "created_at", "seconds": 0}}, "positive number of seconds"),
        ({"file": ("a", '{"custom_id": "a"}'.encode("utf-16"))}, "UTF-16, not UTF-8: convert it first"),
        ({"file": ("a", gzip.compress(b"{}"))}, "it is compressed; decompress it first"),
    ],
)
def test_an_upload_that_does_not_fit_leaves_nothing(shared: Site, change: dict[str, Any], says: str) -> None:
    before = {*(shared.store.root / "files").names(), *(shared.store.root / "uploads").names()}
    with pytest.raises(openai.APIStatusError, match=says):
        upload(shared.client(), line("a"), **change)
    assert {*(shared.store.root / "files").names(), *(shared.store.root / "uploads").names()} == before


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
        with pytest.raises(openai.RateLimitError, match=r"the limit is 2 \(serving\.batches\.waiting\)"):
            start(ann, first)
        ann.files.delete(first.id)
        upload(ann, b"x" * 1000)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"endpoint": "/v1/chat/completions"}, "is not available for batches; use '/v1/rewrite'"),
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


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where files and jobs are."""
    return str(tmp_path / "jobs") if request.param == "folder" else str(request.getfixturevalue("bucket"))


def test_old_files_and_jobs_are_swept(place: str) -> None:
    config = BatchesConfig(folder=place, keep_days=2)
    now = 1_000_000.0
    store = BatchStore(config, lambda: now)

    def added(keep: float | None) -> str:
        identity = store.new_file()
        store.data(identity).put(b"x")
        return store.add_file(identity, "ann", "a", "batch", keep).id

    soon, later = added(3600), added(None)
    job, running = (store.create_job("ann", later, "/v1/rewrite", "24h", None) for _ in range(2))
    held = store.take(job.id)
    assert held
    held.change(status="completed")
    store.close(held.job)
    abandoned = store.new_file()
    store.data(abandoned).put(b"x")
    (store.root / "uploads" / ("file-" + "0" * 32) / "data").put(b"of an earlier version")
    now += 3600
    store.sweep()
    assert [one.id for one in store.files("ann")] == [later] and store.data(abandoned).head()
    with pytest.raises(ApiError):
        store.file(soon, "ann")
    now += 48 * 3600
    store.sweep()
    assert not store.files("ann") and [one.id for one in store.jobs()] == [running.id]
    assert store.queue() == [running.id]
    assert not (store.root / "uploads").names() and not (store.root / "files").names()


def test_a_runner_whose_job_was_taken_can_change_nothing(place: str) -> None:
    store, other = BatchStore(BatchesConfig(folder=place)), BatchStore(BatchesConfig(folder=place))
    file = store.new_file()
    store.data(file).put(b"x")
    store.add_file(file, "ann", "a", "batch")
    job = store.create_job("ann", file, "/v1/rewrite", "24h", None)
    first = store.take(job.id)
    assert first
    first.change(status="in_progress")
    second = other.take(job.id)
    assert second and second.job.status == "in_progress"
    with pytest.raises(JobLost):
        first.change(status="failed")
    second.change(status="completed")
    with pytest.raises(JobLost):
        first.change(status="failed")
    assert store.job(job.id, "ann").status == "completed" and store.take(job.id) is None and not store.queue()


def test_servers_without_a_common_disk_answer_alike(place: str, tmp_path: Path) -> None:
    """What one ingress replica was told, every other knows; only the store has it."""
    with site(bulk_config(place), tmp_path) as first, site(bulk_config(place), tmp_path, first) as second:
        here, there = first.client(), second.client()
        file = upload(here, line("a"), line("b"))
        assert there.files.retrieve(file.id) == file
        assert there.files.content(file.id).read() == b"\n".join([line("a").encode(), line("b").encode()])
        job = start(there, file)
        assert here.batches.retrieve(job.id) == job
        assert [one.id for one in here.batches.list()] == [job.id]
        assert here.batches.cancel(job.id).status == "cancelling"
        assert there.batches.retrieve(job.id).cancelling_at
        there.files.delete(file.id)
        with pytest.raises(openai.NotFoundError):
            here.files.retrieve(file.id)


def test_a_store_out_of_reach_is_said(s3: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    with site(bulk_config("s3://no-such-bucket/jobs"), tmp_path) as made:
        with pytest.raises(openai.InternalServerError, match="out of reach; try again later") as refused:
            made.client().files.list()
        assert refused.value.status_code == 503


def test_a_server_without_a_folder_says_so(tmp_path: Path) -> None:
    config = bulk_config(tmp_path)
    off = replace(config, serving=replace(config.serving, batches=BatchesConfig()))
    with site(off, tmp_path) as made:
        for attempt in (lambda client: client.files.list(), lambda client: client.batches.list()):
            with pytest.raises(openai.NotFoundError, match="bulk jobs are turned off"):
                attempt(made.client())
    with pytest.raises(ValueError, match=r"set serving\.batches.folder"):
        BatchRunner(off)
