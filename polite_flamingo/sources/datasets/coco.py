"""COCO captions (2014), with the boxes of COCO's instances if that file is passed too.

An image becomes one sample: all its captions, one per line, then its boxes. `annotations[]` has another order than
`images[]` and is joined by `image_id`; `bbox` is [x, y, width, height] in pixels. Rows in: the images of the captions
file, plus every annotation that is malformed or belongs to none of them. One malformed annotation does not cost its
image the good captions.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from polite_flamingo.sample import BadSample, Sample
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.field_checks import (
    as_object,
    finite_number,
    id_field,
    required,
    text_field,
    usable_id,
)
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.reading.streaming import lists_in
from polite_flamingo.sources.records.boxes import Box, clip, largest, normalised
from polite_flamingo.sources.records.instructions import instruction
from polite_flamingo.sources.records.readers import keep_fields
from polite_flamingo.sources.records.responses import captions_and_boxes, distinct
from polite_flamingo.sources.records.source import Context, Place, Records, Source, SourceOptions, one_turn

_NEEDED = ("image_id", "caption", "category_id", "bbox")
"""The fields to keep of an annotation; segmentations are nine tenths of an instances file."""


def records(options: SourceOptions, scratch: Scratch) -> Records:
    """Yield the images as {record, captions, boxes}, and every annotation that cannot be joined.

    Only `categories` tell instances from captions, and they come last: until then everything waits in the scratch
    space.
    """
    with_captions = []
    for file, path in enumerate(options.annotations):
        labels = store_lists(file, path, scratch)
        if labels is not None:
            yield from store_boxes(Place(file=path.name, part="annotations"), file, labels, scratch)
        else:
            with_captions.append(file)
            yield from _bad_captions(Place(file=path.name, part="annotations"), file, scratch)
    if not with_captions:
        raise SourceError("coco_captions: no file holds captions: pass captions_*.json (and instances_*.json)")

    for file in with_captions:
        place = Place(file=options.annotations[file].name, part="images")
        for image_id, (number, record) in scratch.items(f"images {file}"):
            captions = []
            for other in with_captions if image_id else ():
                captions += [item[1] for item in scratch.get(f"annotations {other}", image_id)]
            good = [item["caption"] for item in captions if isinstance(item.get("caption"), str)]
            boxes = scratch.get("boxes", image_id) if image_id else []
            yield place, number, {"record": record, "captions": good, "boxes": boxes}


def store_lists(file: int, path: Path, scratch: Scratch) -> dict[str, str] | None:
    """Store [number, record] of a file's images (as `images FILE`, by id) and annotations (by image id).

    Returns:
        Labels by category id; None for a file without categories, which holds captions.
    """
    lists = set()
    labels: dict[str, str] = {}
    for part, values in lists_in(path, "images", "annotations", "categories"):
        lists.add(part)
        for number, record in enumerate(values):
            if part == "categories":
                labels |= _label(record)
            elif part == "images":
                scratch.put(f"images {file}", usable_id(record, "id") or "", [number, record])
            else:
                scratch.put(
                    f"annotations {file}", usable_id(record, "image_id") or "", [number, keep_fields(record, _NEEDED)]
                )
    for part in ("images", "annotations"):
        if part not in lists:
            raise SourceError(f"{path} has no {part!r}: is it a captions_*.json or instances_*.json file?")
    return labels if "categories" in lists else None


def build(key: str, joined: dict[str, Any], context: Context) -> Sample:
    """Make the sample of an image."""
    record = joined["record"]
    _captions(joined)  # raises before the image is read in vain
    image, header = context.images.read(*_file_names(text_field(record, "file_name")))
    response, meta = describe(joined, record.get("width", header.width), record.get("height", header.height))
    meta = {"image_id": id_field(record, "id"), **meta}
    return one_turn(key, "captioning", instruction("captioning", key), response, [image], meta)


def _captions(joined: dict[str, Any]) -> list[str]:
    """Return the distinct captions of an image, at least one."""
    found = distinct(writable_captions(joined["captions"]))
    if not found:
        raise BadSample("missing_annotation", f"image {id_field(joined['record'], 'id')} has no caption")
    return found


def describe(joined: dict[str, Any], width: Any, height: Any) -> tuple[str, dict[str, Any]]:
    """Word the captions and boxes of an image of `width` x `height` pixels, and count them.

    Raises:
        BadSample: there is no caption, or a number is invalid.
    """
    found = _captions(joined)
    width, height = finite_number(width, "field 'width'"), finite_number(height, "field 'height'")
    given = [Box(label=label, x1=x, y1=y, x2=x + w, y2=y + h) for label, (x, y, w, h) in joined["boxes"]]
    inside = clip(given, width, height) if given else []
    shown = largest(inside)
    meta: dict[str, Any] = {"captions": len(found)}
    if given:
        meta |= {"boxes": len(given), "boxes_outside": len(given) - len(inside), "boxes_shown": len(shown)}
    return captions_and_boxes(found, normalised(shown, width, height)), meta


def _file_names(name: str) -> list[str]:
    """Return where `COCO_val2014_0….jpg` may lie: in the image folder, or in its sub-folder `val2014`."""
    parts = name.split("_")
    return [name, f"{parts[1]}/{name}"] if len(parts) == 3 and parts[0] == "COCO" else [name]


def writable_captions(captions: list[str]) -> Iterator[str]:
    """Yield the captions that can be written; the others are quarantined by their own rows."""
    for caption in captions:
        try:
            yield text_field({"caption": caption}, "caption")
        except BadSample:
            continue


def _label(category: Any) -> dict[str, str]:
    """Return {id: name} of a category. Each box that needs a malformed one reports it as missing."""
    if isinstance(category, dict) and isinstance(category.get("name"), str):
        return {usable_id(category, "id") or "": category["name"]}
    return {}


def _bad_captions(place: Place, file: int, scratch: Scratch) -> Iterator[tuple[Place, int, BadSample]]:
    for _, (number, annotation) in scratch.items(f"annotations {file}"):
        try:
            image_id = id_field(as_object(annotation), "image_id")
            if not scratch.has(f"images {file}", image_id):
                raise BadSample("missing_image", f"a caption of image {image_id}, which is not in images[]")
            text_field(annotation, "caption")
        except BadSample as bad:
            yield place, number, bad


def store_boxes(
    place: Place, file: int, labels: dict[str, str], scratch: Scratch, *, images: bool = False
) -> Iterator[tuple[Place, int, BadSample]]:
    """Store [label, [x, y, width, height]] as `boxes`, by image id; yield what cannot be read.

    With `images`, boxes belong to the images of their own file: they are stored as `boxes FILE`, and those of no image
    are yielded too. Without, those stay unused: an instances file is only joined to the captions of another.
    """
    bad_rows = []
    for _, (number, annotation) in scratch.items(f"annotations {file}"):
        try:
            record = as_object(annotation)
            image_id = id_field(record, "image_id")
            if images and not scratch.has(f"images {file}", image_id):
                raise BadSample("missing_image", f"a box of image {image_id}, which is not in images[]")
            category = id_field(record, "category_id")
            if category not in labels:
                raise BadSample("bad_field", f"category_id {category} is not one of the file's categories")
            box = bbox_of(record)
            label = text_field({"name": labels[category]}, "name")
        except BadSample as bad:
            bad_rows.append((place, number, bad))
        else:
            scratch.put(f"boxes {file}" if images else "boxes", image_id, [label, box])
    yield from bad_rows


def bbox_of(record: dict[str, Any]) -> list[float]:
    """Return the field `bbox`: x, y, width, height in pixels."""
    corners = required(record, "bbox")
    if not isinstance(corners, list) or len(corners) != 4:
        raise BadSample("bad_field", "field 'bbox' must be [x, y, width, height]")
    return [finite_number(corner, "each number of 'bbox'") for corner in corners]


SOURCE = Source(
    name="coco_captions",
    title="COCO captions 2014",
    use="PF-1M",
    task="captioning",
    files="captions_SPLIT2014.json, and instances_SPLIT2014.json for boxes; images/SPLIT2014/COCO_SPLIT2014_%012d.jpg",
    published="cocodataset.org",
    licence="CC BY 4.0",
    evidence="real file",
    adopted=59_670,
    records=records,
    identify=lambda joined: id_field(as_object(joined["record"]), "id"),
    build=build,
)


def coco_names(question: dict[str, Any], subtype: str) -> list[str]:
    """Return COCO's file names for a numeric `image_id`: with a prefix in 2014 and 2015, without in 2017."""
    image_id = id_field(question, "image_id")
    number = image_id.zfill(12)
    stems = [f"COCO_{subtype}_{number}", f"{subtype}/COCO_{subtype}_{number}", number]
    return [f"{stem}.{extension}" for stem in stems for extension in ("jpg", "png")]
