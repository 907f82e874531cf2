"""The README.md of an export of pairs or ratings: what the files hold, how a trainer loads them, who judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polite_flamingo.candidates import ATTRIBUTES, MOST
from polite_flamingo.exports.formats import Export
from polite_flamingo.preference.formats.exports import PreferenceFormat

_TRL = """\
```python
from datasets import load_dataset
from trl import DPOTrainer

pairs = load_dataset("THIS_FOLDER", split="train")
trainer = DPOTrainer(model, train_dataset=pairs, processing_class=processor)
```
"""
_LLAMA_FACTORY = """\
```yaml
stage: {stage}
dataset_dir: THIS_FOLDER
media_dir: THIS_FOLDER
dataset: polite_flamingo
```
"""
_LOAD = """\
```python
from datasets import load_dataset

rows = load_dataset("THIS_FOLDER", split="train")
```
"""

LOADING: Mapping[PreferenceFormat, str] = {
    "trl": _TRL,
    "trl_text": _TRL,
    "llama_factory_pairs": _LLAMA_FACTORY.format(stage="dpo"),
    "llama_factory_kto": _LLAMA_FACTORY.format(stage="kto"),
    "rlaif_v": _LOAD,
    "ratings": _LOAD,
}
"""How each format is loaded."""

DATASET_INFO: Mapping[PreferenceFormat, dict[str, Any]] = {
    "llama_factory_pairs": {
        "file_name": "data",
        "formatting": "sharegpt",
        "ranking": True,
        "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "images": "images"},
    },
    "llama_factory_kto": {
        "file_name": "data",
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "kto_tag": "kto_tag", "images": "images"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    },
}
"""The descriptions for LLaMA-Factory."""


def counts_of(name: PreferenceFormat, export: Export) -> str:
    """Return one line of counts, which add up to the samples read."""
    total = export.samples + sum(export.left_out.values())
    parts = [f"{export.records:,} records of {export.samples:,} samples"]
    parts += [f"{count:,} left out ({reason})" for reason, count in sorted(export.left_out.items())]
    return f"{total:,} samples as {name}: {'; '.join(parts)}"


def card(name: PreferenceFormat, export: Export, stats: Mapping[str, Any]) -> str:
    """Return the card as Markdown.

    Args:
        name: the format.
        export: the finished export.
        stats: OUT/stats.json of `pair`; empty for shards that it did not write.
    """
    data = "data/*.jsonl" if name in DATASET_INFO else "data/*.parquet"
    lines = [
        "---",
        "configs:",
        "- config_name: default",
        "  data_files:",
        "  - split: train",
        f"    path: {data}",
        "---",
    ]
    lines += ["# Preference data", "", f"{counts_of(name, export)}.", ""]
    if name == "ratings":
        lines += [f"`{'`, `'.join(ATTRIBUTES)}`: 0 to {MOST}, means over the ratings of `judge`.", ""]
    if stats:
        lines += [_how_made(stats), ""]
    return "\n".join([*lines, "## Loading", "", LOADING[name]])


def _how_made(stats: Mapping[str, Any]) -> str:
    """Say who judged, and how long both sides are."""
    words = stats["mean_words"]
    said = f"Rated by {stats['judge']}: {stats['pairs']:,} pairs of {stats['prompts']:,} prompts"
    if stats["flipped"]:
        said += f", {stats['flipped']:,} of them flipped on purpose"
    if stats["pairs"]:
        said += f". The chosen answer has {words['chosen']:.1f} words, the rejected {words['rejected']:.1f} on average"
    return f"{said}."
