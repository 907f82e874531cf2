"""Text annotation files, one record at a time: a 700 MB file takes the memory of one record, not ten times its size.

`members` and `elements` walk a JSON file with the standard library's scanner over a sliding window of text. A streaming
parser such as ijson refuses the whole file for one `NaN` or one byte in another encoding. Here both stay inside their
record, which `field_checks.py` then refuses alone. `json_lines` and `lines` do the same for files of lines. Compressed
files are recognised by their first bytes (`compression.py`). `file_kinds.py` tells which reader a file needs.

A file that is wrong as a whole raises `SourceError`: not JSON, cut short, another shape, a record of absurd size.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from json.decoder import JSONDecodeError
from pathlib import Path
from shlex import quote
from typing import IO, Any

from polite_flamingo.sample import BadSample
from polite_flamingo.sources.reading.compression import open_bytes
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.field_checks import describe_type
from polite_flamingo.sources.reading.json_values import parse_json
from polite_flamingo.sources.reading.unsupported_files import why_unsupported
from polite_flamingo.text_files import other_encoding

WINDOW = 1 << 20
"""Characters read at once."""

MAX_RECORD = 64 << 20
"""Maximum characters of one record: a larger one means that the file holds no annotations."""

_SPACE = " \t\r\n"
_OPENINGS = {"[": "a list", "{": "an object"}


def elements(path: Path, decoder: json.JSONDecoder | None = None) -> Iterator[Any]:
    """Yield the elements of a file that is one JSON list. Raises `SourceError`."""
    with _window(path, decoder) as window:
        window.expect("[")
        yield from _elements(window)
        window.finish()


def members(path: Path, *, objects: bool = False, decoder: json.JSONDecoder | None = None) -> Iterator[tuple[str, Any]]:
    """Yield the members of a file that is one JSON object: name and value; a list comes as an iterator.

    With `objects`, a value that is an object (id -> record) comes as an iterator over its values.
    What is left of an iterator is skipped. Raises `SourceError`, also while iterating.
    """
    with _window(path, decoder) as window:
        for name in _names(window):
            if (kind := window.peek()) == "[" or (objects and kind == "{"):
                rest = _elements(window) if kind == "[" else _values(window)
                yield name, rest
                for _ in rest:
                    pass
            else:
                yield name, window.value()


def entries(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the members of a file that is one JSON object of id -> record, each whole. Raises `SourceError`."""
    with _window(path) as window:
        for name in _names(window):
            yield name, window.value()


def lists_in(path: Path, *names: str, objects: bool = False) -> Iterator[tuple[str, Iterator[Any]]]:
    """Yield the lists (with `objects`, also objects) called `names` in a file that is one JSON object, in its order.

    Raises:
        SourceError: also if one of them is something else; absent ones are skipped.
    """
    for name, values in members(path, objects=objects):
        if name in names:
            if not isinstance(values, Iterator):
                kind = "a list or an object" if objects else "a list"
                raise SourceError(
                    f"{path}: {name!r} must be {kind}, found {describe_type(values)}; is it the right file?"
                )
            yield name, values


def numbered_elements(path: Path, *names: str) -> Iterator[tuple[str, int, Any]]:
    """Yield (name, number, element) of the lists called `names` in a file that is one JSON object, in its order.

    Raises:
        SourceError: also if one of them is absent or not a list.
    """
    found = set()
    wanted = f"an object with {' and '.join(map(repr, names))}"
    for name, values in lists_in(path, *names):
        found.add(name)
        for number, element in enumerate(values):
            yield name, number, element
    for name in names:
        if name not in found:
            raise SourceError(f"{path}: expected {wanted}, found no {name!r}; see --list for the files of this source")


def is_list(path: Path) -> bool:
    """Whether a JSON file is a list (else it is an object, or unreadable). Raises `SourceError`."""
    with _window(path) as window:
        return window.peek() == "["


def only_value(path: Path, decoder: json.JSONDecoder | None = None) -> Any:
    """Return the one JSON value that a file holds. Raises `SourceError`, also if anything follows it."""
    with _window(path, decoder) as window:
        value = window.value()
        window.finish()
        return value


def json_lines(path: Path, decoder: json.JSONDecoder | None = None) -> Iterator[Any]:
    """Yield the value of each line that is not blank; a `BadSample` in place of a line that is not JSON."""
    decode = (decoder or json.JSONDecoder()).decode
    for line in lines(path):
        if line.strip():
            try:
                yield parse_json(line, "the line", decode)
            except BadSample as bad:
                yield bad


def lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file without line ends; bytes that are not UTF-8 become lone surrogates."""
    with open_text(path) as file:
        while line := file.readline(MAX_RECORD):
            if len(line) == MAX_RECORD:
                raise SourceError(f"{path} has a line of more than {MAX_RECORD >> 20} MB; is it the right file?")
            yield line.rstrip("\r\n")


@contextmanager
def open_text(path: Path) -> Iterator[IO[str]]:
    """Open a file as text, compressed or not; bytes that are not UTF-8 become lone surrogates. Raises `SourceError`.

    Lines end with a line feed, perhaps after a carriage return. If the start of a file has no line feed, they end with
    a carriage return, as on the first Macs.
    """
    with open_bytes(path) as raw:
        start = raw.peek(1 << 16)
        if what := why_unsupported(path, start):
            raise SourceError(f"{path} is {what}")
        if encoding := other_encoding(start):
            remedy = f"convert it first: iconv -f {encoding} -t UTF-8 {quote(str(path))} > {quote(f'{path}.utf8')}"
            raise SourceError(f"{path} is {encoding}, not UTF-8: {remedy}")
        ends = "\r" if b"\r" in start and b"\n" not in start else "\n"
        yield io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline=ends)


class _Window:
    """The part of a text that is being parsed; what lies before `at` is dropped when more is read."""

    def __init__(self, file: IO[str], path: Path, decoder: json.JSONDecoder | None = None):
        self._file = file
        self._path = path
        self._text = ""
        self._at = 0
        self._lines = 1
        self._column = 1
        self._decode = (decoder or json.JSONDecoder()).raw_decode

    def peek(self) -> str:
        """Return the next character that is not white space, "" at the end."""
        while True:
            text, at, end = self._text, self._at, len(self._text)
            while at < end and text[at] in _SPACE:
                at += 1
            self._at = at
            if at < end:
                return text[at]
            if not self._more():
                return ""

    def step(self) -> None:
        """Skip the character that `peek` returned."""
        self._at += 1

    def value(self) -> Any:
        """Parse the value that begins here."""
        if not self.peek():
            raise self.error("it ends early")
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except RecursionError:
                raise SourceError(f"{self._path} is nested too deeply for an annotation file") from None
            except JSONDecodeError as error:
                within = error.pos - self._at
                cut = error.msg.startswith("Unterminated") or error.pos > len(self._text) - 16
                if cut and self._more():
                    continue
                self._at += within
                raise self.error(error.msg) from None
            except ValueError as error:  # a number with more digits than Python converts
                raise SourceError(f"{self._path} is not usable JSON ({error})") from None
            # "1", "1." and "1.5e-" all parse as a shorter number: if the window may have cut one, read further.
            length = end - self._at
            if len(self._text) - end <= 2 and isinstance(value, int | float) and self._more():
                continue
            self._at += length
            return value

    def comma_or(self, close: str) -> None:
        """Skip a comma, or stay before `close`."""
        found = self.peek()
        if found == ",":
            self.step()
            if self.peek() == close:
                raise self.error("a comma too many")
        elif found != close:
            raise self.error(f"expected ',' or '{close}'" if found else "it ends early")

    def finish(self) -> None:
        """Raise `SourceError` if anything follows."""
        if self.peek():
            raise self.error("something follows the end")

    def error(self, message: str) -> SourceError:
        """Make an error that says what is wrong, and where."""
        done = self._text[: self._at]
        line = self._lines + done.count("\n")
        column = len(done) - done.rfind("\n") if "\n" in done else self._column + len(done)
        return SourceError(
            f"{self._path}, line {line}, column {column}: not JSON ({message}); was it downloaded whole?"
        )

    def expect(self, opening: str) -> None:
        """Raise `SourceError` unless the file is a list ("[") or an object ("{"), as `opening` says."""
        if (start := self.peek()) != opening:
            found = _OPENINGS.get(start) or describe_type(self.value())
            what = f"expected {_OPENINGS[opening]}, found {found}; see --list for the files of this source"
            raise SourceError(f"{self._path}: {what}")

    def _more(self) -> bool:
        """Read more: at least as much as is unparsed, so that a long record is scanned only a few times."""
        if len(self._text) - self._at > MAX_RECORD:
            raise SourceError(f"{self._path} has a record of more than {MAX_RECORD >> 20} MB; is it the right file?")
        done = self._text[: self._at]
        newlines = done.count("\n")
        self._column = len(done) - done.rfind("\n") if newlines else self._column + len(done)
        self._lines += newlines
        rest = self._text[self._at :]
        chunk = self._file.read(max(WINDOW, len(rest)))
        self._text, self._at = rest + chunk, 0
        return bool(chunk)


def _names(window: _Window) -> Iterator[str]:
    """Yield the member names of a file's object; the caller must take each value before going on."""
    window.expect("{")
    yield from _fields(window)
    window.finish()


def _fields(window: _Window) -> Iterator[str]:
    window.step()
    while window.peek() != "}":
        name = window.value()
        if not isinstance(name, str) or window.peek() != ":":
            raise window.error("expected a name and a colon")
        window.step()
        yield name
        window.comma_or("}")
    window.step()


def _values(window: _Window) -> Iterator[Any]:
    for _ in _fields(window):
        yield window.value()


def _elements(window: _Window) -> Iterator[Any]:
    window.step()
    while window.peek() != "]":
        yield window.value()
        window.comma_or("]")
    window.step()


@contextmanager
def _window(path: Path, decoder: json.JSONDecoder | None = None) -> Iterator[_Window]:
    with open_text(path) as file:
        yield _Window(file, path, decoder)
