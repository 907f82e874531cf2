"""VSR and NLVR2: is the statement correct, yes or no?"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from polite_flamingo.sample import Image
from polite_flamingo.sources.records import source
from polite_flamingo.sources.records.instructions import INSTRUCTIONS
from polite_flamingo.sources.records.source import SourceOptions
from polite_flamingo.sources.registry import SOURCES
from tests.support.raw_dataset import Raw, both


def vsr(number: int, label: Any = 1, **more: Any) -> dict[str, Any]:
    return {"image": "7.jpg", "caption": f"The car is behind {number}.", "label": label, **more}


def lines(raw: Raw, name: str, *records: Any) -> Any:
    return raw.text(name, "\n".join(item if isinstance(item, str) else json.dumps(item) for item in records))


def asked(task: str, statement: str) -> set[str]:
    """Return all ways of asking about a statement."""
    marks = {"statement": "<image>", "pair_statement": "<image><image>"}[task]
    return {marks + wording.replace("{statement}", statement) for wording in INSTRUCTIONS[task]}


def test_a_statement_becomes_a_question_with_yes_or_no(raw: Raw) -> None:
    data = raw.image("train2017/7.jpg")
    file = lines(raw, "dev.jsonl", vsr(0), vsr(1, 0), "", vsr(2, "True"), vsr(3, "False"))
    samples, quarantined = raw.read("vsr", file)
    assert quarantined == []
    assert [s.response for s in samples] == ["Answer: yes", "Answer: no", "Answer: yes", "Answer: no"]
    for number, sample in enumerate(samples):
        assert sample.instruction in asked("statement", f"The car is behind {number}.")
        assert sample.images[0].data == data and sample.meta["image_id"] == "7.jpg"
    assert samples[0].key == "vsr/val/7-197ee0cd61de"


def test_statements_are_asked_about_in_many_ways_and_may_hold_braces(raw: Raw) -> None:
    raw.image("7.jpg")
    samples, _ = raw.read("vsr", lines(raw, "a.jsonl", *(vsr(0, caption=f"{{statement}} {n}") for n in range(60))))
    assert len({s.instruction.split('"')[0] for s in samples}) == len(INSTRUCTIONS["statement"]) >= 5
    assert all(f'"{{statement}} {n}"' in s.instruction for n, s in enumerate(samples))


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (vsr(0, 2), "bad_field"),
        (vsr(0, None), "bad_field"),
        (vsr(0, "true "), "bad_field"),
        (vsr(0, float("nan")), "bad_field"),
        (vsr(0, [1]), "bad_field"),
        ({"image": "7.jpg", "caption": "It is."}, "bad_field"),
        (vsr(0, caption=" "), "bad_field"),
        (vsr(0, caption=["a"]), "bad_field"),
        (vsr(0, image=7), "bad_field"),
        (vsr(0, image="../7.jpg"), "unsafe_name"),
        (vsr(0, image="8.jpg"), "missing_image"),
        (vsr(0, image="empty.jpg"), "empty_image"),
        (vsr(0, image="broken.jpg"), "corrupt_image"),
        (vsr(1), "duplicate_key"),
        ([], "bad_field"),
        ('{"image": "7.jpg", ', "bad_json"),
        ("[" * 100_000, "bad_json"),
    ],
)
def test_a_bad_statement_costs_only_itself(raw: Raw, record: Any, reason: str) -> None:
    raw.image("7.jpg")
    raw.text("images/empty.jpg", "")
    raw.text("images/broken.jpg", "nothing")
    samples, quarantined = raw.read("vsr", lines(raw, "dev.jsonl", vsr(1), record, vsr(2)))
    assert [(row.payload, row.reason) for row in quarantined] == [("dev.jsonl#questions[1]", reason)]
    assert len(samples) == 2


def test_vsr_fetches_a_missing_image_if_asked_to_and_nlvr2_never(raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def fetch(url: str, hosts: tuple[str, ...]) -> Image:
        fetched.append(url)
        return Image(extension="jpg", data=b"from afar")

    monkeypatch.setattr(source, "fetch", fetch)
    link = "http://images.example/train2017/7.jpg"
    files = lines(raw, "dev.jsonl", vsr(0, image_link=link)), lines(raw, "dev.json", nlvr2("dev-8-0-1"))
    found = [
        both(
            SOURCES[name].read(
                SourceOptions(annotations=(file,), images=raw.images, download_from=("images.example", "x"))
            )
        )
        for name, file in zip(("vsr", "nlvr2"), files, strict=True)
    ]
    assert [image.data for sample in found[0][0] for image in sample.images] == [b"from afar"] and fetched == [link]
    assert found[1][0] == [] and [row.reason for row in found[1][1]] == ["missing_image"]


def nlvr2(identifier: Any, label: Any = "True", **more: Any) -> dict[str, Any]:
    return {"identifier": identifier, "sentence": "There are six bottles.", "label": label, "left_url": "x", **more}


def test_nlvr2_shows_left_then_right_of_its_pair(raw: Raw) -> None:
    images = [raw.image(f"images/dev/dev-8-0-img{n}.png", colour=colour) for n, colour in enumerate(("red", "blue"))]
    for n in (0, 1):
        raw.image(f"images/train/70/train-1-2-img{n}.png")
    file = lines(raw, "mixed.json", nlvr2("dev-8-0-1"), nlvr2("dev-8-0-0", "False"), nlvr2("train-1-2-0", directory=70))
    samples, quarantined = raw.read("nlvr2", file, split="")
    assert quarantined == []
    assert [(s.key, s.response) for s in samples] == [
        ("nlvr2/dev/dev-8-0-1", "Answer: yes"),
        ("nlvr2/dev/dev-8-0-0", "Answer: no"),
        ("nlvr2/train/train-1-2-0", "Answer: yes"),
    ]
    assert [image.data for image in samples[0].images] == images
    assert samples[0].instruction in asked("pair_statement", "There are six bottles.")
    assert [s.key for s in raw.read("nlvr2", file, split="train")[0]] == ["nlvr2/train/train-1-2-0"]


def test_nlvr2_bad_records(raw: Raw) -> None:
    raw.image("dev-8-0-img0.png")  # without the right one
    for n in (0, 1):
        raw.image(f"dev-9-0-img{n}.png")
    records: list[Any] = [
        nlvr2("dev-8-0-1"), nlvr2("dev"), nlvr2(None), nlvr2("../dev-9-0-0"), nlvr2("dev-9-0-0", "maybe"), "not JSON",
        nlvr2("dev-9-0-1", sentence=""), nlvr2("dev-9-0-2"), nlvr2("dev-9-0-2"), {"identifier": "dev-9-0-3"}, [],
    ]  # fmt: skip
    samples, quarantined = raw.read("nlvr2", lines(raw, "dev.json", *records), split="")
    assert [s.key for s in samples] == ["nlvr2/dev/dev-9-0-2"]
    assert [(row.payload, row.reason) for row in quarantined] == [
        (f"dev.json#statements[{number}]", reason)
        for number, reason in (
            (0, "missing_image"), (1, "bad_field"), (2, "bad_field"), (3, "unsafe_name"), (4, "bad_field"),
            (5, "bad_json"), (6, "bad_field"), (8, "duplicate_key"), (9, "bad_field"), (10, "bad_field"),
        )
    ]  # fmt: skip


def test_real_vsr(real: Any) -> None:
    pictures = ["train2017/000000239417.jpg", "000000224670.jpg"]
    samples, quarantined = real("vsr", "", "vsr/random/dev.head40.jsonl", split="dev", pictures=pictures)
    assert [(s.key, s.response) for s in samples] == [
        ("vsr/dev/000000239417-1ebde1b3c68f", "Answer: no"),
        ("vsr/dev/000000224670-f08a48d60974", "Answer: yes"),
    ]
    assert samples[0].instruction == (
        '<image>Someone says of this picture: "The bench is at the right side of the train." Is that right?'
    )
    assert samples[1].instruction in asked("statement", "The train contains the laptop.")
    assert Counter(row.reason for row in quarantined) == {"missing_image": 38}

    samples, quarantined = real(
        "vsr", "", "vsr/zeroshot/test.head20.jsonl", split="test", pictures=["000000017697.jpg"]
    )
    assert [s.response for s in samples] == ["Answer: yes"]
    assert samples[0].instruction in asked("statement", "The car is behind the suitcase.")
    assert Counter(row.reason for row in quarantined) == {"missing_image": 19}


def test_real_nlvr2(real: Any) -> None:
    pictures = [f"dev/dev-850-0-img{n}.png" for n in (0, 1)]
    samples, quarantined = real("nlvr2", "", "nlvr2/dev.head25.json", pictures=pictures)
    assert [(s.key, s.response) for s in samples] == [
        ("nlvr2/dev/dev-850-0-0", "Answer: no"),
        ("nlvr2/dev/dev-850-0-1", "Answer: no"),
    ]
    assert samples[0].instruction in asked(
        "pair_statement",
        "The right image shows a curving walkway of dark glass circles embedded in dirt and flanked by foliage.",
    )
    assert Counter(row.reason for row in quarantined) == {"missing_image": 23}

    others = [f"nlvr2/{name}.json" for name in ("test1.head10", "test2.head5", "balanced_dev.head5")]
    pictures = ["test1/test1-0-3-img0.png", "test1/test1-0-3-img1.png", "dev-896-0-img0.png", "dev-896-0-img1.png"]
    samples, quarantined = real("nlvr2", "", *others, pictures=pictures)
    assert [(s.key, s.response) for s in samples] == [
        ("nlvr2/test1/test1-0-3-0", "Answer: yes"),
        ("nlvr2/test1/test1-0-3-1", "Answer: yes"),
        ("nlvr2/dev/dev-896-0-1", "Answer: yes"),
    ]
    assert Counter(row.reason for row in quarantined) == {"missing_image": 17}
