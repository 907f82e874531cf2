"""Ingest on Ray gives what it gives in one process, and killing a worker or the driver does not change that."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

from polite_flamingo.ingest.ingest import IngestConfig, Ingested, ingest, ingest_all
from polite_flamingo.sources.records.source import SourceOptions
from polite_flamingo.storage.discovery import shard_names
from ray_jobs.ingest import OnRay

PARTS = 12


@pytest.fixture
def raw(tmp_path: Path) -> SourceOptions:
    (tmp_path / "images").mkdir()
    for number in range(0, 10 * PARTS, 2):  # every second one is missing
        Pillow.new("RGB", (9, 9), (number, 0, 0)).save(tmp_path / f"images/{number}.png")
    questions = [
        {"question_index": n, "question": f"Is it {n}?", "answer": "yes", "image_filename": f"{n}.png", "split": "val"}
        for n in range(10 * PARTS)
    ]
    (tmp_path / "q.json").write_text(json.dumps({"questions": questions}))
    return SourceOptions(annotations=(tmp_path / "q.json",), images=tmp_path / "images")


def config(raw: SourceOptions, out: Path) -> IngestConfig:
    return IngestConfig(source="clevr", options=raw, out=out, samples_per_shard=10)


def outcome(result: Ingested) -> tuple[Any, ...]:
    assert result.quarantine is not None
    names = [path.name for path in result.shards]
    return result.rows_in, names, [path.read_bytes() for path in result.shards], result.quarantine.read_bytes()


def build_or_die(job: Any) -> str:
    """In a worker: the job after next kills its process once, with its shard half written."""
    from polite_flamingo.ingest.ingest import _build_or_error

    found, number, _ = job
    once = found.place.path / f"died-{number}"
    if number in (2, 7) and not once.exists():
        once.touch()
        (found.place / f"clevr-{number:05d}.tar").put(b"half a shard")
        os.kill(os.getpid(), signal.SIGKILL)
    return _build_or_error(job)


@pytest.mark.ray
def test_on_ray_it_is_the_same_also_when_workers_are_killed(
    raw: SourceOptions, tmp_path: Path, ray_session: None
) -> None:
    alone = ingest(config(raw, tmp_path / "alone"))
    assert (alone.rows_in, alone.written, alone.quarantined) == (10 * PARTS, 5 * PARTS, 5 * PARTS)
    with OnRay() as ray:
        together = ingest_all([config(raw, tmp_path / "ray")], spread=ray)[0]
        assert outcome(together) == outcome(alone)
        killed = ingest_all([config(raw, tmp_path / "killed")], spread=lambda function, jobs: ray(build_or_die, jobs))[
            0
        ]
    assert len(list((tmp_path / "killed").glob("died-*"))) == 2
    assert outcome(killed) == outcome(alone)


def test_a_killed_driver_loses_nothing(raw: SourceOptions, tmp_path: Path) -> None:
    alone = ingest(config(raw, tmp_path / "alone"))
    out = tmp_path / "out"
    command = [
        sys.executable, "-m", "ray_jobs.ingest", "--local", "--source", "clevr", "--samples_per_shard", "10",
        "--annotations", str(raw.annotations[0]), "--images", str(raw.images), "--out", str(out),
    ]  # fmt: skip
    for parts in (3, 6, 9):  # killed again and again, a little further each time
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while len(list(out.glob("ingest/clevr/*.built"))) < parts and process.poll() is None:
                time.sleep(0.001)
            process.kill()
        if not (out / "ingest/clevr.json").exists():
            with pytest.raises(ValueError, match=r"no \.tar shard"):
                shard_names(str(out))
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert outcome(ingest(config(raw, out))) == outcome(alone)
