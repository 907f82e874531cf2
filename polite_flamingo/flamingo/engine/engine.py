"""Continuous batching for Flamingo: many requests over a fixed number of slots, each leaving when it is done.

A request is a tokenised prompt and its images. Slots are rows of one static key/value cache; slots that fall free take
the next requests, so that nobody waits for the longest answer of a batch. Prompts are run in chunks between the steps
of decoding. What is shared is done once: an image's encoding and its keys and values in every cross-attention layer
(`image_cache.py`), and the keys and values of prompt beginnings: the system message that all prompts share, or the
message up to the images where several questions are asked about the same ones.

Greedy texts depend neither on the order of arrival nor on the number of slots, but for rounding; drawn ones hang on
their own seed (`sampling.py`). A request that fails alone comes back with its `BadSample`. No beam search is done here.

Not thread-safe: one thread submits, steps and cancels.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice

import torch
from torch import Tensor

from polite_flamingo.flamingo.config import EngineConfig
from polite_flamingo.flamingo.engine.cuda_graphs import StaticStep
from polite_flamingo.flamingo.engine.detokenizer import RunningText
from polite_flamingo.flamingo.engine.image_cache import MediaCache, digest, first_broken
from polite_flamingo.flamingo.engine.metrics import Metrics, Work
from polite_flamingo.flamingo.engine.prefix_cache import Prefixes
from polite_flamingo.flamingo.engine.requests import Request, in_good_order
from polite_flamingo.flamingo.engine.sampling import Ngrams, ban, choose, uniforms
from polite_flamingo.flamingo.engine.slots import Slots
from polite_flamingo.flamingo.engine.transfers import upload
from polite_flamingo.flamingo.model.attention import image_numbers
from polite_flamingo.flamingo.model.decoder import Decoder, Media
from polite_flamingo.flamingo.model.model import FlamingoModel
from polite_flamingo.sample import BadSample


class Engine:
    """See the module.

    Attributes:
        config: as given.
        ends: tokens that end a text.
        metrics: since the start.
        media: the images.
    """

    def __init__(
        self,
        model: FlamingoModel,
        config: EngineConfig,
        *,
        ends: Sequence[int],
        shared: Sequence[int] = (),
        decoder: Decoder | None = None,
    ):
        """Make an engine that knows nothing yet.

        Args:
            model: whose weights it reads.
            config: how it uses the machine.
            ends: tokens that end a text.
            shared: the tokens that all prompts begin with, if they do.
            decoder: of the model, where another engine has one: it holds nothing but weights.
        """
        self.config = config
        self.decoder = decoder or Decoder(model)
        self.media = MediaCache(model, self.decoder, config.media_bytes)
        self.metrics = Metrics()
        self._work = Work(self.decoder, model.latents_shape[0])
        self._tokenizer = model.tokenizer
        self._image_id = model.tokenizer.image_id
        self.ends = frozenset(ends)
        self._waiting: deque[Request] = deque()
        self._slots = Slots(self.decoder, config.slots)
        self._prefixes = Prefixes(config.prefixes, shared=shared, image_id=self._image_id)
        self._records = config.cuda_graphs and self.decoder.device.type == "cuda"
        self._static: StaticStep | None = None
        """Of the cache and the images' buffers in use, made at their first step."""

    def generate(self, requests: Iterable[Request]) -> None:
        """Do these requests, in the order that suits; afterwards each is done.

        What a step raises goes on to the caller, and nothing of these requests stays behind.
        """
        pending = list(requests)
        for request in in_good_order(pending):
            self.submit(request)
        try:
            while not all(request.done for request in pending):
                self.step()
        except BaseException:
            self.abandon()
            raise

    def submit(self, request: Request) -> None:
        """Queue a request."""
        room = self.decoder.positions - len(request.ids)
        if room < 1 or not request.ids:
            detail = f"{len(request.ids)} prompt tokens; the model has {self.decoder.positions} positions"
            self._finish(request, "error", BadSample("text_too_long", detail))
            return
        tags = request.ids.count(self._image_id)
        if tags != len(request.images):
            detail = f"the prompt shows {tags} images, {len(request.images)} are given"
            self._finish(request, "error", BadSample("bad_field", detail))
            return
        request.digests = tuple(map(digest, request.images))
        is_image = torch.tensor([request.ids]) == self._image_id
        request.numbers = image_numbers(is_image, self.decoder.attention)[0].tolist()
        if request.decoding.temperature > 0:
            request.draws = uniforms(request.decoding.seed, request.decoding.max_new_tokens).tolist()
        if request.decoding.stop or request.follow:
            request.running = RunningText(self._tokenizer.decode, request.decoding.stop)
        self._waiting.append(request)

    @torch.inference_mode()
    def cancel(self, request: Request) -> None:
        """Give its slot to others; what it has so far stays with it."""
        if request.done:
            return
        if request in self._waiting:
            self._waiting.remove(request)
        elif request in self._slots.rows:
            self._slots.free(self._slots.rows.index(request))
        self.metrics.cancelled += 1
        self._finish(request, "cancelled")

    def abandon(self) -> None:
        """Cancel everything, whatever state a failed step has left; the images stay."""
        for request in (*self._slots.rows, *self._waiting):
            if not request.done:
                self._finish(request, "cancelled")
        self._waiting.clear()
        self._restart([])

    @property
    def slots(self) -> int:
        """How many there are; fewer than configured where the memory did not hold them."""
        return self._slots.count

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._waiting and not self._slots.rows

    @torch.inference_mode()
    def step(self) -> list[Request]:
        """Admit, run a piece of prompts, decode one token a row; return the requests that got a token or ended."""
        started, told = time.perf_counter(), sum(self.metrics.seconds.values())
        touched: list[Request] = []
        free, waiting, too_much = self.slots - len(self._slots.rows), len(self._waiting), False
        try:
            self._admit(touched)
            free, waiting = self.slots - len(self._slots.rows), len(self._waiting)
            touched += self._prefill()
            touched += self._decode()
        except torch.OutOfMemoryError:
            too_much = True  # handled outside, where the traceback no longer holds the tensors
        slots = self.slots
        if too_much:
            touched += self._halve()
        self.metrics.count_step(time.perf_counter() - started, told, slots=slots, free=free, waiting=waiting)
        return touched

    # Admission

    def _admit(self, touched: list[Request]) -> None:
        """Give free slots to requests that wait; those whose images are broken end here, and are touched."""
        free = self.slots - len(self._slots.rows)
        if self._slots.decoding and free < min(len(self._waiting), self.slots // self.config.refills):
            return
        while self._waiting and len(self._slots.rows) < self.slots:
            free = self.slots - len(self._slots.rows)
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), free))]
            try:
                self._place(batch, touched)
            except BaseException:  # they wait again, for a step with more memory or to be cancelled
                self._waiting.extendleft(one for one in reversed(batch) if not one.done and one not in self._slots.rows)
                raise

    def _place(self, batch: Sequence[Request], touched: list[Request]) -> None:
        started = time.perf_counter()
        wanted = {name: data for r in batch for name, data in zip(r.digests, r.images, strict=True)}
        found = self.media.get(wanted)
        self.metrics.images += sum(len(request.images) for request in batch)
        self.metrics.encoded = self.media.misses
        self.metrics.seconds["images"] += time.perf_counter() - started
        good = []
        for request in batch:
            media = [found[name] for name in request.digests]
            bad = first_broken(media)
            if bad is None:
                request.media = [one for one in media if isinstance(one, Media)]
                if request.ngrams is None and (size := request.decoding.no_repeat_ngram_size):
                    request.ngrams = Ngrams(size, request.ids)
                good.append(request)
            else:
                self._finish(request, "error", bad)
                touched.append(request)
        if good:
            if self._slots.make_room(good, self._waiting):
                self._static = None
            for request in good:
                request.ready = self._prefixes.reuse(request, len(self._slots.rows), self._slots)
                self.metrics.reused += request.ready
                self._slots.rows.append(request)

    # Prompts

    def _prefill(self) -> list[Request]:
        rows = range(self._slots.decoding, len(self._slots.rows))
        if not rows:
            return []
        started = time.perf_counter()
        # as many rows as the budget holds at the length of the longest of them
        chosen: list[int] = []
        longest = 0
        for row in rows:
            left = min(len(self._slots.rows[row].history) - self._slots.rows[row].ready, self.config.prefill_tokens)
            if chosen and max(longest, left) * (len(chosen) + 1) > self.config.prefill_tokens:
                break
            chosen.append(row)
            longest = max(longest, left)
        logits, complete = self._run_chunks(chosen, longest)
        self.metrics.seconds["prefill"] += time.perf_counter() - started
        touched = []
        finished = [row for row, whole in zip(chosen, complete, strict=True) if whole]
        if finished:
            picked = [number for number, whole in enumerate(complete) if whole]
            requests = [self._slots.rows[row] for row in finished]
            self._slots.bring_forward(finished)
            touched = self._take(requests, logits[picked], first=self._slots.decoding)
        return touched

    def _run_chunks(self, chosen: list[int], width: int) -> tuple[Tensor, list[bool]]:
        assert self._slots.cache is not None
        device = self.decoder.device
        ids, positions, numbers, last, complete = [], [], [], [], []
        tokens = places_seen = pairs = seeing = images = 0
        for row in chosen:
            request = self._slots.rows[row]
            history = request.history
            chunk = history[request.ready : request.ready + width]
            seen = (request.numbers + [self._number_of_new(request)] * len(request.tokens))[
                request.ready : request.ready + width
            ]
            ids.append(chunk + [0] * (width - len(chunk)))
            numbers.append(seen + [0] * (width - len(chunk)))
            positions.append(range(request.ready, request.ready + width))
            last.append(len(chunk) - 1)
            complete.append(request.ready + len(chunk) == len(history))
            tokens += len(chunk)
            pairs += len(chunk) * request.ready + len(chunk) * (len(chunk) + 1) // 2
            request.ready += len(chunk)
            places_seen += request.ready
            seeing += len(seen) - seen.count(0)
            images += len({*seen} - {0})
        self.metrics.prefilled += tokens
        self.metrics.padded += len(chosen) * width - tokens
        self.metrics.count_call(
            "prefill", self._work, answers=len(chosen), tokens=tokens, places=places_seen, pairs=pairs, seeing=seeing,
            images=images,
        )  # fmt: skip
        capacity = self._slots.cache.capacity
        places = torch.tensor([list(row) for row in positions]).clamp(max=capacity - 1)
        logits = self.decoder.prefill(
            upload(ids, device),
            upload(places, device),
            upload(last, device),
            self._slots.cache,
            upload(chosen, device),
            int(places.max()) + 1,
            upload(numbers, device),
            [self._slots.rows[row].media for row in chosen],
        )
        return logits, complete

    def _number_of_new(self, request: Request) -> int:
        """The image that generated tokens see: none in v1, the last in v2."""
        return 0 if self.decoder.attention == "v1" else len(request.images)

    def _take(self, requests: Sequence[Request], logits: Tensor, first: int) -> list[Request]:
        """Rows from `first` on have run their prompts: choose their first tokens, and let them decode."""
        for row, request in enumerate(requests, start=first):
            self._prefixes.keep(request, row, self._slots, islice(self._waiting, 4 * self.slots))
            visible = self._number_of_new(request)
            self._slots.show(row, request.media[visible - 1] if visible else None)
        self._slots.decoding += len(requests)
        return self._choose("prefill", list(range(first, first + len(requests))), logits)

    # Decoding

    def _decode(self) -> list[Request]:
        count = self._slots.decoding
        if not count:
            return []
        assert self._slots.cache is not None
        started = time.perf_counter()
        requests = self._slots.rows[:count]
        logits, static = self._run_step(requests)
        for request in requests:
            request.ready += 1
        self.metrics.steps += 1
        self.metrics.occupied += count
        self.metrics.offered += self.slots
        places = sum(request.ready for request in requests)
        seeing = 0 if self._slots.blind else sum(self._number_of_new(request) > 0 for request in requests)
        shared = [request.shared for request in requests]
        self.metrics.count_call(
            "decode", self._work, answers=count, tokens=count, places=places, pairs=places, seeing=seeing,
            images=seeing, repeated=sum(shared) - max(shared),
        )  # fmt: skip
        self.metrics.seconds["decode"] += time.perf_counter() - started
        return self._choose("decode", list(range(count)), logits, static)

    def _run_step(self, requests: Sequence[Request]) -> tuple[Tensor, StaticStep | None]:
        """Logits of the rows that decode, and what knows the likeliest tokens already, if anything does."""
        assert self._slots.cache is not None
        ids = [request.tokens[-1] for request in requests]
        if self._records:
            if self._static is None:
                self._static = StaticStep(
                    self.decoder, self._slots.cache, self._slots.shown, slots=self.slots, image_id=self._image_id
                )
            positions = [request.ready for request in self._slots.rows]
            return self._static.run(ids, positions, not self._slots.blind), self._static
        lengths = [request.ready for request in requests]
        shown = self._slots.seen(self.decoder.step_rows(len(ids)))
        device = self.decoder.device
        shared = upload([request.shared for request in requests], device) if self._slots.sharing else None
        positions = upload(lengths, device)
        logits = self.decoder.step(upload(ids, device), positions, self._slots.cache, max(lengths) + 1, shown, shared)
        return logits, None

    def _choose(self, cause: str, rows: list[int], logits: Tensor, static: StaticStep | None = None) -> list[Request]:
        """Append a token to each of these rows; free those that end with it. Waiting for the logits is the cause's."""
        started = time.perf_counter()
        requests = [self._slots.rows[row] for row in rows]
        decodings = [request.decoding for request in requests]
        if static is not None and not any(one.temperature > 0 or one.no_repeat_ngram_size for one in decodings):
            chosen = time.perf_counter()
            tokens = static.likeliest()
        else:
            # no answer ever contains an image, and in v2 one would blind the others
            logits[:, self._image_id] = -torch.inf
            ban(logits, [request.ngrams for request in requests])
            draws = [request.draws[len(request.tokens)] if request.draws else 0.0 for request in requests]
            found = choose(logits, decodings, draws)
            chosen = time.perf_counter()
            tokens = found.tolist()
        self.metrics.generated += len(tokens)
        self.metrics.seconds["choose"] += chosen - started
        self.metrics.seconds[cause] += time.perf_counter() - chosen
        ended = []
        for row, request, token in zip(rows, requests, tokens, strict=True):
            if token in self.ends:
                self._finish(request, "stop")
            else:
                request.tokens.append(token)
                if request.ngrams is not None:
                    request.ngrams.add(token)
                if self._stops(request, token):
                    self._finish(request, "stop")
                elif len(request.tokens) >= min(
                    request.decoding.max_new_tokens, self.decoder.positions - len(request.ids)
                ):
                    self._finish(request, "length")
            if request.done:
                ended.append(row)
        for row in reversed(ended):
            self._slots.free(row)
        return requests

    @staticmethod
    def _stops(request: Request, token: int) -> bool:
        """Whether a stop text is complete with this token."""
        if request.running is None:
            return False
        stopped = request.running.add(token)
        request.text = request.running.text
        return stopped

    def _halve(self) -> list[Request]:
        """The memory does not hold what is going on: begin again with half the slots; a request alone fails.

        It was too much by itself, so those behind it get all slots again.
        """
        if self.decoder.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.slots > 1:
            self._slots.count = max(1, (len(self._slots.rows) or self.slots) // 2)
            self._restart(self._slots.rows)
            return []
        self._restart(self._slots.rows)
        failed = self._waiting.popleft()
        detail = f"{len(failed.ids)} prompt tokens do not fit the memory of {self.decoder.device} alone"
        self._finish(failed, "error", BadSample("rewriting_failed", detail))
        self._slots.count = self.config.slots
        return [failed]

    def _restart(self, requests: Sequence[Request]) -> None:
        for request in requests:
            request.ready = request.shared = 0
        self._waiting.extendleft(reversed(requests))
        self._slots.clear()
        self._static = None
        self._prefixes.clear()

    def _finish(self, request: Request, why: str, error: BadSample | None = None) -> None:
        if request.running is not None:
            request.text = request.running.end()
        elif request.tokens:
            request.text = self._tokenizer.decode(request.tokens)
        request.done, request.finish, request.error = True, why, error
        request.media, request.running, request.ngrams = [], None, None
