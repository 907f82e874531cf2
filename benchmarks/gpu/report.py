"""The report of the GPU benchmarks: Markdown, written line by line, so an interrupted run loses nothing."""

from __future__ import annotations

import argparse
import platform
import shlex
import sys
import time
from pathlib import Path

import torch


class Report:
    """Markdown that is printed line by line and written to a file."""

    def __init__(self, options: argparse.Namespace, device: torch.device, title: str, module: str):
        self._file: Path | None = options.out
        self._lines: list[str] = []
        date = time.strftime("%Y-%m-%d")
        gpu = device.type == "cuda"
        if gpu:
            about = torch.cuda.get_device_properties(device)
            machine = f"{about.name}, {about.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
        else:
            machine = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
        self.say(f"# {title} on {'a GPU' if gpu else 'a CPU: no GPU measurement'}, {date}", "")
        if not gpu:
            self.say(
                "**No GPU was used: this checks that the program works; its figures say nothing about a GPU.**", ""
            )
        self.say(
            f"{machine}; torch {torch.__version__}, Python {platform.python_version()}.",
            f"`{shlex.join(['python', '-m', f'benchmarks.{module}', *sys.argv[1:]])}`.",
            f"Shape `{options.shape}`, random weights, {options.dtype}, {options.semantics} semantics.",
        )

    def say(self, *lines: str) -> None:
        """Add lines."""
        self._lines += lines
        print("\n".join(lines), flush=True)

    def table(self, title: str, head: str, rows: list[str]) -> None:
        """Add a heading and a table whose cells are separated by bars."""
        bar = "|" + "---|" * (head.count("|") + 1)
        self.say("", f"## {title}", "", f"| {head} |", bar, *(f"| {row} |" for row in rows))

    def write(self) -> None:
        """Write the file."""
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text("\n".join(self._lines) + "\n")


def ends(both: tuple[int, int], more: int = 0) -> str:
    """Format a range, with `more` added to both ends."""
    low, high = (end + more for end in both)
    return f"{low}" if low == high else f"{low} to {high}"


def goal(what: str, found: float | None, wanted: float, shown: str) -> str:
    """Format a row of the table of goals."""
    if found is None:
        return f"{what} | {shown.format(wanted)} | not measured | –"
    return f"{what} | {shown.format(wanted)} | {shown.format(found)} | {'yes' if found >= wanted else 'no'}"
