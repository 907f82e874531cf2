"""CC3M (Conceptual Captions, 3.3 million): a caption and a URL a line; where its image is, is up to who has them.

The captions are split into words; `captions.untokenised` undoes that. An image is looked for

    in a tar      of img2dataset (`00000.tar` with `000000000.jpg`, `.json`, `.txt`), joined by the URL that its json
                  names; or such tars are the annotations themselves, without the .tsv
    in a folder   under the line's number from 0 (also as img2dataset writes files, `00000/000000000.jpg`) or, with
                  `names=url`, the URL's last part or its CRC-32; never both, because a URL may well end in `3.jpg`
    at its URL    where the user has named its host

Tars are indexed by their headers, and a build reads the bytes of its one image where they lie; nothing is extracted.
Rows in: the lines, or the samples of the tars, plus a row for each tar that is damaged. A first line `caption<TAB>url`,
which img2dataset wants there, is no record. The .tsv is known from a real file, the tars from img2dataset's code.
"""

from __future__ import annotations

import json
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from polite_flamingo.images import EXTENSIONS
from polite_flamingo.sample import BadSample, Image, Sample
from polite_flamingo.shards import BROKEN_TAR, after_the_end
from polite_flamingo.sources.base import Context, Place, Source, SourceOptions
from polite_flamingo.sources.captions import captioned, untokenised
from polite_flamingo.sources.reading import SourceError, as_text, entry, file_name, files_in, identity, value_of
from polite_flamingo.sources.shelf import Shelf
from polite_flamingo.sources.streaming import lines

NAME = "cc3m"

MAX_TEXT_BYTES = 1 << 20
"""Of a tar's .json or .txt member; img2dataset's have a few hundred."""

_IMAGES = ("jpg", "jpeg", "png", "webp", "gif")


def records(options: SourceOptions, shelf: Shelf) -> Iterator[tuple[Place, int, Any]]:
    """{id, caption, url, part, line}: `part` is [tar, offset, size] of the image, `line` a .tsv's line from 0."""
    if options.images is None and not options.download_from:
        files = ", ".join(map(str, options.annotations))
        raise SourceError(f"{files}: its images are needed: pass their folder with --images, or hosts with --download")
    if options.extra.get("names", "line") not in ("line", "url"):
        raise SourceError(f"{NAME}: 'names' must be 'line' or 'url', not {options.extra['names']!r}")
    tables = [path for path in options.annotations if not _is_tars(path)]
    if not tables:
        for given in options.annotations:
            for path in files_in(given, ".tar"):
                yield from _samples(path, options)
        return

    tars = [tar for path in options.annotations if _is_tars(path) for tar in files_in(path, ".tar")]
    if options.images and not tars:
        tars = sorted(options.images.glob("*.tar"))
    for path in tars:
        for place, number, found in _samples(path, options):
            if isinstance(found, BadSample):
                yield place, number, found
            elif (url := _joins(found["url"])) and found["part"]:
                shelf.put("part", url, found["part"])
    line = 0
    for path in tables:
        for number, row in enumerate(lines(path)):
            if not row.strip() or (number == 0 and row.lower() == "caption\turl"):
                continue
            caption, tab, url = row.partition("\t")
            if not tab or "\t" in url:
                bad = BadSample("bad_field", f"expected <caption><TAB><url>, found {row.count(chr(9)) + 1} fields")
                yield Place(file=file_name(path), part="lines"), number, bad
            else:
                part = shelf.get("part", joins)[:1] if tars and (joins := _joins(url)) else []
                data = {
                    "id": line,
                    "line": line,
                    "caption": caption,
                    "url": url.strip(),
                    "part": part[0] if part else None,
                }
                yield Place(file=file_name(path), part="lines"), number, data
            line += 1


def build(key: str, record: Any, context: Context) -> Sample:
    """One line, one sample."""
    fields = entry(record)
    caption = untokenised(as_text(value_of(fields, "caption"), "the caption"))
    if not caption:
        raise BadSample("missing_annotation", "the caption is empty")
    url = as_text(fields["url"], "the URL") if fields.get("url") is not None else None
    return captioned(NAME, key, [caption], _image(fields, url, context), {"url": url} if url else {})


def _image(fields: dict[str, Any], url: str | None, context: Context) -> Image:
    if (part := fields.get("part")) is not None:
        if not isinstance(part, list) or [type(value) for value in part] != [str, int, int]:
            raise BadSample("bad_field", "field 'part' must be [tar, offset, size]")
        return context.images.read_part(*part)[0]
    if url is None:
        raise BadSample("missing_image", "the sample has neither an image nor a URL")
    return context.local_or_downloaded(url, *_names(fields.get("line"), url, context.options.extra.get("names")))


def _names(line: Any, url: str, convention: str | None) -> list[str]:
    if convention == "url":
        try:
            last = PurePosixPath(urlsplit(url).path).name
        except ValueError:
            last = ""
        digest = zlib.crc32(url.encode())
        return [*dict.fromkeys(name for name in (last, unquote(last)) if name), f"{digest}", f"{digest}.jpg"]
    if isinstance(line, bool) or not isinstance(line, int):
        return []
    stems = (f"{line}", f"{line:09d}", f"{line // 10_000:05d}/{line:09d}")
    return [f"{stem}.{extension}" for stem in stems for extension in _IMAGES]


def _is_tars(path: Path) -> bool:
    return path.is_dir() or path.suffix.lower() == ".tar"


def _joins(url: Any) -> str:
    """A URL as a key of the shelf, "" for what is none."""
    try:
        return as_text(url, "the URL")
    except BadSample:
        return ""


def _samples(path: Path, options: SourceOptions) -> Iterator[tuple[Place, int, Any]]:
    """What the tar holds, as `records` yields it: members of one name before the first dot, one after the other."""
    place = Place(file=file_name(path), part="samples")
    if options.images is not None and not (options.images / path.name).is_file():
        raise SourceError(f"{path} must lie in the folder that --images names: {options.images}")
    if options.images is None:
        raise SourceError(f"{path} is to be read for its images: pass its folder with --images too")
    number, stem = -1, None
    members: dict[str, Any] = {}
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            offset = -1
            while (member := tar.next()) is not None:
                if member.size < 0 or tar.offset <= offset:
                    raise tarfile.ReadError(f"member {member.name[:80]!r} leads backwards")
                offset = tar.offset
                tar.members.clear()  # type: ignore[attr-defined]  # which would hold every header of the tar
                if not member.isreg() or member.issparse():
                    continue
                base, _, extension = PurePosixPath(member.name).name.partition(".")
                if base != stem:
                    if members:
                        number += 1
                        yield place, number, _sample(path, stem or "", members)
                    stem, members = base, {}
                _add(members, extension.lower(), tar, member)
            damage = after_the_end(file, tar.offset)
    except BROKEN_TAR as error:
        damage = f"{type(error).__name__}: {error}"
    if members:
        number += 1
        yield place, number, _sample(path, stem or "", members)
    if damage:
        yield (
            Place(file=place.file),
            number + 1,
            BadSample("truncated_tar" if number >= 0 else "unreadable_shard", damage),
        )


def _add(members: dict[str, Any], extension: str, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    if extension in EXTENSIONS:
        members.setdefault("image", [member.offset_data, member.size])
    elif extension in ("json", "txt") and member.size <= MAX_TEXT_BYTES:
        file = tar.extractfile(member)
        assert file is not None  # a plain file always opens
        members.setdefault(extension, file.read().decode("utf-8", "surrogateescape"))


def _sample(path: Path, stem: str, members: dict[str, Any]) -> Any:
    try:
        said = json.loads(members["json"]) if "json" in members else {}
    except RecursionError:
        return BadSample("bad_json", f"{stem[:80]}.json is nested too deeply")
    except ValueError as error:
        return BadSample("bad_json", f"{stem[:80]}.json is not JSON ({error})")
    if not isinstance(said, dict):
        return BadSample("bad_field", f"{stem[:80]}.json must be an object, not {type(said).__name__}")
    return {
        "id": stem,
        "caption": said["caption"] if said.get("caption") is not None else members.get("txt"),
        "url": said.get("url"),
        "part": [path.name, *members["image"]] if "image" in members else None,
    }


SOURCE = Source(
    name=NAME,
    title="Conceptual Captions (CC3M)",
    use="PF-1M",
    task="captioning",
    category="captioning",
    files="Train_GCC-training.tsv, img2dataset's tars, or both; <line>.jpg from 0.jpg, the tars, or a download",
    published="ai.google.com/research/ConceptualCaptions",
    licence="free for any purpose, with attribution",
    evidence="real file",
    adopted=67_025,
    records=records,
    identify=lambda record: identity(entry(record), "id"),
    build=build,
    images="optional",
    extra={"names": "how loose images are named: line (the line's number from 0, the default), or url (its last part)"},
)
