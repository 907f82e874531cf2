"""The machine's limits are measured on real work, and lie in the range of existing machines."""

from __future__ import annotations

import math

import pytest
import torch

from polite_flamingo.flamingo.engine.roofline import Ceilings, measure


@pytest.fixture(scope="module")
def measured() -> Ceilings:
    return measure("cpu", torch.float32)


def test_the_limits_are_those_of_a_machine(measured):
    """The range goes from a watch to a supercomputer; a wrong unit (bits, GB, inverted seconds) lies outside."""
    for number in (measured.flops, measured.bytes_per_second):
        assert math.isfinite(number) and 1e7 < number < 1e18


def test_arithmetic_is_cheaper_than_memory(measured):
    """Every processor since the eighties does more than one operation in the time it takes to fetch eight bytes."""
    assert measured.flops > measured.bytes_per_second / 8


def test_another_dtype_is_measured_as_well():
    assert measure(torch.device("cpu"), torch.bfloat16).flops > 0
