"""The demo in small: real adapters, real zoo models, real actors; everything that came in is accounted for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from polite_flamingo.storage.ledger import OutputLayout, read_scored
from polite_flamingo.storage.location import location
from polite_flamingo.storage.shards import read_shard
from ray_jobs import console
from ray_jobs.build_pf1m import BuildConfig
from ray_jobs.demo import PROFILE, DemoConfig, demo, prepare
from tests.support.build_world import outcome, results, stats

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def built(demo_folder: Path) -> Path:
    return demo_folder


def test_the_profile_describes_the_zoo_as_it_was_trained() -> None:
    from polite_flamingo import hub
    from polite_flamingo.testbed.zoo.flamingo import zoo_config

    arguments = ["--profile", str(PROFILE), "--input", "in", "--out", "out"]
    flamingo = console.parse("b", "", BuildConfig, arguments).rewriter.flamingo
    resolved = replace(
        flamingo,
        vision=hub.resolve(flamingo.vision),
        language_model=hub.resolve(flamingo.language_model),
        tokenizer=hub.resolve(flamingo.tokenizer),
        checkpoints=tuple(hub.resolve(name) for name in flamingo.checkpoints),
        lora=hub.resolve(flamingo.lora),
    )
    assert resolved == zoo_config(hub.ZOO, lora=True)


def test_every_annotation_is_kept_rejected_or_quarantined(built: Path) -> None:
    layout = OutputLayout(root=built)
    shards = sorted((built / "ingested").glob("*.tar"))
    assert layout.finished() == [path.stem for path in shards]
    rows_in = sum(len(read_shard(path)) for path in shards)
    found = stats(built)
    rejected, quarantined = found["rejected"], found["quarantined"]
    assert isinstance(rejected, dict)
    assert isinstance(quarantined, dict)
    assert found["rows_in"] == rows_in
    assert found["kept"] + sum(rejected.values()) + sum(quarantined.values()) == rows_in  # type: ignore[operator]
    assert outcome(built).total() == rows_in
    assert quarantined["corrupt_image"] >= 1, "the raw data holds a picture that was cut short in each dataset"


def test_a_demo_in_a_bucket_begins_with_the_same_rows(tmp_path: Path, bucket: str) -> None:
    """Raw data are drawn on this machine and uploaded; ingest reads them and writes shards where they lie."""
    places = location(tmp_path), location(bucket)
    for out in places:
        prepare(DemoConfig(out=str(out), samples=9, samples_per_shard=5), out)
        with pytest.raises(ValueError, match="holds a demo of another size"):
            prepare(DemoConfig(out=str(out), samples=10), out)
    files = [{name for name in out.names() if not name.endswith("lock.json")} for out in places]
    assert files[0] == files[1]
    shards = (places[0] / "ingested").names(".tar")
    assert len(shards) > 7
    for name in shards:
        here, there = (out / "ingested" / f"{name}.tar" for out in places)
        assert here.read_bytes() == there.read_bytes()


def test_all_datasets_and_categories_pass_through_real_models(built: Path) -> None:
    layout = OutputLayout(root=built)
    samples = [sample for name in layout.finished() for sample in read_scored(layout, name)]
    assert len({sample.dataset for sample in samples}) >= 6
    assert {sample.task for sample in samples} == {
        "captioning", "classification", "change_captioning", "vqa_rationale", "vqa",
    }  # fmt: skip
    assert all(sample.rewritten is not None for sample in samples)
    assert sum(sample.scores["reward"] > sample.scores["reward_raw"] for sample in samples) > len(samples) / 2
    by_key = {s.key: s for path in (built / "ingested").glob("*.tar") for s in read_shard(path)}
    assert all(by_key[sample.key].images == sample.images for sample in samples), "images pass through bit-exact"  # type: ignore[union-attr]


def test_the_output_folder_is_laid_out_as_promised(built: Path) -> None:
    for name in ("pf1m.json", "llava.json", "stats.json", "README.md", "config.yaml", "run.json", "report.html"):
        assert (built / name).stat().st_size > 0, name
    records = json.loads((built / "pf1m.json").read_text())
    assert len(records) == stats(built)["kept"]


def test_again_it_has_nothing_to_do(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = results(built)
    demo(DemoConfig(out=str(built), samples=12, samples_per_shard=8))
    assert "shards are already done" in capsys.readouterr().out
    assert results(built) == before
    with pytest.raises(ValueError, match="another size or seed; give another --out, or --fresh"):
        demo(DemoConfig(out=str(built), samples=13))
