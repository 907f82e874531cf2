"""Pairs and ratings go into each trainer's format whole, and what is exported is imported again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from polite_flamingo.candidates import ATTRIBUTES
from polite_flamingo.preference.formats.exports import PREFERENCE_EXPORTS
from polite_flamingo.preference.pairing import mean_ratings
from polite_flamingo.sample import IMAGE_MARK, Sample, Turn
from polite_flamingo.sources.records.source import SourceOptions
from polite_flamingo.sources.registry import SOURCES
from polite_flamingo.storage.shards import read_shard, write_shard
from ray_jobs.export import main as export
from ray_jobs.pair import main as pair
from tests.support.made_samples import picture
from tests.support.rated_answers import rated, rating
from tests.support.raw_dataset import both

GOOD, BAD = [4, 4, 4, 2, 3], [0, 0, 1, 2, 1]


def talk(key: str) -> Sample:
    """A conversation with a picture in each turn."""
    before = (Turn(instruction="What is <image> this?", response="A drawing."),)
    sample = rated(key, {"Two shapes.": GOOD, "Three shapes.": BAD}, before=before)
    return dataclasses.replace(sample, images=(picture(7), picture(8)))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve prompts: six with a picture, four without, a conversation, and one without a pair."""
    root = tmp_path_factory.mktemp("formats")
    rows = [rated(f"d/t/{n}", {f"Two, {n}.": GOOD, f"Three, {n}.": BAD}) for n in range(6)]
    rows = [dataclasses.replace(row, images=(picture(n),)) for n, row in enumerate(rows)]
    rows += [rated(f"d/t/text{n}", {f"Two, {n}.": GOOD, f"Three, {n}.": BAD}, pictures=0) for n in range(4)]
    twice = rated("d/t/close", {"Two.": GOOD, "2.": GOOD})
    first = twice.candidates[0]
    ratings = (*first.ratings, rating(3, 4, 4, 2, 3, sample=1), rating(1, 1, 1, judge="other", reason="No."))
    twice = dataclasses.replace(twice, candidates=(dataclasses.replace(first, ratings=ratings), twice.candidates[1]))
    write_shard(root / "rated/s0.tar", [*rows, talk("d/t/talk"), twice])
    assert pair(["--input", str(root / "rated"), "--out", str(root / "out"), "--pairing.judge", "rule"]) == 0
    return root / "out"


def exported(out: Path, name: str, to: Path) -> Path:
    assert export(["--out", str(out), "--format", name, "--to", str(to)]) == 0
    return to


def load(folder: Path, cache: Path) -> list[dict[str, Any]]:
    return list(datasets.load_dataset(str(folder), split="train", cache_dir=str(cache)))


def pairs(out: Path) -> dict[str, Sample]:
    rows = read_shard(out / "pairs/s0.tar")
    return {row.key: row for row in rows if isinstance(row, Sample)}


def imported(source: str, path: Path, images: Path | None = None) -> list[Sample]:
    samples, quarantined = both(SOURCES[source].read(SourceOptions(annotations=(path,), images=images)))
    assert not quarantined, quarantined
    return samples


def same(found: list[Sample], wanted: list[Sample]) -> None:
    """The same prompts, pictures and sides, whatever else a format forgets."""

    def told(sample: Sample) -> Any:
        said = [turn.instruction.replace("\n", "").replace(" ", "") for turn in sample.turns]
        return said, [image.data for image in sample.images], sample.rewritten, sample.rejected

    assert sorted(map(told, found)) == sorted(map(told, wanted)) and found


def test_trl_s_pairs_show_pictures_where_the_messages_do(out: Path, tmp_path: Path) -> None:
    folder = exported(out, "trl", tmp_path / "trl")
    rows = {row["key"]: row for row in load(folder, tmp_path / "cache")}
    assert sorted(rows) == sorted(pairs(out)) and len(rows) == 11
    row = rows["d/t/talk"]
    assert [message["role"] for message in row["prompt"]] == ["user", "assistant", "user"]
    assert [part["type"] for message in row["prompt"] for part in message["content"]] == [
        "text", "image", "text", "text", "image", "text",
    ]  # fmt: skip
    assert row["chosen"] == [{"role": "assistant", "content": [{"type": "text", "text": "Two shapes."}]}]
    assert [image.size for image in row["images"]] == [(16, 16)] * 2 and rows["d/t/text0"]["images"] == []
    said = (folder / "README.md").read_text()
    assert "Rated by rule: 11 pairs of 12 prompts. The chosen answer has 2.0 words, the rejected 2.0" in said
    same(imported("trl_pairs", folder / "data"), [*pairs(out).values()])


def test_a_language_model_gets_texts(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = exported(out, "trl_text", tmp_path / "to")
    assert "11 samples as trl_text: 4 records of 4 samples; 7 left out (shows a picture)" in capsys.readouterr().out
    row = next(row for row in load(folder, tmp_path / "cache") if row["key"] == "d/t/text0")
    assert row["prompt"] == [{"role": "user", "content": "How many shapes?"}] and "images" not in row
    assert (row["chosen"][0]["content"], row["rejected"][0]["content"]) == ("Two, 0.", "Three, 0.")
    same(imported("trl_pairs", folder / "data"), [one for one in pairs(out).values() if not one.images])


def test_llama_factory_finds_pairs_and_single_answers_by_its_description(out: Path, tmp_path: Path) -> None:
    folder = exported(out, "llama_factory_pairs", tmp_path / "dpo")
    info = json.loads((folder / "dataset_info.json").read_text())["polite_flamingo"]
    assert info["ranking"] is True
    lines = [json.loads(line) for line in (folder / "data/00000.jsonl").open()]
    for line in lines:
        assert set(line) == set(info["columns"].values()) and line["conversations"][-1]["from"] == "human"
        text = "".join(message["value"] for message in line["conversations"])
        assert text.count(IMAGE_MARK) == len(line["images"]) and all(
            (folder / path).exists() for path in line["images"]
        )
    same(imported("llama_factory_pairs", folder, folder), [*pairs(out).values()])

    folder = exported(out, "llama_factory_kto", tmp_path / "kto")
    lines = [json.loads(line) for line in (folder / "data/00000.jsonl").open()]
    assert [line["kto_tag"] for line in lines] == [True, False] * 11
    assert [line["messages"][-1]["content"] for line in lines[:2]] == ["Two, 0.", "Three, 0."]
    assert json.loads((folder / "export.json").read_text())["records"] == 22
    assert len(load(folder, tmp_path / "cache")) == 22


def test_rlaif_v_holds_one_picture_and_one_turn(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = exported(out, "rlaif_v", tmp_path / "to")
    said = "6 records of 6 samples; 4 left out (0 pictures); 1 left out (several turns)"
    assert said in capsys.readouterr().out
    rows = load(folder, tmp_path / "cache")
    assert rows[0]["image"].size == (16, 16) and rows[0]["question"] == "How many shapes?"
    assert json.loads(rows[0]["origin_split"]) == {"chosen": "flamingo", "rejected": "flamingo"}
    wanted = [one for one in pairs(out).values() if len(one.images) == 1]
    same(imported("rlaif_v", folder / "data"), wanted)


def test_ratings_are_of_every_answer_of_every_prompt(out: Path, tmp_path: Path) -> None:
    folder = exported(out, "ratings", tmp_path / "to")
    rows = load(folder, tmp_path / "cache")
    assert len(rows) == 2 * 12 + 1, "a row more for the second judge"
    close = [row for row in rows if row["key"] == "d/t/close"]
    assert [(row["judge"], row["helpfulness"], row["reason"]) for row in close] == [
        ("rule", 3.5, ""), ("other", 1.0, "No."), ("rule", 4.0, ""),
    ]  # fmt: skip
    assert close[1]["complexity"] is None and close[0]["reward"] is None
    samples = {
        sample.turns[-1].instruction + str(len(sample.turns)): sample
        for sample in imported("helpsteer", folder / "data")
    }
    again = samples["<image>How many shapes?2"]
    assert [one.text for one in again.candidates] == ["Two shapes.", "Three shapes."] and len(again.images) == 2
    assert mean_ratings(again.candidates[0].ratings, "rule") == dict(zip(ATTRIBUTES, GOOD, strict=True))


def test_imported_pairs_can_be_exported_at_once(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shard(tmp_path / "shards/x.tar", [*pairs(out).values(), rated("d/t/none", {})])
    exported(tmp_path / "shards", "trl", tmp_path / "to")
    assert "12 samples as trl: 11 records of 11 samples; 1 left out (not a pair)" in capsys.readouterr().out
    exported(tmp_path / "shards", "trl", tmp_path / "to")
    assert "already in" in capsys.readouterr().out


def test_an_image_mark_in_an_answer_is_no_picture(tmp_path: Path) -> None:
    sample = dataclasses.replace(rated("d/t/1", {}), rewritten="It is <image>.", rejected="No.")
    write_shard(tmp_path / "shards/x.tar", [sample])
    for name in PREFERENCE_EXPORTS:
        if name not in ("ratings", "trl_text"):
            exported(tmp_path / "shards", name, tmp_path / name)
            files = [path for path in (tmp_path / name / "data").iterdir() if path.suffix == ".jsonl"]
            assert all("It is (image)." in path.read_text() for path in files)
    [row] = load(tmp_path / "trl", tmp_path / "cache")
    assert row["chosen"][0]["content"][0]["text"] == "It is (image)."


def test_what_it_cannot_do_is_one_line(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = tmp_path / "half"
    half.mkdir()
    (half / "pairing.json").write_text("{}")
    for arguments, words in (
        ((out, "llava"), "holds no finished selection"), ((tmp_path / "no", "trl"), "no"),
        ((half, "trl"), "holds no finished pairs; run polite-flamingo pair again"),
    ):  # fmt: skip
        assert export(["--out", str(arguments[0]), "--format", arguments[1], "--to", str(tmp_path / "x")]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1, error
