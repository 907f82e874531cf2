"""Base classes of all actors: load a model once, then send whole blocks through it and account for each row.

An actor may have several blocks in work, each in a thread of its own, if its pool says so (`pipeline.ActorPool`).
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import pyarrow as pa
import ray

from actors.rows import SCHEMA, Block, blocks
from polite_flamingo.faults.guard import Guard, Work
from polite_flamingo.faults.journal import Journal
from polite_flamingo.hub import refuse_other_models
from polite_flamingo.sample import BadSample, Reason, Sample
from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.storage.location import Location
from polite_flamingo.storage.probe import Probe
from polite_flamingo.usage import Usage, of_model


@dataclass(frozen=True, kw_only=True)
class ActorSettings:
    """How the actors of a pool work, whatever their model.

    Attributes:
        out: the job's output folder, where the journal is kept.
        rows_per_call: rows given to the model at once.
        max_failures_in_a_row: more consecutive failures than this end the job.
        actors: maximum size of the pool.
        cpus: logical CPUs of each, per shard that it has in work.
        gpus: GPUs of each, likewise.
        probe: a file in the output folder that each actor must see.
        models: name -> fingerprint of the models they load, as computed by the driver.
    """

    out: Location
    rows_per_call: int
    max_failures_in_a_row: int
    actors: int
    cpus: float = 0.0
    gpus: float = 0.0
    probe: Probe | None = None
    models: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Raise `PathUnavailable` if this machine sees another output folder, or other models, than the driver."""
        if self.probe is not None:
            self.probe.check()
        refuse_other_models(self.models)

    def journal(self, pool: str) -> Journal:
        """Return the journal of `pool`, under Ray's name for this machine."""
        node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
        return Journal(OutputLayout(root=self.out).journal, pool, node, lost_nodes)


def lost_nodes() -> set[str]:
    """Return the machines that Ray considers dead."""
    return {node["NodeID"] for node in ray.nodes() if not node["Alive"]}


class PoolActor(ABC):
    """Holds one copy of a model, loaded under the journal. Subclasses say how to load it."""

    name: ClassVar[str]
    """Name of the pool, in the journal and in a manifest's seconds."""

    reason: ClassVar[Reason]
    """Reason with which a row is quarantined if the model raised on it."""

    def __init__(self, config: Any, settings: ActorSettings):
        settings.check()
        self.config, self.settings = config, settings
        self.journal = settings.journal(self.name)
        self.guard = Guard(
            reason=self.reason,
            rows_per_call=settings.rows_per_call,
            max_failures_in_a_row=settings.max_failures_in_a_row,
        )
        with self.journal.loading(patience=settings.actors + 1):
            self.model = self.load(config)

    @abstractmethod
    def load(self, config: Any) -> Any:
        """Load the model. Import its libraries here: that takes seconds, which the driver must not spend."""


class RowActor(PoolActor):
    """Maps a model over rows under the guard. Subclasses say what it does with samples (`work`)."""

    def check(self, sample: Sample) -> None:
        """Raise `BadSample` for a sample that the model should not see."""

    @abstractmethod
    def work(self, samples: list[Sample], usage: Usage) -> list[Sample | BadSample]:
        """Return each sample with the model's result, or why it has none, in order; add what it consumed to `usage`."""

    def __call__(self, table: pa.Table) -> pa.Table:
        """Process every row; those that fail become quarantined rows."""
        return pa.concat_tables([self._process(block).to_table() for block in blocks(table)] or [SCHEMA.empty_table()])

    @contextmanager
    def working_on(self, block: Block, usage: Usage) -> Iterator[Work]:
        """Give what maps the rows of a block, for as long as the block is in work: `work`, unless it needs more."""
        yield partial(self.work, usage=usage)

    def _process(self, block: Block) -> Block:
        started, usage = time.perf_counter(), Usage()
        note = self.journal.open(block.name, block.first)
        with self.working_on(block, usage) as work:
            rows = self.guard.run(work, block.rows, block.shard, note, self.check, block.first)
        seconds = time.perf_counter() - started
        usage["gpu_milliseconds"] += round(seconds * 1000 * self.settings.gpus)
        usage["cpu_milliseconds"] += round(seconds * 1000 * self.settings.cpus)
        used = Usage(block.usage) + of_model(usage, self.name)
        return replace(block, rows=rows, seconds={**block.seconds, self.name: seconds}, usage=used)
