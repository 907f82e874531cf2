"""Statistics of the serving benchmark's runs: rates, latencies, errors, and whether the answers are the same."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Figures:
    """Figures of one run, or of several of the same kind.

    Attributes:
        requests: complete answers per second.
        tokens: tokens of these answers per second.
        answered: number of complete answers.
        waits: seconds to the first text of each.
        totals: seconds to the end of each.
        errors: number of failed requests by kind.
        cpu: CPU milliseconds per answer, by kind of process.
    """

    requests: float
    tokens: float
    answered: int
    waits: tuple[float, ...]
    totals: tuple[float, ...]
    errors: Mapping[str, int] = field(default_factory=dict)
    cpu: Mapping[str, float] = field(default_factory=dict)


def figures(run: Mapping[str, Any]) -> Figures:
    """Sum up a run. Only requests that ended within its window count, so that all clients are always busy."""
    requests = tokens = 0.0
    counted: list[Mapping[str, Any]] = []
    errors: Counter[str] = Counter()
    answered = 0
    for part in run["parts"]:
        begin, end = part["window"]
        inside = [one for one in part["records"] if begin < one["end"] <= end]
        whole = [one for one in inside if not one["error"]]
        errors.update(name_of(one) for one in part["records"] if one["error"])
        answered += sum(not one["error"] for one in part["records"])
        counted += whole
        requests += len(whole) / (end - begin)
        tokens += sum(one["tokens"] for one in whole) / (end - begin)
    return Figures(
        requests,
        tokens,
        len(counted),
        tuple(one["first"] - one["start"] for one in counted if one["first"]),
        tuple(one["end"] - one["start"] for one in counted),
        dict(errors),
        {kind: 1000 * seconds / max(1, answered) for kind, seconds in run["cpu"].items()},
    )


def together(runs: Sequence[Figures]) -> Figures:
    """Combine runs: medians of rates and CPU, latencies of all requests, sums of errors."""
    errors: Counter[str] = Counter()
    for one in runs:
        errors.update(one.errors)
    kinds = dict.fromkeys(kind for one in runs for kind in one.cpu)
    return Figures(
        statistics.median(one.requests for one in runs),
        statistics.median(one.tokens for one in runs),
        sum(one.answered for one in runs),
        tuple(wait for one in runs for wait in one.waits),
        tuple(total for one in runs for total in one.totals),
        dict(errors),
        {kind: statistics.median(one.cpu.get(kind, 0.0) for one in runs) for kind in kinds},
    )


def name_of(record: Mapping[str, Any]) -> str:
    """Describe a failed request: "503 overloaded", "cut"."""
    return " ".join(str(part) for part in (record["status"] or record["error"], record["code"]) if part)


def percentile(values: Iterable[float], percent: float) -> float:
    """Return the smallest value that `percent` of the values do not exceed; NaN without values."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)] if ordered else math.nan


def texts(runs: Iterable[Mapping[str, Any]], pool: int) -> dict[int, str]:
    """Number of a body -> its text, for all complete answers. Args: pool: number of bodies."""
    return {
        record["number"] % pool: record["text"].strip()
        for run in runs
        for part in run["parts"]
        for record in part["records"]
        if not record["error"]
    }


def differing(found: Mapping[int, str], reference: Mapping[int, str]) -> tuple[int, int]:
    """Count the texts that differ from the reference's, and those that both have."""
    both = found.keys() & reference.keys()
    return sum(found[number] != reference[number] for number in both), len(both)


def slope(moments: Sequence[float], values: Sequence[float]) -> float:
    """Return the growth of the values per unit of time, by least squares."""
    return statistics.linear_regression(moments, values).slope if len(moments) > 1 else math.nan


def ratios(above: Sequence[Figures], below: Sequence[Figures]) -> list[float]:
    """Return the ratios of two servers' requests per second, round by round."""
    return [one.requests / other.requests for one, other in zip(above, below, strict=False) if other.requests]
