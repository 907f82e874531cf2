"""Compare two builds of the same input, such as two rewriters: one page with funnels, win rates, costs and examples.

    polite-flamingo compare out/raw out/polite
    polite-flamingo compare out/text_only out/vision --to comparison.html

Both must have a finished selection. Samples are joined by shard and key; what only one build has is counted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from polite_flamingo.comparison.outcomes import Comparison, Judged, judged_turns
from polite_flamingo.config import fill
from polite_flamingo.cost import Prices, cost_from
from polite_flamingo.evaluation.bootstrap import Resampling
from polite_flamingo.report.comparison import Side, funnel, interval, page
from polite_flamingo.selection.statistics import Statistics
from polite_flamingo.storage.ledger import OutputLayout, read_quarantine, read_scored, undamaged
from polite_flamingo.storage.location import location
from polite_flamingo.storage.run_info import read_run, read_stats
from ray_jobs import console
from ray_jobs.progress import counted


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """A comparison.

    Attributes:
        first: output folder of a build, such as that of the baseline.
        second: output folder of another build of the same input.
        to: the page to write.
        resampling: how the intervals are made.
    """

    first: str = field(metadata={"metavar": "FOLDER"})
    second: str = field(metadata={"metavar": "FOLDER"})
    to: str = "comparison.html"
    resampling: Resampling = field(default_factory=Resampling)


def compare(config: CompareConfig) -> None:
    """Run the job.

    Raises:
        ValueError: a folder has no finished selection, or the builds have no shard in common.
    """
    layouts = [OutputLayout(root=place) for place in (config.first, config.second)]
    sides = [_side(layout) for layout in layouts]
    finished = [layout.finished() for layout in layouts]
    shared = sorted({*finished[0]} & {*finished[1]})
    if not shared:
        raise ValueError(
            f"{config.first} and {config.second} have no shard in common; compare builds of the same input"
        )
    for place, names in zip((config.first, config.second), finished, strict=True):
        if others := len(names) - len(shared):
            print(f"{place} has {counted(others, 'shard')} that the other does not have; only its funnel counts them")
    comparison = Comparison()
    for name in shared:
        first, second = (_judged(layout, name) for layout in layouts)
        comparison.add_shard(first[0], second[0], (first[1], second[1]))
    apart = sum(count for pair, count in comparison.outcomes.items() if "absent" in pair)
    if apart == comparison.outcomes.total():
        raise ValueError(f"{config.first} and {config.second} have no text in common; compare builds of the same input")
    if apart:
        print(f"{apart:,} of {comparison.outcomes.total():,} texts are in one of the builds only: other input")
    target = location(config.to)
    target.put(page(sides[0], sides[1], comparison, config.resampling))
    rows = [
        (name, " / ".join(f"{count:,}" for count in counts))
        for name, counts in funnel(sides[0].counts, sides[1].counts)
    ]
    rows.append(
        ("second preferred", f"{interval(comparison.win_rate(config.resampling), share=True)} of texts by reward")
    )
    rows.append(("page", str(target)))
    print(console.table(rows, f"{config.first} / {config.second}"))


def _side(layout: OutputLayout) -> Side:
    """Return what a build's own files say of it."""
    run = read_run(layout)
    if run is None or not layout.stats.exists():
        raise ValueError(f"{layout.root} holds no finished selection; give the --out of a polite-flamingo build")
    stats = read_stats(layout)
    if "cost" not in stats:
        raise ValueError(
            f"{layout.stats} is of an earlier version; run polite-flamingo select --out {layout.root} and compare again"
        )
    with undamaged(layout.stats, "run polite-flamingo select again"):
        counts = Statistics.from_json(stats["statistics"]).total()
        cost = cost_from(stats["cost"], fill(Prices, stats["cost"]["prices"]))
    return Side(name=str(layout.root), counts=counts, run=run, cost=cost, thresholds=stats["thresholds"])


def _judged(layout: OutputLayout, name: str) -> tuple[dict[str, Judged], frozenset[str]]:
    """Return the turns of a shard, and the keys of what was quarantined."""
    place, samples = layout.verdicts(name), read_scored(layout, name)
    if not place.exists():
        raise ValueError(f"{place} is missing; run polite-flamingo select again")
    with undamaged(place, "run polite-flamingo select again"):
        records = [json.loads(line) for line in place.read_text().split("\n") if line]
        found = judged_turns(samples, records)
    return found, frozenset(row.key for row in read_quarantine(layout, name))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status. The two folders may stand first, without the names of their options."""
    given = [*(sys.argv[1:] if arguments is None else arguments)]
    if len(given) > 1 and not any(one.startswith("-") for one in given[:2]):
        given[:2] = ["--first", given[0], "--second", given[1]]
    return console.run("compare", __doc__, CompareConfig, compare, given)


if __name__ == "__main__":
    sys.exit(main())
