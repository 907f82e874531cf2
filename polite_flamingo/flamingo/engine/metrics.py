"""Engine metrics: what the engine did, how fast, how close to the machine's limits, and where time and slots were lost.

Counting costs a few additions per step. Bytes and operations are what the work requires, computed from the sizes of the
model and of each call: all weights once per call; the keys and values that a token may see, those of its row and of its
image; two operations per weight and token, plus attention. Overhead (padding, masked positions that are read anyway,
repeated reads) is not counted, so it shows as low utilisation. Encoding images counts only in `seconds`.

On a GPU a phase ends when the host waits for its result. Chunks of unfinished prompts are therefore waited for together
with the next decode step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields

from polite_flamingo.flamingo.engine.roofline import Ceilings
from polite_flamingo.flamingo.model.decoder import Decoder
from polite_flamingo.flamingo.model.layers import Linear

CAUSES = ("images", "prefill", "decode", "choose", "host")
"""Where the seconds of `Engine.step` go: encoding images; prefill; decode steps; sampling tokens from logits; the rest
(admission, copies of prefixes, stop strings, moving rows)."""


class CallCost:
    """Bytes and operations that a call of the language model needs, from the model's sizes.

    Attributes:
        weights: bytes that every call reads.
        cross_weights: further bytes, if any token sees an image.
        place: bytes of one position's keys and values, all layers.
        image: bytes of one image's keys and values, all layers.
    """

    def __init__(self, decoder: Decoder, latents: int):
        """Args: latents: number of latents per image."""
        size, crosses = decoder.embedding.element_size(), [cross for cross in decoder.crosses if cross is not None]
        last = decoder.layers[-1]
        answers = sum(map(_numbers, (last.out, last.up, last.down)))  # only one token of a prompt passes through these
        layers = sum(sum(map(_numbers, (layer.qkv, layer.out, layer.up, layer.down))) for layer in decoder.layers)
        always = sum(_numbers(cross.ff_up) + _numbers(cross.ff_down) for cross in crosses)
        seeing = sum(_numbers(cross.to_q) + _numbers(cross.to_out) for cross in crosses)
        self.weights: int = size * (layers + always + decoder.head.numel())
        self.cross_weights: int = size * seeing
        self.place: int = size * 2 * len(decoder.layers) * decoder.kv_heads * decoder.width
        inner = sum(cross.to_q.weight.shape[0] for cross in crosses)
        self.image: int = size * 2 * latents * inner
        self._token = 2 * (layers + always - answers)
        self._answer = 2 * (answers + decoder.head.numel())
        self._pair = 4 * decoder.heads * decoder.width
        self._inner_layers = len(decoder.layers) - 1
        self._seeing_token = 2 * seeing + 4 * latents * inner

    def bytes(self, *, places: int, seeing: int, images: int) -> int:
        """Count the bytes to read. Args: as in `flops`; images: number of images that are seen."""
        return self.weights + bool(seeing) * self.cross_weights + places * self.place + images * self.image

    def flops(self, *, answers: int, tokens: int, places: int, pairs: int, seeing: int) -> int:
        """Count the floating-point operations; a multiplication and its addition are two.

        Args:
            answers: tokens that get logits, one per row.
            tokens: tokens that run.
            places: positions seen by the last token of each row, summed.
            pairs: positions seen by each token, summed.
            seeing: tokens that see an image.
        """
        attended = pairs * self._inner_layers + places
        return tokens * self._token + answers * self._answer + attended * self._pair + seeing * self._seeing_token


def _numbers(linear: Linear) -> int:
    return int(linear.weight.numel()) + sum(a.numel() + b.numel() for _, _, a, b, _ in linear.loras)


def _by_cause() -> dict[str, float]:
    return dict.fromkeys(CAUSES, 0.0)


@dataclass
class Metrics:
    """Counts since the engine was made; `summary` turns them into rates. May be read while another thread counts.

    Attributes:
        prefilled: prompt tokens that ran.
        padded: padding tokens that ran with them.
        reused: prompt tokens taken from the prefix cache instead.
        generated: tokens sampled.
        cancelled: requests that were cancelled.
        steps: decode steps.
        occupied: decoding slots, summed over the steps.
        offered: all slots, summed over the steps.
        images: images in all requests.
        encoded: images that were not in the image cache.
        seconds: time by cause (`CAUSES`).
        bytes: bytes to read, in prefill and in decode.
        flops: floating-point operations to compute, in prefill and in decode.
        slot_seconds: duration of the steps times the number of slots.
        held_back: slot seconds in which a slot stayed free although a request waited, because free slots are filled in
            groups (`EngineConfig.refills`).
        unwanted: slot seconds in which a slot stayed free because no request waited.
    """

    prefilled: int = 0
    padded: int = 0
    reused: int = 0
    generated: int = 0
    cancelled: int = 0
    steps: int = 0
    occupied: int = 0
    offered: int = 0
    images: int = 0
    encoded: int = 0
    seconds: dict[str, float] = field(default_factory=_by_cause)
    bytes: dict[str, float] = field(default_factory=_by_cause)
    flops: dict[str, float] = field(default_factory=_by_cause)
    slot_seconds: float = 0.0
    held_back: float = 0.0
    unwanted: float = 0.0

    def count_call(
        self,
        cause: str,
        cost: CallCost,
        *,
        answers: int,
        tokens: int,
        places: int,
        pairs: int,
        seeing: int,
        images: int,
        repeated: int = 0,
    ) -> None:
        """Count a call of the language model; arguments as in `CallCost`. `repeated`: positions that rows share."""
        self.bytes[cause] += cost.bytes(places=places - repeated, seeing=seeing, images=images)
        self.flops[cause] += cost.flops(answers=answers, tokens=tokens, places=places, pairs=pairs, seeing=seeing)

    def count_step(self, seconds: float, counted: float, *, slots: int, free: int, waiting: int) -> None:
        """Count a step of the engine.

        Args:
            seconds: duration of the step.
            counted: sum of `self.seconds` when it began.
            slots: number of slots.
            free: slots that were free during the step.
            waiting: requests that waited meanwhile.
        """
        self.seconds["host"] += max(0.0, seconds - (sum(self.seconds.values()) - counted))
        wanted = min(free, waiting)
        self.slot_seconds += slots * seconds
        self.held_back += wanted * seconds
        self.unwanted += (free - wanted) * seconds

    def summary(self, ceilings: Ceilings | None = None) -> dict[str, float]:
        """Return plain numbers for JSON; rates are 0 where nothing has happened yet.

        - `prompt_tokens`, `padding_tokens`, `reused_prompt_tokens`, `generated_tokens`, `cancelled_requests`,
          `decode_steps`, `images`, `encoded_images`: counts.
        - `prefill_tokens_per_second`: prompt tokens per second of prefill. `decode_tokens_per_second`: tokens of decode
          steps per second of decoding and sampling.
        - `occupancy`: share of slots that decoded, over the steps. `image_hit_rate`: share of images that needed no
          encoding, because they were cached or several requests shared them. `padding`: share of the tokens of prefill.
          `held_back`, `unwanted`: shares of slot time (see the class).
        - `seconds_CAUSE`: see `CAUSES`. `lost_slot_seconds_held_back`, `lost_slot_seconds_unwanted`.
        - `prefill_…`, `decode_…` `bytes_per_second`, `flops_per_second`: what the work required, over its seconds.
        - With `ceilings` also `…_bandwidth_utilisation` and `…_flop_utilisation`, shares of the ceilings, and
          `…_of_floor`: the shortest possible time at the ceilings as a share of the time it took.
        """
        decoding = self.seconds["decode"] + self.seconds["choose"]
        found: dict[str, float] = {
            "prompt_tokens": self.prefilled,
            "padding_tokens": self.padded,
            "reused_prompt_tokens": self.reused,
            "generated_tokens": self.generated,
            "cancelled_requests": self.cancelled,
            "decode_steps": self.steps,
            "images": self.images,
            "encoded_images": self.encoded,
            "prefill_tokens_per_second": _share(self.prefilled, self.seconds["prefill"]),
            "decode_tokens_per_second": _share(self.occupied, decoding),
            "occupancy": _share(self.occupied, self.offered),
            "image_hit_rate": _share(self.images - self.encoded, self.images),
            "padding": _share(self.padded, self.prefilled + self.padded),
            "held_back": _share(self.held_back, self.slot_seconds),
            "unwanted": _share(self.unwanted, self.slot_seconds),
            "lost_slot_seconds_held_back": self.held_back,
            "lost_slot_seconds_unwanted": self.unwanted,
        }
        found |= {f"seconds_{cause}": self.seconds[cause] for cause in CAUSES}
        for part in ("prefill", "decode"):
            read = _share(self.bytes[part], self.seconds[part])
            done = _share(self.flops[part], self.seconds[part])
            found |= {f"{part}_bytes_per_second": read, f"{part}_flops_per_second": done}
            if ceilings is not None:
                shares = read / ceilings.bytes_per_second, done / ceilings.flops
                found[f"{part}_bandwidth_utilisation"], found[f"{part}_flop_utilisation"] = shares
                found[f"{part}_of_floor"] = max(shares)
        return found


def merged(several: Iterable[Metrics]) -> Metrics:
    """Sum the metrics of engines that run side by side; seconds too, so rates are per second of one engine."""
    total = Metrics()
    for one in several:
        for attribute in fields(Metrics):
            mine, other = getattr(total, attribute.name), getattr(one, attribute.name)
            added = {cause: mine[cause] + other[cause] for cause in CAUSES} if isinstance(mine, dict) else mine + other
            setattr(total, attribute.name, added)
    return total


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
