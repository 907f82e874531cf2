"""Turn rated answers into preference pairs, and into sets for rejection sampling, SteerLM and SFT: seconds, no model.

    polite-flamingo pair --input out/rated/rated --out out/pairs
    polite-flamingo pair --input out/rated/rated --out out/noisy --pairing.judge rule --pairing.flips 0.25

    OUT/pairs/SHARD.tar       `rewritten` is the chosen answer, `rejected` the other; all candidates with their ratings
    OUT/rejection/SHARD.tar   the best answer of each prompt, or only answers with full ratings
    OUT/steerlm/SHARD.tar     every rated answer, its prompt asking for the answer's own ratings
    OUT/sft/SHARD.tar         the dataset's answers, or those of a model such as the judge
    OUT/unpaired/SHARD.jsonl  why a prompt gives no pair
    OUT/pairing.json          the settings; written first
    OUT/stats.json            the counts; written last

Everything is made again each time, from the ratings, which are never changed. Ray is not needed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from polite_flamingo.preference.pair_shard import Choices, Counts, Pairing, Unpaired
from polite_flamingo.preference.pairing import TOO_CLOSE, PairingConfig, first_share, judges_of
from polite_flamingo.preference.sets import SETS, SetsConfig
from polite_flamingo.sample import Quarantined, Sample
from polite_flamingo.storage.discovery import shard_names
from polite_flamingo.storage.foreign_shards import refuse_foreign
from polite_flamingo.storage.in_order import in_order
from polite_flamingo.storage.lease import exclusive
from polite_flamingo.storage.location import Location, location
from polite_flamingo.storage.shards import read_shard, write_shard
from ray_jobs import console

SHARDS_AHEAD = 2
"""Shards that are read, and held, while one is written."""

UNPAIRED = "unpaired"


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """Pairs and other sets from rated answers.

    Attributes:
        input: shards of samples with rated candidates: a folder, one .tar, a pattern, a list (.txt), an address.
        out: the output folder.
        pairing: how pairs are made.
        sets: what the other sets are made of.
    """

    input: str
    out: str
    pairing: PairingConfig = field(default_factory=PairingConfig)
    sets: SetsConfig = field(default_factory=SetsConfig)


def pair(config: PairConfig) -> None:
    """Run the job.

    Raises:
        ValueError: the input has no shard, several judges rated it and none is named, or OUT holds something else.
        AllFailed: no prompt gives a pair.
    """
    shards, out = shard_names(config.input, Path(config.out), print), location(config.out)
    refuse_foreign(shards.values())
    with exclusive(out):
        begin(out, config)
        config = replace(config, pairing=with_judge(config, shards))
        counts = write_sets(config, shards, out)
        stats = {"input": config.input, "judge": config.pairing.judge, **counts.to_json()}
        (out / "stats.json").put(json.dumps(stats, indent=1, ensure_ascii=False) + "\n")
    print_summary(stats, out)
    if not counts.pairs:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts.unpaired.most_common())
        raise console.AllFailed(f"none of {counts.prompts:,} prompts gives a pair: {reasons}; see {out / UNPAIRED}")


def begin(out: Location, config: PairConfig) -> None:
    """Note the settings and clear what an earlier run left. Raises `ValueError` if the folder holds anything else."""
    note = out / "pairing.json"
    if not note.exists() and (others := [name for name in out.names("", at_most=3) if name not in _LOCKS]):
        raise ValueError(f"{config.out} holds other files ({others[0]}); give a new or empty folder")
    (out / "stats.json").delete()
    note.put(json.dumps(asdict(config), indent=1) + "\n")
    for name in (*SETS, UNPAIRED):
        (out / name).delete_tree()


_LOCKS = (".lock", "lock.json")


def with_judge(config: PairConfig, shards: Mapping[str, Location]) -> PairingConfig:
    """Return the settings with the judge's name. Raises `ValueError` if it has to be named, or rated nothing."""
    judges: set[str] = set()
    for _, rows in read(shards):
        judges |= judges_of(row for row in rows if isinstance(row, Sample))
        if config.pairing.judge in judges:
            return config.pairing
    named = ", ".join(sorted(judges))
    if config.pairing.judge:
        raise ValueError(f"pairing.judge: {config.pairing.judge!r} rated nothing in {config.input}; {named} did")
    if len(judges) > 1:
        raise ValueError(f"{config.input} has ratings by {named}: choose one with --pairing.judge NAME")
    if not judges:
        raise ValueError(f"{config.input} has no rated answer; run polite-flamingo rate first")
    return replace(config.pairing, judge=judges.pop())


def read(shards: Mapping[str, Location]) -> Iterator[tuple[str, list[Sample | Quarantined]]]:
    """Yield name and rows of each shard."""
    return zip(shards, in_order(read_shard, shards.values(), SHARDS_AHEAD), strict=True)


def choices_of(config: PairConfig, shards: Mapping[str, Location]) -> Choices:
    """Choose the pairs to write and to flip, which needs the keys of all pairs first."""
    pairing = config.pairing
    if pairing.fraction == 1 and not pairing.flips:
        return Choices()
    first = Pairing(pairing, config.sets)
    keys = [key for _, rows in read(shards) for key in first.paired_keys(rows)]
    written = first_share(keys, pairing.fraction, pairing.seed, "fraction")
    return Choices(written=written, flipped=first_share(written, pairing.flips, pairing.seed, "flips"))


def write_sets(config: PairConfig, shards: Mapping[str, Location], out: Location) -> Counts:
    """Write all sets, and why prompts have no pair; return the counts."""
    pairing = Pairing(config.pairing, config.sets, choices_of(config, shards))
    for name, rows in read(shards):
        made, unpaired = pairing.add(rows)
        for kind, samples in made.items():
            if samples:
                write_shard(out / kind / f"{name}.tar", samples)
        if unpaired:
            (out / UNPAIRED / f"{name}.jsonl").put("".join(map(_line, unpaired)))
    counts = pairing.counts
    assert counts.prompts == counts.pairs + counts.unpaired.total(), "each prompt once"
    return counts


def _line(one: Unpaired) -> str:
    return json.dumps(asdict(one), ensure_ascii=False) + "\n"


def print_summary(stats: Mapping[str, Any], out: Location) -> None:
    """Print the counts, with the length of both sides beside their scores."""
    score, words = stats["mean_score"], stats["mean_words"]
    rows = [
        ("prompts", f"{stats['prompts']:,}, rated by {stats['judge']}"),
        ("pairs", f"{stats['pairs']:,}" + (f", {stats['flipped']:,} of them flipped" if stats["flipped"] else "")),
    ]
    if stats["pairs"]:
        rows.append(("  score", f"chosen {score['chosen']:.2f}, rejected {score['rejected']:.2f}"))
        longer = f"chosen is the longer one in {100 * stats['chosen_longer']:.1f} %"
        rows.append(("  words", f"chosen {words['chosen']:.1f}, rejected {words['rejected']:.1f}; {longer}"))
    if stats["left_out"]:
        rows.append(("left out", f"{stats['left_out']:,} pairs, by the fraction"))
    reasons = stats["reasons"].items()
    for group, held in (("too close", True), ("failed", False)):
        rows.append((group, f"{stats[group.replace(' ', '_')]:,}"))
        rows += [(f"  {one}", f"{count:,}") for one, count in reasons if (one in TOO_CLOSE) == held]
    for name, absent in stats["absent"].items():
        why = f" (without {', '.join(f'{count:,} {one}' for one, count in absent.items())})" if absent else ""
        rows.append((name, f"{stats['sets'][name]:,} samples{why}"))
    print(console.table([*rows, ("output", str(out))], f"\n{out}"))


main = partial(console.run, "pair", __doc__, PairConfig, pair)
"""The command; returns the exit status."""


if __name__ == "__main__":
    sys.exit(main())
