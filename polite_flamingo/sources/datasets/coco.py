"""COCO captions (2014), with the boxes of COCO's instances where that file is passed too.

An image becomes one sample: all its captions, one a line, then its boxes. `annotations[]` is in another order than
`images[]` and is joined by `image_id`; `bbox` is [x, y, width, height] in pixels. Rows in: the images of the captions
file, plus every annotation that is malformed or belongs to none of them. The captions of an image with one malformed
annotation among good ones are still used.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from polite_flamingo.sample import BadSample, Sample, Turn
from polite_flamingo.sources.reading.checks import SourceError, entry, finite, found_id, identity, text, value_of
from polite_flamingo.sources.reading.shelf import Shelf
from polite_flamingo.sources.reading.streaming import members
from polite_flamingo.sources.records.boxes import Box, clip, largest, normalised
from polite_flamingo.sources.records.instructions import instruction
from polite_flamingo.sources.records.responses import captions_and_boxes, distinct
from polite_flamingo.sources.records.source import Context, Place, Source, SourceOptions

NAME = "coco_captions"


def records(options: SourceOptions, shelf: Shelf) -> Iterator[tuple[Place, int, Any]]:
    """The images as {record, captions, boxes}, and every annotation that cannot be joined.

    Captions and instances are told apart by their `categories`, which come last: until then all is on the shelf.
    """
    with_captions = []
    for file, path in enumerate(options.annotations):
        labels = shelve(file, path, shelf)
        if labels is not None:
            yield from put_boxes(Place(file=path.name, part="annotations"), file, labels, shelf)
        else:
            with_captions.append(file)
            yield from _bad_captions(Place(file=path.name, part="annotations"), file, shelf)
    if not with_captions:
        raise SourceError(f"{NAME}: none of the files holds captions: pass captions_*.json (and instances_*.json)")

    for file in with_captions:
        place = Place(file=options.annotations[file].name, part="images")
        for image_id, (number, record) in shelf.items(f"images {file}"):
            captions = []
            for other in with_captions if image_id else ():
                captions += [item[1] for item in shelf.get(f"annotations {other}", image_id)]
            good = [item["caption"] for item in captions if isinstance(item.get("caption"), str)]
            boxes = shelf.get("boxes", image_id) if image_id else []
            yield place, number, {"record": record, "captions": good, "boxes": boxes}


def shelve(file: int, path: Path, shelf: Shelf) -> dict[str, str] | None:
    """Put [number, record] of a file's images as `images FILE` by id, of its annotations by image id; the categories.

    Returns:
        Labels by id; None of a file without categories, which is one of captions.
    """
    lists = set()
    labels: dict[str, str] = {}
    for part, value in members(path):
        if part not in ("images", "annotations", "categories"):
            continue
        if not isinstance(value, Iterator):
            raise SourceError(f"{path}: {part!r} must be a list; is it the right file?")
        lists.add(part)
        for number, record in enumerate(value):
            if part == "categories":
                labels |= _label(record)
            elif part == "images":
                shelf.put(f"images {file}", found_id(record, "id") or "", [number, record])
            else:
                shelf.put(f"annotations {file}", found_id(record, "image_id") or "", [number, _needed(record)])
    for part in ("images", "annotations"):
        if part not in lists:
            raise SourceError(f"{path} has no {part!r}: is it a captions_*.json or instances_*.json file?")
    return labels if "categories" in lists else None


def build(key: str, joined: dict[str, Any], context: Context) -> Sample:
    """One image, one sample."""
    record = joined["record"]
    if not distinct(usable(joined["captions"])):
        raise BadSample("missing_annotation", f"image {identity(record, 'id')} has no caption")
    image, header = context.images.read(*_file_names(text(record, "file_name")))
    response, meta = described(joined, record.get("width", header.width), record.get("height", header.height))
    return Sample(
        key=key,
        dataset=NAME,
        task="captioning",
        turns=(Turn(instruction=instruction("captioning", key), response=response),),
        images=(image,),
        meta={"image_id": identity(record, "id"), **meta},
    )


def described(joined: dict[str, Any], width: Any, height: Any) -> tuple[str, dict[str, int]]:
    """Captions and boxes of an image of `width` x `height` pixels in words, and how many there are of them.

    Raises:
        BadSample: there is no caption, or a number is none.
    """
    found = distinct(usable(joined["captions"]))
    if not found:
        raise BadSample("missing_annotation", f"image {identity(joined['record'], 'id')} has no caption")
    width, height = finite(width, "field 'width'"), finite(height, "field 'height'")
    given = [Box(label=label, x1=x, y1=y, x2=x + w, y2=y + h) for label, (x, y, w, h) in joined["boxes"]]
    inside = clip(given, width, height) if given else []
    shown = largest(inside)
    meta = {"captions": len(found)}
    if given:
        meta |= {"boxes": len(given), "boxes_outside": len(given) - len(inside), "boxes_shown": len(shown)}
    return captions_and_boxes(found, normalised(shown, width, height)), meta


def _file_names(name: str) -> list[str]:
    """`COCO_val2014_0….jpg` lies in the image folder, or in its sub-folder `val2014`."""
    parts = name.split("_")
    return [name, f"{parts[1]}/{name}"] if len(parts) == 3 and parts[0] == "COCO" else [name]


def usable(captions: list[str]) -> Iterator[str]:
    """Captions that can be written; the others are quarantined by their own rows."""
    for caption in captions:
        try:
            yield text({"caption": caption}, "caption")
        except BadSample:
            continue


def _needed(annotation: Any) -> Any:
    """An annotation without its segmentation, which is nine tenths of an instances file."""
    if not isinstance(annotation, dict):
        return annotation
    return {name: annotation[name] for name in ("image_id", "caption", "category_id", "bbox") if name in annotation}


def _label(category: Any) -> dict[str, str]:
    """Its name by its id. What is malformed here is missed, and reported, by each box that needs it."""
    if isinstance(category, dict) and isinstance(category.get("name"), str):
        return {found_id(category, "id") or "": category["name"]}
    return {}


def _bad_captions(place: Place, file: int, shelf: Shelf) -> Iterator[tuple[Place, int, BadSample]]:
    for _, (number, annotation) in shelf.items(f"annotations {file}"):
        try:
            image_id = identity(entry(annotation), "image_id")
            if not shelf.has(f"images {file}", image_id):
                raise BadSample("missing_image", f"a caption of image {image_id}, which images[] does not list")
            text(annotation, "caption")
        except BadSample as bad:
            yield place, number, bad


def put_boxes(
    place: Place, file: int, labels: dict[str, str], shelf: Shelf, *, images: bool = False
) -> Iterator[tuple[Place, int, BadSample]]:
    """Put [label, [x, y, width, height]] by image id as `boxes`; yield what cannot be read.

    With `images` they are of the images of their own file: put as `boxes FILE`; what belongs to none is yielded too.
    Without, it is left unused: an instances file is only joined to the captions of another.
    """
    bad_rows = []
    for _, (number, annotation) in shelf.items(f"annotations {file}"):
        try:
            record = entry(annotation)
            image_id = identity(record, "image_id")
            if images and not shelf.has(f"images {file}", image_id):
                raise BadSample("missing_image", f"a box of image {image_id}, which images[] does not list")
            category = identity(record, "category_id")
            if category not in labels:
                raise BadSample("bad_field", f"category_id {category} is none of the file's categories")
            corners = value_of(record, "bbox")
            if not isinstance(corners, list) or len(corners) != 4:
                raise BadSample("bad_field", "field 'bbox' must be [x, y, width, height]")
            box = [finite(corner, "each number of 'bbox'") for corner in corners]
            label = text({"name": labels[category]}, "name")
        except BadSample as bad:
            bad_rows.append((place, number, bad))
        else:
            shelf.put(f"boxes {file}" if images else "boxes", image_id, [label, box])
    yield from bad_rows


SOURCE = Source(
    name=NAME,
    title="COCO captions 2014",
    use="PF-1M",
    task="captioning",
    category="captioning",
    files="captions_SPLIT2014.json, and instances_SPLIT2014.json for boxes; images/SPLIT2014/COCO_SPLIT2014_%012d.jpg",
    published="cocodataset.org",
    licence="CC BY 4.0",
    evidence="real file",
    adopted=59_670,
    records=records,
    identify=lambda joined: identity(entry(joined["record"]), "id"),
    build=build,
)
