"""Conversations about images as their publishers, trainers and `datasets` itself write them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
import webdataset
from PIL import Image as Pillow

from polite_flamingo.sample import Quarantined, Sample
from polite_flamingo.sources.records.source import SourceOptions
from polite_flamingo.sources.registry import SOURCES
from polite_flamingo.storage.export_record import uniform_record
from tests.support.raw_dataset import Raw, both

H, G = "human", "gpt"
TEXT, PICTURE = datasets.Value("string"), datasets.Image()
RATED = ("relevance", "visual_dependency", "image_correspondence", "formatting")
PUBLISHED: dict[str, dict[str, Any]] = {
    "cauldron": {"images": datasets.List(PICTURE),
                 "texts": datasets.List({"user": TEXT, "assistant": TEXT, "source": TEXT})},
    "finevision": {"images": datasets.List(PICTURE), "texts": datasets.List({"user": TEXT, "assistant": TEXT}),
                   "source": TEXT, **{f"{name}_ratings": datasets.List(datasets.Value("int64")) for name in RATED},
                   **{f"{name}_min": datasets.Value("int64") for name in RATED}},
    "llava_onevision": {"id": TEXT, "image": PICTURE, "conversations": datasets.List({"from": TEXT, "value": TEXT}),
                        "data_source": TEXT},
}  # fmt: skip
"""The columns of sets that are published as Parquet."""


def picture(colour: str, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Pillow.new("RGB", (40, 30), colour).save(buffer, kind)
    return buffer.getvalue()


RED, BLUE = picture("red"), picture("blue", "PNG")


def shown(*pictures: bytes) -> list[dict[str, Any]]:
    return [{"bytes": data, "path": None} for data in pictures]


def chat(*said: str, **more: Any) -> dict[str, Any]:
    return more | {"conversations": [{"from": (H, G)[n % 2], "value": text} for n, text in enumerate(said)]}


def made(rows: Sequence[dict[str, Any]], columns: dict[str, Any]) -> datasets.Dataset:
    return datasets.Dataset.from_list(list(rows), features=datasets.Features(columns))


def read(source: str, *files: Path, images: Path | None = None, **extra: str) -> tuple[list[Sample], list[Quarantined]]:
    return both(SOURCES[source].read(SourceOptions(annotations=files, images=images, extra=extra)))


def pairs(sample: Sample) -> list[tuple[str, str]]:
    return [(turn.instruction, turn.response) for turn in sample.turns]


def test_the_cauldron(tmp_path: Path) -> None:
    """A file per part, in a folder per set; the images stand before the first question."""
    rows = [
        {"images": shown(RED), "texts": [{"user": "Which?\nA. red", "assistant": "Answer: A", "source": "AI2D"},
                                         {"user": "And now?", "assistant": "B", "source": "AI2D"}]},
        {"images": shown(RED, BLUE), "texts": [{"user": "Do they differ?", "assistant": "Yes.", "source": "NLVR2"}]},
    ]  # fmt: skip
    (tmp_path / "ai2d").mkdir()
    made(rows, PUBLISHED["cauldron"]).to_parquet(tmp_path / "ai2d/train-00000-of-00001-2ce340398c113b79.parquet")
    samples, quarantined = read("cauldron", tmp_path)
    assert quarantined == [] and [pairs(sample) for sample in samples] == [
        [("<image>Which?\nA. red", "Answer: A"), ("And now?", "B")],
        [("<image><image>Do they differ?", "Yes.")],
    ]
    assert [[image.data for image in sample.images] for sample in samples] == [[RED], [RED, BLUE]]
    assert [image.extension for image in samples[1].images] == ["jpg", "png"]
    assert (samples[0].dataset, samples[0].meta["texts[0].source"]) == ("cauldron", "AI2D")
    assert samples[0].key.startswith("cauldron/train/")
    assert read("cauldron", tmp_path, task="vqa")[0][1].task == "vqa"


def test_finevision_s_ratings_are_kept_turn_by_turn_and_exported(tmp_path: Path) -> None:
    """A row without images is text; a turn that was not rated has None; what is unanswered at the end is left out."""
    ratings = {f"{name}_ratings": [5, number] for number, name in enumerate(RATED)} | {f"{n}_min": 0 for n in RATED}
    none = {f"{name}_ratings": [None] for name in RATED} | {f"{name}_min": None for name in RATED}
    rows = [
        {"images": shown(BLUE), "source": "docvqa", **ratings,
         "texts": [{"user": "What?", "assistant": "Blue."}, {"user": "Sure?", "assistant": "Yes."}]},
        {"images": [], "source": "text_lima", "texts": [{"user": "Hi?", "assistant": "Ho."}], **none},
        {"images": shown(RED), "source": "docvqa", **ratings,
         "texts": [{"user": "What?", "assistant": "Red."}, {"user": "Sure?", "assistant": ""}]},
    ]  # fmt: skip
    file = tmp_path / "train-00000-of-00001.parquet"
    made(rows, PUBLISHED["finevision"]).to_parquet(file)
    (blue, text, red), quarantined = read("finevision", file)
    assert quarantined == [] and pairs(blue) == [("<image>What?", "Blue."), ("Sure?", "Yes.")]
    assert [blue.meta[f"{name}_ratings"] for name in RATED] == [[5, 0], [5, 1], [5, 2], [5, 3]]
    assert (blue.meta["relevance_min"], blue.meta["record.source"]) == (0, "docvqa")
    assert json.loads(uniform_record(blue)["meta"])["formatting_ratings"] == [5, 3]
    assert (pairs(text), text.images) == ([("Hi?", "Ho.")], ())
    assert pairs(red) == [("<image>What?", "Red.")] and red.meta["left_out_after"] == 2


def onevision() -> datasets.Dataset:
    rows = [
        chat("<image>\nWhat?", "Red.", id="1", image=shown(RED)[0], data_source="ai2d"),
        chat("What?\n<image>", "Blue.", id="1", image=shown(BLUE)[0], data_source="ai2d"),
        chat("No mark?", "No.", id="2", image=shown(RED)[0], data_source="cauldron"),
        chat("Hi?", "Ho.", id="3", image=None, data_source="magpie"),
    ]
    return made(rows, PUBLISHED["llava_onevision"])


def test_llava_onevision_and_what_datasets_saves_of_it(tmp_path: Path) -> None:
    ways = {
        "hub": lambda path: onevision().to_parquet(path / "ai2d(gpt4v)/train-00000-of-00001.parquet"),
        "saved": lambda path: onevision().save_to_disk(path),
        "dictionary": lambda path: datasets.DatasetDict({"train": onevision()}).save_to_disk(path),
    }  # fmt: skip
    for name, write in ways.items():
        (tmp_path / name / "ai2d(gpt4v)").mkdir(parents=True)
        write(tmp_path / name)
        samples, quarantined = read("llava_onevision", tmp_path / name)
        assert quarantined == [] and [pairs(sample)[0] for sample in samples] == [
            ("<image>What?", "Red."), ("What?<image>", "Blue."), ("<image>No mark?", "No."), ("Hi?", "Ho."),
        ]  # fmt: skip
        assert [image.data for sample in samples for image in sample.images] == [RED, BLUE, RED]
        assert [sample.meta["data_source"] for sample in samples] == ["ai2d", "ai2d", "cauldron", "magpie"]


def test_a_sequence_of_objects_is_stored_as_columns(tmp_path: Path) -> None:
    columns = {"images": datasets.List(PICTURE), "messages": datasets.Sequence({"role": TEXT, "content": TEXT})}
    messages = {"role": ["user", "assistant"], "content": ["<image>What?", "Red."]}
    made([{"images": shown(RED), "messages": messages}], columns).to_parquet(tmp_path / "a.parquet")
    parts = {"type": ["image", "text"], "text": [None, "What?"]}
    nested = {
        "images": datasets.List(PICTURE),
        "messages": datasets.Sequence({"role": TEXT, "content": datasets.Sequence({"type": TEXT, "text": TEXT})}),
    }
    answer = {"type": ["text"], "text": ["Red."]}
    row = {"images": shown(RED), "messages": {"role": ["user", "assistant"], "content": [parts, answer]}}
    made([row], nested).to_parquet(tmp_path / "b.parquet")
    for name in ("a", "b"):
        samples, _ = read("llava", tmp_path / f"{name}.parquet")
        assert [pairs(sample) for sample in samples] == [[("<image>What?", "Red.")]] and samples[0].images[
            0
        ].data == RED


MIX = {
    "coco/train2017/000000033471.jpg": "000000033471", "gqa/images/2354786.jpg": "2354786",
    "ocr_vqa/images/140031996.jpg": "140031996", "textvqa/train_images/011e7e629fb9ae7b.jpg": "011e7e629fb9ae7b",
    "vg/VG_100K_2/2.jpg": 2,
}  # fmt: skip


@pytest.mark.parametrize("source", ["llava", "llava_v1_5", "sharegpt4v"])
def test_the_mix_of_llava_1_5(raw: Raw, source: str) -> None:
    """Rows of text have no image, ids repeat or are numbers, and pictures of OCR-VQA are not what their names say."""
    for name in MIX:
        raw.image(name)
    (raw.images / "ocr_vqa/images/140031996.jpg").write_bytes(picture("red", "GIF"))
    (raw.images / "ocr_vqa/images/1562924471.png").write_bytes(BLUE)
    records = [chat("<image>\nWhat?", "Red.", "Why?", "So.", id=id, image=name) for name, id in MIX.items()]
    records += [
        chat("Where?\n<image>", "There.", id=2, image="vg/VG_100K_2/2.jpg"),
        chat("<image>\nWho wrote this?", "Me.", id="1562924471", image="ocr_vqa/images/1562924471.jpg"),
        chat("Hi", "Ho", "", "", id="wgByO4Y_0", model=""),
        chat("Hi", "Ho", "And?", "", id="wgByO4Y_0", model=""),
        {"id": "a", "conversations": [{"from": G, "value": "Me first"}, *chat("Hi", "Ho")["conversations"]]},
        chat("<image>\n<image>\nBoth?", "Yes.", image=list(MIX)[:2]),
        chat("<image>\nAnd?", "Yes.", "<image>\nAnd?", "No.", image=list(MIX)[:2]),
        chat("Hi", "Ho", "again", image=None), chat("Hi", "Ho!", image=[]), chat("Hi", "Ho?", image=""),
        {"conversations": [{"from": role, "value": role[0]} for role in ("System", "User", "GPT")]},
    ]  # fmt: skip
    bad = [
        chat("<image>\nWhat?", "x", id=9, image="ocr_vqa/images/gone.jpg"),
        chat("<image>\nWhat?", "x", "<image>", "y", id=9, image="gqa/images/2354786.jpg"),
        chat("Hi", "", id="z"), {"conversations": [{"from": "tool", "value": "a"}]},
    ]  # fmt: skip
    samples, quarantined = raw.read(source, raw.json("llava_v1_5_mix665k.json", records + bad), split="")
    assert [row.reason for row in quarantined] == ["missing_image", "missing_image", "empty_response", "unsupported"]
    assert len(samples) == len(records) and len({sample.key for sample in samples}) == len(records)
    assert pairs(samples[0]) == [("<image>What?", "Red."), ("Why?", "So.")]
    assert [sample.images[0].extension for sample in samples[:7]] == ["jpg", "jpg", "gif", "jpg", "jpg", "jpg", "png"]
    assert [pairs(sample) for sample in samples[7:10]] == [[("Hi", "Ho")]] * 3
    assert [pairs(sample) for sample in samples[10:12]] == [
        [("<image><image>Both?", "Yes.")], [("<image>And?", "Yes."), ("<image>And?", "No.")],
    ]  # fmt: skip
    assert [len(sample.images) for sample in samples[10:]] == [2, 2, 0, 0, 0, 0]
    assert pairs(samples[-1]) == [("U", "G")] and samples[-1].meta["system"] == "S"


def test_ms_swift_and_alpaca_with_images(raw: Raw) -> None:
    red = raw.image("images/a.jpg", colour="red")
    user, said = {"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "Red."}
    named = {"images": ["images/a.jpg"]}
    same = [
        {"messages": [user, said], **named}, {"messages": [user, said], "images": [{"path": "images/a.jpg"}]},
        {"messages": [user, said], "images": "images/a.jpg", "rejected_response": "Blue."},
        {"query": "<image>What?", "response": "Red.", **named}, {"query": "What?", "response": "Red.", **named},
        {"instruction": "<image>What?", "input": "", "output": "Red.", **named},
        {"conversation": [{"human": "<image>What?", "assistant": "Red."}], **named},
        {"instruction": "What?", "chosen": "Red.", "rejected": "Blue.", **named},
    ]  # fmt: skip
    for record in same:
        for source in ("ms_swift", "llava"):
            samples, quarantined = raw.read(source, raw.text("train.jsonl", json.dumps(record)))
            assert (quarantined, pairs(samples[0])) == ([], [("<image>What?", "Red.")]), record
            assert samples[0].images[0].data == red
    record = {"instruction": "Name it.", "input": "In a word.", "output": "Red.", "history": [["Hi", "Ho"], ["a", "b"]],
              "system": "Be brief.", **named}  # fmt: skip
    (sample,), _ = raw.read("ms_swift", raw.json("alpaca.json", [record]))
    assert pairs(sample) == [("<image>Hi", "Ho"), ("a", "b"), ("Name it.\n\nIn a word.", "Red.")]
    assert sample.meta["system"] == "Be brief."
    (sample,), _ = raw.read("ms_swift", raw.json("alpaca.json", [{"query": "Hi", "response": "Ho", "history": None}]))
    assert (pairs(sample), sample.images) == ([("Hi", "Ho")], ())
    for bad, says in (
        ({"history": [["a"]]}, "history[0]"), ({"history": "x"}, "'history' must be a list"),
        ({"history": [["a", 1]]}, "must be a string"), ({"input": 3}, "field 'input'"),
        ({"chosen": "Blue."}, "'chosen' is another answer"),
    ):  # fmt: skip
        _, (row,) = raw.read("ms_swift", raw.json("bad.json", [{"query": "a", "response": "b", **bad}]))
        assert row.reason in ("bad_field", "unsupported") and says in row.detail


def test_openai_s_messages_with_pictures_of_every_kind(raw: Raw) -> None:
    red = raw.image("a.jpg", colour="red")
    data = f"data:image/png;base64,{base64.b64encode(BLUE).decode()}"

    def asked(url: Any) -> dict[str, Any]:
        parts = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": url}]
        return {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "Red."}]}

    good = [
        asked({"url": data, "detail": "low"}),
        asked({"url": "a.jpg"}),
        asked(data),
        asked({"url": "file:///a.jpg"}),
    ]
    lines = [*good, asked({"url": "https://example.org/b.jpg"}), {"messages": [{"role": "user", "content": "Hi"}]}]
    file = raw.text("chats.jsonl", "\n".join(map(json.dumps, lines)))
    samples, quarantined = raw.read("openai_messages", file)
    assert [pairs(sample) for sample in samples] == [[("What?<image>", "Red.")]] * 3
    assert [sample.images[0].data for sample in samples] == [BLUE, red, BLUE]
    assert [row.reason for row in quarantined] == ["unsafe_name", "missing_image", "missing_annotation"]
    assert "no host is named to download it from (--download)" in quarantined[1].detail


def test_tars_of_img2dataset(tmp_path: Path) -> None:
    """It writes each row with webdataset's `TarWriter`; a report and a table of all rows lie beside the tars."""
    with webdataset.TarWriter(str(tmp_path / "00000.tar")) as tar:
        for number in range(2):
            about = {"url": f"https://example.org/{number}.jpg", "key": f"{number:09d}", "status": "success",
                     "error_message": None, "width": 40, "height": 30, "original_width": 80, "original_height": 60,
                     "exif": "{}", "sha256": "0" * 64, "caption": f"caption {number}", "similarity": 0.31}  # fmt: skip
            tar.write({"__key__": f"{number:09d}", "jpg": RED, "txt": f"caption {number}", "json": about})
    (tmp_path / "00000_stats.json").write_text("{}")
    datasets.Dataset.from_list([{"key": "000000000", "caption": "c"}]).to_parquet(tmp_path / "00000.parquet")
    samples, quarantined = read("webdataset", tmp_path)
    assert quarantined == [] and [(sample.task, sample.response) for sample in samples] == [
        ("captioning", "caption 0"), ("captioning", "caption 1"),
    ]  # fmt: skip
    assert samples[0].meta["similarity"] == 0.31 and samples[0].images[0].data == RED
