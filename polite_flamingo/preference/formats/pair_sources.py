"""Preference pairs of others as sources of `ingest`: chosen in `Sample.rewritten`, rejected in `Sample.rejected`.

    polite-flamingo ingest --source rlaif_v --annotations RLAIF-V-Dataset_000.parquet --out shards
    polite-flamingo ingest --source llama_factory_pairs --annotations data --images data --out shards

`sides.py` lists the layouts. Pictures, marks, roles and unknown fields are read as `llava` reads them. Such files have
no annotation of their own, so the chosen answer is the response of the last turn too; turns before it are context.
The shards go straight into `train --stage dpo`: they need no `pair`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from polite_flamingo.preference.formats.sides import check_sides, split
from polite_flamingo.sample import BadSample, Sample
from polite_flamingo.sources.datasets import llama_factory
from polite_flamingo.sources.datasets.conversations import identify, noted
from polite_flamingo.sources.datasets.llava import OWN_IMAGES, OWN_TASKS, TASK_EXTRA
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.records.cell_references import is_cell_reference
from polite_flamingo.sources.records.field_meanings import IMAGE_NAMES
from polite_flamingo.sources.records.file_records import file_records
from polite_flamingo.sources.records.image_references import references
from polite_flamingo.sources.records.messages import Conversation, read_conversation
from polite_flamingo.sources.records.source import Builder, Context, Records, Source, SourceOptions, extra_choice


def records(options: SourceOptions, scratch: Scratch) -> Records:
    """Yield the records of files of any kind. Raises `SourceError` for an unknown task."""
    extra_choice(options, "task", *OWN_TASKS)
    return noted(file_records(options, scratch, "pairs"), _conversation, scratch)


def _llama_factory_records(options: SourceOptions, scratch: Scratch) -> Records:
    extra_choice(options, "task", *OWN_TASKS)
    return noted(llama_factory.rows(options, scratch), _conversation, scratch)


def _conversation(record: dict[str, Any]) -> Conversation:
    return read_conversation(_one_picture_field(split(record)[0]))


def _one_picture_field(record: dict[str, Any]) -> dict[str, Any]:
    """Rename a path beside the picture itself (RLAIF-V's `image_path`): it would be taken for another picture."""
    held = [name for name in IMAGE_NAMES if is_cell_reference(record.get(name)) or isinstance(record.get(name), dict)]
    beside = [name for name in IMAGE_NAMES if isinstance(record.get(name), str) and name not in held]
    renamed = {f"record.{name}": record[name] for name in beside} if held else {}
    return {name: value for name, value in record.items() if not (held and name in beside)} | renamed


def builder(*, pictured: bool) -> Builder:
    """Make the `build` function of a set of pairs. Args: pictured: whether each of its rows shows a picture."""

    def build(key: str, record: Any, context: Context) -> Sample:
        conversation, rejected = split(record)
        conversation = _one_picture_field(conversation)
        if pictured and not any(references(conversation.get(name), context) for name in IMAGE_NAMES):
            raise BadSample("missing_image", "the row has no picture")
        sample = OWN_IMAGES(key, conversation, context)
        *before, last = sample.turns
        check_sides(record, last.response, rejected)
        turns = (*(replace(turn, learned=False) for turn in before), last)
        return replace(sample, turns=turns, rewritten=last.response, rejected=rejected)

    return build


_source = functools.partial(
    Source, use="preference", task="dialogue", records=records, identify=identify, images="optional",
    extra=TASK_EXTRA,
)  # fmt: skip

MLLM_DPO = _source(
    name="mllm_dpo",
    title="mllm-dpo's pairs",
    files="dpo_inference0104.json or another file of {image, question, chosen, rejected}; the folder of its images",
    published="Hugging Face: alexshengzhili/mllm-dpo",
    licence="Apache-2.0",
    evidence="documentation",
    build=builder(pictured=True),
)
RLAIF_V = _source(
    name="rlaif_v",
    title="RLAIF-V",
    files="RLAIF-V-Dataset_000.parquet or a folder of them; the pictures lie in them",
    published="Hugging Face: openbmb/RLAIF-V-Dataset",
    licence="CC BY-NC 4.0",
    evidence="documentation",
    build=builder(pictured=True),
    images="none",
)
MMPR = _source(
    name="mmpr",
    title="MMPR",
    files="annotations/m3cot.jsonl or another of its files; the folder that its paths begin in",
    published="Hugging Face: OpenGVLab/MMPR",
    licence="MIT; each set its own",
    evidence="documentation",
    build=builder(pictured=False),
)
TRL = _source(
    name="trl_pairs",
    title="TRL's pairs, or your own in its format",
    files="train.parquet or .jsonl of {prompt, chosen, rejected, images}, texts or messages; a folder for paths",
    published="your own",
    licence="your own",
    evidence="transcribed",
    build=builder(pictured=False),
)
LLAMA_FACTORY = _source(
    name="llama_factory_pairs",
    title="LLaMA-Factory's pairs",
    files="data/ (a folder with dataset_info.json) or a file of {conversations, chosen, rejected, images}",
    published="your own",
    licence="your own",
    evidence="transcribed",
    records=_llama_factory_records,
    build=builder(pictured=False),
    extra={**TASK_EXTRA, "dataset": llama_factory.SOURCE.extra["dataset"]},
)

PAIR_SOURCES: Mapping[str, Source] = {one.name: one for one in (MLLM_DPO, RLAIF_V, MMPR, TRL, LLAMA_FACTORY)}
"""All of them, by name."""
