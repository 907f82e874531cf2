"""The Flamingo model: PyPI `open_flamingo` on today's transformers, its LoRA and checkpoints, and the rewriter."""

from polite_flamingo import hub as hub  # before any module of this package: it repairs the import of open_flamingo
