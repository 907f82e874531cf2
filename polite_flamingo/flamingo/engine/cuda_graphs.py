"""Decode steps recorded as CUDA graphs: a step over tensors at fixed addresses, which a GPU replays in one launch.

A step of a 7B model is more than a thousand small kernels, and Python launches them more slowly than an H200 runs them.
A graph fixes every shape and address, therefore:

- ids and positions have their own buffers, one entry per row of the cache;
- the numbers of rows and of positions are rounded up (`rounded_rows`, `rounded_limit`), with one graph for each pair
  that occurs;
- padding rows write meaningless keys and values at a position that the row will overwrite before it reads it. The mask
  is computed inside the graph, from the positions;
- the likeliest tokens are chosen inside the graph and become its next input. While the same rows keep decoding, nothing
  is copied to the GPU, and only one number per row is copied back.

On a CPU nothing is recorded; the same code then runs step by step, which is how it is tested. Requests and sampling are
in `engine.py`.

Not yet run on a GPU. Shapes: S slots, which are the cache's first rows; V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polite_flamingo.flamingo.engine.slots import VisibleImages
from polite_flamingo.flamingo.engine.transfers import upload
from polite_flamingo.flamingo.model.decoder import Decoder
from polite_flamingo.flamingo.model.kv_cache import KVCache
from polite_flamingo.lru_cache import LruCache

PLACES = 64
"""The number of positions is rounded up to a multiple of this."""
RECORDINGS = 128
"""Graphs kept at once, least recently used evicted first. Each takes some MB of the driver's memory."""
WARM_UPS = 2
"""Runs before a recording, so that libraries do their setup outside it."""


def rounded_rows(count: int, slots: int) -> int:
    """Round a number of rows up: to a power of two, or to a multiple of a sixteenth of the slots if it is larger.

    So a graph wastes little when many rows decode, and there are at most about twenty sizes.
    """
    stride = -(-slots // 16)
    if count < stride:
        return min(slots, 1 << (count - 1).bit_length())
    return min(slots, -(-count // stride) * stride)


def rounded_limit(positions: int, capacity: int) -> int:
    """Round a number of positions up, to at most the cache's capacity."""
    return min(capacity, -(-positions // PLACES) * PLACES)


class StaticStep:
    """Decode steps over one cache and its image buffers. New buffers need a new one, since addresses are recorded."""

    def __init__(self, decoder: Decoder, cache: KVCache, images: VisibleImages | None, *, slots: int, image_id: int):
        """Args: slots: rows of the cache that may decode. image_id: token that is never chosen."""
        self._cache, self._images = cache, images
        self._decoder, self._image_id = decoder, image_id
        self._slots = slots
        device = decoder.device
        self._inputs = torch.zeros(3, self._slots, dtype=torch.int64, device=device)
        """Ids, positions, and by how much a step advances the positions: 1 for rows that decode."""
        self._wanted: list[list[int]] = []
        """The inputs as the host knows them; empty if unknown."""
        self._logits = torch.zeros(self._slots, len(decoder.head), dtype=decoder.head.dtype, device=device)
        self._decoding = 0
        """Number of rows that decoded in the last run."""
        self._next: tuple[list[int], list[int]] = ([], [])
        """Positions and advances that the last run left in the inputs."""
        self._cuda = device.type == "cuda"
        self._graphs: LruCache[tuple[int, int, bool], Any] = LruCache(RECORDINGS)
        if self._cuda:
            self._stream = torch.cuda.Stream(device)
            self._pool = torch.cuda.graph_pool_handle()
            self._arrived = torch.cuda.Event()
            self._tokens = torch.zeros(self._slots, dtype=torch.int64, pin_memory=True)

    def run(self, ids: Sequence[int], positions: Sequence[int], seeing: bool) -> Tensor:
        """Run one token for each of the cache's first rows, without waiting for the GPU.

        Args:
            ids: tokens of the rows that decode.
            positions: one position per row in use. A decoding row gives its token's position. Any other row gives a
                position that it will overwrite before reading, because this run may write there.
            seeing: whether any row sees an image.

        Returns:
            logits (rows, V), valid until the next run; those of the image token are minus infinity.
        """
        self._decoding = len(ids)
        rest, unused = len(positions) - len(ids), self._slots - len(positions)
        wanted = [
            [*ids, *[0] * (rest + unused)],
            [*positions, *[0] * unused],
            [*[1] * len(ids), *[0] * (rest + unused)],
        ]
        if wanted != self._wanted:
            self._inputs.copy_(upload(wanted, self._inputs.device))
        self._wanted = []
        self._next = [place + step for place, step in zip(wanted[1], wanted[2], strict=True)], wanted[2]
        rows = rounded_rows(len(ids), self._slots)
        key = rows, rounded_limit(max(wanted[1][:rows]) + 1, self._cache.capacity), seeing
        if self._cuda:
            self._recording(key).replay()
        else:
            self._forward(*key)
            self._advance(rows)
        return self._logits[: len(ids)]

    def likeliest(self) -> list[int]:
        """Return the likeliest token of each row that decoded in the last run. Waits for the GPU."""
        tokens = self._inputs[0, : self._decoding]
        if self._cuda:
            tokens = self._tokens[: self._decoding].copy_(tokens, non_blocking=True)
            self._arrived.record()
            self._arrived.synchronize()
        found: list[int] = tokens.tolist()
        positions, steps = self._next
        self._wanted = [[*found, *[0] * (self._slots - len(found))], positions, steps]
        return found

    def _forward(self, rows: int, limit: int, seeing: bool) -> None:
        """Compute the rows' logits. Idempotent: running it again writes the same numbers to the same places."""
        images = None
        if seeing:
            assert self._images is not None
            keys, values, visible = self._images
            images = keys[:, :rows], values[:, :rows], visible[:rows]
        logits = self._decoder.step(self._inputs[0, :rows], self._inputs[1, :rows], self._cache, limit, images)
        self._logits[:rows] = logits
        self._logits[:rows, self._image_id] = -torch.inf

    def _advance(self, rows: int) -> None:
        """Make the likeliest tokens the next inputs of the rows that decode."""
        ids, positions, steps = self._inputs[:, :rows]
        ids.copy_(self._logits[:rows].argmax(dim=-1) * steps)
        positions += steps

    def _recording(self, key: tuple[int, int, bool]) -> Any:
        if (recorded := self._graphs.get(key)) is not None:
            return recorded
        device = self._inputs.device
        # Libraries do their setup per stream, so the runs before the recording use its stream.
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UPS):
                self._forward(*key)
        torch.cuda.current_stream(device).wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # Graphs never replay side by side, so they can share the memory of their intermediate results.
        # "thread_local": other threads may keep using CUDA.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            self._forward(*key)
            self._advance(key[0])
        self._graphs.put(key, graph)
        return graph
