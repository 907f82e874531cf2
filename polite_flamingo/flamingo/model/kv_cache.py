"""Cached keys and values for attention: of a row's positions, and of an image.

Shapes: S rows of the cache, L positions, H heads, E width of a head, N latents per image, M images per row, B rows per
call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class KVCache:
    """Keys and values of S rows: (2, layers, S, H, L, E), so one write stores both."""

    data: Tensor

    @property
    def rows(self) -> int:
        """Number of rows, S."""
        return self.data.shape[2]

    @property
    def capacity(self) -> int:
        """Positions that fit in a row, L."""
        return self.data.shape[4]

    def prefix(self, row: int, length: int) -> Tensor:
        """Return a view of a row's first positions, (2, layers, H, length, E)."""
        return self.data[:, :, row, :, :length]

    def swap(self, row: int, other: int, length: int) -> None:
        """Swap the first positions of two rows."""
        self.data[:, :, [row, other], :, :length] = self.data[:, :, [other, row], :, :length]


@dataclass(frozen=True)
class ImageKV:
    """Keys and values of one image in each cross-attention layer: (layers, H, N, E) each."""

    keys: Tensor
    values: Tensor

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.keys.nbytes + self.values.nbytes


def stack_images(images: Sequence[Sequence[ImageKV]], max_images: int) -> tuple[Tensor, Tensor]:
    """Stack the keys and values of all images of all rows, (B, layers, H, M N, E) each; zeros for missing images."""
    first = next(one for row in images for one in row)
    empty = ImageKV(torch.zeros_like(first.keys), torch.zeros_like(first.values))
    keys, values = [], []
    for row in images:
        filled = [*row, *[empty] * (max_images - len(row))]
        keys.append(torch.cat([one.keys for one in filled], dim=2))
        values.append(torch.cat([one.values for one in filled], dim=2))
    return torch.stack(keys), torch.stack(values)
