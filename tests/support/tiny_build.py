"""`build_pf1m` in small, in its own process: the same options, shards and ledger, with fake models and without Ray.

An annotation says what happens to it: "kill" ends this process the first time, "wait" waits for a file OUT/released,
"raise" is quarantined; if there is nothing else, the exit status is 1, as in a build.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import yaml

from polite_flamingo.sample import Quarantined, Sample
from polite_flamingo.storage.discovery import shard_names
from polite_flamingo.storage.lease import exclusive
from polite_flamingo.storage.ledger import (
    Manifest,
    OutputLayout,
    commit_shard,
    read_manifest,
)
from polite_flamingo.storage.location import Location
from polite_flamingo.storage.shards import read_shard

SCORES = {
    "words": 9, "characters": 50, "same_text": False, "rouge_l": 0.5, "repetition": 0.0, "reward_raw": -1.0,
    "reward": 1.0, "sts": 0.9, "nli": [0.0, 1.0, 2.0], "clip_paragraphs": [20.0],
}  # fmt: skip
"""Scores that pass every threshold."""


def outcome(row: Sample, shard: str, index: int, out: Location) -> Sample | Quarantined:
    """Return a row as the build leaves it."""
    while "wait" in row.response and not (out / "released").exists():
        time.sleep(0.01)
    if "kill" in row.response and not (out / "killed").exists():
        (out / "killed").put("")
        os.kill(os.getpid(), signal.SIGKILL)
    if "raise" in row.response:
        detail = f"{row.key}: RuntimeError: cannot digest it"
        return Quarantined(key=row.key, shard=shard, index=index, reason="rewriting_failed", detail=detail)
    return replace(row, rewritten=f"Certainly! It seems to be {row.response}, as one can see.", scores=SCORES)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("profile", "input", "out"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    profile = yaml.safe_load(Path(options.profile).read_text())
    assert set(profile) >= {"rewriter", "scoring", "thresholds"}
    layout = OutputLayout(root=options.out)
    with exclusive(layout.root, lease_seconds=2.0):
        for name, path in shard_names(options.input).items():
            if layout.manifest(name).exists():
                continue
            rows = [
                row if isinstance(row, Quarantined) else outcome(row, str(path), index, layout.root)
                for index, row in enumerate(read_shard(path))
            ]
            commit_shard(
                layout,
                name,
                rows,
                lambda scored, quarantined, path=path: Manifest(
                    shard=str(path), rows_in=scored + quarantined, scored=scored, quarantined=quarantined,
                    config_hash="tiny",
                ),
            )  # fmt: skip
        layout.stats.put("{}")
        if not any(read_manifest(layout.manifest(name)).scored for name in layout.finished()):
            raise SystemExit(1)


if __name__ == "__main__":
    main()
