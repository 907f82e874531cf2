"""One instruction, one response: Alpaca-GPT-4, GPTeacher and InstructionWild."""

from __future__ import annotations

import json
from typing import Any

import pytest

from polite_flamingo.sources.reading.field_checks import content_hash
from polite_flamingo.sources.registry import SOURCES
from tests.support.raw_dataset import SHARED, Raw

ANSWER = {"alpaca_gpt4": "output", "gpteacher": "response", "instructionwild": "output"}


def one(raw: Raw, source: str, record: Any) -> Any:
    samples, quarantined = raw.read(source, raw.json("a.json", [record]), split="")
    return (samples + quarantined)[0]


@pytest.mark.parametrize("source", ANSWER)
def test_the_input_follows_the_instruction(raw: Raw, source: str) -> None:
    record = {"instruction": " Sort:\n", "input": "b,\n  a\n", ANSWER[source]: "a,\n  b\n"}
    sample = one(raw, source, record)
    assert (sample.instruction, sample.response) == ("Sort:\n\nb,\n  a", "a,\n  b")
    assert (sample.key, sample.task) == (f"{source}/train/{content_hash(record)}", "text")
    for nothing in ({"input": ""}, {"input": None}, {}):
        assert one(raw, source, {"instruction": "Sort:", ANSWER[source]: "a", **nothing}).instruction == "Sort:"


def test_gpteacher_may_call_its_input_an_example(raw: Raw) -> None:
    record = {"instruction": "Sort:", "example_input": "b, a", "response": "a, b"}
    assert one(raw, "gpteacher", record).instruction == "Sort:\n\nb, a"
    assert one(raw, "gpteacher", record | {"input": "c"}).instruction == "Sort:\n\nc"


def test_an_instruction_that_speaks_of_an_image_shows_none(raw: Raw) -> None:
    sample = one(raw, "alpaca_gpt4", {"instruction": "Close <image>", "input": "<image>", "output": "</image>"})
    assert (sample.instruction, sample.images) == ("Close (image)\n\n(image)", ())
    assert sample.meta["unmarked"] == 2


@pytest.mark.parametrize("source", ANSWER)
def test_bad_records_are_quarantined(raw: Raw, source: str) -> None:
    good = {"instruction": "Sort:", "input": "", ANSWER[source]: "a"}
    bad: list[tuple[Any, str]] = [
        (3, "bad_field"),
        ({"instruction": "Sort:"}, "missing_annotation"),
        ({**good, ANSWER[source]: None}, "missing_annotation"),
        ({**good, ANSWER[source]: " "}, "empty_response"),
        ({**good, ANSWER[source]: ["a"]}, "bad_field"),
        ({**good, ANSWER[source]: float("nan")}, "bad_field"),
        ({**good, "instruction": "\n"}, "bad_field"),
        ({**good, "instruction": 3}, "bad_field"),
        ({**good, "input": 3}, "bad_field"),
        ({**good, "input": "\udce9"}, "bad_field"),
        ({ANSWER[source]: "a"}, "bad_field"),
        ({**good, "instruction": "a" * 100_001}, "text_too_long"),
        (good, "duplicate_key"),
    ]
    samples, quarantined = raw.read(source, raw.json("a.json", [good, *(record for record, _ in bad)]))
    assert [sample.response for sample in samples] == ["a"]
    assert [(row.payload, row.reason) for row in quarantined] == [
        (f"a.json#instructions[{number}]", reason) for number, (_, reason) in enumerate(bad, 1)
    ]


def test_what_is_known_from_documentation_says_so() -> None:
    assert SOURCES["instructionwild"].evidence == "documentation"


def test_real_alpaca_gpt4(real: Any) -> None:
    files = [
        f"alpaca_gpt4/{name}" for name in ("alpaca_gpt4_data.first1.TRANSCRIBED.json", "axolotl_alpaca_fixture.json")
    ]
    samples, quarantined = real("alpaca_gpt4", "", *files)
    assert quarantined == [] and len(samples) == 3
    assert (samples[0].key, samples[0].instruction) == (
        "alpaca_gpt4/train/781844c6636d9ee3",
        "Give three tips for staying healthy.",
    )
    assert samples[0].response.startswith("1. Eat a balanced and nutritious diet: Make sure your meals are inclusive")
    assert (samples[1].instruction, samples[1].response) == (
        "You will be given a series of words. Output these words in reverse order, with each word on its own line."
        "\n\nWords: ['Hello', 'world'].",
        "['world', 'Hello']",
    )


def test_real_gpteacher(real: Any) -> None:
    files = ["codegen-instruct.head15.json", "roleplay-simple-deduped-roleplay-instruct.head30.json",
             "toolformer-dedupe-only-dataset.head20.json"]  # fmt: skip
    samples, quarantined = real("gpteacher", "", *(f"gpteacher/{file}" for file in files))
    assert quarantined == [] and len(samples) == 15 + 30 + 20
    assert (samples[0].instruction, samples[0].response.splitlines()[:4]) == (
        "Write a C++ program that calculates the area of a rectangle, given its width and height."
        "\n\nwidth: 5, height: 8",
        ["#include <iostream>", "using namespace std;", "", "int main() {"],
    )
    assert (samples[45].key, samples[45].response) == (
        "gpteacher/train/ab5780cd177074bb",
        "Summary of the French Revolution: wikipedia('French Revolution')",
    )
    assert samples[45].instruction.endswith("based on the input event given\n\nFrench Revolution")
    content = json.loads((SHARED / "samples/gpteacher" / files[1]).read_text())
    assert [sample.response for sample in samples[15:45]] == [record["response"].strip() for record in content]


def test_real_instructionwild_has_seeds_without_responses(real: Any) -> None:
    files = ["instructionwild/seed_prompts_en.head40.jsonl", "instructionwild/data_v2_user_1.head40.jsonl"]
    samples, quarantined = real("instructionwild", "", *files)
    assert samples == []
    assert [(row.reason, row.detail) for row in quarantined] == [
        ("missing_annotation", "the instruction has no 'output'")
    ] * 80
    assert quarantined[41].payload == "data_v2_user_1.head40.jsonl#instructions[1]"
