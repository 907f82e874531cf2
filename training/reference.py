"""What the start model makes of each pair: log-probabilities that a preference stage compares the policy with.

    OUT/checkpoints/reference.parquet   one row per pair: digest, and the log-probability of each side

They are computed once, before the first update, by all ranks, each over its part of the data. A resumed run reads the
file, because the weights are no longer those of the start model. Pairs are known by a digest of their key and tokens.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from polite_flamingo.packing.pack import PackedRow
from polite_flamingo.storage.ledger import undamaged
from polite_flamingo.storage.location import Location
from training.data import LocalStream
from training.distributed import Ranks
from training.loss import Batch
from training.pair_batch import SIDES, UNRELATED

FILE = "reference.parquet"


@dataclass(frozen=True)
class Reference:
    """Log-probabilities of each pair's sides by the pair's digest; `place` is named in errors."""

    place: Location
    known: Mapping[str, Sequence[float]]

    def given(self, batch: Batch) -> Batch:
        """Return the batch with the reference's log-probabilities.

        Raises:
            ValueError: the file does not know a pair: the data or the packing has changed since.
        """
        pairs = batch.pairs
        assert pairs is not None
        missing = [pair.key for pair in pairs.pairs if pair.digest not in self.known]
        if missing:
            raise ValueError(
                f"{self.place} does not know the pair {missing[0]}: the data or the packing has changed since it was "
                "written; use --fresh"
            )
        found = torch.tensor([self.known[pair.digest] for pair in pairs.pairs], dtype=torch.float32)
        reference_4P = found.reshape(-1, len(SIDES)).T.contiguous().to(pairs.sides_4P.device)
        return replace(batch, pairs=replace(pairs, reference_4P=reference_4P))

    def save(self) -> None:
        """Write the file, whole or not at all."""
        columns = zip(*self.known.values(), strict=True) if self.known else [[] for _ in SIDES]
        table = {"digest": pa.array(list(self.known), pa.string())}
        table |= {side: pa.array(column, pa.float64()) for side, column in zip(SIDES, columns, strict=True)}
        buffer = io.BytesIO()
        pq.write_table(pa.table(table), buffer)
        self.place.put(buffer.getvalue())


def read(folder: Location, *, resumed: bool) -> Reference | None:
    """Return the reference that a run has stored, or None before it is computed.

    Args:
        folder: the folder of the checkpoints.
        resumed: whether there is a checkpoint, after which it can no longer be computed.

    Raises:
        ValueError: it is needed and missing, or damaged.
    """
    place = folder / FILE
    if place.head() is None:
        if resumed:
            raise ValueError(f"{place} is missing, and the model is no longer the one it was made with; use --fresh")
        return None
    with undamaged(place, "rerun with --fresh"):
        table = pq.read_table(io.BytesIO(place.read_bytes()))
        columns = [table.column(side).to_pylist() for side in SIDES]
        return Reference(place, dict(zip(table.column("digest").to_pylist(), zip(*columns, strict=True), strict=True)))


def compute(
    module: nn.Module,
    stream: LocalStream,
    make: Callable[[list[PackedRow]], Batch],
    folder: Location,
    *,
    micro_batch: int,
    ranks: Ranks,
) -> Reference:
    """Run the model over all pairs; rank 0 stores what it makes of them.

    Args:
        module: a `ModelWithPreferences` around the start model, as wrapped for training.
        stream: this rank's data.
        make: turns rows into a batch.
        folder: the folder of the checkpoints.
        micro_batch: rows to run at once.
        ranks: this process among the others.

    Raises:
        ValueError: a log-probability is NaN or infinite; the message names the pair.
        OSError: the file could not be written.
    """
    known: dict[str, list[float]] = {}
    bad: list[str] = []
    pieces = _micro_batches(stream, micro_batch)
    while True:
        rows = next(pieces, None)
        if ranks.sum([rows is not None])[0] == 0:
            break
        batch = make(rows or [])  # FSDP needs every rank in every forward pass
        assert batch.pairs is not None
        with torch.no_grad():
            found_4P: Tensor = module(batch, sums_of="policy")[0]
        for pair, values in zip(batch.pairs.pairs, found_4P.double().T.tolist(), strict=True):
            known[pair.digest] = values
            if not torch.tensor(values).isfinite().all():
                bad.append(pair.key)
    every = ranks.gather((known, bad))
    broken = [key for _, keys in every for key in keys]
    if broken:
        raise ValueError(
            f"the start model gives the pair {broken[0]} a log-probability that is NaN or infinite "
            f"({len(broken)} pairs in all); check its weights, or set training.dtype to float32"
        )
    reference = Reference(folder / FILE, {digest: values for part, _ in every for digest, values in part.items()})
    _save_on_rank_0(reference, ranks)
    return reference


def kl_term(module: nn.Module, batches: Iterable[Batch], ranks: Ranks) -> float:
    """Return KTO's estimate of the KL divergence for an update: the mean log-ratio of unrelated answers, at least 0.

    Args:
        module: a wrapped `ModelWithPreferences`.
        batches: this rank's micro-batches; as many on each rank under FSDP.
        ranks: this process among the others.
    """
    total = count = 0.0
    for batch in batches:
        pairs = batch.pairs
        assert pairs is not None
        with torch.no_grad():
            found_4P: Tensor = module(batch, sums_of="policy")[0]
            before_4P = pairs.reference_4P
            if before_4P is None:
                before_4P = module(batch, sums_of="start")[0]
        here_P = pairs.sides_4P[UNRELATED] >= 0
        total += float((found_4P - before_4P)[UNRELATED, here_P].sum())
        count += int(here_P.sum())
    total, count = ranks.sum([total, count])
    return max(total / max(1.0, count), 0.0)  # in this order NaN stays NaN, and the update is refused


def _micro_batches(stream: LocalStream, size: int) -> Iterator[list[PackedRow]]:
    """Yield the rows of an epoch; every epoch has the same pairs."""
    for packed in stream.packed(0, 0):
        for start in range(0, len(packed.rows), size):
            yield packed.rows[start : start + size]


def _save_on_rank_0(reference: Reference, ranks: Ranks) -> None:
    failed = ""
    if ranks.rank == 0:
        try:
            reference.save()
        except OSError as error:
            failed = f"{reference.place} could not be written: {error}"
    reasons = [reason for reason in ranks.gather(failed) if reason]
    if reasons:  # raised on every rank: one that continued alone would wait for the others forever
        raise OSError(reasons[0])
