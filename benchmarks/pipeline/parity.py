"""Parity of our Flamingo with golden numbers of the reference code: largest difference of logits, identical tokens.

    python -m benchmarks.pipeline.parity --reference FOLDER

FOLDER holds `{v1,v2_llama,v2_mpt,lora}_{config.json,cases.safetensors,…}`: tiny random models, run by the reference
repositories with their own old libraries. Logits are compared where the attention mask is 1, and also loss, cached
decode steps, greedy and beam-searched tokens, and v1's token ids. The tolerance is 1e-4, with LoRA 2e-4. Beams are
compared row by row at length_penalty 0, because transformers ≥ 4.36 scores lengths differently.

`tests/flamingo/model/test_parity.py` asserts what this measures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors.torch import load_file

from polite_flamingo.flamingo.config import CrossAttentionConfig, LoraSettings, PerceiverConfig
from polite_flamingo.flamingo.model.lora import add_lora, merge_lora
from polite_flamingo.flamingo.model.state_dict import PARTS, canonical_state, load_state
from polite_flamingo.flamingo.model.tokenization import LegacyLlamaTokenizer
from polite_flamingo.torchvision_repair import repair_torchvision

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel

KINDS = ("v1", "v2_llama", "v2_mpt")
TOLERANCE = 1e-4
LORA_TOLERANCE = 2e-4

Case = Mapping[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One quantity of one case; `difference` is the largest absolute one of numbers, or 0 or 1 for tokens and ids."""

    group: str
    case: str
    quantity: str
    difference: float
    tolerance: float
    compared: int

    @property
    def passed(self) -> bool:
        """Whether something was compared and is within tolerance; NaN is not."""
        return self.difference <= self.tolerance and self.compared > 0


def compare_all(reference: Path) -> list[Comparison]:
    """Run all comparisons; takes about half a minute on one core."""
    found: list[Comparison] = []
    for kind in KINDS:
        found += compare_kind(reference, kind)
    return [*found, *compare_lora(reference), *compare_tokenization(reference)]


def compare_kind(reference: Path, kind: str) -> list[Comparison]:
    """Compare logits, loss, visibility, cached steps and generated tokens of one kind of model."""
    config = read_config(reference, kind)
    model = reference_model(reference, kind)
    found = []
    for name, case in read_cases(reference, kind).items():
        rows = {"cached_steps": _cached_steps, "cache_media": _cache_media}.get(name, _plain_case)
        for quantity, difference, tolerance, compared in rows(model, config, case):
            found.append(
                Comparison(
                    group=kind,
                    case=name,
                    quantity=quantity,
                    difference=difference,
                    tolerance=tolerance,
                    compared=compared,
                )
            )
    return found


def compare_lora(reference: Path) -> list[Comparison]:
    """Compare the v1 model with LoRA, attached and merged."""
    found = []
    inputs = read_cases(reference, "v1")
    for name, golden in read_cases(reference, "lora").items():
        case = {key: inputs[name][key] for key in ("vision_x", "input_ids", "attention_mask", "labels")}
        case |= {key.removeprefix("lora."): tensor for key, tensor in golden.items()}
        for state in ("attached", "merged"):
            model = reference_model(reference, "v1")
            _attach_reference_lora(model, reference)
            if state == "merged":
                merge_lora(model)
            rows = [*_logits(model, case), *_tokens(model, read_config(reference, "v1"), case)]
            for quantity, difference, tolerance, compared in rows:
                found.append(
                    Comparison(
                        group=f"lora {state}",
                        case=name,
                        quantity=quantity,
                        difference=difference,
                        tolerance=LORA_TOLERANCE if tolerance else 0.0,
                        compared=compared,
                    )
                )
    return found


def compare_tokenization(reference: Path) -> list[Comparison]:
    """Compare ids and decoded text of the legacy LLaMA tokenisation."""
    tokenizer = LegacyLlamaTokenizer(reference / "tiny_llama_tokenizer.model")
    found = []
    for name, golden in json.loads((reference / "v1_tokenization.json").read_text()).items():
        texts = golden["text"] if isinstance(golden["text"], list) else [golden["text"]]
        wanted = golden["input_ids"] if isinstance(golden["text"], list) else [golden["input_ids"]]
        for text, ids in zip(texts, wanted, strict=True):
            ids = ids[next(place for place, i in enumerate(ids) if i != tokenizer.pad_id) :]
            same = tokenizer.encode(text) == ids
            if "decoded" in golden:
                same = same and tokenizer.decode(ids) == golden["decoded"]
            found.append(
                Comparison(
                    group="tokenization",
                    case=name,
                    quantity="ids",
                    difference=float(not same),
                    tolerance=0.0,
                    compared=len(ids),
                )
            )
    return found


def reference_model(reference: Path, kind: str) -> FlamingoModel:
    """Build the tiny model of a kind and load its weights, under the reference's names, with our checkpoint code."""
    repair_torchvision()
    import open_clip

    from polite_flamingo.flamingo.model.model import FlamingoModel

    config = read_config(reference, kind)
    clip = open_clip.CLIP(
        embed_dim=config["clip"]["embed_dim"],
        vision_cfg=open_clip.CLIPVisionCfg(**config["clip"]["vision_cfg"]),
        text_cfg=open_clip.CLIPTextCfg(**config["clip"]["text_cfg"]),
        quick_gelu=config["clip"]["quick_gelu"],
    )
    language_model: Any
    if "llama" in config:
        language_model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config["llama"]))
    else:
        language_model = transformers.MptForCausalLM(transformers.MptConfig(**config["mpt"]))
    sizes = config["arch"]["perceiver"]
    blocks = config["arch"]["xattn"]
    model = FlamingoModel(
        clip.visual,
        language_model,
        end_of_chunk_id=config["special"]["endofchunk"],
        image_id=config["special"]["image"],
        attention="v1" if kind == "v1" else "v2",
        cross_attn_every_n_layers=blocks["every_n_layers"],
        perceiver=PerceiverConfig(
            depth=sizes["depth"],
            latents=sizes["num_latents"],
            heads=sizes["heads"],
            dim_head=sizes["dim_head"],
            ff_mult=sizes["ff_mult"],
        ),
        cross_attention=CrossAttentionConfig(
            heads=blocks["heads"], dim_head=blocks["dim_head"], ff_mult=blocks["ff_mult"]
        ),
    )
    file = reference / ("v2_mpt_state.safetensors" if kind == "v2_mpt" else "v1_state.safetensors")
    state = {name: tensor.float() for name, tensor in load_file(file).items()}
    load_state(model, canonical_state(model, state, source=file.name), omits=("lora",), source=file.name)
    return model.eval()


def read_config(reference: Path, kind: str) -> dict[str, Any]:
    """Read `{kind}_config.json`."""
    return json.loads((reference / f"{kind}_config.json").read_text())


def read_cases(reference: Path, kind: str) -> dict[str, dict[str, torch.Tensor]]:
    """Read arrays by case; `vision_x` (B, T, 1, 3, H, W) is added from the bank of images."""
    arrays = load_file(reference / f"{kind}_cases.safetensors")
    bank = arrays.pop("image_bank", None)
    if bank is None:
        bank = load_file(reference / "v1_cases.safetensors")["image_bank"]
    cases: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in arrays.items():
        case, _, quantity = name.partition("/")
        cases.setdefault(case, {})[quantity] = tensor
    for case_arrays in cases.values():
        if "vision_index" in case_arrays:
            case_arrays["vision_x"] = bank.float()[case_arrays["vision_index"]].unsqueeze(2)
    return cases


Row = tuple[str, float, float, int]


def _plain_case(model: FlamingoModel, config: Mapping[str, Any], case: Case) -> Iterator[Row]:
    yield from _logits(model, case)
    yield from _tokens(model, config, case)


def _logits(model: FlamingoModel, case: Case) -> Iterator[Row]:
    mask = case["attention_mask"]
    with torch.no_grad():
        labels = case.get("labels")
        out = model(case["vision_x"], case["input_ids"], attention_mask=mask, labels=labels)
    if "logits" in case:
        yield "logits", _difference(out.logits[mask == 1], case["logits"][mask == 1]), TOLERANCE, int(mask.sum())
    if "logits_last4" in case:
        yield "logits", _difference(out.logits[:, -4:], case["logits_last4"]), TOLERANCE, 4
    if "loss" in case:
        yield "loss", _difference(out.loss, case["loss"][0]), TOLERANCE, 1


def _tokens(model: FlamingoModel, config: Mapping[str, Any], case: Case) -> Iterator[Row]:
    settings = config["generate"]
    prompt = case["input_ids"].shape[1]
    shared = {"pad_token_id": settings["pad_token_id"], "do_sample": False}
    ends = settings["eos_token_id"]
    for quantity, eos, extra in (
        ("greedy", ends, {}),
        ("greedy_eos2", 2, {}),
        ("greedy_ngram3", ends, {"no_repeat_ngram_size": 3}),
        ("beam3_lp0", ends, {"num_beams": 3, "length_penalty": 0.0}),
    ):
        if quantity not in case:
            continue
        golden = case[quantity]
        new = settings.get("guanaco_prompt_max_new_tokens", 20) if prompt > 60 else settings["max_new_tokens"]
        rows = [[n] for n in range(len(golden))] if "beam" in quantity else [list(range(len(golden)))]
        same = True
        for row in rows:
            ids = model.generate(
                case["vision_x"][row],
                case["input_ids"][row],
                case["attention_mask"][row],
                eos_token_id=eos,
                max_new_tokens=new,
                **shared,
                **extra,
            )
            for ours, theirs in zip(ids, golden[row], strict=True):
                same = same and _upto(ours[prompt:], eos) == _upto(theirs[prompt:], eos)
        yield quantity, float(not same), 0.0, len(golden)


def _cached_steps(model: FlamingoModel, config: Mapping[str, Any], case: Case) -> Iterator[Row]:
    """Compare prefill, single cached tokens (one is an `<image>`), and for v1 a cached chunk of four tokens.

    The reference used plain positions for prefill and those of the attention mask for decoding.
    """
    mask = case["attention_mask"]
    past = None
    with torch.no_grad(), model.media(case["vision_x"]):
        for step in ("prefill", "step0", "step1", "step2", "chunk"):
            ids = case.get("input_ids" if step == "prefill" else f"{step}_ids")
            if ids is None:
                continue
            if step != "prefill":
                mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
            extra = {}
            if step != "prefill" and "llama" in config:  # MPT has no positions, only distances (ALiBi)
                extra["position_ids"] = (mask.cumsum(-1) - 1)[:, -ids.shape[1] :]
            out = model.lang_encoder(input_ids=ids, attention_mask=mask, past_key_values=past, use_cache=True, **extra)
            past = out.past_key_values
            seen = mask[:, -ids.shape[1] :] == 1
            difference = _difference(out.logits[seen], case[f"{step}_logits"][seen])
            yield f"{step} logits", difference, TOLERANCE, int(seen.sum())


def _cache_media(model: FlamingoModel, config: Mapping[str, Any], case: Case) -> Iterator[Row]:
    """Compare open_flamingo's `cache_media`: every continuation token sees the last image."""
    keep = {"clear_conditioned_layers": False, "use_cache": True}
    with torch.no_grad():
        model.cache_media(case["context_ids"], case["vision_x"])
        context = model(None, case["context_ids"], **keep)
        more = model(None, case["continuation_ids"], past_key_values=context.past_key_values, **keep)
        model.uncache_media()
    for name, out in (("context", context), ("continuation", more)):
        golden = case[f"{name}_logits"]
        yield f"{name} logits", _difference(out.logits, golden), TOLERANCE, golden.shape[0] * golden.shape[1]


def _attach_reference_lora(model: FlamingoModel, reference: Path) -> None:
    config = read_config(reference, "lora")
    adapter = config["adapter_config"]
    add_lora(model, LoraSettings(r=adapter["r"], alpha=adapter["lora_alpha"], targets=tuple(adapter["target_modules"])))
    file = reference / "lora_flamingo_state.safetensors"
    state = {name: tensor.float() for name, tensor in load_file(file).items()}
    omits = tuple(part for part in PARTS if part != "lora")
    load_state(model, canonical_state(model, state, source=file.name), omits=omits, source=file.name)


def _difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.float() - theirs.float()).abs().max())


def _upto(ids: torch.Tensor, eos: int) -> list[int]:
    """Return generated ids up to and including the first end token; padding after it differs between versions."""
    plain = ids.tolist()
    return plain[: plain.index(eos) + 1] if eos in plain else plain


def table(found: list[Comparison]) -> str:
    """Format a table by group: cases, largest differences of logits and loss, identical token sequences."""
    lines = [f"{'group':<14}{'cases':>6}{'max |logit diff|':>18}{'max |loss diff|':>17}{'tokens identical':>18}"]
    for group in dict.fromkeys(c.group for c in found):
        own = [c for c in found if c.group == group]
        logits = [c.difference for c in own if "logits" in c.quantity]
        loss = [c.difference for c in own if c.quantity == "loss"]
        tokens = [c for c in own if c.tolerance == 0]
        lines.append(
            f"{group:<14}{len({c.case for c in own}):>6}"
            f"{f'{max(logits):.1e}' if logits else '–':>18}{f'{max(loss):.1e}' if loss else '–':>17}"
            f"{f'{sum(c.passed for c in tokens)}/{len(tokens)}':>18}"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the table; exit with status 1 if a comparison is outside its tolerance."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline.parity", description=__doc__)
    parser.add_argument("--reference", type=Path, required=True, help="folder with the golden files")
    found = compare_all(parser.parse_args().reference)
    print(table(found))
    failed = [c for c in found if not c.passed]
    for c in failed:
        print(f"OUTSIDE: {c.group} {c.case} {c.quantity}: {c.difference:.3g} > {c.tolerance:.3g}")
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
