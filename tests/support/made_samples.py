"""Samples to train on, and a mixture of shards of them: text, one picture, two pictures, raw and rewritten."""

from __future__ import annotations

import io

import pytest
from PIL import Image as Pillow

from polite_flamingo.sample import Image, Sample, Turn
from polite_flamingo.storage.shards import write_shard
from training.data import Ingredient


def picture(number: int) -> Image:
    """One of 256 pictures, each of one grey."""
    buffer = io.BytesIO()
    Pillow.new("RGB", (16, 16), (number * 37 % 256, number * 91 % 256, number % 256)).save(buffer, "PNG")
    return Image(extension="png", data=buffer.getvalue())


def make_sample(number: int, pictures: int, *, rewritten: bool = True) -> Sample:
    """A sample that is like no other."""
    words = " ".join(["he is running", "the man", "doing what", "a curious human"][: 1 + number % 4])
    return Sample(
        key=f"made/train/{number}",
        dataset="made",
        task="vqa" if pictures else "text",
        turns=(Turn(instruction="<image>" * pictures + f"What is {number}?", response=f"{number} {words}"),),
        images=tuple(picture(number + i) for i in range(pictures)),
        rewritten=f"The answer is {number}, {words}." if rewritten else None,
    )


@pytest.fixture(scope="session")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ingredient]:
    """30 rows of pictures in five shards, 12 of text in two."""
    root = tmp_path_factory.mktemp("mixture")
    for shard in range(5):
        write_shard(root / "seen" / f"{shard}.tar", [make_sample(shard * 6 + i, 1 + i % 2) for i in range(6)])
    for shard in range(2):
        rows = [make_sample(100 + shard * 6 + i, 0, rewritten=False) for i in range(6)]
        write_shard(root / "text" / f"{shard}.tar", rows)
    return {"seen": Ingredient(shards=str(root / "seen")), "text": Ingredient(shards=str(root / "text"))}
