"""`python -m tests.support.run_apart FOLDER BUCKET`: all jobs on three machines, with a shared disk and without one.

Ingest, build, select, distort and evaluate run twice on one cluster: with FOLDER/shared, which the driver and all nodes
see, and with BUCKET, while the driver has another FOLDER than the nodes (a mount namespace of its own). In the second
build a node is killed. The models are fake. Prints what the jobs left in each place as JSON on the last line.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from actors.answering import AnsweringActor
from actors.judging import JudgingActor
from benchmarks.pipeline.losable_cluster import LosableCluster, join
from polite_flamingo.faults import journal
from polite_flamingo.filters.thresholds import Thresholds
from polite_flamingo.storage.ledger import OutputLayout, read_quarantine, read_scored
from polite_flamingo.storage.location import Location, location
from ray_jobs import console, ingest, select
from ray_jobs.build_pf1m import BuildConfig, build
from ray_jobs.distort import DistortConfig, distort
from ray_jobs.evaluate import EvaluateConfig, evaluate
from tests.support import fake_actors
from tests.support.patience import wait_until
from tests.support.run_on_gpus import AnyScores, Distorting

REPO = Path(__file__).parents[2]
PROFILE = REPO / "profiles" / "tiny.yaml"
ROWS, ROWS_PER_SHARD = 90, 10
"""Nine parts: ingest takes Ray from eight on."""

POOLS = ("--pools.rewriting.max_actors", "2", "--pools.rewriting.cpus", "0.5", "--pools.scoring.cpus", "0.5",
         "--pools.rewriting.rows_per_call", "5")  # fmt: skip


class Answering(AnsweringActor):
    def load(self, config: object) -> fake_actors.FakeRewriter:
        return fake_actors.FakeRewriter()


class Judging(JudgingActor):
    def load(self, config: object) -> Any:
        return SimpleNamespace(nli=AnyScores([0.0, 1.0, 0.0]), sts=AnyScores(0.5), reward=AnyScores(1.0))


def main(root: Path, bucket: str) -> None:
    """Start the machines; run the driver's two halves, the second where the nodes' folder is hidden."""
    os.environ["PYTHONPATH"] = str(REPO)  # the driver leaves this folder
    cluster = LosableCluster()
    nodes = [cluster.add(2) for _ in range(3)]
    drive = [sys.executable, "-m", "tests.support.run_apart", str(root), bucket, cluster.address]
    shared = subprocess.run([*drive, str(root / "shared")], stdout=subprocess.PIPE, text=True, check=True)
    hidden = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs "$0" && exec "$@"', str(root)]
    layout = OutputLayout(root=f"{bucket}/built")

    def lose_one() -> None:
        wait_until(lambda: journal.rows_done(layout.journal, "rewriting") > 0, 300)
        cluster.lose(nodes[0])

    killer = threading.Thread(target=lose_one, daemon=True)
    killer.start()
    apart = subprocess.run([*hidden, *drive, bucket], stdout=subprocess.PIPE, text=True, check=True)
    killer.join(10)
    cluster.end()
    found = [json.loads(run.stdout.splitlines()[-1]) for run in (shared, apart)]
    print(json.dumps({"shared": found[0], "apart": found[1], "lost": not killer.is_alive()}))


def run_jobs(root: Path, place: Location, address: str) -> None:
    """Run all jobs at a place, as a driver on the cluster; print what they left."""
    scratch = root / "of-the-driver"
    scratch.mkdir(parents=True)
    os.chdir(scratch)
    os.environ["TMPDIR"] = str(scratch)
    join(address)
    table = "question,answer\n" + "".join(f"What is {n}?,{'slow ' * 9}number {n}\n" for n in range(ROWS))
    (place / "raw.csv").put(table)
    asked = ["--source", "table", "--annotations", str(place / "raw.csv"), "--out", str(place / "in")]
    columns = ["--columns", "instruction=question", "response=answer"]
    assert ingest.main([*asked, *columns, "--samples_per_shard", str(ROWS_PER_SHARD)]) == 0
    paths = ("--input", str(place / "in"), "--out")
    build(
        configured("build", BuildConfig, *paths, str(place / "built"), *POOLS),
        fake_actors.FakeRewriterActor, fake_actors.FakeScoringActor,
    )  # fmt: skip
    select.select(OutputLayout(root=place / "built"), Thresholds(min_words=5))
    spoken = ("--distortion.speaker", "rules", "--distortion.retrieval.annotations", "[]")
    spoken += ("--distortion.shares.text", "0", "--distortion.shares.captions_and_boxes", "0")
    distort(configured("distort", DistortConfig, *paths, str(place / "pairs"), *spoken), Distorting)
    contestant = ("--contestants.polite", str(PROFILE), "--evaluation.resampling.draws", "20")
    judged = configured("evaluate", EvaluateConfig, *paths, str(place / "evaluation"), *contestant, *POOLS[:6])
    evaluate(judged, Answering, Judging)
    print(json.dumps(left_at(place)))


def configured(name: str, kind: type, *arguments: str) -> Any:
    return console.parse(name, "", kind, ["--profile", str(PROFILE), *arguments])


def left_at(place: Location) -> dict[str, Any]:
    """Return what must not depend on where the jobs ran."""
    left: dict[str, Any] = {}
    for name, samples in (("built", "scored"), ("pairs", "pairs")):
        layout = OutputLayout(root=place / name, samples=samples)
        shards = layout.finished()
        rows = [[row.key, row.rewritten, row.scores] for shard in shards for row in read_scored(layout, shard)]
        bad = [[row.key, row.index, row.reason] for shard in shards for row in read_quarantine(layout, shard)]
        left[name] = {"shards": len(shards), "rows": len(rows), "quarantined": len(bad), "all": digest([rows, bad])}
    for file in ("pf1m.json", "llava.json"):
        left[file] = digest((place / "built" / file).read_text())
    results = json.loads((place / "evaluation" / "results.json").read_text())
    left["evaluation"] = {name: results[name] for name in ("samples", "answers", "wins")}
    return left


def digest(what: Any) -> str:
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


if __name__ == "__main__":
    if len(sys.argv) == 3:
        main(Path(sys.argv[1]), sys.argv[2])
    else:
        run_jobs(Path(sys.argv[1]), location(sys.argv[4]), sys.argv[3])
