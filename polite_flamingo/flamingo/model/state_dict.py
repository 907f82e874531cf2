"""State dicts of a Flamingo: translates every published naming scheme and refuses what does not fit.

A checkpoint covers each *part* (`config.Part`) completely or not at all; the caller names the parts it may leave out.
An unknown tensor, a missing or incomplete part, and a wrong shape are errors that name the keys and the remedy. Without
such errors the reference code once lost its LoRA initialisation (0 of 56 tensors were loaded). `checkpoint.py` and
`lora.py` decide which files make up a model.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from safetensors.torch import load_file

from polite_flamingo.flamingo.config import Part

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel

PARTS: tuple[Part, ...] = get_args(Part)

_SHOWN = 4


def load_state(model: FlamingoModel, state: Mapping[str, torch.Tensor], *, omits: Sequence[Part], source: str) -> None:
    """Copy a state from `canonical_state` into the model, after checking that each part is complete.

    Args:
        model: the model whose parameters are overwritten.
        state: tensors by canonical name.
        omits: parts that may be missing.
        source: name of the file in errors.

    Raises:
        ValueError: a part is incomplete or missing, or a tensor has another shape.
    """
    own = unique_parameters(model)
    by_part: dict[Part, list[str]] = {}
    for name in own:
        by_part.setdefault(part_of(model, name), []).append(name)
    absent = {}
    for part, names in sorted(by_part.items()):
        missing = [plain_name(name) for name in names if name not in state]
        if missing and len(missing) < len(names):
            raise ValueError(
                f"{source}: part {part!r} is incomplete, {len(missing)} of {len(names)} tensors are missing: "
                f"{_some(missing)}. Was it saved from a model with other sizes (perceiver, cross_attention, layers)?"
            )
        if missing and part not in omits:
            absent[part] = f"{part} ({len(names)} expected, such as {missing[0]})"
    if absent:
        raise ValueError(
            f"{source}: no tensors of {', '.join(absent.values())}. Add the checkpoint that holds them (OpenFlamingo's "
            f"base before a fine-tuned one), or name {', '.join(absent)} in checkpoint_omits if their weights come "
            "from elsewhere"
        )
    shapes = [
        f"{plain_name(name)} {tuple(tensor.shape)} in the file, {tuple(own[name].shape)} in the model"
        for name, tensor in state.items()
        if tensor.shape != own[name].shape
    ]
    if shapes:
        raise ValueError(
            f"{source}: {len(shapes)} tensors have other shapes than the model: {_some(shapes)}. Check the config's "
            "sizes, and that the tokenizer adds the tokens that the checkpoint was trained with"
        )
    with torch.no_grad():
        for name, tensor in state.items():
            own[name].copy_(tensor)


def read_state(file: str | Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a `.safetensors` or torch file; unwrap `{"model_state_dict": …}` of training checkpoints.

    Raises:
        ValueError: the file is missing or not a state dict. `torch.load` itself refuses anything but tensors.
    """
    path = Path(file)
    if not path.is_file():
        raise ValueError(
            f"checkpoint {path} is not a file; download published weights first and give the path of the file"
        )
    if path.suffix == ".safetensors":
        return load_file(str(path))
    # Only zip files, which torch writes since 1.6, can be memory-mapped.
    state: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    if isinstance(state, Mapping) and isinstance(state.get("model_state_dict"), Mapping):
        state = state["model_state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise ValueError(f"{path}: not a state dict (a mapping of names to tensors); nothing was loaded")
    return {str(name): tensor for name, tensor in state.items()}


def canonical_state(model: FlamingoModel, state: Mapping[str, torch.Tensor], *, source: str) -> dict[str, torch.Tensor]:
    """Rename `state` to the model's own parameter names, with one entry per tensor.

    Understands DDP's `module.`; v1's whole CLIP (`vision_encoder.visual.*`; its text tower is dropped); open_flamingo's
    aliases; rotary buffers (dropped); LoRA of peft 0.2 (`lora_A.weight`), of peft ≥ 0.3 (`lora_A.default.weight`) and
    of a PeftModel (`lang_encoder.base_model.model.`); base weights with and without `.base_layer`.

    Raises:
        ValueError: a tensor is unknown to the model, or two names of one tensor contradict each other.
    """
    names = _aliases(model)
    whole_clip = any(key.removeprefix("module.").startswith("vision_encoder.visual.") for key in state)
    found: dict[str, torch.Tensor] = {}
    unknown = []
    for key, tensor in state.items():
        name = _modern(key)
        if whole_clip and name.startswith("vision_encoder."):
            if not name.startswith("vision_encoder.visual."):
                continue
            name = name.replace("vision_encoder.visual.", "vision_encoder.", 1)
        if name.endswith("rotary_emb.inv_freq"):
            continue
        canonical = names.get(name)
        if canonical is None:
            unknown.append(key)
        elif canonical in found and not torch.equal(found[canonical], tensor):
            raise ValueError(f"{source}: {key} contradicts another name of the same tensor ({canonical})")
        else:
            found[canonical] = tensor
    if unknown:
        raise ValueError(_unknown_message(model, unknown, source))
    return found


def _unknown_message(model: FlamingoModel, unknown: Sequence[str], source: str) -> str:
    text = f"{source}: {len(unknown)} tensors are unknown to the model: {_some(unknown)}. "
    if all(".lora_" in key for key in unknown):
        if any(".lora_" in name for name in unique_parameters(model)):
            return text + "They are LoRA tensors of modules that the attached LoRA does not adapt; check its targets"
        return text + (
            "They are LoRA tensors, but the model has no LoRA attached: set lora_in_checkpoint (rank, alpha, targets) "
            "for a Flamingo checkpoint, or lora for a peft adapter folder"
        )
    return text + (
        "The checkpoint belongs to another architecture: check language_model, cross_attn_every_n_layers and the sizes "
        "of perceiver and cross_attention"
    )


def unique_parameters(model: FlamingoModel) -> dict[str, torch.nn.Parameter]:
    """Return each parameter once, by its first name, such as `lang_encoder.model.layers.0.decoder_layer.…`."""
    return dict(model.named_parameters())


def _aliases(model: FlamingoModel) -> dict[str, str]:
    """Map every name of every parameter, with and without peft's `.base_layer`, to its canonical name."""
    first = {id(parameter): name for name, parameter in unique_parameters(model).items()}
    names = {name: first[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}
    return {plain_name(name): canonical for name, canonical in names.items()} | names


def part_of(model: FlamingoModel, name: str) -> Part:
    """Return the part that a parameter belongs to, by its canonical name."""
    if ".lora_" in name:
        return "lora"
    if ".gated_cross_attn_layer" in name:
        return "cross_attention"
    top = name.split(".", 1)[0]
    if top == "lang_encoder":
        embeddings = model.lang_encoder.get_input_embeddings().weight
        return "embeddings" if model.get_parameter(name) is embeddings else "language_model"
    if top == "perceiver":
        return "perceiver"
    return "vision_encoder"


def _modern(key: str) -> str:
    key = key.removeprefix("module.").replace("lang_encoder.base_model.model.", "lang_encoder.", 1)
    return re.sub(r"\.lora_([AB])\.weight$", r".lora_\1.default.weight", plain_name(key))


def plain_name(name: str) -> str:
    """Drop peft's `.base_layer`, which gives the tensor's name in a model without LoRA."""
    return name.replace(".base_layer.", ".")


def _some(items: Iterable[str]) -> str:
    items = list(items)
    return ", ".join(items[:_SHOWN]) + (", …" if len(items) > _SHOWN else "")
