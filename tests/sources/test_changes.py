"""Two images and the sentences on what differs between them."""

from __future__ import annotations

from typing import Any

import pytest
from raw_dataset import Raw

from polite_flamingo.sources import SourceError


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


@pytest.mark.parametrize(("part", "count"), [("train.head40", 40), ("val.head15", 15), ("test.head10", 10)])
def test_real_spot_the_diff_has_no_images_here(real: Any, part: str, count: int) -> None:
    samples, quarantined = real("spot_the_diff", "levir_cc/images", f"spot_the_diff/{part}.json")
    assert samples == [] and [row.reason for row in quarantined] == ["missing_image"] * count
