"""COCO: captions and boxes of an image become one sample, whatever the order of the file and whatever is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings

from tests.support.raw_dataset import Raw
from tests.support.record_strategies import spoiled


def caption(image_id: Any, text: Any, number: int = 1) -> dict[str, Any]:
    return {"image_id": image_id, "id": number, "caption": text}


def image(image_id: int, **more: Any) -> dict[str, Any]:
    return {"id": image_id, "file_name": f"COCO_val2014_{image_id:012d}.jpg", "width": 100, "height": 50, **more}


def captions_file(raw: Raw, images: list[Any], annotations: list[Any]) -> Path:
    return raw.json("captions_val2014.json", {"info": {}, "images": images, "licenses": [], "annotations": annotations})


def instances_file(raw: Raw, boxes: list[Any], **more: Any) -> Path:
    categories = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}]
    return raw.json("instances_val2014.json", {"images": [], "categories": categories, "annotations": boxes, **more})


def test_captions_are_joined_by_image_whatever_their_order(raw: Raw) -> None:
    bytes_of_2 = raw.image("COCO_val2014_000000000002.jpg")
    raw.image("COCO_val2014_000000000001.jpg")
    annotations = [caption(1, "a cat"), caption(2, " a dog\n runs. "), caption(1, "one cat"), caption(2, "a dog runs.")]
    samples, quarantined = raw.read("coco_captions", captions_file(raw, [image(2), image(1)], annotations))
    assert quarantined == []
    assert [sample.key for sample in samples] == ["coco_captions/val/2", "coco_captions/val/1"]
    assert [sample.response for sample in samples] == ["a dog runs.", "a cat\none cat"]  # repetitions go
    assert samples[0].images[0].data == bytes_of_2 and samples[0].images[0].extension == "jpg"
    assert samples[0].task == "captioning" and samples[0].instruction.startswith("<image>")
    assert samples[0].meta["source"] == "captions_val2014.json#images[0]"


def test_boxes_of_the_instances_file_follow_the_captions(raw: Raw) -> None:
    raw.image("val2014/COCO_val2014_000000000001.jpg")
    boxes = [
        {"image_id": 1, "category_id": 18, "bbox": [10, 5, 25.5, 20]},
        {"image_id": 1, "category_id": 1, "bbox": [90, 40, 30, 30]},
        {"image_id": 9, "category_id": 1, "bbox": [0, 0, 5, 5]},
    ]
    captions = captions_file(raw, [image(1)], [caption(1, "a dog")])
    for files in ((captions, instances_file(raw, boxes)), (instances_file(raw, boxes), captions)):
        samples, quarantined = raw.read("coco_captions", *files)
        assert quarantined == []  # a box of an image without captions is only unused
        assert samples[0].response == (
            "a dog\n"
            "The positions of objects, as normalised (x1, y1, x2, y2):\n"
            "dog: [0.100, 0.100, 0.355, 0.500]\n"
            "person: [0.900, 0.800, 1.000, 1.000]"  # clipped: it reached 120, 70 in an image of 100 x 50
        )


def test_boxes_outside_or_without_area_are_left_out_and_counted(raw: Raw) -> None:
    raw.image("COCO_val2014_000000000001.jpg")
    boxes = [{"image_id": 1, "category_id": 1, "bbox": box} for box in ([0, 0, 9, 9], [100, 0, 9, 9], [5, 5, 0, 3])]
    files = captions_file(raw, [image(1)], [caption(1, "a man")]), instances_file(raw, boxes)
    samples, _ = raw.read("coco_captions", *files)
    assert samples[0].response.count("person: ") == 1
    assert samples[0].meta["boxes_outside"] == 2


def test_of_very_many_boxes_the_largest_forty_are_shown(raw: Raw) -> None:
    raw.image("COCO_val2014_000000000001.jpg")
    boxes = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1 + number, 1]} for number in range(60)]
    files = captions_file(raw, [image(1)], [caption(1, "a crowd")]), instances_file(raw, boxes)
    samples, _ = raw.read("coco_captions", *files)
    shown = [line for line in samples[0].response.splitlines() if line.startswith("person: ")]
    assert len(shown) == 40 and shown[0] == "person: [0.000, 0.000, 0.210, 0.020]"


def test_the_size_of_the_image_is_used_where_the_record_has_none(raw: Raw) -> None:
    raw.image("COCO_val2014_000000000001.jpg", width=200, height=100)
    bare = {"id": 1, "file_name": "COCO_val2014_000000000001.jpg"}
    boxes = [{"image_id": 1, "category_id": 1, "bbox": [100, 50, 100, 50]}]
    samples, _ = raw.read("coco_captions", captions_file(raw, [bare], [caption(1, "a")]), instances_file(raw, boxes))
    assert samples[0].response.endswith("person: [0.500, 0.500, 1.000, 1.000]")


def test_each_bad_record_is_quarantined_with_its_place_and_costs_nothing_else(raw: Raw) -> None:
    raw.image("COCO_val2014_000000000001.jpg")
    (raw.images / "COCO_val2014_000000000005.jpg").write_bytes(b"")
    (raw.images / "COCO_val2014_000000000006.jpg").write_bytes(b"not a photo")
    images = [
        image(1), image(1), image(3), image(4), "oops", {"file_name": "x.jpg"}, image(5), image(6),
        image(7, file_name="../../etc/passwd.jpg"), image(8, file_name=8),
    ]  # fmt: skip
    annotations = [caption(number, "a thing") for number in (1, 4, 5, 6, 7, 8)]
    annotations += [caption(1, None), {"image_id": 1}, caption(99, "whose?"), None, caption(1, "a good thing")]
    boxes = [
        {"image_id": 1, "category_id": 77, "bbox": [0, 0, 5, 5]},
        {"image_id": 1, "category_id": 1, "bbox": [0, 0, 5]},
        {"image_id": 1, "category_id": 1, "bbox": [0, 0, "5", 5]},
    ]
    files = captions_file(raw, images, annotations), instances_file(raw, boxes)
    samples, quarantined = raw.read("coco_captions", *files)
    assert [(sample.key, sample.response) for sample in samples] == [("coco_captions/val/1", "a thing\na good thing")]
    assert [(row.payload.split("_", 1)[0] + row.payload.split("#")[1], row.reason) for row in quarantined] == [
        ("captionsannotations[6]", "bad_field"),
        ("captionsannotations[7]", "bad_field"),
        ("captionsannotations[8]", "missing_image"),
        ("captionsannotations[9]", "bad_field"),
        ("instancesannotations[0]", "bad_field"),
        ("instancesannotations[1]", "bad_field"),
        ("instancesannotations[2]", "bad_field"),
        ("captionsimages[1]", "duplicate_key"),
        ("captionsimages[2]", "missing_annotation"),
        ("captionsimages[3]", "missing_image"),
        ("captionsimages[4]", "bad_field"),
        ("captionsimages[5]", "bad_field"),
        ("captionsimages[6]", "empty_image"),
        ("captionsimages[7]", "corrupt_image"),
        ("captionsimages[8]", "unsafe_name"),
        ("captionsimages[9]", "bad_field"),
    ]
    assert len(samples) + len(quarantined) == len(images) + 4 + len(boxes)


def test_a_megabyte_of_caption_is_refused(raw: Raw) -> None:
    raw.image("COCO_val2014_000000000001.jpg")
    samples, quarantined = raw.read("coco_captions", captions_file(raw, [image(1)], [caption(1, "very " * 200_000)]))
    assert samples == [] and quarantined[0].reason == "text_too_long"
    assert len(quarantined[0].to_json()) < 1000


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    images=spoiled([{"id": f"image-{n}", "file_name": "a.jpg", "width": 9, "height": 9} for n in range(4)]),
    captions=spoiled([{"image_id": f"image-{n}", "caption": f"a cat, {n} mice"} for n in range(4)]),
    boxes=spoiled([{"image_id": f"image-{n}", "category_id": 1, "bbox": [1, 2, 3, 4]} for n in range(4)]),
)
def test_spoiled_records_cost_only_themselves(raw: Raw, images: Any, captions: Any, boxes: Any) -> None:
    raw.image("a.jpg")
    files = captions_file(raw, images[0], captions[0]), instances_file(raw, boxes[0])
    samples, quarantined = raw.read("coco_captions", *files)
    places = [sample.meta["source"] for sample in samples] + [row.payload for row in quarantined]
    assert len(places) == len(set(places))
    of_images = {place for place in places if place.startswith("captions_val2014.json#images[")}
    assert of_images == {f"captions_val2014.json#images[{number}]" for number in range(4)}
    responses = {sample.key: sample.response for sample in samples}
    for number in {0, 1, 2, 3} - images[1] - captions[1]:
        lines = responses[f"coco_captions/val/image-{number}"].splitlines()
        assert lines[0] == f"a cat, {number} mice"
        assert number in boxes[1] or lines[2] == "person: [0.111, 0.222, 0.444, 0.667]"


def test_real_captions_with_images(real: Any) -> None:
    file = "coco_captions/captions_val2014.with_images.RECONSTRUCTED.json"
    samples, quarantined = real("coco_captions", "coco_captions/images", file, split="val")
    assert quarantined == []
    assert [sample.key for sample in samples] == [f"coco_captions/val/{i}" for i in (2685, 185250, 490936)]
    assert samples[0].response.splitlines() == [
        "a couple of people are standing in front of some wine bottles",
        "The group of people is standing at a wine bar.",
        "A group of people standing around each other.",
        "Many people line up to taste some wine.",
    ]
    assert samples[1].response.splitlines()[0] == "a man watches as a dig looks at a toy in the air"
    assert [len(sample.images[0].data) for sample in samples[:2]] == [22722, 21783]


def test_real_captions_without_images(real: Any) -> None:
    samples, quarantined = real(
        "coco_captions", "coco_captions/images", "coco_captions/captions_val2014.head25.json", split="val"
    )
    assert samples == [] and [row.reason for row in quarantined] == ["missing_image"] * 25
    assert quarantined[0].key == "coco_captions/val/318219"
