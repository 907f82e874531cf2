"""What holds for every source, and for the wording of instructions."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections import Counter

import pytest

from polite_flamingo.sample import TASKS
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.records.instructions import IMAGES_SHOWN, INSTRUCTIONS, instruction, with_image_marks
from polite_flamingo.sources.records.source import SourceOptions
from polite_flamingo.sources.registry import SOURCES
from tests.support.raw_dataset import Raw

CATEGORIES = {"captioning", "classification", "change captioning", "VQA with rationale", "VQA"}


def test_the_sources_cover_the_five_categories_and_describe_themselves() -> None:
    assert {source.category for source in SOURCES.values()} == CATEGORIES | {"text", "dialogue"}
    for name, source in SOURCES.items():
        assert source.name == name and source.task in TASKS and source.files and source.licence
        assert inspect.isgeneratorfunction(source.read)


@pytest.mark.parametrize("name", SOURCES)
def test_no_source_takes_an_unreadable_file_or_lacks_the_images_it_needs(raw: Raw, name: str) -> None:
    nowhere = raw.root / "nowhere" / "x.json"
    with pytest.raises(SourceError) as caught:
        list(SOURCES[name].read(SourceOptions(annotations=(nowhere,), images=None)))
    assert ("--images" if SOURCES[name].images == "needed" else str(nowhere)) in str(caught.value)


@pytest.mark.parametrize("task", INSTRUCTIONS)
def test_a_task_has_at_least_five_wordings_and_all_are_used(task: str) -> None:
    pool = INSTRUCTIONS[task]
    assert len(set(pool)) == len(pool) >= 5
    used = Counter(instruction(task, f"some/key/{number}") for number in range(500))
    assert set(used) == {with_image_marks(wording, images=IMAGES_SHOWN[task]) for wording in pool}
    assert min(used.values()) > 500 / len(pool) / 2


def test_the_wording_depends_only_on_the_key_even_in_another_process() -> None:
    code = "from polite_flamingo.sources.records import instructions as i; print(i.instruction('captioning', 'a/b/c'))"
    seen = set()
    for seed in ("0", "1"):
        run = [sys.executable, "-c", code]
        done = subprocess.run(run, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed})
        seen.add(done.stdout.strip())
    assert seen == {instruction("captioning", "a/b/c")}


def test_a_question_follows_the_marks_of_its_images() -> None:
    assert with_image_marks(" What is it? ") == "<image>What is it?"
    assert with_image_marks("What has changed?", images=2) == "<image><image>What has changed?"
