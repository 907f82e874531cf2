"""CC3M (Conceptual Captions, 3.3 million): a caption and a URL per line; the images come from elsewhere.

The captions are tokenised; `captions.untokenised` undoes that. An image is looked for

    in a tar      of img2dataset (`00000.tar` with `000000000.jpg`, `.json`, `.txt`), joined by the URL that its json
                  names; such tars can also be the annotations themselves, without the .tsv
    in a folder   under the line's number from 0 (also as img2dataset writes files, `00000/000000000.jpg`) or, with
                  `names=url`, the URL's last part or its CRC-32; never both, because a URL may well end in `3.jpg`
    at its URL    if the user has named its host

`tars.py` says which members of a tar form a sample; a build reads the bytes of its one image in place.
Rows in: the lines, or the samples of the tars, plus a row for each damaged tar. If there are lines, samples of
tars that match none are counted in a note. A first line `caption<TAB>url`,
which img2dataset requires, is not a record. The .tsv is known from a real file, the tars from img2dataset's code.
"""

from __future__ import annotations

import zlib
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from polite_flamingo.sample import BadSample, Image, Sample
from polite_flamingo.sources.datasets.captions import captioned, untokenised
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.field_checks import as_object, as_text, id_field, required
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.reading.small_files import files_in, printable_name
from polite_flamingo.sources.reading.streaming import lines
from polite_flamingo.sources.reading.tars import TarRow, caption_field, tar_rows
from polite_flamingo.sources.records.source import Context, Place, Records, Source, SourceOptions
from polite_flamingo.storage.tar_members import printable

_TAR_REASONS = ("truncated_tar", "unreadable_shard", "empty_shard")
_IMAGES = ("jpg", "jpeg", "png", "webp", "gif")


def records(options: SourceOptions, scratch: Scratch) -> Records:
    """Yield {id, caption, url, part, line}: `part` is [tar, offset, size] of the image, `line` a .tsv's line from 0."""
    if options.images is None and not options.download_from:
        files = ", ".join(map(str, options.annotations))
        raise SourceError(f"{files}: its images are needed: pass their folder with --images, or hosts with --download")
    if options.extra.get("names", "line") not in ("line", "url"):
        raise SourceError(f"cc3m: 'names' must be 'line' or 'url', not {options.extra['names']!r}")
    tables = [path for path in options.annotations if not _is_tars(path)]
    tars = [tar for path in options.annotations if _is_tars(path) for tar in files_in(path, ".tar", scratch)]
    if not tables:
        for path in tars:
            yield from _samples(path, options, scratch)
        return

    if options.images and not tars:
        tars = sorted(
            path for path in options.images.iterdir() if path.suffix.lower() == ".tar" and path.name[0] != "."
        )
    pictures = 0
    for path in tars:
        for place, number, found in _samples(path, options, scratch):
            if isinstance(found, BadSample) and found.reason in _TAR_REASONS:
                yield place, number, found
                continue
            pictures += 1
            if isinstance(found, dict) and found["part"] and (url := _url_key(found["url"])):
                scratch.put("part", url, found["part"])
    line = joined = 0
    for path in tables:
        for number, row in enumerate(lines(path)):
            if not row.strip() or (number == 0 and row.lower() == "caption\turl"):
                continue
            caption, tab, url = row.partition("\t")
            if not tab or "\t" in url:
                bad = BadSample("bad_field", f"expected <caption><TAB><url>, found {row.count(chr(9)) + 1} fields")
                yield Place(file=printable_name(path), part="lines"), number, bad
            else:
                part = next(iter(scratch.get("part", joins)), None) if tars and (joins := _url_key(url)) else None
                joined += part is not None and scratch.is_new(f"joined {joins}")
                data = {"id": line, "line": line, "caption": caption, "url": url.strip(), "part": part}
                yield Place(file=printable_name(path), part="lines"), number, data
            line += 1
    if pictures > joined:
        scratch.note("passed over: rows of the tars whose URL no line has, or that name none", pictures - joined)


def build(key: str, record: Any, context: Context) -> Sample:
    """Make the sample of a line."""
    fields = as_object(record)
    if required(fields, "caption") is None:
        raise BadSample("missing_annotation", "the picture has no caption: no .txt, and no 'caption' in a .json")
    caption = untokenised(as_text(fields["caption"], "the caption"))
    if not caption:
        raise BadSample("missing_annotation", "the caption is empty")
    url = as_text(fields["url"], "the URL") if fields.get("url") is not None else None
    return captioned(key, [caption], _image(fields, url, context), {"url": url} if url else {})


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


def _url_key(url: Any) -> str:
    """Turn a URL into a key of the scratch; "" if it is not a URL."""
    try:
        return as_text(url, "the URL")
    except BadSample:
        return ""


def _samples(path: Path, options: SourceOptions, scratch: Scratch) -> Records:
    """Yield what the tar holds, as `records` does."""
    if options.images is not None and not (options.images / path.name).is_file():
        raise SourceError(f"{path} must lie in the folder that --images names: {options.images}")
    if options.images is None:
        raise SourceError(f"{path} is to be read for its images: pass its folder with --images too")
    for number, row in enumerate(tar_rows(path, scratch)):
        if isinstance(row, BadSample):
            yield Place(file=printable_name(path)), number, row
        else:
            yield Place(file=printable_name(path), part="samples"), number, _sample(path, row, scratch)


def _sample(path: Path, row: TarRow, scratch: Scratch) -> Any:
    said = {} if row.json is None else row.json
    if row.problem is not None:
        return row.problem
    if not isinstance(said, dict):
        return BadSample("bad_field", f"{row.id[:80]}.json must be an object, not {type(said).__name__}")
    if len(row.pictures) > 1:
        names = " and ".join(printable(member.name) for member in row.pictures)
        return BadSample("bad_field", f"one caption for {len(row.pictures)} pictures: {names[:200]}")
    caption = said["caption"] if said.get("caption") is not None else row.text
    if caption is None and (field := caption_field(said)):
        scratch.note(f"guessed: the caption is field {field!r} of the .json")
        caption = said[field]
    picture = row.pictures[0] if row.pictures else None
    part = [path.name, picture.offset, picture.size] if picture else None
    return {"id": row.id, "caption": caption, "url": said.get("url"), "part": part}


SOURCE = Source(
    name="cc3m",
    title="Conceptual Captions (CC3M)",
    use="PF-1M",
    task="captioning",
    files="Train_GCC-training.tsv, img2dataset's tars, or both; <line>.jpg from 0.jpg, the tars, or a download",
    published="ai.google.com/research/ConceptualCaptions",
    licence="free for any purpose, with attribution",
    evidence="real file",
    adopted=67_025,
    records=records,
    identify=lambda record: id_field(as_object(record), "id"),
    build=build,
    images="optional",
    extra={"names": "how loose images are named: line (the line's number from 0, the default), or url (its last part)"},
)
