"""A raw dataset with two pictures."""

from __future__ import annotations

import pytest

from tests.support.raw_dataset import Raw


@pytest.fixture
def pictures(raw: Raw) -> Raw:
    raw.image("a.jpg", 32, 24)
    raw.image("b.jpg", 64, 48)
    return raw
