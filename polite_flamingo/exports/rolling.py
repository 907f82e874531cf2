"""Files of bounded size, one after the other; each is there whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import BinaryIO, Generic, TypeVar

from polite_flamingo.storage.location import Location

Opened = TypeVar("Opened")


class Rolling(Generic[Opened]):
    """Writes to one file at a time; begins the next where the limit would be exceeded."""

    def __init__(
        self, place: Callable[[int], Location], opened: Callable[[BinaryIO], AbstractContextManager[Opened]], limit: int
    ):
        """Open nothing yet.

        Args:
            place: returns the place of a file, given its number.
            opened: makes what is written to of a file, and finishes it.
            limit: bytes of a file, as its writer estimates them; a larger item gets a file of its own.
        """
        self._place, self._opened, self._limit = place, opened, limit
        self._stack: ExitStack | None = None
        self._held = 0
        self._current: Opened
        self.files: list[Location] = []

    def room(self, size: int) -> Opened:
        """Return what to write the next item to. Args: size: its bytes."""
        if self._stack is not None and self._held + size > self._limit:
            self.__exit__(None, None, None)
        if self._stack is None:
            place = self._place(len(self.files))
            with ExitStack() as stack:
                self._current = stack.enter_context(self._opened(stack.enter_context(place.writer())))
                self._stack, self._held = stack.pop_all(), 0
            self.files.append(place)
        self._held += size
        return self._current

    def __enter__(self) -> Rolling[Opened]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Finish the file that is open; after an error it is not there."""
        if self._stack is not None:
            stack, self._stack = self._stack, None
            stack.__exit__(kind, error, traceback)
