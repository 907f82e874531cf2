"""Memory of an engine process under load, with few sizes of matrix products and with every size.

    python -m benchmarks.serving.memory --profile profiles/tiny.yaml [--rounds 6] [--answers 1000]

Two processes with an engine each (`EngineHost`, no HTTP, no Ray) take turns: in a round each answers the same chat
requests, 48 at a time. One is the engine as it is; the other multiplies exactly as many rows as there are instead of
rounding up (`layers.rounded`), as the engine once did. Reported per round: the process's anonymous memory, how much of
it is the image cache (bounded by `engine.media_bytes`), the growth of the rest, and tokens per CPU second, on which
other programs have little influence.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.serving.bare_engine import host_of, request_sender
from benchmarks.serving.chat_requests import bodies, write
from benchmarks.serving.load_generator import Record
from polite_flamingo.flamingo.model import layers
from serving.config import from_profile

CLIENTS = 48
WAYS = {"few sizes": False, "every size": True}
Found = dict[str, float]


def held() -> float:
    """Return this process's anonymous memory in MB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1024


async def answer(profile: str, changes: dict[str, str], requests: Sequence[bytes]) -> None:
    """The process of one variant: each line on stdin is a number of requests; replies with the figures."""
    host = host_of(from_profile(profile, changes), 1)
    engine = host._engines[0]._engine
    ask = request_sender(host, 0, requests, time.perf_counter())
    numbers = itertools.count()
    print(json.dumps({"held": held()}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        cpu, records = time.process_time(), [Record(number, 0.0) for number in itertools.islice(numbers, int(line))]
        waiting = iter(records)

        async def client(waiting: itertools.islice[Record] = waiting) -> None:  # type: ignore[assignment]
            for record in waiting:
                await ask(record)

        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        cpu = time.process_time() - cpu
        found = {
            "held": held(),
            "images": engine.image_cache.size / 2**20,
            "rate": sum(record.tokens for record in records) / cpu,
            "answered": sum(not record.error for record in records),
        }
        print(json.dumps(found), flush=True)
    await host.aclose()


def main() -> None:
    """Run two processes in turns; print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", required=True)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--answers", type=int, default=1000, help="answers of each process per round")
    parser.add_argument("--override", action="append", default=[], help="NAME=VALUE of the profile")
    parser.add_argument("--requests", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--every-size", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.requests is not None:
        if options.every_size:
            layers.rounded = lambda rows: rows
        changes = dict(one.split("=", 1) for one in options.override)
        asyncio.run(answer(options.profile, changes, options.requests.read_bytes().splitlines()))
        return
    with TemporaryDirectory() as folder:
        requests = Path(folder) / "requests"
        name = from_profile(options.profile, {}).serving.chat_name
        write(requests, bodies(options.rounds * options.answers, 0, name))
        processes = {way: start(options, requests, every) for way, every in WAYS.items()}
        last = {way: read_figures(process) for way, process in processes.items()}
        print("| answers | " + " | ".join(f"{way}: MB | images | grew besides | tokens/CPU s" for way in WAYS) + " |")
        print("|---|" + "---|" * 4 * len(WAYS))
        print("| 0 | " + " | ".join(f"{last[way]['held']:.0f} | | |" for way in WAYS))
        for number in range(options.rounds):
            cells = []
            for way, process in processes.items():
                assert process.stdin is not None
                process.stdin.write(f"{options.answers}\n")
                process.stdin.flush()
                now = read_figures(process)
                besides = now["held"] - now["images"] - (last[way]["held"] - last[way].get("images", 0.0))
                cells.append(f"{now['held']:.0f} | {now['images']:.0f} | {besides:+.0f} | {now['rate']:.0f}")
                last[way] = now
            print(f"| {(number + 1) * options.answers} | {' | '.join(cells)} |", flush=True)
        for process in processes.values():
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=60)


def start(options: argparse.Namespace, requests: Path, every_size: bool) -> subprocess.Popen[str]:
    """Start the process of one variant."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.serving.memory",
        "--profile",
        options.profile,
        "--requests",
        str(requests),
    ]
    command += [part for one in options.override for part in ("--override", one)]
    command += ["--every-size"] * every_size
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def read_figures(process: subprocess.Popen[str]) -> Found:
    """Return the next line of figures."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            found: Found = json.loads(line)
            return found
    sys.exit("an engine's process ended; its error stands above")


if __name__ == "__main__":
    main()
