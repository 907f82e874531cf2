"""Near-duplicates are found among samples that show the same pictures, wherever in the shards they lie."""

from __future__ import annotations

import dataclasses
import io
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageDraw

from polite_flamingo.near_duplicates import buckets
from polite_flamingo.near_duplicates.find import NearDuplicates, find
from polite_flamingo.near_duplicates.pictures import SAME_BITS, compare_pictures
from polite_flamingo.near_duplicates.signatures import Signatures, sign
from polite_flamingo.sample import Image, Sample, Turn
from polite_flamingo.storage.location import location

QUESTION = "What colour is the umbrella that the man on the left is holding over his head?"
ANSWER = "Answer: it is a dark red one"


def photograph(seed: int, kind: str = "JPEG", size: int = 160, **options: int) -> Image:
    """A picture of blobs that no other seed has, in some size and format."""
    rng = random.Random(seed)
    image = Pillow.new("RGB", (160, 160), "#888888")
    for _ in range(12):
        x, y = rng.randrange(160), rng.randrange(160)
        colour = tuple(rng.randrange(256) for _ in range(3))
        ImageDraw.Draw(image).ellipse((x - 30, y - 40, x + 40, y + 30), fill=colour)  # type: ignore[arg-type]
    buffer = io.BytesIO()
    image.resize((size, size)).save(buffer, kind, **options)
    return Image(extension=kind.lower(), data=buffer.getvalue())


def row(question: str, answer: str = ANSWER, *images: Image) -> Sample:
    turn = Turn(instruction="<image>" * len(images) + question, response=answer)
    return Sample(key="d/t/0", dataset="d", task="vqa", turns=(turn,), images=images)


def compared(folder: Path, shards: Mapping[str, Sequence[Sample]]) -> NearDuplicates:
    for name, samples in shards.items():
        (folder / f"{name}.npz").write_bytes(sign(samples).encode())
    entries = [(name, location(folder / f"{name}.npz"), len(samples)) for name, samples in shards.items()]
    found = find(entries, scratch=folder / "scratch")
    assert not (folder / "scratch").exists() and not found.unsigned
    return found


def test_the_same_question_about_another_picture_is_no_near_duplicate(tmp_path: Path) -> None:
    here, smaller, there = photograph(1), photograph(1, "PNG", 120), photograph(2)
    shards = {
        "b": [row(f"{QUESTION} ", "answer: it is a dark red one!", smaller), row(QUESTION, ANSWER, there)],
        "a": [row(QUESTION, ANSWER, here), row("Who wrote the book?", "Answer: nobody", here)],
    }
    found = compared(tmp_path, shards)
    first, other_question = found.of("a")
    copy, other_picture = found.of("b")
    assert first == {"near_text": 0.0, "near_image": 0.0}, "the first by name keeps"
    assert other_question["near_image"] == 1.0 and other_question["near_text"] < 0.2
    assert copy["near_text"] > 0.9 and copy["near_image"] > 0.93
    assert other_picture["near_text"] == 0.0 and other_picture["near_image"] < 0.9


def test_pictures_count_one_by_one_and_in_order(tmp_path: Path) -> None:
    one, two, three = photograph(1), photograph(2), photograph(3)
    pairs = [(one, two), (two, one), (one, three), (photograph(1, "PNG"), two)]
    swapped, half, copy = compared(tmp_path, {"a": [row(QUESTION, ANSWER, *pair) for pair in pairs]}).of("a")[1:]
    assert swapped == {"near_text": 0.0, "near_image": 1.0}, "both were seen, but the question is another"
    assert half["near_text"] == 0.0 and half["near_image"] < 0.9, "one of its pictures is new"
    assert copy["near_text"] == 1.0 and copy["near_image"] > 0.9


def test_texts_without_pictures_are_compared_with_each_other_alone(tmp_path: Path) -> None:
    shown = row(QUESTION, ANSWER, photograph(1))
    dialogue = Sample(
        key="d/t/1", dataset="d", task="text",
        turns=(Turn(instruction="Hello, who are you?", response="A man."), Turn(instruction=QUESTION, response=ANSWER)),
    )  # fmt: skip
    again = dataclasses.replace(dialogue, key="d/t/2")
    found = compared(tmp_path, {"a": [shown, row(QUESTION), dialogue, again]}).of("a")
    assert found[1:2] == [{"near_text": 0.0}] and found[3] == {"near_text": 1.0}
    assert 0.5 < found[2]["near_text"] < 0.9, "the second turn is an earlier sample's"


def test_a_text_shorter_than_a_gram_and_one_without_spaces_have_signatures(tmp_path: Path) -> None:
    one, other = ("図書館の前で傘を持っている" + who + "は何色の服を着ていますか" for who in ("男性", "女性"))
    rows = [row(text, "\ud83d") for text in ("", "a", "a", one, other)]
    found = [scores["near_text"] for scores in compared(tmp_path, {"a": rows}).of("a")]
    assert found[:4] == [0.0, 0.0, 1.0, 0.0] and 0.3 < found[4] < 1.0


def test_a_picture_that_does_not_decode_equals_its_copies_alone(tmp_path: Path) -> None:
    broken, other = Image(extension="jpg", data=b"not a picture"), Image(extension="jpg", data=b"nor is this")
    found = compared(tmp_path, {"a": [row(QUESTION, ANSWER, image) for image in (broken, other, broken)]}).of("a")
    assert found[2] == {"near_text": 1.0, "near_image": 1.0} and found[1]["near_text"] == 0.0


@pytest.mark.parametrize("bits", range(SAME_BITS + 1))
def test_every_pair_of_hashes_that_differs_in_few_bits_is_found(
    bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "BUCKET_BYTES", 1000 if bits % 2 else buckets.BUCKET_BYTES)
    rng = np.random.default_rng(bits)
    hashes = rng.integers(1 << 64, size=600, dtype=np.uint64)
    flips = [sum(1 << int(bit) for bit in rng.choice(64, bits, replace=False)) for _ in range(600)]
    both = np.concatenate([hashes, hashes ^ np.array(flips, np.uint64)])
    found = compare_pictures(both, np.arange(len(both)), tmp_path)
    assert (found.equal_bits[600:] >= 64 - bits).all() and (found.equal_bits[:600] < 64 - SAME_BITS).all()
    assert (found.groups[:600] == found.groups[600:]).all() and len(np.unique(found.groups)) == 600


@pytest.mark.parametrize("bucket_bytes", [buckets.BUCKET_BYTES, 500])
def test_what_is_found_is_what_comparing_all_pairs_finds(
    tmp_path: Path, bucket_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of three themes in six shards: some are copies with a few words changed, of one of two pictures."""
    monkeypatch.setattr(buckets, "BUCKET_BYTES", bucket_bytes)
    rng = random.Random(0)
    words = [f"word{number}" for number in range(400)]
    themes = [rng.choices(words, k=30) for _ in range(60)]
    pictures = [photograph(7), photograph(8)]
    rows = []
    for _ in range(600):
        text = [
            rng.choice(words) if rng.random() < rng.choice([0.02, 0.1, 0.4]) else word for word in rng.choice(themes)
        ]
        rows.append(row(" ".join(text), "yes", *rng.choices(pictures, k=rng.choice([0, 1]))))
    shards = {f"s{number}": rows[number * 100 : (number + 1) * 100] for number in range(6)}
    found = compared(tmp_path, shards)
    near = np.array([one["near_text"] for name in shards for one in found.of(name)])
    texts, shown = sign(rows).texts, [tuple(image.data for image in one.images) for one in rows]
    for later, one in enumerate(rows):
        earlier = [place for place in range(later) if shown[place] == shown[later]]
        equal = (texts[earlier] == texts[later]).mean(axis=1).max() if earlier else 0.0
        best = max(0.0, (equal - 1 / 256) / (1 - 1 / 256))
        assert near[later] <= best + 1e-4
        assert near[later] == pytest.approx(best, abs=1e-4) or best < 0.6, one


def test_signatures_of_another_method_are_not_compared(tmp_path: Path) -> None:
    signatures = sign([row(QUESTION)])
    (tmp_path / "a.npz").write_bytes(signatures.encode())
    (tmp_path / "b.npz").write_bytes(dataclasses.replace(signatures, made_by="another").encode())
    entries = [(name, location(tmp_path / f"{name}.npz"), 1) for name in ("a", "b")]
    found = find([*entries, ("c", None, 3)], scratch=tmp_path / "scratch")
    assert found.unsigned == ["b", "c"] and found.of("b") == [] and found.of("a") == [{"near_text": 0.0}]
    found = find(entries, scratch=tmp_path / "scratch", made_by="another")
    assert found.unsigned == ["a"]


def test_a_damaged_file_is_named_in_one_line(tmp_path: Path) -> None:
    whole = sign([row(QUESTION, ANSWER, photograph(1))]).encode()
    for data in (whole[: len(whole) // 2], b"", b"PK\x03\x04"):
        (tmp_path / "a.npz").write_bytes(data)
        with pytest.raises(ValueError, match=r"a\.npz is damaged \(.*\); delete its shard's manifest and run"):
            find([("a", location(tmp_path / "a.npz"), 1)], scratch=tmp_path / "scratch")
    (tmp_path / "a.npz").write_bytes(whole)
    with pytest.raises(ValueError, match="has 1 signatures, its manifest says 2"):
        find([("a", location(tmp_path / "a.npz"), 2)], scratch=tmp_path / "scratch")
    assert Signatures.decode(whole).encode() == whole
