"""The training log, one line per update: OUT/loss.jsonl, and the same as TensorBoard events.

A run that resumes from a checkpoint first drops the updates after it, so no update is logged twice. Both files are
written synchronously: a full disk then ends the run with an error instead of losing a writer thread.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polite_flamingo.storage.location import write_atomically
from training.progress import Update

FILE = "loss.jsonl"
SCALARS = {
    "loss": "train/loss",
    "accuracy": "train/accuracy",
    "learning_rate": "train/learning_rate",
    "gradient_norm": "train/gradient_norm",
    "epoch": "train/epoch",
    "fill": "data/fill",
    "tokens_per_second": "speed/tokens_per_second",
    "trained_tokens_per_second": "speed/trained_tokens_per_second",
}
"""Fields of a line -> their names in TensorBoard."""


class TrainingLog:
    """Writes the log of a run; only rank 0 has one."""

    def __init__(self, out: Path, done: int):
        """Args: out: the output folder. done: updates in the checkpoint that the run resumes from, 0 for none."""
        from tensorboardX.event_file_writer import EventsWriter

        kept = [line for line in read(out) if line["step"] <= done]
        write_atomically(out / FILE, "".join(json.dumps(line) + "\n" for line in kept))
        self._lines = (out / FILE).open("a", encoding="utf-8")
        shutil.rmtree(out / "tensorboard", ignore_errors=True)
        (out / "tensorboard").mkdir()
        self._events = EventsWriter(str(out / "tensorboard" / "events"))
        for line in kept:
            self._show(line)

    def add(self, update: Update) -> None:
        """Write an update. Raises OSError if the disk is full."""
        seconds = max(update.seconds, 1e-9)
        line = dataclasses.asdict(update) | {
            "tokens_per_second": round(update.tokens / seconds, 1),
            "trained_tokens_per_second": round(update.trained_tokens / seconds, 1),
            "time": time.time(),
        }
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()
        self._show(line)
        self._events.flush()

    def close(self) -> None:
        """Close both files."""
        self._lines.close()
        self._events.close()

    def _show(self, line: Mapping[str, Any]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=line[name]) for name, tag in SCALARS.items()]
        self._events.write_event(Event(wall_time=line["time"], step=line["step"], summary=Summary(value=values)))


def read(out: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log, none before its first update; without a line that was cut short."""
    return _parsed(_whole_lines((out / FILE).read_bytes())) if (out / FILE).exists() else []


class LogFollower:
    """Reads a log while another process writes it, and starts over when that process rewrites it."""

    def __init__(self, out: Path):
        """Args: out: the run's output folder."""
        self._file = out / FILE
        self._identity: tuple[int, int] | None = None
        self._read = 0

    def new(self) -> list[dict[str, Any]]:
        """Return the updates since the last call; some come again after a worker died and was restarted."""
        try:
            with self._file.open("rb") as file:
                status = os.fstat(file.fileno())
                identity = status.st_dev, status.st_ino
                if identity != self._identity:  # a new file is in its place
                    self._identity, self._read = identity, 0
                file.seek(self._read)
                data = _whole_lines(file.read())
        except FileNotFoundError:
            return []
        self._read += len(data)
        return _parsed(data)


def _whole_lines(data: bytes) -> bytes:
    return data[: data.rfind(b"\n") + 1]


def _parsed(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]
