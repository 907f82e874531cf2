"""Preference pairs to train on, and shards of them: text, one picture, two pictures, conversations."""

from __future__ import annotations

from dataclasses import replace

import pytest

from polite_flamingo.sample import Sample, Turn
from polite_flamingo.storage.shards import write_shard
from tests.support.made_samples import make_sample
from training.data import Ingredient


def make_pair(number: int, pictures: int, *, turns: int = 1) -> Sample:
    """A pair that is like no other; the answers differ in length, and earlier turns are context."""
    sample = make_sample(number, pictures)
    words = " ".join(["a man", "he is", "running", "he runs and runs"][: 1 + number % 4])
    earlier = tuple(
        Turn(
            instruction="<image>" * (pictures if turn == 0 else 0) + f"Who is {turn}?",
            response="The man.",
            learned=False,
        )
        for turn in range(turns - 1)
    )
    last = sample.turns[0] if turns == 1 else Turn(instruction=f"What is {number}?", response="Answer: a man")
    return replace(
        sample, key=f"made/pairs/{number}", turns=(*earlier, last), rewritten=f"He is {words} {number}.",
        rejected=f"{words}, {number}" + " indeed" * (number % 3),
    )  # fmt: skip


@pytest.fixture(scope="session")
def pair_mixture(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ingredient]:
    """24 pairs in four shards: with pictures, without, and as conversations."""
    root = tmp_path_factory.mktemp("pairs")
    for shard in range(4):
        pairs = [make_pair(shard * 6 + i, i % 3, turns=1 + (i == 4)) for i in range(6)]
        write_shard(root / "pairs" / f"{shard}.tar", pairs)
    return {"pairs": Ingredient(shards=str(root / "pairs"))}
