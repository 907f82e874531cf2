"""Beam search, which the engine does not do: transformers' batched `generate` over open_flamingo, on the same requests.

It is far slower: a batch waits for its longest answer, and open_flamingo projects the images' latents again at every
token. Each image is encoded once per call. With one beam this is plain `generate`, which gives the same greedy texts as
the engine.

Prompts of similar length are decoded together, so a text may depend on its batch: through rounding, and through the
batch's seed if beams are sampled. The same list of requests gives the same texts. Stop strings are ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from polite_flamingo.flamingo.config import GenerationConfig
from polite_flamingo.flamingo.engine.image_cache import EncodedImages, digest, encode, first_broken
from polite_flamingo.flamingo.engine.requests import Request
from polite_flamingo.flamingo.engine.sampling import seed_of
from polite_flamingo.sample import BadSample

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel


class BeamSearch:
    """Continues requests by beam search, with the same `generate` as `Engine`."""

    def __init__(
        self, model: FlamingoModel, generation: GenerationConfig, *, stop_token_ids: Sequence[int], batch: int
    ):
        """Args: stop_token_ids: tokens that end a text. batch: prompts decoded together."""
        self._model, self._generation, self._batch = model, generation, batch
        self._stop_token_ids = list(stop_token_ids)
        weight = model.lang_encoder.get_input_embeddings().weight
        self._device, self._dtype = weight.device, weight.dtype

    def generate(self, requests: Iterable[Request]) -> None:
        """Run these requests until each is done. Of a request's `params` only the seed is used."""
        requests = list(requests)
        for request in requests:
            request.digests = tuple(map(digest, request.images))
        wanted = {name: data for r in requests for name, data in zip(r.digests, r.images, strict=True)}
        latents = EncodedImages(self._encode, max_bytes=0).get(wanted)
        ready = []
        for request in requests:
            if (bad := first_broken(latents[name] for name in request.digests)) is None:
                ready.append(request)
            else:
                request.end("error", bad)
        ready.sort(key=lambda request: (len(request.ids), request.params.seed))
        for start in range(0, len(ready), self._batch):
            self._decode(ready[start : start + self._batch], latents)

    def _encode(self, encoded: Mapping[str, bytes]) -> dict[str, Tensor | BadSample]:
        latents, broken = encode(self._model, encoded)
        return {**latents, **broken}

    def _decode(self, batch: list[Request], latents: Mapping[str, Tensor | BadSample]) -> None:
        """Decode a batch; split it in half if it does not fit in memory."""
        try:
            for request, tokens in zip(batch, self._run(batch, latents), strict=True):
                request.tokens, request.text = tokens, self._model.tokenizer.decode(tokens)
                request.end("stop" if len(tokens) < self._generation.max_new_tokens else "length")
            return
        except torch.OutOfMemoryError:
            pass  # handled below, where the traceback no longer holds the tensors
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        if len(batch) == 1:
            detail = f"{len(batch[0].ids)} prompt tokens do not fit in the memory of {self._device} even alone"
            batch[0].end("error", BadSample("rewriting_failed", detail))
            return
        half = len(batch) // 2
        self._decode(batch[:half], latents)
        self._decode(batch[half:], latents)

    def _run(self, batch: list[Request], latents: Mapping[str, Tensor | BadSample]) -> list[list[int]]:
        """Return the tokens of each row, up to its end token."""
        tokenizer = self._model.tokenizer
        width = max(len(request.ids) for request in batch)
        ids_BT = torch.full((len(batch), width), tokenizer.pad_id)
        mask_BT = torch.zeros_like(ids_BT)
        slots = max(1, *(len(request.digests) for request in batch), 1)
        # Slots without a tag are never attended. So zeros can stand for them, and for the black image that the
        # reference shows with text-only prompts: the text is the same to the last bit.
        vision = torch.zeros(len(batch), slots, *self._model.latents_shape, dtype=self._dtype, device=self._device)
        for row, request in enumerate(batch):
            ids_BT[row, width - len(request.ids) :] = torch.tensor(request.ids)
            mask_BT[row, width - len(request.ids) :] = 1
            for slot, name in enumerate(request.digests):
                vision[row, slot] = latents[name]
        with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []):
            torch.manual_seed(seed_of(self._generation.seed, *(str(request.params.seed) for request in batch)))
            out_BT = self._model.generate(
                vision,
                ids_BT.to(self._device),
                mask_BT.to(self._device),
                eos_token_id=self._stop_token_ids,
                pad_token_id=tokenizer.pad_id,
                # A generated <image> would change what all rows see (v2); an answer never contains one.
                suppress_tokens=[tokenizer.image_id],
                **arguments(self._generation),
            )
        return [self._until_end(row) for row in out_BT[:, width:].tolist()]

    def _until_end(self, ids: list[int]) -> list[int]:
        return ids[: next((place for place, token in enumerate(ids) if token in self._stop_token_ids), len(ids))]


def arguments(generation: GenerationConfig) -> dict[str, Any]:
    """Convert to arguments of transformers' `generate`."""
    names = ["max_new_tokens", "no_repeat_ngram_size", "num_beams", "do_sample"]
    if generation.num_beams > 1:
        names.append("length_penalty")
    if generation.do_sample:
        names += ["temperature", "top_k", "top_p"]
    return {name: getattr(generation, name) for name in names}
