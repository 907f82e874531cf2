"""Reading annotation and image files that nobody vouches for.

JSON is read strictly (UTF-8, with or without a byte order mark), fields are checked before use, and image names cannot
lead out of the image folder: not by `..`, not by an absolute path elsewhere, not through a symbolic link. Nothing here
unpickles or opens a connection (`download.py` does, where it is asked to).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from polite_flamingo import text_files
from polite_flamingo.images.decoding import EXTENSION_OF, Header, inspect
from polite_flamingo.sample import BadSample, Image
from polite_flamingo.sources.reading.paths import other_spellings, relative
from polite_flamingo.sources.reading.refused import refused_as
from polite_flamingo.sources.reading.shelf import Shelf
from polite_flamingo.storage.discovery import Found, files_below
from polite_flamingo.storage.tar_members import is_tar, packed_with, printable
from polite_flamingo.storage.visibility import refuse_broken_way

MAX_IMAGE_BYTES = 100 << 20
"""A larger file is not read at all; the largest image of the source datasets has 30 MB."""

MAX_TEXT_FILE_BYTES = 20 << 20
"""Of annotation files that describe one image (XML, label lines)."""


class SourceError(ValueError):
    """An annotation file or folder as a whole is unusable; the message is one line: what, where, what to do."""


def read_text(path: Path) -> str:
    """A whole UTF-8 text file, without its byte order mark. Raises `SourceError`."""
    try:
        with path.open("rb") as file:
            if what := refused_as(path, file.read(1 << 16)):
                raise SourceError(f"{path} is {what}")
        return text_files.read_text(path)
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror or error}): check the path and its rights") from None
    except text_files.NotText as error:
        raise SourceError(str(error)) from None


def load_json(path: Path, kind: type[list[Any]] | type[dict[str, Any]]) -> Any:
    """A JSON file whose top level is `kind`, whole: for what is small by nature; the rest is streamed (`streaming.py`).

    Raises:
        SourceError: unreadable, not UTF-8, not JSON, or of another shape.
    """
    content = read_text(path)
    try:
        value = json.loads(content)
    except RecursionError:
        raise SourceError(f"{path} is nested too deeply to be an annotation file") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise SourceError(f"{path}, {where}: not JSON ({error.msg}); was it downloaded whole?") from None
    except ValueError as error:  # a number of more digits than Python converts
        raise SourceError(f"{path} is not usable JSON ({error})") from None
    if not isinstance(value, kind):
        names: dict[type, str] = {list: "a list", dict: "an object"}
        found = names.get(type(value)) or kind_of(value)
        raise SourceError(f"{path}: expected {names[kind]}, found {found}; see --list for the files of this source")
    return value


def file_name(path: Path) -> str:
    """The name of a file as it can be written to JSON: bytes that are not UTF-8 become question marks."""
    return os.fsencode(path.name).decode("utf-8", "replace")


def files_in(path: Path, suffix: str, shelf: Shelf) -> Iterator[Path]:
    """`path` itself, or the files with `suffix` directly in it, by name; what else lies there is noted.

    Raises:
        SourceError: there are none.
    """
    if not path.is_dir():
        yield path
        return
    found = Found()
    for item in sorted(os.scandir(path), key=lambda item: item.name):
        if item.is_dir():
            found.pass_over("folders", item.name)
        else:
            found.sort_in(item.name, suffix, item.name)
    if not found.files:
        raise SourceError(f"{path} holds no *{suffix} file: name the folder that directly holds the annotations")
    for line in found.lines():
        shelf.note(line)
    yield from (path / name for name in found.files)


def tars_below(path: Path, shelf: Shelf) -> list[Path]:
    """`path` itself, or the tars below a folder, by name; what else lies there is noted. Raises `SourceError`."""
    if not path.is_dir():
        try:
            with path.open("rb") as file:
                head = file.read(tarfile.BLOCKSIZE)
        except OSError as error:
            raise SourceError(f"{path} cannot be read ({error.strerror or error})") from None
        if packed := packed_with(head):
            detail = f"packed with {packed[0]}; only plain tars are read: unpack it first ({packed[1]})"
            raise SourceError(f"{path} is {detail}")
        if head and not is_tar(head):
            raise SourceError(f"{path} is not a tar: give tars, or the folder that holds them")
        return [path]
    found = files_below(path, ingested=False)
    for line in found.lines():
        shelf.note(line)
    if not found.files:
        raise SourceError(f"{path} holds no .tar file ({'; '.join(found.lines()) or 'it is empty'})")
    for name in found.files:
        if printable(name) != name:
            raise SourceError(f"{path}: the name {printable(name)!r} is not UTF-8: rename it")
    return [path / name for name in sorted(found.files)]


def small_text(path: Path, folder: Path | None) -> str:
    """The text of an annotation file that is one record; `folder`, where given, is where it must lie.

    Raises:
        BadSample: `unsafe_name` (a link that leads out of the folder), `bad_field` (not UTF-8), `text_too_long`,
            `missing_annotation` (unreadable).
    """
    try:
        if folder is not None and not path.resolve().is_relative_to(folder.resolve()):
            raise BadSample("unsafe_name", f"{path.name} is a link that leads out of {folder}")
        if path.stat().st_size > MAX_TEXT_FILE_BYTES:
            raise BadSample("text_too_long", f"{path.name}: more than {MAX_TEXT_FILE_BYTES} bytes")
        return text_files.decoded(path.read_bytes())
    except OSError as error:
        refuse_broken_way(path, error)
        raise BadSample("missing_annotation", f"{path.name} cannot be read: {error.strerror or error}") from None
    except text_files.NotText as error:
        raise BadSample("bad_field", f"{path.name} is {error}") from None


def small_json(path: Path, folder: Path | None) -> Any:
    """The JSON of an annotation file that is one record. Raises `BadSample`: as `small_text`, and `bad_json`."""
    try:
        return json.loads(small_text(path, folder))
    except BadSample:
        raise
    except RecursionError:
        raise BadSample("bad_json", f"{path.name} is nested too deeply") from None
    except ValueError as error:
        raise BadSample("bad_json", f"{path.name} is not JSON ({error})") from None


def entry(record: Any) -> dict[str, Any]:
    """The record, which must be an object."""
    if not isinstance(record, dict):
        raise BadSample("bad_field", f"a record must be an object, not {type(record).__name__}")
    return record


def value_of(record: dict[str, Any], name: str) -> Any:
    """A field that must be there."""
    if name not in record:
        raise BadSample("bad_field", f"field {name!r} is missing")
    return record[name]


def text(record: dict[str, Any], name: str) -> str:
    """A string field, with runs of white space made one blank. It may be empty."""
    return as_text(value_of(record, name), f"field {name!r}")


def as_text(value: Any, what: str) -> str:
    """A string that can be written as UTF-8, with runs of white space made one blank."""
    return " ".join(verbatim(value, what).split())


def verbatim(value: Any, what: str) -> str:
    """A string that can be written as UTF-8, as it is: for texts whose line breaks matter, and for file names."""
    if not isinstance(value, str):
        raise BadSample("bad_field", f"{what} must be a string, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadSample("bad_field", f"{what} holds bytes that are not UTF-8, or half a surrogate pair") from None
    return value


def identity(record: dict[str, Any], name: str) -> str:
    """An id: a short string or a whole number."""
    value = value_of(record, name)
    if isinstance(value, bool) or not isinstance(value, int | str) or (isinstance(value, int) and abs(value) > 1 << 63):
        raise BadSample("bad_field", f"field {name!r} must be a string or a whole number, not {str(type(value))[8:-2]}")
    found = as_text(str(value), f"field {name!r}")
    if not 0 < len(found) <= 200:
        raise BadSample("bad_field", f"field {name!r} must have 1 to 200 characters, not {len(found)}")
    return found


def fingerprint(record: Any) -> str:
    """16 hexadecimal digits of a record's content: the id of records that have none; only a copy repeats it."""
    return hashlib.blake2b(json.dumps(record, sort_keys=True).encode(), digest_size=8).hexdigest()


def found_id(record: Any, name: str) -> str | None:
    """The id if the record has a usable one; for joining, where a bad record is reported elsewhere."""
    try:
        return identity(entry(record), name)
    except BadSample:
        return None


def kind_of(value: Any) -> str:
    """What a value is, for a message: never its content, which may be long."""
    return str(value)[:24] if isinstance(value, int | float) else type(value).__name__


def finite(value: Any, what: str) -> float:
    """A number that arithmetic can rely on."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9 or math.isnan(value):
        raise BadSample("bad_field", f"{what} must be a number, not {kind_of(value)}")
    return float(value)


def list_of(record: dict[str, Any], name: str) -> list[Any]:
    """A field that must be a list, of whatever."""
    values = value_of(record, name)
    if not isinstance(values, list):
        raise BadSample("bad_field", f"field {name!r} must be a list, not {type(values).__name__}")
    return values


def texts(record: dict[str, Any], name: str) -> list[str]:
    """A list of strings, as `text`; empty ones are left out."""
    values = list_of(record, name)
    return [found for number, value in enumerate(values) if (found := as_text(value, f"{name}[{number}]"))]


@dataclass(frozen=True)
class ImageFolder:
    """The image files under `root`. Reads headers, never pixels: what does not decode is found by whoever decodes."""

    root: Path | None
    _archives: dict[Path, zipfile.ZipFile] = field(default_factory=dict)
    _folders: dict[Path, bool] = field(default_factory=dict)

    @staticmethod
    def of(images: Path | None) -> ImageFolder:
        """Raises `SourceError` where no folder is given or there."""
        if images is None:
            raise SourceError("this source needs its images: pass their folder with --images")
        if not images.is_dir():
            raise SourceError(f"{images} is no folder: pass the folder of the images with --images")
        return ImageFolder(images)

    def read(self, *names: str) -> tuple[Image, Header]:
        """The first of `names` that is there, bytes as they are.

        Raises:
            BadSample: `missing_image`, `unsafe_name`, `image_too_large`, or what `images.inspect` says of its header.
        """
        path = self.locate(*names)
        try:
            size = path.stat().st_size
            if size > MAX_IMAGE_BYTES:
                raise BadSample("image_too_large", f"{path.name}: {size} bytes, at most {MAX_IMAGE_BYTES} are read")
            data = path.read_bytes()
        except OSError as error:
            refuse_broken_way(path, error)
            raise BadSample("missing_image", f"{path.name} cannot be read: {error.strerror or error}") from None
        return checked(data, path.name)

    def locate(self, *names: str) -> Path:
        """The path of the first of `names` that is a file inside the folder."""
        if self.root is None:
            raise BadSample("missing_image", "the record has an image and no image folder is given: pass --images")
        root = self.root
        as_given = (relative(name, root) for name in names)
        others = (spelling for name in names for spelling in other_spellings(relative(name, root), root))
        for spelling in chain(as_given, others):
            path = root / spelling
            try:
                if path.is_file():
                    if not self._inside(path):
                        what = f"{spelling[:80]!r} is a link that leads out of the image folder"
                        raise BadSample("unsafe_name", what)
                    return path
            except (OSError, ValueError) as error:  # a name that no file system takes names no file
                refuse_broken_way(path, error)
                if isinstance(error, BadSample):
                    raise
        raise BadSample("missing_image", f"none of {', '.join(names)[:200]} is in the image folder")

    def read_part(self, name: str, offset: int, size: int) -> tuple[Image, Header]:
        """As `read`, from `offset` bytes into a file: a member of a tar, which is packed in no way."""
        path = self.locate(name)
        what = f"{name}@{offset}"
        if not 0 <= size <= MAX_IMAGE_BYTES:
            raise BadSample("image_too_large", f"{what}: {size} bytes, at most {MAX_IMAGE_BYTES} are read")
        try:
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read(size)
        except (OSError, ValueError, OverflowError) as error:
            refuse_broken_way(path, error)
            raise BadSample("missing_image", f"{what} cannot be read: {error}") from None
        if len(data) < size:
            raise BadSample("corrupt_image", f"{what}: the file ends after {len(data)} of {size} bytes")
        return checked(data, what)

    def _inside(self, path: Path) -> bool:
        """Folders are resolved once: to look up each of their parents would cost as much as reading the image."""
        if path.is_symlink():
            return self._beneath(path)
        if path.parent not in self._folders:
            self._folders[path.parent] = self._beneath(path.parent)
        return self._folders[path.parent]

    def _beneath(self, path: Path) -> bool:
        return self.root is not None and path.resolve().is_relative_to(self.root.resolve())

    def read_from_zip(self, archive: str, member: str) -> tuple[Image, Header]:
        """As `read`, from a zip in the folder; nothing is extracted to disk."""
        path = self.locate(archive)
        try:
            if path not in self._archives:
                self._archives[path] = zipfile.ZipFile(path)
            info = self._archives[path].getinfo(member)
            if info.file_size > MAX_IMAGE_BYTES:
                raise BadSample("image_too_large", f"{archive}@{member}: {info.file_size} bytes when unpacked")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise BadSample("unsupported", f"{archive}@{member} is packed in another way than stored or deflated")
            data = self._archives[path].read(info)
        except BadSample:
            raise
        except KeyError:
            raise BadSample("missing_image", f"{archive} holds no {member[:80]!r}") from None
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError) as error:
            refuse_broken_way(path, error)
            raise BadSample("corrupt_image", f"{archive}@{member[:80]}: {type(error).__name__}: {error}") from None
        return checked(data, f"{archive}@{member}")


def checked(data: bytes, name: str) -> tuple[Image, Header]:
    """The bytes of an image whose header is good, and that header; `name` is for the message."""
    try:
        header = inspect(data)
    except BadSample as bad:
        raise BadSample(bad.reason, f"{name}: {bad.detail}") from None
    return Image(extension=EXTENSION_OF[header.format], data=data), header
