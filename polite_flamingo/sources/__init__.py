"""Raw datasets on disk -> samples: `SOURCES[name].read(options)`. One file a family; the dict below is the registry."""

from __future__ import annotations

from polite_flamingo.sources.base import Row, Source, SourceError, SourceOptions

SOURCES: dict[str, Source] = {}

__all__ = ["SOURCES", "Row", "Source", "SourceError", "SourceOptions"]
