"""Parquet and Arrow: the schema is honoured, whatever holds a picture's bytes is read, no row is lost."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from polite_flamingo.sample import Quarantined, Sample
from polite_flamingo.sources.reading.arrow import ColumnCells
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.records.source import Record, SourceOptions, keyed_records, make_sample
from polite_flamingo.sources.registry import SOURCES
from tests.support.raw_dataset import Raw, both

pa = pytest.importorskip("pyarrow")
VQA = {"image": "image", "instruction": "question", "response": "answer"}


def read(
    path: Path, columns: dict[str, str], images: Path | None = None
) -> tuple[list[Sample], list[Quarantined], dict[str, int]]:
    options, scratch, source = (
        SourceOptions(annotations=(path,), images=images, columns=columns),
        Scratch(),
        SOURCES["table"],
    )
    context = source.context(options)
    rows: list[Any] = []
    for row in keyed_records(source, options, scratch):
        if isinstance(row, Record):
            row = make_sample(source, Record.from_json(json.loads(json.dumps(row.to_json(), allow_nan=False))), context)
        rows.append(row)
    return *both(rows), scratch.notes


def parquet(path: Path, table: Any) -> Path:
    import pyarrow.parquet

    views = "view" in str(table.schema)  # pyarrow cannot cut them yet
    pyarrow.parquet.write_table(table, path, row_group_size=None if views else 2)
    return path


def arrow_stream(path: Path, table: Any) -> Path:
    with pa.ipc.new_stream(str(path), table.schema) as file:
        file.write_table(table, max_chunksize=1)
    return path


def arrow_file(path: Path, table: Any) -> Path:
    with pa.ipc.new_file(str(path), table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as file:
        file.write_table(table, max_chunksize=1)
    return path


WRITERS = {"parquet": parquet, "stream": arrow_stream, "file": arrow_file}
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
VIEWS = pa.struct([("bytes", pa.binary_view()), ("path", pa.string_view())])


def columns_of(first: bytes, second: bytes) -> dict[str, Any]:
    """Three pictures each: the first two of the folder's, and none."""
    structs = [{"bytes": first, "path": None}, {"bytes": None, "path": "b.png"}, None]
    equal = [first.ljust(2000, b"\0"), second.ljust(2000, b"\0"), None]
    return {
        "binary": pa.array([first, second, None]),
        "large binary": pa.array([first, second, None], pa.large_binary()),
        "binary view": pa.array([first, second, None]).cast(pa.binary_view()),
        "fixed-size binary": pa.array(equal, pa.binary(2000)),
        "dictionary": pa.array([first, second, None]).dictionary_encode(),
        "struct": pa.array(structs, STRUCT),
        "struct of views": pa.array(structs, STRUCT).cast(VIEWS),
        "list": pa.array([[first], [second], []]),
        "large list of large binary": pa.array([[first], [second], []], pa.large_list(pa.large_binary())),
        "list of structs": pa.array([[one] for one in structs[:2]] + [None], pa.list_(STRUCT)),
        "paths as bytes": pa.array([b"a.png", b"b.png", None]),
    }


@pytest.mark.parametrize("writer", WRITERS)
def test_every_type_that_holds_a_picture_is_read(raw: Raw, writer: str) -> None:
    data = [raw.image("a.png"), raw.image("b.png", colour="red")]
    for kind, column in columns_of(*data).items():
        table = pa.table({"image": column, "question": ["a?", "b?", "c?"], "answer": ["a", "b", "c"]})
        path = WRITERS[writer](raw.root / f"{kind}.data", table)
        samples, quarantined, _ = read(path, VQA, raw.images)
        assert [sample.images[0].data.rstrip(b"\0") for sample in samples] == [one.rstrip(b"\0") for one in data], kind
        assert [(row.index, row.reason) for row in quarantined] == [(2, "missing_image")], kind


def labelled(columns: dict[str, Any], features: dict[str, Any]) -> Any:
    return pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def label(*names: str) -> dict[str, Any]:
    return {"names": list(names), "_type": "ClassLabel"}


@pytest.mark.parametrize("writer", WRITERS)
def test_class_labels_are_their_names(raw: Raw, writer: str) -> None:
    columns = {
        "q": ["a", "b", "c", "d"],
        "label": [0, 1, -1, 7],
        "many": [[1, 0], [1], [], None],
        "boxes": [[{"kind": 1, "x": 5}], [], None, []],
        "old": [{"kind": [0, 1]}, None, None, None],
    }
    features = {
        "label": label("cat", "dog"),
        "many": {"feature": label("x", "y"), "_type": "Sequence"},
        "boxes": [{"kind": label("box", "line"), "x": {"dtype": "int64", "_type": "Value"}}],
        "old": {"feature": {"kind": label("u", "v")}, "_type": "Sequence"},
    }
    path = WRITERS[writer](raw.root / "a.data", labelled(columns, features))
    wanted = {"instruction": "q", "response": "label"} | {f"meta.{name}": name for name in ("many", "boxes", "old")}
    samples, quarantined, _ = read(path, wanted)
    assert [sample.response for sample in samples] == ["cat", "dog"]
    meta = {name: value for name, value in samples[0].meta.items() if name != "source"}
    assert meta == {"many": ["y", "x"], "boxes": [{"kind": "line", "x": 5}], "old": {"kind": ["u", "v"]}}
    assert [(row.index, row.reason) for row in quarantined] == [(2, "missing_annotation"), (3, "bad_field")]
    assert "7 is not a label: the file's schema names 2" in quarantined[1].detail


def test_metadata_that_is_junk_changes_nothing(raw: Raw) -> None:
    for junk in (b"{", b"[]", b'{"info": {"features": 5}}', b'{"info": {"features": {"n": {"_type": "ClassLabel"}}}}'):
        table = pa.table({"q": ["a"], "n": [1]}).replace_schema_metadata({b"huggingface": junk})
        samples, _, _ = read(parquet(raw.root / "a.parquet", table), {"instruction": "q", "response": "n"})
        assert samples[0].response == "1"


def test_whole_numbers_with_gaps_stay_whole_and_that_is_noted(raw: Raw) -> None:
    columns = {
        "q": ["a", "b", "c"],
        "whole": [3.0, None, 5.0],
        "nan": [3.0, float("nan"), 5.0],
        "mixed": [3.0, None, 2.5],
        "floats": [3.0, 4.0, 5.0],
        "huge": [3.0, None, 1e300],
    }
    path = parquet(raw.root / "a.parquet", pa.table(columns))
    answers = {}
    for name in list(columns)[1:]:
        samples, _, notes = read(path, {"instruction": "q", "response": name})
        answers[name] = samples[0].response
        note = f"a.parquet: column {name!r} holds whole numbers with gaps, stored as 3.0: they become 3 in text"
        assert (note in notes) == (name in ("whole", "nan"))
    assert answers == {"whole": "3", "nan": "3", "mixed": "3.0", "floats": "3.0", "huge": "3.0"}


def test_pandas_writes_come_back_as_they_were_meant(raw: Raw) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "question": ["a", "b"],
            "answer": [7, None],
            "kind": pandas.Categorical(["u", "v"]),
            "big": pandas.array([2**60 + 1, None], dtype="Int64"),
        },
        index=[5, 6],
    )
    frame.to_parquet(raw.root / "a.parquet")
    frame.to_feather(raw.root / "a.feather")
    wanted = {"instruction": "question", "response": "answer", "meta.kind": "kind", "meta.big": "big"}
    for name in ("a.parquet", "a.feather"):
        samples, _, notes = read(raw.root / name, wanted)
        assert (samples[0].response, samples[0].meta["kind"], samples[0].meta["big"]) == ("7", "u", 2**60 + 1)
        assert not [note for note in notes if "left out" in note]  # pandas' index is no column


def test_numbers_and_dates_without_noise(raw: Raw) -> None:
    values = {
        pa.float32(): (0.1, "0.1"),
        pa.float64(): (0.1, "0.1"),
        pa.decimal128(9, 2): (Decimal("1.10"), "1.10"),
        pa.int64(): (2**60 + 1, str(2**60 + 1)),
        pa.date32(): (date(2020, 1, 2), "2020-01-02"),
        pa.timestamp("us"): (datetime(2020, 1, 2, 3, 4, 5), "2020-01-02 03:04:05"),
        pa.string_view(): ("None", "None"),
    }
    for kind, (value, expected) in values.items():
        table = pa.table({"q": ["a"], "n": pa.array([value], kind)})
        samples, _, _ = read(parquet(raw.root / "a.parquet", table), {"instruction": "q", "response": "n"})
        assert samples[0].response == expected, kind
    far = pa.table({"q": ["a", "b"], "n": pa.array([10**12, 0], pa.int64()).cast(pa.timestamp("s"))})
    samples, quarantined, _ = read(parquet(raw.root / "a.parquet", far), {"instruction": "q", "response": "n"})
    assert len(samples) == 1 and [row.reason for row in quarantined] == ["bad_field"]


def test_bytes_are_neither_text_nor_kept_in_meta(raw: Raw) -> None:
    path = parquet(raw.root / "a.parquet", pa.table({"q": ["a"], "raw": [b"x"], "n": ["b"]}))
    _, quarantined, _ = read(path, {"instruction": "q", "response": "raw"})
    assert quarantined[0].detail == "column 'raw' holds bytes, not text"
    with pytest.raises(SourceError, match=r"'raw' holds bytes, which meta cannot keep: leave meta\.x out"):
        read(path, {"instruction": "q", "response": "n", "meta.x": "raw"})


def test_pictures_inside_messages_are_pointed_to_one_by_one(raw: Raw) -> None:
    from polite_flamingo.sources.reading.image_folder import ImageFolder
    from polite_flamingo.sources.records.file_records import file_records
    from polite_flamingo.sources.records.image_references import read_images
    from polite_flamingo.sources.records.source import Context

    data = raw.image("a.png")
    part = pa.struct([("kind", pa.string()), ("text", pa.string()), ("picture", pa.binary())])
    said = [[{"kind": "text", "text": "What?", "picture": None}, {"kind": "image", "text": None, "picture": data}]]
    table = pa.table({"id": ["1"], "content": pa.array(said, pa.list_(part))})
    options = SourceOptions(annotations=(arrow_stream(raw.root / "a.arrow", table),))
    ((_, _, record),) = file_records(options, Scratch(), "conversations")
    assert record["content"][0] == {"kind": "text", "text": "What?", "picture": None}
    found = read_images(record["content"][1]["picture"], Context(options, ImageFolder(None)))
    assert [image.data for image in found] == [data]


def test_damaged_files_are_named(raw: Raw) -> None:
    table = pa.table({"question": ["a"] * 99, "answer": ["b"] * 99})
    for writer, make_file in WRITERS.items():
        path = make_file(raw.root / f"{writer}.data", table)
        path.write_bytes(path.read_bytes()[:-60])
        with pytest.raises(SourceError, match=r"was it downloaded whole|cannot be read from row"):
            read(path, {"instruction": "question", "response": "answer"})
    import gzip

    buffer = io.BytesIO()
    parquet(buffer, table)  # type: ignore[arg-type]
    (raw.root / "a.parquet.gz").write_bytes(gzip.compress(buffer.getvalue()))
    with pytest.raises(SourceError, match="a gzip file of Parquet or Arrow: unpack it first"):
        read(raw.root / "a.parquet.gz", {"instruction": "question", "response": "answer"})


def test_threads_that_ask_a_little_out_of_order_cost_no_second_reading(raw: Raw) -> None:
    """On a hub, each time that a part is read again is traffic."""
    path = raw.root / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"image": [str(row).encode() for row in range(1000)]}), path)
    cells, read = ColumnCells(path, "Parquet", "image"), []

    def batches(group: int, names: list[str], size: int) -> Iterator[Any]:
        for batch in table.batches(group, names, size):
            read.append(batch.num_rows)
            yield batch

    table = cells._table
    cells._table = dataclasses.replace(table, batches=batches)
    order = sorted(range(1000), key=lambda row: row + 30 * (row % 3))
    assert order != sorted(order) and [cells[row] for row in order] == [str(row).encode() for row in order]
    assert sum(read) == 1000
    assert (cells[5], cells[999]) == (b"5", b"999")
