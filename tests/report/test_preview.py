"""A preview shows samples whole and as they are, quarantined records with their places, and nothing that runs."""

from __future__ import annotations

import dataclasses
import io
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

from polite_flamingo.report.preview import FOLDED_FROM, LINES_FOLDED_FROM, MAX_FAILURES, MAX_SIDE, write_preview
from polite_flamingo.sample import Image, Quarantined, Sample, Turn
from polite_flamingo.sources.list_sources import EVIDENCE
from polite_flamingo.sources.records.source import SourceOptions
from polite_flamingo.sources.registry import SOURCES
from tests.support.page_reader import Page, assert_readable_aloud, assert_self_contained

COCO = SOURCES["coco_captions"]
OPTIONS = SourceOptions(annotations=(Path("a/captions.json"),), images=Path("a/images"), split="val")
COMMAND = "python -m ray_jobs.ingest --source coco_captions --annotations a/captions.json --preview 2"


def picture() -> Image:
    buffer = io.BytesIO()
    Pillow.new("RGB", (64, 48), "green").save(buffer, "PNG")
    return Image(extension="png", data=buffer.getvalue())


def sample(
    *turns: tuple[str, str], images: int | tuple[Image, ...] = 1, key: str = "coco_captions/val/1", **fields: Any
) -> Sample:
    made = {
        "dataset": "coco_captions",
        "task": "captioning",
        "turns": tuple(Turn(instruction=asked, response=said) for asked, said in turns),
        "images": images if isinstance(images, tuple) else (picture(),) * images,
        "meta": {"source": "captions.json#images[0]"},
    }
    return Sample(key=key, **(made | fields)).validate()


def bad(reason: str = "missing_image", **fields: Any) -> Quarantined:
    made = {
        "key": "",
        "shard": "captions.json",
        "index": 7,
        "detail": "x.jpg is not there",
        "payload": "captions.json#images[7]",
    }
    return Quarantined(reason=reason, **(made | fields))


@pytest.fixture
def show(tmp_path: Path) -> Any:
    """The HTML of a preview of rows."""

    def render(*rows: Sample | Quarantined, **fields: Any) -> str:
        reasons: dict[str, int] = {}
        for row in rows:
            if isinstance(row, Quarantined):
                reasons[row.reason] = reasons.get(row.reason, 0) + 1
        given = {"source": COCO, "options": OPTIONS, "looked_at": len(rows), "reasons": reasons, "command": COMMAND}
        write_preview(tmp_path / "preview.html", rows=rows, **(given | fields))
        return (tmp_path / "preview.html").read_text()

    return render


def words(text: str) -> str:
    return " ".join(Page(re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)).words.split())


def test_a_sample_is_shown_with_all_that_is_said_of_it(show: Any) -> None:
    text = show(
        sample(("<image>What is it?", "a  green\n\tfield"), meta={"source": "captions.json#images[0]", "id": 5}),
        sample(("<image>And this?", "grass"), key="coco_captions/val/2"),
        bad(),
    )
    assert_self_contained(text)
    assert_readable_aloud(Page(text))
    found = words(text.replace("</span>", "</span> "))
    for shown in (
        *("2 samples of COCO captions 2014, as ingest would write them", "3 records read"),
        *(
            "2 would become samples 66.7 %",
            "1 would be quarantined 33.3 %",
            "captioning",
            "cocodataset.org",
            "CC BY 4.0",
        ),
        *("1 coco_captions/val/1", "2 coco_captions/val/2", "image What is it?", "From captions.json#images[0]"),
        *('"id": 5', "png, 64 × 48, ", EVIDENCE[COCO.evidence], COMMAND, "a/captions.json", "a/images", "Splitval"),
        *("x.jpg is not there captions.json#images[7]", "coco_captions-00000.tar", "quarantine/coco_captions.jsonl"),
    ):
        assert shown in found, shown
    assert "a  green\n\tfield</p>" in text, "white space is kept"
    assert '"source":' not in found, "the place is not repeated in the meta"


def test_samples_keep_the_order_of_the_file_and_reasons_come_by_count(show: Any) -> None:
    rows = [sample(("<image>x", f"answer {n}"), key=f"a/b/{n}") for n in (3, 1, 2)]
    text = words(show(bad("bad_field"), rows[0], bad(), rows[1], rows[2], bad()))
    places = [text.index(shown) for shown in ("answer 3", "answer 1", "answer 2", "missing_image 2", "bad_field 1")]
    assert places == sorted(places)


def test_images_of_a_pair_stand_side_by_side_with_numbers(show: Any) -> None:
    text = show(sample(("Compare <image> with <image>, then:", "nothing"), images=2))
    assert 'class="pictures several"' in text and text.count("<img ") == 2
    assert "Compare image 1 with image 2 , then:" in words(text.replace("</span>", "</span> "))
    alts = [attributes["alt"] for tag, attributes in Page(text).tags if tag == "img"]
    assert alts == ["Image 1 of coco_captions/val/1", "Image 2 of coco_captions/val/1"]


def test_a_large_picture_opens_in_full_size_without_a_script(show: Any) -> None:
    noise = io.BytesIO()
    Pillow.effect_noise((2000, 1000), 80).save(noise, "JPEG", comment=b"secret comment")
    text = show(sample(("<image>x", "y"), images=(Image(extension="jpg", data=noise.getvalue()),)))
    assert 'class="zoom"' in text and f'width="{MAX_SIDE}" height="{MAX_SIDE // 2}"' in text
    assert "jpg, 2000 × 1000" in text and 'class="zoom"' not in show(sample(("<image>x", "y")))


def test_turns_are_a_chat_and_image_marks_count_through_them(show: Any) -> None:
    text = show(sample(("<image>Who?", "Anna"), ("And <image>?", "Ben"), ("Sure?", "Yes"), images=2, task="dialogue"))
    assert words(text).count("User") == words(text).count("Assistant") == 3
    assert re.findall(r'<span class="mark" role="img" aria-label="(.*?)">', text) == ["image 1", "image 2"]
    for before, after in itertools.pairwise(["Who?", "Anna", "And", "Ben", "Sure?", "Yes"]):
        assert text.index(before) < text.index(after)
    assert "Raw response" not in text and "User" not in words(show(sample(("<image>x", "y"))))


@pytest.mark.parametrize(
    "long",
    ["word " * FOLDED_FROM, "x" * (FOLDED_FROM + 1), "line\n" * LINES_FOLDED_FROM + "end"],
    ids=["words", "x", "lines"],
)
def test_a_long_text_is_folded_and_whole(show: Any, long: str) -> None:
    text = show(sample((f"<image>{long}", "short"), meta={"source": "s", "note": long}))
    folded = text.split('<details class="fold">')
    assert len(folded) == 2 and f"{len(long) + len('<image>'):,} characters" in text
    whole = folded[1].split('<p class="text" dir="auto">')[1].split("</p>")[0]
    assert whole.endswith(f"</span>{long}")
    start = re.search(r'<span class="start" dir="auto">.*?</span>(.*?) …</span>', folded[1], re.DOTALL)
    assert start and long.startswith(start[1]) and 0 < len(start[1]) < 510
    assert 'class="fold"' not in show(sample(("<image>x", "caption\n" * 5 + "box: [0.1]\n" * 39)))


HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&{{ 7*7 }}\u202e\x00</p></details></article>"


def test_text_from_anywhere_cannot_leave_its_place(show: Any) -> None:
    evil = sample((HOSTILE, HOSTILE), (HOSTILE, HOSTILE * 40), images=0, meta={"source": HOSTILE, HOSTILE: [HOSTILE]})
    evil = dataclasses.replace(evil, key=HOSTILE, dataset=HOSTILE)
    torn = f"{HOSTILE}\ud83d"
    text = show(
        evil,
        bad(HOSTILE, key=torn, shard=torn, detail=torn, payload=torn),
        bad(payload="", shard=torn),
        source=dataclasses.replace(
            COCO, name=HOSTILE, title=HOSTILE, published=HOSTILE, licence=HOSTILE, files=HOSTILE
        ),
        options=SourceOptions(
            annotations=(Path(torn.replace("\0", "")),),
            images=Path(torn.replace("\0", "")),
            split=torn,
            columns={torn: torn},
            extra={torn: torn},
            download_from=(torn,),
        ),
        command=f"x --a {torn}",
    )
    assert_self_contained(text)
    page = Page(text)
    assert {tag for tag, _ in page.tags} & {"img", "script"} == set()
    assert page.words.count("alert(1)") > 60 and "{{ 7*7 }}" in page.words and "\x00" not in text


def test_a_picture_that_does_not_decode_is_named(show: Any) -> None:
    text = show(sample(("<image>x", "y"), images=(Image(extension="jpg", data=b"no picture"),)))
    assert "does not decode: corrupt_image" in words(text) and "jpg, 10 bytes" in text and "<img" not in text


def test_where_nothing_becomes_a_sample_the_hint_is_that_of_the_commonest_reason(show: Any) -> None:
    text = words(show(bad(), looked_at=2000, reasons={"missing_image": 1999, "bad_field": 1}))
    assert "No record became a sample." in text and "does --images name the right folder" in text
    assert "missing_image 1,999, 1 of them shown" in text and "bad_field10.1 %" in text
    assert "--images name" not in words(show(bad("bad_field")))


def test_many_failures_of_a_reason_are_folded_and_all_there(show: Any) -> None:
    text = show(*(bad(payload=f"c.json#images[{n}]") for n in range(MAX_FAILURES + 3)), bad("bad_field"))
    shown, rest = text.split('<details class="rest"><summary>3 more</summary>')
    assert shown.count("c.json#images[") == MAX_FAILURES and rest.split("</details>")[0].count("c.json#images[") == 3
    assert_self_contained(text)


def test_a_source_without_images_and_without_rows(show: Any) -> None:
    source = dataclasses.replace(COCO, images="none", evidence="documentation")
    text = show(source=source, options=SourceOptions(annotations=()))
    assert_self_contained(text)
    assert "Nothing: no record was found." in words(text) and "beside its images" not in text
    assert f'<strong class="unseen">{EVIDENCE["documentation"]}</strong>' in text
    assert "every record that was read became a sample" in words(show(sample(("x", "y"), images=0)))
