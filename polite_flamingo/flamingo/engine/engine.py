"""Continuous batching for Flamingo: requests share a fixed number of KV slots, and each leaves when it is done.

A request is a tokenised prompt and its images. When slots become free, the scheduler admits the next requests, so
no request waits for the longest answer of a batch. Prompts run in chunks between decode steps. Shared work is done
once: `image_cache.py` keeps an image's keys and values in every cross-attention layer, `prefix_cache.py` those of
prompt prefixes (the system message, or everything up to the images if several questions are about the same ones).

Greedy texts depend neither on the order of arrival nor on the number of slots, except for rounding. Sampled texts
depend only on their seed (`sampling.py`). A request that fails alone ends with its own `BadSample`. Beam search is in
`beam_search.py`.

Not thread-safe: one thread submits, steps and cancels.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from polite_flamingo.flamingo.config import EngineConfig
from polite_flamingo.flamingo.engine.cuda_graphs import StaticStep
from polite_flamingo.flamingo.engine.detokenizer import Detokenizer
from polite_flamingo.flamingo.engine.image_cache import ImageCache, digest, first_broken
from polite_flamingo.flamingo.engine.metrics import Metrics
from polite_flamingo.flamingo.engine.model_runner import ModelRunner
from polite_flamingo.flamingo.engine.prefix_cache import PrefixCache
from polite_flamingo.flamingo.engine.requests import Request, in_cache_friendly_order
from polite_flamingo.flamingo.engine.sampling import Ngrams, ban, sample_tokens, uniforms
from polite_flamingo.flamingo.engine.scheduler import Scheduler
from polite_flamingo.flamingo.engine.slots import Slots
from polite_flamingo.flamingo.model.attention import image_numbers
from polite_flamingo.flamingo.model.decoder import Decoder
from polite_flamingo.flamingo.model.kv_cache import ImageKV
from polite_flamingo.sample import BadSample

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel


class Engine:
    """Continues requests: submit them, then step until they are done; `generate` does both.

    Attributes:
        config: the configuration as given.
        stop_token_ids: tokens that end a text.
        metrics: counts since the engine was created.
        image_cache: cache of the images' keys and values.
    """

    def __init__(
        self,
        model: FlamingoModel,
        config: EngineConfig,
        *,
        stop_token_ids: Sequence[int],
        shared_prefix_ids: Sequence[int] = (),
        decoder: Decoder | None = None,
    ):
        """Create an engine with empty caches.

        Args:
            model: its weights are shared, not copied.
            config: how to use the machine.
            stop_token_ids: tokens that end a text.
            shared_prefix_ids: tokens that all prompts start with.
            decoder: an existing decoder of the same model; it holds nothing but weights.
        """
        self.config = config
        self.stop_token_ids = frozenset(stop_token_ids)
        self.decoder = decoder or Decoder(model)
        self.metrics = Metrics()
        self.image_cache = ImageCache(model, self.decoder, config.media_bytes)
        self._tokenizer = model.tokenizer
        self._image_id = model.tokenizer.image_id
        self._prefix_cache = PrefixCache(config.prefixes, shared_prefix_ids=shared_prefix_ids, image_id=self._image_id)
        self._slots = Slots(self.decoder, config.slots)
        self._scheduler = Scheduler(self._slots, config)
        self._runner = ModelRunner(
            self.decoder,
            self._slots,
            self.metrics,
            image_id=self._image_id,
            latents=model.latents_shape[0],
            cuda_graphs=config.cuda_graphs,
        )

    def generate(self, requests: Iterable[Request]) -> None:
        """Run these requests until each is done. If a step raises, they are cancelled and the error propagates."""
        pending = list(requests)
        for request in in_cache_friendly_order(pending):
            self.submit(request)
        try:
            while not all(request.done for request in pending):
                self.step()
        except BaseException:
            self.cancel_all()
            raise

    def submit(self, request: Request) -> None:
        """Queue a request. If it is invalid, it ends at once with an error."""
        if not request.ids or len(request.ids) >= self.decoder.positions:
            detail = f"{len(request.ids)} prompt tokens; the model has {self.decoder.positions} positions"
            self._finish(request, "error", BadSample("text_too_long", detail))
            return
        tags = request.ids.count(self._image_id)
        if tags != len(request.images):
            detail = f"the prompt has {tags} image tags, but {len(request.images)} images were given"
            self._finish(request, "error", BadSample("bad_field", detail))
            return
        params = request.params
        request.digests = tuple(map(digest, request.images))
        is_image = torch.tensor([request.ids]) == self._image_id
        request.image_numbers = image_numbers(is_image, self.decoder.attention)[0].tolist()
        if params.temperature > 0:
            request.uniforms = uniforms(params.seed, params.max_new_tokens).tolist()
        if params.stop or request.stream:
            request.detokenizer = Detokenizer(self._tokenizer.decode, params.stop)
        self._scheduler.waiting.append(request)

    @torch.inference_mode()
    def cancel(self, request: Request) -> None:
        """End a request and free its slot; it keeps the tokens it has so far."""
        if request.done:
            return
        self._scheduler.remove(request)
        self.metrics.cancelled += 1
        self._finish(request, "cancelled")

    def cancel_all(self) -> None:
        """Cancel all requests, whatever state a failed step left behind. The image cache is kept."""
        for request in (*self._slots.rows, *self._scheduler.waiting):
            if not request.done:
                self._finish(request, "cancelled")
        self._scheduler.waiting.clear()
        self._preempt([])

    @property
    def slots(self) -> int:
        """Number of slots; fewer than configured if they did not fit in memory."""
        return self._slots.count

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return self._scheduler.idle

    @torch.inference_mode()
    def step(self) -> list[Request]:
        """Admit requests, run one chunk of prompts and one decode step; return requests that got a token or ended."""
        started, counted = time.perf_counter(), sum(self.metrics.seconds.values())
        touched: list[Request] = []
        free, waiting = self._slots.free_count, len(self._scheduler.waiting)
        out_of_memory = False
        try:
            self._admit(touched)
            free, waiting = self._slots.free_count, len(self._scheduler.waiting)
            touched += self._prefill()
            touched += self._decode()
        except torch.OutOfMemoryError:
            out_of_memory = True  # handled below, where the traceback no longer holds the tensors
        slots = self.slots
        if out_of_memory:
            touched += self._halve_slots()
        self.metrics.count_step(time.perf_counter() - started, counted, slots=slots, free=free, waiting=waiting)
        return touched

    # Admission

    def _admit(self, touched: list[Request]) -> None:
        """Give free slots to waiting requests. Requests with broken images end here; they are added to `touched`."""
        if not self._scheduler.ready_to_admit():
            return
        while self._scheduler.waiting and self._slots.free_count:
            with self._scheduler.admitting() as batch:
                good = self._load_images(batch)
                touched += [request for request in batch if request.done]
                if good:
                    self._place(good)

    def _load_images(self, batch: Sequence[Request]) -> list[Request]:
        """Look up or encode the images of these requests; return the requests whose images are sound."""
        started = time.perf_counter()
        wanted = {name: data for r in batch for name, data in zip(r.digests, r.images, strict=True)}
        found = self.image_cache.get(wanted)
        self.metrics.images += sum(len(request.images) for request in batch)
        self.metrics.encoded = self.image_cache.misses
        self.metrics.seconds["images"] += time.perf_counter() - started
        good = []
        for request in batch:
            images = [found[name] for name in request.digests]
            if (bad := first_broken(images)) is not None:
                self._finish(request, "error", bad)
                continue
            request.image_kvs = [one for one in images if isinstance(one, ImageKV)]
            if request.ngrams is None and (size := request.params.no_repeat_ngram_size):
                request.ngrams = Ngrams(size, request.ids)
            good.append(request)
        return good

    def _place(self, requests: Sequence[Request]) -> None:
        """Put requests into rows and load the cached prefixes of their prompts."""
        if self._slots.allocate(requests, self._scheduler.waiting):
            self._runner.static = None
        for request in requests:
            request.num_computed_tokens = self._prefix_cache.load(request, len(self._slots.rows), self._slots)
            self.metrics.reused += request.num_computed_tokens
            self._slots.rows.append(request)

    # Prompts

    def _prefill(self) -> list[Request]:
        rows, width = self._scheduler.prefill_rows()
        if not rows:
            return []
        started = time.perf_counter()
        logits, complete = self._runner.prefill(rows, width)
        self.metrics.seconds["prefill"] += time.perf_counter() - started
        finished = [number for number, whole in enumerate(complete) if whole]
        if not finished:
            return []
        requests = [self._slots.rows[rows[number]] for number in finished]
        first = self._slots.decoding
        self._slots.move_to_front([rows[number] for number in finished])
        for row, request in enumerate(requests, start=first):
            self._prefix_cache.store(request, row, self._slots, self._scheduler.next_waiting())
            number = self._runner.number_seen(request)
            self._slots.show_image(row, request.image_kvs[number - 1] if number else None)
        self._slots.decoding += len(requests)
        return self._sample("prefill", first, logits[finished])

    # Decoding

    def _decode(self) -> list[Request]:
        if not self._slots.decoding:
            return []
        started = time.perf_counter()
        logits, static = self._runner.decode()
        self.metrics.seconds["decode"] += time.perf_counter() - started
        return self._sample("decode", 0, logits, static)

    def _sample(self, cause: str, first: int, logits: Tensor, static: StaticStep | None = None) -> list[Request]:
        """Turn logits into the next token of each row from `first` on; free the slots of requests that end with it.

        Args:
            cause: what the time spent waiting for the logits is counted as.
            first: row of the first logits.
            logits: (rows, V).
            static: a recorded step that already knows the likeliest tokens.
        """
        started = time.perf_counter()
        requests = self._slots.rows[first : first + len(logits)]
        params = [request.params for request in requests]
        if static is not None and not any(one.temperature > 0 or one.no_repeat_ngram_size for one in params):
            launched = time.perf_counter()
            tokens = static.likeliest()
        else:
            # an answer never contains an image; in v2 a generated tag would hide the real images
            logits[:, self._image_id] = -torch.inf
            ban(logits, [request.ngrams for request in requests])
            numbers = [request.uniforms[len(request.tokens)] if request.uniforms else 0.0 for request in requests]
            sampled = sample_tokens(logits, params, numbers)
            launched = time.perf_counter()
            tokens = sampled.tolist()
        self.metrics.generated += len(tokens)
        self.metrics.seconds["choose"] += launched - started
        self.metrics.seconds[cause] += time.perf_counter() - launched
        for request, token in zip(requests, tokens, strict=True):
            self._append(request, token)
        for row in reversed(range(first, first + len(requests))):
            if self._slots.rows[row].done:
                self._slots.free(row)
        return requests

    def _append(self, request: Request, token: int) -> None:
        """Add a token to a request, and end the request if this token ends it."""
        if token in self.stop_token_ids:
            self._finish(request, "stop")
            return
        request.tokens.append(token)
        if request.ngrams is not None:
            request.ngrams.add(token)
        if request.detokenizer is not None:
            stopped = request.detokenizer.add(token)
            request.text = request.detokenizer.text
            if stopped:
                self._finish(request, "stop")
                return
        if len(request.tokens) >= min(request.params.max_new_tokens, self.decoder.positions - len(request.ids)):
            self._finish(request, "length")

    def _finish(self, request: Request, finish_reason: str, error: BadSample | None = None) -> None:
        if request.detokenizer is not None:
            request.text = request.detokenizer.end()
        elif request.tokens:
            request.text = self._tokenizer.decode(request.tokens)
        request.end(finish_reason, error)

    # Out of memory

    def _halve_slots(self) -> list[Request]:
        """Restart with half the slots. If a single request does not fit, it fails and all slots are restored."""
        if self.decoder.device.type == "cuda":
            torch.cuda.empty_cache()
        running = list(self._slots.rows)
        alone = self.slots == 1
        if not alone:
            self._slots.count = max(1, (len(running) or self.slots) // 2)
        self._preempt(running)
        if not alone:
            return []
        failed = self._scheduler.waiting.popleft()
        detail = f"{len(failed.ids)} prompt tokens do not fit in the memory of {self.decoder.device} even alone"
        self._finish(failed, "error", BadSample("rewriting_failed", detail))
        self._slots.count = self.config.slots
        return [failed]

    def _preempt(self, requests: Sequence[Request]) -> None:
        self._scheduler.preempt_all(requests)
        self._runner.static = None
        self._prefix_cache.clear()
