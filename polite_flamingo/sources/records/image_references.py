"""Turns whatever an annotation writes for an image into that image: the one way for every source.

A reference is a path in any of the spellings of `image_paths.py`; a URL, fetched only from hosts that the user named; a
`data:` URL; plain base64; bytes, in Parquet and Arrow; an object with one of these under a name in `IMAGE_KEYS`, as in
Hugging Face datasets and in messages of OpenAI and Anthropic; or a list of any of these, also inside a text cell, as
JSON or as Python prints it.

    for reference in references(value, context):     # str or bytes
        read_image(reference, context)               # -> Image
"""

from __future__ import annotations

import ast
import base64
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import unquote_to_bytes

from polite_flamingo.sample import BadSample, Image
from polite_flamingo.sources.reading.field_checks import describe_type, verbatim
from polite_flamingo.sources.reading.image_folder import MAX_IMAGE_BYTES, checked_image
from polite_flamingo.sources.reading.json_values import json_in
from polite_flamingo.sources.records.cell_references import is_cell_reference, read_cell
from polite_flamingo.sources.records.source import Context

IMAGE_KEYS = (
    "bytes", "path", "url", "image_url", "image", "file_name", "filename", "file", "file_path", "image_path", "base64",
    "b64_json", "data", "source",
)  # fmt: skip
"""Names under which an object may hold its picture; the first that is not empty counts."""

_BASE64 = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"P5", b"P6", b"\0\0\0\x0cjP")
_FTYP = b"ftyp"
_MAX_PATH_LENGTH = 1024
"""In characters: a longer string of base64's letters, without a dot, is not a path."""

_DEPTH = 5


def references(value: Any, context: Context, separator: str = "") -> list[str | bytes]:
    """List the pictures that a value names, in order: strings (paths, addresses, base64) and bytes, none of them empty.

    Args:
        value: whatever the annotation gives for its images.
        context: where cells of Parquet and Arrow lie, which are read here.
        separator: what separates several pictures in one string; "" for none.

    Raises:
        BadSample: `bad_field` for a value that names no picture, `missing_image` for a cell that cannot be read.
    """
    return list(_references(value, context, separator, 0))


def _references(value: Any, context: Context, separator: str, depth: int) -> Iterator[str | bytes]:
    if depth > _DEPTH:
        raise BadSample("bad_field", "the value for an image is nested too deeply")
    if is_cell_reference(value):
        value = read_cell(value, context.options)
    if isinstance(value, str):
        value = _parsed(value)
    if isinstance(value, str) and separator:
        yield from (part.strip() for part in value.split(separator) if part.strip())
    elif isinstance(value, str | bytes):
        if value or isinstance(value, bytes):
            yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _references(item, context, separator, depth + 1)
    elif isinstance(value, dict):
        yield from _references(_value_of_object(value), context, "", depth + 1)
    elif value is not None:
        raise BadSample("bad_field", f"an image must be a path or, in Parquet, bytes, not {describe_type(value)}")


def _value_of_object(value: dict[str, Any]) -> Any:
    """Return what an object holds under the first of `IMAGE_KEYS` that it has."""
    there = [name for name in IMAGE_KEYS if name in value]
    for name in there:
        found = value[name]
        if name == "bytes" and isinstance(found, list) and found and all(_is_byte(item) for item in found):
            return bytes(found)
        if found not in (None, "", b"", [], {}):
            return found
    if b"" in [value[name] for name in there]:
        return b""
    what = f"an object without {', '.join(IMAGE_KEYS[:5])} or the like" if not there else "an object that is empty"
    raise BadSample("bad_field", f"an image must be a path or, in Parquet, bytes, not {what}")


def _is_byte(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 256


def _parsed(text: str) -> Any:
    """Parse the list, object or bytes that a string spells out, in JSON or as Python prints it; else return it."""
    start = text.lstrip()[:2]
    if not isinstance(found := json_in(text), str):
        return found
    if start in ("['", '["', "{'", "b'", 'b"') or start in ("[b", "[{"):
        try:
            return ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return text
    return text


def read_image(
    reference: str | bytes, context: Context, places: Callable[[str], Iterable[str]] = lambda name: [name]
) -> Image:
    """Read the picture that one of `references` names.

    Args:
        reference: a path, an address, a `data:` URL, base64, or bytes.
        context: the image folder, and the hosts that may be asked.
        places: where in the folder a path is looked for.

    Raises:
        BadSample: `missing_image`, `unsafe_name`, `image_too_large`, `bad_field`, or what `images.inspect` says.
    """
    if isinstance(reference, bytes):
        return _image_of_bytes(reference, context, places)
    text = verbatim(reference, "the image")
    if "\0" in text:
        raise BadSample("bad_field", "the image holds a NUL byte")
    start = text[:40].lower()
    if start.startswith("data:"):
        return checked_image(_bytes_of_data_url(text), "the image in its data URL")[0]
    if start.startswith(("http://", "https://")):
        return context.local_or_downloaded(text.strip(), *places(text.strip()))
    if (scheme := re.match(r"([a-z][a-z0-9+.]+)://", start)) and scheme[1] != "file":
        what = f"{text[:120]!r} is not fetched: only http and https are, from hosts named with --download"
        raise BadSample("missing_image", f"{what}; copy such files into the folder of --images")
    if (data := _bytes_of_base64(text)) is not None:
        return checked_image(data, "the image in base64")[0]
    if not text.strip():
        raise BadSample("bad_field", "an image must be a path or, in Parquet, bytes, not blanks")
    return context.images.read(*places(text))[0]


def read_images(
    value: Any, context: Context, places: Callable[[str], Iterable[str]] = lambda name: [name], separator: str = ""
) -> list[Image]:
    """Read the pictures that a value names. Raises `BadSample` like `references` and `read_image`."""
    return [read_image(reference, context, places) for reference in references(value, context, separator)]


def reference_name(reference: str | bytes) -> str:
    """Name a reference for `meta`: a path or an address unchanged, anything else by what it is."""
    if isinstance(reference, bytes):
        return "(bytes)"
    if reference[:5].lower() == "data:":
        return "(data URL)"
    return reference if len(reference) <= _MAX_PATH_LENGTH and _bytes_of_base64(reference) is None else "(base64)"


def needs_folder(value: Any) -> bool:
    """Whether a value names a file: it is neither bytes, nor an address, nor a string that holds the picture itself."""
    if isinstance(value, str):
        found = _parsed(value)
        if not isinstance(found, str):
            return needs_folder(found)
        is_file = "://" not in found[:20] or found[:7].lower() == "file://"
        return bool(found.strip()) and is_file and found[:5].lower() != "data:" and _bytes_of_base64(found) is None
    if isinstance(value, list):
        return any(map(needs_folder, value))
    if isinstance(value, dict) and not is_cell_reference(value):
        try:
            return needs_folder(_value_of_object(value))
        except BadSample:
            return False
    return False


def _image_of_bytes(data: bytes, context: Context, places: Callable[[str], Iterable[str]]) -> Image:
    """Read the picture in bytes, which may also be a path or base64."""
    try:
        return checked_image(data, "the image in the row")[0]
    except BadSample as bad:
        if bad.reason not in ("corrupt_image", "unsupported_image") or not data[:64].isascii():
            raise
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise bad from None
        if _bytes_of_base64(text) is None and not (len(text) < _MAX_PATH_LENGTH and re.search(r"\.\w{3,4}$", text)):
            raise
        return read_image(text, context, places)


def _bytes_of_data_url(url: str) -> bytes:
    head, comma, body = url.partition(",")
    if not comma:
        raise BadSample("bad_field", "the image's data URL has no comma")
    if len(body) > MAX_IMAGE_BYTES * 3:
        raise BadSample("image_too_large", f"the image's data URL has {len(url)} characters")
    data = unquote_to_bytes(body)
    if not head.lower().rstrip().endswith(";base64"):
        return data
    try:
        return _decoded(data.decode("ascii", "replace"))
    except ValueError as error:
        raise BadSample("corrupt_image", f"the image's data URL is not base64: {error}") from None


def _bytes_of_base64(text: str) -> bytes | None:
    """Decode a string that is base64 of a picture, or too long for a path; None for any other string."""
    if len(text) < 32 or " " in text.strip() or not _BASE64.match(text.strip()[:64]):
        return None
    try:
        start = _decoded(re.sub(r"\s+", "", text[:200])[:64])
    except ValueError:
        return None
    if not start.startswith(_MAGIC) and start[4:8] != _FTYP and len(text) <= _MAX_PATH_LENGTH:
        return None
    if len(text) > MAX_IMAGE_BYTES * 3:
        raise BadSample("image_too_large", f"the image in base64 has {len(text)} characters")
    packed = "".join(text.split())
    if not _BASE64.fullmatch(packed):
        return None
    try:
        return _decoded(packed)
    except ValueError as error:
        if len(text) <= _MAX_PATH_LENGTH:
            return None
        raise BadSample("corrupt_image", f"the image in base64 cannot be read: {error}") from None


def _decoded(text: str) -> bytes:
    """Decode base64 with or without white space and padding, in either alphabet."""
    packed = "".join(text.split()).rstrip("=").translate(str.maketrans("-_", "+/"))
    return base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
