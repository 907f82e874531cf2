"""PF-1M itself: the published JSON, which is also what a build writes (`pf1m.json`, see `json_exports.py`).

    [{input: "What is it?<img_path>a/b.jpg<img_path>", output, original, reward, rouge_score, nli_similarity, …}]

By default a sample's response is `output`, the polite text: for training, mixing with other data, or viewing. With the
extra `response=original` it is the raw annotation, for rewriting by another model. The other text stays in `meta` under
its own name, and so do the scores. `field_meanings.py` says what other fields do.

A record does not name its task. The task follows from which semantic score the record has: NLI is for answers
(vqa), STS for descriptions of one image (captioning) or of several (change captioning); one that has neither is a
dialogue, or text if it has no image. The records have no ids: a key is the content's hash, so a copy is a duplicate.

The format is known from its documentation (the authors' readme) and from our own writer.
"""

from __future__ import annotations

from typing import Any

from polite_flamingo.sample import IMAGE_MARK, BadSample, Sample, Task, unmarked
from polite_flamingo.sources.reading.field_checks import as_object, content_hash, finite_number, required, verbatim
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.records.extra_fields import Findings, check_fields, with_notes
from polite_flamingo.sources.records.file_records import file_records
from polite_flamingo.sources.records.image_references import read_images
from polite_flamingo.sources.records.placeholders import check_placeholders
from polite_flamingo.sources.records.source import Context, Records, Source, SourceOptions, extra_choice, one_turn
from polite_flamingo.storage.json_exports import MARKER

RESPONSES = ("output", "original")
SCORES = ("reward", "rouge_score", "sts_similarity")
OTHER_SCORES = ("filtered_paragraphs", "paragraph_clip_scores")
"""The scores of paragraphs."""


def records(options: SourceOptions, scratch: Scratch) -> Records:
    """Yield the records. Raises `SourceError` for an unknown response."""
    extra_choice(options, "response", *RESPONSES)
    return with_notes(
        file_records(options, scratch, "records"), lambda record: check_other_fields(record).notes, scratch
    )


def check_other_fields(record: dict[str, Any]) -> Findings:
    """Find what is kept in addition to the texts and the single-number scores."""
    found = Findings()
    check_fields(record, {"input", "nli_similarity", *RESPONSES, *SCORES, *OTHER_SCORES}, found)
    if found.by_turn is not None:
        raise BadSample("unsupported", f"{found.why} says for several turns whether to learn them")
    kept = Findings()
    for name in OTHER_SCORES:
        if record.get(name) is not None:
            kept.keep(name, name, record[name])
    found.meta |= kept.meta
    return found


def instruction_of(text: str) -> tuple[str, list[str], int]:
    """Split an `input` into instruction and image names, and count how often it says "<image>" without showing one.

    Raises:
        BadSample: a marker is not closed, or has no name in it.
    """
    parts = text.split(MARKER)
    texts, names = parts[::2], parts[1::2]
    if len(texts) != len(names) + 1 or not all(name.strip() and "\n" not in name for name in names):
        raise BadSample("bad_field", f"field 'input': each image must be named between two {MARKER}, on one line")
    return IMAGE_MARK.join(map(unmarked, texts)), names, sum(part.count(IMAGE_MARK) for part in texts)


def task_of(record: dict[str, Any], images: int) -> Task:
    """Derive the task from a record's scores and images."""
    if "nli_similarity" in record:
        return "vqa"
    if "sts_similarity" in record and images:
        return "captioning" if images == 1 else "change_captioning"
    return "dialogue" if images else "text"


def build(key: str, record: dict[str, Any], context: Context) -> Sample:
    """Make the sample of a record."""
    said, names, marks = instruction_of(verbatim(required(record, "input"), "field 'input'"))
    check_placeholders(said, pictured=bool(names))
    texts = {name: verbatim(record[name], f"field {name!r}") for name in RESPONSES if record.get(name) is not None}
    chosen = extra_choice(context.options, "response", *RESPONSES)
    if chosen not in texts:
        raise BadSample("missing_annotation", f"the record has no {chosen!r}")
    response = texts.pop(chosen)
    marks += response.count(IMAGE_MARK)
    scores = {name: finite_number(record[name], f"field {name!r}") for name in SCORES if record.get(name) is not None}
    images = read_images(names, context)
    meta = {**check_other_fields(record).meta, "images": names, **texts, **scores}
    meta |= {"unmarked": marks} if marks else {}
    return one_turn(key, task_of(record, len(names)), said, unmarked(response), images, meta)


SOURCE = Source(
    name="pf1m",
    title="PF-1M, as published or as you built it",
    use="other",
    task="vqa",
    files="the published JSON, or pf1m.json of a build; the folder that the paths in its inputs begin in",
    published="Hugging Face: chendelong/PF-1M",
    evidence="documentation",
    records=records,
    identify=lambda record: content_hash(as_object(record)),
    build=build,
    extra={"response": "output (default): the polite text; original: the raw annotation, to rewrite it again"},
)
