"""Seeds of whatever is sampled: strings, made of a seed and a sample's key, so that a retry gives the same text."""

from __future__ import annotations

import hashlib


def seed_number(seed: str) -> int:
    """Return a seed as a number for servers and torch, from 0 to 2**31 - 1."""
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4], "big") >> 1
