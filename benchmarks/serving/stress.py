"""Stress tests of `benchmarks/serving/compare.py`: overload, a killed replica, autoscaling, and hours of load.

Requests come at random times (an open loop), and no client retries: the outcome of each request counts.
"""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.processes import memory_of, pids_of
from benchmarks.serving.contestants import Server
from benchmarks.serving.run_statistics import Figures, name_of, percentile, slope

DEADLINE = 10.0
"""Seconds after which an answer is useless."""

REPLICA = "chat"
"""Kind of process that `kill` kills."""

Found = tuple[list[str], dict[str, Any]]
"""Lines of Markdown, and the same as JSON."""


def overload(server: Server, capacity: Figures, *, seconds: float) -> Found:
    """Overload a server with five times its capacity: does it still answer as many in time?"""
    peak = within(capacity.totals, DEADLINE) / max(1, capacity.answered) * capacity.requests
    rate = 5 * capacity.requests
    part = server.load("--rate", f"{rate}", "--seconds", f"{seconds}", "--drain", "60", "--timeout", "60")["parts"][0]
    records = part["records"]
    begin = DEADLINE if seconds > 2 * DEADLINE else 0.0  # by then the first have waited in full queues
    settled = [one for one in records if begin < one["end"] <= seconds and not one["error"]]
    good = within([one["end"] - one["start"] for one in settled], DEADLINE) / (seconds - begin)
    refused = [one for one in records if one["status"] in (429, 503)]
    told = sum(one["retry_after"] for one in refused)
    whole = [one["first"] - one["start"] for one in records if not one["error"]]
    lines = [
        f"{rate:.0f} requests/s for {seconds:.0f} s, five times what it can. Answered whole within {DEADLINE:.0f} s: "
        f"{good:.1f} a second, {100 * good / peak:.0f} % of the peak of {peak:.1f} (wanted ≥ 90 %).",
        f"Of {len(records)} requests: {by_outcome(records)}; {told} of {len(refused)} refusals have Retry-After.",
        f"First text of what was answered: p50 {percentile(whole, 50):.2f} s, p99 {percentile(whole, 99):.2f} s.",
    ]
    return lines, {
        "rate": rate, "peak": peak, "goodput": good, "share": good / peak, "outcomes": outcomes(records),
        "refused": len(refused), "retry_after": told,
    }  # fmt: skip


def kill(server: Server, capacity: Figures, *, seconds: float) -> Found:
    """Kill an engine replica at 60 % load: which requests suffer?"""
    rate = 0.6 * capacity.requests
    before = pids_of(server.pid, REPLICA)
    load = server.begin("--rate", f"{rate}", "--seconds", f"{seconds}", "--drain", "60", "--timeout", "60")
    began = time.monotonic()
    time.sleep(seconds / 3)
    os.kill(before[0], signal.SIGKILL)
    killed = time.monotonic() - began
    back = 0.0
    while load.poll() is None:
        if not back and len(set(pids_of(server.pid, REPLICA)) - set(before)) > 0:
            back = time.monotonic() - began
        time.sleep(0.2)
    records = server.finished(load)["records"]
    early = killed - 2.0  # the generator takes a moment to start, so its clock is behind
    open_then = [one for one in records if one["start"] < killed and one["end"] > early]
    failed = [one for one in records if one["error"]]
    new = f"A new process was there {back - killed:.1f} s later." if back else "No new process came."
    after = [one["first"] - one["start"] for one in records if one["first"] and killed < one["start"] < killed + 10]
    lines = [
        f"{rate:.0f} requests/s; one of {len(before)} engine replicas killed after {killed:.0f} s. "
        f"Of {len(records)} requests {len(failed)} failed ({by_outcome(failed) or 'none'}), "
        f"{sum(one['status'] not in (200, 429, 503) for one in failed)} of them without a clear error.",
        f"Open within two seconds before it: {len(open_then)}, of which {sum(not one['error'] for one in open_then)} "
        f"were answered whole. {new}",
        f"First text in the ten seconds after it: p50 {percentile(after, 50):.2f} s, "
        f"p99 {percentile(after, 99):.2f} s.",
    ]
    return lines, {
        "rate": rate, "replicas": len(before), "requests": len(records), "outcomes": outcomes(records),
        "open": len(open_then), "failed": len(failed), "seconds_to_new_process": back - killed if back else None,
    }  # fmt: skip


def autoscale(server: Server, *, clients: int, seconds: float) -> Found:
    """More clients than one replica is meant for, then one: when does a second replica start, and when does it stop?"""
    before = len(pids_of(server.pid, REPLICA))
    load = server.begin("--clients", f"{clients}", "--seconds", f"{seconds}", "--drain", "60", "--timeout", "60")
    started = _until(load, lambda: len(pids_of(server.pid, REPLICA)) > before)
    answering = started + _until(load, lambda: _engines(server) > before)
    busy = server.finished(load)["records"]
    load = server.begin("--clients", "1", "--seconds", f"{seconds}", "--drain", "60", "--timeout", "60")
    fewer = _until(load, lambda: len(pids_of(server.pid, REPLICA)) <= before)
    quiet = server.finished(load)["records"]
    settled = min(answering + 5.0, seconds)  # new engines have met most shapes by then
    rates = [rate_between(busy, 0.0, started), rate_between(busy, settled, seconds)]
    lines = [
        f"{clients} clients, {before} replica: another process {_seconds(started)} after the first request, answering "
        f"{_seconds(answering)} after it. {rates[0]:.1f} requests/s until it was started, {rates[1]:.1f} from five "
        f"seconds after it answered. Of {len(busy)} requests: {by_outcome(busy)}.",
        f"Then one client: {before} replica again {_seconds(fewer)} later. "
        f"Of {len(quiet)} requests: {by_outcome(quiet)}.",
    ]
    return lines, {
        "clients": clients, "seconds_to_process": started, "seconds_to_answers": answering, "rates": rates,
        "seconds_to_fewer": fewer, "busy": outcomes(busy), "quiet": outcomes(quiet),
    }  # fmt: skip


def rate_between(records: Sequence[Mapping[str, Any]], begin: float, end: float) -> float:
    """Return complete answers per second."""
    return sum(begin <= one["end"] < end for one in records if not one["error"]) / max(1e-9, end - begin)


def _until(load: subprocess.Popen[bytes], true: Callable[[], bool]) -> float:
    """Return the seconds until a condition holds; infinity if the load ended before."""
    began = time.monotonic()
    while not true():
        if load.poll() is not None:
            return math.inf
        time.sleep(0.2)
    return time.monotonic() - began


def _seconds(found: float) -> str:
    return f"{found:.1f} s" if math.isfinite(found) else "(never)"


def _engines(server: Server) -> int:
    """Number of chat engines, by /metrics."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=20) as answer:
        return len(re.findall(rb'^polite_flamingo_engine_streams\{engine="clever', answer.read(), re.MULTILINE))


def soak(server: Server, capacity: Figures, *, minutes: float, every: float = 10.0) -> Found:
    """Run 80 % load for a long time: memory, errors, latencies."""
    rate, seconds = 0.8 * capacity.requests, 60 * minutes
    load = server.begin("--rate", f"{rate}", "--seconds", f"{seconds}", "--drain", "60", "--timeout", "60")
    began, samples = time.monotonic(), []
    while load.poll() is None:
        samples.append((time.monotonic() - began, memory_of(server.pid)))
        time.sleep(every)
    records = server.finished(load)["records"]
    half = [(moment, memory) for moment, memory in samples if seconds / 2 <= moment <= seconds]
    kinds = sorted({kind for _, memory in half for kind in memory}, key=lambda kind: -half[-1][1][kind])
    totals = [sum(memory.values()) / 2**20 for _, memory in half]
    growth = 60 * slope([moment for moment, _ in half], totals)
    over_half = growth * minutes / 2 / max(totals)
    lines = [
        f"{rate:.0f} requests/s, 80 % of what it can, for {minutes:g} minutes: {len(records)} requests, "
        f"{by_outcome(records)}.",
        f"Memory of all processes (anonymous pages) in the second half, when caches are full: {min(totals):.0f} to "
        f"{max(totals):.0f} MB, {growth:+.2f} MB a minute, {100 * over_half:+.1f} % over that half: "
        f"{'flat' if over_half < 0.02 else 'NOT flat'} (wanted below 2 %).",
        "",
        "| minute | first text p50, s | p99, s | errors | memory, MB |",
        "|---|---|---|---|---|",
    ]
    for minute in range(max(1, round(minutes))):
        inside = [one for one in records if 60 * minute <= one["start"] < 60 * (minute + 1)]
        waits = [one["first"] - one["start"] for one in inside if one["first"]]
        held = [sum(memory.values()) / 2**20 for moment, memory in samples if 60 * minute <= moment < 60 * (minute + 1)]
        lines.append(
            f"| {minute + 1} | {percentile(waits, 50):.3f} | {percentile(waits, 99):.3f} "
            f"| {sum(bool(one['error']) for one in inside)} | {held[-1] if held else 0:.0f} |"
        )
    by_kind = ", ".join(
        f"{kind} {half[0][1][kind] / 2**20:.0f} → {half[-1][1][kind] / 2**20:.0f}" for kind in kinds[:8]
    )
    lines += ["", f"By process, first and last of the second half, MB: {by_kind}."]
    return lines, {
        "rate": rate, "minutes": minutes, "outcomes": outcomes(records), "growth_mb_a_minute": growth,
        "memory": [{"second": moment, **memory} for moment, memory in samples],
    }  # fmt: skip


def within(totals: Sequence[float], deadline: float) -> int:
    """Count the answers within the deadline."""
    return sum(total <= deadline for total in totals)


def outcomes(records: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Number of requests by outcome; "" is a complete answer."""
    return dict(Counter(name_of(one) if one["error"] else "" for one in records))


def by_outcome(records: Sequence[Mapping[str, Any]]) -> str:
    """Describe outcomes."""
    return ", ".join(f"{count} × {what or 'answered'}" for what, count in outcomes(records).items())
