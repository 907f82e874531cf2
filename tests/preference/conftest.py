"""Fixtures: a tiny Flamingo that answers nonsense, always the same."""

from tests.support.tiny_flamingo import model_v2 as model_v2
from tests.support.tiny_flamingo import tiny as tiny
