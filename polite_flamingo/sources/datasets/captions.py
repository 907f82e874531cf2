"""Captioning datasets: an image and what people wrote about it, one caption per line.

    Flickr30k         lines `<name>#<k><TAB><caption>`; the lines of an image may be apart
    TextCaps          `data[]`, one row per caption; each repeats all the captions of its image in `reference_strs`
    Image2Paragraph   a list of {url, image_id, paragraph}; Visual Genome's folder is in the url; splits: lists of ids
    RET-3             RSICD, RSITMD, UCM: `images[]` in the layout of Karpathy's splits, captions mostly repeated

Rows in, for Flickr30k and TextCaps: the images, plus every malformed line or row; the good ones of the same image are
still used. For the other two: the records. Flickr30k's and RET-3's captions were tokenised; `untokenised` undoes that.
A caption that repeats for its image is left out. The published converter of TextCaps does not do that: it makes one
sample per row.
RSITMD's file is known from its documentation only, which says that its layout is RSICD's.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from polite_flamingo.sample import BadSample, Image, Sample
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.field_checks import as_object, as_text, id_field, list_field, text_field, text_list
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.reading.small_files import printable_name
from polite_flamingo.sources.reading.streaming import elements, lines
from polite_flamingo.sources.records.instructions import instruction
from polite_flamingo.sources.records.readers import elements_of, list_reader
from polite_flamingo.sources.records.responses import captions_and_boxes, distinct
from polite_flamingo.sources.records.source import (
    Builder,
    Context,
    Evidence,
    Place,
    Reader,
    Records,
    Source,
    SourceOptions,
    one_turn,
)
from polite_flamingo.sources.records.vqa_samples import UNLISTED

Read = Callable[[dict[str, Any]], tuple[list[str], list[str]]]
"""A record -> its captions, and the names under which its image may lie. Raises `BadSample`."""

_CLINGING = re.compile(r" +([,.;:!?%)\]}]+)(?=\s|$)")
_ENDINGS = re.compile(r"(?<=\w) +('(?:s|re|ve|ll|d|m)|n't)(?!\w)", re.IGNORECASE)
_OPENING = re.compile(r"(?<!\S)([(\[{$#£€]) +(?=\S)")
_QUOTED = re.compile(r'(?<!\S)(?:"|``) +([^"]{0,200}?\S) +(?:"|\'\')(?!\S)')


def untokenised(caption: str) -> str:
    """Undo a caption's tokenisation: `the boy 's hat .` -> `the boy's hat.`

    Hyphens and dashes stay apart: nothing says which of them ` - ` was.
    """
    for pattern, joined in ((_QUOTED, r'"\1"'), (_OPENING, r"\1"), (_ENDINGS, r"\1"), (_CLINGING, r"\1")):
        caption = pattern.sub(joined, caption)
    return caption


def captioned(key: str, captions: Iterable[str], image: Image, meta: Mapping[str, Any]) -> Sample:
    """Make the sample of an image: an instruction to describe it, and its distinct captions."""
    found = distinct(captions)
    if not found:
        raise BadSample("missing_annotation", "the image has no caption")
    meta = {**meta, "captions": len(found)}
    return one_turn(key, "captioning", instruction("captioning", key), captions_and_boxes(found), [image], meta)


def builder(read: Read) -> Builder:
    """Make the `build` function of a dataset whose records `read` takes apart."""

    def build(key: str, record: Any, context: Context) -> Sample:
        captions, names = read(as_object(record))
        if not any(captions):
            raise BadSample("missing_annotation", "the image has no caption")
        return captioned(key, captions, context.images.read(*names)[0], {})

    return build


def grouping_reader(rows: Reader, take: Callable[[Any], tuple[dict[str, Any], list[str]]]) -> Reader:
    """Make the `records` function of a dataset with several rows per image: images, in the order of their first rows.

    Args:
        rows: yields the file's rows.
        take: a row -> fields of its image (its `id`, and what `build` needs), captions. Raises `BadSample`.
    """

    def records(options: SourceOptions, scratch: Scratch) -> Records:
        for place, number, row in rows(options, scratch):
            try:
                fields, captions = take(row)
            except BadSample as bad:
                yield place, number, bad
                continue
            if scratch.is_new(f"image {fields['id']}"):
                scratch.put("images", fields["id"], [place.file, place.part, number, fields])
            scratch.put("captions", fields["id"], captions)
        for image_id, (file, part, number, fields) in scratch.items("images"):
            captions = [caption for found in scratch.get("captions", image_id) for caption in found]
            yield Place(file=file, part=part), number, {**fields, "captions": distinct(captions)}

    return records


def flickr30k_rows(options: SourceOptions, scratch: Scratch) -> Records:
    """Yield the lines that are not blank."""
    for path in options.annotations:
        for number, line in enumerate(lines(path)):
            if line.strip():
                yield Place(file=printable_name(path), part="lines"), number, line


def take_flickr30k(line: str) -> tuple[dict[str, Any], list[str]]:
    """Take a line apart: `1000092795.jpg#0<TAB>Two young guys …`."""
    name, tab, caption = line.partition("\t")
    name, mark, count = name.rpartition("#")
    if not tab or not mark or not count.isdecimal() or not name:
        raise BadSample("bad_field", "expected <image name>#<number><TAB><caption>")
    caption = as_text(caption, "the caption")
    if not caption:
        raise BadSample("missing_annotation", f"caption {count[:9]} of {name[:80]} is empty")
    image_id = id_field({"image name": name}, "image name").rsplit(".", 1)[0]
    return {"id": image_id, "image": name}, [untokenised(caption)]


def read_flickr30k(record: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the captions and image names of a gathered image."""
    name = text_field(record, "image")
    return text_list(record, "captions"), [name, f"flickr30k-images/{name}", f"flickr30k_images/{name}"]


def take_textcaps(row: Any) -> tuple[dict[str, Any], list[str]]:
    """Take a row apart; those of the test split have no caption."""
    image_id = id_field(as_object(row), "image_id")
    captions = text_list(row, "reference_strs") if row.get("reference_strs") is not None else []
    if row.get("caption_str") is not None:
        captions.append(text_field(row, "caption_str"))
    fields = {"id": image_id}
    for name, source in (("image", "image_path"), ("split", "set_name")):
        if row.get(source) is not None:
            fields[name] = text_field(row, source)
    return fields, captions


def read_textcaps(record: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return captions and names of a gathered image; train and validation share a folder, which no field names."""
    name = f"{id_field(record, 'id')}.jpg"
    given = [text_field(record, "image")] if record.get("image") else []
    return text_list(record, "captions"), [*given, f"train_images/{name}", f"test_images/{name}", name]


def image2paragraph_records(options: SourceOptions, scratch: Scratch) -> Records:
    """Yield the paragraphs; if lists of ids are among the files, each with the split whose list names it.

    A list's split is the first word of its file's name, as in `train_split.json`.
    """
    splits: dict[str, str] = {}
    paragraphs = []
    for path in options.annotations:
        if any(isinstance(element, dict) for element in elements(path)):
            paragraphs.append(path)
        else:
            splits |= {str(image_id): re.split(r"[^A-Za-z]", path.stem)[0].lower() for image_id in elements(path)}
    if not paragraphs:
        raise SourceError("image2paragraph: none of the files holds paragraphs: pass paragraphs_v1.json")
    for path in paragraphs:
        for number, record in enumerate(elements(path)):
            if splits and isinstance(record, dict):
                record = {**record, "split": splits.get(str(record.get("image_id")), UNLISTED)}
            yield Place(file=printable_name(path), part="paragraphs"), number, record


def read_image2paragraph(record: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return paragraph and image names; as on the server that the url names, images lie in VG_100K or VG_100K_2."""
    name = f"{id_field(record, 'image_id')}.jpg"
    url = text_field(record, "url")
    try:
        folder = PurePosixPath(urlsplit(url).path).parent.name
    except ValueError as error:
        raise BadSample("bad_field", f"field 'url' is not a URL ({error})") from None
    return [text_field(record, "paragraph")], [f"{folder}/{name}", name]


def read_ret3(folder: str) -> Read:
    """Make the `Read` of a dataset whose images lie in the archive's `folder`, which file names do not say."""

    def read(record: dict[str, Any]) -> tuple[list[str], list[str]]:
        raw, name = list_field(record, "sentences"), text_field(record, "filename")
        captions = [untokenised(text_field(as_object(item), "raw")) for item in raw]
        return captions, [name, f"{folder}/{name}", f"images/{name}"]

    return read


_source = functools.partial(Source, use="PF-1M", task="captioning")

FLICKR30K = _source(
    name="flickr30k",
    title="Flickr30k",
    files="results_20130124.token; flickr30k-images/<name>",
    published="shannon.cs.illinois.edu/DenotationGraph",
    licence="research and education only",
    evidence="transcribed",
    adopted=31_695,
    records=grouping_reader(flickr30k_rows, take_flickr30k),
    identify=lambda record: id_field(as_object(record), "id"),
    build=builder(read_flickr30k),
)
TEXTCAPS = _source(
    name="textcaps",
    title="TextCaps",
    files="TextCaps_0.1_SPLIT.json; train_images/<image_id>.jpg (of train and val)",
    published="textvqa.org/textcaps",
    licence="CC BY 4.0",
    evidence="transcribed",
    adopted=69_703,
    records=grouping_reader(list_reader(elements_of("data"), "data"), take_textcaps),
    identify=lambda record: id_field(as_object(record), "id"),
    build=builder(read_textcaps),
    split_in_record=True,
)
IMAGE2PARAGRAPH = _source(
    name="image2paragraph",
    title="Image2Paragraph",
    files="paragraphs_v1.json, and SPLIT_split.json to choose by --split; Visual Genome's VG_100K/ and VG_100K_2/",
    published="cs.stanford.edu/people/ranjaykrishna/im2p",
    evidence="transcribed",
    adopted=7_954,
    records=image2paragraph_records,
    identify=lambda record: id_field(as_object(record), "image_id"),
    build=builder(read_image2paragraph),
    split_in_record=True,
)


def _ret3(name: str, title: str, files: str, folder: str, published: str, evidence: Evidence) -> Source:
    return _source(
        name=name,
        title=title,
        files=f"{files}; {folder}/<filename>",
        published=published,
        evidence=evidence,
        adopted=13_551,
        group="RET-3",
        records=list_reader(elements_of("images"), "images", "filename", "split", "sentences"),
        identify=lambda record: id_field(as_object(record), "filename").rsplit(".", 1)[0],
        build=builder(read_ret3(folder)),
        split_in_record=True,
    )


_LU = "github.com/201528014227051/RSICD_optimal"
RSICD = _ret3("rsicd", "RSICD", "dataset_rsicd.json", "RSICD_images", _LU, "transcribed")
RSITMD = _ret3("rsitmd", "RSITMD", "dataset_RSITMD.json", "images", "github.com/xiaoyuan1996/AMFMN", "documentation")
UCM = _ret3("ucm", "UCM-captions", "dataset.json (images are .tif)", "imgs", _LU, "transcribed")
