"""Checkpoints to resume from and the model folder at the end: each folder is whole, or it is not there.

    OUT/checkpoints/step-000120/   tuned.safetensors, optimizer.pt, state.json
    OUT/model/                     flamingo.yaml, tuned.safetensors and lora/, with what was tuned

Each is written under a temporary name, synced and renamed, and the rename is synced too: once `save` returns, the
checkpoint survives a loss of power. A folder that was cut short keeps its temporary name and is never read; `sweep`
removes it.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from polite_flamingo import hub
from polite_flamingo.flamingo.config import FlamingoConfig, Part
from polite_flamingo.flamingo.model.checkpoint import save_flamingo
from polite_flamingo.flamingo.model.lora import lora_layers, save_lora
from polite_flamingo.flamingo.model.saved import FILE, write_config
from training.stages import CONNECTOR

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel

TUNED_FILE = "tuned.safetensors"
LORA_FOLDER = "lora"
_STEP = re.compile(r"step-(\d+)")
_CUT_SHORT = re.compile(r"(step-\d+)\.(tmp|old)")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A whole checkpoint on disk, with everything read except its tensors.

    Attributes:
        folder: its folder.
        step: number of updates done.
        state: whatever the loop needs to resume, JSON types.
    """

    folder: Path
    step: int
    state: Mapping[str, Any]

    def load(self, tuned: Mapping[str, nn.Parameter]) -> dict[str, Any]:
        """Copy the tuned tensors into `tuned`; return the optimizer's state.

        Raises:
            ValueError: the checkpoint holds other tensors: it belongs to another stage or model.
        """
        found = load_file(str(self.folder / TUNED_FILE))
        wrong = set(found) ^ set(tuned) or {n for n in tuned if tuned[n].shape != found[n].shape}
        if wrong:
            raise ValueError(
                f"{self.folder} belongs to another stage or model: {len(wrong)} tensors differ, such as {min(wrong)}; "
                "use another --out, or --fresh"
            )
        with torch.no_grad():
            for name, parameter in tuned.items():
                parameter.copy_(like(found[name], parameter))
        optimizer: dict[str, Any] = torch.load(self.folder / "optimizer.pt", map_location="cpu", weights_only=True)
        return optimizer


def sweep(folder: Path) -> None:
    """Remove what an interrupted run left under `folder`. Nobody else may be writing there.

    A checkpoint that was about to be replaced gets its name back if its successor was not finished.
    """
    for path in sorted(folder.glob("step-*")):
        if found := _CUT_SHORT.fullmatch(path.name):
            whole = folder / found[1]
            if found[2] == "old" and not whole.exists():
                path.rename(whole)
            else:
                shutil.rmtree(path)


def newest(folder: Path) -> Checkpoint | None:
    """Return the last whole checkpoint under `folder`, or None."""
    steps = _steps(folder)
    if not steps:
        return None
    step, path = max(steps.items())
    return Checkpoint(folder=path, step=step, state=json.loads((path / "state.json").read_text()))


def _steps(folder: Path) -> dict[int, Path]:
    """Return the whole checkpoints under `folder` by their step, in order."""
    found = {int(match[1]): path for path in folder.glob("step-*") if (match := _STEP.fullmatch(path.name))}
    return dict(sorted(found.items()))


def save(
    folder: Path, step: int, tuned: Mapping[str, Tensor], optimizer: Mapping[str, Any], state: Mapping[str, Any],
    *, keep: int,
) -> None:  # fmt: skip
    """Write a checkpoint and delete all but the last `keep`.

    Raises:
        OSError: the disk is full, for example. Earlier checkpoints are untouched.
    """

    def write(new: Path) -> None:
        save_file({name: tensor.contiguous() for name, tensor in tuned.items()}, str(new / TUNED_FILE))
        buffer = io.BytesIO()  # writing the file itself, torch hides a full disk behind another error
        torch.save(dict(optimizer), buffer)
        (new / "optimizer.pt").write_bytes(buffer.getbuffer())
        (new / "state.json").write_text(json.dumps(state, allow_nan=False) + "\n")

    _write(folder / f"step-{step:06d}", write)
    for old in list(_steps(folder).values())[:-keep]:
        shutil.rmtree(old)


def save_model(model: FlamingoModel, config: FlamingoConfig, folder: Path, *, tuned: Sequence[Part]) -> None:
    """Write a model folder that `FlamingoConfig(folder=…)` loads.

    Args:
        model: the model, with its LoRA attached if it has one.
        config: the config it was loaded from, as `saved.opened` returns it. The base stays named; only what training
            changed is written.
        folder: where to write; replaced as a whole.
        tuned: the parts that this stage tuned; `config` names those of earlier stages.
    """
    folder = folder.absolute()
    names = tuple(name for name in config.checkpoints if Path(name).name != TUNED_FILE)
    parts = set(tuned) - {"lora"}
    if names != config.checkpoints:
        parts |= set(CONNECTOR)
    if config.lora_in_checkpoint:
        parts.add("lora")
    adapter = bool(lora_layers(model)) and not config.lora_in_checkpoint
    written = dataclasses.replace(
        config,
        checkpoints=(*names, str(folder / TUNED_FILE)) if parts else names,
        lora=str(folder / LORA_FOLDER) if adapter else "",
    )

    def write(new: Path) -> None:
        if parts:
            save_flamingo(model, new / TUNED_FILE, parts=sorted(parts))
        if adapter:
            save_lora(model, new / LORA_FOLDER)
        (new / FILE).write_text(write_config(folder, _absolute(written)))

    _write(folder, write)


def _absolute(config: FlamingoConfig) -> FlamingoConfig:
    """Return the config with absolute paths: the folder may be used from another working directory."""

    def path(name: str) -> str:
        return str(Path(name).absolute()) if name and Path(hub.resolve(name)).exists() and ":" not in name else name

    parts = ("vision", "vision_pretrained", "language_model", "tokenizer")
    named: dict[str, Any] = {part: path(getattr(config, part)) for part in parts}
    return dataclasses.replace(config, checkpoints=tuple(map(path, config.checkpoints)), **named)


def _write(folder: Path, write: Callable[[Path], None]) -> None:
    """Fill a temporary folder, sync everything in it, replace `folder` with it, and sync the parent."""
    new, old = folder.with_name(f"{folder.name}.tmp"), folder.with_name(f"{folder.name}.old")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        write(new)
        for path in (*new.rglob("*"), new):
            _sync(path)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        new.rename(folder)
        _sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(new, ignore_errors=True)
        if isinstance(error, SafetensorError):  # what its writer raises where the disk is full
            raise OSError(str(error)) from error
        raise


def _sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return a whole tensor in the layout of a parameter, which is sharded under FSDP."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(parameter, DTensor):
        return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)
    return tensor
