"""The scorer beside the reference's functions, which take one sample at a time.

    python -m benchmarks.pipeline.scoring --profile profiles/tiny.yaml [--samples 512] [--runs 5]

All score the same rewritten samples with the same weights, in turns, each in its own processes:

    reference   the functions of the reference's readme, unchanged in structure: `rouge_score`; for a reward one
                `tokenizer(question, answer)` and one forward pass; `CrossEncoder.predict` of one pair;
                `SentenceTransformer.encode` of each text; for CLIPScore, each paragraph transforms and encodes the
                image, then encodes sentence after sentence. Gradients are off; an image is decoded once.
                With one torch thread, and with one per core.
    ours        `Scorer.score`, called as the actor calls it, with `--call` rows at once. In one process with one
                thread, in one process with a thread per core, and in one process per core with one thread each, which
                share the samples like the job's actors. They start together, and the time ends with the last.

Samples are generated from Shapes (seeded), with the tasks in PF-1M's proportions and texts of the tiny models' teacher
instead of the rewriter's. Each has its own picture; sharing pictures would save no work, since questions are scored
without them. Times are medians. A difference is the largest of any number; ours are rounded to the four decimals that
are stored. Peak memory comes on top of the loaded models. The table of optimisations switches off one at a time, in one
process with one thread, and compares CPU time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from benchmarks.pipeline.scorers import FILTERS_TIMED, PROPORTIONS, SWITCHES, Run, contest, shapes_samples
from polite_flamingo.filters.scorer import ScoringConfig
from polite_flamingo.filters.thresholds import FILTERS_OF_TASK
from polite_flamingo.sample import Sample

FORMER_CALL = 32
"""Rows per call in earlier versions, for comparison."""


def main() -> None:
    """Generate samples, run the contestants in turns, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", type=Path, default=Path("profiles/tiny.yaml"))
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--call", type=int, default=0, help="rows per call of ours (default: the profile's)")
    parser.add_argument("--without-switches", action="store_true", help="skip the table of optimisations")
    options = parser.parse_args()
    profile = yaml.safe_load(options.profile.read_text())
    call, cores = options.call or rows_per_call(profile), os.cpu_count() or 1
    config = ScoringConfig(**{**profile["scoring"], "threads": 1})
    samples = shapes_samples(options.samples)
    print_head(samples, config, call, cores)
    reference = Process(config, "reference")
    ours = [Process(config, "ours") for _ in range(cores)]
    plan: dict[str, Callable[[], Run]] = {
        "reference, 1 thread": lambda: together([reference], samples, threads=1),
        f"reference, {cores} threads": lambda: together([reference], samples, threads=cores),
        "ours, 1 thread": lambda: together(ours[:1], samples, threads=1, call=call),
        f"ours, {cores} threads": lambda: together(ours[:1], samples, threads=cores, call=call),
        f"ours, {cores} processes": lambda: together(ours, samples, threads=1, call=call),
    }
    switches = {} if options.without_switches else SWITCHES
    for name in switches:
        plan[name] = partial(together, ours[:1], samples, threads=1, call=call, without=name)
    if not options.without_switches:
        plan[CALLS] = lambda: together(ours[:1], samples, threads=1, call=FORMER_CALL)
    runs: dict[str, list[Run]] = defaultdict(list)
    for number in range(options.runs):
        for name, run in plan.items():
            runs[name].append(run())
        print(f"  round {number + 1} of {options.runs} done", file=sys.stderr, flush=True)
    report(samples, runs, cores)
    if not options.without_switches:
        report_switches(runs, [*switches, CALLS])
    ceiling, flops = together(ours[:1], samples, threads=1, call=call, count=True).counted
    bound(samples, runs, ceiling, flops)
    for process in (reference, *ours):
        process.end()


CALLS = f"calls of more than {FORMER_CALL} rows"


def print_head(samples: Sequence[Sample], config: ScoringConfig, call: int, cores: int) -> None:
    """Print the command, the machine and the samples."""
    import torch

    print(f"python -m benchmarks.pipeline.scoring {' '.join(sys.argv[1:])}   ({time.strftime('%Y-%m-%d')})")
    print(
        f"{cores} CPU cores, load {os.getloadavg()[0]:.1f}; torch {torch.__version__}, Python {sys.version.split()[0]}"
    )
    tasks = ", ".join(f"{sum(s.task == task for s in samples)} {task}" for task in PROPORTIONS)
    print(f"{len(samples)} samples ({tasks}); ours in calls of {call} rows", flush=True)


class Process:
    """A contestant in its own process, which loads models on first use."""

    def __init__(self, config: ScoringConfig, name: str):
        context = multiprocessing.get_context("spawn")
        self.pipe, inside = context.Pipe()
        self._process = context.Process(target=contest, args=(config, name, inside), daemon=True)
        self._process.start()

    def end(self) -> None:
        """End the process."""
        self.pipe.send(None)
        self._process.join(timeout=60)


def together(processes: Sequence[Process], samples: Sequence[Sample], **options: Any) -> Run:
    """Let all processes score their shares of the samples at the same time."""
    count = len(processes)
    for number, process in enumerate(processes):
        process.pipe.send((samples[number::count], options))
    for process in processes:
        process.pipe.recv()
    started = time.perf_counter()
    for process in processes:
        process.pipe.send("go")
    runs: list[Run] = [process.pipe.recv() for process in processes]
    seconds = {part: statistics.mean(run.seconds[part] for run in runs) for part in FILTERS_TIMED}
    scores: list[Any] = [None] * len(samples)
    for number, run in enumerate(runs):
        scores[number::count] = run.scores
    return Run(
        scores=scores, seconds={**seconds, "all": time.perf_counter() - started}, cpu=sum(run.cpu for run in runs),
        peak=sum(run.peak for run in runs), counted=runs[0].counted,
    )  # fmt: skip


def report(samples: Sequence[Sample], runs: dict[str, list[Run]], cores: int) -> None:
    """Print the table of filters, then the table of contestants."""
    contestants = [name for name in runs if name.startswith(("reference", "ours"))]
    median = {
        name: {part: statistics.median(run.seconds[part] for run in runs[name]) for part in runs[name][0].seconds}
        for name in contestants
    }
    slow, slow_many, one, _, many = contestants
    best = min((slow, slow_many), key=lambda name: median[name]["all"])
    differences = largest_differences(runs[slow][-1].scores, runs[many][-1].scores)
    print(f"\nms a sample; on {cores} cores: {best} and {many}")
    print("                       one core, one thread              all cores            largest")
    print("filter      samples  reference    ours   ratio  reference    ours   ratio  difference")
    applies = {"rules": "rules", "sts": "sts", "nli": "nli", "clipscores": "clipscore"}
    for part, label in [*FILTERS_TIMED.items(), ("all", "all")]:
        stage = applies.get(part)
        count = sum(stage is None or stage in FILTERS_OF_TASK[sample.task] for sample in samples)
        figures = [median[name][part] / count * 1000 for name in (slow, one, best, many)]
        print(
            f"{label:<10} {count:>8} {figures[0]:>10.2f} {figures[1]:>7.2f} {figures[0] / figures[1]:>6.1f}x"
            f" {figures[2]:>10.2f} {figures[3]:>7.2f} {figures[2] / figures[3]:>6.1f}x {differences[part]:>11.6f}"
        )
    print(f"\n{'':<24}samples/s   CPU ms a sample   peak MB   x {best}")
    for name in contestants:
        cpu = statistics.median(run.cpu for run in runs[name]) / len(samples) * 1000
        peak = statistics.median(run.peak for run in runs[name]) / 2**20
        rate = len(samples) / median[name]["all"]
        print(f"{name:<24}{rate:>9.1f}{cpu:>18.2f}{peak:>10.0f}{median[best]['all'] / median[name]['all']:>8.2f}")


def report_switches(runs: dict[str, list[Run]], names: Sequence[str]) -> None:
    """Print the CPU time without each optimisation, relative to all of them on."""
    print(f"\n{'of ours, by CPU time':<48}{'x with it':>10}   lowest and highest of the rounds")
    for name in names:
        ratios = [off.cpu / on.cpu for off, on in zip(runs[name], runs["ours, 1 thread"], strict=True)]
        print(f"{name:<48}{statistics.median(ratios):>10.2f}   {min(ratios):.2f} to {max(ratios):.2f}")


def bound(samples: Sequence[Sample], runs: dict[str, list[Run]], ceiling: float, flops: dict[str, float]) -> None:
    """Print how close ours is to the machine's limit: its matrix products at the best rate of a core."""
    print(f"\nfp32 matrix products of ours, at {ceiling / 1e9:.0f} GFLOP/s, the best of a core here:")
    for part, label in [*FILTERS_TIMED.items(), ("all", "all")]:
        if flops[part]:
            old, new = (
                statistics.median(run.seconds[part] for run in runs[name])
                for name in ("reference, 1 thread", "ours, 1 thread")
            )
            print(
                f"{label:<10} {flops[part] / 1e9 / len(samples):>8.3f} GFLOP a sample,"
                f" {flops[part] / new / ceiling:>4.0%} of that rate; with nothing else to do,"
                f" {old / (flops[part] / ceiling):>5.1f}x on one core"
            )


def rows_per_call(profile: dict[str, Any]) -> int:
    """Return how many rows the job passes to its scoring actor at once."""
    from polite_flamingo.pools import PoolsConfig

    named = profile.get("pools", {}).get("scoring", {}).get("rows_per_call")
    return int(named or PoolsConfig().scoring.rows_per_call)


def largest_differences(reference: Sequence[dict[str, Any]], ours: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the largest difference by filter; ours must have every number of the reference."""
    part_of = {
        "rouge_l": "rules", "reward_raw": "rewards", "reward": "rewards", "sts": "sts", "nli": "nli",
        "clip_paragraphs": "clipscores",
    }  # fmt: skip
    largest = dict.fromkeys([*FILTERS_TIMED, "all"], 0.0)
    for theirs, own in zip(reference, ours, strict=True):
        for key, value in theirs.items():
            pairs = zip(value, own[key], strict=True) if isinstance(value, list) else [(value, own[key])]
            for one, other in pairs:
                for part in (part_of[key], "all"):
                    largest[part] = max(largest[part], abs(one - other))
    return largest


if __name__ == "__main__":
    main()
