"""Tables of the user's own: every format, the mapping of columns, the task, the texts, the notes."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest

from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.records.instructions import INSTRUCTIONS
from tests.support.raw_dataset import Raw
from tests.support.tables import ROWS, VQA, as_delimited, as_parquet, notes_of, read, said

EXPECTED = [
    ("table/train/x1", "vqa", "<image>What colour\nis it?", "Answer: green, mostly"),
    ("table/train/x2", "vqa", '<image>Is it "big"?', "Answer: no"),
]


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


def test_the_usual_names_need_no_mapping_and_are_noted(raw: Raw) -> None:
    raw.image("a.png")
    samples, _ = read(raw, raw.text("t.csv", "ID,Image,Prompt,Output,else\n7,a.png,Why?,so,x\n"))
    assert said(samples) == [("table/train/7", "vqa", "<image>Why?", "Answer: so")]
    taken = {"id": "ID", "image": "Image", "instruction": "Prompt", "response": "Output"}
    assert samples[0].meta["columns"] == taken
    samples, _ = read(raw, raw.text("u.csv", "image,caption,site\na.png,a dog,here\n"), columns={"meta.place": "site"})
    assert samples[0].response == "a dog" and samples[0].meta["place"] == "here"
    with pytest.raises(SourceError, match="'question' and 'prompt' could both be the instruction"):
        read(raw, raw.text("v.csv", "question,prompt,answer\n"))


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


def test_splits_come_from_a_column(raw: Raw) -> None:
    path = raw.text("t.csv", "prompt,answer,split\na,b,test\nc,d,\ne,f,dev\n")
    assert [s.key for s in read(raw, path, images=False)[0]] == ["table/test/t-0", "table/train/t-1", "table/dev/t-2"]
    assert [s.key for s in read(raw, path, split="test", images=False)[0]] == ["table/test/t-0", "table/test/t-1"]
    with pytest.raises(SourceError, match="no record of split 'val', only of: dev, test"):
        read(raw, raw.text("u.csv", "prompt,answer,split\na,b,test\ne,f,dev\n"), split="val", images=False)


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
    assert notes_of(raw, path) == {
        "t.csv: columns recognised by name: response = 'answer', instruction = 'Question'": 1,
        "t.csv: columns left out: 'context', 'choices' (--columns meta.NAME=COLUMN … keeps one)": 1,
    }
    given = {"instruction": "Question", "response": "answer", "meta.c": "context"}
    assert notes_of(raw, path, columns=given) == {
        "t.csv: columns left out: 'choices' (--columns meta.NAME=COLUMN … keeps one)": 1
    }
    late = [{"question": "a", "answer": "b"}] * 150 + [{"question": "a", "answer": "b", "hint": "c"}] * 2
    notes = notes_of(raw, raw.text("u.jsonl", "\n".join(map(json.dumps, late))))
    assert notes["u.jsonl: left out: column 'hint', which the first 100 rows do not have"] == 2


def test_numbers_stay_as_the_file_writes_them(raw: Raw) -> None:
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
