"""The scheduler: which waiting requests get a KV slot, and which prompts run in the next step."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

from polite_flamingo.flamingo.config import EngineConfig
from polite_flamingo.flamingo.engine.requests import Request
from polite_flamingo.flamingo.engine.slots import Slots


class Scheduler:
    """First come, first served. Free slots are filled in groups, because prompts that run together cost less.

    Attributes:
        waiting: requests without a slot.
        slots: the KV slots. The engine fills them, and frees the slot of a request that ends; the scheduler frees the
            slots of cancelled and preempted requests.
    """

    def __init__(self, slots: Slots, config: EngineConfig):
        self.waiting: deque[Request] = deque()
        self.slots = slots
        self._config = config

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.waiting and not self.slots.rows

    def ready_to_admit(self) -> bool:
        """Whether enough slots are free to admit requests now."""
        free = self.slots.free_count
        if self.slots.decoding and free < min(len(self.waiting), self.slots.count // self._config.refills):
            return False
        return bool(self.waiting) and free > 0

    @contextmanager
    def admitting(self) -> Iterator[list[Request]]:
        """Take as many requests from the queue as there are free slots.

        If admission fails (no memory), those that neither ended nor got a slot return to the head of the queue.
        """
        batch = [self.waiting.popleft() for _ in range(min(len(self.waiting), self.slots.free_count))]
        try:
            yield batch
        except BaseException:
            self.waiting.extendleft(r for r in reversed(batch) if not r.done and r not in self.slots.rows)
            raise

    def next_waiting(self) -> Iterator[Request]:
        """Iterate over the requests that will get slots soon."""
        return islice(self.waiting, 4 * self.slots.count)

    def prefill_rows(self) -> tuple[list[int], int]:
        """Choose the rows whose prompts run next: as many as the token budget allows, padded to the longest of them.

        Returns:
            the rows, and how many tokens of each run (fewer if a prompt has fewer left).
        """
        budget = self._config.prefill_tokens
        rows: list[int] = []
        width = 0
        for row in range(self.slots.decoding, len(self.slots.rows)):
            request = self.slots.rows[row]
            left = min(len(request.history) - request.num_computed_tokens, budget)
            if rows and max(width, left) * (len(rows) + 1) > budget:
                break
            rows.append(row)
            width = max(width, left)
        return rows, width

    def remove(self, request: Request) -> None:
        """Take a request out of the queue or free its slot."""
        if request in self.waiting:
            self.waiting.remove(request)
        elif request in self.slots.rows:
            self.slots.free(self.slots.rows.index(request))

    def preempt_all(self, requests: Sequence[Request]) -> None:
        """Release all slots and put these requests back at the head of the queue, to run again from their prompts."""
        for request in requests:
            request.num_computed_tokens = request.num_shared_tokens = 0
        self.waiting.extendleft(reversed(requests))
        self.slots.clear()
