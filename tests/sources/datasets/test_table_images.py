"""Tables with images: named in cells, or held in Parquet; what cannot be read costs its row."""

from __future__ import annotations

import base64
import math
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from polite_flamingo.sample import BadSample, Image, Sample
from polite_flamingo.sources.reading import image_folder
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.image_folder import checked_image
from polite_flamingo.sources.records import source as base
from polite_flamingo.sources.records.instructions import INSTRUCTIONS
from polite_flamingo.sources.records.source import SourceOptions, keyed_records, make_sample
from polite_flamingo.sources.registry import SOURCES
from tests.support.raw_dataset import Raw, both
from tests.support.tables import as_parquet, read, reasons


def test_several_images_are_a_json_list_or_separated(raw: Raw) -> None:
    data = [raw.image("a.png"), raw.image("b;c.png", colour="red")]
    path = raw.text(
        "t.csv",
        'image,question,answer\n"[""a.png"", ""b;c.png""]",What?,x\n'
        'a.png|b;c.png,"<image>this, <image>that",x\nb;c.png,What?,x\n',
    )
    samples, quarantined = read(raw, path, image_separator="|")
    assert quarantined == []
    assert [s.instruction for s in samples] == [
        "<image><image>What?", "<image>this, <image>that", "<image>What?",
    ]  # fmt: skip
    assert [[image.data for image in s.images] for s in samples] == [data, data, data[1:]]
    rows = [{"image": ["a.png", {"path": "b;c.png"}], "response": "x"}]
    samples, _ = read(raw, raw.json("d.json", rows), task="change_captioning")
    assert [image.data for image in samples[0].images] == data and samples[0].question in INSTRUCTIONS[
        "change_captioning"
    ]


def test_a_full_path_into_the_image_folder_is_one_of_it(raw: Raw) -> None:
    data = raw.image("sub/a.png")
    rows = [{"image": str(raw.images / name), "caption": "x"} for name in ("sub/a.png", "../own.json")]
    samples, quarantined = read(raw, raw.json("own.json", rows))
    assert [sample.images[0].data for sample in samples] == [data]
    assert [row.reason for row in quarantined] == ["unsafe_name"]


def test_an_address_is_fetched_only_from_hosts_that_are_named(raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = checked_image(raw.image("a.png"), "a.png")[0]
    asked = []

    def fetch(url: str, hosts: tuple[str, ...]) -> Image:
        asked.append((url, hosts))
        return picture

    monkeypatch.setattr(base, "fetch", fetch)
    url = "https://image_references.example/a.png"
    path = raw.json("own.json", [{"image": name, "caption": "x"} for name in (url, "b.png")])
    assert [row.reason for row in read(raw, path)[1]] == ["missing_image"] * 2 and asked == []
    options = SourceOptions(annotations=(path,), images=raw.images, download_from=("image_references.example",))
    samples, quarantined = both(SOURCES["table"].read(options))
    assert samples[0].images == (picture,) and asked == [(url, ("image_references.example",))]
    assert [row.reason for row in quarantined] == ["missing_image"]


def test_images_inside_parquet_are_bit_exact(raw: Raw) -> None:
    data = [raw.image(f"{n}.png", width=10 + n) for n in range(150)]
    rows: list[dict[str, Any]] = [
        {"image": {"bytes": value, "path": None}, "question": f"{n}?", "answers": ["a", "b", "b"]}
        for n, value in enumerate(data)
    ]
    rows[3]["image"] = None
    rows[4]["image"] = {"bytes": b"no picture", "path": "4.png"}
    rows[5]["image"] = {"bytes": None, "path": "5.png"}
    rows[6]["image"] = {"bytes": None, "path": "gone.png"}
    rows[7]["image"] = {"bytes": None, "path": None}
    rows[8]["image"] = {"bytes": b"", "path": None}
    path = raw.root / "t.parquet"
    path.write_bytes(as_parquet(rows, row_group_size=70))
    samples, quarantined = read(raw, path)
    assert len(samples) == 145 and samples[-1].key == "table/train/t-149"
    for sample in samples:
        assert sample.images[0].data == data[int(sample.question[:-1])] and sample.response == "Answer: b"
    assert reasons(quarantined) == [
        ("t.parquet#rows[3]", "missing_image"),
        ("t.parquet#rows[4]", "corrupt_image"),
        ("t.parquet#rows[6]", "missing_image"),
        ("t.parquet#rows[7]", "bad_field"),
        ("t.parquet#rows[8]", "empty_image"),
    ]


def test_rows_of_parquet_are_built_in_any_order(raw: Raw) -> None:
    data = [raw.image(f"{n}.png", width=10 + n) for n in range(100)]
    rows = [{"image": [value, data[0]], "response": str(n)} for n, value in enumerate(data)]
    path = raw.root / "t.parquet"
    path.write_bytes(as_parquet(rows, row_group_size=80))
    source, options = SOURCES["table"], SourceOptions(annotations=(path,), extra={"task": "change_captioning"})
    context, records = source.context(options), list(keyed_records(source, options))
    for number in (99, 3, 90, 70, 70, 2, 79, 80):
        made = make_sample(source, records[number], context)  # type: ignore[arg-type]
        assert isinstance(made, Sample) and [image.data for image in made.images] == [data[number], data[0]]


def test_a_damaged_parquet_file_gives_no_wrong_images(raw: Raw) -> None:
    data = [raw.image(f"{n}.png", width=10 + n) for n in range(300)]
    good = as_parquet([{"image": value, "caption": f"{n}"} for n, value in enumerate(data)], row_group_size=150)
    path, damaged, read_well = raw.root / "t.parquet", 0, 0
    for start in range(1000, len(good) * 9 // 10, len(good) // 12):
        path.write_bytes(good[:start] + b"\xff" * 40 + good[start + 40 :])
        try:
            samples, quarantined = read(raw, path)
        except SourceError:
            continue
        assert {row.reason for row in quarantined} <= {"missing_image", "corrupt_image", "bad_field"}
        for sample in samples:
            assert sample.images[0].data[:26] == data[int(sample.response)][:26]  # the header with the width
        damaged, read_well = damaged + len(quarantined), read_well + len(samples)
    assert damaged and read_well


def test_what_is_too_large_or_too_deep(raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    path = raw.root / "t.parquet"
    path.write_bytes(as_parquet([{"image": raw.image("a.png"), "caption": "x"}]))
    monkeypatch.setattr(image_folder, "MAX_IMAGE_BYTES", 50)
    assert [row.reason for row in read(raw, path)[1]] == ["image_too_large"]
    deep = raw.text("t.jsonl", '{"prompt": "a", "answer": "b", "site": ' + "[" * 60 + "]" * 60 + "}")
    assert [row.reason for row in read(raw, deep, columns={"meta.site": "site"}, images=False)[1]] == ["bad_field"]


def test_columns_of_bytes_alone_lose_no_rows(raw: Raw) -> None:
    path = raw.root / "t.parquet"
    path.write_bytes(as_parquet([{"image": raw.image("a.png"), "caption": b"x"}] * 3))
    samples, quarantined = read(raw, path)
    assert samples == [] and [row.reason for row in quarantined] == ["bad_field"] * 3


@pytest.mark.parametrize(
    "place", [{"file": 9}, {"file": "0"}, {"row": 1}, {"row": -1}, {"row": True}, {"column": "no"}]
)
def test_a_place_that_is_not_in_the_parquet_file(raw: Raw, place: dict[str, Any]) -> None:
    path = raw.root / "t.parquet"
    path.write_bytes(as_parquet([{"image": raw.image("a.png"), "response": "x"}]))
    source, options = SOURCES["table"], SourceOptions(annotations=(path,))
    record = {"image": {"file": 0, "row": 0, "column": "image"} | place, "response": "x"}
    with pytest.raises(BadSample) as caught:
        source.build("table/train/0", record, source.context(options))
    assert caught.value.reason == "missing_image"


def test_what_parquet_can_hold_beside_text(raw: Raw) -> None:
    rows = [
        {"prompt": "When?", "answer": date(2020, 1, 2), "score": math.nan, "tags": {"a": [1.5, math.inf]}, "raw": b"x"}
    ]
    path = raw.root / "t.parquet"
    path.write_bytes(as_parquet(rows))
    columns = {"instruction": "prompt", "response": "answer", "meta.score": "score", "meta.tags": "tags"}
    samples, _ = read(raw, path, columns=columns, images=False)
    assert samples[0].response == "2020-01-02"
    assert samples[0].meta == {"score": None, "tags": {"a": [1.5, None]}, "source": "t.parquet#rows[0]"}
    _, quarantined = read(raw, path, columns=columns | {"response": "raw"}, images=False)
    assert [row.reason for row in quarantined] == ["bad_field"]


def test_a_cell_of_parquet_that_is_not_utf8_costs_its_row(raw: Raw) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    values = pyarrow.array([b"good", b"caf\xe9", b"better"]).cast(pyarrow.binary()).view(pyarrow.utf8())
    pyarrow.parquet.write_table(
        pyarrow.table({"prompt": pyarrow.array(["a", "b", "c"]), "answer": values}), raw.root / "t.parquet"
    )
    samples, quarantined = read(raw, raw.root / "t.parquet", images=False)
    assert [sample.response for sample in samples] == ["good", "better"]
    assert reasons(quarantined) == [("t.parquet#rows[1]", "bad_field")]


def test_pictures_that_are_asked_for_and_found_in_no_column_are_an_error(raw: Raw) -> None:
    path = raw.text("t.csv", "foto,question,answer\na.png,b,c\n")
    with pytest.raises(SourceError, match=r"no column is taken for the image.*'foto', 'question', 'answer'"):
        read(raw, path)
    with pytest.raises(SourceError, match=r"column 'foto' names files of pictures: pass their folder with --images"):
        read(raw, path, columns={"image": "foto", "response": "answer"}, images=False)
    data = base64.b64encode(raw.image("a.png")).decode()
    samples, _ = read(raw, raw.text("u.csv", f"image,caption\n{data},x\n"), images=False)
    assert len(samples) == 1


def test_a_column_of_videos_excludes_the_rows_that_have_one(tmp_path: Path) -> None:
    raw = Raw(tmp_path)
    videos = [None, {"bytes": b"x", "path": "a.mp4"}, {"bytes": None, "path": None}]
    rows = [{"question": f"{n}?", "answer": f"{n}", "video": video} for n, video in enumerate(videos)]
    table = tmp_path / "t.parquet"
    table.write_bytes(as_parquet(rows))
    samples, quarantined = read(raw, table, images=False)
    assert [sample.response for sample in samples] == ["0", "2"]
    assert [row.reason for row in quarantined] == ["unsupported"]


def test_placeholders_are_the_pictures_of_the_row_or_refused(tmp_path: Path) -> None:
    raw = Raw(tmp_path)
    raw.image("a.png")
    rows = [
        {"image": ["a.png", "a.png"], "question": "Is <image_1> as <image_2>?", "answer": "yes"},
        {"image": ["a.png", "a.png"], "question": "Is <image_2> as <image_1>?", "answer": "yes"},
        {"image": "a.png", "question": "What is in <video>?", "answer": "a dog"},
        {"image": "a.png", "question": "Where is the dog?", "answer": "<ref>dog</ref><box>(100,200),(300,400)</box>"},
        {"image": "a.png", "question": "Where is the dog?", "answer": "<loc0012>"},
    ]
    samples, quarantined = read(raw, raw.json("t.json", rows))
    assert [(sample.instruction, sample.response) for sample in samples] == [
        ("Is <image> as <image>?", "Answer: yes"),
        ("<image>Where is the dog?", "Answer: dog: [0.100, 0.200, 0.300, 0.400]"),
    ]
    assert [row.reason for row in quarantined] == ["unsupported"] * 3


def test_pictures_that_no_column_was_taken_for_are_asked_about(tmp_path: Path) -> None:
    raw = Raw(tmp_path)
    row = {"question": "What?", "answer": "a dog"}
    parquet = tmp_path / "b.parquet"
    parquet.write_bytes(as_parquet([row | {"portrait": {"bytes": b"x", "path": None}}]))
    for table in (raw.text("a.csv", "question,answer,photo_path\nWhat?,a dog,img/7.JPG\n"), parquet):
        with pytest.raises(SourceError, match=r"image=(photo_path|portrait).* or leave it out"):
            read(raw, table, images=False)
        samples, _ = read(raw, table, images=False, columns={"instruction": "question", "response": "answer"})
        assert [sample.response for sample in samples] == ["a dog"]
