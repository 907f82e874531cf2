"""Tables of the user's own: every format, the mapping, the task, the images, and whatever can be wrong with a row."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import math
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from polite_flamingo.sample import BadSample, Image, Quarantined, Sample
from polite_flamingo.sources import SOURCES, SourceError, SourceOptions
from polite_flamingo.sources.reading.delimited import delimited
from polite_flamingo.sources.reading.image_folder import checked_image
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.records import image_references
from polite_flamingo.sources.records import source as base
from polite_flamingo.sources.records.instructions import INSTRUCTIONS
from polite_flamingo.sources.records.source import keyed_records, make_sample
from polite_flamingo.sources.records.table_columns import FIELDS
from tests.support.raw_dataset import Raw, both
from tests.support.record_strategies import JUNK, spoiled

VQA = {"image": "path", "instruction": "question", "response": "answer"}
QUIET = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(
    raw: Raw, *files: Path, columns: dict[str, str] | None = None, split: str = "", images: bool = True, **extra: str
) -> tuple[list[Sample], list[Quarantined]]:
    """Through both steps, the records spooled as JSON between them, as the Ray job does."""
    options = SourceOptions(
        annotations=files, images=raw.images if images else None, split=split, columns=columns or {}, extra=extra
    )
    source = SOURCES["table"]
    context = source.context(options)
    rows = []
    for row in keyed_records(source, options):
        if not isinstance(row, Quarantined):
            assert json.loads(json.dumps(row.to_json(), allow_nan=False)) == row.to_json()
            row = make_sample(source, row, context)  # type: ignore[assignment]
        rows.append(row)
    return both(rows)


def said(samples: list[Sample]) -> list[tuple[str, str, str, str]]:
    return [(sample.key, sample.task, sample.instruction, sample.response) for sample in samples]


def reasons(quarantined: list[Quarantined]) -> list[tuple[str, str]]:
    return [(row.payload, row.reason) for row in quarantined]


ROWS = [
    {"path": "a.png", "question": "What colour\nis it?", "answer": "green, mostly", "uid": "x1"},
    {"path": "sub/b.jpg", "question": 'Is it "big"?', "answer": "no", "uid": "x2"},
]
EXPECTED = [
    ("table/train/x1", "vqa", "<image>What colour\nis it?", "Answer: green, mostly"),
    ("table/train/x2", "vqa", '<image>Is it "big"?', "Answer: no"),
]


def as_delimited(delimiter: str) -> bytes:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(ROWS[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return buffer.getvalue().encode()


def as_parquet(rows: list[dict[str, Any]], **options: Any) -> bytes:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer, **options)
    return buffer.getvalue()


FORMATS = {
    "own.csv": lambda: as_delimited(","),
    "semicolons.csv": lambda: as_delimited(";"),
    "tabs.csv": lambda: as_delimited("\t"),
    "bom.csv": lambda: b"\xef\xbb\xbf" + as_delimited(","),
    "OWN.TSV": lambda: as_delimited("\t"),
    "own.jsonl": lambda: "\n".join(map(json.dumps, ROWS)).encode(),
    "own.json": lambda: json.dumps(ROWS).encode(),
    "own.csv.gz": lambda: gzip.compress(as_delimited(",")),
    "own.jsonl.gz": lambda: gzip.compress("\n\n".join(map(json.dumps, ROWS)).encode()),
    "own.parquet": lambda: as_parquet(ROWS),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_says_the_same(raw: Raw, name: str) -> None:
    data = [raw.image("a.png"), raw.image("sub/b.jpg")]
    path = raw.root / name
    path.write_bytes(FORMATS[name]())
    samples, quarantined = read(raw, path, columns=VQA | {"id": "uid", "meta.asked": "question"})
    assert quarantined == [] and said(samples) == EXPECTED
    assert [sample.images[0].data for sample in samples] == data
    assert samples[1].meta == {"asked": 'Is it "big"?', "source": f"{name}#rows[1]"}


def test_without_an_id_a_row_is_named_after_its_file_and_number(raw: Raw) -> None:
    raw.image("a.png")
    first = raw.text("first.v2.csv", "path,answer\na.png,x\na.png,y\n")
    second = raw.text("second.csv", "answer;path\nz;a.png\n")
    samples, _ = read(raw, first, second, columns={"image": "path", "response": "answer"})
    assert [sample.key for sample in samples] == [
        "table/train/first~2Ev2-0", "table/train/first~2Ev2-1", "table/train/second-0",
    ]  # fmt: skip
    same = raw.text("sub/second.csv", "answer,path\nz,a.png\n")
    with pytest.raises(SourceError, match="are both called 'second'"):
        read(raw, second, same, columns={"image": "path", "response": "answer"})


def test_the_usual_names_need_no_mapping_and_are_told(raw: Raw) -> None:
    raw.image("a.png")
    samples, _ = read(raw, raw.text("t.csv", "ID,Image,Prompt,Output,else\n7,a.png,Why?,so,x\n"))
    assert said(samples) == [("table/train/7", "vqa", "<image>Why?", "Answer: so")]
    taken = {"id": "ID", "image": "Image", "instruction": "Prompt", "response": "Output"}
    assert samples[0].meta["columns"] == taken
    samples, _ = read(raw, raw.text("u.csv", "image,caption,site\na.png,a dog,here\n"), columns={"meta.place": "site"})
    assert samples[0].response == "a dog" and samples[0].meta["place"] == "here"
    with pytest.raises(SourceError, match="'question' and 'prompt' could both be the instruction"):
        read(raw, raw.text("v.csv", "question,prompt,answer\n"))


WRONG_MAPPINGS: list[tuple[dict[str, str], str]] = [
    (
        {"response": "answr", "image": "path"},
        r"no column 'answr'; the columns are: 'path', 'question', 'answer', 'n', 'n'",
    ),
    ({"response": "answer", "image": "n"}, r"several columns 'n'"),
    ({"response": "answer"}, r"image=NAME, instruction=NAME or both; the columns are"),
    ({"image": "path"}, r"--columns response=NAME"),
    ({"answer": "answer"}, r"knows no 'answer'; it knows: response, instruction"),
    ({"response": "answer", "image": "path", "meta.": "n"}, r"knows no 'meta.'"),
    ({"response": "answer", "image": "path", "meta.source": "n"}, r"knows no 'meta.source'"),
]


@pytest.mark.parametrize(("columns", "message"), WRONG_MAPPINGS)
def test_a_wrong_mapping_is_one_clear_line(raw: Raw, columns: dict[str, str], message: str) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        read(raw, raw.text("t.csv", "path,question,answer,n,n\n"), columns=columns)
    assert "\n" not in str(caught.value)


WRONG_FILES: list[tuple[str, bytes, str]] = [
    ("t.xlsx", b"", "not a .csv"),
    ("t.csv", b"", "is empty"),
    ("t.csv", b"\n\n", "is empty"),
    ("t.csv", b'"path,answer\n', "the first line must name the columns"),
    ("t.csv", b"\xff\xfep\x00", "UTF-16"),
    ("t.csv", b"pat\xe9,answer\n", r"the columns are: 'pat\\udce9', 'answer'"),
    ("t.csv.gz", gzip.compress(b"path,answer\n" + b"x" * 99999)[:-12], "does not unpack"),
    ("t.json", b'[["path", "answer"], ["a", "b"]]', "none of its first records is an object .*the first is a list"),
    ("t.jsonl", b'{"path": "a", "answer": 1},\n', "none of its first records .*the line is not JSON .Extra data"),
    ("t.json", b'{"path": ["a", "b"], "answer": ["c", "d"]}', "one object of columns, not a list of records"),
    ("t.json", b"{}", "no column 'path'"),
    ("t.json", b'[{"path": 1}, ', "not JSON"),
    ("t.jsonl", b'{"path": 1}\n', "no column 'answer'; the columns are: 'path'"),
    ("t.jsonl", b"", "no column"),
    ("t.parquet", b"PAR1 not really", "cannot be read as Parquet"),
]


@pytest.mark.parametrize(("name", "content", "message"), WRONG_FILES)
def test_an_unusable_file_is_one_clear_line(raw: Raw, name: str, content: bytes, message: str) -> None:
    path = raw.root / name
    path.write_bytes(content)
    with pytest.raises(SourceError, match=message) as caught:
        read(raw, path, columns={"image": "path", "response": "answer"})
    assert "\n" not in str(caught.value) and name in str(caught.value)
    with pytest.raises(SourceError, match=r"nowhere"):
        read(raw, raw.root / "nowhere" / name, columns={"image": "path", "response": "answer"})


def test_wrong_options_are_one_clear_line(raw: Raw) -> None:
    path = raw.text("t.csv", "image,answer\n")
    for extra, message in (
        ({"task": "vqaa"}, "'vqaa' is none of captioning"),
        ({"delimiter": "||"}, "must be one character"),
        ({"delimiter": '"'}, "must be one character"),
        ({"quoting": "all"}, "must be one of usual, none"),
    ):
        with pytest.raises(SourceError, match=message):
            read(raw, path, **extra)


def test_parquet_without_pyarrow_says_what_to_install(raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(SourceError, match="pip install pyarrow"):
        read(raw, raw.text("t.parquet", ""))


def test_each_bad_row_of_a_csv_costs_itself_alone(raw: Raw) -> None:
    raw.image("a.png")
    (raw.images / "empty.png").write_bytes(b"")
    (raw.images / "broken.png").write_bytes(b"no picture")
    (raw.images / "link.png").symlink_to("/etc/passwd")
    lines = [
        b"a.png,What?,good 0,0",
        b"a.png,too few",  # 1
        b"a.png,What?,too,many,1",  # 2
        b"a.png,What?,caf\xe9,3",  # 3: latin-1
        b"a.png,What?,n\x00l,4",  # 4
        b'a.png,What?,"5" inch,5',  # 5: a quotation mark too many
        b'a.png,"never closed,6,6',  # 6
        b"",
        b" ",
        b"a.png,What?,good 7,7",
        b"b.png,What?,no image,8",
        b"../a.png,What?,out,9",
        b"link.png,What?,out,10",
        b",What?,empty,11",
        b"a.png,,empty,12",
        b"a.png,What?, ,13",
        b"empty.png,What?,x,14",
        b"broken.png,What?,x,15",
        b"a.png,<image><image>What?,x,16",
        b"a.png,What?,x,0",  # 17: again
        b"a.png,What?,x,",  # 18: no id
        b"a.png,What?," + b"x" * 100_001 + b",19",
        b"a.png,What?," + b"x" * 140_000 + b",20",
        b'a.png,Which of <image> is "it"?,"two\nlines",21',
        b'a.png,"never closed either,22,22',
    ]
    path = raw.root / "t.csv"
    path.write_bytes(b"path,question,answer,uid\r\n" + b"\r\n".join(lines))
    samples, quarantined = read(raw, path, columns=VQA | {"id": "uid"})
    assert said(samples) == [
        ("table/train/0", "vqa", "<image>What?", "Answer: good 0"),
        ("table/train/7", "vqa", "<image>What?", "Answer: good 7"),
        ("table/train/21", "vqa", 'Which of <image> is "it"?', "Answer: two\nlines"),
    ]
    assert reasons(quarantined) == [
        (f"t.csv#rows[{number}]", reason)
        for number, reason in {
            1: "bad_field", 2: "bad_field", 3: "bad_field", 4: "bad_field", 5: "bad_field", 6: "bad_field",
            8: "missing_image", 9: "unsafe_name", 10: "unsafe_name", 11: "missing_image", 12: "bad_field",
            13: "empty_response", 14: "empty_image", 15: "corrupt_image", 16: "missing_image", 17: "duplicate_key",
            18: "bad_field", 19: "text_too_long", 20: "text_too_long", 22: "bad_field",
        }.items()
    ]  # fmt: skip
    details = {row.payload: row.detail for row in quarantined}
    assert details["t.csv#rows[1]"] == "line 3 has 2 cells, the first line 4"
    assert details["t.csv#rows[6]"].startswith("line 8 is not a row")
    assert details["t.csv#rows[22]"].startswith("line 27 is not a row")


def test_each_bad_row_of_json_lines_costs_itself_alone(raw: Raw) -> None:
    raw.image("a.png")
    good = {"path": "a.png", "question": "What?", "answer": "x"}
    lines = [
        json.dumps(good), "{", '"oops"', "[1]", json.dumps({"path": "a.png", "question": "What?"}),
        json.dumps(good | {"answer": None}), json.dumps(good | {"answer": math.nan}),
        json.dumps(good | {"answer": True}), json.dumps(good | {"answer": {"a": 1}}),
        json.dumps(good | {"answer": "\ud800"}),
        json.dumps(good | {"answer": "\0"}), json.dumps(good | {"question": 5.5}), json.dumps(good | {"path": 5}),
        json.dumps(good | {"path": []}), json.dumps(good | {"path": "/etc/passwd"}), json.dumps(good | {"answer": 3}),
        json.dumps(good | {"answer": []}), json.dumps(good | {"answer": [["x"]]}),
        '{"path": "a.png", "question": "What?", "answer": ' + "[" * 60 + "]" * 60 + "}",
        json.dumps(good | {"path": {"file": 0, "row": 0, "column": "path"}}),
        json.dumps(good | {"path": "a\0.png"}),
    ]  # fmt: skip
    samples, quarantined = read(raw, raw.text("t.jsonl", "\n".join(lines)), columns=VQA)
    assert [(sample.meta["source"], sample.question, sample.response) for sample in samples] == [
        ("t.jsonl#rows[0]", "What?", "Answer: x"),
        ("t.jsonl#rows[11]", "5.5", "Answer: x"),
        ("t.jsonl#rows[15]", "What?", "Answer: 3"),
    ]
    assert reasons(quarantined) == [
        (f"t.jsonl#rows[{number}]", reason)
        for number, reason in {
            1: "bad_json", 2: "bad_field", 3: "bad_field", 4: "missing_annotation", 5: "missing_annotation",
            6: "missing_annotation", 7: "bad_field", 8: "bad_field", 9: "bad_field", 10: "bad_field", 12: "bad_field",
            13: "missing_image", 14: "unsafe_name", 16: "empty_response", 17: "bad_field", 18: "bad_field",
            19: "missing_image", 20: "bad_field",
        }.items()
    ]  # fmt: skip


def test_a_column_may_be_missing_from_the_first_rows(raw: Raw) -> None:
    rows = [{"question": "a?", "answer": "b"}, {"question": "c?", "answer": "d", "site": "here"}]
    path = raw.text("t.jsonl", "\n".join(map(json.dumps, rows)))
    columns = {"instruction": "question", "response": "answer", "meta.site": "site"}
    samples, _ = read(raw, path, columns=columns, images=False)
    assert [sample.meta["site"] for sample in samples] == [None, "here"]


def test_the_task_follows_from_what_a_row_has(raw: Raw) -> None:
    raw.image("a.png")
    path = raw.text(
        "t.jsonl",
        "\n".join(
            json.dumps({"i": "a.png", "q": "Why?", "a": "so", "r": rationale, "t": task})
            for rationale, task in (
                ("Because.", ""),
                ("", ""),
                ("Because.", "vqa"),
                ("", "captioning"),
                ("", "nothing"),
            )
        ),
    )
    full = {"image": "i", "instruction": "q", "response": "a"}
    samples, _ = read(raw, path, columns=full | {"rationale": "r"})
    assert [(s.task, s.response) for s in samples[:2]] == [
        ("vqa_rationale", "Answer: so\nRationale: Because."),
        ("vqa", "Answer: so"),
    ]
    samples, quarantined = read(raw, path, columns=full | {"rationale": "r", "task": "t"})
    assert [(s.task, s.response) for s in samples[2:]] == [
        ("vqa", "Answer: so\nRationale: Because."),
        ("captioning", "so"),
    ]
    assert [row.reason for row in quarantined] == ["bad_field"]
    samples, _ = read(raw, path, columns={"image": "i", "response": "a"})
    assert samples[0].task == "captioning" and samples[0].question in INSTRUCTIONS["captioning"]
    samples, _ = read(raw, path, columns={"instruction": "q", "response": "a"}, images=False)
    assert said(samples)[0] == ("table/train/t-0", "text", "Why?", "so")
    samples, _ = read(raw, path, columns={"image": "i", "response": "a"}, task="classification")
    assert samples[0].task == "classification" and samples[0].question in INSTRUCTIONS["classification"]
    for task, reason in (("vqa", "bad_field"), ("change_captioning", "bad_field"), ("text", "bad_field")):
        samples, quarantined = read(raw, path, columns={"image": "i", "response": "a"}, task=task)
        assert samples == [] and {row.reason for row in quarantined} == {reason}
    _, quarantined = read(raw, path, columns=full, task="text")
    assert [row.detail for row in quarantined] == ["the task is text, and the row has an image"] * 5
    _, quarantined = read(raw, path, columns={"instruction": "q", "response": "a"}, images=False, task="vqa")
    assert [row.reason for row in quarantined] == ["missing_image"] * 5


def test_text_keeps_its_lines(raw: Raw) -> None:
    path = raw.text("t.jsonl", json.dumps({"prompt": "List:\n- one", "output": ' ["a",\n "b"]\n'}))
    assert said(read(raw, path, images=False)[0]) == [("table/train/t-0", "text", "List:\n- one", '["a",\n "b"]')]


def test_of_several_answers_the_majority_and_of_captions_all(raw: Raw) -> None:
    raw.image("a.png")
    path = raw.text(
        "t.csv",
        'image,question,answers\na.png,What?,"[""red"", ""blue"", ""blue""]"\n'
        'a.png,What?,"[{""answer"": ""one""}]"\na.png,What?,[a] b\na.png,What?,"[1, 2]"\n',
    )
    samples, _ = read(raw, path)
    assert [s.response for s in samples] == ["Answer: blue", "Answer: one", "Answer: [a] b", "Answer: [1, 2]"]
    captions = [{"image": "a.png", "caption": value} for value in (["a dog", "a cat ", "a dog"], '["a", "b"]', "c")]
    samples, _ = read(raw, raw.json("c.json", captions))
    assert [s.response for s in samples] == ["a dog\na cat", "a\nb", "c"]


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


def test_splits_come_from_a_column(raw: Raw) -> None:
    path = raw.text("t.csv", "prompt,answer,split\na,b,test\nc,d,\ne,f,dev\n")
    assert [s.key for s in read(raw, path, images=False)[0]] == ["table/test/t-0", "table/train/t-1", "table/dev/t-2"]
    assert [s.key for s in read(raw, path, split="test", images=False)[0]] == ["table/test/t-0", "table/test/t-1"]
    with pytest.raises(SourceError, match="no record of split 'val', only of: dev, test"):
        read(raw, raw.text("u.csv", "prompt,answer,split\na,b,test\ne,f,dev\n"), split="val", images=False)


def test_tabs_without_quoting(raw: Raw) -> None:
    path = raw.text("t.tsv", 'prompt\tanswer\n"Stop" means?\tto halt\n')
    assert [row.reason for row in read(raw, path, images=False)[1]] == ["bad_field"]
    assert read(raw, path, images=False, quoting="none")[0][0].instruction == '"Stop" means?'
    path = raw.text("u.csv", "prompt#answer\na#b\n")
    assert read(raw, path, images=False, delimiter="#")[0][0].response == "b"


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
    monkeypatch.setattr(image_references, "MAX_IMAGE_BYTES", 50)
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


CELL = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.text('",;\t\r\n a', max_size=6)


@QUIET
@given(
    rows=st.integers(1, 4).flatmap(
        lambda width: st.lists(st.lists(CELL, min_size=width, max_size=width), min_size=1, max_size=5)
    ),
    delimiter=st.sampled_from(",;\t"),
    dialect=st.sampled_from([{}, {"quoting": csv.QUOTE_ALL, "lineterminator": "\n"}]),
)
def test_what_csv_writes_comes_back_exactly(raw: Raw, rows: list[list[str]], delimiter: str, dialect: Any) -> None:
    assume(not rows[0][0].startswith("\ufeff"))
    path = raw.root / "t.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter, **dialect).writerows(rows)
    assert list(delimited(path, delimiter)) == rows


@QUIET
@given(
    rows=st.lists(st.lists(CELL, min_size=2, max_size=4), max_size=5),
    junk=st.lists(st.binary(max_size=12), max_size=3),
    columns=st.dictionaries(st.sampled_from([*FIELDS, "meta.x"]), st.sampled_from("abc")) | st.just({}),
    header=st.sampled_from(["a,b,c", "image,question,answer", "b,a", "a"]),
)
def test_any_csv_is_rows_or_one_clear_line(raw: Raw, rows: Any, junk: list[bytes], columns: Any, header: str) -> None:
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows(rows)
    path = raw.root / "t.csv"
    path.write_bytes(b"\n".join([header.encode(), *junk, buffer.getvalue().encode()]))
    try:
        samples, quarantined = read(raw, path, columns=columns)
    except SourceError as error:
        assert "\n" not in str(error)
    else:
        places = [sample.meta["source"] for sample in samples] + [row.payload for row in quarantined]
        assert sorted(places) == sorted(f"t.csv#rows[{number}]" for number in range(len(places)))


GOOD = [{"id": f"id-{n}", "image": "a.png", "question": f"{n}?", "answer": ["x", f"y{n}", f"y{n}"]} for n in range(4)]


@QUIET
@given(made=spoiled(GOOD), meta=st.sampled_from(["id", "image", "question", "answer", ""]))
def test_spoiled_rows_cost_only_themselves(raw: Raw, made: Any, meta: str) -> None:
    raw.image("a.png")
    path = raw.text("t.jsonl", "\n".join(map(json.dumps, made[0])))
    columns = {"id": "id", "image": "image", "instruction": "question", "response": "answer"}
    try:
        samples, quarantined = read(raw, path, columns=columns | ({"meta.x": meta} if meta else {}))
    except SourceError as error:  # where none of the rows has a column
        assert "no column" in str(error) and len(made[1]) == 3
        return
    places = [sample.meta["source"] for sample in samples] + [row.payload for row in quarantined]
    assert sorted(places) == [f"t.jsonl#rows[{number}]" for number in range(4)]
    answers = {sample.key: sample.response for sample in samples}
    for number in {0, 1, 2, 3} - made[1]:
        assert answers[f"table/train/id-{number}"] == f"Answer: y{number}"


@QUIET
@given(record=st.dictionaries(st.sampled_from([*FIELDS, "meta"]), JUNK | st.just("a.png")))
def test_build_takes_whatever_was_spooled(raw: Raw, record: dict[str, Any]) -> None:
    raw.image("a.png")
    source = SOURCES["table"]
    context = source.context(SourceOptions(annotations=(), images=raw.images))
    try:
        both([source.build("table/train/0", record, context).validate()])
    except BadSample as bad:
        assert bad.detail


def noted(raw: Raw, *files: Path, columns: dict[str, str] | None = None, images: bool = False) -> dict[str, int]:
    options = SourceOptions(annotations=files, images=raw.images if images else None, columns=columns or {})
    scratch = Scratch()
    list(keyed_records(SOURCES["table"], options, scratch))
    return scratch.notes


def test_alpacas_input_follows_the_instruction(raw: Raw) -> None:
    rows = [
        {"instruction": "Translate.", "input": "Guten Tag", "output": "Good day"},
        {"instruction": "Hi", "output": "x"},
    ]
    path = raw.text("t.jsonl", "\n".join(map(json.dumps, rows)))
    for columns in (None, {"instruction": "instruction", "input": "input", "response": "output"}):
        samples, _ = read(raw, path, columns=columns, images=False)
        assert [sample.instruction for sample in samples] == ["Translate.\n\nGuten Tag", "Hi"]
        assert samples[0].meta["instruction"] == "Translate." and "instruction" not in samples[1].meta
    alone = raw.text("u.jsonl", json.dumps({"input": "Guten Tag", "output": "Good day"}))
    assert said(read(raw, alone, images=False)[0]) == [("table/train/u-0", "text", "Guten Tag", "Good day")]


def test_what_is_guessed_and_what_is_left_out_is_noted(raw: Raw) -> None:
    path = raw.text("t.csv", "Question,answer,context,choices\na,b,c,d\n")
    assert noted(raw, path) == {
        "t.csv: columns recognised by name: response = 'answer', instruction = 'Question'": 1,
        "t.csv: columns left out: 'context', 'choices' (--columns meta.NAME=COLUMN … keeps one)": 1,
    }
    given = {"instruction": "Question", "response": "answer", "meta.c": "context"}
    assert noted(raw, path, columns=given) == {
        "t.csv: columns left out: 'choices' (--columns meta.NAME=COLUMN … keeps one)": 1
    }
    late = [{"question": "a", "answer": "b"}] * 150 + [{"question": "a", "answer": "b", "hint": "c"}] * 2
    notes = noted(raw, raw.text("u.jsonl", "\n".join(map(json.dumps, late))))
    assert notes["u.jsonl: left out: column 'hint', which the first 100 rows do not have"] == 2


def test_pictures_that_are_asked_for_and_found_in_no_column_are_an_error(raw: Raw) -> None:
    path = raw.text("t.csv", "foto,question,answer\na.png,b,c\n")
    with pytest.raises(SourceError, match=r"no column is taken for the image.*'foto', 'question', 'answer'"):
        read(raw, path)
    with pytest.raises(SourceError, match=r"column 'foto' names files of pictures: pass their folder with --images"):
        read(raw, path, columns={"image": "foto", "response": "answer"}, images=False)
    data = base64.b64encode(raw.image("a.png")).decode()
    samples, _ = read(raw, raw.text("u.csv", f"image,caption\n{data},x\n"), images=False)
    assert len(samples) == 1


def test_numbers_stand_as_the_file_writes_them(raw: Raw) -> None:
    written = ["1.10", "1e5", "9007199254740993", "-0", "0.30000000000000004", "1.0", "1e400", "12"]
    lines = "\n".join(f'{{"question": {number}, "answer": {number}, "n": {number}}}' for number in written)
    columns = {"instruction": "question", "response": "answer", "meta.n": "n"}
    samples, quarantined = read(raw, raw.text("t.jsonl", lines), columns=columns, images=False)
    assert quarantined == [] and [sample.response for sample in samples] == written
    assert [sample.instruction for sample in samples] == written
    assert samples[0].meta["n"] == 1.1 and samples[2].meta["n"] == 9007199254740993
    cells = [*written, "007", "1,234", "NA", "None", "null", "nan", "two\nlines", "#N/A", "TRUE"]
    csv_file = raw.root / "t.csv"
    with csv_file.open("w", newline="") as file:
        csv.writer(file).writerows([["question", "answer"], *([cell, cell] for cell in cells)])
    samples, quarantined = read(raw, csv_file, images=False)
    assert quarantined == [] and [sample.response for sample in samples] == cells


@pytest.mark.parametrize("first", ["sep=;\n", '"sep=;"\r\n', "\ufeffSEP=;\n", ""])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_tables_as_spreadsheets_write_them(raw: Raw, first: str, ends: str) -> None:
    text = "prompt;answer\nOne, two; or three?;3,14\n".replace("; or", ", or")
    path = raw.root / "t.csv"
    path.write_bytes((first + text).replace("\r\n", "\n").replace("\n", ends).encode())
    samples, _ = read(raw, path, images=False)
    assert said(samples) == [("table/train/t-0", "text", "One, two, or three?", "3,14")]


def test_the_delimiter_is_the_one_that_cuts_all_lines_alike(raw: Raw) -> None:
    for name, text in {
        "a.tsv": "prompt\tanswer, short\nWhat, then, is it?\tred\n",
        "b.csv": "prompt;answer\na, b, c;d, e\nf;g\n",
        "c.csv": "prompt|answer\na, b;|c\n",
    }.items():
        columns = {"instruction": "prompt", "response": "answer, short" if name == "a.tsv" else "answer"}
        _, quarantined = read(raw, raw.text(name, text), columns=columns, images=False)
        assert quarantined == []
    assert "b.csv: taking as delimiter: semicolon" in noted(raw, raw.root / "b.csv")


def test_a_table_without_a_header(raw: Raw) -> None:
    path = raw.text("t.csv", "What is it?,red\nAnd this?,blue\n")
    with pytest.raises(SourceError, match=r"'What is it\?', 'red' \(if that is a row already: --extra header=none"):
        read(raw, path, images=False)
    samples, _ = read(raw, path, columns={"instruction": "1", "response": "2"}, images=False, header="none")
    assert [sample.response for sample in samples] == ["red", "blue"]


def test_a_cell_may_be_longer_than_the_csv_module_allows(raw: Raw) -> None:
    before = csv.field_size_limit()
    data = raw.image("a.tif", width=400, height=300)
    assert len(base64.b64encode(data)) > before
    text = f"image,caption\n{base64.b64encode(data).decode()},x\na.tif,y\n"
    quoted = f'"{base64.encodebytes(data).decode()}",z\n'
    samples, quarantined = read(raw, raw.text("t.csv", text + quoted))
    assert quarantined == [] and [sample.images[0].data for sample in samples] == [data] * 3
    assert csv.field_size_limit() == before


def test_columns_beside_the_answer_can_exclude_it_unless_they_are_taken_as_data(tmp_path: Path) -> None:
    raw = Raw(tmp_path)
    table = raw.text(
        "t.csv",
        "question,answer,is_correct,weight,clip,note\n"
        "a?,A,1,1,,fine\nb?,B,0,1,,\nc?,C,,0,,\nd?,D,,,walk.mp4,\ne?,E,,,,as walk.mp4 shows\n",
    )
    samples, quarantined = read(raw, table, images=False)
    assert [sample.response for sample in samples] == ["A", "E"]
    assert [(row.reason, row.detail.split("'")[1]) for row in quarantined] == [
        ("excluded", "is_correct"),
        ("excluded", "weight"),
        ("unsupported", "clip"),
    ]
    said = {name: name for name in ("is_correct", "weight", "clip")}
    samples, quarantined = read(raw, table, images=False, columns={f"meta.{name}": name for name in said})
    assert (len(samples), quarantined) == (5, [])
    assert samples[1].meta["is_correct"] == "0"


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
