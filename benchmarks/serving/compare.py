"""Serving four ways: one request at a time, the bare engine, HTTP in one process, and the service on Ray Serve.

    python -m benchmarks.serving.compare --profile profiles/tiny.yaml [--rounds 3] [--overload] [--kill] [--autoscale]
                                [--soak 20]

All of them answer the same streamed chat requests, greedily, with the same model (`chat_requests.py`):

    one at a time   a server like the reference's: a lock around open_flamingo and `generate`, with all cores for each
                    answer, in the number format that suits it best (`reference_server.py`)
    bare engine     one process per engine, called directly: no HTTP, no Ray (`bare_engine.py`)
    HTTP, no Serve  the service's app over engines in the same process (`in_process_server.py`)
    Ray Serve       `python -m ray_jobs.serve`, with as many engine replicas

Clients run in their own process on the same cores (`load_generator.py`). A run starts once each client has been
answered, and lasts `--seconds`. Servers take turns, round by round, while the others are up and idle. Rates are medians
over the rounds; latencies are of all requests. The baseline runs with all numbers of clients in the first round, and
with 32 in the others. Finally a single engine on core 0 is measured bare and under Serve, with the rest of the service
and the clients on core 1.

`--overload`, `--kill`, `--autoscale` and `--soak` (minutes) are stress tests (`stress.py`). `--quick` shows in a minute
or two that everything works, and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shlex
import signal
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from benchmarks.serving.chat_requests import bodies, write
from benchmarks.serving.contestants import (
    Bare,
    Contestant,
    Run,
    Setting,
    http_without_serve,
    one_at_a_time,
    pinned_apart,
    ray_serve,
)
from benchmarks.serving.run_statistics import Figures, differing, figures, percentile, ratios, texts, together
from benchmarks.serving.stress import autoscale, kill, overload, soak
from serving.config import from_profile

BASELINE, BARE, LOCAL, SERVE = "one at a time", "bare engine", "HTTP, no Serve", "Ray Serve"
BARE_PINNED, SERVE_PINNED = "bare engine on core 0", "Ray Serve, its engine on core 0"
MANY = 32
"""Number of clients for which goals are set."""

SLICE = 1500
"""Requests reserved for a run; all servers get the same ones in a round with the same number of clients."""

Runs = dict[tuple[str, int], list[dict[str, Any]]]
"""(Server, number of clients) -> its runs, round by round."""


def main() -> None:
    """Sample the requests, measure the servers in turns, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="profiles/tiny.yaml")
    parser.add_argument("--set", action="append", default=[], help="NAME=VALUE of the profile")
    parser.add_argument("--clients", type=lambda text: [int(one) for one in text.split(",")], default=[1, 8, 32, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=7.0, help="seconds per run (%(default)s)")
    parser.add_argument("--engines", type=int, default=0, help="0: as many replicas as the profile has")
    parser.add_argument("--without-table", action="store_true", help="only what the next options ask for")
    parser.add_argument("--overload", action="store_true", help="five times the server's capacity, for a minute")
    parser.add_argument("--kill", action="store_true", help="SIGKILL an engine replica under load")
    parser.add_argument("--autoscale", action="store_true", help="load for two engine replicas, then none, at one")
    parser.add_argument("--soak", type=float, default=0.0, help="minutes at 80 %% of its capacity")
    parser.add_argument("--out", type=Path, default=None, help="folder for serving-DATE.md and .json")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that servers are ended as well
    if options.quick:
        options.clients, options.rounds, options.seconds = [1, MANY], 1, 2.0
    config = from_profile(options.profile, dict(one.split("=", 1) for one in options.set))
    options.engines = options.engines or config.serving.scale.chat.min
    report = Report(options)
    with tempfile.TemporaryDirectory(prefix="benchmark_serving_") as made:
        root = Path(made)
        count = 3000 if options.quick else SLICE * len(options.clients) * max(2, options.rounds)
        asked = bodies(count, 0, config.serving.chat_name)
        write(root / "bodies.jsonl", asked)
        changes = dict(one.split("=", 1) for one in options.set)
        setting = Setting(profile=options.profile, changes=changes, bodies=root / "bodies.jsonl", root=root)
        report.head(len(asked))
        try:
            if not options.without_table:
                runs = compete(options, setting)
                report.table(runs, options)
                report.same_texts(runs, len(asked))
                runs |= pinned(options, setting)
                report.goals(runs)
                report.keep("runs", runs)
            trials(options, setting, report)
        finally:
            report.write()


def compete(options: argparse.Namespace, setting: Setting) -> Runs:
    """Run the four servers in turns."""
    runs: Runs = defaultdict(list)
    with ExitStack() as stack:
        contestants: dict[str, Contestant] = {
            BASELINE: best_baseline(setting, 2.0 if options.quick else 5.0),
            BARE: Bare(setting, options.engines),
            LOCAL: http_without_serve(setting, options.engines),
            SERVE: ray_serve(setting, options.engines),
        }
        for one in contestants.values():
            stack.callback(one.end)
        for name, one in contestants.items():
            if name != BASELINE:
                one.run(Run(clients=8, seconds=2.0, first=10**6))
        for number in range(options.rounds):
            for place, clients in enumerate(options.clients):
                first = (number * len(options.clients) + place) * SLICE
                for name, one in contestants.items():
                    if name != BASELINE:
                        run = Run(clients=clients, seconds=options.seconds, first=first)
                    elif number == 0 or clients == MANY:
                        run = Run(clients=clients, seconds=2 * options.seconds, first=first, drain=0.0)
                    else:
                        continue
                    runs[name, clients].append(one.run(run))
                    say(f"round {number + 1}, {name}, {clients}: {line_of(figures(runs[name, clients][-1]))}")
    return runs


def best_baseline(setting: Setting, seconds: float) -> Contestant:
    """Return the baseline in its fastest number format."""
    found = []
    for dtype in ("float32", "bfloat16"):
        server = one_at_a_time(setting, dtype)
        rate = figures(server.run(Run(clients=1, seconds=seconds, first=0, drain=0.0))).requests
        say(f"{BASELINE}, {dtype}: {rate:.2f} requests/s")
        found.append((rate, server))
    found.sort(key=lambda one: -one[0])
    found[1][1].end()
    return found[0][1]


def pinned(options: argparse.Namespace, setting: Setting) -> Runs:
    """Run one engine on its own core, bare and under Serve."""
    runs: Runs = defaultdict(list)
    many = [clients for clients in options.clients if clients >= MANY]
    with ExitStack() as stack:
        bare, served = Bare(setting, 1, core=0), ray_serve(setting, 1, client_cores="1")
        stack.callback(bare.end)
        stack.callback(served.end)
        served.run(Run(clients=8, seconds=2.0, first=10**6))
        pinned_apart(served, "chat")
        for number in range(options.rounds):
            for place, clients in enumerate(many):
                first = (number * len(many) + place) * SLICE + SLICE // 2
                for name, one in ((BARE_PINNED, bare), (SERVE_PINNED, served)):
                    runs[name, clients].append(one.run(Run(clients=clients, seconds=options.seconds, first=first)))
                    say(f"round {number + 1}, {name}, {clients}: {line_of(figures(runs[name, clients][-1]))}")
    return runs


def trials(options: argparse.Namespace, setting: Setting, report: Report) -> None:
    """Run the requested stress tests."""
    if not (options.overload or options.kill or options.autoscale or options.soak):
        return
    server = ray_serve(setting, options.engines)
    try:
        capacity = figures(server.run(Run(clients=64, seconds=3.0 if options.quick else 15.0, first=0)))
        report.say("", f"What it can, 64 clients in a closed loop: {line_of(capacity)}.")
        if options.overload:
            report.trial("Overload", overload(server, capacity, seconds=5 if options.quick else 60))
        if options.kill:
            report.trial("A replica killed", kill(server, capacity, seconds=15 if options.quick else 40))
        if options.soak:
            report.trial("Soak", soak(server, capacity, minutes=options.soak))
    finally:
        server.end()
    if options.autoscale:
        server = ray_serve(setting, 1, max=2, upscale_seconds=2, downscale_seconds=10)
        try:
            server.run(Run(clients=4, seconds=2.0, first=0))
            report.trial("Replicas by load", autoscale(server, clients=100, seconds=40 if options.quick else 60))
        finally:
            server.end()


def line_of(one: Figures) -> str:
    """Describe a run in one line."""
    errors = f", errors {dict(one.errors)}" if one.errors else ""
    wait = f"first text {percentile(one.waits, 50):.3f} s, p99 {percentile(one.waits, 99):.3f} s"
    return f"{one.requests:.1f} requests/s, {one.tokens:.0f} tokens/s, {wait}{errors}"


def say(line: str) -> None:
    """Print progress."""
    print(line, file=sys.stderr, flush=True)


class Report:
    """The report: Markdown as it is printed, and all figures as JSON."""

    def __init__(self, options: argparse.Namespace):
        self._options = options
        self._lines: list[str] = []
        self._content: dict[str, Any] = {}

    def say(self, *lines: str) -> None:
        """More lines."""
        self._lines += lines
        print("\n".join(lines), flush=True)

    def keep(self, name: str, runs: Runs) -> None:
        """Add the figures of each run to the JSON, without texts."""
        self._content[name] = [
            {"contestant": contestant, "clients": clients, **vars(figures(run))}
            for (contestant, clients), found in runs.items()
            for run in found
        ]

    def head(self, count: int) -> None:
        """Print the machine, the libraries, the command and the load."""
        described = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
        cpu = next((line.split(":")[1].strip() for line in described if "model name" in line), "")
        memory = psutil.virtual_memory().total >> 30
        load = os.getloadavg()[0]
        machine = f"{os.cpu_count()} CPU cores ({cpu or platform.machine()}), {memory} GiB; load {load:.1f} before it"
        names = ("torch", "transformers", "open-flamingo", "ray", "fastapi", "uvicorn")
        options = self._options
        self._content |= {"machine": machine, "arguments": sys.argv[1:], "date": time.strftime("%Y-%m-%d")}
        self.say(f"# Serving, {time.strftime('%Y-%m-%d')}", "")
        if options.quick:
            self.say("**`--quick`: this shows that the program works; it measures nothing.**", "")
        self.say(
            "```",
            machine,
            ", ".join(f"{name} {version(name)}" for name in names),
            f"python -m benchmarks.serving.compare {shlex.join(sys.argv[1:])}",
            f"{options.rounds} rounds of {options.seconds:.0f} s a run; {options.engines} engines; {count} requests",
            "```",
        )

    def table(self, runs: Runs, options: argparse.Namespace) -> None:
        """Add a row for each server and number of clients."""
        waits = "first text p50, s | p99, s | whole p50, s | p99, s"
        self.say("", f"| contestant | clients | requests/s | tokens/s | {waits} | answers | errors |")
        self.say("|---|---|---|---|---|---|---|---|---|---|")
        for clients in options.clients:
            for name in (BASELINE, BARE, LOCAL, SERVE):
                one = together([figures(run) for run in runs[name, clients]])
                waits = " | ".join(f"{percentile(one.waits, p):.3f}" for p in (50, 99))
                totals = " | ".join(f"{percentile(one.totals, p):.3f}" for p in (50, 99))
                self.say(
                    f"| {name} | {clients} | {one.requests:.1f} | {one.tokens:.0f} | {waits} | {totals} "
                    f"| {one.answered} | {errors_of(one)} |"
                )
        self.say("", "Milliseconds of CPU for an answer, by process; what is idle counts too:", "")
        for clients in options.clients:
            for name in (BASELINE, BARE, LOCAL, SERVE):
                one = together([figures(run) for run in runs[name, clients]])
                self.say(f"- {clients} clients, {name}: {cpu_of_answer(one)}")

    def same_texts(self, runs: Runs, pool: int) -> None:
        """Report whether all servers gave the same answers."""
        written = {
            name: texts((run for (who, _), found in runs.items() if who == name for run in found), pool)
            for name in (BARE, BASELINE, LOCAL, SERVE)
        }
        self.say("")
        for name in (BASELINE, LOCAL, SERVE):
            other, both = differing(written[name], written[BARE])
            self.say(f"{name}: {other} of {both} texts are not the bare engine's.")
            self._content[f"texts of {name}"] = {"other": other, "of": both}

    def goals(self, runs: Runs) -> None:
        """Add the goals and the results."""
        of = {key: [figures(run) for run in found] for key, found in runs.items()}
        self.say("", "| goal | wanted | found (lowest and highest round) | reached |", "|---|---|---|---|")
        faster = ratios(of[SERVE, MANY], of[BASELINE, MANY])
        self._goal(f"throughput at {MANY} clients, × one at a time", faster, 8.0, least=True)
        waits = [percentile(together(of[name, MANY]).waits, 99) for name in (SERVE, BASELINE)]
        self._goal(f"p99 of the first text at {MANY} clients, of one at a time's", [waits[0] / waits[1]], 0.25)
        for clients in sorted(clients for name, clients in runs if name == SERVE and clients >= MANY):
            shared = [1 - ratio for ratio in ratios(of[SERVE, clients], of[BARE, clients])]
            self._goal(f"overhead at {clients} clients, cores shared with clients and HTTP", shared, 0.15)
            alone = [1 - ratio for ratio in ratios(of[SERVE_PINNED, clients], of[BARE_PINNED, clients])]
            self._goal(f"overhead at {clients} clients, the engine's core its own", alone, 0.15)
        self.say("")
        for name in (BARE_PINNED, SERVE_PINNED):
            for clients in sorted(clients for who, clients in runs if who == name):
                one = together(of[name, clients])
                self.say(f"- {name}, {clients} clients: {line_of(one)}; CPU for an answer: {cpu_of_answer(one)}")

    def _goal(self, what: str, found: Sequence[float], wanted: float, *, least: bool = False) -> None:
        middle = statistics.median(found) if found else math.nan
        reached = middle >= wanted if least else middle <= wanted
        self._content.setdefault("goals", {})[what] = {"found": list(found), "wanted": wanted, "reached": reached}
        span = f" ({min(found):.3g} to {max(found):.3g})" if len(found) > 1 else ""
        sign = "≥" if least else "≤"
        self.say(f"| {what} | {sign} {wanted} | {middle:.3g}{span} | {'yes' if reached else 'no'} |")

    def trial(self, title: str, found: tuple[list[str], dict[str, Any]]) -> None:
        """Add a section."""
        self.say("", f"## {title}", "", *found[0])
        self._content[title] = found[1]

    def write(self) -> None:
        """Write both files, if a folder is given."""
        if self._options.out is not None:
            name = f"serving-{time.strftime('%Y-%m-%d')}"
            self._options.out.mkdir(parents=True, exist_ok=True)
            (self._options.out / f"{name}.md").write_text("\n".join(self._lines) + "\n")
            (self._options.out / f"{name}.json").write_text(json.dumps(self._content, indent=1) + "\n")


def errors_of(one: Figures) -> str:
    """Return "none", or the number of each error."""
    return ", ".join(f"{count} × {what}" for what, count in one.errors.items()) or "none"


def cpu_of_answer(one: Figures) -> str:
    """Return the kinds of process that took at least 0.1 ms, largest first."""
    most = sorted(one.cpu.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{kind} {spent:.1f}" for kind, spent in most if spent >= 0.1)


if __name__ == "__main__":
    main()
