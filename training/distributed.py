"""Who trains together: one process, or the ranks of a torch.distributed group that somebody else has set up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

Parallel = Literal["ddp", "fsdp"]


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among its peers.

    Attributes:
        rank, size: 0 and 1 where there is no group.
        device: torch's name of this rank's.
        parallel: "ddp" copies the model, "fsdp" shards it (FSDP2).
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    parallel: Parallel = "ddp"

    @staticmethod
    def joined(device: str, parallel: Parallel = "ddp") -> World:
        """The world of the initialised group."""
        if not dist.is_initialized():
            return World(device=device)
        return World(rank=dist.get_rank(), size=dist.get_world_size(), device=device, parallel=parallel)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Element-wise over all ranks."""
        if self.size == 1:
            return list(values)
        found = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(found)
        return found.tolist()

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, at every rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def wrap(self, module: nn.Module, blocks: Sequence[nn.Module]) -> nn.Module:
        """The module as this world trains it; `blocks` are what FSDP gathers one at a time."""
        if self.size == 1:
            return module
        if self.parallel == "ddp":
            return nn.parallel.DistributedDataParallel(module)
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(torch.device(self.device).type, (self.size,))
        for block in blocks:
            fully_shard(block, mesh=mesh)
        # open_flamingo knows the parts of the blocks by other names too. What is frozen beside the blocks stays whole:
        # image features are encoded outside of the step, and it is little beside the blocks.
        blocked = {parameter for block in blocks for parameter in block.parameters()}
        frozen = {parameter for parameter in module.parameters() if not parameter.requires_grad}
        fully_shard(module, mesh=mesh, ignored_params=blocked | frozen)
        return module


ALONE = World()
"""One process."""


def whole(tensor: Tensor) -> Tensor:
    """The tensor on the CPU; of a sharded one all ranks must ask together."""
    from torch.distributed.tensor import DTensor

    found = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return found.detach().cpu()
