"""A local web server of images."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.image_site import Site


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()
