"""DOTA and DIOR: a file an image; oriented boxes become upright ones, normalised, and those outside are counted."""

from __future__ import annotations

from typing import Any

import pytest
from raw_dataset import Raw

from polite_flamingo.sources import SourceError

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
