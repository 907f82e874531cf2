"""The Flamingo model (`model/`: PyPI's `open_flamingo` on current transformers) and its decoding engine (`engine/`)."""
