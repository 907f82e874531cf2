"""Captions alone: Flickr30k's lines, TextCaps' repeated rows, Image2Paragraph's folders and splits, RET-3."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polite_flamingo.sources.datasets.captions import untokenised
from polite_flamingo.sources.reading.errors import SourceError
from tests.support.raw_dataset import Raw
from tests.support.record_strategies import spoiled


@pytest.mark.parametrize(
    ("tokenised", "written"),
    [
        ("A man , a dog ; and a cat .", "A man, a dog; and a cat."),
        ("the boy 's hat is n't red , he 'll say .", "the boy's hat isn't red, he'll say."),
        ("Where 's it ? HERE IT 'S , ISN 'T IT !", "Where's it? HERE IT'S, ISN 'T IT!"),
        ('a sign says " STOP AHEAD " , in red', 'a sign says "STOP AHEAD", in red'),
        ("`` hello '' he said", '"hello" he said'),
        ("it costs $ 20 ( or # 4 ) , 50 % off", "it costs $20 (or #4), 50% off"),
        ("close - up of a .5 litre bottle", "close - up of a .5 litre bottle"),
        ("already fine, isn't it?", "already fine, isn't it?"),
        ('a 3 " pipe', 'a 3 " pipe'),
        (".", "."),
        ("", ""),
    ],
)
def test_words_and_marks_are_joined_again(tokenised: str, written: str) -> None:
    assert untokenised(tokenised) == written
    assert untokenised(written) == written


@given(st.text("a .,'\"`()$ns", max_size=40))
def test_joining_changes_nothing_but_blanks_and_quotes(caption: str) -> None:
    def plain(text: str) -> str:
        return text.replace(" ", "").replace("``", '"').replace("''", '"')

    assert plain(untokenised(caption)) == plain(caption)


def test_the_lines_of_an_image_are_gathered_wherever_they_are(raw: Raw) -> None:
    data = raw.image("flickr30k-images/1.jpg")
    raw.image("2.jpg")
    lines = ["1.jpg#0\tA man , in red .", "2.jpg#0\tA dog .", "1.jpg#1\tA man  in red", "", "1.jpg#2\tA man , in red ."]
    samples, quarantined = raw.read("flickr30k", raw.text("a.token", "\r\n".join(lines)), split="")
    assert quarantined == []
    assert [(sample.key, sample.response, sample.meta) for sample in samples] == [
        ("flickr30k/train/1", "A man, in red.\nA man in red", {"captions": 2, "source": "a.token#lines[0]"}),
        ("flickr30k/train/2", "A dog.", {"captions": 1, "source": "a.token#lines[1]"}),
    ]
    assert samples[0].images[0].data == data


def test_each_bad_line_is_quarantined_and_the_others_of_its_image_are_used(raw: Raw) -> None:
    raw.image("1.jpg")
    raw.image("broken.jpg")
    (raw.images / "broken.jpg").write_bytes(b"no image")
    (raw.images / "empty.jpg").write_bytes(b"")
    lines = [
        b"1.jpg#0\tA man .", b"1.jpg#1\tUn homme \xe0 pied .", b"1.jpg#2", b"1.jpg\tNo number .", b"#0\tNo name .",
        b"1.jpg#x\tOdd .", b"1.jpg#4\t  ", b"lost.jpg#0\tLost .", b"../1.jpg#0\tOut .", b"broken.jpg#0\tBroken .",
        b"empty.jpg#0\tEmpty .", b"b\xe0d.jpg#0\tOdd .", b"%s.jpg#0\tLong ." % (b"x" * 300,),
    ]  # fmt: skip
    file = raw.root / "a.token"
    file.write_bytes(b"\n".join(lines))
    samples, quarantined = raw.read("flickr30k", file)
    assert [(sample.key, sample.response) for sample in samples] == [("flickr30k/val/1", "A man.")]
    assert [(row.payload, row.reason) for row in quarantined] == [
        ("a.token#lines[1]", "bad_field"), ("a.token#lines[2]", "bad_field"), ("a.token#lines[3]", "bad_field"),
        ("a.token#lines[4]", "bad_field"), ("a.token#lines[5]", "bad_field"),
        ("a.token#lines[6]", "missing_annotation"), ("a.token#lines[11]", "bad_field"),
        ("a.token#lines[12]", "bad_field"), ("a.token#lines[7]", "missing_image"),
        ("a.token#lines[8]", "unsafe_name"), ("a.token#lines[9]", "corrupt_image"),
        ("a.token#lines[10]", "empty_image"),
    ]  # fmt: skip


def row(image_id: Any, *captions: Any, **fields: Any) -> dict[str, Any]:
    name = f"train/{image_id}.jpg"
    said = {"caption_str": captions[0], "reference_strs": list(captions)} if captions else {}
    return {"image_id": image_id, "image_path": name, "set_name": "train", **said, **fields}


def test_textcaps_rows_of_an_image_are_one_sample(raw: Raw) -> None:
    raw.image("train_images/a.jpg")
    raw.image("train/b.jpg")
    rows = [row("a", "One.", "Two."), row("b", "Three"), row("a", "Two.", "One."), row("a", "Four ,")]
    rows.append({"image_id": "a", "caption_str": "Five."})
    samples, quarantined = raw.read(
        "textcaps", raw.json("t.json", {"dataset_name": "textcaps", "data": rows}), split=""
    )
    assert quarantined == []
    assert [(sample.key, sample.response, sample.meta["source"]) for sample in samples] == [
        (
            "textcaps/train/a",
            "One.\nTwo.\nFour ,\nFive.",
            "t.json#data[0]",
        ),  # as typed: these were never split into words
        ("textcaps/train/b", "Three", "t.json#data[1]"),
    ]


def test_each_bad_row_of_textcaps_is_quarantined_once(raw: Raw) -> None:
    raw.image("a.jpg")
    rows = [
        row("a", "One."), row("a", 1), "oops", {"image_path": "x.jpg"}, row("b", "B.", image_path=3),
        row("c", "C.", set_name=["train"]), row("d", "D.", reference_strs="D."), row("e"), row("f", "\ud800"),
        row("g", "G.", image_path="../a.jpg"), row("h", "H."), row("i", " ", ""), row("a", float("nan")),
        row(True, "J."), row("k", "K.", set_name="test"),
    ]  # fmt: skip
    samples, quarantined = raw.read("textcaps", raw.json("t.json", {"data": rows}), split="train")
    assert [(sample.key, sample.response) for sample in samples] == [("textcaps/train/a", "One.")]
    assert [(row.index, row.reason) for row in quarantined] == [
        (1, "bad_field"), (2, "bad_field"), (3, "bad_field"), (4, "bad_field"), (5, "bad_field"), (6, "bad_field"),
        (8, "bad_field"), (12, "bad_field"), (13, "bad_field"), (7, "missing_annotation"), (9, "unsafe_name"),
        (10, "missing_image"), (11, "missing_annotation"),
    ]  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=spoiled([row(f"image-{number}", "A field.", "Trees.") for number in range(4)]))
def test_spoiled_rows_of_textcaps_cost_only_themselves(raw: Raw, records: Any) -> None:
    for number in range(4):
        raw.image(f"train/image-{number}.jpg")
    samples, quarantined = raw.read("textcaps", raw.json("t.json", {"data": records[0]}), split="")
    found = [sample.meta["source"] for sample in samples] + [row.payload for row in quarantined]
    assert len(found) == len(set(found)) <= 4
    assert {f"textcaps/train/image-{number}" for number in {0, 1, 2, 3} - records[1]} <= {s.key for s in samples}


def paragraph(image_id: Any, folder: str = "VG_100K", said: Any = "A field.  A tree. ") -> dict[str, Any]:
    return {"url": f"https://a.example/rak248/{folder}/{image_id}.jpg", "image_id": image_id, "paragraph": said}


def test_a_paragraph_finds_its_image_in_the_folder_of_its_url(raw: Raw) -> None:
    first, second = raw.image("VG_100K/1.jpg"), raw.image("VG_100K_2/1.jpg", 60)
    raw.image("3.jpg")
    records = [paragraph(1), paragraph(2, "VG_100K_2"), paragraph(3)]
    (raw.images / "VG_100K_2/1.jpg").rename(raw.images / "VG_100K_2/2.jpg")
    samples, quarantined = raw.read("image2paragraph", raw.json("paragraphs_v1.json", records), split="")
    assert quarantined == []
    assert [sample.key for sample in samples] == [f"image2paragraph/train/{number}" for number in (1, 2, 3)]
    assert [sample.images[0].data for sample in samples[:2]] == [first, second]
    assert samples[0].response == "A field. A tree."


@pytest.mark.parametrize("lists_first", [True, False])
def test_split_lists_are_told_by_their_content(raw: Raw, lists_first: bool) -> None:
    for number in range(1, 5):
        raw.image(f"VG_100K/{number}.jpg")
    records = raw.json("paragraphs_v1.json", [paragraph(number) for number in range(1, 5)])
    lists = [raw.json("train_split.json", [1, 3]), raw.json("test_split.json", ["2"])]
    files = [*lists, records] if lists_first else [records, *lists]

    def keys(split: str) -> list[str]:
        return [
            sample.key.removeprefix("image2paragraph/")
            for sample in raw.read("image2paragraph", *files, split=split)[0]
        ]

    assert keys("train") == ["train/1", "train/3"]
    assert keys("test") == ["test/2"]
    assert keys("") == ["train/1", "test/2", "train/3", "unlisted/4"]
    with pytest.raises(SourceError, match=r"no record of split 'val', only of: test, train, unlisted"):
        keys("val")
    with pytest.raises(SourceError, match="none of the files holds paragraphs"):
        raw.read("image2paragraph", *lists)


def test_each_bad_paragraph_is_quarantined_once(raw: Raw) -> None:
    for number in range(20):
        raw.image(f"VG_100K/{number}.jpg")
    records = [
        paragraph(1), paragraph(1), {"image_id": 2, "paragraph": "x"}, paragraph(3, said=None), paragraph(4, said=" "),
        paragraph(5.5), paragraph("../6"), paragraph(7, ".."), paragraph(8) | {"url": "http://["}, 9,
        paragraph(99), paragraph(10) | {"url": float("nan")},
    ]  # fmt: skip
    samples, quarantined = raw.read("image2paragraph", raw.json("p.json", records))
    assert [sample.key for sample in samples] == ["image2paragraph/val/1"]
    assert [(row.payload, row.reason) for row in quarantined] == [
        (f"p.json#paragraphs[{number}]", reason)
        for number, reason in enumerate(
            ["duplicate_key", "bad_field", "bad_field", "missing_annotation", "bad_field", "unsafe_name", "unsafe_name",
             "bad_field", "bad_field", "missing_image", "bad_field"], start=1
        )
    ]  # fmt: skip


def sentences(*raws: Any) -> list[dict[str, Any]]:
    return [{"raw": said, "tokens": str(said).split(), "imgid": 0, "sentid": n} for n, said in enumerate(raws)]


@pytest.mark.parametrize(
    ("source", "name", "places"),
    [
        ("rsicd", "airport_1.jpg", ["", "RSICD_images/"]),
        ("rsitmd", "airport_1.tif", ["", "images/"]),
        ("ucm", "81.tif", ["", "imgs/", "images/"]),
    ],
)
def test_ret3_images_lie_in_a_folder_that_no_name_says(raw: Raw, source: str, name: str, places: list[str]) -> None:
    said = sentences("many planes .", " many planes .", "a terminal , too .")
    record = {"filename": name, "imgid": 0, "sentences": said, "split": "test", "sentids": [0, 1, 2]}
    file = raw.json("dataset.json", {"images": [record], "dataset": source})
    for place in places:
        data = raw.image(place + name)
        samples, quarantined = raw.read(source, file, split="")
        (raw.images / place / name).unlink()
        assert quarantined == []
        stem = name.partition(".")[0]
        assert (samples[0].key, samples[0].response) == (f"{source}/test/{stem}", "many planes.\na terminal, too.")
        assert samples[0].images[0].data == data


def test_each_bad_record_of_ret3_is_quarantined_once(raw: Raw) -> None:
    raw.image("1.tif")
    good = {"filename": "1.tif", "split": "train", "sentences": sentences("a field .")}
    records = [
        good, good, good | {"filename": 3}, good | {"filename": "../1.tif"}, good | {"filename": "2.tif"}, [],
        good | {"filename": "4.tif", "sentences": None}, good | {"filename": "5.tif", "sentences": []},
        good | {"filename": "6.tif", "sentences": sentences("a field .", 6)},
        good | {"filename": "7.tif", "sentences": ["a field ."]}, good | {"filename": "8.tif", "split": 1},
        good | {"filename": "9.tif", "sentences": [{"tokens": ["a"]}]}, {"sentences": sentences("a field .")},
    ]  # fmt: skip
    samples, quarantined = raw.read("ucm", raw.json("d.json", {"images": records}), split="train")
    assert [sample.key for sample in samples] == ["ucm/train/1"]
    assert [(row.payload, row.reason) for row in quarantined] == [
        (f"d.json#images[{number}]", reason)
        for number, reason in enumerate(
            ["duplicate_key", "bad_field", "unsafe_name", "missing_image", "bad_field", "bad_field",
             "missing_annotation", "bad_field", "bad_field", "bad_field", "bad_field", "bad_field"], start=1
        )
    ]  # fmt: skip
    with pytest.raises(SourceError, match="found no 'images'"):
        raw.read("ucm", raw.json("d.json", {"dataset": "UCM"}))


def test_real_flickr30k(real: Any) -> None:
    file = "flickr30k/results_20130124.first10.TRANSCRIBED.token"
    samples, quarantined = real("flickr30k", "", file, pictures=["1000092795.jpg", "flickr30k-images/10002456.jpg"])
    assert quarantined == []
    assert [(sample.key, sample.instruction, sample.response, sample.meta["source"]) for sample in samples] == [
        (
            "flickr30k/train/1000092795",
            "<image>Describe the image in detail.",
            "Two young guys with shaggy hair look at their hands while hanging out in the yard.\n"
            "Two young, White males are outside near many bushes.\n"
            "Two men in green shirts are standing in a yard.\n"
            "A man in a blue shirt standing in a garden.\n"
            "Two friends enjoy time spent together.",
            "results_20130124.first10.TRANSCRIBED.token#lines[0]",
        ),
        (
            "flickr30k/train/10002456",
            "<image>What does the picture show?",
            "Several men in hard hats are operating a giant pulley system.\n"
            "Workers look down from up above on a piece of equipment.\n"
            "Two men working on a machine wearing hard hats.\n"
            "Four men on top of a tall structure.\n"
            "Three men on a large rig.",
            "results_20130124.first10.TRANSCRIBED.token#lines[5]",
        ),
    ]


def test_real_textcaps(real: Any) -> None:
    pictures = ["train_images/011e7e629fb9ae7b.jpg", "train/09efcb22ca121f57.jpg"]
    samples, quarantined = real("textcaps", "", "textcaps/TextCaps_0.1_train.two.TRANSCRIBED.json", pictures=pictures)
    assert quarantined == []
    assert [(sample.key, sample.instruction, sample.response) for sample in samples] == [
        (
            "textcaps/train/011e7e629fb9ae7b",
            "<image>Describe the image in detail.",
            "Five Listerine Zero mouthwash bottles on a store shelf\n"
            "Many bottles of Listerine Zero are placed together.\n"
            "Listerine Zero mouthwash is less intense with zero alcohol.\n"
            "Several bottles of Listerine Zero sit on display on a shelf\n"
            "Listerine zero bottles which is less intense and zero alcohol.",
        ),
        (
            "textcaps/train/09efcb22ca121f57",
            "<image>Describe the image in detail.",
            "The time is now 10:22 according to this clock.\n"
            "A large clock by Harris and Thompson displays a time of 10:22.\n"
            "Large roman numeral clock by Angel Square London.\n"
            'Clock with roman numeral numbers which say "Angel Square" on the front.\n'
            "A clock says Angel Square London on its face.",
        ),
    ]


def test_real_image2paragraph(real: Any) -> None:
    files = [
        "image2paragraph/paragraphs_v1.first1.TRANSCRIBED.json",
        "image2paragraph/tokenised_groundtruth_examples.json",
    ]
    samples, quarantined = real("image2paragraph", "", *files, pictures=["VG_100K/2356347.jpg"])
    assert [(sample.key, sample.instruction, sample.response) for sample in samples] == [
        (
            "image2paragraph/train/2356347",
            "<image>Tell me about this image.",
            "A large building with bars on the windows in front of it. There is people walking in front of the "
            "building. There is a street in front of the building with many cars on it.",
        )
    ]
    assert [row.reason for row in quarantined] == ["bad_field"] * 4  # a README's examples, which have no image_id


def test_real_rsicd(real: Any) -> None:
    files = ["ret3_rsicd_ucm/dataset_rsicd.first_record.json", "ret3_rsicd_ucm/dataset_rsicd.RECONSTRUCTED.json"]
    samples, quarantined = real("rsicd", "", *files, pictures=["RSICD_images/airport_1.jpg", "airport_348.jpg"])
    assert [(sample.key, sample.instruction, sample.response) for sample in samples] == [
        (
            "rsicd/train/airport_1",
            "<image>Write a detailed description of the image.",
            "many planes are parked next to a long building in an airport.",  # five times in the file
        ),
        (
            "rsicd/test/airport_348",
            "<image>What does the picture show?",
            "the airport is very large.\nnext to the airport is green grass.",
        ),
    ]
    assert [row.reason for row in quarantined] == ["missing_image"] * 10
    assert quarantined[0].payload == "dataset_rsicd.RECONSTRUCTED.json#images[1]"


def test_real_ucm(real: Any) -> None:
    file = "ret3_rsicd_ucm/dataset_ucm.RECONSTRUCTED.json"
    samples, quarantined = real("ucm", "", file, split="test", pictures=["imgs/81.tif", "imgs/191.tif"])
    assert [(sample.key, sample.images[0].extension) for sample in samples] == [
        ("ucm/test/81", "tif"),
        ("ucm/test/191", "tif"),
    ]
    assert samples[0].response == (
        "There is a piece of farmland.\nThere is a piece of cropland.\nIt is a piece of farmland.\n"
        "It is a piece of cropland.\nHere is a piece of farmland."
    )
    assert samples[1].response.splitlines()[0] == "There are many airplanes at the airport."
    assert [row.reason for row in quarantined] == ["missing_image"] * 9
