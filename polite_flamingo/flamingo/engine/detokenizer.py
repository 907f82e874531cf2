"""The text of a continuation while it grows: what later tokens cannot change any more, and where a stop text ends it.

A token alone has no text: several make one letter (bytes of UTF-8), and a blank belongs to the token behind it. So the
last few tokens are decoded together, from a place where the text was whole, and what is new is what follows the text
given before. The cost of a token does not grow with the text.

The pieces put together are what decoding all tokens at once gives. The exception are bytes that are no UTF-8: how many
replacement characters stand for them may differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_BROKEN = "\N{REPLACEMENT CHARACTER}"
"""What decoders write for bytes that are no letter, or not yet."""

_WINDOW = 8
"""At least so many tokens are decoded before the new one; it bounds them at twice as many, but for blank ones."""

_LETTER = 4
"""Bytes of a letter at most, each a token at worst."""

_HOPELESS = 32
"""Tokens in a row that end within a letter: they are noise, and the window must not grow with it."""


class RunningText:
    """Takes tokens one by one.

    Attributes:
        text: that is certain: without the beginning of a letter, or of what may become a stop text; when a stop text
            was found, all before it.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()):
        """Args: decode: tokens to text. stop: texts that end it; empty ones are none."""
        self.text = ""
        self._decode = decode
        self._stop = tuple(filter(None, stop))
        self._window: list[int] = []
        self._given = 0  # characters of the window's text
        self._whole = 0  # tokens of the window up to which text was whole when it was trimmed
        self._pending = 0  # tokens since the text was whole
        self._held = ""  # may be the beginning of a stop text
        self._stopped = False

    def add(self, token: int) -> bool:
        """Whether a stop text is complete with this token; nothing may be added after it."""
        self._window.append(token)
        self._pending += 1
        text = self._decode(self._window)
        if not text.endswith(_BROKEN) or self._pending == _HOPELESS:
            end, self._pending = len(text), 0
        elif self._pending < _LETTER:
            return False
        else:  # some of it is broken for good; its last bytes may still begin a letter
            end = len(text) - min(len(text) - len(text.rstrip(_BROKEN)), _LETTER - 1)
        new, self._given = text[self._given : end], max(self._given, end)
        if not self._pending:
            self._trim()
        return self._give(new)

    def end(self) -> str:
        """All of the text; nothing may be added after it."""
        if not self._stopped and not self._give(self._decode(self._window)[self._given :] if self._pending else ""):
            self.text += self._held
        return self.text

    def _trim(self) -> None:
        """Forget tokens in front, so that the window begins where the text was whole and holds something to be seen.

        Decoders drop blanks at the beginning; behind something that is seen they keep them.
        """
        recent = self._window[self._whole :]
        if len(recent) >= _WINDOW and (text := self._decode(recent)).strip():
            self._window, self._given, self._whole = recent, len(text), len(recent)

    def _give(self, new: str) -> bool:
        held = self._held + new
        found = [place for stop in self._stop if (place := held.find(stop)) >= 0]
        if found:
            self.text += held[: min(found)]
            self._stopped = True
            return True
        kept = max((_overlap(held, stop) for stop in self._stop), default=0)
        self.text += held[: len(held) - kept]
        self._held = held[len(held) - kept :]
        return False


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` that `stop` begins with; fewer than all of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if stop.startswith(text[-size:])), 0)
