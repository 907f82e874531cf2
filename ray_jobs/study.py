"""The steps of a study (`paper.py`, `align.py`): processes on Ray, one per core, each started once those it needs are
done. A step's result file says that it is done, so an interrupted study resumes. Training runs of a study are too small
to be divided.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polite_flamingo.storage.location import write_atomically
from ray_jobs import console, progress
from ray_jobs.resumable_job import Attempt


class Steps:
    """Steps under way on Ray, each started once those it needs are done, with a progress bar."""

    def __init__(self, bar: Any, attempt: Attempt, gpus: float):
        import ray

        self._bar, self._attempt, self._ray = bar, attempt, ray
        self._remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=2)(_work)
        self._open: dict[Any, str] = {}

    def start(self, title: str, needs: list[Any], result: Path, function: Callable[..., Any], *arguments: Any) -> Any:
        """Begin a step once those it needs are done; returns a handle that other steps may need.

        Args:
            title: name of the step, for messages.
            needs: handles of other steps.
            result: the file for what `function` returns; if it is there, the step is done already.
            function: any that can be sent to another process.
            arguments: arguments for `function`.
        """
        done = self._remote.remote(result, function, arguments, *needs)
        self._open[done] = title
        return done

    def finish(self) -> None:
        """Wait for every step; the first failure ends the job with its reason."""
        while self._open:
            [first], _ = self._ray.wait(list(self._open), num_returns=1)
            title = self._open.pop(first)
            try:
                self._ray.get(first)
            except self._ray.exceptions.RayTaskError as error:
                raise console.JobFailed(f"{title}: {error.cause}") from error
            self.done(title)

    def done(self, title: str) -> None:
        """Count a step, and note the time so far, so that an attempt that is killed counts too."""
        self._attempt.note()
        self._bar.set_postfix_str(title)
        self._bar.update()


def _work(result: Path, function: Callable[..., Any], arguments: tuple[Any, ...], *needs: None) -> None:
    """Run a step in a worker on one thread, as each core has its own step. Ray waits for `needs`."""
    if not result.exists():
        import torch

        torch.set_num_threads(1)
        write_atomically(result, json.dumps(function(*arguments)))


@contextmanager
def study_steps(total: int, attempt: Attempt, gpus: float) -> Iterator[Steps]:
    """Show a progress bar of `total` steps; see `Steps`. Args: gpus: GPUs per step."""
    form = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps, {elapsed}, about {remaining} left{postfix}"
    with progress.bar(total, form) as bar:
        yield Steps(bar, attempt, gpus)
