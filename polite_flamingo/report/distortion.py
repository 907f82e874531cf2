"""Make the page of a distortion: counts, and good and distorted texts side by side.

Long texts are cut and images re-encoded as thumbnails; everything is escaped (`template.py`). The caller chooses the
pairs (`distortion/summary.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from polite_flamingo.distortion.commands import COMMANDS
from polite_flamingo.report.gallery import readable, thumbnail
from polite_flamingo.report.template import fill
from polite_flamingo.sample import Sample
from polite_flamingo.storage.location import Location
from polite_flamingo.storage.run_info import RunInfo

MAX_TEXT = 1500
"""Most characters per text on the page."""
KIND_NAMES = {
    "llm": "Repeated by a terse robot",
    "text": "Randomly augmented",
    "captions_and_boxes": "Captions and boxes of the image",
}
SPEAKER_NOTES = {
    "rules": "No language model was used: rules shortened the texts. A rewriter trained on these pairs learns to undo "
    "these rules.",
}
TABLES = {
    "commands": "Extra commands to the robot",
    "followed": "Were the extra commands followed, as far as that can be counted?",
    "not_followed": "Extra commands that were not followed",
    "not_taken": "Rejected draws",
    "wordings": "How the robot was prompted",
    "steps": "Augmentation steps",
    "instead_of": "Kinds that were not possible",
    "datasets": "Datasets",
    "quarantined": "Quarantined",
}
"""The titles of the tables of counts."""


def write_distortion_page(
    where: Location, *, stats: Mapping[str, Any], pairs: Mapping[str, Sequence[Sample]], run: RunInfo
) -> None:
    """Write the page, atomically.

    Args:
        where: the HTML file.
        stats: shards, rows_in, pairs, quarantined_rows, and the sums of the counts of `distortion.summary.count`.
        pairs: the pairs to show, by kind.
        run: the run that made them.
    """
    speakers = stats.get("speakers", {})
    page = fill(
        "distortion",
        stats=stats,
        pairs=pairs,
        kind_names=KIND_NAMES,
        tables=[
            (title, {_command(name): number for name, number in stats.get(table, {}).items()})
            for table, title in TABLES.items()
        ],
        speakers=", ".join(speakers) or "nobody",
        note=" ".join(note for name, note in SPEAKER_NOTES.items() if name in speakers),
        cut=lambda text: readable(text, MAX_TEXT),
        pictures=lambda sample: [thumbnail(image.data) for image in sample.images[:2]],
        facts=_facts,
        run=run,
    )
    where.put(page)


def _facts(sample: Sample) -> Iterator[tuple[str, str]]:
    """Yield name and value of each parameter of a pair's distortion."""
    for name, value in sample.provenance["distortion"].items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{key.replace('_', ' ')} {item}" for key, item in value.items())
        if name != "kind" and value != "":
            yield name.replace("_", " "), _command(str(value)) if name == "command" else str(value)


def _command(name: str) -> str:
    return f"{name}: “{COMMANDS[name]}”" if name in COMMANDS else name
