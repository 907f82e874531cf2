"""A tiny Flamingo of random weights."""

from tests.support.tiny_flamingo import tiny as tiny
