"""COCO captions (2014), with the boxes of COCO's instances where that file is passed too.

An image becomes one sample: all its captions, one a line, then its boxes. `annotations[]` is in another order than
`images[]` and is joined by `image_id`; `bbox` is [x, y, width, height] in pixels. Rows in: the images of the captions
file, plus every annotation that is malformed or belongs to none of them. The captions of an image with one malformed
annotation among good ones are still used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from polite_flamingo.sample import BadSample, Sample, Turn
from polite_flamingo.sources.base import Place, Row, Source, SourceOptions, numbered, rows_of
from polite_flamingo.sources.boxes import Box, clip, largest, normalised
from polite_flamingo.sources.instructions import instruction
from polite_flamingo.sources.reading import (
    ImageFolder,
    SourceError,
    entry,
    finite,
    found_id,
    identity,
    list_in,
    load_json,
    text,
    value_of,
)
from polite_flamingo.sources.responses import captions_and_boxes, distinct

NAME = "coco_captions"


def read(options: SourceOptions) -> Iterator[Row]:
    """Captions files, and instances files (told apart by their `categories`)."""
    folder = ImageFolder.of(options.images)
    captions_files: list[tuple[str, list[Any], list[Any]]] = []
    boxes: dict[str, list[Box]] = {}
    for path in options.annotations:
        content = load_json(path, dict, "images", "annotations")
        annotations = list_in(path, content, "annotations")
        if "categories" in content:
            labels = _labels(list_in(path, content, "categories"))
            yield from _collect_boxes(Place(file=path.name, part="annotations"), annotations, labels, boxes)
        else:
            captions_files.append((path.name, list_in(path, content, "images"), annotations))
    if not captions_files:
        raise SourceError(f"{NAME}: none of the files holds captions: pass captions_*.json (and instances_*.json)")

    records: list[tuple[Place, int, Any]] = []
    captions: dict[str, list[str]] = {}
    for name, images, annotations in captions_files:
        place = Place(file=name, part="annotations")
        known = {found_id(image, "id") for image in images}
        records.extend(numbered(Place(file=name, part="images"), images))
        for number, annotation in enumerate(annotations):
            try:
                image_id = identity(entry(annotation), "image_id")
                if image_id not in known:
                    raise BadSample("missing_image", f"a caption of image {image_id}, which images[] does not list")
                caption = text(annotation, "caption")
            except BadSample as bad:
                yield place.quarantined(number, bad.reason, bad.detail)
            else:
                captions.setdefault(image_id, []).append(caption)

    def build(key: str, record: dict[str, Any]) -> Sample:
        image_id = identity(record, "id")
        found = distinct(captions.get(image_id, []))
        if not found:
            raise BadSample("missing_annotation", f"image {image_id} has no caption")
        image, header = folder.read(*_file_names(text(record, "file_name")))
        width = finite(record.get("width", header.width), "field 'width'")
        height = finite(record.get("height", header.height), "field 'height'")
        given = boxes.get(image_id, [])
        inside = clip(given, width, height) if given else []
        shown = largest(inside)
        meta = {"image_id": image_id, "captions": len(found)}
        if given:
            meta |= {"boxes": len(given), "boxes_outside": len(given) - len(inside), "boxes_shown": len(shown)}
        return Sample(
            key=key,
            dataset=NAME,
            task="captioning",
            turns=(
                Turn(
                    instruction=instruction("captioning", key),
                    response=captions_and_boxes(found, normalised(shown, width, height)),
                ),
            ),
            images=(image,),
            meta=meta,
        )

    yield from rows_of(NAME, records, options, identify=lambda record: identity(entry(record), "id"), build=build)


def _file_names(name: str) -> list[str]:
    """`COCO_val2014_0….jpg` lies in the image folder, or in its sub-folder `val2014`."""
    parts = name.split("_")
    return [name, f"{parts[1]}/{name}"] if len(parts) == 3 and parts[0] == "COCO" else [name]


def _labels(categories: list[Any]) -> dict[str, str]:
    """Names by id. What is malformed here is missed, and reported, by each box that needs it."""
    labels = {}
    for category in categories:
        if isinstance(category, dict) and isinstance(category.get("name"), str):
            labels[found_id(category, "id") or ""] = category["name"]
    return labels


def _collect_boxes(
    place: Place, annotations: list[Any], labels: dict[str, str], boxes: dict[str, list[Box]]
) -> Iterator[Row]:
    """Add to `boxes`, by image id; yield the annotations that cannot be read.

    Boxes of images that the captions file does not list are left unused: an instances file is only joined.
    """
    for number, annotation in enumerate(annotations):
        try:
            record = entry(annotation)
            image_id = identity(record, "image_id")
            category = identity(record, "category_id")
            if category not in labels:
                raise BadSample("bad_field", f"category_id {category} is none of the file's categories")
            corners = value_of(record, "bbox")
            if not isinstance(corners, list) or len(corners) != 4:
                raise BadSample("bad_field", "field 'bbox' must be [x, y, width, height]")
            x, y, width, height = (finite(corner, "each number of 'bbox'") for corner in corners)
            label = text({"name": labels[category]}, "name")
        except BadSample as bad:
            yield place.quarantined(number, bad.reason, bad.detail)
        else:
            box = Box(label=label, x1=x, y1=y, x2=x + width, y2=y + height)
            boxes.setdefault(image_id, []).append(box)


SOURCE = Source(
    name=NAME,
    task="captioning",
    category="captioning",
    files="captions_SPLIT2014.json, and instances_SPLIT2014.json for boxes; images/SPLIT2014/COCO_SPLIT2014_%012d.jpg",
    licence="CC BY 4.0",
    read=read,
)
