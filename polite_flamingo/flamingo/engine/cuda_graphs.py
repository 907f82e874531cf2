"""A step of decoding over tensors that never move, so that a GPU can repeat it from a recording (a CUDA graph).

A step of a 7B model is more than a thousand small kernels, which Python launches more slowly than an H200 runs them.
Recorded once, they are launched as one. A recording fixes every shape and address, therefore:

- ids and positions lie in buffers of their own, one entry a row of the cache;
- the number of rows and the positions looked at are rounded up (`rounded_rows`, `rounded_limit`), and there is a
  recording for each pair that occurs;
- rows that only fill up write their meaningless keys and values where nobody looks: at a position that the row will
  write again before it reads it. The mask is made in the recording, from the positions;
- the likeliest tokens are chosen in the recording, and become its next input there. While the same rows go on decoding,
  nothing travels to the GPU, and of the logits only one number a row travels back.

Nothing is recorded on a CPU; the same code then runs step by step, which is how it is tested. It knows neither requests
nor how tokens other than the likeliest are chosen: `engine.py` does.

Not yet run on a GPU. Shapes: S slots, which are the cache's first rows; V vocabulary.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polite_flamingo.flamingo.engine.slots import Shown
from polite_flamingo.flamingo.engine.transfers import upload
from polite_flamingo.flamingo.model.decoder import Cache, Decoder

PLACES = 64
"""Positions looked at are rounded up to a multiple of it."""
RECORDINGS = 128
"""Kept at once; the least recently used goes first. Each holds some MB of the driver's memory."""
WARM_UPS = 2
"""Runs before a recording, in which libraries set up what must not be set up in one."""


def rounded_rows(count: int, slots: int) -> int:
    """Rows of the recording that serves `count`: a power of two, and from a sixteenth of the slots on a multiple of it.

    So a recording wastes little where many rows decode, and there are at most about twenty sizes.
    """
    stride = -(-slots // 16)
    if count < stride:
        return min(slots, 1 << (count - 1).bit_length())
    return min(slots, -(-count // stride) * stride)


def rounded_limit(positions: int, capacity: int) -> int:
    """Positions that the recording for so many looks at."""
    return min(capacity, -(-positions // PLACES) * PLACES)


class StaticStep:
    """Steps over one cache and its images' buffers; for others make another, as addresses are recorded."""

    def __init__(self, decoder: Decoder, cache: Cache, shown: Shown | None, *, slots: int, image_id: int):
        """Args: slots: rows of the cache that may decode. image_id: the token that is never chosen."""
        self._cache, self._shown = cache, shown
        self._decoder, self._image_id = decoder, image_id
        self._slots = slots
        device = decoder.device
        self._inputs = torch.zeros(3, self._slots, dtype=torch.int64, device=device)
        """Ids, positions, and how far the positions move with a step: 1 for rows that decode."""
        self._wanted: list[list[int]] = []
        """What the inputs hold, as far as the host knows; empty where it does not."""
        self._logits = torch.zeros(self._slots, len(decoder.head), dtype=decoder.head.dtype, device=device)
        self._decoding = 0
        """Rows of the last run."""
        self._next: tuple[list[int], list[int]] = ([], [])
        """The positions and moves that the last run left behind."""
        self._cuda = device.type == "cuda"
        self._recordings: OrderedDict[tuple[int, int, bool], Any] = OrderedDict()
        if self._cuda:
            self._stream = torch.cuda.Stream(device)
            self._pool = torch.cuda.graph_pool_handle()
            self._arrived = torch.cuda.Event()
            self._tokens = torch.zeros(self._slots, dtype=torch.int64, pin_memory=True)

    def run(self, ids: Sequence[int], positions: Sequence[int], seeing: bool) -> Tensor:
        """One token for each of the cache's first rows; return logits (rows, V), which hold until the next run.

        The image token's are minus infinity. Nobody waits for the GPU here.

        Args:
            ids: the tokens of the rows that decode.
            positions: of all rows in use. For those that decode, their token's; for the others, any that is not
                written yet, and that the row writes before it looks at it: those rows may be written there.
            seeing: whether a row sees an image.
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
        """The likeliest token of each row that decoded, of the last run. Waits for the GPU."""
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
        """Write the rows' logits. May be run again: it writes the same to the same places."""
        shown = None
        if seeing:
            assert self._shown is not None
            keys, values, flags = self._shown
            shown = keys[:, :rows], values[:, :rows], flags[:rows]
        logits = self._decoder.step(self._inputs[0, :rows], self._inputs[1, :rows], self._cache, limit, shown)
        self._logits[:rows] = logits
        self._logits[:rows, self._image_id] = -torch.inf

    def _advance(self, rows: int) -> None:
        """Make the likeliest tokens the next input of the rows that decode."""
        ids, positions, steps = self._inputs[:, :rows]
        ids.copy_(self._logits[:rows].argmax(dim=-1) * steps)
        positions += steps

    def _recording(self, key: tuple[int, int, bool]) -> Any:
        if key in self._recordings:
            self._recordings.move_to_end(key)
            return self._recordings[key]
        device = self._inputs.device
        # Libraries set themselves up for a stream, so the runs before the recording are on the recording's own.
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UPS):
                self._forward(*key)
        torch.cuda.current_stream(device).wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # Recordings are never replayed side by side, so they may share the memory of what lies between their kernels.
        # "thread_local": another thread may go on using CUDA.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            self._forward(*key)
            self._advance(key[0])
        self._recordings[key] = graph
        if len(self._recordings) > RECORDINGS:
            self._recordings.popitem(last=False)
        return graph
