"""RefCOCOg: expressions joined to boxes by annotation id, from lists, objects or UNC's refs; pickles are refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polite_flamingo.images.decoding import decode
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.records.drawn_marks import COLOURS, SHAPES, colour_of, shape_of
from tests.support.raw_dataset import SHARED, Raw
from tests.support.record_strategies import JUNK, spoiled

IMAGE = "COCO_train2014_000000000007.jpg"


def region(number: int, *refexp_ids: Any, **fields: Any) -> dict[str, Any]:
    return {"annotation_id": number, "image_id": 7, "refexp_ids": [*refexp_ids], "region_candidates": [], **fields}


def refexp(number: int, raw: Any = "a red bus") -> dict[str, Any]:
    return {"refexp_id": number, "raw": raw, "tokens": [], "parse": {}}


def instance(number: int, bbox: Any = (20, 10, 40, 20), image_id: Any = 7) -> dict[str, Any]:
    return {"id": number, "image_id": image_id, "bbox": bbox, "category_id": 6, "segmentation": [[0] * 8]}


def google(raw: Raw, regions: Any, refexps: Any, images: Any = ()) -> Path:
    return raw.json("google.json", {"annotations": regions, "images": [*images], "refexps": refexps})


def instances(raw: Raw, *annotations: Any, images: Any = ()) -> Path:
    content = {"info": {}, "images": [*images], "annotations": [*annotations], "categories": [{"id": 6, "name": "bus"}]}
    return raw.json("instances.json", content)


def test_a_region_is_a_sample_with_all_its_expressions_in_any_order_of_files(raw: Raw) -> None:
    raw.image(IMAGE, colour="gray")
    regions = [region(5, 1, 2, 3, 4), region(6, 5)]
    texts = ["a  red bus ", "the bus", "the bus", " a red\nbus", "the tram"]
    files = [
        google(raw, regions, [refexp(number + 1, said) for number, said in enumerate(texts)]),
        instances(raw, instance(6, [60, 10, 20, 20]), instance(5), instance(9)),
    ]
    for order in (files, files[::-1]):
        samples, quarantined = raw.read("refcocog", *order, split="train")
        assert quarantined == []
        assert [(s.key, s.response) for s in samples] == [
            ("refcocog/train/5", "a red bus\nthe bus"),
            ("refcocog/train/6", "the tram"),
        ]
        assert samples[0].task == "captioning"
        mark = f"{colour_of(samples[0].key)} {shape_of(samples[0].key)}"
        assert mark in samples[0].instruction and samples[0].instruction.startswith("<image>")
        assert samples[0].meta == {
            "image_id": "7", "box": [20, 10, 40, 20], "mark": mark, "source": "google.json#annotations[0]",
        }  # fmt: skip


def test_the_colour_that_the_instruction_names_surrounds_the_box(raw: Raw) -> None:
    raw.image(IMAGE, 200, 100, colour="gray")
    regions = [region(number, number) for number in range(30)]
    files = (
        google(raw, regions, [refexp(number) for number in range(30)]),
        instances(raw, *(instance(number, [60, 30, 50, 40]) for number in range(30))),
    )
    samples, _ = raw.read("refcocog", *files)
    seen = set()
    for sample in samples:
        colour, shape = sample.meta["mark"].split(" ", 1)
        seen |= {colour, shape}
        assert sample.instruction.count(f" {colour} {shape}") == 1
        pixels = np.asarray(decode(sample.images[0].data)).astype(int)
        near = np.abs(pixels - COLOURS[colour]).max(axis=2) < 40
        ys, xs = np.nonzero(near)
        assert near.sum() > 200 and xs.min() < 60 and xs.max() >= 110 and ys.min() < 30 and ys.max() >= 70
        assert not near[45:55, 70:100].any()
    assert seen == {*COLOURS, *SHAPES}


def test_the_aligned_form_has_objects_and_boxes_of_its_own(raw: Raw) -> None:
    raw.image(f"train2014/{IMAGE}")
    size = {"7": {"image_id": 7, "width": 100, "height": 50, "file_name": IMAGE}}
    content = {
        "images": size,
        "annotations": {"5": region(5, 1, bbox=[20, 10, 40, 20], segmentation=[[1, 2]]), "6": region(6, 2)},
        "refexps": {"1": refexp(1), "2": refexp(2)},
    }
    samples, quarantined = raw.read("refcocog", raw.json("aligned.json", content))
    assert [(s.key, s.response) for s in samples] == [("refcocog/val/5", "a red bus")]
    assert [(row.payload, row.reason) for row in quarantined] == [("aligned.json#annotations[1]", "missing_annotation")]
    assert "pass the instances" in quarantined[0].detail


def test_uncs_refs_as_json_select_their_split(raw: Raw) -> None:
    raw.image(IMAGE)
    sentences = [{"sent_id": 1, "sent": "red bus", "raw": "Red bus."}, {"sent_id": 2, "sent": "the bus"}]
    common = {"image_id": 7, "file_name": "COCO_train2014_000000000007_5.jpg", "sentences": sentences}
    refs = [
        common | {"ref_id": 1, "ann_id": 5, "split": "val"},
        common | {"ref_id": 2, "ann_id": 6, "split": "train"},
        common | {"ref_id": 3, "ann_id": 8, "split": "val", "sentences": "oops"},
        common | {"ref_id": 4, "ann_id": 5, "split": "val"},
    ]
    files = raw.json("refs_umd.json", refs), instances(raw, instance(5), instance(6), instance(8))
    samples, quarantined = raw.read("refcocog", *files)
    assert [(s.key, s.response) for s in samples] == [("refcocog/val/5", "Red bus.\nthe bus")]
    assert [(row.payload, row.reason) for row in quarantined] == [
        ("refs_umd.json#refs[2]", "bad_field"),
        ("refs_umd.json#refs[3]", "duplicate_key"),
    ]
    assert len(raw.read("refcocog", *files, split="")[0]) == 2
    with pytest.raises(SourceError, match=r"no record of split 'test', only of: train, val"):
        raw.read("refcocog", *files, split="test")


@pytest.mark.parametrize(("name", "protocol"), [("refs(umd).p", 0), ("refs", 2), ("refs", 0), ("refs.p", 4)])
def test_a_pickle_is_refused_and_never_run(raw: Raw, name: str, protocol: int) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (raw.root / "ran",))

    path = raw.root / name
    path.write_bytes(pickle.dumps([{"ann_id": 5, "trap": Trap()}], protocol=protocol))
    with pytest.raises(SourceError, match="is a pickle, which can run any code") as caught:
        raw.read("refcocog", path, instances(raw, instance(5)))
    assert "convert it to JSON" in str(caught.value)
    assert not (raw.root / "ran").exists()


def test_each_bad_record_is_quarantined_once(raw: Raw) -> None:
    raw.image(IMAGE)
    raw.image("COCO_train2014_000000000008.jpg", width=50)
    (raw.images / "COCO_train2014_000000000010.jpg").write_bytes(b"no picture")
    regions = [
        region(1, 1), region(2), region(3, 99), region(4, 1), region(5, 1, image_id=9), region(6, 1), region(7, 1),
        region(8, 1), region(1, 1), "oops", region(9, 1) | {"refexp_ids": "1"}, {"image_id": 7, "refexp_ids": [1]},
        region(10, 1, image_id="x/../../7"), region(11, 1), region(12, 1, image_id=8), region(13, 1, image_id=10),
        region(14, 2, 1), {"image_id": 7}, region(15, 1, bbox=[10, 10, float("nan"), 5]),
    ]  # fmt: skip
    refexps = [
        refexp(1), refexp(2, " "), refexp(3), refexp(1, "again"), {"raw": "no id"}, refexp(4, 5), None,
        refexp(14, "caf\udce9"),
    ]  # fmt: skip
    boxes = [
        instance(number, [20, 10, 40, 20], image_id)
        for number, image_id in (
            (1, 7),
            (2, 7),
            (3, 7),
            (5, 9),
            (9, 7),
            (10, "x/../../7"),
            (12, 8),
            (13, 10),
            (14, 7),
            (15, 7),
        )
    ]
    boxes += [instance(6, [200, 10, 5, 5]), instance(7, [1, 2, 3]), instance(8, [1, 2, "3", 4])]
    boxes += [instance(11, image_id=8), instance(4, [20, 10, 40, 0]), instance(40), "oops", {"id": []}]
    samples, quarantined = raw.read(
        "refcocog", google(raw, regions, refexps, [{"id": 8, "width": 100, "height": 50}]), instances(raw, *boxes)
    )
    assert [(sample.key, sample.response) for sample in samples] == [
        ("refcocog/val/1", "a red bus"),
        ("refcocog/val/14", "a red bus"),
    ]
    assert [(row.payload.removeprefix("google.json#"), row.reason) for row in quarantined] == [
        ("refexps[1]", "empty_response"),
        ("refexps[2]", "missing_annotation"),  # of no region
        ("refexps[3]", "duplicate_key"),
        ("refexps[4]", "bad_field"),
        ("refexps[5]", "bad_field"),
        ("refexps[6]", "bad_field"),
        ("refexps[7]", "bad_field"),  # bytes of another encoding
        ("annotations[1]", "missing_annotation"),  # no expression
        ("annotations[2]", "missing_annotation"),  # one that is not there
        ("annotations[3]", "bad_field"),  # a box without area
        ("annotations[4]", "missing_image"),
        ("annotations[5]", "bad_field"),  # a box outside
        ("annotations[6]", "bad_field"),
        ("annotations[7]", "bad_field"),
        ("annotations[8]", "duplicate_key"),
        ("annotations[10]", "bad_field"),
        ("annotations[11]", "bad_field"),
        ("annotations[12]", "unsafe_name"),
        ("annotations[13]", "bad_field"),  # of another image in the instances
        ("annotations[14]", "bad_field"),  # a picture of another size
        ("annotations[15]", "corrupt_image"),
        ("annotations[18]", "bad_field"),
        ("annotations[9]", "bad_field"),
        ("annotations[17]", "bad_field"),
    ]


def test_files_that_cannot_be_joined_are_a_clear_error(raw: Raw) -> None:
    with pytest.raises(SourceError, match="none of the files holds expressions"):
        raw.read("refcocog", instances(raw, instance(1)))
    with pytest.raises(SourceError, match="has no 'annotations'"):
        raw.read("refcocog", raw.json("a.json", {"refexps": []}))
    with pytest.raises(SourceError, match="'refexps' must be a list or an object"):
        raw.read("refcocog", raw.json("a.json", {"refexps": 3}))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    regions=spoiled([region(number, number) for number in range(4)]),
    refexps=spoiled([refexp(number, f"bus {number}") for number in range(4)]),
    boxes=spoiled([instance(number, [20, 10, 40, 20]) for number in range(4)]),
    as_objects=st.booleans(),
)
def test_spoiled_records_cost_only_themselves(
    raw: Raw, regions: Any, refexps: Any, boxes: Any, as_objects: bool
) -> None:
    raw.image(IMAGE)
    lists = [{str(n): item for n, item in enumerate(part[0])} if as_objects else part[0] for part in (regions, refexps)]
    samples, quarantined = raw.read("refcocog", google(raw, *lists), instances(raw, *boxes[0]))
    places = [sample.meta["source"] for sample in samples] + [row.payload for row in quarantined]
    assert len(places) == len(set(places))
    of_regions = {place for place in places if "#annotations[" in place}
    assert of_regions == {f"google.json#annotations[{number}]" for number in range(4)}
    said = {sample.key: sample.response for sample in samples}
    for number in {0, 1, 2, 3} - regions[1] - refexps[1] - boxes[1]:
        assert f"bus {number}" in said[f"refcocog/val/{number}"].splitlines()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(refs=spoiled([{"ann_id": n, "image_id": 7, "split": "val", "sentences": [{"sent": "x"}]} for n in range(3)]))
def test_spoiled_refs_cost_only_themselves(raw: Raw, refs: Any) -> None:
    raw.image(IMAGE)
    samples, quarantined = raw.read(
        "refcocog", raw.json("refs.json", refs[0]), instances(raw, *map(instance, range(3))), split=""
    )
    assert len(samples) + len(quarantined) == 3
    assert {0, 1, 2} - refs[1] <= {int(sample.key.rsplit("/", 1)[1]) for sample in samples if sample.key[-1].isdigit()}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=JUNK)
def test_a_whole_file_of_junk_is_rows_or_one_clear_line(raw: Raw, content: Any) -> None:
    try:
        samples, _ = raw.read("refcocog", raw.json("file.json", content))
    except SourceError as error:
        assert "\n" not in str(error)
    else:
        assert samples == []


def test_real_refcocog(real: Any) -> None:
    files = [f"refcocog/{name}.RECONSTRUCTED30.json" for name in ("google_refexp_val", "instances_train2014")]
    listed = json.loads((SHARED / "samples" / files[1]).read_text())["images"]
    pictures = {image["file_name"]: (640, 640) for image in listed}  # no box leaves that size
    samples, quarantined = real("refcocog", "refcocog", *files, split="val", pictures=pictures)
    assert (len(samples), quarantined) == (30, [])
    assert [(s.key, s.instruction, s.response, s.meta["box"]) for s in samples[:3]] == [
        (
            "refcocog/val/1154908",
            "<image>How would you describe the object that the green bounding box marks?",
            "a large vase between two smaller vases",
            [46, 19, 386, 313],
        ),
        (
            "refcocog/val/438539",
            "<image>There is a yellow circle on the image. What is inside it?",
            "a man in a neoprene wetsuit , surfing",
            [183, 76, 196, 180],
        ),
        (
            "refcocog/val/365993",
            "<image>Please describe what the yellow circle surrounds.",
            "a red colored bus",
            [6, 1, 215, 145],
        ),
    ]
    del pictures["COCO_train2014_000000155351.jpg"]
    samples, quarantined = real("refcocog", "refcocog", *files, split="val", pictures=pictures)
    assert (len(samples), [row.reason for row in quarantined]) == (29, ["missing_image"])


def test_real_refcocog_without_instances(real: Any) -> None:
    files = "refcocog/google_refexp_val.RECONSTRUCTED30.json"
    samples, quarantined = real("refcocog", "refcocog", files)
    assert samples == [] and [row.reason for row in quarantined] == ["missing_annotation"] * 30
