"""Signatures of samples: small numbers that are nearly equal for nearly equal texts, and for nearly equal pictures.

A text is the instructions and annotations of all turns. Its signature is a MinHash of its 5-grams of characters, which
need no spaces between words (rensa); the lowest 8 bits of each value are kept. A picture's is a perceptual hash of 64
bits of the upright picture (imagehash). A picture that cannot be decoded gets a digest of its bytes instead, so it
equals its copies and nothing else.

A build computes the signatures of a shard when it is committed; `find.py` compares them at a selection.
"""

from __future__ import annotations

import functools
import hashlib
import io
import unicodedata
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image as Pillow

from polite_flamingo.images.decoding import decode
from polite_flamingo.sample import IMAGE_MARK, BadSample, Sample

PERMUTATIONS = 128
"""Values of a text's signature. The estimate of a similarity of 0.8 is then off by 0.025 (root mean square)."""

GRAM = 5
PICTURE_BITS = 64
SIDE = 128
"""Larger pictures are averaged down before they are hashed, to no less than this: it takes half the time."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Signatures:
    """The signatures of a shard's samples, in order.

    Attributes:
        made_by: which method made them; others cannot be compared.
        texts: one row of `PERMUTATIONS` bytes per sample.
        counts: number of pictures of each sample.
        pictures: 64 bits per picture, sample after sample.
    """

    made_by: str
    texts: np.ndarray
    counts: np.ndarray
    pictures: np.ndarray

    def encode(self) -> bytes:
        """Return the bytes of a file; equal signatures make equal files."""
        sink = io.BytesIO()
        made_by = np.frombuffer(self.made_by.encode(), np.uint8)
        np.savez(sink, made_by=made_by, texts=self.texts, counts=self.counts, pictures=self.pictures)
        return sink.getvalue()

    @staticmethod
    def decode(data: bytes) -> Signatures:
        """Read what `encode` wrote. Raises `ValueError` if it is damaged."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as found:
                signatures = Signatures(
                    made_by=found["made_by"].tobytes().decode(),
                    **{name: found[name] for name in ("texts", "counts", "pictures")},
                )
        except (OSError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None
        if signatures.texts.shape != (len(signatures.counts), PERMUTATIONS) or (
            signatures.counts.sum() != len(signatures.pictures)
        ):
            raise ValueError("the numbers of texts and pictures differ")
        return signatures


def sign(samples: Sequence[Sample], *, read_pictures: bool = True) -> Signatures:
    """Compute the signatures of samples.

    Args:
        samples: of one shard, in order.
        read_pictures: whether to decode the pictures; if not, they get digests of their bytes.
    """
    known: dict[bytes, int] = {}
    pictures = []
    for image in (image for sample in samples for image in sample.images):
        digest = hashlib.blake2b(image.data, digest_size=PICTURE_BITS // 8).digest()
        if digest not in known:
            known[digest] = _picture(image.data, digest) if read_pictures else int.from_bytes(digest)
        pictures.append(known[digest])
    texts = np.frombuffer(b"".join(_text(sample) for sample in samples), np.uint8)
    return Signatures(
        made_by=method(),
        texts=texts.reshape(len(samples), PERMUTATIONS),
        counts=np.array([len(sample.images) for sample in samples], np.uint32),
        pictures=np.array(pictures, np.uint64),
    )


@functools.cache
def method() -> str:
    """Name the method, with the signatures of one text and one picture: another version of a library may differ."""
    text = hashlib.sha256(_minhash("the text that tells one method from another")).hexdigest()[:12]
    ramp = Pillow.frombytes("L", (64, 64), bytes(x * y % 251 for x in range(64) for y in range(64)))
    return f"rensa.RMinHash {PERMUTATIONS}x8 {GRAM}-grams {text}; imagehash.phash {_perceptual(ramp):016x}"


def _text(sample: Sample) -> bytes:
    texts = (text for turn in sample.turns for text in (turn.instruction.replace(IMAGE_MARK, " "), turn.response))
    return _minhash(" ".join(unicodedata.normalize("NFKC", " ".join(texts)).casefold().split()))


def _minhash(text: str) -> bytes:
    from rensa import RMinHash

    found = RMinHash(num_perm=PERMUTATIONS, seed=0)
    found.update(list(_grams(text.encode("utf-8", "replace").decode())))
    return np.array(found.digest(), np.uint32).astype(np.uint8).tobytes()


def _grams(text: str) -> Iterator[str]:
    return (text[start : start + GRAM] for start in range(max(1, len(text) - GRAM + 1)))


def _picture(data: bytes, digest: bytes) -> int:
    try:
        return _perceptual(decode(data))
    except BadSample:
        return int.from_bytes(digest)


def _perceptual(image: Pillow.Image) -> int:
    from imagehash import phash

    factor = max(1, min(image.size) // SIDE)
    return int.from_bytes(np.packbits(phash(image.reduce(factor)).hash).tobytes())
