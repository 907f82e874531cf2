"""Aerial object detection sets: DOTA, DIOR and HRRSD. One annotation file per image; its boxes become a description.

The raw annotation is a line of counts, then one line per box (`boxes.py`). Oriented boxes become the axis-aligned boxes
around them. Objects outside the image are left out and counted in `meta`; if more than half of them lie outside, the
file belongs to another image and the row is quarantined. Rows in: the annotation files. HRRSD is also published in
COCO's format, which counts pixels from 0, not from 1: there the rows are the images, plus every box that is malformed
or belongs to no image. For DIOR and HRRSD, lists of names (`ImageSets/Main/train.txt`, whose second column says only
whether a class is in the image) select files of a folder; a listed name without a file is a row too.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from polite_flamingo.sample import BadSample, Image, Sample
from polite_flamingo.sources.datasets.coco import store_boxes, store_lists
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.field_checks import as_object, as_text, finite_number, id_field, text_field
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.reading.small_files import files_in, printable_name, read_small_text
from polite_flamingo.sources.reading.streaming import lines
from polite_flamingo.sources.records.boxes import Box, clip, largest, normalised
from polite_flamingo.sources.records.instructions import instruction
from polite_flamingo.sources.records.responses import captions_and_boxes
from polite_flamingo.sources.records.source import (
    Builder,
    Context,
    Place,
    Reader,
    Records,
    Source,
    SourceOptions,
    one_turn,
)
from polite_flamingo.storage.remote_path import source_path

WORDS = {
    "golffield": "golf course",
    "baseballfield": "baseball field",
    "basketballcourt": "basketball court",
    "groundtrackfield": "ground track field",
    "storagetank": "storage tank",
    "t junction": "T junction",
    "tenniscourt": "tennis court",
    "trainstation": "train station",
}
"""Words for DIOR's class names, which lack blanks, and for what lower case would spoil; DOTA's names have hyphens."""

Read = Callable[[Path, str], tuple[list[Box], tuple[float, float] | None, list[str], dict[str, Any]]]
"""(file, its text) -> boxes, the size they refer to (None: that of the image), image names, meta."""


def file_reader(suffix: str) -> Reader:
    """Make the `records` function of a dataset with one annotation file per image: the file and its folder."""

    def records(options: SourceOptions, scratch: Scratch) -> Records:
        lists = [path for path in options.annotations if suffix == ".xml" and path.suffix.lower() == ".txt"]
        chosen: dict[str, Any] = {name: (path, number) for path in lists for number, name in _names_in(path)}
        for given in options.annotations:
            if given in lists:
                continue
            for file in files_in(given, suffix, scratch):
                if not lists or chosen.pop(file.stem, ()) or not given.is_dir():
                    yield Place(file=printable_name(file)), 0, [os.fsencode(str(file)).hex(), given.is_dir()]
        for name, (path, number) in chosen.items():
            bad = BadSample("missing_annotation", f"no {suffix} file is given for the listed {name[:80]!r}")
            yield Place(file=printable_name(path), part="lines"), number, bad

    return records


def _names_in(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the first word of each line: `00001`, `00001  1` or `00001 -1`."""
    for number, line in enumerate(lines(path)):
        if words := line.split():
            yield number, words[0]


def hrrsd_records(options: SourceOptions, scratch: Scratch) -> Records:
    """Yield records as `file_reader` does, or, from .json files, {record, boxes}."""
    xml = tuple(path for path in options.annotations if path.suffix.lower() != ".json")
    yield from file_reader(".xml")(dataclasses.replace(options, annotations=xml), scratch)
    for file, path in enumerate(options.annotations):
        if path in xml:
            continue
        labels = store_lists(file, path, scratch)
        if labels is None:
            raise SourceError(f"{path} has no 'categories', which name the classes of its boxes")
        yield from store_boxes(Place(file=printable_name(path), part="annotations"), file, labels, scratch, images=True)
        for image_id, (number, record) in scratch.items(f"images {file}"):
            boxes = scratch.get(f"boxes {file}", image_id) if image_id else []
            yield Place(file=printable_name(path), part="images"), number, {"record": record, "boxes": boxes}


def identify(record: Any) -> str:
    """Return the annotation file's name without its suffix; in COCO's format, the image's."""
    if isinstance(record, dict):
        return id_field(as_object(record["record"]), "file_name").rsplit(".", 1)[0]
    return id_field({"file name": _path(record).stem}, "file name")


def _path(record: list[Any]) -> Path:
    return source_path(os.fsdecode(bytes.fromhex(record[0])))


def builder(parse: Read) -> Builder:
    """Make the `build` function of a dataset whose files `parse` reads."""

    def build(key: str, record: list[Any], context: Context) -> Sample:
        path = _path(record)
        boxes, size, image_names, meta = parse(path, read_small_text(path, path.parent if record[1] else None))
        if not boxes:
            raise BadSample("missing_annotation", f"{path.name} names no object")
        image, header = context.images.read(*image_names)
        width, height = size or (header.width, header.height)
        return _sample(key, boxes, width, height, image, meta | {"image_id": path.stem})

    return build


def build_hrrsd(key: str, record: Any, context: Context) -> Sample:
    """Make the sample of an image, from its own .xml file or from COCO's format."""
    if not isinstance(record, dict):
        return build_voc(key, record, context)
    fields = as_object(record["record"])
    boxes = [
        Box(label=label_words(label), x1=x, y1=y, x2=x + width, y2=y + height)
        for label, (x, y, width, height) in record["boxes"]
    ]
    if not boxes:
        raise BadSample("missing_annotation", "the image has no box")
    name = text_field(fields, "file_name")
    image, header = context.images.read(name, f"JPEGImages/{name}")
    width = finite_number(fields.get("width", header.width), "field 'width'")
    height = finite_number(fields.get("height", header.height), "field 'height'")
    return _sample(key, boxes, width, height, image, {"image_id": name.rsplit(".", 1)[0]})


def _sample(key: str, boxes: list[Box], width: float, height: float, image: Image, meta: dict[str, Any]) -> Sample:
    inside = clip(boxes, width, height)
    outside = len(boxes) - len(inside)
    if outside * 2 > len(boxes):
        detail = f"{outside} of {len(boxes)} objects lie outside the image ({width:g}x{height:g}): is it another one?"
        raise BadSample("bad_field", detail)
    counts = Counter(box.label for box in inside)
    named = ", ".join(f"{label} ({count})" for label, count in sorted(counts.items(), key=lambda item: -item[1]))
    shown = largest(inside)
    response = captions_and_boxes([f"Objects seen from above: {named}"], normalised(shown, width, height))
    meta |= {"boxes": len(boxes), "boxes_outside": outside, "boxes_shown": len(shown)}
    return one_turn(key, "captioning", instruction("captioning", key), response, [image], meta)


def enclosing_box(label: str, corners: list[float]) -> Box:
    """Return the axis-aligned box around corners x1, y1, x2, y2, … (two or four of them)."""
    xs, ys = corners[::2], corners[1::2]
    return Box(label=label, x1=min(xs), y1=min(ys), x2=max(xs), y2=max(ys))


def label_words(name: str) -> str:
    """Spell a class name in words: `large-vehicle` -> large vehicle, `golffield` -> golf course."""
    name = as_text(name, "a class name")
    if not name:
        raise BadSample("bad_field", "an object has an empty class name")
    return WORDS.get(name.lower(), name.replace("-", " ").replace("_", " ").lower())


def parse_dota(path: Path, content: str) -> tuple[list[Box], None, list[str], dict[str, Any]]:
    """Parse lines `x1 y1 x2 y2 x3 y3 x4 y4 class difficult`; originals (not tiles) begin with `imagesource:`."""
    boxes, difficult = [], 0
    meta: dict[str, Any] = {}
    for number, line in enumerate(content.splitlines(), start=1):
        name, colon, value = line.partition(":")
        if colon and name.strip() in ("imagesource", "gsd"):
            meta[name.strip()] = as_text(value, name.strip())
            continue
        parts = line.split()
        if not parts:
            continue
        if len(parts) not in (9, 10):
            raise BadSample("bad_field", f"{path.name}, line {number}: expected 8 numbers, a class and 'difficult'")
        corners = [_number(part, f"{path.name}, line {number}") for part in parts[:8]]
        boxes.append(enclosing_box(label_words(parts[8]), corners))
        difficult += parts[9:] == ["1"]
    meta["difficult"] = difficult
    return boxes, None, _names(path.stem), meta


_FOLDERS = ("JPEGImages", "JPEGImages-trainval", "JPEGImages-test")


def parse_voc(path: Path, content: str) -> tuple[list[Box], tuple[float, float] | None, list[str], dict[str, Any]]:
    """Parse Pascal VOC's XML, with `bndbox` (two corners) or, in DIOR-R, `robndbox` (four)."""
    if "<!DOCTYPE" in content or "<!ENTITY" in content:
        raise BadSample("bad_field", f"{path.name} declares entities; annotation files need none")
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError) as error:
        raise BadSample("bad_field", f"{path.name} is not XML: {error}") from None
    boxes = []
    for number, thing in enumerate(root.findall("object")):
        what = f"{path.name}, object {number}"
        label = label_words(thing.findtext("name") or "")
        if (oriented := thing.find("robndbox")) is not None:
            corners = [
                _number(oriented.findtext(f"{axis}_{corner}"), what)
                for corner in ("left_top", "right_top", "right_bottom", "left_bottom")
                for axis in "xy"
            ]
        elif (box := thing.find("bndbox")) is not None:
            corners = [_number(box.findtext(side), what) for side in ("xmin", "ymin", "xmax", "ymax")]
        else:
            raise BadSample("bad_field", f"{what} has neither 'bndbox' nor 'robndbox'")
        boxes.append(enclosing_box(label, corners))
    size = None
    if root.find("size") is not None:
        size = tuple(_number(root.findtext(f"size/{side}"), f"{path.name}, size") for side in ("width", "height"))
    name = as_text(root.findtext("filename") or "", "element 'filename'")
    names = [name, *(f"{place}/{name}" for place in _FOLDERS)] if name else []
    return boxes, (size[0], size[1]) if size else None, names + _names(path.stem), {}


def _names(stem: str) -> list[str]:
    return [f"{place}{stem}.{extension}" for place in ("", "images/") for extension in ("png", "jpg")]


def _number(value: str | None, where: str) -> float:
    try:
        number = float(value or "")
    except ValueError:
        raise BadSample("bad_field", f"{where}: {(value or '')[:24]!r} is not a number") from None
    return finite_number(number, where)


build_voc = builder(parse_voc)
_source = functools.partial(Source, use="PF-1M", task="captioning", evidence="real file", identify=identify)

DOTA = _source(
    name="dota",
    title="DOTA",
    files="labelTxt/ (a folder, or single .txt files); images/<same name>.png",
    published="captain-whu.github.io/DOTA",
    licence="academic use only",
    adopted=1_733,
    records=file_reader(".txt"),
    build=builder(parse_dota),
)
DIOR = _source(
    name="dior",
    title="DIOR and DIOR-R",
    files="Annotations/Horizontal Bounding Boxes/ or …/Oriented Bounding Boxes/ (folders or .xml files); <filename>",
    published="gcheng-nwpu.github.io",
    adopted=5_907,
    records=file_reader(".xml"),
    build=build_voc,
)
HRRSD = _source(
    name="hrrsd",
    title="HRRSD (TGRS-HRRSD)",
    files="Annotations/ (or .xml files; a list of ImageSets/Main/ chooses), or COCOFormat's .json; <filename>",
    published="github.com/CrazyStoneonRoad/TGRS-HRRSD-Dataset",
    licence="Mulan Permissive Software License 1",
    adopted=5_898,
    records=hrrsd_records,
    build=build_hrrsd,
)
