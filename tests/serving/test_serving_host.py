"""What an engine replica is made of: how often it sends."""

from __future__ import annotations

import pytest

from serving.host import pause_between


def test_an_engine_sends_no_more_pieces_the_more_streams_it_has() -> None:
    pauses = {streams: pause_between(0.05, streams) for streams in (0, 1, 4, 16, 32, 1000)}
    assert pauses[0] == pauses[1] == pauses[4] == 0.05
    assert 16 / pauses[16] == pytest.approx(4 / pauses[4]) == pytest.approx(32 / pauses[32])
    assert pauses[1000] == 0.5 and pause_between(0.0, 1000) == 0.0
