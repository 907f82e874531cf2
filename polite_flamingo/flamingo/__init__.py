"""The Flamingo model: PyPI `open_flamingo` on today's transformers, its LoRA and checkpoints, and the rewriter."""
