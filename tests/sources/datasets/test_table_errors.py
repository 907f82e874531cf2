"""Tables with something wrong: a mapping, a file or an option is one clear line, a bad row costs only itself."""

from __future__ import annotations

import gzip
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polite_flamingo.sample import BadSample
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.records.source import SourceOptions
from polite_flamingo.sources.records.table_columns import FIELDS
from polite_flamingo.sources.registry import SOURCES
from tests.support.raw_dataset import Raw, both
from tests.support.record_strategies import JUNK, spoiled
from tests.support.tables import QUIET, VQA, read, reasons, said

WRONG_MAPPINGS: list[tuple[dict[str, str], str]] = [
    (
        {"response": "answr", "image": "path"},
        r"no column 'answr'; the columns are: 'path', 'question', 'answer', 'n', 'n'",
    ),
    ({"response": "answer", "image": "n"}, r"several columns 'n'"),
    ({"response": "answer"}, r"image=NAME, instruction=NAME or both; the columns are"),
    ({"image": "path"}, r"--columns response=NAME"),
    ({"answer": "answer"}, r"has no field 'answer'; its fields are response, instruction"),
    ({"response": "answer", "image": "path", "meta.": "n"}, r"has no field 'meta.'"),
    ({"response": "answer", "image": "path", "meta.source": "n"}, r"has no field 'meta.source'"),
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
        ({"task": "vqaa"}, "'vqaa' must be one of captioning"),
        ({"delimiter": "||"}, "must be one character"),
        ({"delimiter": '"'}, "must be one character"),
        ({"quoting": "all"}, "must be one of usual, none"),
    ):
        with pytest.raises(SourceError, match=message):
            read(raw, path, **extra)


def test_each_bad_row_of_a_csv_costs_only_itself(raw: Raw) -> None:
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


def test_each_bad_row_of_json_lines_costs_only_itself(raw: Raw) -> None:
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
