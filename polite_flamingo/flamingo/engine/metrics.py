"""What an engine did, how fast, how near the machine's limits, and where time and slots were lost.

Counting is a few additions a step. Bytes and operations are those that the work needs, by the sizes of the model and of
each call: all weights once a call; the keys and values that a token may see, its own row's and its image's; two
operations for each weight and token, and what attention takes. What a machine does besides (padding, positions looked
at in vain, a cache that reads twice) is not counted, so it shows as use that is missing. The encoding of images is not
in these counts, only in `seconds`.

On a GPU a part's time ends where the host waits for its result; pieces of prompts whose end is still to come are waited
for with the next step of decoding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields

from polite_flamingo.flamingo.engine.roofline import Ceilings
from polite_flamingo.flamingo.model.decoder import Decoder
from polite_flamingo.flamingo.model.layers import Linear

CAUSES = ("images", "prefill", "decode", "choose", "host")
"""Where the seconds of `Engine.step` go: encoding images; running prompts; steps of decoding; choosing tokens from
logits; all else (admission, copies of prompt beginnings, stop texts, moving rows)."""


class Work:
    """What a call of the language model needs, from the model's sizes.

    Attributes:
        weights: bytes that every call reads.
        cross_weights: bytes besides, where a token sees an image.
        place: bytes of one position's keys and values, all layers.
        image: bytes of one image's keys and values, all layers.
    """

    def __init__(self, decoder: Decoder, latents: int):
        """Args: latents: of an image."""
        size, crosses = decoder.embedding.element_size(), [cross for cross in decoder.crosses if cross is not None]
        last = decoder.layers[-1]
        answers = sum(map(_numbers, (last.out, last.up, last.down)))  # of a prompt's tokens only one goes through these
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
        """To be read. Args: as of `flops`; images: seen."""
        return self.weights + bool(seeing) * self.cross_weights + places * self.place + images * self.image

    def flops(self, *, answers: int, tokens: int, places: int, pairs: int, seeing: int) -> int:
        """Operations, a multiplication and its addition being two.

        Args:
            answers: tokens that get logits, one a row.
            tokens: run.
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
    """Counts since the engine was made; `summary` says what they mean. May be read while another thread counts.

    Attributes:
        prefilled: prompt tokens run.
        padded: tokens run with them that stand for nothing, to make rows equally long.
        reused: prompt tokens taken from a kept beginning instead.
        generated: tokens chosen.
        cancelled: requests that nobody wanted to the end.
        steps: of decoding.
        occupied: slots decoding, summed over the steps.
        offered: slots that there were, summed over the steps.
        images: that requests brought.
        encoded: that had to be encoded for them.
        seconds: by cause (`CAUSES`).
        bytes: to be read, in prefill and decode.
        flops: to be done, in prefill and decode.
        slot_seconds: of all slots.
        held_back: slot seconds for which a slot stayed free although a request waited: free slots are refilled in
            groups (`EngineConfig.refills`).
        unwanted: slot seconds for which nobody wanted the slot.
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
        work: Work,
        *,
        answers: int,
        tokens: int,
        places: int,
        pairs: int,
        seeing: int,
        images: int,
        repeated: int = 0,
    ) -> None:
        """A call of the language model; see `Work` for the arguments. `repeated`: places that several rows share."""
        self.bytes[cause] += work.bytes(places=places - repeated, seeing=seeing, images=images)
        self.flops[cause] += work.flops(answers=answers, tokens=tokens, places=places, pairs=pairs, seeing=seeing)

    def count_step(self, seconds: float, told: float, *, slots: int, free: int, waiting: int) -> None:
        """A step of the engine is over.

        Args:
            seconds: it took.
            told: sum of `self.seconds` when it began.
            slots: that there are.
            free: of these, during the step.
            waiting: requests, meanwhile.
        """
        self.seconds["host"] += max(0.0, seconds - (sum(self.seconds.values()) - told))
        wanted = min(free, waiting)
        self.slot_seconds += slots * seconds
        self.held_back += wanted * seconds
        self.unwanted += (free - wanted) * seconds

    def summary(self, ceilings: Ceilings | None = None) -> dict[str, float]:
        """All of it as plain numbers, for JSON; rates of what has not happened are 0.

        - `prompt_tokens`, `padding_tokens`, `reused_prompt_tokens`, `generated_tokens`, `cancelled_requests`,
          `decode_steps`, `images`, `encoded_images`: counts.
        - `prefill_tokens_per_second`: prompt tokens run; `decode_tokens_per_second`: tokens of steps of decoding over
          the seconds of these and of choosing.
        - `occupancy`: share of slots that decoded, over the steps. `image_hit_rate`: share of the images that needed no
          encoding, be it known before or wanted by several requests at once. `padding`: share of the tokens run with
          prompts. `held_back`, `unwanted`: shares of slot time (see the class).
        - `seconds_CAUSE`: see `CAUSES`. `lost_slot_seconds_held_back`, `lost_slot_seconds_unwanted`.
        - `prefill_…`, `decode_…` `bytes_per_second`, `flops_per_second`: what the work needed, over its seconds.
        - With `ceilings`, besides: `…_bandwidth_utilisation` and `…_flop_utilisation`, shares of them, and
          `…_of_floor`: the time that a machine at its ceilings would need at least, as a share of the time it took.
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
    """Of engines side by side: everything is summed, also seconds, so that rates are those of one engine's time."""
    total = Metrics()
    for one in several:
        for attribute in fields(Metrics):
            mine, other = getattr(total, attribute.name), getattr(one, attribute.name)
            added = {cause: mine[cause] + other[cause] for cause in CAUSES} if isinstance(mine, dict) else mine + other
            setattr(total, attribute.name, added)
    return total


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
