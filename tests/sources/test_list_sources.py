"""The list of sources: complete, wrapped, fit to paste from; docs/sources.md is up to date."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path
from typing import get_args

import pytest

from polite_flamingo.sources.datasets import coco, elevater
from polite_flamingo.sources.list_sources import (
    EVIDENCE,
    HEADINGS,
    PF_1M,
    adopted,
    as_markdown,
    as_text,
    example,
    sources_named,
)
from polite_flamingo.sources.records.source import Evidence, Source, Use
from polite_flamingo.sources.registry import SOURCES
from ray_jobs import console
from ray_jobs.ingest import IngestOptions

ALL = list(SOURCES.values())


def words(command: str) -> list[str]:
    """Split a command as a shell would."""
    return shlex.split(command.replace("\\\n", ""))


ODD = dataclasses.replace(
    coco.SOURCE,
    name="odd",
    title="Odd | one",
    use="text",
    task="text",
    files="a_<id>_*.json|b",
    published="Hugging Face: org/name",
    evidence="documentation",
    adopted=None,
    images="none",
    extra={"depth": "how deep"},
)


def test_docs_sources_is_what_the_code_writes() -> None:
    page = (Path(__file__).parents[2] / "docs" / "sources.md").read_text()
    assert page == as_markdown(ALL), "run: python -m polite_flamingo.sources.list_sources > docs/sources.md"


def test_every_use_and_grade_of_evidence_has_words() -> None:
    assert set(HEADINGS) == set(get_args(Use)) and set(EVIDENCE) == set(get_args(Evidence))


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_text_says_everything_and_fits(width: int) -> None:
    text = as_text(ALL, width=width)
    words = " ".join(text.split())
    for source in ALL:
        assert words.count(f" {source.name} ({source.title}) ") == 1
        for value in (source.files, source.published, source.licence, HEADINGS[source.use], source.category):
            assert " ".join(value.split()) in words
    for line in text.splitlines():
        assert len(line) <= width or re.fullmatch(r" +([a-z]+ +)?\S+", line), line


def test_an_unreadable_width_is_not_used() -> None:
    assert as_text(ALL, width=5) == as_text(ALL, width=60)
    assert as_text(ALL, width=500) == as_text(ALL, width=120)


def test_sources_come_by_use_then_category() -> None:
    measured = dataclasses.replace(coco.SOURCE, name="measured", use="evaluation")
    text = as_text([ODD, measured, *ALL])
    names = ("coco_captions", "elevater_ic", "levir_cc", "aokvqa", "gqa", "measured", "odd")
    places = [text.index(f"\n  {name}  (") for name in names]
    assert places == sorted(places)
    assert text.startswith("Rewritten in PF-1M: captioning\n\n") and "\n\nText-only instructions\n\n  odd" in text


def test_a_format_known_from_documentation_only_is_marked() -> None:
    assert re.search(r"^    format +! documentation$", as_text([ODD]), re.MULTILINE)
    assert re.search(r"^    format +! documentation: known from documentation only", as_text([ODD], details=True), re.M)
    assert "! documentation" not in as_text([coco.SOURCE]) and "| **documentation** |" in as_markdown([ODD])


def test_details_name_what_only_one_source_needs() -> None:
    text = " ".join(as_text([elevater.SOURCE], details=True).split())
    for name, what in elevater.SOURCE.extra.items():
        assert f"--extra {name}=… {what}" in text
    assert "--extra" not in as_text([elevater.SOURCE])


def test_what_the_paper_counts_together_is_counted_once() -> None:
    pair = [dataclasses.replace(ODD, name=name, group="RET-3", adopted=10) for name in "ab"]
    assert adopted([*pair, coco.SOURCE, ODD]) == 59_680
    assert "in PF-1M        10 samples (RET-3 together)" in as_text(pair)
    assert f"PF-1M has {PF_1M:,} samples; 10 of them come from these." in as_text(pair)
    assert "! documentation known from documentation only" in as_text(pair)


def test_members_of_a_group_state_one_count_and_all_counts_make_the_paper_s() -> None:
    counts: dict[str, set[int | None]] = {}
    for source in ALL:
        counts.setdefault(source.group or source.name, set()).add(source.adopted)
    assert all(len(found) == 1 for found in counts.values()), counts
    assert adopted(ALL) == PF_1M


def test_an_example_names_the_files_of_the_source() -> None:
    assert words(example(coco.SOURCE)) == [
        *("polite-flamingo", "ingest", "--source", "coco_captions", "--split", "val"),
        *("--annotations", "data/coco_captions/captions_val2014.json", "data/coco_captions/instances_val2014.json"),
        *("--images", "data/coco_captions/images", "--out", "shards", "--preview", "20"),
    ]
    assert "'data/dior/Annotations/Horizontal Bounding Boxes/' \\" in example(SOURCES["dior"])
    assert "--images" not in example(ODD) and "--columns" not in example(ODD)
    assert " data/ucm/sub/val \\" in example(
        dataclasses.replace(coco.SOURCE, name="ucm", files="sub/SPLIT (a folder); x")
    )
    assert " data/odd/a.jsonl.gz \\" in example(dataclasses.replace(ODD, files="a.jsonl.gz, as it is"))


def test_a_table_says_what_its_columns_can_be() -> None:
    table = dataclasses.replace(ODD, files="a .csv or .parquet; pictures", columns=("response", "image", "meta.NAME"))
    command = " ".join(words(example(table)))
    assert " --annotations data/odd/annotations.csv --columns image=file response=answer --out" in command
    listed = " ".join(as_text([table], details=True).split())
    assert "--columns FIELD=COLUMN … the fields: response, image, meta.NAME" in listed
    assert "- `odd`: `--columns FIELD=COLUMN …` with the fields response, image, meta.NAME" in as_markdown([table])


@pytest.mark.parametrize("source", ALL, ids=SOURCES)
def test_ingest_understands_the_example_of_every_source(source: Source) -> None:
    given = console.parse("ingest", "", IngestOptions, words(example(source))[2:])
    assert given.source == source.name and given.annotations and given.out and given.preview == 20
    assert (given.images is None) == (source.images == "none") and {*dict(given.columns)} <= {*source.columns}
    assert not re.search(r"[<>…]|SPLIT", example(source))


def test_a_misspelt_name_gets_its_neighbours() -> None:
    assert [source.name for source in sources_named(["gqa", "clevr"])] == ["gqa", "clevr"]
    with pytest.raises(ValueError, match="no source is called 'CLEVER'; did you mean clevr"):
        sources_named(["gqa", "CLEVER"])
    with pytest.raises(ValueError, match="'coco_caption'; did you mean coco_captions"):
        sources_named(["coco_caption"])
    with pytest.raises(ValueError, match="'%%%'; --list names them all"):
        sources_named(["%%%"])


def test_the_table_escapes_what_markdown_would_read() -> None:
    row = next(line for line in as_markdown([ODD]).splitlines() if line.startswith("| `odd`"))
    cells = ["`odd`<br>Odd \\| one", "text", "a\\_\\<id>\\_\\*.json\\|b", "Hugging Face: org/name<br>CC BY 4.0"]
    assert row == f"| {' | '.join(cells)} | **documentation** |"
    assert "[cocodataset.org](https://cocodataset.org)" in as_markdown([coco.SOURCE])
    assert "- `odd`: `--extra depth=…`: how deep" in as_markdown([ODD])
