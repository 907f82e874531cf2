"""Summarise a distortion: counts of pairs that add up over shards, and the pairs that the page shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from polite_flamingo.distortion.config import KINDS
from polite_flamingo.distortion.pairs import reasons_of
from polite_flamingo.sample import Quarantined, Sample

Counts = dict[str, dict[str, int]]

COUNTED = (
    "kinds", "speakers", "wordings", "commands", "followed", "not_followed", "steps", "datasets", "instead_of", "draws",
    "not_taken",
)  # fmt: skip

FACTS = {"kind": "kinds", "speaker": "speakers", "wording": "wordings", "followed": "followed", "draws": "draws"}
"""Fact of a pair -> its name among the counts."""

MAX_SHARDS_READ = 40
"""Most shards to read for the page; every shard has all kinds."""


def count(rows: Sequence[Sample | Quarantined]) -> Counts:
    """Count the pairs of a shard by kind, speaker, command, augmentation step, dataset and replaced kind.

    `not_taken` counts rejected attempts, including those of rows without a pair; `followed` and `not_followed` count
    extra commands.
    """
    counted: dict[str, Counter[str]] = {name: Counter() for name in COUNTED}
    for row in rows:
        if not isinstance(row, Sample):
            counted["not_taken"].update(reasons_of(row))
            continue
        done = row.provenance["distortion"]
        counted["datasets"][row.dataset] += 1
        for fact, name in FACTS.items():
            if fact in done:
                counted[name][str(done[fact])] += 1
        if done["kind"] == "llm":
            counted["commands"][done["command"] or "none"] += 1
        if done.get("followed") == "no":
            counted["not_followed"][done["command"]] += 1
        counted["steps"].update(_steps(done))
        counted["not_taken"].update(done.get("not_taken", {}))
        if "instead_of" in done:
            counted["instead_of"][f"{done['instead_of']['kind']}: {done['instead_of']['reason']}"] += 1
    return {name: dict(sorted(counter.items())) for name, counter in counted.items()}


def _steps(done: Mapping[str, Any]) -> list[str]:
    plain = [step for step in ("keep_first", "shuffled") if step in done]
    return plain + [f"{step} {done[step]['action']}" for step in ("characters", "words") if step in done]


def total(counts: Iterable[Mapping[str, Mapping[str, int]]]) -> Counts:
    """Add up the counts of shards."""
    summed: dict[str, Counter[str]] = {}
    for one in counts:
        for name, counter in one.items():
            summed.setdefault(name, Counter()).update(counter)
    return {
        name: dict(sorted(counter.items(), key=lambda item: (-item[1], item[0]))) for name, counter in summed.items()
    }


def pick(shards: Iterable[str], read: Callable[[str], Iterable[Sample]], per_kind: int) -> dict[str, list[Sample]]:
    """Choose the pairs to show, at most `per_kind` of each kind, with as many different commands and steps as possible.

    Args:
        shards: their names, in order.
        read: returns the pairs of a shard.
        per_kind: how many of each kind.
    """
    found: dict[str, dict[str, list[Sample]]] = {kind: {} for kind in KINDS}
    for number, name in enumerate(shards):
        if number >= MAX_SHARDS_READ or all(sum(map(len, ways.values())) >= 6 * per_kind for ways in found.values()):
            break
        for sample in read(name):
            done = sample.provenance["distortion"]
            way = done.get("command") or ", ".join(_steps(done))
            ways = found[done["kind"]].setdefault(way, [])
            if len(ways) < per_kind:
                ways.append(sample)
    return {kind: _in_turn(list(ways.values()), per_kind) for kind, ways in found.items() if ways}


def _in_turn(ways: Sequence[Sequence[Sample]], limit: int) -> list[Sample]:
    return [sample for turn in zip_longest(*ways) for sample in turn if sample is not None][:limit]
