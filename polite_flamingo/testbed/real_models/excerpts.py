"""Excerpts of real annotation files as samples without pictures, for a rewriter that sees texts alone.

The files are read by the adapters that read the whole datasets, so keys, instructions and annotations are theirs. Most
excerpts come without their pictures; so that all are alike, every picture is left out, and `meta` counts them. A sample
keeps its task.
"""

from __future__ import annotations

import dataclasses
import io
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import PIL.Image

from polite_flamingo.images.decoding import Header, inspect
from polite_flamingo.ingest.result import sampling_rank
from polite_flamingo.sample import IMAGE_MARK, Image, Quarantined, Sample
from polite_flamingo.sources.reading.image_folder import ImageFolder
from polite_flamingo.sources.records.source import Context, SourceOptions, keyed_records, make_sample
from polite_flamingo.sources.registry import SOURCES

LEFT_OUT = "pictures_left_out"
"""Key in `Sample.meta`: how many pictures the sample had."""


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """Files of one dataset: patterns below the folder of excerpts, and the split that they are of."""

    source: str
    files: tuple[str, ...]
    split: str = ""


EXCERPTS = (
    Excerpt(source="coco_captions", files=("coco_captions/captions_val2014.head25.json",), split="val"),
    Excerpt(source="flickr30k", files=("flickr30k/*.token",)),
    Excerpt(source="textcaps", files=("textcaps/TextCaps_*.json",)),
    Excerpt(source="image2paragraph", files=("image2paragraph/paragraphs_v1*.json",)),
    Excerpt(source="cc3m", files=("conceptual_captions_3m/*.tsv",), split="val"),
    Excerpt(source="textvqa", files=("textvqa/val_*_vqa_format.head.json",), split="val"),
    Excerpt(source="aokvqa", files=("aokvqa/*.json",)),
    Excerpt(source="scienceqa", files=("scienceqa/problems.*.json", "scienceqa/pid_splits.*.json")),
    Excerpt(source="chartqa", files=("chartqa/ChartQA Dataset/test/*.json",), split="test"),
    Excerpt(source="vsr", files=("vsr/random/dev.*.jsonl",), split="dev"),
    Excerpt(source="levir_cc", files=("levir_cc/LevirCCcaptions*.json",)),
    Excerpt(source="spot_the_diff", files=("spot_the_diff/train.*.json",), split="train"),
    Excerpt(source="image_editing_request", files=("image_editing_request/train.*.json",), split="train"),
)


def read_excerpts(
    folder: Path, rows: int, seed: int = 0, excerpts: Iterable[Excerpt] = EXCERPTS
) -> tuple[list[Sample], Counter[str]]:
    """Return samples of the excerpts, and how many records could not become one, by reason.

    Args:
        folder: has the excerpts, a folder for each dataset.
        rows: how many samples to draw, as evenly from the datasets as their sizes allow.
        seed: of the draw.
        excerpts: which files to read.

    Raises:
        ValueError: the folder or a file is not there.
        SourceError: a file is unusable as a whole.
    """
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}: name that of the excerpts (--samples; make demo-real SAMPLES=…)")
    drawn: list[list[Sample]] = []
    reasons: Counter[str] = Counter()
    for excerpt in excerpts:
        samples = []
        for row in _read(folder, excerpt):
            if isinstance(row, Quarantined):
                reasons[row.reason] += 1
            else:
                samples.append(row)
        drawn.append(sorted(samples, key=lambda sample: sampling_rank(seed, sample.key)))
    in_turn = [sample for several in zip_longest(*drawn) for sample in several if sample is not None]
    order = [excerpt.source for excerpt in excerpts]
    return sorted(in_turn[:rows], key=lambda sample: order.index(sample.dataset)), reasons


def without_pictures(sample: Sample) -> Sample:
    """Return the sample as a text-only rewriter gets it: no picture, and no mark of one."""
    turns = tuple(dataclasses.replace(turn, instruction=_plain(turn.instruction)) for turn in sample.turns)
    meta = {**sample.meta, LEFT_OUT: len(sample.images)}
    return dataclasses.replace(sample, turns=turns, images=(), meta=meta).validate()


def _plain(instruction: str) -> str:
    return instruction.replace(IMAGE_MARK, "").strip()


def _read(folder: Path, excerpt: Excerpt) -> Iterator[Sample | Quarantined]:
    files = [sorted(folder.glob(pattern)) for pattern in excerpt.files]
    for pattern, found in zip(excerpt.files, files, strict=True):
        if not found:
            raise ValueError(f"{folder} has no {pattern}: name the folder of the excerpts with --samples")
    annotations = tuple(path for found in files for path in found)
    options = SourceOptions(annotations=annotations, images=folder, split=excerpt.split)
    source = SOURCES[excerpt.source]
    context = Context(options, _StandIns(None))
    for row in keyed_records(source, options):
        made = row if isinstance(row, Quarantined) else make_sample(source, row, context)
        yield made if isinstance(made, Quarantined) else without_pictures(made)


class _StandIns(ImageFolder):
    """Gives a blank picture for every name, so that adapters make their samples; none of them is kept."""

    def read(self, *names: str) -> tuple[Image, Header]:
        return _BLANK, inspect(_BLANK.data)


def _blank() -> Image:
    encoded = io.BytesIO()
    PIL.Image.new("RGB", (640, 480)).save(encoded, "PNG")
    return Image(extension="png", data=encoded.getvalue())


_BLANK = _blank()
