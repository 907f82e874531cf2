"""From the host to the device without waiting: pinned memory and an asynchronous copy on CUDA.

A copy from ordinary memory to a GPU first waits for all that the GPU still has to do, so that the host could never
prepare the next piece of work while the GPU is at this one. On a CPU nothing is copied.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def upload(data: Tensor | list[Any], device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """`data` on the device. Torch keeps the pinned memory until the copy is done, so the caller need not wait.

    Args:
        data: a tensor on the host, or nested lists of numbers.
        device: where to.
        dtype: to convert to before the journey; None keeps it.
    """
    host = torch.as_tensor(data, dtype=dtype)
    if device.type != "cuda":
        return host.to(device)
    return host.pin_memory().to(device, non_blocking=True)
