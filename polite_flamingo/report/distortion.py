"""The page of a distortion: counts, and good and distorted texts side by side.

Long texts are cut and pictures re-encoded as thumbnails; everything is escaped (`template.py`). The caller chooses the
pairs (`distortion/summary.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polite_flamingo.distortion.commands import COMMANDS
from polite_flamingo.report.gallery import Thumbnail, printable, thumbnail
from polite_flamingo.report.template import fill
from polite_flamingo.sample import Sample
from polite_flamingo.storage.run_info import RunInfo
from polite_flamingo.storage.shards import write_atomically

MAX_TEXT = 1500
KIND_NAMES = {
    "llm": "Said again by a terse robot",
    "text": "Randomly augmented",
    "captions_and_boxes": "Captions and boxes of the image",
}
SPEAKER_NOTES = {
    "rules": "No language model was asked: rules have shortened the texts. What a rewriter learns from these pairs is "
    "to undo these rules.",
}


@dataclass(frozen=True, kw_only=True)
class Card:
    """One pair; `facts` are the parameters of its distortion, as (name, value)."""

    key: str
    dataset: str
    question: str
    good: str
    distorted: str
    pictures: tuple[Thumbnail, ...]
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Group:
    """The pairs of one kind, of how many there are."""

    kind: str
    name: str
    count: int
    cards: tuple[Card, ...]


def write_distortion_page(
    path: Path, *, stats: Mapping[str, Any], pairs: Mapping[str, Sequence[Sample]], run: RunInfo
) -> None:
    """Write the page, atomically.

    Args:
        path: the HTML file.
        stats: shards, rows_in, pairs, quarantined_rows, and the counts of `distortion.summary.count` summed.
        pairs: to show, by kind.
        run: what made them.
    """
    speakers = stats.get("speakers", {})
    page = fill(
        "distortion",
        stats=stats,
        groups=[
            Group(kind=kind, name=KIND_NAMES[kind], count=stats["kinds"][kind], cards=tuple(map(_card, shown)))
            for kind, shown in pairs.items()
        ],
        kind_names=KIND_NAMES,
        tables=[
            ("Extra orders to the robot", {_order(name): number for name, number in stats.get("commands", {}).items()}),
            ("Were the extra orders followed, as far as that can be counted?", stats.get("followed", {})),
            (
                "Extra orders that were not followed",
                {_order(name): number for name, number in stats.get("not_followed", {}).items()},
            ),
            ("Draws that were not taken", stats.get("not_taken", {})),
            ("How the robot was spoken to", stats.get("wordings", {})),
            ("Steps of augmentation", stats.get("steps", {})),
            ("In the place of a kind that could not be had", stats.get("instead_of", {})),
            ("Data sets", stats.get("datasets", {})),
            ("Quarantined", stats.get("quarantined", {})),
        ],
        speakers=", ".join(speakers) or "nobody",
        note=" ".join(note for name, note in SPEAKER_NOTES.items() if name in speakers),
        run=run,
    )
    write_atomically(path, page)


def _card(sample: Sample) -> Card:
    done = dict(sample.provenance["distortion"])
    del done["kind"]
    return Card(
        key=sample.key,
        dataset=sample.dataset,
        question=_cut(sample.question),
        good=_cut(sample.rewritten or ""),
        distorted=_cut(sample.response),
        pictures=tuple(thumbnail(image.data) for image in sample.images[:2]),
        facts=tuple((name.replace("_", " "), _value(name, value)) for name, value in done.items() if value != ""),
    )


def _value(name: str, value: Any) -> str:
    if name == "command":
        return _order(str(value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key.replace('_', ' ')} {item}" for key, item in value.items())
    return str(value)


def _order(name: str) -> str:
    return f"{name}: “{COMMANDS[name]}”" if name in COMMANDS else name


def _cut(text: str) -> str:
    return printable(text if len(text) <= MAX_TEXT else text[:MAX_TEXT].rstrip() + " …")
