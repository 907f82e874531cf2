"""Near-duplicates at scale: how long signatures and comparisons take, in how much memory, and what is missed.

    python -m benchmarks.pipeline.near_duplicates --rows 100000 1000000

Signing is measured on drawn JPEG photographs and on texts. Comparing is measured on made signatures. One row in ten is
a text without a picture; half of these are letters of 50 forms with five words filled in, the hard case: thousands of
rows that are similar to each other. The others ask four questions a picture from a stock of 2,000, so that questions
repeat all over the data. One row in fifty is a planted near-duplicate: an earlier row with a word changed, its picture
with up to three bits flipped. `find` runs in a process of its own, whose memory is measured. What it finds is compared
with a search through all pairs that show the same pictures, for a sample of rows.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import random
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw

from polite_flamingo.near_duplicates import signatures
from polite_flamingo.near_duplicates.find import NearDuplicates, find
from polite_flamingo.near_duplicates.signatures import Signatures, method, sign
from polite_flamingo.sample import Image, Sample, Turn
from polite_flamingo.storage.location import location

ROWS_PER_SHARD = 1000
CHECKED = 2000
"""Rows that are compared with all others."""


def main() -> None:
    """Parse the command line, measure, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, default=None, help="folder for temporary files")
    options = parser.parse_args()
    print(f"{os.cpu_count()} CPU cores, load {os.getloadavg()[0]:.1f}; seconds are of CPU\n")
    measure_signing()
    print("\n| rows | seconds of CPU | wall | memory above the start, MB | planted found | lower than all pairs say |")
    print("|---|---|---|---|---|---|")
    for rows in options.rows:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            measure_finding(rows, Path(folder))


def measure_signing() -> None:
    """Print how many rows a second one core signs."""
    photographs = [photograph(seed) for seed in range(40)]
    rows = [
        Sample(
            key="d/t/0", dataset="d", task="vqa", images=(image,),
            turns=(Turn(instruction=f"<image>{question(random.Random(number))}", response="Answer: red"),),
        )
        for number, image in enumerate(photographs)
    ]  # fmt: skip
    texts = [Sample(key="d/t/0", dataset="d", task="text", turns=row.turns) for row in rows] * 50
    sign(rows[:1])
    for what, samples in ("texts", texts), ("pictures of 640x480 (JPEG) with a text", rows):
        began = time.process_time()
        sign(samples)
        print(f"{what}: {len(samples) / (time.process_time() - began):,.0f} a second")


def photograph(seed: int) -> Image:
    """Draw a noisy picture as large as those of COCO."""
    rng = random.Random(seed)
    noise = np.random.default_rng(seed).integers(0, 40, (480, 640, 3), dtype=np.uint8)
    image = Pillow.fromarray(noise)
    for _ in range(30):
        x, y = rng.randrange(640), rng.randrange(480)
        ImageDraw.Draw(image).ellipse((x, y, x + 90, y + 70), fill=(rng.randrange(256), rng.randrange(256), 90))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return Image(extension="jpg", data=buffer.getvalue())


WORDS = [f"{a}{b}" for a in ("ta", "ri", "mo", "ke", "su", "pa", "lo") for b in ("n", "mer", "dok", "vi", "sta", "x")]
STOCK = 2000


def question(rng: random.Random) -> str:
    """Return one of the stock of questions, with one of thirty answers."""
    own = random.Random(rng.randrange(STOCK))
    return " ".join([*own.choices(WORDS, k=own.randrange(5, 14)), rng.choice(WORDS[:30])])


def letter(rng: random.Random) -> str:
    """Return one of 50 forms of 40 words, with five of them filled in."""
    words = random.Random(rng.randrange(50)).choices(WORDS, k=40)
    for place in range(0, 40, 8):
        words[place] = rng.choice(WORDS)
    return " ".join(words)


def make(rows: int, folder: Path) -> tuple[list[tuple[str, Path, int]], np.ndarray]:
    """Write made signatures; return the shards, and which rows are planted."""
    rng, bits = random.Random(0), np.random.default_rng(0)
    texts: list[str] = []
    shown: list[int | None] = []
    planted = np.zeros(rows, bool)
    picture = 0
    for number in range(rows):
        if number % 50 == 49:
            of = rng.randrange(number)
            words = texts[of].split(" ")
            words[rng.randrange(len(words))] = rng.choice(WORDS)
            before = shown[of]
            flips = 0 if before is None else sum({1 << int(bit) for bit in bits.integers(64, size=rng.randrange(4))})
            texts.append(" ".join(words))
            shown.append(None if before is None else before ^ flips)
            planted[number] = True
            continue
        if number % 4 == 0:
            picture = int(bits.integers(1 << 64, dtype=np.uint64))
        alone = number % 10 == 0
        texts.append(letter(rng) if alone and number % 20 else question(rng) + (f" {number:x}" * 4 if alone else ""))
        shown.append(None if alone else picture)
    shards = []
    for start in range(0, rows, ROWS_PER_SHARD):
        some = texts[start : start + ROWS_PER_SHARD]
        hashes = shown[start : start + ROWS_PER_SHARD]
        made = Signatures(
            made_by=method(),
            texts=np.frombuffer(b"".join(map(signatures._minhash, some)), np.uint8).reshape(len(some), -1),
            counts=np.array([one is not None for one in hashes], np.uint32),
            pictures=np.array([one for one in hashes if one is not None], np.uint64),
        )
        path = folder / f"{start:09d}.npz"
        path.write_bytes(made.encode())
        shards.append((path.stem, path, len(some)))
    return shards, planted


def measure_finding(rows: int, folder: Path) -> None:
    """Print a line of the table."""
    shards, planted = make(rows, folder)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(False)
    process = context.Process(target=_find, args=(shards, folder / "scratch", there))
    process.start()
    found, cpu, wall, memory = here.recv()
    process.join()
    near = [found.of(name) for name, _, _ in shards]
    scores = np.array([one["near_text"] for shard in near for one in shard])
    missed, checked = misses(shards, scores)
    print(
        f"| {rows:,} | {cpu:,.1f} | {wall:,.1f} | {memory / 1e6:,.0f} "
        f"| {(scores[planted] >= 0.5).mean():.2%} | {missed:,} of {checked:,} above 0.6 |"
    )


def _find(shards: list[tuple[str, Path, int]], scratch: Path, answer: Any) -> None:
    entries = [(name, location(path), count) for name, path, count in shards]
    find(entries[:1], scratch=scratch)
    peak = [before := _memory()]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            peak[0] = max(peak[0], _memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    began, wall = time.process_time(), time.perf_counter()
    found: NearDuplicates = find(entries, scratch=scratch)
    cpu, wall = time.process_time() - began, time.perf_counter() - wall
    over.set()
    watcher.join()
    answer.send((found, cpu, wall, peak[0] - before))


def _memory() -> int:
    """Return the memory of this process that is no file's, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))


def misses(shards: list[tuple[str, Path, int]], scores: np.ndarray) -> tuple[int, int]:
    """Compare a sample of rows with all before them; return how many above 0.6 scored lower, and how many there are."""
    whole = [Signatures.decode(path.read_bytes()) for _, path, _ in shards]
    texts = np.concatenate([one.texts for one in whole])
    counts = np.concatenate([one.counts for one in whole]).astype(bool)
    hashes = np.zeros(len(texts), np.uint64)
    hashes[counts] = np.concatenate([one.pictures for one in whole])
    without = np.flatnonzero(~counts)
    missed = total = 0
    for row in random.Random(1).sample(range(len(texts)), min(CHECKED, len(texts))):
        if counts[row]:
            with_pictures = np.flatnonzero(counts[:row])
            earlier = with_pictures[np.bitwise_count(hashes[with_pictures] ^ hashes[row]) <= 5]
        else:
            earlier = without[without < row]
        if not len(earlier):
            continue
        best = ((texts[earlier] == texts[row]).mean(axis=1).max() - 1 / 256) / (1 - 1 / 256)
        if best >= 0.6:
            total += 1
            missed += scores[row] < best - 1e-3
    return int(missed), total


if __name__ == "__main__":
    main()
