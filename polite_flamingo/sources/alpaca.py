"""Alpaca's format: an instruction, often an input that it speaks of, and the response. One exchange a record.

    alpaca_gpt4      [{instruction, input, output}]
    gpteacher        [{instruction, input, response}], some with `example_input` instead of an input
    instructionwild  [{instruction, input, output}], its inputs all empty

The input follows the instruction after a blank line; then `meta["instruction"]` is the instruction alone. Texts are
verbatim but for white space around them. The records have no ids: a key is the content's hash, so a copy is a
duplicate.

Of InstructionWild, the seeds (JSON lines) were seen; they have no responses and are quarantined one by one as
`missing_annotation`. The file with responses is known from its documentation only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from polite_flamingo.sample import BadSample, Sample, Turn
from polite_flamingo.sources.base import Context, Evidence, Place, Source, SourceOptions
from polite_flamingo.sources.conversations import text_sample
from polite_flamingo.sources.files import file_records
from polite_flamingo.sources.reading import entry, fingerprint, value_of, verbatim
from polite_flamingo.sources.shelf import Shelf


def records(options: SourceOptions, shelf: Shelf) -> Iterator[tuple[Place, int, Any]]:
    """The instructions."""
    return file_records(options, shelf, "instructions")


def builder(name: str, answer: str) -> Callable[[str, Any, Context], Sample]:
    """The `build` of a dataset whose responses are in the field `answer`."""

    def build(key: str, record: dict[str, Any], context: Context) -> Sample:
        instruction = _text(record, "instruction")
        if record.get(answer) is None:
            raise BadSample("missing_annotation", f"the instruction has no {answer!r}")
        if not instruction:
            raise BadSample("bad_field", "the instruction is empty")
        given = next((name for name in ("input", "example_input") if record.get(name)), None)
        parts = [instruction, _text(record, given) if given else ""]
        turn = Turn(instruction="\n\n".join(filter(None, parts)), response=_text(record, answer))
        return text_sample(name, key, [turn], {"instruction": instruction} if parts[1] else {})

    return build


def _text(record: dict[str, Any], name: str) -> str:
    return verbatim(value_of(record, name), f"field {name!r}").strip()


def _source(
    name: str, title: str, answer: str, *, files: str, published: str, licence: str, evidence: Evidence = "real file"
) -> Source:
    return Source(
        name=name,
        title=title,
        use="text",
        task="text",
        category="text",
        files=files,
        published=published,
        licence=licence,
        evidence=evidence,
        records=records,
        identify=lambda record: fingerprint(entry(record)),
        build=builder(name, answer),
        images="none",
    )


ALPACA_GPT4 = _source(
    "alpaca_gpt4",
    "Alpaca-GPT-4",
    "output",
    files="alpaca_gpt4_data.json",
    published="github.com/Instruction-Tuning-with-GPT-4/GPT-4-LLM",
    licence="CC BY-NC 4.0",
)
GPTEACHER = _source(
    "gpteacher",
    "GPTeacher",
    "response",
    files="its .json files: of Instruct, Roleplay, Codegen and Toolformer, one degree of de-duplication each",
    published="github.com/teknium1/GPTeacher",
    licence="MIT",
)
INSTRUCTIONWILD = _source(
    "instructionwild",
    "InstructionWild",
    "output",
    files="instinwild_en.json (the seed prompts have no responses)",
    published="github.com/XueFuzhao/InstructionWild",
    licence="non-commercial research only",
    evidence="documentation",
)
