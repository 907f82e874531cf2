"""Run quarantined rows again after their cause was fixed.

    polite-flamingo replay --out out/demo --reason killed_worker

Reads the input shards again, runs the rows that can be read now through the same models and settings (OUT/config.yaml),
and puts the results into extra shards `NAME~replay-1`. Their rows leave the quarantine of NAME, so the counts of the
output folder add up before and after. Rows that still fail stay in quarantine.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial

from polite_flamingo.config import load
from polite_flamingo.sample import REASONS
from polite_flamingo.storage.ledger import OutputLayout
from ray_jobs import console, select
from ray_jobs.build_pf1m import BuildConfig, job_of, rewrite_and_score
from ray_jobs.replay_ledger import declare, readable_rows, settle
from ray_jobs.selection_summary import conclude


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """Which quarantined rows to run again.

    Attributes:
        out: the output folder of a build.
        reason: only rows quarantined for these reasons, such as '[corrupt_image,killed_worker]'; all by default.
    """

    out: str
    reason: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = [reason for reason in self.reason if reason not in REASONS]
        if unknown:
            raise ValueError(f"reason {unknown[0]!r} is none of {', '.join(REASONS)}")


def replay(config: ReplayConfig, rewriting_actor: type | None = None, scoring_actor: type | None = None) -> None:
    """Run the job; see `build` for the arguments and errors."""
    layout = OutputLayout(root=config.out)
    if not layout.config.exists():
        raise ValueError(f"{config.out} holds no build; run polite-flamingo build first")
    build = load(BuildConfig, layout.config, {"out": config.out})
    job = job_of(build)
    with job.locked():
        settle(layout)
        shards = dict(declare(layout, rows) for rows in readable_rows(layout, config.reason))
        if not shards:
            print("nothing to run again: no quarantined row of these reasons can be read now")
            return
        rewrite_and_score(job, shards, build, None, rewriting_actor, scoring_actor)
        settle(layout)
        select.select(layout, build.thresholds)
        conclude(layout)


main = partial(console.run, "replay", __doc__, ReplayConfig, replay)
"""The command; returns the exit status."""


if __name__ == "__main__":
    sys.exit(main())
