"""Kill a build at random moments, restart it, and compare with an undisturbed run.

    python -m benchmarks.pipeline.kill_and_resume --input out/demo/ingested --runs 10

Each run chooses at random what to kill with SIGKILL (the driver, one actor, the whole local cluster) and when (within
the time that the undisturbed run took after its first shard), then repeats the command until it finishes. It prints for
each run how many samples were lost, duplicated or different, and a summary. The exit status is 1 if there were any.
Speed is not measured.
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from polite_flamingo.storage.ledger import OutputLayout, read_quarantine, read_scored

REPO = Path(__file__).parents[2]
COMMAND = "python -m ray_jobs.build_pf1m --profile profiles/tiny.yaml --input {input} --out {out}"
VICTIMS = ("driver", "actor", "cluster")


def main() -> int:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, help="folder of shards, as for a build")
    parser.add_argument("--command", default=COMMAND, help="the job; {input} and {out} are filled in (%(default)s)")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="kill_and_resume_") as folder:
        root = Path(folder)
        seconds = undisturbed(options, root / "undisturbed")
        expected = contents(root / "undisturbed")
        print(f"undisturbed: {sum(expected.values())} rows, {seconds:.0f} s from the first shard to the last")
        print("run  victim   after_s  shards_done  starts  lost  duplicated  different_files")
        bad = 0
        for number in range(1, options.runs + 1):
            bad += run(number, rng, options, root, seconds, expected)
    print(f"{options.runs} runs: {'nothing lost, duplicated or different' if not bad else f'{bad} runs went wrong'}")
    return 1 if bad else 0


def undisturbed(options: argparse.Namespace, out: Path) -> float:
    """Build without interference; return how long it took from the first finished shard to the last."""
    process = start(options, out)
    first = None
    while process.poll() is None:
        if first is None and OutputLayout(root=out).finished():
            first = time.monotonic()
        time.sleep(0.05)
    if process.returncode != 0 or first is None:
        raise SystemExit(f"the undisturbed build failed; see {out}.log")
    last = max((out / "manifests").iterdir(), key=lambda path: path.stat().st_mtime).stat().st_mtime
    return max(1.0, time.monotonic() - first - (time.time() - last))


def run(
    number: int,
    rng: random.Random,
    options: argparse.Namespace,
    root: Path,
    seconds: float,
    expected: Counter[tuple[str, str]],
) -> bool:
    """Kill once and restart until the job ends; print a line; return whether anything went wrong."""
    victim, after = rng.choice(VICTIMS), rng.uniform(0, seconds)
    out = root / f"run{number}"
    layout = OutputLayout(root=out)
    process = start(options, out)
    while process.poll() is None and not layout.finished():
        time.sleep(0.05)
    time.sleep(after)
    done = len(layout.finished())
    kill(process, victim)
    starts = 1
    while process.wait() != 0:
        if starts == 5:
            raise SystemExit(f"run {number} does not come to an end; see {out}.log")
        time.sleep(2)  # workers of a dead driver continue for a moment
        starts += 1
        process = start(options, out)
    found = contents(out)
    lost, duplicated = sum((expected - found).values()), sum((found - expected).values())
    different = differing_files(root / "undisturbed", out)
    print(
        f"{number:3}  {victim:7}  {after:7.1f}  {done:11}  {starts:6}  {lost:4}  {duplicated:10}  {different:15}",
        flush=True,
    )
    return bool(lost or duplicated or different)


def start(options: argparse.Namespace, out: Path) -> subprocess.Popen[bytes]:
    """Start the job in its own process with its own Ray; its output goes to a log beside `out`."""
    filled = [part.format(input=options.input, out=out) for part in shlex.split(options.command)]
    command = [sys.executable if filled[0] == "python" else filled[0], *filled[1:]]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with Path(f"{out}.log").open("ab") as log:
        return subprocess.Popen(command, cwd=REPO, env=environment, stdout=log, stderr=log)


def kill(process: subprocess.Popen[bytes], victim: str) -> None:
    """Send SIGKILL; do nothing if the job has already ended."""
    if process.poll() is not None:
        return
    children = psutil.Process(process.pid).children(recursive=True)
    if victim == "actor":
        doomed = [child for child in children if "MapWorker(" in " ".join(child.cmdline())][:1]
    else:
        doomed = [psutil.Process(process.pid), *(children if victim == "cluster" else [])]
    for each in doomed:
        each.kill()


def contents(out: Path) -> Counter[tuple[str, str]]:
    """Return (key, outcome) of every row."""
    layout = OutputLayout(root=out)
    found: Counter[tuple[str, str]] = Counter()
    for name in layout.finished():
        found.update((sample.key, "scored") for sample in read_scored(layout, name))
        found.update((row.key, row.reason) for row in read_quarantine(layout, name))
    return found


def differing_files(one: Path, other: Path) -> int:
    """Count the files that differ or exist on one side only, among those that must not depend on kills."""
    both = [files(one), files(other)]
    return sum(both[0].get(name) != both[1].get(name) for name in both[0].keys() | both[1].keys())


def files(out: Path) -> dict[str, bytes]:
    """Read the scored, quarantined and selected rows and the exports, as bytes."""
    paths = [
        p
        for folder in ("scored", "quarantine", "pf1m", "parquet", "images")
        for p in (out / folder).rglob("*")
        if p.is_file()
    ]
    return {str(p.relative_to(out)): p.read_bytes() for p in [*paths, out / "pf1m.json", out / "llava.json"]}


if __name__ == "__main__":
    sys.exit(main())
