"""Rewriting four ways: the reference's loop, batched `generate`, the engine, and the job on Ray.

    python -m benchmarks.pipeline.rewriting --profile profiles/tiny.yaml [--samples 600] [--ray-samples 4000] [--runs 5]

Samples are generated from Shapes with a seed and ingested by the ordinary adapters: captions with boxes, classes with
knowledge, pairs of images, and one to ten questions per picture, as in the VQA sets. All contestants rewrite the same
samples greedily, with the same weights:

    (a) reference loop      one sample at a time through open_flamingo and transformers' `generate`, on some of them
    (b) batched generate    sorted by length, with the best of several batch sizes
    (c) engine              `Rewriter.rewrite`, with one engine per thread
    (d) Ray                 `build_pf1m` with a scoring actor that does nothing and one rewriting actor per core; on
                            more samples, in shards, compared with the engine on the same ones (see `on_ray.py`)

Runs take turns, so a machine that slows down does so for all; medians are printed. (a) to (c) use `--threads` torch
threads in one process, (d) what the profile gives each actor. Memory is the peak USS of a contestant and its children,
including models and Ray. Then each optimisation of the engine is switched off in turn; the ratio is the median over the
rounds of the time without it to the time of the whole engine. All texts are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

from benchmarks.pipeline.ingest import held
from polite_flamingo.ingest.ingest import IngestConfig, ingest
from polite_flamingo.sample import Sample
from polite_flamingo.storage.discovery import shard_names
from polite_flamingo.storage.shards import read_shard, write_shard
from polite_flamingo.testbed.shapes import write

BATCHES = (8, 16, 32, 64)
DTYPES = ("float32", "bfloat16")
ALL = "(c) engine, the samples of (d)"
SWITCHES = (
    "bfloat16 rather than float32",
    "one engine per core",
    "compiled kernels",
    "freed slots refilled before the rest",
    "prefix cache",
    "image cache",
    "image keys and values computed once",
)


def main() -> None:
    """Generate samples, start the contestants, let them take turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="profiles/tiny.yaml")
    parser.add_argument("--samples", type=int, default=600, help="approximate number of samples (%(default)s)")
    parser.add_argument(
        "--ray-samples", type=int, default=4000, help="approximate number of samples for (d) (%(default)s)"
    )
    parser.add_argument("--rows-per-shard", type=int, default=250, help="rows per shard for (d) (%(default)s)")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--every", type=int, default=8, help="(a) rewrites every n-th sample (%(default)s)")
    parser.add_argument("--without-ray", action="store_true", help="skip (d)")
    parser.add_argument("--log", type=Path, default=None, help="file for the output of the contestants")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="benchmark_rewriting_") as made:
        root = Path(made)
        print_head(options)
        generate_samples(root / "shards", options.samples if options.without_ray else options.ray_samples)
        rows = compete(options, root)
        print_table(options, rows, texts(root))


def compete(options: argparse.Namespace, root: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the results of each row of the table, run by run."""
    names = ["reference", "batched", "engine"] + ([] if options.without_ray else ["ray"])
    contestants = {name: Contestant(name, options, root) for name in names}
    part = 1 if options.without_ray else max(1, round(options.ray_samples / options.samples))
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    try:
        alone = best(
            contestants["reference"], "(a)", [{"dtype": dtype, "every": options.every * part} for dtype in DTYPES]
        )
        batched = best(
            contestants["batched"],
            "(b)",
            [{"dtype": dtype, "batch": batch, "every": part} for dtype in DTYPES for batch in BATCHES],
        )
        plan: list[tuple[str, str, dict[str, Any]]] = [
            ("(a) reference loop", "reference", alone),
            (f"(b) batched generate, {batched['batch']}", "batched", batched),
            ("(c) engine", "engine", {"every": part}),
            *((f"without {name}", "engine", {"without": name, "every": part}) for name in SWITCHES[1:]),
            (f"without {SWITCHES[0]}", "engine", {"dtype": "float32", "every": part}),
        ]
        if not options.without_ray:
            plan.append((ALL, "engine", {}))
            plan.append(("(d) Ray, one actor per core", "ray", {"rows_per_shard": options.rows_per_shard}))
        for number in range(options.runs):
            for label, name, wanted in plan:
                rows[label].append(contestants[name].run(label, **wanted))
            print(f"  round {number + 1} of {options.runs} done", file=sys.stderr, flush=True)
    finally:
        for contestant in contestants.values():
            contestant.end()
    return rows


def best(contestant: Contestant, label: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the fastest of these settings, after one run of each."""
    rates = []
    for wanted in choices:
        one = contestant.run("search", **wanted)
        rates.append(one["samples"] / one["seconds"])
    tried = "; ".join(
        f"{', '.join(map(str, wanted.values()))}: {rate:.2f}" for wanted, rate in zip(choices, rates, strict=True)
    )
    print(f"settings of {label}, samples/s in one run ({', '.join(choices[0])}): {tried}", flush=True)
    return choices[rates.index(max(rates))]


class Contestant:
    """A process of `benchmarks.pipeline.rewriters`; its memory is measured while it runs."""

    def __init__(self, name: str, options: argparse.Namespace, root: Path):
        self._out = root / name
        self._out.mkdir()
        command = [
            sys.executable, "-m", "benchmarks.pipeline.rewriters", "--contestant", name, "--profile", options.profile,
            "--shards", str(root / "shards"), "--out", str(self._out), "--threads", str(options.threads),
        ]  # fmt: skip
        log = (options.log or root / "log").open("a")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            env=os.environ | {"TOKENIZERS_PARALLELISM": "false"},
        )  # fmt: skip
        self._log = Path(log.name)
        self._answer()

    def run(self, label: str, **wanted: Any) -> dict[str, Any]:
        """Do one run; return the process's answer and `peak`."""
        stop, used = threading.Event(), [held(self._process.pid)]

        def watch() -> None:
            while not stop.wait(0.2):
                used.append(held(self._process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"name": label, **wanted}) + "\n")
        self._process.stdin.flush()
        try:
            return self._answer() | {"peak": max(used)}
        finally:
            stop.set()
            watcher.join()

    def end(self) -> None:
        """Close its stdin and wait for the end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("RESULT "):
                return json.loads(line.removeprefix("RESULT "))
        sys.exit(f"a contestant ended: {self._log.read_text()[-3000:]}")


def generate_samples(folder: Path, wanted: int) -> None:
    """Write a shard for each dataset, with about `wanted` samples in all."""
    rng = random.Random(0)
    raw, ingested = folder.parent / "raw", folder.parent / "ingested"
    each = max(9, round(wanted / 5.1))  # seven datasets, one a third as large, minus dropped questions
    with mock.patch.object(write, "QUESTIONS_PER_SCENE", 10):
        sources = write.write_raw(raw, samples=each, seed=0, damage=False)
    for source, options in sources.items():
        ingest(IngestConfig(source=source, options=options, out=ingested, fresh=True))
    for name, path in shard_names(str(ingested)).items():
        samples = [row for row in read_shard(path) if isinstance(row, Sample)]
        chosen = one_to_ten_questions(samples, rng)
        write_shard(folder / f"{name}.tar", chosen)


def one_to_ten_questions(samples: list[Sample], rng: random.Random) -> list[Sample]:
    """Choose one to ten questions per picture, uniformly; repeat questions if there are too few."""
    pictures: dict[tuple[bytes, ...], list[Sample]] = {}
    for sample in samples:
        pictures.setdefault(tuple(image.data for image in sample.images), []).append(sample)
    chosen = []
    for group in pictures.values():
        if not group[0].task.startswith("vqa"):
            chosen += group
            continue
        for number in range(rng.randint(1, 10)):
            again, place = divmod(number, len(group))
            key = group[place].key + (f"-again{again}" if again else "")
            chosen.append(replace(group[place], key=key))
    return chosen


def texts(root: Path) -> dict[str, dict[str, str]]:
    """Read the texts of the last run, by label and key."""
    return {path.stem: json.loads(path.read_text()) for path in root.glob("*/*.json")}


def print_head(options: argparse.Namespace) -> None:
    """Print the machine, the libraries, the command and the load."""
    described = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.split(":")[1].strip() for line in described if "model name" in line), "")
    memory = psutil.virtual_memory().total >> 30
    print(f"{os.cpu_count()} CPU cores ({cpu or platform.machine()}), {memory} GiB; load {os.getloadavg()[0]:.1f}")
    print(", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "open-flamingo", "ray")))
    print(f"python -m benchmarks.pipeline.rewriting {shlex.join(sys.argv[1:])}   ({time.strftime('%Y-%m-%d')})")
    print(f"{options.runs} runs, {options.threads} threads")


def print_table(
    options: argparse.Namespace, rows: dict[str, list[dict[str, Any]]], written: dict[str, dict[str, str]]
) -> None:
    """Print the contestants, the switches, and how many texts differ."""
    engine = "(c) engine"
    like = ALL if ALL in rows else engine
    length = rows[like][0]["tokens"] / rows[like][0]["samples"]
    rates = {label: statistics.median(one["samples"] / one["seconds"] for one in runs) for label, runs in rows.items()}
    slow, batched = list(rates.values())[:2]
    print(
        f"\n{'':<32}{'samples':>8}{'samples/s':>10}{'tokens/s':>10}{'peak MB':>9}{'× (a)':>8}{'× (b)':>8}{'× (c)':>8}"
    )
    for label, runs in rows.items():
        if not label.startswith("without"):
            rate, each = rates[label], (runs[0]["tokens"] / runs[0]["samples"] or length)
            peak = statistics.median(one["peak"] for one in runs) / 2**20
            beside = rows[like if label.startswith("(d)") else engine]  # same rounds, same samples
            ratio = statistics.median(
                (one["samples"] / one["seconds"]) / (other["samples"] / other["seconds"])
                for one, other in zip(runs, beside, strict=True)
            )
            print(
                f"{label:<32}{runs[0]['samples']:>8}{rate:>10.2f}{rate * each:>10.0f}{peak:>9.0f}"
                f"{rate / slow:>8.2f}{rate / batched:>8.2f}{ratio:>8.2f}"
            )
    print(f"\n{'optimisation of the engine':<40}{'× with it':>10}   lowest and highest of the rounds")
    for name in SWITCHES:
        ratios = [off["seconds"] / on["seconds"] for off, on in zip(rows[f"without {name}"], rows[engine], strict=True)]
        print(f"{name:<40}{statistics.median(ratios):>10.2f}   {min(ratios):.2f} to {max(ratios):.2f}")
    reference = written[like]
    for label, found in sorted(written.items()):
        other = sum(text != reference[key] for key, text in found.items())
        if other:
            print(f"{label}: {other} of {len(found)} texts differ from the engine's")
    print(f"all other texts are equal; {length:.1f} generated tokens per sample")


if __name__ == "__main__":
    main()
