"""A mixture of shards as a seeded sequence of groups; each group is read, shuffled and packed as one.

Everything here is a pure function of (mixture, seed, epoch, group): any process, after any interruption, packs the same
rows for the same group. So a group is the unit of streaming (`ray_stream.py` packs groups ahead in Ray tasks) and of
resume (a resumed run packs one group again and skips the rows that are done).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from polite_flamingo.conversations import is_rewritten
from polite_flamingo.packing.chat_turns import ResponseChoice
from polite_flamingo.packing.pack import Choice, Packed, PackingConfig, Skipped, pack
from polite_flamingo.packing.pairs import PairChoice, chosen_answer
from polite_flamingo.packing.pieces import Side
from polite_flamingo.sample import BadSample, Sample
from polite_flamingo.storage.discovery import shard_names
from polite_flamingo.storage.location import Location
from polite_flamingo.storage.shards import read_shard

if TYPE_CHECKING:  # both import torch, and tasks that pack need none of it, nor does `--help`
    from polite_flamingo.flamingo.model.attention import Attention
    from polite_flamingo.flamingo.model.tokenization import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Ingredient:
    """One source of a mixture.

    Attributes:
        shards: a folder of .tar shards, one .tar, or a glob.
        fraction: share of its samples to use, chosen by key: every epoch has the same ones.
        response: the training target. "rewritten" is the polite text where a sample has one, else its response; "raw"
            is the response as annotated.
        protocol: "chat" prompts with the instruction; "rewriting" adds the annotation and trains on the polite text.
    """

    shards: str
    fraction: float = 1.0
    response: Literal["rewritten", "raw"] = "rewritten"
    protocol: Literal["chat", "rewriting"] = "chat"

    def __post_init__(self) -> None:
        """Raise ValueError for an impossible fraction, or a rewriter that would learn to copy."""
        if not 0 < self.fraction <= 1:
            raise ValueError(
                f"training: fraction must lie in (0, 1], not {self.fraction}; leave an ingredient out instead"
            )
        if self.protocol == "rewriting" and self.response == "raw":
            raise ValueError("training: with protocol rewriting the response is the rewritten text; leave response out")


@dataclass(frozen=True, kw_only=True)
class Group:
    """Shards that are packed together, as (name of the ingredient, path)."""

    number: int
    shards: tuple[tuple[str, Location], ...]


def find_shards(
    mixture: Mapping[str, Ingredient], say: Callable[[str], None] = lambda line: None
) -> list[tuple[str, Location]]:
    """Return every shard of the mixture, in its order; `say` is called with what is passed over.

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
        raise ValueError("nothing to train on: name at least one ingredient with shards, as in --data.pf1m out/pf1m")
    return found


def groups(shards: Sequence[tuple[str, Location]], *, seed: int, epoch: int, shards_a_group: int) -> list[Group]:
    """Return the groups of an epoch, in order; each epoch joins different shards."""
    order = list(shards)
    random.Random(f"groups/{seed}/{epoch}").shuffle(order)
    count = -(-len(order) // shards_a_group)
    return [Group(number=number, shards=tuple(order[number::count])) for number in range(count)]


@dataclass(frozen=True, kw_only=True)
class PackedData:
    """A mixture and how it is packed: all that decides the rows of a group.

    Attributes:
        mixture: ingredients by name.
        packing: how samples become rows.
        tokenizer: the model's tokenizer.
        attention: the model's attention semantics, which decide which image a token attends to.
        seed: seed for the order of samples and shards.
        shards_a_group: shards that are shuffled and packed together.
        sides: what to pack of each preference pair; () for samples that are not pairs.
    """

    mixture: Mapping[str, Ingredient]
    packing: PackingConfig
    tokenizer: Tokenizer
    attention: Attention
    seed: int = 0
    shards_a_group: int = 8
    sides: tuple[Side, ...] = ()

    def pack(self, group: Group, epoch: int) -> Packed:
        """Read the shards of a group and pack their samples; what cannot be read is counted with its reason."""
        rng = random.Random(f"pack/{self.seed}/{epoch}/{group.number}")
        samples: list[Sample] = []
        choices: list[Choice] = []
        unreadable: list[Skipped] = []
        for name, path in group.shards:
            ingredient = self.mixture[name]
            taken: list[Sample] = []
            for row in read_shard(path):
                if not isinstance(row, Sample):
                    unreadable.append(Skipped(key=row.key or row.payload, reason=row.reason, detail=row.detail))
                elif takes_part(row.key, ingredient.fraction, self.seed):
                    taken.append(row)
            samples += taken
            choices += (
                _pair_choices(taken, self.sides)
                if self.sides
                else [_response_choice(sample, ingredient) for sample in taken]
            )
        packed = pack(samples, self.tokenizer, self.packing, self.attention, rng, choices)
        packed.skipped += unreadable
        return packed


def _response_choice(sample: Sample, ingredient: Ingredient) -> ResponseChoice:
    if ingredient.protocol == "chat" and not is_rewritten(sample):
        return ResponseChoice(protocol="chat", response="raw")
    return ResponseChoice(protocol=ingredient.protocol, response=ingredient.response)


def _pair_choices(shard: Sequence[Sample], sides: tuple[Side, ...]) -> list[PairChoice]:
    """Return what to pack of each pair of a shard.

    The unrelated answer is the next pair's, so it is the same whichever shards are packed together.
    """
    answers = [_answer(sample) if "unrelated" in sides else "" for sample in shard]
    others = [*answers[1:], *answers[:1]] if len(shard) > 1 else [""] * len(shard)
    return [PairChoice(sides=sides, unrelated=other) for other in others]


def _answer(sample: Sample) -> str:
    try:
        return chosen_answer(sample)
    except BadSample:
        return ""  # packing counts it with its reason


def takes_part(key: str, fraction: float, seed: int) -> bool:
    """Whether a sample belongs to the fraction of its ingredient that is used."""
    digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


class LocalStream:
    """A rank's groups, packed in this process; `ray_stream.RayStream` has Ray pack them ahead."""

    def __init__(self, data: PackedData, rank: int = 0, size: int = 1):
        """Args: data: the data of all ranks. rank: this rank. size: number of ranks."""
        self.data, self.rank, self.size = data, rank, size
        self._shards = find_shards(data.mixture)

    def groups(self, epoch: int) -> list[Group]:
        """Return this rank's groups of an epoch, in order."""
        every = groups(self._shards, seed=self.data.seed, epoch=epoch, shards_a_group=self.data.shards_a_group)
        return every[self.rank :: self.size]

    def packed(self, epoch: int, first: int) -> Iterator[Packed]:
        """Yield this rank's groups of an epoch, packed, starting with number `first`."""
        for group in self.groups(epoch)[first:]:
            yield self.data.pack(group, epoch)
