"""Bin packing under two limits, tokens and images: decides which samples share a row.

A piece is anything with a length (its tokens) and a list of images. A piece longer than the window gets its own row.
Nothing here knows what a token is (`pack.py` does).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence, Sized
from heapq import heappop, heappush
from itertools import islice
from typing import Protocol, TypeVar

LOOK_AHEAD = 16
"""How many pieces `next_fit` tries for one that still fits a row, before it closes the row."""


class Piece(Sized, Protocol):
    """Something to pack."""

    @property
    def images(self) -> Sequence[bytes]:
        """The images in it."""
        ...


P = TypeVar("P", bound=Piece)


def one_per_row(pieces: Sequence[P], window: int, max_images: int) -> list[list[P]]:
    """Give each piece its own row."""
    return [[piece] for piece in pieces]


def next_fit(pieces: Sequence[P], window: int, max_images: int) -> list[list[P]]:
    """Fill rows in order: a row takes the first of the next `LOOK_AHEAD` pieces that fits, or is closed."""
    source, ahead = iter(pieces), list[P]()
    bins: list[list[P]] = []
    while True:
        ahead += islice(source, LOOK_AHEAD - len(ahead))
        if not ahead:
            return bins
        members = [ahead.pop(0)]
        room, slots = window - len(members[0]), max_images - len(members[0].images)
        while True:
            ahead += islice(source, LOOK_AHEAD - len(ahead))
            fits = (n for n, piece in enumerate(ahead) if len(piece) <= room and len(piece.images) <= slots)
            if (place := next(fits, None)) is None:
                break
            members.append(piece := ahead.pop(place))
            room, slots = room - len(piece), slots - len(piece.images)
        bins.append(members)


def fewest_rows(pieces: Sequence[P], window: int, max_images: int) -> list[list[P]]:
    """Pack by best fit, or into rows of equal length if that takes no more rows: in a batch, those need less padding.

    Where tokens are the limit, best fit comes within a percent or two of the fewest possible rows. Where images are, as
    with short answers about one image each, it would use up the texts that should fill the rows of images.
    """
    fitted = min((_best_fit(pieces, window, max_images, weight) for weight in (1, 0)), key=len)
    tokens, images = sum(map(len, pieces)), sum(len(piece.images) for piece in pieces)
    least = max(-(-tokens // window), -(-images // max_images) if images else 0)
    for count in range(least, len(fitted) + 1, max(1, least // 250)):
        if (levelled := _levelled(pieces, count, window, max_images)) is not None:
            return levelled
    return fitted


def _best_fit(pieces: Sequence[P], window: int, max_images: int, weight: int) -> list[list[P]]:
    """Place pieces, those that claim the largest share of a row first, each into the fullest row where it fits.

    A piece claims its share of the tokens, plus `weight` times its share of the images. Ordered by tokens alone, long
    texts often fill rows without an image, and leave rows of nothing but images.
    """
    bins: list[list[P]] = []
    # Rows by how many images they still take, as sorted pairs (room, number), so that a row is found by bisection.
    open_rows: list[list[tuple[int, int]]] = [[] for _ in range(max_images + 1)]

    def claim(piece: P) -> float:
        return len(piece) / window + weight * len(piece.images) / max(1, max_images)

    for piece in sorted(pieces, key=claim, reverse=True):
        shown, best = len(piece.images), None
        for slots in range(shown, max_images + 1):
            place = bisect_left(open_rows[slots], (len(piece), -1))
            if place < len(open_rows[slots]) and (best is None or open_rows[slots][place][0] < best[0]):
                best = (open_rows[slots][place][0], slots, place)
        if best is None:
            slots, room, number = max_images, window, len(bins)
            bins.append([])
        else:
            slots = best[1]
            room, number = open_rows[slots].pop(best[2])
        bins[number].append(piece)
        insort(open_rows[slots - shown], (room - len(piece), number))
    return bins


def _levelled(pieces: Sequence[P], count: int, window: int, max_images: int) -> list[list[P]] | None:
    """Fill `count` rows, longest piece first, each into the row with most room; None if a piece does not fit."""
    bins: list[list[P]] = [[] for _ in range(count)]
    roomy: list[list[tuple[int, int]]] = [[] for _ in range(max_images + 1)]  # heaps of (minus room, number)
    roomy[max_images] = [(-window, number) for number in range(count)]
    for piece in sorted(pieces, key=len, reverse=True):
        shown = len(piece.images)
        slots = min((n for n in range(shown, max_images + 1) if roomy[n]), key=lambda n: roomy[n][0], default=None)
        if slots is None or -roomy[slots][0][0] < min(len(piece), window):  # an empty row takes any piece
            return None
        room, number = heappop(roomy[slots])
        bins[number].append(piece)
        heappush(roomy[slots - shown], (room + len(piece), number))
    return bins


FILLS = {"random": next_fit, "best_fit": fewest_rows, "alone": one_per_row}
