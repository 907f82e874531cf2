"""The ranks of a training run: one process, or a torch.distributed group that is already initialised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

Parallel = Literal["ddp", "fsdp"]


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process and its place among the ranks of a run.

    Attributes:
        rank, size: this process's rank and the number of ranks; 0 and 1 without a group.
        device: this rank's device, as torch names it.
        parallel: "ddp" copies the model, "fsdp" shards it (FSDP2).
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    parallel: Parallel = "ddp"

    @staticmethod
    def joined(device: str, parallel: Parallel = "ddp") -> Ranks:
        """Return this process in the initialised group, if there is one."""
        if not dist.is_initialized():
            return Ranks(device=device)
        return Ranks(rank=dist.get_rank(), size=dist.get_world_size(), device=device, parallel=parallel)

    @property
    def sharded(self) -> bool:
        """Whether parameters are sharded over the ranks."""
        return self.parallel == "fsdp" and self.size > 1

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sum element by element over all ranks."""
        if self.size == 1:
            return list(values)
        found = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(found)
        return found.tolist()

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, on every rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def wrap(self, module: nn.Module, blocks: Sequence[nn.Module]) -> nn.Module:
        """Wrap a module for training on these ranks; FSDP gathers `blocks` one at a time."""
        if self.size == 1:
            return module
        if self.parallel == "ddp":
            return nn.parallel.DistributedDataParallel(module)
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(torch.device(self.device).type, (self.size,))
        for block in blocks:
            fully_shard(block, mesh=mesh)
        # open_flamingo has the parts of the blocks under other names too. What is frozen outside the blocks stays
        # whole: it is small, and images are encoded outside the wrapped module.
        blocked = {parameter for block in blocks for parameter in block.parameters()}
        frozen = {parameter for parameter in module.parameters() if not parameter.requires_grad}
        fully_shard(module, mesh=mesh, ignored_params=blocked | frozen)
        return module


ONE_PROCESS = Ranks()
"""A run in one process, without a group."""


def whole(tensor: Tensor) -> Tensor:
    """Return the tensor on the CPU. For a sharded one, all ranks must call this together."""
    from torch.distributed.tensor import DTensor

    found = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return found.detach().cpu()
