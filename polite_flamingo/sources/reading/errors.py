"""The one error that readers raise for a file or folder that is unusable as a whole."""

from __future__ import annotations


class SourceError(ValueError):
    """An annotation file or folder as a whole is unusable; the message is one line: what, where, what to do."""
