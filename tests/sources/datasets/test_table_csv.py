"""Tables as delimited text: delimiters, quoting, headers, long cells."""

from __future__ import annotations

import base64
import csv
import io
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from polite_flamingo.sources.reading.delimited import delimited
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.records.table_columns import FIELDS
from tests.support.raw_dataset import Raw
from tests.support.tables import QUIET, notes_of, read, said


def test_tabs_without_quoting(raw: Raw) -> None:
    path = raw.text("t.tsv", 'prompt\tanswer\n"Stop" means?\tto halt\n')
    assert [row.reason for row in read(raw, path, images=False)[1]] == ["bad_field"]
    assert read(raw, path, images=False, quoting="none")[0][0].instruction == '"Stop" means?'
    path = raw.text("u.csv", "prompt#answer\na#b\n")
    assert read(raw, path, images=False, delimiter="#")[0][0].response == "b"


CELL = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=6) | st.text('",;\t\r\n a', max_size=6)
"""Without control characters: a file in which they are more than a twentieth is refused as binary."""


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
    assert "b.csv: delimiter recognised: semicolon" in notes_of(raw, raw.root / "b.csv")


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
