"""Files are read one record at a time, to the same values as when they are loaded whole, wherever the window ends."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polite_flamingo.sample import BadSample
from polite_flamingo.sources.reading import streaming
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.reading.streaming import (
    elements,
    entries,
    is_list,
    json_lines,
    lines,
    members,
    numbered_elements,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=10,
)
SPACE = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n ", " :\t")])


def whole(path: Path) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, Iterator) else value for name, value in members(path)}


@pytest.fixture(autouse=True)
def _no_window_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "WINDOW", streaming.WINDOW)


@pytest.mark.parametrize("window", [1, 2, 7, 64, 1 << 20])
@settings(max_examples=60)
@given(content=st.dictionaries(st.text(max_size=4), JSON, max_size=4), space=SPACE, ascii_only=st.booleans())
def test_any_object_is_read_as_json_reads_it(
    tmp_path_factory: pytest.TempPathFactory, window: int, content: Any, space: Any, ascii_only: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / f"object-{window}.json"
    text = json.dumps(content, separators=space, ensure_ascii=ascii_only)
    path.write_bytes(text.encode("utf-8", "surrogatepass" if ascii_only else "replace"))
    expected = json.loads(path.read_bytes())
    streaming.WINDOW = window
    assert whole(path) == expected == dict(entries(path))
    values = {name: list(part.values()) if isinstance(part, dict) else part for name, part in expected.items()}
    found = members(path, objects=True)
    assert {name: list(part) if isinstance(part, Iterator) else part for name, part in found} == values
    assert not is_list(path)


@pytest.mark.parametrize("window", [1, 3, 1 << 20])
@settings(max_examples=60)
@given(content=st.lists(JSON, max_size=5), space=SPACE)
def test_any_list_is_read_as_json_reads_it(
    tmp_path_factory: pytest.TempPathFactory, window: int, content: Any, space: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / f"list-{window}.json"
    path.write_text(json.dumps(content, separators=space))
    streaming.WINDOW = window
    assert list(elements(path)) == content
    assert is_list(path)


@given(cut=st.integers(0, 200), window=st.sampled_from([1, 9, 1 << 20]))
def test_a_file_cut_anywhere_is_a_clear_error_after_the_good_records(
    tmp_path_factory: pytest.TempPathFactory, cut: int, window: int
) -> None:
    text = json.dumps({"info": {"a": 1}, "questions": [{"id": n, "text": f"is it {n}?"} for n in range(5)]}, indent=1)
    path = tmp_path_factory.getbasetemp() / "cut.json"
    path.write_text(text[: min(cut, len(text) - 1)])
    streaming.WINDOW = window
    found = []
    with pytest.raises(SourceError, match=r"line \d+, column \d+: not JSON .*downloaded whole"):
        for _, number, record in numbered_elements(path, "questions"):
            found.append((number, record))
    assert found == [(n, {"id": n, "text": f"is it {n}?"}) for n in range(len(found))]


def test_an_object_left_before_its_end_is_skipped_and_one_cut_short_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text('{"a": {"1": [1], "2": {"x": 2}}, "b": [3]}')
    seen = []
    for name, part in members(path, objects=True):
        seen.append((name, next(part)))
    assert seen == [("a", [1]), ("b", 3)]
    for text in ('{"a": {"1": 1', '{"a": {"1": 1}', '{"a": {"1" 1}}', '{"a": {1: 1}}', '{"a": {"1": 1,}}'):
        path.write_text(text)
        with pytest.raises(SourceError, match="not JSON"):
            for _, part in members(path, objects=True):
                list(part)


def test_a_list_left_before_its_end_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"images": [1, 2, 3], "info": {"x": [4]}, "annotations": [[5], [6]]}')
    found = []
    for name, value in members(path):
        found.append((name, next(value) if isinstance(value, Iterator) else value))
    assert found == [("images", 1), ("info", {"x": [4]}), ("annotations", [5])]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"a": [1, 2,]}', "a comma too many"),
        ('{"a": [1 2]}', r"column 10: not JSON \(expected ',' or '\]'\)"),
        ('{"a" 1}', "expected a name and a colon"),
        ("{1: 2}", "expected a name and a colon"),
        ('{"a": 1} {', "something follows the end"),
        ('{"a": nul}', "not JSON"),
        ('{"a": "x', "Unterminated string"),
        ("", "it ends early"),
        ('\n\n{"a": [\n1, oops]}', "line 4, column 4"),
    ],
)
def test_what_is_not_json_is_named_with_its_place(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    for window in (1, 1 << 20):
        streaming.WINDOW = window
        with pytest.raises(SourceError, match=says):
            whole(path)


def test_a_record_of_absurd_size_ends_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "MAX_RECORD", 1000)
    streaming.WINDOW = 100
    path = tmp_path / "a.json"
    path.write_text('["' + "x" * 3000 + '"]')
    with pytest.raises(SourceError, match="a record of more than"):
        list(elements(path))
    with pytest.raises(SourceError, match="a line of more than"):
        list(lines(path))


def test_lines_of_json_fail_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n\n  \r\noops\n[2]\r\n' + b'"caf\xe9"\n' + b"[" * 5000 + b"\n3")
    found = list(json_lines(path))
    assert [value.reason if isinstance(value, BadSample) else value for value in found] == [
        {"a": 1}, "bad_json", [2], "caf\udce9", "bad_json", 3,
    ]  # fmt: skip


def test_gzip_is_read_through_and_its_damage_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json.gz"
    packed = gzip.compress(json.dumps({"a": list(range(9999))}).encode())
    path.write_bytes(packed)
    assert whole(path) == {"a": list(range(9999))}
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(SourceError, match="does not unpack"):
        whole(path)


def test_lists_that_are_needed_are_named_when_absent(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"images": [], "annotations": {}}')
    with pytest.raises(SourceError, match="'annotations' must be a list, found dict"):
        list(numbered_elements(path, "images", "annotations"))
    with pytest.raises(SourceError, match="expected an object with 'images' and 'questions', found no 'questions'"):
        list(numbered_elements(path, "images", "questions"))


def test_a_large_file_takes_the_memory_of_its_records(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    record = json.dumps(
        {"answers": [{"answer": "yes", "answer_confidence": "maybe", "answer_id": n} for n in range(10)]}
    )
    with path.open("w") as file:
        file.write('{"annotations": [' + ",".join([record] * 40_000) + "]}")
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from polite_flamingo.sources.reading.streaming import numbered_elements\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert sum(1 for _ in numbered_elements(Path(sys.argv[1]), 'annotations')) == 40_000\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < path.stat().st_size / 2  # json.load takes about five times the file's size


def test_the_shelf_keeps_order_and_knows_what_it_has_seen() -> None:
    scratch = Scratch()
    for number in range(25_000):  # more than it writes at once
        scratch.put("odd" if number % 2 else "even", str(number % 10), {"n": number, "t": "\udce9"})
    assert [value["n"] for value in scratch.get("odd", "3")][:3] == [3, 13, 23]
    assert scratch.get("odd", "2") == [] and scratch.has("even", "2") and not scratch.has("even", "x")
    scratch.put("odd", "2", "late")
    assert scratch.get("odd", "2") == ["late"]
    seen = [key for key, _ in scratch.items("even") if scratch.is_new(key)]
    assert seen == ["0", "2", "4", "6", "8"] and not scratch.is_new("8") and scratch.is_new("\udce9")
