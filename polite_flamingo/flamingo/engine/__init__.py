"""The decoding engine: continuous batching, slots, prefix and image caches, sampling, detokenizer."""
