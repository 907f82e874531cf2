"""The dataset that every test of ingest reads."""

from tests.support.ingesting import raw

__all__ = ["raw"]
