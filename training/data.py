"""A mixture of shards as a seeded order of groups; a group is read, shuffled and packed as one.

Everything here is a pure function of (mixture, seed, epoch, group): whoever asks for a group, in whatever process and
after whatever interruption, packs the same rows. So a group is the unit of streaming (`streaming.py` packs groups ahead
in Ray tasks) and of resume (a resumed run packs one group again and passes over the rows it has done).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from polite_flamingo.packing.rows import Packed, PackingConfig, Reading, Skipped, pack
from polite_flamingo.sample import Sample
from polite_flamingo.storage.ledger import shard_names
from polite_flamingo.storage.shards import read_shard

if TYPE_CHECKING:  # both import torch, and tasks that pack need none of it, nor does `--help`
    from polite_flamingo.flamingo.model.attention import Attention
    from polite_flamingo.flamingo.model.tokenization import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Ingredient:
    """One source of a mixture.

    Attributes:
        shards: a folder of .tar shards, one .tar, or a glob.
        fraction: share of its samples that take part, chosen by their keys: another epoch has the same ones.
        response: what is learnt: "rewritten" is the polite text where a sample has one and its response otherwise,
            "raw" is the response as annotated.
        protocol: "chat" asks the instruction; "rewriting" shows the annotation and wants the polite text.
    """

    shards: str
    fraction: float = 1.0
    response: Literal["rewritten", "raw"] = "rewritten"
    protocol: Literal["chat", "rewriting"] = "chat"

    def __post_init__(self) -> None:
        """Raises ValueError for an impossible share, or a rewriter that would learn to repeat."""
        if not 0 < self.fraction <= 1:
            raise ValueError(
                f"training: fraction must lie in (0, 1], not {self.fraction}; leave an ingredient out instead"
            )
        if self.protocol == "rewriting" and self.response == "raw":
            raise ValueError("training: with protocol rewriting the response is the rewritten text; leave response out")


@dataclass(frozen=True, kw_only=True)
class Group:
    """Shards that are packed together: (name of the ingredient, path)."""

    number: int
    shards: tuple[tuple[str, Path], ...]


def find_shards(
    mixture: Mapping[str, Ingredient], say: Callable[[str], None] = lambda line: None
) -> list[tuple[str, Path]]:
    """Every shard of the mixture, in the order of the mixture; `say` hears what is passed over.

    Raises:
        ValueError: an ingredient names no shard; the message says which.
    """
    found = []
    for name, ingredient in mixture.items():
        try:
            shards = shard_names(ingredient.shards, say=say)
        except (ValueError, OSError) as error:
            raise ValueError(f"data {name!r}: {error}") from None
        found += [(name, path) for path in shards.values()]
    if not found:
        raise ValueError("there is nothing to train on: name at least one ingredient with shards")
    return found


def groups(shards: Sequence[tuple[str, Path]], *, seed: int, epoch: int, shards_a_group: int) -> list[Group]:
    """The groups of an epoch in their order; another epoch joins other shards."""
    order = list(shards)
    random.Random(f"groups/{seed}/{epoch}").shuffle(order)
    count = -(-len(order) // shards_a_group)
    return [Group(number=number, shards=tuple(order[number::count])) for number in range(count)]


def pack_group(
    group: Group,
    mixture: Mapping[str, Ingredient],
    packing: PackingConfig,
    tokenizer: Tokenizer,
    attention: Attention,
    *,
    seed: int,
    epoch: int,
) -> Packed:
    """Read a group's shards and pack their samples; what cannot be read is counted with its reason."""
    rng = random.Random(f"pack/{seed}/{epoch}/{group.number}")
    samples: list[Sample] = []
    readings: list[Reading] = []
    unreadable: list[Skipped] = []
    for name, path in group.shards:
        ingredient = mixture[name]
        for row in read_shard(path):
            if not isinstance(row, Sample):
                unreadable.append(Skipped(key=row.key or row.payload, reason=row.reason, detail=row.detail))
            elif takes_part(row.key, ingredient.fraction, seed):
                samples.append(row)
                readings.append(_reading(row, ingredient))
    packed = pack(samples, tokenizer, packing, attention, rng, readings)
    packed.skipped += unreadable
    return packed


def _reading(sample: Sample, ingredient: Ingredient) -> Reading:
    if ingredient.protocol == "chat" and sample.rewritten is None:
        return Reading(protocol="chat", response="raw")
    return Reading(protocol=ingredient.protocol, response=ingredient.response)


def takes_part(key: str, fraction: float, seed: int) -> bool:
    """Whether a sample belongs to the share of its ingredient."""
    digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def stream(
    mixture: Mapping[str, Ingredient],
    packing: PackingConfig,
    tokenizer: Tokenizer,
    attention: Attention,
    *,
    seed: int,
    shards_a_group: int,
    rank: int = 0,
    size: int = 1,
) -> LocalStream:
    """Groups packed in this process, one after the other."""
    return LocalStream(mixture, packing, tokenizer, attention, seed, shards_a_group, rank, size)


class LocalStream:
    """What the loop asks for its data; `streaming.RayStream` is the same on Ray."""

    def __init__(
        self, mixture: Mapping[str, Ingredient], packing: PackingConfig, tokenizer: Tokenizer, attention: Attention,
        seed: int, shards_a_group: int, rank: int, size: int,
    ):  # fmt: skip
        self._mixture, self._packing, self._tokenizer, self._attention = mixture, packing, tokenizer, attention
        self._seed, self._shards_a_group, self._rank, self._size = seed, shards_a_group, rank, size
        self._shards = find_shards(mixture)

    def groups(self, epoch: int) -> list[Group]:
        """This rank's groups of an epoch, in their order."""
        every = groups(self._shards, seed=self._seed, epoch=epoch, shards_a_group=self._shards_a_group)
        return every[self._rank :: self._size]

    def packed(self, epoch: int, first: int) -> Iterator[Packed]:
        """This rank's groups of an epoch from its `first`-th on, packed."""
        for group in self.groups(epoch)[first:]:
            yield pack_group(
                group, self._mixture, self._packing, self._tokenizer, self._attention, seed=self._seed, epoch=epoch
            )
