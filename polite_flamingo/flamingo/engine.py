"""Continuous batching for Flamingo: many requests over a fixed number of slots, each leaving when it is done.

A request is a tokenised prompt and its images. Slots are rows of one static key/value cache; slots that fall free take
the next requests, so that nobody waits for the longest answer of a batch. Prompts are run in chunks between the steps
of decoding. What is shared is done once: an image's encoding and its keys and values in every cross-attention layer
(`media.py`), and the keys and values of prompt beginnings, be it the system message that all prompts begin with or the
message up to the images where several questions are asked of the same ones.

Greedy texts depend neither on the order of arrival nor on the number of slots, but for rounding; drawn ones hang on
their own seed (`sampling.py`). A request that fails alone comes back with its `BadSample`. No beam search is done here.

Not thread-safe: one thread submits, steps and cancels.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from polite_flamingo.flamingo.attention import image_numbers
from polite_flamingo.flamingo.config import EngineConfig
from polite_flamingo.flamingo.decoder import Cache, Decoder, Media
from polite_flamingo.flamingo.graphs import StaticStep
from polite_flamingo.flamingo.media import MediaCache, digest
from polite_flamingo.flamingo.metrics import Metrics, Work
from polite_flamingo.flamingo.model import FlamingoModel
from polite_flamingo.flamingo.running_text import RunningText
from polite_flamingo.flamingo.sampling import Decoding, Ngrams, ban, choose, uniforms
from polite_flamingo.flamingo.transfers import upload
from polite_flamingo.sample import BadSample

_ROUND = 64
"""Positions by which a cache grows."""


@dataclass(eq=False, kw_only=True)
class Request:
    """A prompt to be continued, and what has come of it.

    Attributes:
        ids: of the prompt, one image tag an image.
        images: encoded bytes, in the order of the tags.
        decoding: how to continue.
        tokens: the continuation so far, without its end token; a stop text's tokens are among them.
        text: of the continuation, a stop text and what follows it cut off; while it grows only with `follow`.
        follow: keep `text` up to date with every token, as far as no later one changes it.
        done: nothing more will come.
        error: why nothing more will come, where it failed.
        finish: "stop", "length", "cancelled" or "error".
    """

    ids: list[int]
    images: Sequence[bytes] = ()
    decoding: Decoding = field(default_factory=Decoding)
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    follow: bool = False
    done: bool = False
    error: BadSample | None = None
    finish: str = ""
    digests: tuple[str, ...] = ()
    numbers: list[int] = field(default_factory=list)
    media: list[Media] = field(default_factory=list)
    draws: Sequence[float] = ()
    running: RunningText | None = None
    ngrams: Ngrams | None = None
    ready: int = 0
    """Prompt (and, after an eviction, text) tokens whose keys and values are in the cache."""
    shared: int = 0
    """The first of them that decoding reads in the cache's shared row."""

    @property
    def history(self) -> list[int]:
        """Prompt and continuation."""
        return self.ids + self.tokens


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
        self.slots = config.slots
        self._tokenizer = model.tokenizer
        self._image_id = model.tokenizer.image_id
        self.ends = frozenset(ends)
        self._shared = list(shared)
        self._waiting: deque[Request] = deque()
        self._rows: list[Request] = []
        """In the order of the cache's rows: those that decode, then those whose prompt is still being run."""
        self._decoding = 0
        self._cache: Cache | None = None
        self._shown: tuple[Tensor, Tensor, Tensor] | None = None
        """Keys and values (layers, S, H, N, E) of the image that each row sees while decoding, and whether it does."""
        self._prefixes: OrderedDict[tuple[tuple[int, ...], tuple[str, ...]], Tensor] = OrderedDict()
        self._blind = True
        """Whether no decoding row sees an image: v1 never does."""
        self._sharing = False
        """Whether the cache's last row holds the shared tokens: read in one place, they stay in the CPU's own cache."""
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
        elif request in self._rows:
            self._free(self._rows.index(request))
        self._finish(request, "cancelled")

    def abandon(self) -> None:
        """Cancel everything, whatever state a failed step has left; the images stay."""
        for request in (*self._rows, *self._waiting):
            if not request.done:
                self._finish(request, "cancelled")
        self._waiting.clear()
        self._restart([])

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._waiting and not self._rows

    @torch.inference_mode()
    def step(self) -> list[Request]:
        """Admit, run a piece of prompts, decode one token a row; return the requests that got a token or ended."""
        started, told = time.perf_counter(), sum(self.metrics.seconds.values())
        touched: list[Request] = []
        free, waiting, too_much = self.slots - len(self._rows), len(self._waiting), False
        try:
            self._admit(touched)
            free, waiting = self.slots - len(self._rows), len(self._waiting)
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
        free = self.slots - len(self._rows)
        if self._decoding and free < min(len(self._waiting), self.slots // self.config.refills):
            return
        while self._waiting and len(self._rows) < self.slots:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self.slots - len(self._rows)))]
            try:
                self._place(batch, touched)
            except BaseException:  # they wait again, for a step with more memory or to be cancelled
                self._waiting.extendleft(one for one in reversed(batch) if not one.done and one not in self._rows)
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
            bad = next((one for one in media if isinstance(one, BadSample)), None)
            if bad is None:
                request.media = [one for one in media if isinstance(one, Media)]
                if request.ngrams is None and (size := request.decoding.no_repeat_ngram_size):
                    request.ngrams = Ngrams(size, request.ids)
                good.append(request)
            else:
                self._finish(request, "error", bad)
                touched.append(request)
        if good:
            self._make_room(good)
            for request in good:
                self._reuse(request, len(self._rows))
                self._rows.append(request)

    def _make_room(self, requests: Sequence[Request]) -> None:
        """Let the cache hold these too. While it grows there are two of it; so it grows at once for all that wait."""
        needed, old = self._positions(requests), self._cache
        if old is None or old.capacity < needed:
            self._static = None
            needed = max(needed, self._positions(self._waiting))
            self._cache = self.decoder.new_cache(self.slots + (1 if self.decoder.compiled else 0), needed)
            if old is not None:
                self._cache.data[:, :, :, :, : old.capacity] = old.data
        if self._shown is None and (first := next((r.media[0] for r in requests if r.media), None)) is not None:
            self._static = None
            shape = (first.keys.shape[0], self.slots, *first.keys.shape[1:])
            keys, values = torch.zeros(2, *shape, dtype=first.keys.dtype, device=first.keys.device)
            self._shown = keys, values, torch.zeros(self.slots, 1, 1, dtype=keys.dtype, device=keys.device)

    def _positions(self, requests: Iterable[Request]) -> int:
        """That the longest of them may take, rounded up."""
        longest = max((len(request.ids) + request.decoding.max_new_tokens for request in requests), default=0)
        return min(-(-longest // _ROUND) * _ROUND, self.decoder.positions)

    # Prompts

    def _reuse(self, request: Request, row: int) -> None:
        """Copy the longest kept beginning of its prompt."""
        assert self._cache is not None
        for key in self._prefix_keys(request):
            if key in self._prefixes:
                self._prefixes.move_to_end(key)
                beginning = self._prefixes[key]
                request.ready = beginning.shape[3]
                self._cache.beginning(row, request.ready).copy_(beginning)
                self.metrics.reused += request.ready
                return

    def _prefix_keys(self, request: Request) -> list[tuple[tuple[int, ...], tuple[str, ...]]]:
        """The beginnings worth keeping, the longest first: up to its last image, and the shared tokens."""
        keys: list[tuple[tuple[int, ...], tuple[str, ...]]] = []
        if request.images:
            end = len(request.ids) - request.ids[::-1].index(self._image_id)
            if end < len(request.ids):
                keys.append((tuple(request.ids[:end]), request.digests))
        size = len(self._shared)
        if 0 < size < len(request.ids) and request.ids[:size] == self._shared and not any(request.numbers[:size]):
            keys.append((tuple(self._shared), ()))
        return keys

    def _keep_prefixes(self, request: Request, row: int) -> None:
        assert self._cache is not None
        if not self.config.prefixes:
            return
        for key in self._prefix_keys(request):
            if not key[1] and self.decoder.compiled:
                if not self._sharing:
                    self._cache.beginning(self._cache.rows - 1, len(key[0])).copy_(
                        self._cache.beginning(row, len(key[0]))
                    )
                    self._sharing = True
                request.shared = len(key[0])
            if key not in self._prefixes and (not key[1] or self._awaited(request)):
                self._prefixes[key] = self._cache.beginning(row, len(key[0])).clone()
                if len(self._prefixes) > self.config.prefixes:
                    self._prefixes.popitem(last=False)

    def _awaited(self, request: Request) -> bool:
        """Whether another request of the same images waits near the front of the queue."""
        return any(other.digests == request.digests for other in islice(self._waiting, 4 * self.slots))

    def _prefill(self) -> list[Request]:
        rows = range(self._decoding, len(self._rows))
        if not rows:
            return []
        started = time.perf_counter()
        # as many rows as the budget holds at the length of the longest of them
        chosen: list[int] = []
        longest = 0
        for row in rows:
            left = min(len(self._rows[row].history) - self._rows[row].ready, self.config.prefill_tokens)
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
            requests = [self._rows[row] for row in finished]
            self._bring_forward(finished)
            touched = self._take(requests, logits[picked], first=self._decoding)
        return touched

    def _run_chunks(self, chosen: list[int], width: int) -> tuple[Tensor, list[bool]]:
        assert self._cache is not None
        device = self.decoder.device
        ids, positions, numbers, last, complete = [], [], [], [], []
        tokens = places_seen = pairs = seeing = images = 0
        for row in chosen:
            request = self._rows[row]
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
        capacity = self._cache.capacity
        places = torch.tensor([list(row) for row in positions]).clamp(max=capacity - 1)
        logits = self.decoder.prefill(
            upload(ids, device),
            upload(places, device),
            upload(last, device),
            self._cache,
            upload(chosen, device),
            int(places.max()) + 1,
            upload(numbers, device),
            [self._rows[row].media for row in chosen],
        )
        return logits, complete

    def _number_of_new(self, request: Request) -> int:
        """The image that generated tokens see: none in v1, the last in v2."""
        return 0 if self.decoder.attention == "v1" else len(request.images)

    def _bring_forward(self, finished: Sequence[int]) -> None:
        """Bring the rows that are complete before those that are not; mostly they are there already."""
        target = self._decoding
        for row in finished:
            if row != target:
                self._swap(row, target)
            target += 1

    def _take(self, requests: Sequence[Request], logits: Tensor, first: int) -> list[Request]:
        """Rows from `first` on have run their prompts: choose their first tokens, and let them decode."""
        for row, request in enumerate(requests, start=first):
            self._keep_prefixes(request, row)
            self._show(request, row)
        self._decoding += len(requests)
        return self._choose("prefill", list(range(first, first + len(requests))), logits)

    def _show(self, request: Request, row: int) -> None:
        if self._shown is None:
            return
        keys, values, flags = self._shown
        visible = self._number_of_new(request)
        flags[row] = float(visible > 0)
        if visible:
            keys[:, row] = request.media[visible - 1].keys
            values[:, row] = request.media[visible - 1].values
            self._blind = False

    # Decoding

    def _decode(self) -> list[Request]:
        count = self._decoding
        if not count:
            return []
        assert self._cache is not None
        started = time.perf_counter()
        requests = self._rows[:count]
        logits, static = self._run_step(requests)
        for request in requests:
            request.ready += 1
        self.metrics.steps += 1
        self.metrics.occupied += count
        self.metrics.offered += self.slots
        places = sum(request.ready for request in requests)
        seeing = 0 if self._blind else sum(self._number_of_new(request) > 0 for request in requests)
        shared = [request.shared for request in requests]
        self.metrics.count_call(
            "decode", self._work, answers=count, tokens=count, places=places, pairs=places, seeing=seeing,
            images=seeing, repeated=sum(shared) - max(shared),
        )  # fmt: skip
        self.metrics.seconds["decode"] += time.perf_counter() - started
        return self._choose("decode", list(range(count)), logits, static)

    def _run_step(self, requests: Sequence[Request]) -> tuple[Tensor, StaticStep | None]:
        """Logits of the rows that decode, and what knows the likeliest tokens already, if anything does."""
        assert self._cache is not None
        ids = [request.tokens[-1] for request in requests]
        if self._records:
            if self._static is None:
                self._static = StaticStep(
                    self.decoder, self._cache, self._shown, slots=self.slots, image_id=self._image_id
                )
            return self._static.run(ids, [request.ready for request in self._rows], not self._blind), self._static
        lengths = [request.ready for request in requests]
        shown = None
        if self._shown is not None and not self._blind:
            keys, values, flags = self._shown
            shown = keys[:, : len(ids)], values[:, : len(ids)], flags[: len(ids)]
        device = self.decoder.device
        shared = upload([request.shared for request in requests], device) if self._sharing else None
        positions = upload(lengths, device)
        logits = self.decoder.step(upload(ids, device), positions, self._cache, max(lengths) + 1, shown, shared)
        return logits, None

    def _choose(self, cause: str, rows: list[int], logits: Tensor, static: StaticStep | None = None) -> list[Request]:
        """Append a token to each of these rows; free those that end with it. Waiting for the logits is the cause's."""
        started = time.perf_counter()
        requests = [self._rows[row] for row in rows]
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
            self._free(row)
        return requests

    @staticmethod
    def _stops(request: Request, token: int) -> bool:
        """Whether a stop text is complete with this token."""
        if request.running is None:
            return False
        stopped = request.running.add(token)
        request.text = request.running.text
        return stopped

    # Rows

    def _free(self, row: int) -> None:
        """Close the gap: the last decoding row moves into it, and the last of all behind that."""
        if row < self._decoding:
            self._swap(row, self._decoding - 1)
            row = self._decoding - 1
            self._decoding -= 1
        self._swap(row, len(self._rows) - 1)
        self._rows.pop()
        if not self._decoding:
            self._blind = True

    def _swap(self, row: int, other: int) -> None:
        """Exchange two rows; what the row of a request that is done holds is of no use."""
        if row == other:
            return
        assert self._cache is not None
        first, second = self._rows[row], self._rows[other]
        if not first.done and not second.done:
            self._cache.exchange(row, other, max(first.ready, second.ready))
        elif not second.done:
            self._cache.beginning(row, second.ready).copy_(self._cache.beginning(other, second.ready))
        elif not first.done:
            self._cache.beginning(other, first.ready).copy_(self._cache.beginning(row, first.ready))
        self._rows[row], self._rows[other] = second, first
        if self._shown is not None:
            for part in self._shown[:2]:
                part[:, [row, other]] = part[:, [other, row]]
            flags = self._shown[2]
            flags[[row, other]] = flags[[other, row]]

    def _halve(self) -> list[Request]:
        """The memory does not hold what is going on: begin again with half the slots; a request alone fails.

        It was too much by itself, so those behind it get all slots again.
        """
        if self.decoder.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.slots > 1:
            self.slots = max(1, (len(self._rows) or self.slots) // 2)
            self._restart(self._rows)
            return []
        self._restart(self._rows)
        failed = self._waiting.popleft()
        detail = f"{len(failed.ids)} prompt tokens do not fit the memory of {self.decoder.device} alone"
        self._finish(failed, "error", BadSample("rewriting_failed", detail))
        self.slots = self.config.slots
        return [failed]

    def _restart(self, requests: Sequence[Request]) -> None:
        for request in requests:
            request.ready = request.shared = 0
        self._waiting.extendleft(reversed(requests))
        self._rows, self._decoding, self._cache, self._shown, self._blind = [], 0, None, None, True
        self._static, self._sharing = None, False
        self._prefixes.clear()

    def _finish(self, request: Request, why: str, error: BadSample | None = None) -> None:
        if request.running is not None:
            request.text = request.running.end()
        elif request.tokens:
            request.text = self._tokenizer.decode(request.tokens)
        request.done, request.finish, request.error = True, why, error
        request.media, request.running, request.ngrams = [], None, None


def in_good_order(requests: Sequence[Request]) -> list[Request]:
    """The longest prompts first; of the same images one goes ahead and the others follow soon, to use its beginning.

    Long ones first, so that the cache is made once at its full size and the short ones fill the gaps at the end.
    """
    groups: dict[tuple[bytes, ...] | int, list[Request]] = {}
    for request in sorted(requests, key=lambda request: -len(request.ids)):
        groups.setdefault(tuple(request.images) or id(request), []).append(request)
    ordered: list[Request] = []
    chunk: list[list[Request]] = []
    for group in groups.values():
        chunk.append(group)
        if len(chunk) == 32:
            ordered += _first_then_others(chunk)
            chunk = []
    return ordered + _first_then_others(chunk)


def _first_then_others(groups: Sequence[Sequence[Request]]) -> list[Request]:
    return [group[0] for group in groups] + [request for group in groups for request in group[1:]]
