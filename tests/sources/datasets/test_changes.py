"""Two images and the sentences on what differs between them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.records.instructions import INSTRUCTIONS, instruction
from tests.support.raw_dataset import Raw


def levir(filename: Any, *raws: Any, split: str = "train", **more: Any) -> dict[str, Any]:
    return {"filename": filename, "split": split, "sentences": [{"raw": raw, "tokens": []} for raw in raws], **more}


def levir_file(raw: Raw, *images: Any) -> Any:
    return raw.json("LevirCCcaptions.json", {"images": list(images)})


def test_a_pair_shows_before_then_after_with_its_distinct_sentences(raw: Raw) -> None:
    before, after = raw.image("train/A/t_1.png"), raw.image("train/B/t_1.png", colour="red")
    record = levir("t_1.png", " a road is built .", " a road is built .", " trees are gone .", changeflag=1)
    samples, quarantined = raw.read("levir_cc", levir_file(raw, record), split="")
    assert quarantined == []
    assert samples[0].key == "levir_cc/train/t_1"
    assert samples[0].response == "a road is built\ntrees are gone"
    assert [image.data for image in samples[0].images] == [before, after]
    assert samples[0].instruction.startswith("<image><image>") and samples[0].task == "change_captioning"
    assert samples[0].meta["changed"] == 1


def test_of_a_file_with_all_splits_the_wanted_one_is_read(raw: Raw) -> None:
    for split in ("train", "test"):
        for side in "AB":
            raw.image(f"images/{split}/{side}/{split}_1.png")
    file = levir_file(raw, levir("train_1.png", " x ."), levir("test_1.png", " y .", split="test"))
    assert [s.key for s in raw.read("levir_cc", file, split="")[0]] == [
        "levir_cc/train/train_1",
        "levir_cc/test/test_1",
    ]
    assert [s.key for s in raw.read("levir_cc", file, split="test")[0]] == ["levir_cc/test/test_1"]
    with pytest.raises(SourceError, match="no record of split 'val', only of: test, train"):
        raw.read("levir_cc", file, split="val")


def test_each_bad_pair_is_quarantined(raw: Raw) -> None:
    raw.image("train/A/a.png")
    for side in "AB":
        raw.image(f"train/{side}/b.png")
    records = [
        levir("a.png", " half a pair ."), levir("b.png"), levir("b.png", " . "), levir("b2.png", 5), "oops",
        levir("c.png", split="../.."), {"filename": "b.png", "split": "train", "sentences": None}, levir(None, "x"),
    ]  # fmt: skip
    samples, quarantined = raw.read("levir_cc", levir_file(raw, *records), split="")
    assert samples == []
    assert [row.reason for row in quarantined] == [
        "missing_image", "missing_annotation", "duplicate_key", "bad_field", "bad_field",
        "unsafe_name", "duplicate_key", "bad_field",
    ]  # fmt: skip


def test_spot_the_diff_names_its_second_image_after_the_first(raw: Raw) -> None:
    before, after = raw.image("76.png"), raw.image("76_2.png", colour="blue")
    file = raw.json("train.json", [{"img_id": "76", "sentences": ["a car is gone", "a man  came"]}, {"img_id": "77"}])
    samples, quarantined = raw.read("spot_the_diff", file, split="train")
    assert samples[0].response == "a car is gone\na man came"
    assert [image.data for image in samples[0].images] == [before, after]
    assert [(row.key, row.reason) for row in quarantined] == [("spot_the_diff/train/77", "missing_image")]


def test_an_editing_request_is_asked_for_in_words_of_its_own(raw: Raw) -> None:
    before, after = raw.image("a.jpg"), raw.image("images/b.jpg", colour="red")
    pair = {"img0": "a.jpg", "img1": "b.jpg", "sents": ["Making dark color ", "Making dark color"], "uid": "Zhopped_11"}
    samples, quarantined = raw.read("image_editing_request", raw.json("train.json", [pair]), split="train")
    assert quarantined == []
    assert samples[0].key == "image_editing_request/train/Zhopped_11" and samples[0].task == "change_captioning"
    assert samples[0].question in INSTRUCTIONS["image_editing"] and samples[0].response == "Making dark color"
    assert [image.data for image in samples[0].images] == [before, after]


def test_each_bad_editing_request_is_quarantined(raw: Raw) -> None:
    raw.image("a.jpg")
    (raw.images / "broken.jpg").write_bytes(b"no picture")
    (raw.images / "empty.jpg").write_bytes(b"")
    good = {"img0": "a.jpg", "img1": "a.jpg", "sents": ["x"], "uid": "u0"}
    records = [
        good, good, {"uid": "u1"}, "oops", good | {"uid": None}, good | {"uid": "u2", "sents": []},
        good | {"uid": "u3", "sents": "x"}, good | {"uid": "u4", "sents": [float("nan")]},
        good | {"uid": "u5", "img1": "../a.jpg"}, good | {"uid": "u6", "img1": "b.jpg"},
        good | {"uid": "u7", "img0": "broken.jpg"}, good | {"uid": "u8", "img0": "empty.jpg"},
        good | {"uid": "u9", "img0": 5}, good | {"uid": "u10", "sents": ["\udce9"]},
    ]  # fmt: skip
    samples, quarantined = raw.read("image_editing_request", raw.json("train.json", records), split="train")
    assert [sample.key for sample in samples] == ["image_editing_request/train/u0"]
    assert [(row.payload, row.reason) for row in quarantined] == [
        (f"train.json#pairs[{number}]", reason)
        for number, reason in enumerate(
            [
                "duplicate_key", "bad_field", "bad_field", "bad_field", "missing_annotation", "bad_field", "bad_field",
                "unsafe_name", "missing_image", "corrupt_image", "empty_image", "bad_field", "bad_field",
            ],
            start=1,
        )
    ]  # fmt: skip


def test_real_levir_cc(real: Any) -> None:
    samples, quarantined = real("levir_cc", "levir_cc/images", "levir_cc/LevirCCcaptions.RECONSTRUCTED.json")
    assert [sample.key for sample in samples] == [f"levir_cc/train/train_fig000{n}" for n in (1, 4, 5)]
    assert samples[2].response.splitlines() == [
        "the two scenes seem identical",
        "the scene is the same as before",
        "no change has occurred",
        "almost nothing has changed",
        "there is no difference",
    ]
    assert samples[0].response.splitlines()[3] == "a large building replaces the woods"
    assert [len(image.data) for image in samples[0].images] == [60032, 47650]
    assert [row.key for row in quarantined] == [f"levir_cc/train/train_fig000{n}" for n in (2, 3)]
    assert {row.reason for row in quarantined} == {"missing_image"}


def test_real_levir_cc_of_one_split(real: Any) -> None:
    file = "levir_cc/LevirCCcaptions.RECONSTRUCTED.json"
    pictures = [f"images/train/{side}/train_fig000{n}.png" for side in "AB" for n in range(1, 6)]
    samples, quarantined = real("levir_cc", "levir_cc/images", file, split="train", pictures=pictures)
    assert len(samples) == 5 and quarantined == []
    assert [sample.meta["changed"] for sample in samples] == [1, 1, 1, 1, 0]
    with pytest.raises(SourceError, match="no record of split 'test', only of: train"):
        real("levir_cc", "levir_cc/images", file, split="test")


@pytest.mark.parametrize(("part", "count"), [("train.head40", 40), ("val.head15", 15), ("test.head10", 10)])
def test_real_spot_the_diff_has_no_images_here(real: Any, part: str, count: int) -> None:
    samples, quarantined = real("spot_the_diff", "levir_cc/images", f"spot_the_diff/{part}.json")
    assert samples == [] and [row.reason for row in quarantined] == ["missing_image"] * count


def test_real_spot_the_diff(real: Any) -> None:
    pictures = ["256.png", "256_2.png", "187.png", "187_2.png", "294.png"]
    samples, quarantined = real(
        "spot_the_diff", "levir_cc/images", "spot_the_diff/test.head10.json", split="test", pictures=pictures
    )
    assert [(s.key, s.response, s.meta["source"]) for s in samples] == [
        (
            "spot_the_diff/test/256",
            "person with umbrella is gone\nperson with red coat is moved\ncar up at top to left is now missing",
            "test.head10.json#pairs[0]",
        ),
        ("spot_the_diff/test/187", "i see no differences between the two images", "test.head10.json#pairs[2]"),
    ]
    assert samples[0].instruction == instruction("change_captioning", samples[0].key)
    assert Counter(row.reason for row in quarantined) == {"missing_image": 8}


@pytest.mark.parametrize(("part", "count"), [("train.head40", 40), ("valid.head15", 15), ("test.head8", 8)])
def test_real_image_editing_requests_without_images(real: Any, part: str, count: int) -> None:
    samples, quarantined = real("image_editing_request", "levir_cc/images", f"image_editing_request/{part}.json")
    assert samples == [] and [row.reason for row in quarantined] == ["missing_image"] * count


def test_real_image_editing_requests(real: Any) -> None:
    pairs = {
        "train.head40": ("Zhopped.com_gc9hq_gc9hq.jpg", "Zhopped.com_gc9hq_cxyv8.jpg"),
        "test.head8": ("images/Reddit.com_5eooy0_5eooy0.jpg", "images/Reddit.com_5eooy0_dae04k7.png"),
    }
    files = [f"image_editing_request/{part}.json" for part in pairs]
    pictures = [name for pair in pairs.values() for name in pair]
    samples, quarantined = real("image_editing_request", "", *files, pictures=pictures)
    assert [(s.key, s.response, s.meta["source"]) for s in samples] == [
        ("image_editing_request/train/Zhopped_2", "change the back ground", "train.head40.json#pairs[0]"),
        (
            "image_editing_request/train/Reddit_1085",
            "Add a tigger\nInsert the tiger behind the man\n"
            "remove the tiger behind the man, increase the image contrast",
            "test.head8.json#pairs[3]",
        ),
    ]
    assert [image.extension for image in samples[1].images] == ["jpg", "png"]
    assert samples[1].instruction == instruction("image_editing", samples[1].key)
    assert Counter(row.reason for row in quarantined) == {"missing_image": 46}
