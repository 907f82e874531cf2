"""Checkpoints to resume from and the model folder at the end, on a disk or in a bucket.

    OUT/checkpoints/step-000120.json       created last: the state, and the files below with sizes and digests
    OUT/checkpoints/step-000120.ATTEMPT.tuned.safetensors
    OUT/checkpoints/step-000120.ATTEMPT.optimizer.pt
    OUT/model/                             tuned.safetensors and lora/, with what was tuned, and flamingo.yaml last

Nothing is renamed, which a bucket could not do. A checkpoint is there once its manifest is, and nothing is read that no
manifest names. ATTEMPT is random, so a worker that was believed dead and still writes overwrites nothing; what it and
interrupted workers leave is deleted by `sweep`. Folders of earlier versions (step-000120/ with tuned.safetensors,
optimizer.pt and state.json) are read as well.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from polite_flamingo import hub
from polite_flamingo.flamingo.config import FlamingoConfig, Part
from polite_flamingo.flamingo.model.checkpoint import save_flamingo
from polite_flamingo.flamingo.model.lora import lora_layers, save_lora
from polite_flamingo.flamingo.model.saved import FILE, write_config
from polite_flamingo.storage.attempts import new_attempt
from polite_flamingo.storage.disk import sweep_temporary
from polite_flamingo.storage.ledger import StoredFile, undamaged
from polite_flamingo.storage.location import Location
from polite_flamingo.storage.store import READ_AHEAD
from training.stages import CONNECTOR

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel

TUNED_FILE = "tuned.safetensors"
OPTIMIZER_FILE = "optimizer.pt"
LORA_FOLDER = "lora"
_FILES = {"tuned": TUNED_FILE, "optimizer": OPTIMIZER_FILE}
_OURS = re.compile(r"step-\d+[./]")
_MANIFEST = re.compile(r"step-(\d+)(\.old/state\.json|/state\.json|\.json)")
_PREFERENCE = (".old/state.json", "/state.json", ".json")
"""Ends of a manifest's name, the best last. The first two are of earlier versions, ".old" of one that was replaced."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A whole checkpoint, with everything read except its tensors.

    Attributes:
        folder: the folder of all checkpoints.
        name: of its manifest there.
        step: number of updates done.
        state: whatever the loop needs to resume, JSON types.
        tuned: the tuned tensors.
        optimizer: the optimizer's state.
    """

    folder: Location
    name: str
    step: int
    state: Mapping[str, Any]
    tuned: StoredFile
    optimizer: StoredFile

    def __str__(self) -> str:
        return str(self.folder / self.name)

    def load(self, tuned: Mapping[str, nn.Parameter]) -> dict[str, Any]:
        """Copy the tuned tensors into `tuned`; return the optimizer's state.

        Raises:
            ValueError: the checkpoint is damaged, or holds other tensors: it belongs to another stage or model.
        """
        found = load(self.read(self.tuned))
        wrong = set(found) ^ set(tuned) or {n for n in tuned if tuned[n].shape != found[n].shape}
        if wrong:
            raise ValueError(
                f"{self} belongs to another stage or model: {len(wrong)} tensors differ, such as {min(wrong)}; "
                "use another --out, or --fresh"
            )
        with torch.no_grad():
            for name, parameter in tuned.items():
                parameter.copy_(like(found[name], parameter))
        optimizer: dict[str, Any] = torch.load(
            io.BytesIO(self.read(self.optimizer)), map_location="cpu", weights_only=True
        )
        return optimizer

    def delete(self) -> None:
        """Delete it, its manifest first."""
        (self.folder / self.name).delete()
        self.folder.store.delete((self.folder / file.path).key for file in (self.tuned, self.optimizer))
        if "/" in self.name:
            (self.folder / self.name).parent.delete_tree()

    def read(self, file: StoredFile) -> bytes:
        """Return the bytes of one of its files. Raises `ValueError` if they have another digest."""
        with (self.folder / file.path).open() as stream:
            data = b"".join(iter(lambda: stream.read(READ_AHEAD), b""))
        if file.sha256 and hashlib.sha256(data).hexdigest() != file.sha256:
            raise ValueError(
                f"{self.folder / file.path} is damaged; delete {self} to resume from the checkpoint before it"
            )
        return data


def newest(folder: Location) -> Checkpoint | None:
    """Return the last whole checkpoint in `folder`, or None."""
    return next(_whole(folder, _sizes(folder)), None)


def sweep(folder: Location) -> None:
    """Delete what interrupted runs left in `folder`. Nobody else may be writing there."""
    if folder.local is not None:
        sweep_temporary(folder.local)
    sizes = _sizes(folder)
    used = {name for one in _whole(folder, sizes) for name in (one.name, one.tuned.path, one.optimizer.path)}
    stale = [name for name in sizes if _OURS.match(name) and name not in used]
    folder.store.delete((folder / name).key for name in stale)
    kept = {name.split("/")[0] for name in used}
    for name in {name.split("/")[0] for name in stale if "/" in name} - kept:  # a folder of an earlier version
        (folder / name).delete_tree()


def _sizes(folder: Location) -> dict[str, int]:
    """Return the size of each object in `folder`, by its name there."""
    start = len((folder / "").key)
    return {entry.key[start:]: entry.size for entry in folder.entries()}


def _whole(folder: Location, sizes: Mapping[str, int]) -> Iterator[Checkpoint]:
    """Yield the whole checkpoints among the objects of `folder`, the last first, one per step."""
    named = [
        (int(found[1]), _PREFERENCE.index(found[2]), name) for name in sizes if (found := _MANIFEST.fullmatch(name))
    ]
    done = -1
    for step, _, name in sorted(named, reverse=True):
        if step == done:
            continue
        try:
            one = _read(folder, step, name, sizes)
        except FileNotFoundError:
            continue  # another worker has just deleted it
        if all(sizes.get(file.path) == file.size for file in (one.tuned, one.optimizer)):
            done = step
            yield one


def _read(folder: Location, step: int, name: str, sizes: Mapping[str, int]) -> Checkpoint:
    place = folder / name
    with undamaged(place, "delete it to resume from the checkpoint before it"):
        record = json.loads(place.read_text())
        if "/" in name:  # of an earlier version, which renamed whole folders
            inside = name.rpartition("/")[0]
            files = {
                kind: StoredFile(path=f"{inside}/{file}", size=sizes.get(f"{inside}/{file}", -1), sha256="")
                for kind, file in _FILES.items()
            }
            return Checkpoint(folder=folder, name=name, step=step, state=record, **files)
        files = {kind: StoredFile(**file) for kind, file in record["files"].items()}
        return Checkpoint(folder=folder, name=name, step=step, state=record["state"], **files)


def save(
    folder: Location, step: int, tuned: Mapping[str, Tensor], optimizer: Mapping[str, Any], state: Mapping[str, Any],
    *, keep: int,
) -> None:  # fmt: skip
    """Write a checkpoint and delete all but the last `keep`.

    Raises:
        OSError: the disk is full, for example. Earlier checkpoints are untouched.
    """
    name, attempt = f"step-{step:06d}", new_attempt()
    paths = {kind: f"{name}.{attempt}.{file}" for kind, file in _FILES.items()}
    keys = [(folder / path).key for path in paths.values()]
    try:
        files = {
            "tuned": _put(folder, paths["tuned"], to_bytes({key: one.contiguous() for key, one in tuned.items()})),
            "optimizer": _put(folder, paths["optimizer"], _saved(optimizer)),
        }
    except OSError:
        with suppress(OSError):
            folder.store.delete(keys)
        raise
    record = {"files": {kind: dataclasses.asdict(file) for kind, file in files.items()}, "state": state}
    if not (folder / f"{name}.json").create(json.dumps(record, allow_nan=False) + "\n"):
        folder.store.delete(keys)  # a worker that was believed dead was first, and its checkpoint is as good
    for old in list(_whole(folder, _sizes(folder)))[keep:]:
        old.delete()


def _put(folder: Location, path: str, data: bytes | memoryview) -> StoredFile:
    with (folder / path).writer() as file:
        file.write(data)
    return StoredFile(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def _saved(optimizer: Mapping[str, Any]) -> memoryview:
    """Return the bytes that `torch.save` writes; into a file, it would hide a full disk behind another error."""
    buffer = io.BytesIO()
    torch.save(dict(optimizer), buffer)
    return buffer.getbuffer()


def save_model(
    model: FlamingoModel, config: FlamingoConfig, folder: Location, *, tuned: Sequence[Part], merged: bool = False
) -> None:
    """Write a model folder that `FlamingoConfig(folder=…)` loads.

    Args:
        model: the model, with its LoRA attached if it has one.
        config: the config it was loaded from, as `saved.opened` returns it. The base stays named; only what training
            changed is written.
        folder: where to write. A stage writes the same bytes whenever it ends, and flamingo.yaml last.
        tuned: the parts that this stage tuned; `config` names those of earlier stages.
        merged: whether the LoRA that `config` names was merged before the attached one was added. An adapter's folder
            is written together with the new one; one in the checkpoints stays there.
    """
    names = tuple(name for name in config.checkpoints if Path(name).name != TUNED_FILE)
    parts = set(tuned) - {"lora"}
    if names != config.checkpoints:
        parts |= set(CONNECTOR)
    in_checkpoint = config.lora_in_checkpoint is not None and not config.lora and not merged
    if in_checkpoint:
        parts.add("lora")
    adapter = bool(lora_layers(model)) and not in_checkpoint
    with tempfile.TemporaryDirectory() as scratch:
        new = Path(scratch)
        try:
            if parts:
                save_flamingo(model, new / TUNED_FILE, parts=sorted(parts))
            if adapter:
                before = hub.resolve(config.lora) if merged and config.lora else ""
                save_lora(model, new / LORA_FOLDER, merged=before)
        except SafetensorError as error:  # what its writer raises where the disk is full
            raise OSError(str(error)) from error
        for path in filter(Path.is_file, sorted(new.rglob("*"))):
            with path.open("rb") as source, (folder / path.relative_to(new).as_posix()).writer() as file:
                shutil.copyfileobj(source, file, READ_AHEAD)
        written = dataclasses.replace(
            config,
            checkpoints=(*names, str(new / TUNED_FILE)) if parts else names,
            lora=str(new / LORA_FOLDER) if adapter else "",
        )
        (folder / FILE).put(write_config(new, _absolute(written)))


def _absolute(config: FlamingoConfig) -> FlamingoConfig:
    """Return the config with absolute paths: the folder may be used from another working directory."""

    def path(name: str) -> str:
        return str(Path(name).absolute()) if name and ":" not in name and Path(hub.resolve(name)).exists() else name

    parts = ("vision", "vision_pretrained", "language_model", "tokenizer")
    named: dict[str, Any] = {part: path(getattr(config, part)) for part in parts}
    return dataclasses.replace(config, checkpoints=tuple(map(path, config.checkpoints)), **named)


def like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return a whole tensor in the layout of a parameter, which is sharded under FSDP."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(parameter, DTensor):
        return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)
    return tensor
