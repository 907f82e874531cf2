"""Lists the sources for people: as plain text for `polite-flamingo ingest --list`, and as docs/sources.md.

    python -m polite_flamingo.sources.list_sources > docs/sources.md

Both are generated from the fields of `Source`, so that what is listed is what is read.
"""

from __future__ import annotations

import difflib
import itertools
import re
import shlex
import textwrap
from collections.abc import Iterable, Sequence
from typing import get_args

from polite_flamingo.formatting import table
from polite_flamingo.sources.records.source import CATEGORIES, Evidence, Source, Use
from polite_flamingo.sources.registry import SOURCES

PF_1M = 975_782
"""Samples of PF-1M: what the paper adopted of all its datasets together (arXiv 2307.01003, section 4)."""

EVIDENCE: dict[Evidence, str] = {
    "real file": "seen in an excerpt of a published file, which a test reads",
    "transcribed": "seen in real records copied by hand from code or documentation, in a file rebuilt around them",
    "documentation": "known from documentation only: no record of it has been seen",
    "own format": "defined by this project",
}
"""What each grade of evidence says about a source's format."""

HEADINGS: dict[Use, str] = {
    "PF-1M": "Rewritten in PF-1M",
    "evaluation": "Evaluation",
    "text": "Text-only instructions",
    "dialogue": "Dialogues about images",
    "preference": "Preference pairs and ratings",
    "other": "Other datasets",
    "own data": "Your own data",
}

_INTRODUCTION = """\
# Sources

The datasets that `polite-flamingo ingest` reads, from the files that their authors publish. Generated from the table
that the code uses: `python -m polite_flamingo.sources.list_sources > docs/sources.md`. For one of them in full, with a
command to begin with: `polite-flamingo ingest --list NAME`.

**How the format is known**"""

_SUM = """\
*In PF-1M*: how many samples of a source PF-1M kept (arXiv 2307.01003, section 4); {:,} of its {:,} are counted here.
What the paper counts together has one count, given with each member."""

_FILE = re.compile(
    r"[\w.*<>/-]+\.(?:json|jsonl|csv|tsv|token|txt|xml|parquet|tar)(?:\.gz)?\b|[\w.-]+/[\w./-]*(?: [A-Z]\w*)*/?"
)
"""A file, or a folder, whose name may have blanks before capitals."""

_COLUMNS = {"image": "file", "instruction": "question", "response": "answer"}
"""Made-up columns of a table, for its example."""


def sources_named(names: Iterable[str]) -> list[Source]:
    """Return the sources with these names. Raises `ValueError` with suggestions for an unknown name."""
    found = []
    for name in names:
        if name not in SOURCES:
            close = difflib.get_close_matches(name.lower(), SOURCES, n=4, cutoff=0.5)
            close += [known for known in SOURCES if name and name.lower() in known and known not in close]
            hint = f"did you mean {' or '.join(close)}?" if close else "--list names them all"
            raise ValueError(f"no source is called {name!r}; {hint}")
        found.append(SOURCES[name])
    return found


def adopted(sources: Iterable[Source]) -> int:
    """Count the samples that PF-1M kept of the sources; what the paper counts together is counted once."""
    return sum({source.group or source.name: source.adopted or 0 for source in sources}.values())


def as_text(sources: Sequence[Source], *, details: bool = False, width: int = 100) -> str:
    """Write the list as plain text, grouped by use and category.

    Args:
        sources: the sources to list.
        details: whether to add what only some sources need, and a command to begin with.
        width: columns of the terminal; 60 to 120 of them are used.
    """
    width = min(max(width, 60), 120)
    blocks = []
    for heading, members in itertools.groupby(_in_order(sources), _heading):
        blocks.append(heading)
        blocks += [_entry(source, details, width) for source in members]
    if not details:
        found = {source.evidence for source in sources}
        marks = ((_evidence(grade), what) for grade, what in EVIDENCE.items() if grade in found)
        blocks.append("\n".join(["format is", *(_wrapped(mark, what, width) for mark, what in marks)]))
        count = f"{len(sources)} sources. PF-1M has {PF_1M:,} samples; {_part(adopted(sources))} from these."
        advice = "--list NAME shows what one of them needs, and a command to begin with."
        blocks.append(textwrap.fill(f"{count} {advice}", width, break_on_hyphens=False))
    return "\n\n".join(blocks)


def _heading(source: Source) -> str:
    return HEADINGS[source.use] + ("" if source.category == source.use else f": {source.category}")


def _entry(source: Source, details: bool, width: int) -> str:
    """Write the entry of one source."""
    fields = [("files", source.files), ("published", source.published), ("licence", source.licence)]
    if source.adopted is not None:
        fields.append(("in PF-1M", _adopted(source, " samples")))
    fields.append(("format", _evidence(source.evidence) + (f": {EVIDENCE[source.evidence]}" if details else "")))
    if details:
        images = "no folder of them is needed" if source.images == "none" else source.images
        fields += [("task", source.task), ("images", images)]
        if source.columns:
            fields.append(("columns", f"--columns FIELD=COLUMN …  the fields: {', '.join(source.columns)}"))
        fields += [("extra", f"--extra {name}=…  {what}") for name, what in source.extra.items()]
    lines = [f"  {source.name}  ({source.title})", *(_wrapped(name, value, width) for name, value in fields)]
    return "\n".join([*lines, "", textwrap.indent(example(source), "    ")] if details else lines)


def _evidence(grade: Evidence) -> str:
    return f"! {grade}" if grade == "documentation" else grade


def _wrapped(name: str, value: str, width: int) -> str:
    """Wrap a named field of an entry; file names are never broken."""
    start = f"    {name:<15} "
    return textwrap.fill(
        value,
        width,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
        break_on_hyphens=False,
    )


def example(source: Source) -> str:
    """Write a command to begin with, its files as `Source.files` names them; paths and split are to be replaced."""
    folder = f"data/{source.name}"
    # "a.json (or b.json), c.json, or …; where the images are": the first way of giving the annotations
    first = re.split(r";|,? or ", re.sub(r"\([^)]*\)", "", source.files))[0]
    split = "val" if "SPLIT" in source.files else ""
    suffix = re.search(r"\.\w+", first)
    files = _FILE.findall(first.replace("SPLIT", split)) or [f"annotations{suffix[0] if suffix else '.json'}"]
    columns = [f"{field}={column}" for field, column in _COLUMNS.items() if field in source.columns]
    parts = [
        f"polite-flamingo ingest --source {source.name}{f' --split {split}' if split else ''}",
        " \\\n        ".join(["--annotations", *(shlex.quote(f"{folder}/{name}") for name in files)]),
        *([f"--columns {' '.join(columns)}"] if columns else []),
        f"{'' if source.images == 'none' else f'--images {folder}/images '}--out shards --preview 20",
    ]
    return " \\\n    ".join(parts)


def as_markdown(sources: Sequence[Source]) -> str:
    """Write docs/sources.md."""
    parts = [_INTRODUCTION, "\n".join(f"- *{grade}*: {what}" for grade, what in EVIDENCE.items())]
    for use, heading in HEADINGS.items():
        members = [source for source in _in_order(sources) if source.use == use]
        if members:
            parts += [f"## {heading}", _table(members)]
        if use == "PF-1M":
            parts.append(_SUM.format(adopted(members), PF_1M))
    by_extra: dict[tuple[str, str], list[str]] = {}
    for source in _in_order(sources):
        for extra in source.extra.items():
            by_extra.setdefault(extra, []).append(f"`{source.name}`")
    extras = [f"- {', '.join(names)}: `--extra {name}=…`: {escaped(what)}" for (name, what), names in by_extra.items()]
    extras += [
        f"- `{source.name}`: `--columns FIELD=COLUMN …` with the fields {', '.join(source.columns)}"
        for source in _in_order(sources)
        if source.columns
    ]
    if extras:
        parts += ["## What only some sources need", "\n".join(extras)]
    return "\n\n".join(parts) + "\n"


def _table(members: Sequence[Source]) -> str:
    counted = any(source.adopted is not None for source in members)
    head = ["source", "category", "files", "published, licence of the annotations", "format known from"]
    rows = [
        [
            f"`{source.name}`<br>{escaped(source.title)}",
            source.category,
            escaped(source.files),
            f"{_link(source.published)}<br>{escaped(source.licence)}",
            f"**{source.evidence}**" if source.evidence == "documentation" else source.evidence,
            *([escaped(_adopted(source)) if source.adopted is not None else "–"] if counted else []),
        ]
        for source in members
    ]
    head += ["in PF-1M"] if counted else []
    return "\n".join(table(head, rows, right=[place for place, name in enumerate(head) if name == "in PF-1M"]))


def _part(count: int) -> str:
    return "all of them come" if count == PF_1M else f"{count:,} of them come"


def _adopted(source: Source, unit: str = "") -> str:
    together = f" ({source.group} together)" if source.group else ""
    return f"{source.adopted:,}{unit}{together}"


def escaped(text: str) -> str:
    """Escape text for a cell of a Markdown table, where no character is to mean anything."""
    return re.sub(r"([\\`*|\[\]<]|(?<!\w)_|_(?!\w))", r"\\\1", text)


def _link(place: str) -> str:
    """Write `place` as a link if it is an address without its scheme."""
    return (
        f"[{escaped(place)}](https://{place})" if re.fullmatch(r"[\w-]+(\.[\w-]+)+(/\S*)?", place) else escaped(place)
    )


def _in_order(sources: Iterable[Source]) -> list[Source]:
    """Sort by use, then category, otherwise as registered."""
    uses = get_args(Use)
    return sorted(sources, key=lambda source: (uses.index(source.use), [*CATEGORIES].index(source.task)))


if __name__ == "__main__":
    print(as_markdown(list(SOURCES.values())), end="")
