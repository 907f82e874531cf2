"""LoRA adapters of the language model, made with peft but always **in place**.

`get_peft_model` would wrap the language model. open_flamingo then sets its flags on the wrapper, and cached decoding
would see no image. Injecting the adapters keeps the language model's class, gives the key names of the published
checkpoints (`…decoder_layer.self_attn.q_proj.lora_A.default.weight`), and merging leaves no trace of peft.

Adapter folders have peft's format: `adapter_config.json` and `adapter_model.safetensors`, with the names of the plain
language model (without open_flamingo's `.decoder_layer`). So peft can load ours, and we can load others (Guanaco).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import nn

from polite_flamingo.flamingo.config import LoraSettings
from polite_flamingo.flamingo.model.state_dict import canonical_state, load_state, read_state

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel

_PREFIX = "base_model.model."


def add_lora(model: FlamingoModel, settings: LoraSettings) -> None:
    """Attach a new LoRA adapter (B = 0, so the output is unchanged) and freeze everything else.

    Raises:
        ValueError: LoRA is already attached, or no module matches a target.
    """
    from peft import LoraConfig, inject_adapter_in_model

    if lora_layers(model):
        raise ValueError("LoRA is already attached; call merge_lora first")
    names = {name.rsplit(".", 1)[-1] for name, one in model.lang_encoder.named_modules() if isinstance(one, nn.Linear)}
    absent = [target for target in settings.targets if target not in names]
    if absent:
        raise ValueError(f"lora targets {absent} match no linear layer of the language model; it has {sorted(names)}")
    model.requires_grad_(False)
    inject_adapter_in_model(
        LoraConfig(
            r=settings.r,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=list(settings.targets),
        ),
        model.lang_encoder,
    )
    reference = next(model.perceiver.parameters())
    for layer in lora_layers(model).values():
        for matrix in (layer.lora_A, layer.lora_B):
            matrix.to(device=reference.device, dtype=reference.dtype).requires_grad_(True)
    model.lora_settings = settings


def merge_lora(model: FlamingoModel) -> None:
    """Merge W + alpha / r * B A into the plain layers and remove peft's layers; does nothing if no LoRA is attached."""
    for name, layer in lora_layers(model).items():
        layer.merge(safe_merge=True)
        parent, _, child = name.rpartition(".")
        setattr(model.lang_encoder.get_submodule(parent), child, layer.get_base_layer())


def lora_layers(model: FlamingoModel) -> dict[str, nn.Module]:
    """Return peft's layers by their name in the language model, each once."""
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.lang_encoder.named_modules() if isinstance(module, LoraLayer)}


@contextmanager
def without_lora(model: FlamingoModel) -> Iterator[None]:
    """Within the block, run the model as if no LoRA was attached; its weights and gradients are not touched."""
    scales = [layer.scaling for layer in lora_layers(model).values()]
    before = [dict(scale) for scale in scales]
    try:
        for scale in scales:
            scale.update(dict.fromkeys(scale, 0.0))
        yield
    finally:
        for scale, values in zip(scales, before, strict=True):
            scale.update(values)


def save_lora(model: FlamingoModel, folder: str | Path, *, merged: str | Path = "") -> None:
    """Write the attached LoRA as a peft adapter of the plain language model.

    Args:
        model: the model.
        folder: where to write.
        merged: folder of an adapter that was merged before the attached one was added, "" for none. Both are written as
            one adapter whose rank is the sum of theirs, which is exact: B A + D C = [B D] [A; C].

    Raises:
        ValueError: no LoRA is attached (it may have been merged).
    """
    layers = lora_layers(model)
    if not layers:
        raise ValueError("the model has no LoRA attached: save it before merge_lora")
    settings: LoraSettings = model.lora_settings
    tensors = {}
    for name, layer in layers.items():
        for side in ("lora_A", "lora_B"):
            key = f"{_PREFIX}{name.replace('.decoder_layer.', '.')}.{side}.weight"
            tensors[key] = getattr(layer, side)["default"].weight.detach().cpu().contiguous()
    if merged:
        tensors, settings = _stacked((_read_adapter(Path(merged)), read_settings(Path(merged))), (tensors, settings))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "",
        "r": settings.r,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "target_modules": list(settings.targets),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")


def _stacked(*adapters: tuple[dict[str, torch.Tensor], LoraSettings]) -> tuple[dict[str, torch.Tensor], LoraSettings]:
    """Return one adapter that adds what all of them add; its scale alpha / r is 1."""
    plain = [({_plain_key(key): one.float() for key, one in state.items()}, given) for state, given in adapters]
    names = {key.rsplit(".lora_", 1)[0] for state, _ in plain for key in state}
    rank = sum(given.r for _, given in plain)
    tensors: dict[str, torch.Tensor] = {}
    for name in sorted(names):
        down, up = f"{name}.lora_A.weight", f"{name}.lora_B.weight"
        shape = next((state[down].shape[1], state[up].shape[0]) for state, _ in plain if down in state)
        parts = [
            (state[down], state[up] * (given.alpha / given.r))
            if down in state  # a layer that only another one adapts
            else (torch.zeros(given.r, shape[0]), torch.zeros(shape[1], given.r))
            for state, given in plain
        ]
        tensors[down] = torch.cat([one for one, _ in parts]).contiguous()
        tensors[up] = torch.cat([one for _, one in parts], dim=1).contiguous()
    targets = sorted({name.rsplit(".", 1)[-1] for name in names})
    return tensors, LoraSettings(r=rank, alpha=rank, targets=tuple(targets), dropout=plain[-1][1].dropout)


def _plain_key(key: str) -> str:
    """Return the name of an adapter's tensor as `save_lora` writes it."""
    return key.replace(".decoder_layer.", ".").replace(".default.weight", ".weight")


def load_lora(model: FlamingoModel, folder: str | Path) -> None:
    """Attach the adapter of a peft folder; keys with and without open_flamingo's `.decoder_layer` are accepted.

    Raises:
        ValueError: it is not a plain LoRA, or its tensors do not match the model's one to one.
    """
    folder = Path(folder)
    settings = read_settings(folder)
    state = _read_adapter(folder)
    add_lora(model, settings)
    named = {f"lang_encoder.{_in_flamingo(key.removeprefix(_PREFIX))}": tensor for key, tensor in state.items()}
    load_state(
        model,
        canonical_state(model, named, source=str(folder)),
        omits=("vision_encoder", "perceiver", "cross_attention", "embeddings", "language_model"),
        source=str(folder),
    )


def read_settings(folder: Path) -> LoraSettings:
    """Read rank, alpha and targets from an `adapter_config.json`. Raises ValueError unless it is plain LoRA."""
    file = folder / "adapter_config.json"
    if not file.is_file():
        raise ValueError(f"{folder} is not a peft adapter: it has no adapter_config.json")
    config = json.loads(file.read_text())
    for field, plain in _PLAIN.items():
        if config.get(field, plain) not in (plain, None, False, {}, []):
            raise ValueError(f"{file}: {field} = {config[field]!r} is not supported; only plain LoRA can be merged")
    targets = config["target_modules"]
    if isinstance(targets, str):
        raise ValueError(f"{file}: target_modules must be a list of module names, not a pattern ({targets!r})")
    return LoraSettings(
        r=config["r"],
        alpha=config["lora_alpha"],
        targets=tuple(sorted(targets)),
        dropout=config.get("lora_dropout", 0.0),
    )


_PLAIN = {
    "peft_type": "LORA",
    "bias": "none",
    "use_dora": False,
    "use_rslora": False,
    "fan_in_fan_out": False,
    "modules_to_save": None,
    "rank_pattern": None,
    "alpha_pattern": None,
    "layers_to_transform": None,
}
"""Fields of an adapter_config.json with the only values that leave the arithmetic plain."""


def _read_adapter(folder: Path) -> dict[str, torch.Tensor]:
    for name in ("adapter_model.safetensors", "adapter_model.bin"):
        if (folder / name).is_file():
            return read_state(folder / name)
    raise ValueError(f"{folder} has neither adapter_model.safetensors nor adapter_model.bin")


def _in_flamingo(key: str) -> str:
    """Rename `model.layers.3.self_attn…` to `model.layers.3.decoder_layer.self_attn…`; other names stay."""
    return re.sub(r"((?:layers|blocks|h)\.\d+\.)(?!decoder_layer\.)", r"\1decoder_layer.", key, count=1)
