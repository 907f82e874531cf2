"""DOTA, DIOR, HRRSD: one file per image; oriented boxes become axis-aligned ones, those outside are counted."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from polite_flamingo.sources.reading.errors import SourceError
from tests.support.raw_dataset import Raw
from tests.support.record_strategies import spoiled

SHIP = "10 10 20 5 30 10 20 15 ship 0"
LARGE = "50 0 90 0 90 20 50 20 large-vehicle 1"


def test_a_label_file_becomes_counts_and_upright_boxes(raw: Raw) -> None:
    data = raw.image("P1.png")
    file = raw.text("labelTxt/P1.txt", f"imagesource:GoogleEarth\ngsd:0.25\n{SHIP}\n{LARGE}\n\n{SHIP}\n")
    samples, quarantined = raw.read("dota", file.parent)
    assert quarantined == []
    assert samples[0].key == "dota/val/P1" and samples[0].images[0].data == data
    assert samples[0].response == (
        "Objects seen from above: ship (2), large vehicle (1)\n"
        "The positions of objects, as normalised (x1, y1, x2, y2):\n"
        "ship: [0.100, 0.100, 0.300, 0.300]\n"
        "large vehicle: [0.500, 0.000, 0.900, 0.400]\n"
        "ship: [0.100, 0.100, 0.300, 0.300]"
    )
    assert (samples[0].meta["gsd"], samples[0].meta["difficult"], samples[0].meta["boxes"]) == ("0.25", 1, 3)


def test_objects_outside_are_dropped_unless_most_are(raw: Raw) -> None:
    raw.image("a.png")
    raw.image("b.png")
    outside = "110 0 120 0 120 9 110 9 ship 0"
    partly = "90 40 190 40 190 60 90 60 plane 0"
    raw.text("labelTxt/a.txt", "\n".join([SHIP, partly, outside]))
    raw.text("labelTxt/b.txt", "\n".join([SHIP, outside, outside]))
    samples, quarantined = raw.read("dota", raw.root / "labelTxt")
    assert samples[0].response.splitlines()[-1] == "plane: [0.900, 0.800, 1.000, 1.000]"
    assert samples[0].meta["boxes_outside"] == 1
    assert (
        quarantined[0].reason == "bad_field"
        and "2 of 3 objects lie outside the image (100x50)" in quarantined[0].detail
    )


def test_bad_label_files_are_quarantined_with_the_line(raw: Raw) -> None:
    for name in "abcdefg":
        raw.image(f"{name}.png")
    raw.text("labelTxt/a.txt", "gsd:1\n1 2 3 4 5 6 7 8\n")
    raw.text("labelTxt/b.txt", "1 2 3 4 5 6 7 x ship 0")
    raw.text("labelTxt/c.txt", "imagesource:GoogleEarth\n")
    raw.text("labelTxt/d.txt", "").write_bytes(b"1 2 3 4 5 6 7 8 bateau\xe9 0")
    raw.text("labelTxt/e.txt", "nan 2 3 4 5 6 7 8 ship 0")
    (raw.root / "labelTxt/f.txt").symlink_to(raw.text("secret.txt", SHIP))
    raw.text("labelTxt/no image.txt", SHIP)
    samples, quarantined = raw.read("dota", raw.root / "labelTxt")
    assert samples == []
    assert [(row.shard, row.reason) for row in quarantined] == [
        ("a.txt", "bad_field"), ("b.txt", "bad_field"), ("c.txt", "missing_annotation"), ("d.txt", "bad_field"),
        ("e.txt", "bad_field"), ("f.txt", "unsafe_name"), ("no image.txt", "missing_image"),
    ]  # fmt: skip
    assert "line 2" in quarantined[0].detail and "line 1: 'x'" in quarantined[1].detail


def voc(*objects: str, size: str = "<size><width>200</width><height>100</height></size>", name: str = "1.jpg") -> str:
    return f"<?xml version='1.0'?><annotation><filename>{name}</filename>{size}{''.join(objects)}</annotation>"


UPRIGHT = "<bndbox><xmin>20</xmin><ymin>10</ymin><xmax>100</xmax><ymax>50</ymax></bndbox>"
ROTATED = "<robndbox>" + "".join(
    f"<{axis}_{corner}>{value}</{axis}_{corner}>"
    for corner, (x, y) in {
        "left_top": (100, 0), "right_top": (150, 25), "right_bottom": (100, 50), "left_bottom": (50, 25),
    }.items()
    for axis, value in (("x", x), ("y", y))
) + "</robndbox>"  # fmt: skip


def thing(name: str, box: str) -> str:
    return f"<object><name>{name}</name>{box}</object>"


def test_voc_files_of_both_kinds(raw: Raw) -> None:
    raw.image("JPEGImages-trainval/1.jpg")  # half as large as the annotations say: they count
    raw.text("Annotations/1.xml", voc(thing("golffield", UPRIGHT), thing("Expressway-toll-station", ROTATED)))
    samples, quarantined = raw.read("dior", raw.root / "Annotations")
    assert quarantined == []
    assert samples[0].response.splitlines() == [
        "Objects seen from above: golf course (1), expressway toll station (1)",
        "The positions of objects, as normalised (x1, y1, x2, y2):",
        "golf course: [0.100, 0.100, 0.500, 0.500]",
        "expressway toll station: [0.250, 0.000, 0.750, 0.500]",
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("<annotation>", "bad_field"),
        ("", "bad_field"),
        (voc(thing("ship", "")), "bad_field"),
        (voc(thing("", UPRIGHT)), "bad_field"),
        (voc(thing("ship", UPRIGHT.replace("<ymax>50</ymax>", ""))), "bad_field"),
        (voc(thing("ship", UPRIGHT), size="<size><width>0</width><height>0</height></size>"), "bad_field"),
        (voc(), "missing_annotation"),
        (voc(thing("ship", UPRIGHT), name="../1.jpg"), "unsafe_name"),
        ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + voc(thing("&x;", UPRIGHT))[21:], "bad_field"),
    ],
)
def test_bad_voc_files_are_quarantined(raw: Raw, content: str, reason: str) -> None:
    raw.image("1.jpg")
    samples, quarantined = raw.read("dior", raw.text("1.xml", content))
    assert (len(samples), [row.reason for row in quarantined]) == (0, [reason])


def test_a_folder_without_annotations_is_a_clear_error(raw: Raw) -> None:
    with pytest.raises(SourceError, match=r"holds no \*\.xml file"):
        raw.read("dior", raw.root)


def test_real_dota(real: Any) -> None:
    samples, quarantined = real("dota", "dota/images", "dota/labelTxt", split="train")
    assert [sample.key for sample in samples] == ["dota/train/P0706__1__0___160", "dota/train/P1888__1__360___0"]
    lines = samples[0].response.splitlines()
    assert lines[0] == "Objects seen from above: ship (15)" and lines[2] == "ship: [0.338, 0.641, 0.484, 0.784]"
    assert len(lines) == 17
    lines = samples[1].response.splitlines()
    assert lines[0] == "Objects seen from above: large vehicle (10), small vehicle (5)"
    assert lines[2] == "large vehicle: [0.494, 0.559, 0.534, 0.672]"
    assert [(row.shard, row.reason) for row in quarantined] == [
        ("P0004__1__0___0.txt", "bad_field"),  # the stub whose boxes lie outside its image
        ("P0706.head60.txt", "missing_image"),
        ("P0770.txt", "missing_image"),
        ("P1088.txt", "missing_image"),
        ("P1888.txt", "missing_image"),
    ]
    assert "3 of 4 objects lie outside the image (285x294)" in quarantined[0].detail


def test_real_dior(real: Any) -> None:
    samples, quarantined = real("dior", "dior/JPEGImages-trainval", "dior/Annotations/Oriented Bounding Boxes")
    assert quarantined == []
    assert samples[0].key == "dior/train/00001"
    assert samples[0].response.splitlines()[2:] == ["golf course: [0.166, 0.296, 0.855, 0.840]"]


def instances(*boxes: dict[str, Any], images: list[Any] | None = None, **rest: Any) -> dict[str, Any]:
    """HRRSD in COCO's format: categories last and from 0."""
    categories = [{"supercategory": "none", "id": number, "name": name} for number, name in enumerate(CLASSES)]
    given = [{"id": 7, "file_name": "00007.jpg", "width": 200, "height": 100}] if images is None else images
    return {"images": given, "type": "instances", "annotations": list(boxes), "categories": categories, **rest}


CLASSES = ("T junction", "storage tank")


def box(*corners: Any, category_id: Any = 0, image_id: Any = 7, **rest: Any) -> dict[str, Any]:
    more = {"area": 1, "iscrowd": 0, "ignore": 0, "segmentation": [], "id": 1}
    return {"image_id": image_id, "category_id": category_id, "bbox": list(corners), **more, **rest}


def test_hrrsd_in_both_formats_is_the_same_but_for_the_pixel_that_counting_begins_with(raw: Raw) -> None:
    data = raw.image("JPEGImages/00007.jpg")
    xml = voc(thing("T junction", UPRIGHT), thing("storage tank", UPRIGHT), name="00007.jpg")
    coco = instances(box(19, 9, 81, 41), box(19, 9, 81, 41, category_id=1, ignore=1))
    files = raw.text("Annotations/00007.xml", xml).parent, raw.json("hrrsd.json", coco)
    (of_xml, none), (of_coco, nothing) = (raw.read("hrrsd", file) for file in files)
    assert none == nothing == [] and of_xml[0].key == of_coco[0].key == "hrrsd/val/00007"
    assert of_xml[0].images[0].data == of_coco[0].images[0].data == data
    assert of_xml[0].response.splitlines() == [
        "Objects seen from above: T junction (1), storage tank (1)",
        "The positions of objects, as normalised (x1, y1, x2, y2):",
        "T junction: [0.100, 0.100, 0.500, 0.500]",
        "storage tank: [0.100, 0.100, 0.500, 0.500]",
    ]
    assert of_coco[0].response == of_xml[0].response.replace("[0.100, 0.100", "[0.095, 0.090")
    assert {name: of_coco[0].meta[name] for name in ("image_id", "boxes")} == {"image_id": "00007", "boxes": 2}
    samples, quarantined = raw.read("hrrsd", *files)
    assert len(samples) == 1 and [row.reason for row in quarantined] == ["duplicate_key"]


def test_each_bad_box_and_image_in_coco_s_format_is_quarantined_once(raw: Raw) -> None:
    raw.image("00007.jpg")
    images = [
        {"id": 7, "file_name": "00007.jpg"}, {"id": 8, "file_name": "00008.jpg"},
        {"id": 9, "file_name": "../00007.jpg"},
        {"id": 10, "file_name": "00010.jpg", "width": 100, "height": 50}, "oops",
        {"file_name": "00007.jpg"}, {"id": 12},
        {"id": 13, "file_name": "00007.jpg", "width": float("nan")}, {"id": 14, "file_name": "14/00007.jpg"},
    ]  # fmt: skip
    boxes = [
        box(0, 0, 50, 25), box(0, 0, 5, 5, category_id=2), box(0, 0, 5, 5, category_id=-1), box(0, 0, 5),
        box(0, 0, float("nan"), 5), box(0, 0, "5", 5), box(0, 0, 5, 5, image_id=99), box(0, 0, 5, 5, image_id=None), 5,
        box(0, 0, 5, 5, image_id=9), box(500, 0, 5, 5, image_id=10), box(0, 0, 5, 5, image_id=14),
        {"image_id": 7, "bbox": [0, 0, 1, 1]}, box(90, 40, 900, 900),
    ]  # fmt: skip
    samples, quarantined = raw.read("hrrsd", raw.json("h.json", instances(*boxes, images=images)))
    assert [sample.response.splitlines()[2:] for sample in samples] == [
        ["T junction: [0.000, 0.000, 0.500, 0.500]", "T junction: [0.900, 0.800, 1.000, 1.000]"]
    ]
    assert [(row.payload, row.reason) for row in quarantined] == [
        *((f"h.json#annotations[{number}]", "bad_field") for number in (1, 2, 3, 4, 5)),
        ("h.json#annotations[6]", "missing_image"),
        *((f"h.json#annotations[{number}]", "bad_field") for number in (7, 8, 12)),
        ("h.json#images[1]", "missing_annotation"),
        ("h.json#images[2]", "unsafe_name"),
        ("h.json#images[3]", "missing_image"),
        ("h.json#images[4]", "bad_field"),
        ("h.json#images[5]", "duplicate_key"),
        ("h.json#images[6]", "bad_field"),
        ("h.json#images[7]", "duplicate_key"),
        ("h.json#images[8]", "missing_image"),
    ]
    for content, message in (
        ({"images": [], "annotations": []}, "no 'categories'"),
        ({"images": [], "categories": []}, "no 'annotations'"),
        ([], "expected an object"),
    ):
        with pytest.raises(SourceError, match=message):
            raw.read("hrrsd", raw.json("h.json", content))


def test_a_file_without_classes_has_no_usable_box(raw: Raw) -> None:
    _, quarantined = raw.read("hrrsd", raw.json("h.json", instances(box(0, 0, 5, 5)) | {"categories": []}))
    assert [(row.payload, row.reason) for row in quarantined] == [
        ("h.json#annotations[0]", "bad_field"),
        ("h.json#images[0]", "missing_annotation"),
    ]


def test_boxes_of_two_files_are_kept_apart(raw: Raw) -> None:
    raw.image("00007.jpg", 200, 100)
    files = [raw.json(name, instances(box(0, 0, 100, 50))) for name in ("a.json", "b.json")]
    samples, quarantined = raw.read("hrrsd", *files)
    assert (samples[0].meta["boxes"], [row.payload for row in quarantined]) == (1, ["b.json#images[0]"])


@pytest.mark.parametrize("source", ["dior", "hrrsd"])
def test_a_list_of_names_chooses_among_the_files_of_a_folder(raw: Raw, source: str) -> None:
    for name in ("1", "2", "3"):
        raw.image(f"{name}.jpg")
        raw.text(f"Annotations/{name}.xml", voc(thing("ship", UPRIGHT), name=f"{name}.jpg"))
    folder = raw.root / "Annotations"
    chosen = raw.text("Main/T junction_train.txt", "1  1\r\n\n3 -1\n4 -1\n")
    samples, quarantined = raw.read(source, chosen, folder, split="train")
    assert [sample.key for sample in samples] == [f"{source}/train/1", f"{source}/train/3"]
    assert [(row.payload, row.reason) for row in quarantined] == [
        ("T junction_train.txt#lines[3]", "missing_annotation")
    ]
    samples, _ = raw.read(source, folder / "2.xml", chosen)  # a file that is named itself needs no list
    assert [sample.key for sample in samples] == [f"{source}/val/2"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    images=spoiled([{"id": f"id-{n}", "file_name": f"id-{n}.jpg", "width": 100, "height": 50} for n in range(4)]),
    boxes=spoiled([box(0, 0, 50, 25, image_id=f"id-{n}") for n in range(4)]),
)
def test_spoiled_images_and_boxes_cost_only_themselves(raw: Raw, images: Any, boxes: Any) -> None:
    for number in range(4):
        raw.image(f"id-{number}.jpg")
    samples, quarantined = raw.read("hrrsd", raw.json("h.json", instances(*boxes[0], images=images[0])))
    places = [sample.meta["source"] for sample in samples] + [row.payload for row in quarantined]
    assert len(places) == len(set(places))
    assert {place for place in places if "#images[" in place} == {f"h.json#images[{number}]" for number in range(4)}
    good = {0, 1, 2, 3} - images[1] - boxes[1]
    assert {f"hrrsd/val/id-{number}" for number in good} <= {sample.key for sample in samples}


def test_real_hrrsd(real: Any) -> None:
    pictures = {"00001.jpg": (1272, 1504), "JPEGImages/00306.jpg": (1178, 999)}
    samples, quarantined = real("hrrsd", "", "hrrsd/OPT2017/Annotations", pictures=pictures)
    assert [(sample.key, sample.response) for sample in samples] == [
        (
            "hrrsd/train/00001",
            "Objects seen from above: airplane (1)\n"
            "The positions of objects, as normalised (x1, y1, x2, y2):\n"
            "airplane: [0.356, 0.370, 0.434, 0.460]",
        ),
        (
            "hrrsd/train/00306",
            "Objects seen from above: tennis court (2), basketball court (1)\n"
            "The positions of objects, as normalised (x1, y1, x2, y2):\n"
            "tennis court: [0.028, 0.195, 0.087, 0.304]\n"
            "tennis court: [0.076, 0.179, 0.136, 0.290]\n"
            "basketball court: [0.275, 0.863, 0.379, 0.946]",
        ),
    ]
    assert [(row.shard, row.reason) for row in quarantined] == [
        (f"0000{number}.xml", "missing_image") for number in (2, 3, 4, 5)
    ]


def test_real_hrrsd_in_coco_s_format(real: Any) -> None:
    pictures = {"07132.jpg": (1104, 1650), "JPEGImages/00306.jpg": (1178, 999)}
    samples, quarantined = real("hrrsd", "", "hrrsd/COCOFormat/Anns/hrrsd_tiny.cut20.json", pictures=pictures)
    assert [(sample.key, sample.response.splitlines()[2:]) for sample in samples] == [
        ("hrrsd/train/07132", ["bridge: [0.265, 0.457, 0.687, 0.647]"]),  # category 0
        (
            "hrrsd/train/00306",
            [
                "tennis court: [0.027, 0.194, 0.087, 0.304]",
                "tennis court: [0.076, 0.178, 0.136, 0.290]",
                "basketball court: [0.274, 0.862, 0.379, 0.946]",
            ],
        ),
    ]
    assert [row.reason for row in quarantined] == ["missing_image"] * 18


def test_real_hrrsd_with_a_list_whose_name_holds_a_blank(real: Any) -> None:
    lists = [f"hrrsd/OPT2017/ImageSets/Main/{name}.head20.txt" for name in ("airplane_train", "T junction_val")]
    samples, quarantined = real("hrrsd", "", "hrrsd/OPT2017/Annotations", *lists, pictures=["00001.jpg", "00003.jpg"])
    assert [sample.key for sample in samples] == ["hrrsd/train/00001", "hrrsd/train/00003"]
    assert [row.reason for row in quarantined] == ["missing_image"] + ["missing_annotation"] * 37
