"""Time what a job does before it starts Ray, on a folder of a million input shards, manifests and key files.

The input tars are empty. `--before` also measures earlier versions of the job, which asked the file system about each
shard and read every manifest. The last step is all of `build_pf1m.build` up to the moment when the remaining shard goes
to Ray. `scale.py` is the command.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.pipeline.simulated_build import simulated_job
from benchmarks.pipeline.stand_ins import StandIn
from polite_flamingo.storage.discovery import shard_names
from polite_flamingo.storage.input_files import InputFile
from polite_flamingo.storage.input_index import extend_index, finished_tags
from polite_flamingo.storage.ledger import (
    Manifest,
    OutputLayout,
    read_manifest,
)
from polite_flamingo.storage.run_info import RunInfo, write_run
from ray_jobs import build_pf1m
from ray_jobs.build_pf1m import BuildConfig


def run_ledger(options: argparse.Namespace) -> None:
    """Print the table of `ledger`."""
    with tempfile.TemporaryDirectory(prefix="scale_", dir=options.folder) as made:
        layout = OutputLayout(root=Path(made) / "out")
        source = Path(made) / "in"
        started = time.monotonic()
        fill(layout, source, options.manifests)
        print(f"{options.manifests:,} tars, manifests and key files made in {time.monotonic() - started:.0f} s")
        print(f"{'step':<46} seconds    CPU" + (" before    CPU" if options.before else ""))
        timed = partial(time_of, options.before)
        shards = timed("input shards (shard_names)", lambda: shard_names(str(source)), lambda: old_names(source))
        finished = timed("finished()", layout.finished, lambda: old_finished(layout))
        assert len(finished) == options.manifests - 1
        left = timed(
            "what is left to do (finished_tags)",
            lambda: shards.keys() - finished_tags(layout).keys(),
            lambda: {name for name in shards if not layout.manifest(name).exists()},
        )
        assert len(left) == 1
        timed(
            "same configuration?",
            simulated_job(layout).refuse_other_configuration,
            lambda: [read_manifest(layout.manifest(name)).config_hash for name in finished],
        )
        done, tags = {name: shards[name] for name in finished}, finished_tags(layout)
        timed("same input?", lambda: simulated_job(layout).refuse_changed_input(done, tags))
        timed("remove what killed writers left (sweep)", layout.sweep, lambda: list(layout.root.path.rglob("*.tmp-*")))
        timed("write the index of inputs (extend_index)", lambda: extend_index(layout))
        timed("same input, with the index?", lambda: simulated_job(layout).refuse_changed_input(done, tags))
        timed("build(), until Ray gets the shard that is left", lambda: resume(source, layout))
        print(f"peak memory of the process: {peak() / (1 << 20):,.0f} MB")


class Resumed(Exception):
    """Raised at the point where Ray would start."""


def resume(source: Path, layout: OutputLayout) -> None:
    """Run `build` with given fingerprints of the models, up to the start of Ray."""
    config = BuildConfig(
        input=str(source),
        out=str(layout.root),
        rewriter=StandIn(),  # type: ignore[arg-type]
        scoring=StandIn(),  # type: ignore[arg-type]
    )
    with (
        mock.patch.object(build_pf1m, "identify", return_value=("simulation", {})),
        mock.patch.object(build_pf1m, "running_ray", side_effect=Resumed),
        suppress(Resumed),
    ):
        build_pf1m.build(config)
        raise AssertionError("there was a shard to do")


def fill(layout: OutputLayout, source: Path, count: int) -> None:
    """Make inputs, manifests and key files; one shard is left to do."""
    manifest = Manifest(shard="in/s.tar", rows_in=1000, scored=999, quarantined=1, config_hash="simulation")
    run = RunInfo(
        title="", command="", started="2026-01-01T00:00:00+00:00", config_hash="simulation", models=(), versions={},
        config="",
    )  # fmt: skip
    write_run(layout, run)
    source.mkdir()
    folder = layout.root.path / "manifests"
    folder.mkdir()
    for number in range(count):
        path = source / f"s{number:07d}.tar"
        path.touch()
        if number < count - 1:
            record = asdict(replace(manifest, input=InputFile.at(path)))
            (folder / f"s{number:07d}.json").write_text(json.dumps(record, indent=1))


def old_names(source: Path) -> dict[str, Path]:
    """Return the shards as earlier versions of `shard_names` did."""
    found = sorted(source.rglob("*.tar"))
    return {"__".join(path.relative_to(source).with_suffix("").parts): path for path in found}


def old_finished(layout: OutputLayout) -> list[str]:
    """Return the finished shards as earlier versions of `finished` did."""
    return sorted(path.stem for path in (layout.root.path / "manifests").glob("*.json"))


def time_of(both: bool, step: str, now: Callable[[], Any], before: Callable[[], Any] | None = None) -> Any:
    """Run a step, and its earlier version if `both`; print seconds and CPU seconds; return the result of the first."""
    line = f"{step:<46}"
    found = None
    for run in (now, before)[: 1 + (both and before is not None)]:
        assert run is not None
        started, cpu = time.monotonic(), time.process_time()
        result = run()
        line += f" {time.monotonic() - started:>7.2f} {time.process_time() - cpu:>6.2f}"
        found = result if run is now else found
    print(line, flush=True)
    return found


def peak() -> int:
    """Return this process's peak memory in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
