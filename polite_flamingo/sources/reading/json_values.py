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
    """A number of a JSON file that remembers how it is written there: 1.10, 1e5, -0."""

    def __new__(cls, written: str) -> WrittenNumber:
        """Make one from the text of a JSON number."""
        found = super().__new__(cls, written)
        found.written = written
        return found

    written: str


class JsonDecoder(json.JSONDecoder):
    """A JSON decoder that notices a repeated name in an object.

    Attributes:
        repeated: a name that occurs twice in one object of what was read since this was cleared; "" for none.
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
        """Return a value that was just read, or a `BadSample` in its place if it repeats a name."""
        repeated, self.repeated = self.repeated, ""
        return BadSample("bad_json", f"an object says {repeated[:60]!r} twice") if repeated else value


def _integer(written: str) -> int | WrittenNumber:
    return WrittenNumber(written) if written == "-0" else int(written)


def to_json_value(value: Any, what: str, depth: int = 0) -> Any:
    """Convert a value to JSON types; dates and the like become text, NaN and infinity (pandas' "missing") become null.

    Args:
        value: whatever a file reader returns.
        what: what to call it in an error.
        depth: how many lists and objects surround it.

    Raises:
        BadSample: `bad_field` for bytes, values nested too deeply, and text that cannot be UTF-8 or holds a NUL.
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
    """Parse a JSON text. Raises `BadSample`, which calls the text `what`."""
    try:
        return decode(text)
    except RecursionError:
        raise BadSample("bad_json", f"{what} is nested too deeply") from None
    except ValueError as error:
        raise BadSample("bad_json", f"{what} is not JSON ({error})") from None


def json_in(value: Any) -> Any:
    """Return the list or object that a string holds as JSON; any other value unchanged."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def json_list_in(value: Any, *kinds: type) -> Any:
    """Return the list that a string holds as JSON if its elements are all of `kinds`; any other value unchanged."""
    found = json_in(value)
    return found if isinstance(found, list) and all(isinstance(item, kinds) for item in found) else value


def numbers_as_written(value: Any) -> Any:
    """Replace the numbers in a value, at any depth, by the text that the file writes for them, if that is known."""
    if isinstance(value, WrittenNumber):
        return value.written
    if isinstance(value, list):
        return [numbers_as_written(item) for item in value]
    if isinstance(value, dict):
        return {name: numbers_as_written(item) for name, item in value.items()}
    return value
