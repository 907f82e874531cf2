"""The kind of a file by its bytes: what can be read is read whatever its name, anything else is refused at once."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import pickle
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.file_kinds import detect_kind
from polite_flamingo.sources.records.source import SourceOptions
from polite_flamingo.sources.registry import SOURCES
from tests.support.raw_dataset import Raw, both

RECORDS = [{"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}"}]} for n in "ab"]
LINES = "\n".join(map(json.dumps, RECORDS))


def read(*files: Path, source: str = "sharegpt", images: Path | None = None, **options: Any) -> Any:
    return both(SOURCES[source].read(SourceOptions(annotations=files, images=images, **options)))


def answers(*files: Path, **options: Any) -> list[str]:
    samples, quarantined = read(*files, **options)
    assert quarantined == []
    return [sample.response for sample in samples]


def as_csv(delimiter: str) -> str:
    cells = [json.dumps(record["messages"]).replace('"', '""') for record in RECORDS]
    return f'n{delimiter}messages\n0{delimiter}"{cells[0]}"\n1{delimiter}"{cells[1]}"\n'


READ = {
    "JSON lines": (LINES, "JSON lines"),
    "lines that end with a carriage return": (LINES.replace("\n", "\r"), "JSON lines"),
    "JSON list": (json.dumps(RECORDS, indent=1), "JSON list"),
    "an object with the list": (json.dumps({"version": 1, "data": RECORDS}, indent=1), "JSON object"),
    "the same in one line": (json.dumps({"version": 1, "data": RECORDS}), "JSON object"),
    "the dataset viewer's rows": (json.dumps({"rows": [{"row_idx": 0, "row": row} for row in RECORDS]}), "JSON object"),
    "an object by id": (json.dumps({"x": RECORDS[0], "y": RECORDS[1]}), "JSON object"),
    "CSV": (as_csv(","), "delimited text"),
    "TSV": (as_csv("\t"), "delimited text"),
    "Excel's CSV": ("sep=;\r\n" + as_csv(";").replace("\n", "\r\n"), "delimited text"),
    "CSV of an old Mac": (as_csv(",").replace("\n", "\r"), "delimited text"),
}


@pytest.mark.parametrize("what", READ)
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.data"])
def test_the_content_says_what_a_file_is_and_not_its_name(raw: Raw, what: str, name: str) -> None:
    text, kind = READ[what]
    path = raw.root / name
    path.write_bytes(("\ufeff" if name == "a.csv" else "").encode() + text.encode())
    assert detect_kind(path) == kind
    assert answers(path) == ["a", "b"]


def test_packed_files_are_read_through(raw: Raw) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    text = LINES.encode()
    packed = {"gz": gzip.compress(text), "bz2": bz2.compress(text), "xz": lzma.compress(text)}
    for name in ("zstd", "lz4"):
        with pyarrow.CompressedOutputStream(str(raw.root / "packed"), name) as file:
            file.write(text)
        packed[name] = (raw.root / "packed").read_bytes()
    for name, content in packed.items():
        path = raw.root / f"a.jsonl.{name}"
        path.write_bytes(content)
        assert answers(path) == ["a", "b"]
        path.write_bytes(content[:-9])
        with pytest.raises(SourceError, match="does not unpack"):
            answers(path)


def as_zip(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, LINES)


def test_what_is_not_annotations_is_refused_with_its_name_before_any_row(raw: Raw) -> None:
    as_zip(raw.root / "z", "a.jsonl")
    as_zip(raw.root / "xlsx", "[Content_Types].xml", "xl/workbook.xml")
    as_zip(raw.root / "pt", "model/data.pkl")
    with tarfile.open(raw.root / "tar", "w") as tar:
        tar.add(raw.root / "z", "z")
    refused = {
        "a zip archive: unpack it first": (raw.root / "z").read_bytes(),
        "an Excel workbook: save the sheet as CSV": (raw.root / "xlsx").read_bytes(),
        "a PyTorch file, which is never opened": (raw.root / "pt").read_bytes(),
        "a damaged zip archive": (raw.root / "z").read_bytes()[:20],
        "a tar archive": (raw.root / "tar").read_bytes(),
        "a JPEG picture": raw.image("a.jpg"),
        "a PNG picture": raw.image("a.png"),
        "a PDF document": b"%PDF-1.7\n",
        "a Python pickle": pickle.dumps(RECORDS),
        "the weights of a model": (2).to_bytes(8, "little") + b'{"a": 1}',
        "an SQLite database": b"SQLite format 3\0",
        "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "an HTML page": b"\n<!DOCTYPE html><title>Sign in</title>",
        "XML": b'<?xml version="1.0"?><a/>',
        "a binary file of an unknown kind": bytes(range(256)) * 9,
    }
    for what, content in refused.items():
        for name in ("a.jsonl", "a.csv", "a.parquet"):
            path = raw.root / name
            path.write_bytes(content)
            for source in ("sharegpt", "table"):
                with pytest.raises(SourceError, match=what) as caught:
                    read(path, source=source)
                assert "\n" not in str(caught.value)


def test_the_remedies_of_archives_and_encodings_work(raw: Raw) -> None:
    as_zip(raw.root / "a b.zip", "a.jsonl")
    (raw.root / "c d.jsonl").write_bytes(LINES.encode("utf-16"))
    (raw.root / "e.jsonl").write_bytes(LINES.encode("utf-16-le"))
    for name, command, made in (
        ("a b.zip", r"\((python -m zipfile .*)\)", "a b/a.jsonl"),
        ("c d.jsonl", r"first: (iconv .*)", "c d.jsonl.utf8"),
        ("e.jsonl", r"first: (iconv .*)", "e.jsonl.utf8"),
    ):
        with pytest.raises(SourceError, match=command) as caught:
            read(raw.root / name)
        remedy = re.findall(command, str(caught.value))[0]
        subprocess.run(remedy.replace("python ", f"{sys.executable} "), shell=True, check=True)
        assert answers(raw.root / made) == ["a", "b"]


def test_a_file_of_which_nothing_can_be_read_is_not_thousands_of_rows(raw: Raw) -> None:
    log = raw.text("log.jsonl", "\n".join(f"2026-11-29 02:{n:02} started" for n in range(300)))
    with pytest.raises(SourceError, match=r"none of the first 100 lines is a record .*is it the right file"):
        read(log)
    few = raw.text("few.jsonl", "oops\n" * 99 + LINES)
    samples, quarantined = read(few)
    assert len(samples) == 2 and len(quarantined) == 99
    prose = raw.text("prose.txt", "Once upon a time.\nThere was a table.\n")
    with pytest.raises(SourceError, match="neither JSON nor a table"):
        read(prose)


def test_a_name_repeated_in_an_object_is_reported_and_not_lost(raw: Raw) -> None:
    twice = LINES.replace('"role": "user", ', '"role": "user", "role": "system", ', 1)
    samples, quarantined = read(raw.text("a.jsonl", twice))
    assert len(samples) == 1 and [(row.reason, row.detail) for row in quarantined] == [
        ("bad_json", "an object says 'role' twice")
    ]
    samples, quarantined = read(raw.text("b.json", f"[{twice.replace(chr(10), ',')}]"))
    assert len(samples) == 1 and [row.payload for row in quarantined] == ["b.json#conversations[0]"]


def test_pandas_columns_are_refused_with_the_way_to_write_rows(raw: Raw) -> None:
    path = raw.json("a.json", {"image": {"0": "a.jpg"}, "caption": {"0": "red"}})
    with pytest.raises(SourceError, match=r"one object of columns.*orient='records', lines=True"):
        read(path, source="table")
