"""The training log, one line per update: OUT/loss.jsonl, and the same as TensorBoard events.

A run that resumes from a checkpoint first drops the updates after it, so no update is logged twice. Both files are
written synchronously: a full disk then ends the run with an error instead of losing a writer thread. In a bucket they
are a few seconds behind (`growing_file.py`), but never behind a checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import socket
import struct
import time
from collections.abc import Iterable, Mapping
from typing import Any

from polite_flamingo.storage.growing_file import GrowingFile
from polite_flamingo.storage.location import Location
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

METRICS = frozenset(
    {
        "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected",
        "logits/chosen", "logits/rejected", "entropy", "mean_token_accuracy",
    }
)  # fmt: skip
"""What TRL logs of a preference stage, and by its names."""


class TrainingLog:
    """Writes the log of a run; only rank 0 has one."""

    def __init__(self, out: Location, done: int):
        """Args: out: the output folder. done: updates in the checkpoint that the run resumes from, 0 for none."""
        kept = [line for line in read(out) if line["step"] <= done]
        (out / "tensorboard").delete_tree()
        events = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        self._lines = GrowingFile(out / FILE, b"".join(map(_encoded, kept)))
        self._events = GrowingFile(out / "tensorboard" / events, _first_event() + b"".join(map(_event, kept)))

    def add(self, update: Update) -> None:
        """Write an update. Raises OSError if the disk is full."""
        seconds = max(update.seconds, 1e-9)
        line = dataclasses.asdict(update)
        line |= line.pop("metrics")
        line |= {
            "tokens_per_second": round(update.tokens / seconds, 1),
            "trained_tokens_per_second": round(update.trained_tokens / seconds, 1),
            "time": time.time(),
        }
        self._lines.write(_encoded(line))
        self._events.write(_event(line))

    def flush(self) -> None:
        """Store every update so far, as before a checkpoint: a resumed run does not log those before it again."""
        self._lines.flush()
        self._events.flush()

    def close(self) -> None:
        """Close both files."""
        self._lines.close()
        self._events.close()


def read(out: Location) -> list[dict[str, Any]]:
    """Return the lines of a run's log, none before its first update; without a line that was cut short."""
    try:
        return _parsed(_whole_lines((out / FILE).read_bytes()).splitlines())
    except FileNotFoundError:
        return []


class LogFollower:
    """Reads a log while another process writes it, and starts over when that process rewrites it.

    The last line that was read shows whether it is still the same log: every line has its own time.
    """

    def __init__(self, out: Location):
        """Args: out: the run's output folder."""
        self._file = out / FILE
        self._tag, self._last, self._start = "", b"", 0  # the last line, and where it begins

    def new(self) -> list[dict[str, Any]]:
        """Return the updates since the last call; some come again after a worker died and was restarted."""
        found = self._file.head()
        if found is None or found.tag == self._tag:
            return []
        try:
            data = self._read(self._start) if found.size > self._start else b""
            if not data.startswith(self._last):
                self._last, self._start = b"", 0
                data = self._read(0)
        except FileNotFoundError:
            return []
        self._tag = found.tag
        lines = _whole_lines(data)[len(self._last) :].splitlines(keepends=True)
        if lines:
            self._start += len(self._last) + sum(map(len, lines[:-1]))
            self._last = lines[-1]
        return _parsed(lines)

    def _read(self, start: int) -> bytes:
        return self._file.store.get(self._file.key, start)


def _encoded(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line).encode() + b"\n"


def _whole_lines(data: bytes) -> bytes:
    return data[: data.rfind(b"\n") + 1]


def _parsed(lines: Iterable[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


def _first_event() -> bytes:
    from tensorboardX.proto.event_pb2 import Event

    return _record(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())


def _event(line: Mapping[str, Any]) -> bytes:
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary

    tags = SCALARS | {name: f"train/{name}" for name in line if name in METRICS}
    values = [Summary.Value(tag=tag, simple_value=line[name]) for name, tag in tags.items()]
    return _record(Event(wall_time=line["time"], step=line["step"], summary=Summary(value=values)).SerializeToString())


def _record(data: bytes) -> bytes:
    """Return a TFRecord: the length and its checksum, the data and its checksum."""
    from tensorboardX.record_writer import masked_crc32c

    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))
