"""`python -m tests.support.run_on_gpus FOLDER`: all jobs that map actors, with the 9B pools, on logical GPUs.

The models are fake; the profile, the pools, Ray and its scheduling of GPUs are real. It runs in its own process,
because the Ray that tests share has no GPU, and prints the outcome as JSON on the last line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray

from actors.answering import AnsweringActor
from actors.distortion import DistortionActor
from actors.judging import JudgingActor
from polite_flamingo.distortion.config import DistortionConfig
from polite_flamingo.distortion.rule_speaker import RuleSpeaker
from polite_flamingo.distortion.speakers import Speaker
from polite_flamingo.storage.ledger import OutputLayout, read_manifest
from polite_flamingo.storage.shards import write_shard
from ray_jobs import console
from ray_jobs.build_pf1m import BuildConfig, build
from ray_jobs.distort import DistortConfig, distort
from ray_jobs.evaluate import EvaluateConfig, evaluate
from ray_jobs.replay import ReplayConfig, replay
from tests.support import fake_actors
from tests.support.build_world import text_row, write_world

PROFILE = Path(__file__).parents[2] / "profiles" / "openflamingo-9b-v1.yaml"
SIZES = (1, 70, 700)
"""Rows per shard: fewer and more than any `rows_per_call`, and never Ray Data's preferred number."""


class Whole:
    """Tells the shard's size as this worker sees it: all in one call of the actor, or the block was cut."""

    def __call__(self, table: Any) -> Any:
        assert ray.get_gpu_ids(), "this worker has been given no GPU"
        sizes = set(table["shard_rows"].to_pylist())
        assert sizes == {table.num_rows}, f"a block of {table.num_rows} rows is a piece of {sizes}, or several shards"
        return super().__call__(table)  # type: ignore[misc]


class Rewriting(Whole, fake_actors.FakeRewriterActor):
    pass


class Scoring(Whole, fake_actors.FakeScoringActor):
    pass


class Answering(Whole, AnsweringActor):
    def load(self, config: object) -> fake_actors.FakeRewriter:
        return fake_actors.FakeRewriter()


class AnyScores:
    """Likes everything equally."""

    def __init__(self, score: Any):
        self._score = score

    def score(self, pairs: Sequence[Any]) -> list[Any]:
        return [self._score for _ in pairs]


class Judging(Whole, JudgingActor):
    def load(self, config: object) -> Any:
        return SimpleNamespace(nli=AnyScores([0.0, 1.0, 0.0]), sts=AnyScores(0.5), reward=AnyScores(1.0))


class Distorting(DistortionActor):
    def load_speaker(self, config: DistortionConfig) -> Speaker:
        return RuleSpeaker()


def configured(name: str, kind: type, *arguments: str) -> Any:
    return console.parse(name, "", kind, ["--profile", str(PROFILE), *arguments])


def main(root: Path) -> None:
    source, out = root / "in", root / "pf1m"
    for shard, rows in enumerate(SIZES):
        write_shard(source / f"s{shard}.tar", [text_row(shard, row) for row in range(rows)])
    write_world(root / "odd", shards=1, rows=8, special={(0, 5): "raise"})
    (root / "odd" / "s0.tar").rename(source / "odd.tar")
    found: dict[str, Any] = {}
    with ray.init(
        address="local", num_cpus=12, num_gpus=2, include_dashboard=False, object_store_memory=300 << 20,
        log_to_driver=False,
    ):  # fmt: skip
        paths = ("--input", str(source), "--out")
        build(configured("build_pf1m", BuildConfig, *paths, str(out)), Rewriting, Scoring)
        layout = OutputLayout(root=out)
        found["build"] = {name: read_manifest(layout.manifest(name)).scored for name in layout.finished()}
        write_shard(source / "odd.tar", [text_row(0, row) for row in range(8)])  # the row is mended
        replay(ReplayConfig(out=str(out), reason=("rewriting_failed",)), Rewriting, Scoring)
        found["replay"] = {name: read_manifest(layout.manifest(name)).scored for name in layout.finished()}
        spoken = ("--distortion.speaker", "rules", "--distortion.retrieval.annotations", "[]")
        spoken += ("--distortion.shares.text", "0", "--distortion.shares.captions_and_boxes", "0")
        spoken += ("--pools.distorting.gpus", "0.5")
        distort(configured("distort", DistortConfig, *paths, str(root / "pairs"), *spoken), Distorting)
        found["distort"] = json.loads((root / "pairs" / "stats.json").read_text())["pairs"]
        asked = ("--contestants.polite", str(PROFILE), "--evaluation.resampling.draws", "20")
        evaluate(configured("evaluate", EvaluateConfig, *paths, str(root / "evaluation"), *asked), Answering, Judging)
        results = json.loads((root / "evaluation" / "results.json").read_text())
        found["evaluate"] = {"samples": results["samples"], **results["answers"]["polite"]}
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
