"""Column types of Parquet and Arrow: which hold images, which hold strings, and how their cells are converted.

The schema is honoured: Hugging Face's class labels become their names. Whole numbers that pandas turned into floats,
because some are missing, become whole again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import types

from polite_flamingo.sample import BadSample

Convert = Callable[[Any], Any]

_BYTES = (pa.binary(), pa.large_binary(), pa.binary_view())
_STRINGS = (pa.string(), pa.large_string(), pa.string_view())
_LISTS = (pa.ListType, pa.LargeListType, pa.FixedSizeListType, pa.ListViewType, pa.LargeListViewType)

_BESIDE_BYTES = {
    "bytes", "path", "url", "name", "file_name", "filename", "format", "mode", "width", "height", "size", "type",
    "mime_type", "sha256", "image", "data",
}  # fmt: skip
"""Fields of a struct that is one picture. In a struct with other fields, each bytes value gets its own reference."""


def _storage_type(kind: Any) -> Any:
    """Return the type under an extension, a dictionary or a run-end encoding."""
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif types.is_dictionary(kind) or types.is_run_end_encoded(kind):
            kind = kind.value_type
        else:
            return kind


def _is_bytes(kind: Any) -> bool:
    return kind in _BYTES or types.is_fixed_size_binary(kind)


def is_string_type(kind: Any) -> bool:
    """Whether a column type is a string, of any width."""
    return _storage_type(kind) in _STRINGS


def holds_bytes(kind: Any) -> bool:
    """Whether a column type holds bytes at any depth."""
    kind = _storage_type(kind)
    if isinstance(kind, _LISTS):
        return holds_bytes(kind.value_type)
    if types.is_struct(kind):
        return any(holds_bytes(field.type) for field in kind)
    if types.is_map(kind):
        return holds_bytes(kind.item_type)
    return _is_bytes(kind)


def is_picture_type(kind: Any) -> bool:
    """Whether a column type holds images: bytes, {bytes, path}, or a list of either."""
    kind = _storage_type(kind)
    if isinstance(kind, _LISTS):
        return is_picture_type(kind.value_type)
    if types.is_struct(kind):
        return {field.name for field in kind} <= _BESIDE_BYTES and holds_bytes(kind)
    return _is_bytes(kind)


def huggingface_features(schema: Any) -> dict[str, Any]:
    """Return the features that Hugging Face's `datasets` stores for the columns; {} if none can be read."""
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def converter(kind: Any, feature: Any) -> Convert | None:
    """Choose how a column's cells are converted: labels to names, short floats without rounding noise; None: not."""
    kind = _storage_type(kind)
    if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list):
        names = feature["names"]
        if types.is_integer(kind):
            return lambda value: _label(value, names)
        if isinstance(kind, _LISTS):  # a list of labels
            return _each(lambda value: _label(value, names))
    if types.is_float32(kind) or types.is_float16(kind):
        return _shortest(np.float32 if types.is_float32(kind) else np.float16)
    if isinstance(kind, _LISTS):
        inner = converter(kind.value_type, _feature_inside(feature))
        return _each(inner) if inner else None
    if types.is_struct(kind):
        inside = _feature_inside(feature) if isinstance(feature, dict) and "_type" in feature else feature
        inside = inside if isinstance(inside, dict) else {}
        found = {field.name: converter(field.type, inside.get(field.name)) for field in kind}
        wanted = {name: convert for name, convert in found.items() if convert}
        return (lambda value: value and value | {n: c(value[n]) for n, c in wanted.items()}) if wanted else None
    return None


def _feature_inside(feature: Any) -> Any:
    """Return the feature of a list's elements: from [feature], {"feature": …, "_type": "Sequence"}, or itself."""
    if isinstance(feature, list):
        return feature[0] if feature else None
    if isinstance(feature, dict) and "feature" in feature and isinstance(feature.get("_type"), str):
        return feature["feature"]
    return feature


def _each(convert: Convert) -> Convert:
    return lambda values: values and [convert(value) for value in values]


def _label(value: Any, names: list[Any]) -> Any:
    if value is None or value == -1:  # how `datasets` writes an unknown label
        return None
    if not isinstance(value, int) or not 0 <= value < len(names):
        what = f"{str(value)[:20]} is not a label"
        raise BadSample("bad_field", f"{what}: the file's schema names {len(names)}, counted from 0")
    return str(names[value])


def _shortest(narrow: type[np.floating[Any]]) -> Convert:
    """Make a conversion of short floats to the shortest decimals that read back as them: 0.1, not 0.10000000149."""
    return lambda value: value if value is None or not math.isfinite(value) else float(str(narrow(value)))


def to_int(value: Any) -> Any:
    """Convert a float to an integer; None and NaN become None."""
    return None if value is None or math.isnan(value) else int(value)
