"""Alpaca's format: an instruction, often an input that it refers to, and the response. One exchange per record.

    alpaca_gpt4      [{instruction, input, output}]
    gpteacher        [{instruction, input, response}], some with `example_input` instead of an input
    instructionwild  [{instruction, input, output}], its inputs all empty

The input (in Dolly, `context`) follows the instruction after a blank line; `meta["instruction"]` then holds the
instruction alone. Texts are verbatim except for surrounding white space. A `history` of earlier exchanges becomes the
first turns, a `system` message stays in `meta`, and the preferred of two answers is the response. What other fields do
is in `field_meanings.py`. A key is the content's hash, so a copy is a duplicate.

Of InstructionWild, the seeds (JSON lines) were seen; they have no responses and are quarantined one by one as
`missing_annotation`. The file with responses is known from its documentation only.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any

from polite_flamingo.sample import BadSample, Sample, Turn
from polite_flamingo.sources.reading.field_checks import as_object, content_hash, list_field, required, verbatim
from polite_flamingo.sources.records.extra_fields import Findings, check_fields, is_empty, with_notes
from polite_flamingo.sources.records.file_records import file_records
from polite_flamingo.sources.records.source import Builder, Context, Reader, Source
from polite_flamingo.sources.records.turns import SYSTEM_KEPT, text_sample


def builder(answer: str) -> Builder:
    """Make the `build` function of a dataset whose responses are in the field `answer`."""

    def build(key: str, record: dict[str, Any], context: Context) -> Sample:
        found = Findings()
        turns, meta = _exchanges(record, answer, found)
        return text_sample(key, turns, found.meta | meta)

    return build


def reader(answer: str) -> Reader:
    """Make the `records` function of a dataset whose responses are in the field `answer`; kept fields are noted."""

    def notes(record: dict[str, Any]) -> Iterable[str]:
        found = Findings()
        _exchanges(record, answer, found)
        return found.notes

    return lambda options, scratch: with_notes(file_records(options, scratch, "instructions"), notes, scratch)


def _exchanges(record: Any, answer: str, found: Findings) -> tuple[list[Turn], dict[str, Any]]:
    """Return the turns of a record and its `meta`; `found` collects what all other fields say."""
    if not is_empty(record.get("image")) or not is_empty(record.get("images")):
        raise BadSample("unsupported", "the record names an image: read such a file with --source table")
    instruction = _text(record, "instruction")
    if record.get(answer) is None and isinstance(record.get("chosen"), str):
        answer = "chosen"
    if record.get(answer) is None:
        raise BadSample("missing_annotation", f"the instruction has no {answer!r}")
    if not instruction:
        raise BadSample("bad_field", "the instruction is empty")
    given = next((name for name in ("input", "example_input", "context") if record.get(name)), None)
    parts = [instruction, _text(record, given) if given else ""]
    told = [name for name in ("input", "example_input", "context") if name == given or not record.get(name)]
    check_fields(record, {"instruction", answer, "history", "system", "image", "images", *told}, found)
    if found.by_turn is not None:
        raise BadSample("unsupported", f"{found.why} says for several turns whether to learn them")
    turns = [*_earlier(record), Turn(instruction="\n\n".join(filter(None, parts)), response=_text(record, answer))]
    meta = {"instruction": instruction} if parts[1] and len(turns) == 1 else {}
    if not is_empty(record.get("system")):
        meta["system"] = _text(record, "system")
        found.note(SYSTEM_KEPT)
    return turns, meta


def _earlier(record: dict[str, Any]) -> Iterator[Turn]:
    """Yield the turns of `history`, as LLaMA-Factory writes them: [[human, assistant], …]."""
    if is_empty(record.get("history")):
        return
    for number, pair in enumerate(list_field(record, "history")):
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadSample("bad_field", f"history[{number}] must be what the human says and what the assistant says")
        asked, said = (verbatim(text, f"a text of history[{number}]").strip() for text in pair)
        yield Turn(instruction=asked, response=said)


def _text(record: dict[str, Any], name: str) -> str:
    return verbatim(required(record, name), f"field {name!r}").strip()


_source = functools.partial(
    Source, use="text", task="text", identify=lambda record: content_hash(as_object(record)), images="none"
)

ALPACA_GPT4 = _source(
    name="alpaca_gpt4",
    title="Alpaca-GPT-4",
    files="alpaca_gpt4_data.json",
    published="github.com/Instruction-Tuning-with-GPT-4/GPT-4-LLM",
    licence="CC BY-NC 4.0",
    evidence="real file",
    records=reader("output"),
    build=builder("output"),
)
GPTEACHER = _source(
    name="gpteacher",
    title="GPTeacher",
    files="its .json files: of Instruct, Roleplay, Codegen and Toolformer, one degree of de-duplication each",
    published="github.com/teknium1/GPTeacher",
    licence="MIT",
    evidence="real file",
    records=reader("response"),
    build=builder("response"),
)
INSTRUCTIONWILD = _source(
    name="instructionwild",
    title="InstructionWild",
    files="instinwild_en.json (the seed prompts have no responses)",
    published="github.com/XueFuzhao/InstructionWild",
    licence="non-commercial research only",
    evidence="documentation",
    records=reader("output"),
    build=builder("output"),
)
