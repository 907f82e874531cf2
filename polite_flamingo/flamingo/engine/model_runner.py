"""The model runner: builds the inputs of a forward pass from the slots' requests, runs it, and counts its work."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polite_flamingo.flamingo.engine.cuda_graphs import StaticStep
from polite_flamingo.flamingo.engine.metrics import CallCost, Metrics
from polite_flamingo.flamingo.engine.requests import Request
from polite_flamingo.flamingo.engine.slots import Slots
from polite_flamingo.flamingo.engine.transfers import upload
from polite_flamingo.flamingo.model.decoder import Decoder


class ModelRunner:
    """Runs the decoder over the rows of the slots.

    Attributes:
        uses_graphs: whether decode steps are recorded as CUDA graphs and replayed.
        static: the recorded step over the current buffers, if there is one.
    """

    def __init__(
        self, decoder: Decoder, slots: Slots, metrics: Metrics, *, image_id: int, latents: int, cuda_graphs: bool
    ):
        """Args: image_id: token of the image tag. latents: number of latents per image."""
        self._decoder, self._slots, self._metrics, self._image_id = decoder, slots, metrics, image_id
        self._cost = CallCost(decoder, latents)
        self.uses_graphs = cuda_graphs and decoder.device.type == "cuda"
        self.static: StaticStep | None = None

    def number_seen(self, request: Request) -> int:
        """Return the number of the image that generated tokens see: none (0) in v1, the last one in v2."""
        return 0 if self._decoder.attention == "v1" else len(request.images)

    def prefill(self, rows: Sequence[int], width: int) -> tuple[Tensor, list[bool]]:
        """Run the next `width` tokens of the prompts in these rows.

        Returns:
            logits (rows, V) after the last token of each, and whether its prompt is now complete.
        """
        assert self._slots.cache is not None
        device = self._decoder.device
        ids, starts, numbers, last, complete = [], [], [], [], []
        tokens = places = pairs = seeing = images = 0
        for row in rows:
            request = self._slots.rows[row]
            history, start = request.history, request.num_computed_tokens
            chunk = history[start : start + width]
            seen = request.image_numbers + [self.number_seen(request)] * len(request.tokens)
            seen = seen[start : start + width]
            padding = [0] * (width - len(chunk))
            ids.append(chunk + padding)
            numbers.append(seen + padding)
            starts.append(start)
            last.append(len(chunk) - 1)
            request.num_computed_tokens += len(chunk)
            complete.append(request.num_computed_tokens == len(history))
            tokens += len(chunk)
            pairs += len(chunk) * start + len(chunk) * (len(chunk) + 1) // 2
            places += request.num_computed_tokens
            seeing += len(seen) - seen.count(0)
            images += len({*seen} - {0})
        self._metrics.prefilled += tokens
        self._metrics.padded += len(rows) * width - tokens
        self._metrics.count_call(
            "prefill", self._cost, answers=len(rows), tokens=tokens, places=places, pairs=pairs, seeing=seeing,
            images=images,
        )  # fmt: skip
        positions = torch.tensor(starts)[:, None] + torch.arange(width)
        clamped = positions.clamp(max=self._slots.cache.capacity - 1)
        logits = self._decoder.prefill(
            upload(ids, device),
            upload(clamped, device),
            upload(last, device),
            self._slots.cache,
            upload(list(rows), device),
            int(clamped.max()) + 1,
            upload(numbers, device),
            [self._slots.rows[row].image_kvs for row in rows],
        )
        return logits, complete

    def decode(self) -> tuple[Tensor, StaticStep | None]:
        """Run one token for each decoding row.

        Returns:
            logits (rows, V), and the recorded step if it already knows the likeliest tokens.
        """
        requests = self._slots.rows[: self._slots.decoding]
        result = self._step(requests)
        for request in requests:
            request.num_computed_tokens += 1
        count = len(requests)
        self._metrics.steps += 1
        self._metrics.occupied += count
        self._metrics.offered += self._slots.count
        places = sum(request.num_computed_tokens for request in requests)
        seeing = sum(self.number_seen(request) > 0 for request in requests) if self._slots.sees_images else 0
        shared = [request.num_shared_tokens for request in requests]
        self._metrics.count_call(
            "decode", self._cost, answers=count, tokens=count, places=places, pairs=places, seeing=seeing,
            images=seeing, repeated=sum(shared) - max(shared),
        )  # fmt: skip
        return result

    def _step(self, requests: Sequence[Request]) -> tuple[Tensor, StaticStep | None]:
        slots = self._slots
        assert slots.cache is not None
        ids = [request.tokens[-1] for request in requests]
        if self.uses_graphs:
            if self.static is None:
                self.static = StaticStep(
                    self._decoder, slots.cache, slots.images, slots=slots.count, image_id=self._image_id
                )
            positions = [request.num_computed_tokens for request in slots.rows]
            return self.static.run(ids, positions, slots.sees_images), self.static
        device, lengths = self._decoder.device, [request.num_computed_tokens for request in requests]
        images = slots.visible_images(self._decoder.step_rows(len(ids)))
        shared = upload([request.num_shared_tokens for request in requests], device) if slots.has_shared_row else None
        logits = self._decoder.step(
            upload(ids, device), upload(lengths, device), slots.cache, max(lengths) + 1, images, shared
        )
        return logits, None
