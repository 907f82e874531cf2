"""A bucket beside this machine's disk: how fast shards are committed, and how fast a job knows what is left to do.

    python -m benchmarks.pipeline.store commits --actors 1 4 16 64
    python -m benchmarks.pipeline.store resume --manifests 10000 100000 1000000
    python -m benchmarks.pipeline.store build --samples 1000

The bucket is SeaweedFS on loopback, started for the run, and shares the CPU cores of this machine with the work. With
AWS_ENDPOINT_URL set, and --bucket, it is yours. Both stores are measured in the same run, in turns, because other users
of the machine slow both down; so the ratio counts, not the seconds.

**commits**: simulated actors, each a process that commits one made-up shard after the other (samples, quarantine, keys,
manifest: `ledger.commit_shard`) without a pause, which no real actor does. Disk, bucket, bucket, disk, --seconds each.

**resume**: an output of N finished shards, of which all are known to the index that a job writes
(`storage/input_index.py`), and one shard that is left. In a fresh process: list the manifests; then what a job does
before Ray gets that shard: take the lock or lease, list, sample manifests for their configuration, compare the input of
each shard. The input has already been listed (its listing costs as much as that of the manifests). `kB/shard` is what
the process's memory grew by. Filling a bucket with a million manifests takes a quarter of an hour.

**build**: `polite-flamingo build` with profiles/tiny.yaml, in and out of each store: the same shards of drawn scenes,
in turns. `samples/s` is what the job itself prints: rows per second of all its work, with the start of Ray.

The figures, with the machine and the command, go to --out as JSON; those of other modes that are there stay.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import psutil

from polite_flamingo.sample import Image, Quarantined, Sample, Turn
from polite_flamingo.storage import input_index
from polite_flamingo.storage.input_files import InputFile
from polite_flamingo.storage.ledger import Manifest, OutputLayout, commit_shard
from polite_flamingo.storage.location import Location, location
from polite_flamingo.storage.run_info import RunInfo, read_run, write_run
from polite_flamingo.storage.store import Entry
from polite_flamingo.testbed.s3_server import BUCKET, s3_server
from ray_jobs.demo import DemoConfig, prepare
from ray_jobs.resumable_job import ShardJob

Figures = dict[str, float]
IDENTITY = "simulation"


def main() -> None:
    """Parse the command line, measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    today = datetime.now(UTC).date().isoformat()
    parser.add_argument("--out", type=Path, default=Path(f"benchmarks/results/store-{today}.json"))
    parser.add_argument("--folder", type=Path, default=None, help="folder for temporary files (default: the system's)")
    parser.add_argument("--bucket", default="", help="such as s3://bucket/prefix (default: SeaweedFS on loopback)")
    modes = parser.add_subparsers(dest="mode", required=True)
    commits = modes.add_parser("commits", help="shards/s committed by simulated actors")
    commits.add_argument("--actors", type=int, nargs="+", default=[1, 4, 16, 64])
    commits.add_argument("--seconds", type=float, default=8.0, help="of each of the four measurements")
    commits.add_argument("--rows", type=int, default=100, help="samples per shard")
    commits.add_argument("--bytes", type=int, default=10_000, help="bytes of a sample's image")
    resume = modes.add_parser("resume", help="time and memory of a job before Ray gets what is left")
    resume.add_argument("--manifests", type=int, nargs="+", default=[10_000, 100_000])
    build = modes.add_parser("build", help="samples/s of a whole build with the tiny models")
    build.add_argument("--samples", type=int, default=1000, help="approximate number for each of seven datasets")
    build.add_argument("--turns", type=int, default=2, help="builds on each store")
    one = modes.add_parser("measure-resume", help="one measurement of resume, in its own process")
    one.add_argument("place")
    one.add_argument("count", type=int)
    options = parser.parse_args()
    if options.mode == "measure-resume":
        return print(json.dumps(resume_of(location(options.place), options.count)))
    with tempfile.TemporaryDirectory(prefix="store_", dir=options.folder) as made, bucket(options, Path(made)) as place:
        folder = location(Path(made) / "disk")
        run = {"commits": run_commits, "resume": run_resume, "build": run_build}[options.mode]
        table = run(options, folder, place)
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    results[options.mode] = {
        "command": f"python -m benchmarks.pipeline.store {' '.join(sys.argv[1:])}",
        "machine": f"{os.cpu_count()} CPU cores, {psutil.virtual_memory().total >> 30} GiB",
        "bucket": options.bucket or "SeaweedFS on loopback, on the same cores",
        "load": [round(load, 1) for load in os.getloadavg()],
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "table": table,
    }
    options.out.write_text(json.dumps(results, indent=1) + "\n")
    return None


@contextmanager
def bucket(options: argparse.Namespace, folder: Path) -> Iterator[Location]:
    """Yield a place in the bucket that nothing else uses, and empty it at the end if the bucket is not ours."""
    with nullcontext({}) if options.bucket else s3_server(folder / "server") as environment:
        os.environ.update(environment)
        place = location(options.bucket or f"s3://{BUCKET}") / f"benchmark-{random.randrange(10**9)}"
        yield place
        if options.bucket:
            place.delete_tree()


def row(figures: Mapping[str, float | str], header: bool) -> dict[str, float | str]:
    """Print one row of a table, and return it."""
    if header:
        print("  ".join(f"{name:>14}" for name in figures))
    shown = (f"{value:>14,.3g}" if isinstance(value, float) else f"{value:>14}" for value in figures.values())
    print("  ".join(shown), flush=True)
    return {name: float(f"{value:.3g}") if isinstance(value, float) else value for name, value in figures.items()}


def run_commits(options: argparse.Namespace, disk: Location, place: Location) -> list[dict[str, float | str]]:
    """Measure each number of actors on the disk and in the bucket."""
    table = []
    for count in options.actors:
        committed = {disk: 0.0, place: 0.0}
        for turn, root in enumerate((disk, place, place, disk)):
            committed[root] += commits_of(root / f"{count}-{turn}", count, options) / 2
            (root / f"{count}-{turn}").delete_tree()
        figures = {
            "actors": count, "disk, shards/s": committed[disk], "S3, shards/s": committed[place],
            "S3 / disk": committed[place] / committed[disk],
        }  # fmt: skip
        table.append(row(figures, not table))
    return table


def commits_of(root: Location, actors: int, options: argparse.Namespace) -> float:
    """Return the shards a second that some processes commit at the same time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    start, counted = context.Barrier(actors), context.Queue()
    root.store.head(root.key)  # actors are sent a store that has answered, as by a job
    arguments = (root, start, counted, options.seconds, options.rows, options.bytes)
    processes = [context.Process(target=act, args=(number, *arguments)) for number in range(actors)]
    for process in processes:
        process.start()
    rates = [counted.get(timeout=600) for _ in processes]
    for process in processes:
        process.join()
    for failed in (rate for rate in rates if isinstance(rate, Exception)):
        raise failed
    return float(sum(rates))


def act(number: int, root: Location, start: Any, counted: Any, seconds: float, rows: int, size: int) -> None:
    """Commit shards for some seconds; report how many a second, the last one included."""
    layout, made = OutputLayout(root=root), made_rows(rows, size)
    try:
        commit(layout, f"{number}-warm", made)
        start.wait()
        began, done = time.monotonic(), 0
        while time.monotonic() - began < seconds:
            commit(layout, f"{number}-{done}", made)
            done += 1
        counted.put(done / (time.monotonic() - began))
    except Exception as error:
        counted.put(error)
        start.abort()  # the others wait for this one


def commit(layout: OutputLayout, name: str, rows: list[Sample | Quarantined]) -> None:
    """Commit one shard."""

    def manifest(scored: int, quarantined: int) -> Manifest:
        return Manifest(shard=name, rows_in=len(rows), scored=scored, quarantined=quarantined, config_hash=IDENTITY)

    commit_shard(layout, name, rows, manifest)


def made_rows(count: int, size: int) -> list[Sample | Quarantined]:
    """Return samples with an image of random bytes, and one row that failed."""
    good = [
        Sample(
            key=f"made/{number}",
            dataset="made",
            task="captioning",
            turns=(Turn(instruction="<image>What is it?", response="a circle"),),
            images=(Image(extension="jpg", data=random.Random(number).randbytes(size)),),
        )
        for number in range(count - 1)
    ]
    return [*good, Quarantined(key="made/bad", shard="made", index=count, reason="rewriting_failed", detail="made")]


def run_resume(options: argparse.Namespace, disk: Location, place: Location) -> list[dict[str, float | str]]:
    """Measure each number of manifests on the disk and in the bucket."""
    table = []
    for count in sorted(options.manifests):
        for name, root in (("disk", disk), ("S3", place)):
            filling = timed(lambda root=root, count=count: fill(root / str(count), count))  # type: ignore[misc]
            figures = measured_apart(root / str(count), count)
            table.append(row({"manifests": count, "store": name, "filled in s": filling, **figures}, not table))
        for root in (disk, place):
            (root / str(count)).delete_tree()
    return table


def measured_apart(root: Location, count: int) -> Figures:
    """Return the figures of `resume_of` from a fresh process."""
    command = [sys.executable, "-m", "benchmarks.pipeline.store", "measure-resume", str(root), str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def resume_of(root: Location, count: int) -> Figures:
    """Return seconds and memory of a job's start on an output made by `fill`."""
    layout = OutputLayout(root=root)
    layout.run.head()  # the first request makes the connection
    peak()
    before = peak()
    shards = inputs(root, count)
    listing = timed(layout.finished)

    def resume() -> None:
        job = ShardJob(layout=layout, identity=IDENTITY, models={}, config="")
        with redirect_stdout(sys.stderr), job.locked():
            assert list(job.left_to_do(shards)) == [f"s{count - 1:07d}"]

    with mock.patch("ray_jobs.resumable_job.refuse_foreign"):  # the shard that is left has no bytes
        seconds = timed(resume)
    return {"listing s": listing, "resume s": seconds, "kB/shard": (peak() - before) / count}


def run_build(options: argparse.Namespace, disk: Location, place: Location) -> list[dict[str, float | str]]:
    """Build the same shards on the disk and in the bucket, in turns."""
    prepared = DemoConfig(out=str(disk), samples=options.samples, samples_per_shard=100)
    prepare(prepared, disk)
    for path in (disk / "ingested").path.glob("*.tar"):
        (place / "ingested" / path.name).put(path.read_bytes())
    table, rates = [], {disk: [], place: []}  # type: ignore[var-annotated]
    for turn in range(options.turns):
        for root in (disk, place) if turn % 2 == 0 else (place, disk):
            out = root / f"built-{turn}"
            command = [sys.executable, "-m", "ray_jobs.build_pf1m", "--profile", "profiles/tiny.yaml"]
            subprocess.run([*command, "--input", str(root / "ingested"), "--out", str(out)], check=True)
            run = read_run(OutputLayout(root=out))
            assert run is not None
            rates[root].append(run.rows_per_second)
            store = "disk" if root == disk else "S3"
            table.append(row({"turn": turn, "store": store, "rows": run.rows, "samples/s": run.rows_per_second}, True))
            out.delete_tree()
    medians = {"disk, samples/s": median(rates[disk]), "S3, samples/s": median(rates[place])}
    table.append(row({**medians, "S3 / disk": medians["S3, samples/s"] / medians["disk, samples/s"]}, True))
    return table


def peak() -> int:
    """Return the highest memory of this process in kB since the last call."""
    lines = Path("/proc/self/status").read_text().splitlines()
    Path("/proc/self/clear_refs").write_text("5")
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def fill(root: Location, count: int) -> None:
    """Make an output of which one shard is left to do."""
    layout, shards = OutputLayout(root=root), inputs(root, count)
    finished = {name: place for name, place in shards.items() if name != f"s{count - 1:07d}"}
    if root.local is not None:
        (root / "in").path.mkdir(parents=True)
        for place in shards.values():
            place.path.touch()
    made = {name: InputFile.at(place) for name, place in finished.items()}

    def put(name: str) -> None:
        manifest = Manifest(
            shard=str(shards[name]), rows_in=1000, scored=999, quarantined=1, config_hash=IDENTITY, input=made[name]
        )
        if root.local is None:
            layout.manifest(name).put(manifest.to_json())
        else:
            layout.manifest(name).path.write_text(manifest.to_json())  # without a sync

    if root.local is not None:
        layout.manifest("").parent.path.mkdir()
    with ThreadPoolExecutor(32) as pool:
        for _ in pool.map(put, finished):
            pass
    write_run(
        layout,
        RunInfo(
            title="", command="", started="2026-01-01T00:00:00+00:00", config_hash=IDENTITY, models=(), versions={},
            config="",
        ),
    )  # fmt: skip

    def known(_: OutputLayout, tags: Mapping[str, str]) -> Iterator[tuple[str, InputFile]]:
        return ((name, made[name]) for name in tags)

    with mock.patch.object(input_index, "_read", known):  # what it would read from the manifests
        input_index.extend_index(layout)


def inputs(root: Location, count: int) -> dict[str, Location]:
    """Return the input as a listing gives it. In a bucket nothing looks at the objects, and there are none."""
    names = (f"s{number:07d}" for number in range(count))
    if root.local is not None:
        return {name: root / "in" / f"{name}.tar" for name in names}
    store, folder = root.store, f"{root.key}/in"
    return {
        name: Location(store, key, Entry(key=key, size=1 << 20, tag=name))
        for name in names
        for key in [f"{folder}/{name}.tar"]
    }


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that some work takes."""
    began = time.monotonic()
    work()
    return time.monotonic() - began


if __name__ == "__main__":
    main()
