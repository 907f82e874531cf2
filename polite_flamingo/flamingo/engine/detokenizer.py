"""The detokenizer: the text of a continuation while it grows, and where a stop string ends it.

A single token has no text of its own: several tokens can make one character (bytes of UTF-8), and whether a space is
kept depends on the token before it. So the last few tokens are decoded together, starting where the text was complete,
and the new text is what follows the text returned before. The cost per token does not grow with the text.

Joined, the pieces are the text of all tokens decoded at once. Invalid UTF-8 is the exception: the number of replacement
characters that stand for it may differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_BROKEN = "\N{REPLACEMENT CHARACTER}"
"""What decoders write for bytes that are not, or not yet, a character."""

_WINDOW = 8
"""Decode at least this many tokens before the new one, and at most twice as many unless they are blank."""

_MAX_CHARACTER_BYTES = 4
"""Bytes of the longest UTF-8 character, each a token in the worst case."""

_HOPELESS = 32
"""After this many tokens in a row without a complete character, treat them as noise so that the window stays small."""


class Detokenizer:
    """Turns tokens into text, one by one.

    Attributes:
        text: text that later tokens cannot change, without an incomplete character or the possible start of a stop
            string. Once a stop string is found, all text before it.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()):
        """Args: decode: converts tokens to text. stop: strings that end the text; empty strings are ignored."""
        self.text = ""
        self._decode = decode
        self._stop = tuple(filter(None, stop))
        self._window: list[int] = []
        self._given = 0  # characters of the window's text that were returned
        self._complete = 0  # tokens of the window up to which text was complete when it was trimmed
        self._pending = 0  # tokens since the text was last complete
        self._held = ""  # may be the start of a stop string
        self._stopped = False

    def add(self, token: int) -> bool:
        """Add a token; return whether it completes a stop string, after which no token may be added."""
        self._window.append(token)
        self._pending += 1
        text = self._decode(self._window)
        if not text.endswith(_BROKEN) or self._pending == _HOPELESS:
            end, self._pending = len(text), 0
        elif self._pending < _MAX_CHARACTER_BYTES:
            return False
        else:  # some bytes are invalid for good; the last ones may still start a character
            end = len(text) - min(len(text) - len(text.rstrip(_BROKEN)), _MAX_CHARACTER_BYTES - 1)
        new, self._given = text[self._given : end], max(self._given, end)
        if not self._pending:
            self._trim()
        return self._give(new)

    def end(self) -> str:
        """Return the whole text; no token may be added afterwards."""
        if not self._stopped and not self._give(self._decode(self._window)[self._given :] if self._pending else ""):
            self.text += self._held
        return self.text

    def _trim(self) -> None:
        """Drop tokens from the front, so that the window starts at complete text and is not only white space.

        Decoders strip white space at the start; after visible text they keep it.
        """
        recent = self._window[self._complete :]
        if len(recent) >= _WINDOW and (text := self._decode(recent)).strip():
            self._window, self._given, self._complete = recent, len(text), len(recent)

    def _give(self, new: str) -> bool:
        """Add new text, up to a stop string if there is one; return whether there is."""
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
    """Count the characters at the end of `text` that `stop` starts with; fewer than all of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if stop.startswith(text[-size:])), 0)
