"""The Flamingo model: PyPI `open_flamingo` on today's transformers, its LoRA, its checkpoints, and the rewriter over it."""
