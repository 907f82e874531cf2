"""Forecast what a job will take: `polite-flamingo build … --estimate 200` builds 200 rows and scales what they cost.

`sample` and `rate` do the same with a few prompts.

The rows are drawn at random from shards that are chosen with a chance proportional to their size in bytes; the sum over
the whole input is then estimated without bias (Hansen and Hurwitz 1943). They are built in OUT/estimate like any input,
and their report is there to look at. Intervals are bootstrapped over the parts (`evaluation/bootstrap.py`).
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from polite_flamingo.cost import MILLION, Prices, cost_of
from polite_flamingo.evaluation.bootstrap import Estimate, Resampling, estimate, resampled_means
from polite_flamingo.formatting import money, trimmed
from polite_flamingo.sample import Sample
from polite_flamingo.storage.input_files import size_of
from polite_flamingo.storage.ledger import OutputLayout, read_manifest
from polite_flamingo.storage.location import Location
from polite_flamingo.storage.shards import read_shard, write_shard
from ray_jobs import console
from ray_jobs.progress import counted, phase

PARTS = 10
"""Parts that the sampled rows come in. More would give a better interval, but fill a model's batches worse."""

AMOUNTS = {
    "prompt_tokens": ("prompt tokens", 1.0), "cached_tokens": ("cached tokens", 1.0),
    "generated_tokens": ("generated tokens", 1.0), "images": ("images", 1.0),
    "gpu_milliseconds": ("GPU hours", 1 / 3_600_000), "cpu_milliseconds": ("CPU hours", 1 / 3_600_000),
}  # fmt: skip
"""Amounts of usage that the table shows -> what it calls them, and in which unit."""

RESAMPLING = Resampling(draws=2000, confidence=0.9)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of the sample: rows of one input shard.

    Attributes:
        density: rows of the whole shard per byte.
        readable: share of the shard's rows that could be read.
        rows: number of rows drawn; 0 if none can be read, and then nothing is built.
    """

    density: float
    readable: float
    rows: int


Forecast = dict[str, Estimate]
"""What the whole input will take: "rows", "kept", "money", "seconds.POOL" of one actor, and the names of usage."""


def forecast_build(
    shards: Mapping[str, Location], count: int, trial: Location, build: Callable[[str, str], None],
    prices: Prices, workers: Mapping[str, int], layout: OutputLayout | None = None,
) -> Forecast:  # fmt: skip
    """Build some rows, print what the whole input will take, and write it to TRIAL/estimate.json.

    Args:
        shards: name -> where, of the whole input.
        count: number of rows to build.
        trial: a folder for their input and output, emptied first.
        build: builds an input folder into an output folder.
        prices: of tokens and device time.
        workers: pool -> number of shards that the whole build will have in work there at once.
        layout: of `trial`, if it is no build's: nothing is selected there, so all its samples are kept.

    Raises:
        ValueError: no row of the chosen shards can be read.
    """
    kept = _selected if layout is None else _committed
    layout = layout or OutputLayout(root=trial)
    phase(f"drawing {count:,} rows of {counted(len(shards), 'shard')}")
    parts = sample_rows(shards, count, trial / "in")
    build(str(trial / "in"), str(trial))
    total_bytes = sum(size_of(place) for place in shards.values())
    amounts = {name: _amounts(layout, name, kept) for name, part in parts.items() if part.rows}
    found = forecast(parts, amounts, total_bytes, prices)
    (trial / "estimate.json").put(json.dumps({name: asdict(one) for name, one in found.items()}, indent=1) + "\n")
    print(console.table(_rows(found, prices, workers), f"forecast for {counted(len(shards), 'shard')}"))
    drawn, most = sum(part.rows for part in parts.values()), max(part.rows for part in parts.values())
    print(
        f"From {drawn:,} rows in parts of {most}; in brackets, {RESAMPLING.confidence:.0%} intervals. Whole shards "
        "keep a model busier than such parts: expect fewer hours, not more. Starting machines and loading models comes "
        f"on top. {'The report of these rows' if kept is _selected else 'These rows'}: "
        f"{layout.report if kept is _selected else layout.root / layout.samples}"
    )
    return found


def sample_rows(shards: Mapping[str, Location], count: int, folder: Location, seed: int = 0) -> dict[str, Part]:
    """Write randomly drawn rows as small shards into `folder`; return their names.

    Args:
        shards: name -> where, of the whole input.
        count: number of rows.
        folder: emptied first.
        seed: fixes the draw.

    Raises:
        ValueError: no row of the chosen shards can be read.
    """
    rng = random.Random(seed)
    names, sizes = list(shards), [max(1, size_of(place)) for place in shards.values()]
    chosen = Counter(rng.choices(range(len(names)), weights=sizes, k=min(PARTS, count)))
    folder.delete_tree()
    parts: dict[str, Part] = {}
    for index, times in sorted(chosen.items()):
        rows = read_shard(shards[names[index]])
        samples = [row for row in rows if isinstance(row, Sample)]
        each = -(-count // min(PARTS, count))
        drawn = rng.sample(samples, min(len(samples), times * each))
        for number in range(times):
            some = drawn[number::times]
            if some or not samples:
                name = f"part-{len(parts):02d}"
                if some:
                    write_shard(folder / f"{name}.tar", some)
                density, readable = len(rows) / sizes[index], len(samples) / len(rows)
                parts[name] = Part(density=density, readable=readable, rows=len(some))
    if not any(part.rows for part in parts.values()):
        raise ValueError("no row of the input can be read; build it to see each row's reason in quarantine")
    return parts


def forecast(
    parts: Mapping[str, Part], amounts: Mapping[str, Mapping[str, float]], total_bytes: int, prices: Prices
) -> Forecast:
    """Scale what the parts took to the whole input.

    Args:
        parts: name -> part of the sample.
        amounts: name -> what its rows took: name -> amount; no entry for a part without rows.
        total_bytes: size of the whole input.
        prices: of tokens and device time.
    """
    names = sorted({name for found in amounts.values() for name in found})
    rows_P = np.array([part.density * total_bytes for part in parts.values()])  # if all shards were like the part's
    taken_P = rows_P * [part.readable / max(1, part.rows) for part in parts.values()]
    sums_NP = np.array([[amounts.get(part, {}).get(name, 0.0) for part in parts] for name in names]) * taken_P
    table_KP = np.vstack([rows_P, sums_NP])
    draws_KR, means_K = resampled_means(table_KP, RESAMPLING), table_KP.mean(axis=1)
    sums_NR, whole_N = draws_KR[1:], means_K[1:]

    def with_interval(value: float, draws_R: np.ndarray) -> Estimate:
        return estimate(value, draws_R, len(parts), RESAMPLING.confidence)

    def price(sums_N: np.ndarray) -> float:
        return cost_of({name: round(count) for name, count in zip(names, sums_N, strict=True)}, prices).money

    return {
        "rows": with_interval(float(means_K[0]), draws_KR[0]),
        **{name: with_interval(float(whole_N[at]), sums_NR[at]) for at, name in enumerate(names)},
        "money": with_interval(price(whole_N), np.array([price(sums_N) for sums_N in sums_NR.T])),
    }


def _amounts(layout: OutputLayout, name: str, kept: Callable[[OutputLayout, str], int]) -> dict[str, float]:
    """Return what a part took: the names of usage, "seconds.POOL", and the number of rows "kept"."""
    manifest = read_manifest(layout.manifest(name))
    seconds = {f"seconds.{pool}": spent for pool, spent in manifest.seconds.items()}
    return {**manifest.usage, **seconds, "kept": kept(layout, name)}


def _selected(layout: OutputLayout, name: str) -> int:
    return sum(json.loads(line)["keep"] for line in layout.verdicts(name).read_text().split("\n") if line)


def _committed(layout: OutputLayout, name: str) -> int:
    return read_manifest(layout.manifest(name)).scored


def _rows(found: Forecast, prices: Prices, workers: Mapping[str, int]) -> list[tuple[str, str]]:
    """Return the lines of the table."""
    pools = {pool: number for pool, number in workers.items() if f"seconds.{pool}" in found}
    hours = {pool: _scaled(found[f"seconds.{pool}"], 1 / 3600 / number) for pool, number in pools.items()}
    slowest = max(hours, key=lambda pool: hours[pool].value or 0.0)
    busy = ", ".join(f"{pool} {number}" for pool, number in pools.items())
    rows = [
        ("rows", _text(found["rows"])),
        ("kept", _text(found["kept"])),
        ("hours", f"{_text(hours[slowest])}, limited by {slowest} (shards in work: {busy})"),
    ]
    for name, unit in AMOUNTS.items():
        models = sorted(one.rpartition(".")[0] for one in found if one.endswith(f".{name}"))
        amounts = {model: _scaled(found[f"{model}.{name}"], unit[1]) for model in models}
        rows += [(f"{unit[0]}, {model}", _text(amount)) for model, amount in amounts.items() if amount.value]
    if not prices.known:
        return [*rows, ("cost", "the profile has no prices")]
    kept = found["kept"].value
    each = (
        f", {money((found['money'].value or 0.0) * MILLION / kept, prices.currency)} per million kept" if kept else ""
    )
    return [*rows, ("cost", _text(found["money"], lambda value: money(value, prices.currency)) + each)]


def _scaled(one: Estimate, factor: float) -> Estimate:
    scaled = [None if value is None else value * factor for value in (one.value, one.low, one.high)]
    return Estimate(value=scaled[0], low=scaled[1], high=scaled[2], n=one.n)


def _text(one: Estimate, write: Callable[[float], str] | None = None) -> str:
    """Return a number with its interval; numbers below 100 with two decimals."""
    write = write or (lambda value: trimmed(value, 0 if abs(value) >= 100 else 2))
    interval = "" if one.low is None or one.high is None else f" ({write(one.low)} to {write(one.high)})"
    return write(one.value or 0.0) + interval
