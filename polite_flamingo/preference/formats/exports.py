"""Pairs and rated answers in the formats of trainers, with the same files of bounded size as every other export.

    trl                  data/NNNNN.parquet  prompt, chosen, rejected as messages, images; for a vision-language model
    trl_text             the same without pictures, messages as plain texts; for a language model
    llama_factory_pairs  data/NNNNN.jsonl    conversations, chosen, rejected, images; dataset_info.json; images/
    llama_factory_kto    data/NNNNN.jsonl    messages, kto_tag, images: two records a pair; dataset_info.json; images/
    rlaif_v              data/NNNNN.parquet  image, question, chosen, rejected …; one picture and one turn each
    ratings              data/NNNNN.parquet  HelpSteer's columns: a row per answer and judge, with model and pictures

A sample that a format cannot hold is left out and counted with its reason. Contexts are told with the dataset's
responses. In answers, `<image>` becomes "(image)", because processors count the marks in all texts.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from polite_flamingo.candidates import ATTRIBUTES
from polite_flamingo.exports.formats import MESSAGES, Export, JsonlExport, ParquetExport
from polite_flamingo.exports.records import parts_of_text
from polite_flamingo.preference.pairing import REWARD, mean_ratings
from polite_flamingo.sample import Sample, unmarked
from polite_flamingo.storage.parquet_export import IMAGE, IMAGES, NUMBER, TEXT, groups, images_of, schema_of

PreferenceFormat = Literal["trl", "trl_text", "llama_factory_pairs", "llama_factory_kto", "rlaif_v", "ratings"]

NO_PAIR = "not a pair"
"""Why a sample without a chosen and a rejected answer is left out."""


def sides(sample: Sample) -> tuple[str, str] | None:
    """Return the chosen and the rejected answer of a pair; None if the sample is none."""
    if sample.rewritten is None or sample.rejected is None:
        return None
    return unmarked(sample.rewritten), unmarked(sample.rejected)


def messages_before(sample: Sample) -> Iterator[tuple[str, str]]:
    """Yield (role, text) of all that comes before the answer, marks of pictures included."""
    for number, turn in enumerate(sample.turns):
        yield "user", turn.instruction
        if number < len(sample.turns) - 1:
            yield "assistant", unmarked(turn.response)


class _RowExport(ParquetExport, ABC):
    """Formats in Parquet: rows of one sample, or why it has none."""

    def add(self, samples: Sequence[Sample]) -> None:
        """Write the rows of one shard."""
        for group in groups(samples):
            rows: list[dict[str, Any]] = []
            for sample in group:
                found = self.rows(sample)
                if isinstance(found, str):
                    self.left_out[found] += 1
                else:
                    self._written([sample], len(found))
                    rows += found
            if rows:
                self._write(rows)

    @abstractmethod
    def rows(self, sample: Sample) -> list[dict[str, Any]] | str:
        """Return the rows of a sample, or why it is left out."""


class TrlExport(_RowExport):
    """`trl`: pictures stand where the messages show them."""

    schema = schema_of({"key": TEXT, "prompt": MESSAGES, "chosen": MESSAGES, "rejected": MESSAGES, "images": IMAGES})

    def rows(self, sample: Sample) -> list[dict[str, Any]] | str:
        """Return the one row of a pair."""
        if (pair := sides(sample)) is None:
            return NO_PAIR
        chosen, rejected = ([{"role": "assistant", "content": parts_of_text(text)}] for text in pair)
        prompt = [{"role": role, "content": parts_of_text(text)} for role, text in messages_before(sample)]
        answers = {"chosen": chosen, "rejected": rejected}
        return [{"key": sample.key, "prompt": prompt, **answers, "images": images_of(sample)}]


_PLAIN: list[dict[str, Any]] = [{"role": TEXT, "content": TEXT}]


class TrlTextExport(_RowExport):
    """`trl_text`: what the chat template of a language model reads; TRL takes any `images` column for a VLM's."""

    schema = schema_of({"key": TEXT, "prompt": _PLAIN, "chosen": _PLAIN, "rejected": _PLAIN})

    def rows(self, sample: Sample) -> list[dict[str, Any]] | str:
        """Return the one row of a pair without pictures."""
        if (pair := sides(sample)) is None:
            return NO_PAIR
        if sample.images:
            return "shows a picture"
        chosen, rejected = ([{"role": "assistant", "content": text}] for text in pair)
        prompt = [{"role": role, "content": text} for role, text in messages_before(sample)]
        return [{"key": sample.key, "prompt": prompt, "chosen": chosen, "rejected": rejected}]


class RlaifVExport(_RowExport):
    """`rlaif_v`: the columns of RLAIF-V-Dataset."""

    schema = schema_of(
        {
            "ds_name": TEXT,
            "image": IMAGE,
            **dict.fromkeys(("question", "chosen", "rejected", "origin_dataset", "origin_split", "idx"), TEXT),
            "image_path": TEXT,
        }
    )

    def rows(self, sample: Sample) -> list[dict[str, Any]] | str:
        """Return the one row of a pair about one picture."""
        if (pair := sides(sample)) is None:
            return NO_PAIR
        if len(sample.turns) > 1 or len(sample.images) != 1:
            return "several turns" if len(sample.turns) > 1 else f"{len(sample.images)} pictures"
        about = sample.provenance.get("pair", {})
        models = {side: about.get(side, {}).get("model", "") for side in ("chosen", "rejected")}
        [image] = images_of(sample)
        return [
            {
                "ds_name": sample.dataset,
                "image": image,
                "question": sample.question,
                "chosen": pair[0],
                "rejected": pair[1],
                "origin_dataset": sample.dataset,
                "origin_split": json.dumps(models),
                "idx": sample.key,
                "image_path": image["path"],
            }
        ]


class RatingsExport(_RowExport):
    """`ratings`: every answer, also of prompts without a pair; means over a judge's ratings."""

    schema = schema_of(
        {
            **dict.fromkeys(("key", "dataset", "prompt"), TEXT),
            "history": [{"human": TEXT, "assistant": TEXT}],
            **dict.fromkeys(("response", "model", "judge", "reason"), TEXT),
            **dict.fromkeys((*ATTRIBUTES, REWARD), NUMBER),
            "images": IMAGES,
        }
    )

    def rows(self, sample: Sample) -> list[dict[str, Any]] | str:
        """Return a row per answer and judge; one without numbers for an answer that nobody rated."""
        if not sample.candidates:
            return "no candidates"
        *before, last = sample.turns
        prompt = {
            "key": sample.key,
            "dataset": sample.dataset,
            "prompt": last.instruction,
            "history": [{"human": turn.instruction, "assistant": unmarked(turn.response)} for turn in before],
            "images": images_of(sample),
        }
        return [
            {
                **prompt,
                "response": unmarked(one.text),
                "model": one.model,
                "judge": judge,
                "reason": next((rating.reason for rating in one.ratings if rating.judge == judge), ""),
                **mean_ratings(one.ratings, judge),
            }
            for one in sample.candidates
            for judge in dict.fromkeys(rating.judge for rating in one.ratings if not rating.blind) or [""]
        ]


class _LlamaFactoryExport(JsonlExport):
    """Formats of LLaMA-Factory: pictures are files, which each `<image>` in a text stands for."""

    def add(self, samples: Sequence[Sample]) -> None:
        """Write the pairs of one shard."""
        pairs = [sample for sample in samples if sides(sample)]
        if len(pairs) < len(samples):
            self.left_out[NO_PAIR] += len(samples) - len(pairs)
        super().add(pairs)
        self.records += len(pairs) * (self.records_each - 1)

    records_each = 1
    """Records of a pair."""


class LlamaFactoryPairsExport(_LlamaFactoryExport):
    """`llama_factory_pairs`: "ranking" in `dataset_info.json`."""

    def _records(self, samples: Sequence[Sample]) -> Iterator[dict[str, Any]]:
        names = {"user": "human", "assistant": "gpt"}
        for sample, paths in zip(samples, self._image_files(samples), strict=True):
            chosen, rejected = sides(sample) or ("", "")
            yield {
                "conversations": [{"from": names[role], "value": text} for role, text in messages_before(sample)],
                "chosen": {"from": "gpt", "value": chosen},
                "rejected": {"from": "gpt", "value": rejected},
                "images": paths,
            }


class LlamaFactoryKtoExport(_LlamaFactoryExport):
    """`llama_factory_kto`: the chosen answer is tagged true, the rejected false."""

    records_each = 2

    def _records(self, samples: Sequence[Sample]) -> Iterator[dict[str, Any]]:
        for sample, paths in zip(samples, self._image_files(samples), strict=True):
            before = [{"role": role, "content": text} for role, text in messages_before(sample)]
            for answer, tag in zip(sides(sample) or (), (True, False), strict=True):
                yield {
                    "messages": [*before, {"role": "assistant", "content": answer}],
                    "kto_tag": tag,
                    "images": paths,
                }


PREFERENCE_EXPORTS: Mapping[PreferenceFormat, type[Export]] = {
    "trl": TrlExport,
    "trl_text": TrlTextExport,
    "llama_factory_pairs": LlamaFactoryPairsExport,
    "llama_factory_kto": LlamaFactoryKtoExport,
    "rlaif_v": RlaifVExport,
    "ratings": RatingsExport,
}
