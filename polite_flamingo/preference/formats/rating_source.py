"""HelpSteer's format and its like as a source of `ingest`: rows of one prompt become a sample with rated candidates.

    {prompt, response, helpfulness, correctness, coherence, complexity, verbosity}     HelpSteer, HelpSteer2
    …, and optionally {key, history: [{human, assistant}], images, model, judge, reward}      what `export` writes

Rows of one prompt need not follow each other: they have the same text and the same names of pictures or, where there is
one, the same `key`. A prompt is a text, HelpSteer2's text with marks of further turns, or
messages. An attribute may be missing or null, not all of them. A row that is no rated answer is quarantined alone. The
first answer is the response of the last turn too, because there is no other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from polite_flamingo.candidates import ATTRIBUTES, MOST, Candidate, Rating
from polite_flamingo.sample import BadSample, Sample, unmarked
from polite_flamingo.sources.datasets.llava import OWN_IMAGES, OWN_TASKS, TASK_EXTRA
from polite_flamingo.sources.reading.field_checks import as_object, content_hash, finite_number, required, verbatim
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.records.field_meanings import IMAGE_NAMES
from polite_flamingo.sources.records.file_records import file_records
from polite_flamingo.sources.records.record_layouts import history_of
from polite_flamingo.sources.records.source import Context, Place, Records, Source, SourceOptions, extra_choice

REWARD = "reward"
_MARK = re.compile(r"<extra_id_1>(User|Assistant)\n", re.IGNORECASE)
"""HelpSteer2's marks of further turns."""

_OF_ANSWER = (*ATTRIBUTES, REWARD, "response", "model", "judge", "tokens", "cut", "number", "reason")
"""Fields of an answer; all others are of its prompt."""


def records(options: SourceOptions, scratch: Scratch) -> Records:
    """Yield a record per prompt, {…, answers: [row, …]}, and a `BadSample` for each row that is no rated answer."""
    extra_choice(options, "task", *OWN_TASKS)
    for place, number, row in file_records(options, scratch, "answers"):
        try:
            if isinstance(row, BadSample):
                raise row
            answer_of(row, "")
            prompt = {name: value for name, value in row.items() if name not in _OF_ANSWER}
            key = content_hash(_group(prompt))
        except BadSample as bad:
            yield place, number, bad
            continue
        if scratch.is_new(f"prompt {key}"):
            scratch.put("prompts", key, [place.file, place.part, place.split, number, prompt])
        scratch.put("answers", key, {name: row[name] for name in _OF_ANSWER if name in row})
    for key, (file, part, split, number, prompt) in scratch.items("prompts"):
        answers = scratch.get("answers", key)
        yield Place(file=file, part=part, split=split), number, {**prompt, "answers": answers}


def _group(prompt: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the rows of one prompt share. Pictures in Parquet have no name, so there a `key` must say it."""
    same = {"key", *_ASKED} if isinstance(prompt.get("key"), str) else {*_ASKED, *IMAGE_NAMES}
    return {name: value for name, value in prompt.items() if name in same}


_ASKED = ("prompt", "history", "system", "conversations", "messages", "question", "instruction", "input")


def identify(record: Any) -> str:
    """Return the hash of what is asked."""
    return content_hash(_group(as_object(record)))


def build(key: str, record: Any, context: Context) -> Sample:
    """Make the sample of a prompt with its rated answers."""
    rows: Sequence[Mapping[str, Any]] = record["answers"]
    judge = context.options.extra.get("judge", "people")
    candidates = tuple(replace(answer_of(row, judge), number=number) for number, row in enumerate(rows))
    rest = {name: value for name, value in record.items() if name not in ("answers", "prompt", "history", "key")}
    said = [*history_of(record), *_prompt(record), {"role": "assistant", "content": candidates[0].text}]
    sample = OWN_IMAGES(key, rest | {"conversations": said}, context)
    *before, last = sample.turns
    turns = (*(replace(turn, learned=False) for turn in before), last)
    return replace(sample, turns=turns, candidates=candidates)


def answer_of(row: Any, judge: str) -> Candidate:
    """Return the answer of a row with its rating.

    Args:
        row: a record of the file.
        judge: who rated, if the row does not say.

    Raises:
        BadSample: it has no answer, an empty one, or no rating in range.
    """
    fields = as_object(row)
    text = unmarked(verbatim(required(fields, "response"), "field 'response'").strip())
    if not text:
        raise BadSample("empty_response", "the response is empty")
    values = {name: _rating(name, fields[name]) for name in ATTRIBUTES if fields.get(name) is not None}
    if fields.get(REWARD) is not None:
        values[REWARD] = finite_number(fields[REWARD], f"field {REWARD!r}")
    if not values:
        raise BadSample("missing_annotation", f"the response is not rated: none of {', '.join(ATTRIBUTES)}")
    said = {
        name: fields.get(name) if isinstance(fields.get(name), str) else "" for name in ("model", "judge", "reason")
    }
    rating = Rating(judge=said["judge"] or judge, values=values, reason=said["reason"] or "")
    return Candidate(text=text, model=said["model"] or "", cut=fields.get("cut") is True, ratings=(rating,))


def _rating(name: str, value: Any) -> float:
    number = finite_number(value, f"field {name!r}")
    if not 0 <= number <= MOST:
        raise BadSample("bad_field", f"field {name!r} is {number:g}; ratings are 0 to {MOST}")
    return int(number) if number == int(number) else number


def _prompt(record: Mapping[str, Any]) -> list[Any]:
    """Return the messages of a prompt."""
    prompt = required(dict(record), "prompt")
    if isinstance(prompt, list):
        return prompt
    roles = ["User", *_MARK.findall(verbatim(prompt, "field 'prompt'"))]
    texts = [text.strip() for text in _MARK.split(prompt)[::2]]
    if roles[-1].lower() == "assistant" and not texts[-1]:
        roles, texts = roles[:-1], texts[:-1]  # the mark of the answer itself
    speakers = {"user": "user", "assistant": "assistant"}
    return [{"role": speakers[role.lower()], "content": text} for role, text in zip(roles, texts, strict=True)]


SOURCE = Source(
    name="helpsteer",
    title="HelpSteer's rated answers",
    use="preference",
    task="dialogue",
    files="train.jsonl.gz or .parquet of {prompt, response, helpfulness, correctness, coherence, …}",
    published="Hugging Face: nvidia/HelpSteer2",
    licence="CC BY 4.0",
    evidence="documentation",
    records=records,
    identify=identify,
    build=build,
    images="optional",
    extra={**TASK_EXTRA, "judge": "who rated, where a row does not say (default: people)"},
)
