"""JSON values: parsed from text and from cells, and with numbers exactly as the file writes them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from polite_flamingo.sample import BadSample
from polite_flamingo.sources.reading.field_checks import describe_type, verbatim

_DEPTH = 20


class WrittenNumber(float):
    """A number of a JSON file that knows how it is written there: 1.10, 1e5, -0."""

    def __new__(cls, written: str) -> WrittenNumber:
        """Of the text of a number in JSON."""
        found = super().__new__(cls, written)
        found.written = written
        return found

    written: str


class JsonDecoder(json.JSONDecoder):
    """JSON, in which an object that has a name twice is noticed.

    Attributes:
        repeated: the name that the values read since it was cleared have twice in one object; "" for none.
    """

    def __init__(self, *, as_written: bool = False):
        numbers: dict[str, Any] = {"parse_float": WrittenNumber, "parse_int": _integer} if as_written else {}
        super().__init__(object_pairs_hook=self._object, **numbers)
        self.repeated = ""

    def _object(self, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            self.repeated = next(name for name in found if names.count(name) > 1)
        return found

    def checked(self, value: Any) -> Any:
        """A value that was just read; a `BadSample` in its place if it repeats a name."""
        repeated, self.repeated = self.repeated, ""
        return BadSample("bad_json", f"an object says {repeated[:60]!r} twice") if repeated else value


def _integer(written: str) -> int | WrittenNumber:
    return WrittenNumber(written) if written == "-0" else int(written)


def to_json_value(value: Any, what: str, depth: int = 0) -> Any:
    """A value as JSON types; dates and the like become text, NaN and infinity (pandas' "missing") become null.

    Args:
        value: of whatever a reader of files gives.
        what: what to call it in an error.
        depth: of the lists and objects around it.

    Raises:
        BadSample: `bad_field` for bytes, for what is nested too deeply, and for text that cannot be UTF-8 or has a NUL.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth < _DEPTH and isinstance(value, list | tuple):
        return [to_json_value(item, what, depth + 1) for item in value]
    if depth < _DEPTH and isinstance(value, dict):
        return {to_json_value(str(name), what): to_json_value(item, what, depth + 1) for name, item in value.items()}
    if isinstance(value, bytes | list | tuple | dict):
        raise BadSample("bad_field", f"{what} holds {describe_type(value)}, not text")
    found = verbatim(format(value, "f") if isinstance(value, Decimal) else str(value), what)
    if "\0" in found:
        raise BadSample("bad_field", f"{what} holds a NUL byte")
    return found


def parse_json(text: str, what: str, decode: Callable[[str], Any] = json.loads) -> Any:
    """The value of a JSON text. Raises `BadSample`, which calls the text `what`."""
    try:
        return decode(text)
    except RecursionError:
        raise BadSample("bad_json", f"{what} is nested too deeply") from None
    except ValueError as error:
        raise BadSample("bad_json", f"{what} is not JSON ({error})") from None


def json_in(value: Any) -> Any:
    """The list or object that a string holds as JSON; any other value as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def json_list_in(value: Any, *kinds: type) -> Any:
    """The list that a string holds as JSON if its elements are all of `kinds`; any other value as it is."""
    found = json_in(value)
    return found if isinstance(found, list) and all(isinstance(item, kinds) for item in found) else value


def numbers_as_written(value: Any) -> Any:
    """A value with the numbers in it, at any depth, as the text by which the file writes them, where that is known."""
    if isinstance(value, WrittenNumber):
        return value.written
    if isinstance(value, list):
        return [numbers_as_written(item) for item in value]
    if isinstance(value, dict):
        return {name: numbers_as_written(item) for name, item in value.items()}
    return value
