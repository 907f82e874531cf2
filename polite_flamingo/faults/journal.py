"""The journal: notes of the rows that a worker is running, so that its successor can find the row that killed it.

A row that raises is found by the worker itself (`guard.py`). A row that kills the process (a segmentation fault in a
decoder, the kernel's out-of-memory killer) destroys the evidence, and a scheduler that retries would feed it to one
worker after another forever. So a worker notes its rows before it runs them. A successor that finds such a note counts
a death against these rows. After two deaths it runs them one by one, and the row that kills a third worker is condemned
and never run again. Rows get two chances because most deaths (an impatient operator, a GPU driver) are not their fault.
The loss of a whole machine says nothing about its rows: a note names its machine, and a death on a lost machine counts
only towards the limit on all deaths of a shard, since a row may take down a machine.

The notes are in the output folder, one small file per block of rows and stage. `clear` at the start of a job forgets
deaths (the job may have been killed as a whole) but not condemned rows.
"""

from __future__ import annotations

import dataclasses
import json
import re
import secrets
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from polite_flamingo.storage.location import Location

DEATHS_BEFORE_NARROWING = 2
MAX_DEATHS_PER_SHARD = 30
"""Enough for ten condemned rows per shard; beyond that the model or the machine is at fault, and the job says so."""


class WorkerKeepsDying(RuntimeError):
    """Too many workers died: not single rows are at fault. The message names the stage and where to look."""


@dataclass(kw_only=True)
class _State:
    """The note of one stage about one block of rows, which it names by their place in the block.

    `node` is the machine that runs the rows in `busy`; `deaths` lists, per call, the machines on which a worker died.
    """

    busy: list[int] = dataclasses.field(default_factory=list)
    alone: bool = False
    call: int = -1
    node: str = ""
    deaths: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    total_deaths: int = 0
    condemned: list[int] = dataclasses.field(default_factory=list)
    done: int = 0


class _Side:
    """Lets the calls of a worker's threads run side by side, and a row that is tried alone really alone: if it kills
    the process, no other row was at work."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running = self._waiting = 0

    @contextmanager
    def running(self, *, alone: bool) -> Iterator[None]:
        with self._changed:
            self._waiting += alone
            self._changed.wait_for(lambda: not self._running if alone else not self._waiting)
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._waiting -= alone
                self._changed.notify_all()


LostNodes = Callable[[], Collection[str]]
"""Returns the machines that are gone, by the names that `Journal.node` uses."""


class Journal:
    """The notes of one stage ("rewriting", "scoring"). Threads may have shards open at the same time.

    Args:
        folder: where the notes are; all workers must see it.
        stage: the stage's name.
        node: the machine that this worker runs on.
        lost: returns the machines that are gone; called only after a death.
    """

    def __init__(self, folder: Location, stage: str, node: str = "", lost: LostNodes = tuple):
        self.folder = folder
        self.stage = stage
        self.node = node
        self.lost = lost
        self._side = _Side()

    def open(self, shard: str, first: int = 0) -> ShardJournal:
        """Start on the rows of a shard from index `first`, reading the note of a dead predecessor.

        Raises:
            WorkerKeepsDying: too many workers died on this shard.
        """
        note = self.folder / f"{shard}@{first}.{self.stage}.json"
        return ShardJournal(note, self.stage, shard, self.node, self.lost, self._side)

    @contextmanager
    def loading(self, patience: int) -> Iterator[None]:
        """Wrap the loading of a model: a marker stays behind if loading kills the process.

        Args:
            patience: how many markers (of workers that are loading or dead) are tolerated, except on lost machines.

        Raises:
            WorkerKeepsDying: more than `patience` markers are there.
        """
        mine = self.folder / f"{self.stage}.loading-{secrets.token_hex(8)}"
        names = [name for name in self.folder.names() if name.startswith(f"{self.stage}.loading-")]
        markers = [_node_of(self.folder / name) for name in names]
        if len(markers) > patience and len(_counted(markers, self.lost)) > patience:
            raise WorkerKeepsDying(
                f"the {self.stage} worker's process died again and again while it loaded its models; "
                "is there enough memory, and does the model load in a plain Python process?"
            )
        mine.put(self.node)
        yield
        mine.delete()


class ShardJournal:
    """The note of one stage about one block of rows."""

    def __init__(
        self,
        path: Location,
        stage: str,
        shard: str,
        node: str = "",
        lost: LostNodes = tuple,
        side: _Side | None = None,
    ):
        self.path = path
        self._lost = lost
        self._side = side or _Side()
        self._state = _read(path)
        state = self._state
        if state.busy:
            state.total_deaths += 1
            if state.alone and _counted([state.node], lost):
                state.condemned = sorted({*state.condemned, *state.busy})
                state.deaths.pop(str(state.call), None)
            elif not state.alone:
                state.deaths.setdefault(str(state.call), []).append(state.node)
        state.busy, state.done, state.node = [], 0, node
        if state.total_deaths > MAX_DEATHS_PER_SHARD:
            raise WorkerKeepsDying(
                f"the {stage} worker's process died {state.total_deaths} times on shard {shard} "
                f"(rows {state.condemned} are already condemned); is there enough memory?"
            )
        self._write()

    @property
    def condemned(self) -> frozenset[int]:
        """The rows that killed their worker."""
        return frozenset(self._state.condemned)

    def suspicious(self, call: int) -> bool:
        """Return whether the rows of this call killed so many workers that they must run one by one."""
        died_on = self._state.deaths.get(str(call), [])
        return len(died_on) >= DEATHS_BEFORE_NARROWING and len(_counted(died_on, self._lost)) >= DEATHS_BEFORE_NARROWING

    @contextmanager
    def busy(self, call: int, rows: Sequence[int], *, alone: bool) -> Iterator[None]:
        """Note the rows while they run. An exception removes the note too: the process is alive."""
        with self._side.running(alone=alone):
            self._state.busy, self._state.call, self._state.alone = list(rows), call, alone
            self._write()
            try:
                yield
            finally:
                self._state.busy = []
                self._state.done += len(rows)
                self._write()

    def _write(self) -> None:
        self.path.put(json.dumps(dataclasses.asdict(self._state)))


def clear(folder: Location) -> None:
    """Forget running rows and deaths, and keep condemned rows; called at the start of a job."""
    for name in folder.names():
        note = folder / name
        condemned = _read(note).condemned if name.endswith(".json") else []
        if condemned:
            note.put(json.dumps(dataclasses.asdict(_State(condemned=condemned))))
        else:
            note.delete()


def forget(folder: Location, shard: str) -> None:
    """Delete the notes of a shard; called once it is committed."""
    own = re.compile(rf"{re.escape(shard)}@\d+\.\w+\.json")
    folder.store.delete((folder / name).key for name in folder.names() if own.fullmatch(name))


def rows_done(folder: Location, stage: str = "") -> int:
    """Count the rows that a stage, or any, has finished in shards not yet committed; for a progress bar."""
    return sum(_read(folder / name).done for name in folder.names() if name.endswith(f"{stage and '.' + stage}.json"))


def _counted(nodes: Sequence[str], lost: LostNodes) -> list[str]:
    """Return the machines that are not lost; an unnamed one counts as not lost."""
    gone = lost() if any(nodes) else ()
    return [node for node in nodes if node not in gone]


def _node_of(marker: Location) -> str:
    try:
        return marker.read_text()
    except FileNotFoundError:  # its worker has just finished loading
        return ""


def _read(path: Location) -> _State:
    try:
        return _State(**json.loads(path.read_text()))
    except FileNotFoundError:
        return _State()
