"""What an engine replica is made of: how often it sends, and how many may wait."""

from __future__ import annotations

import inspect

import pytest

from serving.backends.engine_host import EngineHost, chunk_interval
from serving.config import ServingConfig


def test_a_host_that_nobody_told_does_as_a_profile_that_says_nothing() -> None:
    own, profile = inspect.signature(EngineHost).parameters, ServingConfig
    assert (own["waiting"].default, own["flush_seconds"].default) == (profile.waiting, profile.flush_seconds)


def test_an_engine_sends_no_more_pieces_the_more_streams_it_has() -> None:
    pauses = {streams: chunk_interval(0.05, streams) for streams in (0, 1, 4, 16, 32, 1000)}
    assert pauses[0] == pauses[1] == pauses[4] == 0.05
    assert 16 / pauses[16] == pytest.approx(4 / pauses[4]) == pytest.approx(32 / pauses[32])
    assert pauses[1000] == 0.5 and chunk_interval(0.0, 1000) == 0.0
