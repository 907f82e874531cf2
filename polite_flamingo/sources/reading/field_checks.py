"""Checks of a record's fields: each returns a value that can be relied on, or raises `BadSample`."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from polite_flamingo.sample import BadSample
from polite_flamingo.text_files import is_writable


def as_object(record: Any) -> dict[str, Any]:
    """Return the record if it is a JSON object."""
    if not isinstance(record, dict):
        raise BadSample("bad_field", f"a record must be an object, not {type(record).__name__}")
    return record


def required(record: dict[str, Any], name: str) -> Any:
    """Return the value of a required field."""
    if name not in record:
        raise BadSample("bad_field", f"field {name!r} is missing")
    return record[name]


def text_field(record: dict[str, Any], name: str) -> str:
    """Return a string field, with each run of white space made one blank. It may be empty."""
    return as_text(required(record, name), f"field {name!r}")


def as_text(value: Any, what: str) -> str:
    """Return a string that can be written as UTF-8, with each run of white space made one blank."""
    return " ".join(verbatim(value, what).split())


def verbatim(value: Any, what: str) -> str:
    """Return a string that can be written as UTF-8, unchanged: for texts whose line breaks matter, and file names."""
    if not isinstance(value, str):
        raise BadSample("bad_field", f"{what} must be a string, not {type(value).__name__}")
    if not is_writable(value):
        raise BadSample("bad_field", f"{what} holds bytes that are not UTF-8, or a lone surrogate")
    return value


def id_field(record: dict[str, Any], name: str) -> str:
    """Return an id field: a short string or a whole number."""
    value = required(record, name)
    if isinstance(value, bool) or not isinstance(value, int | str) or (isinstance(value, int) and abs(value) > 1 << 63):
        raise BadSample("bad_field", f"field {name!r} must be a string or a whole number, not {str(type(value))[8:-2]}")
    found = as_text(str(value), f"field {name!r}")
    if not 0 < len(found) <= 200:
        raise BadSample("bad_field", f"field {name!r} must have 1 to 200 characters, not {len(found)}")
    return found


def content_hash(record: Any) -> str:
    """Hash a record's content to 16 hexadecimal digits: the id of records that have none; only a copy repeats it."""
    return hashlib.blake2b(json.dumps(record, sort_keys=True).encode(), digest_size=8).hexdigest()


def usable_id(record: Any, name: str) -> str | None:
    """Return the id if it is usable, else None; for joins, where bad records are reported elsewhere."""
    try:
        return id_field(as_object(record), name)
    except BadSample:
        return None


def describe_type(value: Any) -> str:
    """Describe a value for a message: its type or number, never its content, which may be long."""
    return str(value)[:24] if isinstance(value, int | float) else type(value).__name__


def finite_number(value: Any, what: str) -> float:
    """Return a finite number of moderate size."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9 or math.isnan(value):
        raise BadSample("bad_field", f"{what} must be a number, not {describe_type(value)}")
    return float(value)


def list_field(record: dict[str, Any], name: str) -> list[Any]:
    """Return a list field, whatever its elements."""
    values = required(record, name)
    if not isinstance(values, list):
        raise BadSample("bad_field", f"field {name!r} must be a list, not {type(values).__name__}")
    return values


def text_list(record: dict[str, Any], name: str) -> list[str]:
    """Return a list of strings, each as by `as_text`; empty ones are left out."""
    values = list_field(record, name)
    return [found for number, value in enumerate(values) if (found := as_text(value, f"{name}[{number}]"))]
