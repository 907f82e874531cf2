"""TRL itself trains on what is exported: a language model on texts, and its collator for pictures on pictures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import datasets
import pytest

from polite_flamingo.sample import Sample
from polite_flamingo.storage.shards import write_shard
from polite_flamingo.torchvision_repair import repair_torchvision
from ray_jobs.export import main as export
from tests.support.made_samples import picture
from tests.support.rated_answers import rated

WORDS = ["How", "many", "shapes", "?", "Two", "Three", ",", ".", "0", "1", "2", "3", "user", ":", "assistant"]
TEMPLATE = (
    "{% for m in messages %}{{ m.role }} : {% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}{{ '<image>' if p.type == 'image' else p.text }}{% endfor %}{% endif %}"
    "{{ '<eos>' if m.role == 'assistant' }} {% endfor %}{% if add_generation_prompt %}assistant : {% endif %}"
)


@pytest.fixture(scope="module")
def trl() -> Any:
    repair_torchvision()
    return pytest.importorskip("trl", reason="TRL is not installed; pip install trl==1.16.0 runs this test")


def tokenizer() -> Any:
    """A tokenizer of a dozen words with a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = ["<pad>", "<eos>", "<unk>", "<image>", *WORDS]
    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(vocabulary)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    made = PreTrainedTokenizerFast(tokenizer_object=words, **special, extra_special_tokens={"image_token": "<image>"})
    made.chat_template = TEMPLATE
    return made


def exported(tmp_path: Path, name: str, *, pictures: int) -> Any:
    rows = [rated(f"d/t/{n}", {}, pictures=pictures) for n in range(4)]
    made: list[Sample] = [
        dataclasses.replace(row, rewritten=f"Two , {n} .", rejected=f"Three , {n} .") for n, row in enumerate(rows)
    ]
    if pictures:
        made = [dataclasses.replace(row, images=(picture(n),)) for n, row in enumerate(made)]
    write_shard(tmp_path / "shards/s.tar", made)
    assert export(["--out", str(tmp_path / "shards"), "--format", name, "--to", str(tmp_path / "to")]) == 0
    return datasets.load_dataset(str(tmp_path / "to"), split="train", cache_dir=str(tmp_path / "cache"))


def test_dpo_trainer_takes_the_texts(trl: Any, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    pairs, words = exported(tmp_path, "trl_text", pictures=0), tokenizer()
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), pad_token_id=0, eos_token_id=1, **sizes))
    model.save_pretrained(tmp_path / "model")  # which TRL loads a second time, as the reference
    config = trl.DPOConfig(
        output_dir=str(tmp_path / "run"), max_steps=1, report_to=[], use_cpu=True, bf16=False, save_strategy="no",
        per_device_train_batch_size=4, gradient_checkpointing=False,
    )  # fmt: skip
    trainer = trl.DPOTrainer(str(tmp_path / "model"), args=config, train_dataset=pairs, processing_class=words)
    row = trainer.train_dataset[0]
    assert words.decode(row["prompt_ids"]) == "user : How many shapes ? assistant :"
    assert words.decode(row["chosen_ids"]).startswith("Two , 0 .")
    assert words.decode(row["rejected_ids"]).startswith("Three , 0 .")
    assert trainer.train().training_loss == pytest.approx(0.6931, abs=1e-3), "ln 2, as the model is its own reference"


def test_its_collator_sees_the_picture_on_both_sides(trl: Any, tmp_path: Path) -> None:
    from transformers import CLIPImageProcessor, LlavaProcessor
    from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

    images = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = LlavaProcessor(
        image_processor=images, tokenizer=tokenizer(), patch_size=14, vision_feature_select_strategy="full",
        chat_template=TEMPLATE, image_token="<image>",
    )  # fmt: skip
    rows = list(exported(tmp_path, "trl", pictures=1))
    batch = DataCollatorForVisionPreference(processor)(rows)
    assert batch["input_ids"].shape[0] == 2 * len(rows) and batch["pixel_values"].shape == (8, 3, 28, 28)
    assert (batch["pixel_values"][:4] == batch["pixel_values"][4:]).all() and not (
        batch["pixel_values"][0] == batch["pixel_values"][1]
    ).all()
    first = processor.tokenizer.decode(batch["input_ids"][0][batch["completion_mask"][0].bool()])
    assert first.startswith("Two , 0 .")
