"""Tell whether preference pairs can be trusted: ten checks with a verdict each, on one page. No model, no Ray.

    polite-flamingo audit --rated out/rated/rated --pairs out/pairs/pairs --out out/audit
    polite-flamingo audit --rated out/rated/rated --out out/audit --audit.judge reward --audit.reference rule
    polite-flamingo audit --pairs out/pairs/pairs --evaluation out/eval --labels out/votes/labels.jsonl --out out/audit

Reads ratings as `polite-flamingo rate` leaves them and pairs as `polite-flamingo pair` does; either will do, and what
cannot be measured without the other is said. Writes OUT/audit.json and OUT/audit.html. The exit status is 1 if a check
fails. docs/alignment.md says what each check means.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from polite_flamingo.config import to_yaml
from polite_flamingo.preference.audit.audit import Audit, audit
from polite_flamingo.preference.audit.check import Check
from polite_flamingo.preference.audit.duplicates import Questions, neighbours, questions_of
from polite_flamingo.preference.audit.evidence import Collected, gather
from polite_flamingo.preference.audit.limits import AuditSettings
from polite_flamingo.preference.audit.page import VERDICTS, page, shown
from polite_flamingo.preference.audit.people import Labels, read_labels
from polite_flamingo.sample import Sample
from polite_flamingo.storage.discovery import shard_names
from polite_flamingo.storage.foreign_shards import refuse_foreign
from polite_flamingo.storage.in_order import in_order
from polite_flamingo.storage.lease import exclusive
from polite_flamingo.storage.location import Location, location
from polite_flamingo.storage.shards import read_shard
from ray_jobs import console
from ray_jobs.progress import counted
from ray_jobs.resumable_job import begin_run

SHARDS_AHEAD = 2
"""Shards that are read, and held, while one is looked at."""


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """An audit.

    Attributes:
        out: the output folder.
        rated: shards of rated answers: a folder, one .tar, a pattern, a list (.txt), an address.
        pairs: shards of pairs, likewise.
        evaluation: shards of evaluation sets, likewise, whose questions must not be among those of the pairs.
        labels: people's votes and ratings: labels.jsonl of `polite-flamingo vote`.
        audit: whose judgement is audited, and when a check fails.
    """

    out: str
    rated: str = ""
    pairs: str = ""
    evaluation: tuple[str, ...] = ()
    labels: str = ""
    audit: AuditSettings = field(default_factory=AuditSettings)

    def __post_init__(self) -> None:
        """Raise ValueError if there is nothing to audit."""
        if not self.rated and not self.pairs:
            raise ValueError("give rated answers (--rated), pairs (--pairs), or both")


def job(config: AuditConfig) -> int:
    """Run the audit; return the exit status, 1 if a check fails.

    Raises:
        ValueError: the input holds nothing to audit, or it is unclear which judge is meant.
    """
    out = location(config.out)
    labels = read_labels(config.labels) if config.labels else Labels()
    run = replace(begin_run("", {}, to_yaml(config)), title="Polite Flamingo on Ray: audit of preferences")
    inputs = Inputs(config)
    with exclusive(out), tempfile.TemporaryDirectory() as scratch:
        result = _audit(config, inputs, labels, Path(scratch))
        record = {**result.to_json(), "failed_rows": dict(inputs.failed), "run": run.to_json()}
        (out / "audit.json").put(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        samples = inputs.samples_of({(one.pair.shard, one.pair.key) for one in result.suspicious})
        (out / "audit.html").put(page(result, samples, run=run, failed=inputs.failed))
    print_summary(result, inputs.failed, out)
    return 1 if result.verdict == "fail" else 0


def _audit(config: AuditConfig, inputs: Inputs, labels: Labels, scratch: Path) -> Audit:
    """Read everything once, then check."""
    collected = Collected(settings=config.audit)
    folder = scratch / "signatures" if config.audit.near else None
    asked, evaluated = Questions(name="1-pairs", folder=folder), Questions(name="0-evaluation", folder=folder)
    for kind in ("rated", "pairs"):
        for name, samples in inputs.read(kind):
            for sample in samples:
                collected.add(sample, name)
            if kind == "pairs" or not config.pairs:
                asked.add((sample.turns[-1].instruction, sample.images) for sample in samples)
    for _, samples in inputs.read("evaluation"):
        evaluated.add(question for sample in samples for question in questions_of(sample))
    evidence = gather(collected, labels)
    found = neighbours(asked, evaluated, config.audit.limits.near_text, scratch / "near")
    return audit(evidence, found, near=config.audit.near and not asked.lacking)


class Inputs:
    """The shards of an audit, by kind.

    Attributes:
        failed: reason -> number of rows that could not be read.
    """

    def __init__(self, config: AuditConfig) -> None:
        """Find the shards. Raises ValueError if there are none where some are named."""
        self.failed = Counter[str]()
        self._shards: dict[str, dict[str, Location]] = {"rated": {}, "pairs": {}, "evaluation": {}}
        sources = [
            ("rated", config.rated),
            ("pairs", config.pairs),
            *(("evaluation", one) for one in config.evaluation),
        ]
        for number, (kind, source) in enumerate(sources):
            if source:
                shards = shard_names(source, Path(config.out), print)
                refuse_foreign(shards.values())
                self._shards[kind] |= {f"{kind}/{number}/{name}": place for name, place in shards.items()}

    def read(self, kind: str) -> Iterator[tuple[str, list[Sample]]]:
        """Yield name and samples of each shard of a kind; count the other rows."""
        shards = self._shards[kind]
        for name, rows in zip(shards, in_order(read_shard, shards.values(), SHARDS_AHEAD), strict=True):
            self.failed.update(row.reason for row in rows if not isinstance(row, Sample))
            yield name, [row for row in rows if isinstance(row, Sample)]

    def samples_of(self, picks: Collection[tuple[str, str]]) -> dict[tuple[str, str], Sample]:
        """Read samples again, by shard and key."""
        places = {name: place for shards in self._shards.values() for name, place in shards.items()}
        return {
            (shard, row.key): row
            for shard in sorted({shard for shard, _ in picks})
            for row in read_shard(places[shard])
            if isinstance(row, Sample) and (shard, row.key) in picks
        }


def print_summary(result: Audit, failed: Mapping[str, int], out: Location) -> None:
    """Print a line per check, and the verdict."""
    counts = result.counts
    rows = [
        ("judge", (result.judge or "none") + (f", compared with {result.reference}" if result.reference else "")),
        ("rated", f"{counts['answers']:,} answers to {counted(counts['prompts'], 'prompt')}"),
        ("pairs", f"{counts['pairs']:,}"),
    ]
    if failed:
        rows.append(("not read", ", ".join(f"{count:,} {reason}" for reason, count in failed.items())))
    rows += [(one.name, f"{VERDICTS[one.verdict]}{_why(one)}") for one in result.checks]
    rows.append(("page", str(out / "audit.html")))
    print(console.table(rows, f"\n{title_of(result)}"))


def title_of(result: Audit) -> str:
    """Return the verdict in a few words."""
    failing = ", ".join(one.name for one in result.with_verdict("fail"))
    return f"audit: {VERDICTS[result.verdict]}" + (f" ({failing})" if failing else "")


def _why(check: Check) -> str:
    """Return the figures that decided a verdict, or what is missing."""
    if check.verdict == "not_measured":
        return f": needs {check.missing[0]}" if check.missing else ": too few to judge"
    deciding = [one for one in check.measures if one.verdict == check.verdict and check.verdict != "pass"]
    return "".join(f"; {one.name} {shown(one)}" for one in deciding[:MOST_FIGURES])


MOST_FIGURES = 2
"""Most figures that the summary names for a check."""


main = partial(console.run, "audit", __doc__, AuditConfig, job)
"""The command; returns the exit status."""


if __name__ == "__main__":
    sys.exit(main())
