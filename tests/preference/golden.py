"""The golden numbers that TRL made, in the project's shared folder; tests that need them are skipped without it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from polite_flamingo.preference.losses import PairLogProbs

FOLDER = Path(os.environ.get("POLITE_FLAMINGO_SHARED") or Path(__file__).parents[3] / "shared") / "preference"
"""Beside the checkout, or where POLITE_FLAMINGO_SHARED says."""


def golden() -> dict[str, Any]:
    """Return golden.json; skips the test that asks for it where there is none."""
    file = FOLDER / "golden.json"
    if not file.is_file():
        pytest.skip(f"{file} is missing: TRL's golden numbers are in the project's shared folder")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def doubles(values: object) -> Tensor:
    """A float64 tensor."""
    return torch.tensor(values, dtype=torch.float64)


def pairs_of(chosen: Tensor, rejected: Tensor, records: list[dict[str, Any]], **more: Tensor) -> PairLogProbs:
    """The pairs of the file, with the policy's sums given."""
    return PairLogProbs(
        chosen=chosen,
        rejected=rejected,
        chosen_tokens=doubles([len(one["chosen"]) for one in records]),
        rejected_tokens=doubles([len(one["rejected"]) for one in records]),
        ref_chosen=doubles([one["ref_chosen"] for one in records]),
        ref_rejected=doubles([one["ref_rejected"] for one in records]),
        **more,
    )
