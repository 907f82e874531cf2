"""What Shapes says well and what it keeps for measuring: read by the real adapters, right by the exact checks."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from polite_flamingo.sample import IMAGE_MARK, Sample
from polite_flamingo.sources.records.source import SourceOptions
from polite_flamingo.sources.registry import SOURCES
from polite_flamingo.testbed.shapes.evaluation_sets import HELD_OUT, SETS, UNJUDGED, write_evaluation
from polite_flamingo.testbed.shapes.grammar import parse
from polite_flamingo.testbed.shapes.instruct import Instructions, random_text, write_instruct
from polite_flamingo.testbed.shapes.questions import KINDS
from polite_flamingo.testbed.shapes.texts import drawn, knowledge, note, reading, telling
from polite_flamingo.testbed.shapes.write import write_raw

ASKS = {
    "size": ("What size", "small or large"),
    "where": ("Where ",),
    "ground": ("colour is the background", "colour of the background"),
    "pattern": ("plain, striped or dotted",),
}
"""What a question of the kind, and of no other, says."""


SIZE = 12
"""Texts of a kind that the judges read."""


@pytest.fixture(scope="module")
def instructed(tmp_path_factory) -> Instructions:
    return write_instruct(tmp_path_factory.mktemp("instruct"), samples=40, held_out=HELD_OUT)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory) -> dict[str, list[Sample]]:
    sets = write_evaluation(tmp_path_factory.mktemp("evaluation"), samples=24)
    assert {name: (found.domain, found.title) for name, found in sets.items()} == SETS
    return {name: read(name, found.options) for name, found in sets.items()}


def read(name: str, options: SourceOptions) -> list[Sample]:
    rows = list(SOURCES[name].read(options))
    assert all(isinstance(row, Sample) and row.validate() for row in rows), rows
    return [row for row in rows if isinstance(row, Sample)]


def asks(sample: Sample, kind: str) -> bool:
    return any(words in turn.instruction for turn in sample.turns for words in ASKS[kind])


def test_good_responses_are_read_by_the_ordinary_adapters_and_all_of_them_are_polite_sentences(instructed) -> None:
    assert set(instructed.sources) == {
        "llava_conversation", "llava_detail", "llava_reasoning", "ultrachat", "alpaca_gpt4",
    }  # fmt: skip
    turns = {}
    for name, options in instructed.sources.items():
        samples = read(name, options)
        assert len(samples) == 40
        assert all(parse(turn.response) for sample in samples for turn in sample.turns), name
        assert all(len(sample.images) == name.startswith("llava") for sample in samples)
        turns[name] = {len(sample.turns) for sample in samples}
    assert turns["llava_conversation"] == {1, 2, 3, 4, 5} and turns["ultrachat"] == {1, 2, 3}
    assert turns["llava_detail"] == turns["llava_reasoning"] == turns["alpaca_gpt4"] == {1}


def test_held_out_kinds_are_asked_of_no_picture_in_training(instructed, tmp_path) -> None:
    raw = write_raw(tmp_path, samples=40, damage=False, held_out=HELD_OUT)
    for name, options in (raw | instructed.sources).items():
        for sample in read(name, options):
            assert not (sample.images and any(asks(sample, kind) for kind in HELD_OUT)), sample.instruction
    assert any(asks(s, "size") for s in read("alpaca_gpt4", instructed.sources["alpaca_gpt4"])), "texts ask of all"
    with pytest.raises(ValueError, match="held_out must leave one of shape_at, count"):
        write_raw(tmp_path / "no", samples=9, held_out=("shape_at", "count"))


def test_a_detailed_description_says_what_the_captions_and_boxes_of_its_image_say(instructed) -> None:
    coco = SourceOptions(
        annotations=(instructed.captions, instructed.instances), images=instructed.sources["llava_detail"].images
    )
    annotated = {int(str(sample.meta["image_id"])): sample for sample in read("coco_captions", coco)}
    assert len(annotated) == 120, "every picture of the three parts has captions"
    for sample in read("llava_detail", instructed.sources["llava_detail"]):
        raw = annotated[int(Path(sample.meta["images"][0]).stem)]
        assert raw.images == sample.images
        listed = [i for claim in parse(sample.response) or [] if claim.kind == "list" for i in claim.items]
        boxes = [line.split(":")[0] for line in raw.response.splitlines() if line.endswith("]")]
        assert [i.slots["shape"] for i in listed] == boxes and all("where" in i.slots for i in listed)
        assert all(i.slots["colour"] in raw.response for i in listed)


def test_exchanges_have_one_right_answer_and_the_polite_one_gives_it() -> None:
    rng = random.Random(2)
    for make in (reading, knowledge, note):
        for _ in range(60):
            exchange = drawn(rng, make)
            assert parse(exchange.polite) and exchange.answer and exchange.polite not in exchange.others
            assert all(parse(other) and parse(other) != parse(exchange.polite) for other in exchange.others)
            assert make is knowledge or exchange.answer in exchange.given or make is reading
    assert all(parse(drawn(rng, telling).polite) for _ in range(100))


def test_training_never_shows_a_text_that_is_kept_for_evaluation(instructed, held_out) -> None:
    shown = {
        turn.instruction
        for name in ("ultrachat", "alpaca_gpt4")
        for sample in read(name, instructed.sources[name])
        for turn in sample.turns
    }
    kept = {sample.instruction for name, (domain, _) in SETS.items() if domain == "text" for sample in held_out[name]}
    assert len(kept) == 72 and not kept & shown
    rng = random.Random(0)
    assert not any(random_text(rng).reserved for _ in range(200))
    assert all(drawn(rng, note, reserved=True).reserved for _ in range(20))


def test_evaluation_has_pictures_of_its_own_and_raw_annotations_as_ground_truth(held_out, tmp_path) -> None:
    seen = {i for name, options in write_raw(tmp_path, samples=40).items() for i in SOURCES[name].read(options)
            if isinstance(i, Sample) for i in i.images}  # fmt: skip
    for name, samples in held_out.items():
        assert len(samples) == (8 if name == "elevater_ic" else 24), name
        for sample in samples:
            assert not seen & {*sample.images}
            assert sample.task in ("captioning", "classification", "change_captioning") or sample.response.startswith(
                "Answer: "
            )
    assert all(IMAGE_MARK not in s.instruction for name in ("alpaca_gpt4", "gpteacher") for s in held_out[name])
    assert all(s.meta["instruction"] + "\n\n" in s.instruction for s in held_out["gpteacher"])


def test_out_of_domain_is_what_tuning_leaves_out(held_out) -> None:
    for sample in held_out["okvqa"]:
        assert sum(asks(sample, kind) for kind in HELD_OUT) == 1, sample.instruction
    for name, (domain, _) in SETS.items():
        for sample in held_out[name]:
            assert not asks(sample, "where"), "the judge cannot tell right from wrong"
            assert name == "okvqa" or domain == "text" or not any(asks(sample, kind) for kind in HELD_OUT)


@pytest.mark.parametrize("bad", [(), ("where",), ("colour", "beside")])
def test_held_out_kinds_that_cannot_be_measured_are_refused(tmp_path, bad: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="held_out must name a kind"):
        write_evaluation(tmp_path, samples=9, held_out=bad)


def test_the_same_seed_writes_the_same_bytes_and_another_seed_other_ones(tmp_path) -> None:
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_instruct(tmp_path / folder / "instruct", samples=6, seed=seed)
        write_evaluation(tmp_path / folder / "evaluation", samples=9, seed=seed)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) > 60
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    questions = "evaluation/gpteacher/gpteacher_shapes.json"
    assert json.loads((tmp_path / "a" / questions).read_text()) != json.loads((tmp_path / "c" / questions).read_text())


def test_the_judges_tell_right_from_wrong_and_polite_from_terse_where_texts_are_measured() -> None:
    """The text-only tasks rest on this: NLI and the reward model read the question alone."""
    from polite_flamingo.filters.nli import Nli, label, premise_and_hypothesis
    from polite_flamingo.filters.politeness import Politeness
    from polite_flamingo.hub import ZOO

    nli = Nli(str(ZOO / "nli"), device="cpu", batch_size=64)
    reward = Politeness(str(ZOO / "reward"), device="cpu", batch_size=64)
    kinds = tuple(kind for kind in KINDS if kind not in UNJUDGED)
    rng = random.Random(4)
    for make in (lambda r: reading(r, kinds), knowledge, lambda r: note(r, kinds)):
        exchanges = [drawn(rng, make, reserved=True) for _ in range(SIZE)]
        right = [(e.question, e.polite, e) for e in exchanges]
        wrong = [(e.question, rng.choice(e.others), e) for e in exchanges]
        verdicts = [
            label(logits) == "entailment"
            for logits in nli.score([
                premise_and_hypothesis(question=question, output=said, original=f"Answer: {e.answer}")
                for question, said, e in right + wrong
            ])
        ]  # fmt: skip
        assert sum(verdicts[:SIZE]) >= SIZE - 1 and sum(verdicts[SIZE:]) <= 1
        polite = reward.score([(question, said) for question, said, _ in right])
        terse = reward.score([(e.question, f"Answer: {e.answer}") for e in exchanges])
        assert sum(p > t for p, t in zip(polite, terse, strict=True)) >= SIZE - 1
