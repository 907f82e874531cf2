"""Preference training beside TRL's DPOTrainer: pairs a second and peak memory, on the same model and pairs.

    python -m venv --system-site-packages /tmp/trl && /tmp/trl/bin/pip install trl==1.16.0
    python -m benchmarks.preference --trl /tmp/trl/bin/python [--runs 3] [--out FILE]

A LLaMA of random weights is written to a temporary folder; pairs are random tokens. Every contestant loads the model in
a process of its own, adds the same LoRA and makes the same updates: the same pairs in each, AdamW, float32, no dropout,
no gradient checkpointing. Runs take turns; medians are printed.

    TRL           pads both sides of each pair to the longest text of the batch
    ours          packs the pairs of an update into rows (best fit), each answer a segment of its own
    precomputed   the reference's log-probabilities, computed once, before training; their time is given apart
    adapter off   the reference computed in every update by the model without its LoRA

Ours is the trainer's own module, `training.preference_loss.ModelWithPreferences`, around the bare language model, which
stands in for a Flamingo without pictures. Losses are compared update by update: a benchmark whose contestants learn
different things compares nothing. Memory is the process's greatest resident size over what it had before training.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polite_flamingo.torchvision_repair import repair_torchvision

EOS = 2
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CONTESTANTS = ("TRL, precomputed", "ours, precomputed", "TRL, adapter off", "ours, adapter off")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all contestants share.

    Attributes:
        pairs, batch, epochs: number of pairs, pairs per update, passes.
        window: tokens of a packed row.
        hidden, layers, vocabulary: sizes of the language model.
        rank: LoRA's rank; its alpha is twice that.
        prompt, answer: least and greatest number of tokens.
        beta, rate: DPO's beta, learning rate.
        threads: torch's threads.
        seed: seed of the pairs and weights.
    """

    pairs: int = 192
    batch: int = 16
    epochs: int = 1
    window: int = 512
    hidden: int = 256
    layers: int = 6
    vocabulary: int = 8000
    rank: int = 16
    prompt: tuple[int, int] = (10, 80)
    answer: tuple[int, int] = (5, 160)
    beta: float = 0.1
    rate: float = 1e-3
    threads: int = 1
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a contestant did: losses by update, seconds for the reference and for the updates, bytes above the start."""

    losses: list[float]
    reference_seconds: float
    seconds: float
    memory: int


Pair = tuple[list[int], list[int], list[int]]
"""Token ids of prompt, chosen and rejected answer; the answers end with EOS."""


def make_pairs(setting: Setting) -> list[Pair]:
    """Return pairs of random tokens; many answers are short and a few long, as people's are."""
    rng = random.Random(setting.seed)

    def tokens(low: int, high: int) -> list[int]:
        size = min(high, low + int(rng.expovariate(3 / (high - low))))
        return [rng.randrange(3, setting.vocabulary) for _ in range(size)]

    return [
        ([1, *tokens(*setting.prompt)], [*tokens(*setting.answer), EOS], [*tokens(*setting.answer), EOS])
        for _ in range(setting.pairs)
    ]


def write_model(setting: Setting, folder: Path) -> None:
    """Write the language model and a tokenizer that splits at spaces and calls token 17 `t17`."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.manual_seed(setting.seed)
    config = transformers.LlamaConfig(
        vocab_size=setting.vocabulary, hidden_size=setting.hidden, intermediate_size=3 * setting.hidden,
        num_hidden_layers=setting.layers, num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=2048,
        bos_token_id=1, eos_token_id=EOS, pad_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    names = {"<pad>": 0, "<s>": 1, "</s>": EOS, **{f"t{number}": number for number in range(3, setting.vocabulary)}}
    tokenizer = Tokenizer(models.WordLevel(names, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)


def same_lora(named: dict[str, nn.Parameter]) -> None:
    """Give all contestants the same new adapter: A by a formula, B zero."""
    down = sorted((name.split("layers.")[-1], one) for name, one in named.items() if "lora_A" in name)
    with torch.no_grad():
        for number, (_, one) in enumerate(down):
            wave = torch.sin(1.7 * torch.arange(one.numel(), dtype=torch.float64) + number)
            one.copy_((wave * one.shape[1] ** -0.5).reshape(one.shape))


def resident() -> int:
    """Return the greatest resident size of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run_trl(setting: Setting, folder: Path, *, precomputed: bool) -> Run:
    """Train with TRL's DPOTrainer."""
    import transformers
    from datasets import Dataset
    from peft import LoraConfig
    from torch.utils.data import SequentialSampler
    from trl import DPOConfig, DPOTrainer

    def words(ids: list[int]) -> str:
        return " ".join("<s>" if one == 1 else f"t{one}" for one in ids)

    records = [
        {"prompt": words(prompt), "chosen": " " + words(chosen[:-1]), "rejected": " " + words(rejected[:-1])}
        for prompt, chosen, rejected in make_pairs(setting)
    ]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = DPOConfig(
        output_dir=str(folder / "trl"), bf16=False, use_cpu=True, gradient_checkpointing=False, report_to="none",
        max_length=None, per_device_train_batch_size=setting.batch, num_train_epochs=setting.epochs, beta=setting.beta,
        learning_rate=setting.rate, lr_scheduler_type="constant", warmup_steps=0, weight_decay=0.0, max_grad_norm=1.0,
        logging_steps=1, save_strategy="no", precompute_ref_log_probs=precomputed, disable_tqdm=True,
        precompute_ref_batch_size=setting.batch,
    )  # fmt: skip
    lora = LoraConfig(
        r=setting.rank, lora_alpha=2 * setting.rank, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM"
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    before = resident()
    began = time.perf_counter()
    trainer = DPOTrainer(
        model=model, args=config, train_dataset=Dataset.from_list(records), processing_class=tokenizer, peft_config=lora
    )
    same_lora(dict(trainer.model.named_parameters()))
    trainer._get_train_sampler = lambda *_: SequentialSampler(trainer.train_dataset)
    marks: list[float] = []

    class Clock(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            marks.append(time.perf_counter())

    trainer.add_callback(Clock())
    trainer.train()
    ended = time.perf_counter()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return Run(losses=losses, reference_seconds=marks[0] - began, seconds=ended - marks[0], memory=resident() - before)


class BareFlamingo(nn.Module):
    """A language model where the trainer expects a Flamingo; it sees no pictures."""

    def __init__(self, language_model: nn.Module):
        super().__init__()
        self.lang_encoder = language_model

    def hidden(
        self, vision: Tensor, ids: Tensor, numbers: Tensor, *, attention_mask: Tensor, position_ids: Tensor
    ) -> Tensor:
        """Return the hidden states of packed rows."""
        found = self.lang_encoder.base_model(  # type: ignore[operator]
            input_ids=ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
        )
        states: Tensor = found.last_hidden_state
        return states


def run_ours(setting: Setting, folder: Path, *, precomputed: bool) -> Run:
    """Train with our module."""
    import transformers
    from peft import LoraConfig, inject_adapter_in_model

    from polite_flamingo.preference.loss_config import PreferenceConfig
    from training.preference_loss import ModelWithPreferences

    language_model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    before = resident()
    began = time.perf_counter()
    language_model.requires_grad_(False)
    lora = LoraConfig(r=setting.rank, lora_alpha=2 * setting.rank, lora_dropout=0.0, target_modules=TARGETS)
    inject_adapter_in_model(lora, language_model)
    model = BareFlamingo(language_model.train())
    same_lora(dict(model.named_parameters()))
    config = PreferenceConfig(beta=setting.beta, reference="precomputed" if precomputed else "adapter_off")
    module = ModelWithPreferences(model, config, dtype=torch.float32)  # type: ignore[arg-type]
    known: dict[str, list[float]] = {}
    if precomputed:
        for batch in batches(setting):
            found = module(batch, sums_of="policy")[0]
            known |= {one.digest: sums for one, sums in zip(batch.pairs.pairs, found.T.tolist(), strict=True)}
    tuned = [one for one in model.parameters() if one.requires_grad]
    optimiser = torch.optim.AdamW(tuned, lr=setting.rate, weight_decay=0.0)
    losses: list[float] = []
    started = time.perf_counter()
    for _ in range(setting.epochs):
        for batch in batches(setting, known):
            terms, _ = module(batch)
            loss = terms[0] / len(batch.pairs.pairs)
            loss.backward()
            nn.utils.clip_grad_norm_(tuned, 1.0)
            optimiser.step()
            optimiser.zero_grad()
            losses.append(loss.item())
    ended = time.perf_counter()
    return Run(losses=losses, reference_seconds=started - began, seconds=ended - started, memory=resident() - before)


def batches(setting: Setting, known: dict[str, list[float]] | None = None) -> Iterator[Any]:
    """Yield each update's pairs, packed, with the reference if it is known."""
    from dataclasses import replace

    from polite_flamingo.packing.bin_packing import FILLS
    from polite_flamingo.packing.pack import _row
    from polite_flamingo.packing.pieces import PackedPair, Piece, Tokens
    from training.loss import make_batch

    class NoPictures:
        def get(self, images: object) -> list[Tensor]:
            return []

    pieces = []
    for number, (prompt, chosen, rejected) in enumerate(make_pairs(setting)):
        sides = [[*prompt, *answer] for answer in (chosen, rejected)]
        learned = [at >= len(prompt) for side in sides for at in range(len(side))]
        segment = [index for index, side in enumerate(sides) for _ in side]
        ids = [token for side in sides for token in side]
        tokens = Tokens(ids, learned, [0] * len(ids), segment)
        pair = PackedPair(key=str(number), digest=str(number), segments={"chosen": 0, "rejected": 1})
        pieces.append(Piece(str(number), tokens, tokens, [], cut=False, segments=2, pair=pair))
    for start in range(0, len(pieces), setting.batch):
        rows = [
            _row(members) for members in FILLS["best_fit"](pieces[start : start + setting.batch], setting.window, 0)
        ]
        batch = make_batch(rows, NoPictures(), empty=torch.zeros(1), pad_id=0, device="cpu", pairs=True)  # type: ignore[arg-type]
        if known:
            assert batch.pairs is not None
            reference = torch.tensor([known[pair.digest] for pair in batch.pairs.pairs]).T
            batch = replace(batch, pairs=replace(batch.pairs, reference_4P=reference))
        yield batch


def run_contestant(name: str, setting: Setting, folder: Path, trl: str) -> Run:
    """Run a contestant in a process of its own."""
    python = trl if name.startswith("TRL") else sys.executable
    command = [python, "-m", "benchmarks.preference", "--contestant", name, "--setting", json.dumps(asdict(setting))]
    threads = str(setting.threads)
    environment = os.environ | {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "TRANSFORMERS_VERBOSITY": "error",
    }
    done = subprocess.run([*command, "--folder", str(folder)], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed: {done.stderr.strip().splitlines()[-1]}")
    return Run(**json.loads(done.stdout.splitlines()[-1]))


def table(setting: Setting, runs: dict[str, list[Run]]) -> str:
    """Return the results as Markdown."""
    taken = setting.pairs * setting.epochs
    heads = (
        "",
        "pairs/s",
        "with the reference",
        "peak memory above the start",
        "greatest difference of a loss from TRL's",
    )
    lines = [f"| {' | '.join(heads)} |", "|---|---|---|---|---|"]
    for name, found in runs.items():
        rates = [taken / run.seconds for run in found]
        whole = [taken / (run.seconds + run.reference_seconds) for run in found]
        memory = statistics.median(run.memory for run in found) / 2**20
        beside = runs[f"TRL, {name.split(', ')[1]}"][0].losses
        apart = max(abs(one - other) for one, other in zip(found[0].losses, beside, strict=True))
        figures = f"{statistics.median(rates):.1f} | {statistics.median(whole):.1f} | {memory:.0f} MiB | {apart:.1e}"
        lines.append(f"| {name} | {figures} |")
    for mode in ("precomputed", "adapter off"):
        ours, trl = runs[f"ours, {mode}"], runs[f"TRL, {mode}"]
        ratios = [other.seconds / one.seconds for one, other in zip(ours, trl, strict=True)]
        lines.append(f"\n{mode}: ours is {statistics.median(ratios):.2f} times as fast as TRL (median of the rounds)")
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark, or one contestant of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl", help="Python of an environment with TRL")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    for name, value in asdict(Setting()).items():
        if isinstance(value, int | float):
            parser.add_argument(f"--{name}", type=type(value), default=value)
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--setting", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    repair_torchvision()
    if given.contestant:
        setting = Setting(**given.setting)
        torch.set_num_threads(setting.threads)
        run: Callable[..., Run] = run_trl if given.contestant.startswith("TRL") else run_ours
        done = run(setting, given.folder, precomputed=given.contestant.endswith("precomputed"))
        print("\n" + json.dumps(asdict(done)))
        return
    if not given.trl:
        parser.error("--trl is needed: the Python of an environment with trl==1.16.0 (see the first lines of --help)")
    setting = Setting(**{name: getattr(given, name) for name in asdict(Setting()) if hasattr(given, name)})
    runs: dict[str, list[Run]] = {name: [] for name in CONTESTANTS}
    with tempfile.TemporaryDirectory() as scratch:
        write_model(setting, Path(scratch))
        for number in range(given.runs):
            for name in CONTESTANTS:
                runs[name].append(run_contestant(name, setting, Path(scratch), given.trl))
                print(f"round {number + 1}, {name}: {runs[name][-1].seconds:.1f} s", file=sys.stderr)
    assert all(math.isfinite(loss) for found in runs.values() for run in found for loss in run.losses)
    found = f"{setting}\n\n{table(setting, runs)}\n"
    print(found)
    if given.out:
        given.out.write_text(found)


if __name__ == "__main__":
    main()
