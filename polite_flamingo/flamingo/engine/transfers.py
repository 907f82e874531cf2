"""Asynchronous copies from the host to the device: pinned memory on CUDA, nothing to copy on a CPU.

A copy from ordinary memory first waits for all the work that is queued on the GPU, so the host could not prepare the
next step while this one runs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def upload(data: Tensor | list[Any], device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Copy `data` to the device without waiting; torch keeps the pinned memory until the copy is done.

    Args:
        data: a tensor on the host, or nested lists of numbers.
        device: the target device.
        dtype: convert to this first; None keeps the dtype.
    """
    host = torch.as_tensor(data, dtype=dtype)
    if device.type != "cuda":
        return host.to(device)
    return host.pin_memory().to(device, non_blocking=True)
