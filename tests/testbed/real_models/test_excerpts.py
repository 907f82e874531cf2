"""Real annotations without pictures: the adapters' own keys and texts, and no mark of a picture that is not there."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from polite_flamingo.sample import IMAGE_MARK
from polite_flamingo.testbed.real_models.excerpts import EXCERPTS, LEFT_OUT, Excerpt, read_excerpts
from tests.support.raw_dataset import SHARED

TOKENS = "".join(
    f"{picture}.jpg#{number}\ta dog runs , caption {number}\n" for picture in (1, 2, 3) for number in range(5)
)
STATEMENTS = "".join(
    f'{{"image": "{number}.jpg", "image_link": "x", "caption": "The cat is on the mat.", "label": 1}}\n'
    for number in range(3)
)
FILES = (
    Excerpt(source="flickr30k", files=("flickr/*.token",)),
    Excerpt(source="vsr", files=("vsr/*.jsonl",), split="dev"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in (("flickr/results_20130124.token", TOKENS), ("vsr/dev.jsonl", STATEMENTS)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    return tmp_path


def test_samples_have_the_adapters_texts_and_no_picture(folder: Path) -> None:
    samples, reasons = read_excerpts(folder, 100, excerpts=FILES)
    assert not reasons
    assert Counter(sample.dataset for sample in samples) == {"flickr30k": 3, "vsr": 3}
    for sample in samples:
        assert not sample.images
        assert IMAGE_MARK not in sample.instruction
        assert sample.meta[LEFT_OUT] == 1
    assert samples[0].task == "captioning"
    assert samples[0].response.split("\n")[0] == "a dog runs, caption 0"


def test_rows_are_drawn_evenly_and_the_same_each_time(folder: Path) -> None:
    first, _ = read_excerpts(folder, 3, excerpts=FILES)
    again, _ = read_excerpts(folder, 3, excerpts=FILES)
    assert first == again
    assert Counter(sample.dataset for sample in first) == {"flickr30k": 2, "vsr": 1}
    more, _ = read_excerpts(folder, 4, excerpts=FILES)
    assert {sample.key for sample in first} < {sample.key for sample in more}


def test_a_missing_folder_or_file_is_named_in_one_line(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"no folder .*nowhere: name that of the excerpts"):
        read_excerpts(folder / "nowhere", 10)
    with pytest.raises(ValueError, match=r"has no coco_captions/"):
        read_excerpts(folder, 10)


def test_every_real_excerpt_is_read() -> None:
    if not (SHARED / "samples").is_dir():
        pytest.skip("the excerpts of real datasets are not there (POLITE_FLAMINGO_SHARED)")
    samples, reasons = read_excerpts(SHARED / "samples", 10_000)
    assert {sample.dataset for sample in samples} == {excerpt.source for excerpt in EXCERPTS}
    assert not reasons
