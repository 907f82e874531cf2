"""RefCOCOg: expressions that single out a region of a COCO image; a box or circle is drawn around it.

A region becomes one sample: its distinct expressions, one per line. Three forms of the same annotations are read:

    Google's      google_refexp_SPLIT_201511.json: `annotations` and `refexps`, lists. Boxes come from COCO's instances,
                  joined by annotation id ([x, y, width, height] in pixels).
    aligned       …_coco_aligned.json, as Google's toolbox writes it: both are objects of id -> record, with boxes.
    UNC's refs    refs(umd) or refs(google) as a JSON list of {ann_id, image_id, split, sentences[{raw or sent}]}; boxes
                  from UNC's instances.json. UNC publishes pickles, and unpickling runs whatever code a file holds: they
                  are refused. On a machine where you trust the file:

    python -c "import json, pickle, sys; json.dump(pickle.load(open(sys.argv[1], 'rb')), open(sys.argv[2], 'w'))" \\
        'refs(umd).p' refs_umd.json

Rows in: the regions, plus every expression of Google's that is malformed, repeated, or of no region. An instances file
is only joined: what no region needs is ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from polite_flamingo.sample import BadSample, Sample
from polite_flamingo.sources.datasets.coco import bbox_of, coco_names, writable_captions
from polite_flamingo.sources.reading.compression import open_bytes
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.field_checks import as_object, id_field, list_field, text_field, usable_id
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.reading.streaming import elements, is_list, lists_in
from polite_flamingo.sources.records.boxes import Box
from polite_flamingo.sources.records.drawn_marks import colour_of, draw_region, shape_of
from polite_flamingo.sources.records.instructions import instruction
from polite_flamingo.sources.records.readers import keep_fields
from polite_flamingo.sources.records.responses import distinct, distinct_lines
from polite_flamingo.sources.records.source import Context, Place, Records, Source, SourceOptions, one_turn

_REGION = ("annotation_id", "ann_id", "image_id", "refexp_ids", "sentences", "bbox", "split")


def records(options: SourceOptions, scratch: Scratch) -> Records:
    """Yield the regions as {record, expressions, instance, size, split}, and every expression that is of no use.

    Only Google's file has `refexps`, and they follow the annotations: until then everything is in the scratch space,
    which has for each file the parts "regions", "refexps", "said" (ids that regions name) and "instances".
    """
    regions, instances = [], []
    for file, path in enumerate(options.annotations):
        _refuse_pickle(path)
        if is_list(path):
            regions.append((file, "refs"))
            for number, record in enumerate(elements(path)):
                scratch.put(f"regions {file}", "", [number, keep_fields(record, _REGION)])
            continue
        found = _store_lists(file, path, scratch)
        if "annotations" not in found:
            raise SourceError(f"{path} has no 'annotations': is it a google_refexp_*.json or instances_*.json file?")
        if "refexps" in found:
            regions.append((file, "annotations"))
        else:
            instances.append(file)
    if not regions:
        raise SourceError("refcocog: none of the files holds expressions: pass google_refexp_*.json too")

    for file, part in regions:
        name = options.annotations[file].name
        for _, (number, refexp) in scratch.items(f"refexps {file}"):
            if bad := _useless(file, refexp, scratch):
                yield Place(file=name, part="refexps"), number, bad
        for kind in ("regions", "instances"):  # what looks like an instance in Google's file is a malformed region
            for _, (number, record) in scratch.items(f"{kind} {file}"):
                yield Place(file=name, part=part), number, _joined(file, record, instances, scratch)


def identify(joined: dict[str, Any]) -> str:
    """Return the annotation id, which all forms share."""
    record = as_object(joined["record"])
    return id_field(record, "ann_id" if "ann_id" in record else "annotation_id")


def build(key: str, joined: dict[str, Any], context: Context) -> Sample:
    """Make the sample of a region."""
    record, instance = joined["record"], joined["instance"]
    annotation, image_id = identify(joined), id_field(record, "image_id")
    found = distinct(joined["expressions"] if joined["expressions"] is not None else _sentences(record))
    if not found:
        raise BadSample("missing_annotation", f"region {annotation} has no expression")
    if instance and instance["image_id"] not in (None, image_id):
        detail = f"region {annotation} is in image {image_id}, but in image {instance['image_id']} in the instances"
        raise BadSample("bad_field", detail)
    if "bbox" not in record and not instance:
        raise BadSample(
            "missing_annotation", f"region {annotation} has no box: pass the instances_*.json that holds it"
        )
    x, y, width, height = bbox_of(record if "bbox" in record else instance)
    image, _ = context.images.read(*coco_names(record, "train2014"))
    colour, shape = colour_of(key), shape_of(key)
    size = tuple(joined["size"]) if joined["size"] else None
    marked = draw_region(image, Box(label="", x1=x, y1=y, x2=x + width, y2=y + height), colour, shape, size)
    asked = instruction("region", key, colour=colour, shape=shape)
    meta = {"image_id": image_id, "box": [x, y, width, height], "mark": f"{colour} {shape}"}
    return one_turn(key, "captioning", asked, distinct_lines(found), [marked], meta)


def _refuse_pickle(path: Path) -> None:
    with open_bytes(path) as file:
        start = file.read(1)
    if path.suffix in (".p", ".pkl", ".pickle") or start in (b"\x80", b"("):
        raise SourceError(
            f"{path} is a pickle, which can run any code when read, so it is refused: convert it to JSON where you "
            "trust it (one line, see the docstring of sources/datasets/refcocog.py), or pass Google's JSON"
        )


def _store_lists(file: int, path: Path, scratch: Scratch) -> set[str]:
    """Store the lists of Google's file or of an instances file; return their names.

    Only needed fields are stored: segmentations and region candidates are nine tenths of a file.
    """
    found = set()
    for part, values in lists_in(path, "annotations", "refexps", "images", objects=True):
        found.add(part)
        for number, record in enumerate(values):
            if part == "images":
                _store_size(record, scratch)
            elif part == "refexps":
                key = usable_id(record, "refexp_id") or ""
                scratch.put(f"refexps {file}", key, [number, keep_fields(record, ("refexp_id", "raw"))])
            elif isinstance(record, dict) and ("annotation_id" in record or "refexp_ids" in record):
                scratch.put(f"regions {file}", "", [number, keep_fields(record, _REGION)])
                for refexp_id in _refexp_ids(record):
                    scratch.put(f"said {file}", refexp_id, 0)
            else:
                kept = keep_fields(record, ("image_id", "bbox"))
                scratch.put(f"instances {file}", usable_id(record, "id") or "", [number, kept])
    return found


def _store_size(image: Any, scratch: Scratch) -> None:
    """Store an image's size, which only serves to check the picture; a malformed one is left out."""
    image_id = usable_id(image, "id") or usable_id(image, "image_id")
    size = [image.get("width"), image.get("height")] if image_id else []
    if image_id and all(type(side) is int and side > 0 for side in size):
        scratch.put("sizes", image_id, size)


def _refexp_ids(record: dict[str, Any]) -> list[str]:
    """Return the usable expression ids of a region."""
    values = record.get("refexp_ids")
    found = [usable_id({"id": value}, "id") for value in values] if isinstance(values, list) else []
    return [refexp_id for refexp_id in found if refexp_id]


def _useless(file: int, refexp: Any, scratch: Scratch) -> BadSample | None:
    """Say why an expression is of no use to any region; None if it is of use."""
    try:
        refexp_id = id_field(as_object(refexp), "refexp_id")
        if not text_field(refexp, "raw"):
            raise BadSample("empty_response", f"expression {refexp_id} is empty")
        if not scratch.has(f"said {file}", refexp_id):
            raise BadSample("missing_annotation", f"expression {refexp_id} belongs to no region")
        if not scratch.is_new(f"refexp {file} {refexp_id}"):
            raise BadSample("duplicate_key", f"expression {refexp_id} occurs earlier; the first is kept")
    except BadSample as bad:
        return bad
    return None


def _joined(file: int, record: Any, instances: list[int], scratch: Scratch) -> dict[str, Any]:
    """Join a region with all that `build` needs from the other lists and files."""
    joined: dict[str, Any] = {"record": record, "expressions": None, "instance": None, "size": None}
    if not isinstance(record, dict):
        return joined
    if isinstance(record.get("refexp_ids"), list):
        said = (scratch.get(f"refexps {file}", refexp_id) for refexp_id in _refexp_ids(record))
        good = (
            [*writable_captions([item["raw"] for _, item in items if isinstance(item.get("raw"), str)])]
            for items in said
        )
        joined["expressions"] = [raws[0] for raws in good if raws]
    annotation = usable_id(record, "ann_id") or usable_id(record, "annotation_id") or ""
    for other in instances if annotation else ():
        for _, instance in scratch.get(f"instances {other}", annotation)[:1]:
            joined["instance"] = instance | {"image_id": usable_id(instance, "image_id")}
    joined["size"] = next(iter(scratch.get("sizes", usable_id(record, "image_id") or "")), None)
    return joined | ({"split": record["split"]} if "split" in record else {})


def _sentences(ref: dict[str, Any]) -> list[str]:
    """Return the sentences of UNC's form, as typed if that is recorded."""
    if "sentences" not in ref:
        raise BadSample("bad_field", "a region needs the list 'refexp_ids', or in UNC's form 'sentences'")
    sentences = map(as_object, list_field(ref, "sentences"))
    return [text_field(sentence, "raw" if "raw" in sentence else "sent") for sentence in sentences]


SOURCE = Source(
    name="refcocog",
    title="RefCOCOg",
    use="PF-1M",
    task="captioning",
    files="google_refexp_SPLIT_201511.json and instances_train2014.json; images/train2014/COCO_train2014_%012d.jpg",
    published="github.com/mjhucla/Google_Refexp_toolbox",
    licence="CC BY 4.0",
    evidence="transcribed",
    adopted=8_103,
    records=records,
    identify=identify,
    build=build,
    split_in_record=True,
)
