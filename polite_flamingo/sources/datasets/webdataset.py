"""Tars of your own images and texts: from WebDataset, img2dataset, or plain `tar` of a folder.

`tars.py` says which members form a row, and accounts for each. What a row becomes depends on its members:

    0.jpg 0.txt            a picture and its caption
    0.jpg 0.json           the .json names it: a caption, an instruction and a response, or a conversation as LLaVA's
    0.0.jpg 0.1.jpg 0.json several pictures, in the order of their names, of a conversation or an instruction
    0.json                 a conversation, or an instruction and its response, without a picture

A .json that is a list of objects is the messages of a conversation, as Megatron Energon packs LLaVA's.

The caption is the .txt, or else a field of the .json (`CAPTION_FIELDS`). The instruction and its response are fields of
the .json (`INSTRUCTIONS`, `RESPONSES`). The fields taken are noted. All other fields are honoured or kept in `meta`
(`field_meanings.py`).

A key is the tar's name and the row's, since numbering often restarts in each tar. Rows in: the rows of the tars, plus a
row for each damaged or empty tar.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from polite_flamingo.images.decoding import Header
from polite_flamingo.sample import IMAGE_MARK, TASKS, BadSample, Image, Sample
from polite_flamingo.sources.datasets.captions import captioned
from polite_flamingo.sources.datasets.llava import builder
from polite_flamingo.sources.reading.field_checks import as_object, id_field, list_field, required, verbatim
from polite_flamingo.sources.reading.image_folder import ImageFolder
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.reading.small_files import printable_name
from polite_flamingo.sources.reading.tars import TarRow, caption_field, tar_rows, tars_below
from polite_flamingo.sources.records.extra_fields import Findings, check_single_answer, with_notes
from polite_flamingo.sources.records.instructions import with_image_marks
from polite_flamingo.sources.records.messages import read_conversation
from polite_flamingo.sources.records.placeholders import image_marks_in_text
from polite_flamingo.sources.records.record_layouts import MESSAGE_LISTS
from polite_flamingo.sources.records.responses import answer_response
from polite_flamingo.sources.records.source import Context, Place, Records, Source, SourceOptions, extra_task, one_turn
from polite_flamingo.sources.records.vqa_samples import majority
from polite_flamingo.storage.tar_members import printable

INSTRUCTIONS = ("instruction", "question", "prompt", "query")
RESPONSES = ("response", "answer", "answers", "output", "completion")
CONVERSATIONS = MESSAGE_LISTS
IMG2DATASET = (
    "url", "key", "status", "width", "height", "original_width", "original_height", "exif", "sha256", "md5",
)  # fmt: skip
"""Fields that img2dataset writes beside each picture: kept in `meta` without a note."""


def records(options: SourceOptions, scratch: Scratch) -> Records:
    """Yield the rows of `_rows`, and note what is kept of their fields."""
    return with_notes(_rows(options, scratch), _notes, scratch)


def _notes(record: dict[str, Any]) -> Iterable[str]:
    said = record["said"] or {}
    if _is_conversation(said):
        return read_conversation(said | {"images": [part[0] for part in record["pictures"]]}).found.notes
    found = Findings()
    question, answer = _first(said, INSTRUCTIONS), _first(said, RESPONSES)
    check_single_answer(said, (question, answer) if question and answer else (caption_field(said) or "",), found)
    quiet = {f"field {name!r} is not known; kept in meta" for name in IMG2DATASET}
    return [note for note in found.notes if note not in quiet]


def _rows(options: SourceOptions, scratch: Scratch) -> Records:
    """Yield {id, said, text, pictures}: the .json, the .txt, and [name, annotation, path below it, offset, size] each.

    Raises:
        SourceError: a tar is packed, a folder holds none, or the task does not exist.
    """
    extra_task(options)
    if options.images is not None:
        scratch.note("ignored: --images, since the pictures lie in the tars")
    for given, annotation in enumerate(options.annotations):
        for path in tars_below(annotation, scratch):
            below = path.relative_to(annotation).as_posix() if annotation.is_dir() else ""
            name = below or printable_name(path)
            stem = PurePosixPath(name).with_suffix("").as_posix()
            for number, row in enumerate(tar_rows(path, scratch)):
                if isinstance(row, BadSample):
                    yield Place(file=name), number, row
                else:
                    found = row.problem or _record(row, stem, [given, below], scratch)
                    yield Place(file=name, part="rows"), number, found


def _record(row: TarRow, tar: str, where: list[Any], scratch: Scratch) -> Any:
    said = {} if row.json is None else row.json
    if isinstance(said, list) and said and all(isinstance(one, dict) for one in said):
        said = {"conversations": said}
    if not isinstance(said, dict):
        return BadSample(
            "bad_field", f"the .json of {row.id[:80]} must be an object, or the messages of a conversation"
        )
    if {"key", "dataset", "task", "turns"} <= said.keys():
        remedy = "pass the tar to polite-flamingo build as --input; it needs no ingest"
        return BadSample("unsupported", f"the .json of {row.id[:80]} is a sample of this project: {remedy}")
    if not _is_conversation(said):
        question, answer = _first(said, INSTRUCTIONS), _first(said, RESPONSES)
        if question and answer:
            scratch.note(f"guessed: field {question!r} of the .json is the instruction, {answer!r} the response")
        elif row.text is None and (caption := caption_field(said)):
            scratch.note(f"guessed: field {caption!r} of the .json is the caption")
        elif row.text is not None and caption_field(said) is not None:
            scratch.note("guessed: of a .txt and a caption in the .json, the .txt is the caption")
    pictures = [[printable(member.name), *where, member.offset, member.size] for member in row.pictures]
    return {"id": f"{tar}/{row.id}", "said": None if row.json is None else said, "text": row.text, "pictures": pictures}


@dataclass(frozen=True)
class _Members(ImageFolder):
    """The pictures of a row, by their names in the tar."""

    annotations: tuple[Path, ...] = ()
    parts: Mapping[str, list[Any]] = field(default_factory=dict)

    def read(self, *names: str) -> tuple[Image, Header]:
        """Read like `ImageFolder.read`, from the tar."""
        given, below, offset, size = self.parts[names[0]]
        if not 0 <= given < len(self.annotations) or ".." in below.split("/") or "\0" in below:
            raise BadSample("unsafe_name", f"{names[0][:80]!r} is not in any of the given tars")
        tar = (self.annotations[given] / below).resolve()  # a link to a tar was given on purpose
        return ImageFolder(tar.parent).read_part(tar.name, offset, size)


def build(key: str, record: Any, context: Context) -> Sample:
    """Make the sample of a row."""
    fields = as_object(record)
    parts = {}
    for part in list_field(fields, "pictures"):
        if not isinstance(part, list) or [type(value) for value in part] != [str, int, str, int, int]:
            raise BadSample("bad_field", "a picture must be [name, annotation, path, offset, size]")
        parts[verbatim(part[0], "a picture's name")] = part[1:]
    images = _Members(None, annotations=context.options.annotations, parts=parts)
    said = as_object(fields["said"]) if fields.get("said") is not None else {}
    found = Findings()
    task = context.options.extra.get("task")
    if _is_conversation(said):
        kept = {name: value for name, value in said.items() if name not in ("image", "images")}
        return _CONVERSATION(key, kept | {"images": list(parts)}, Context(context.options, images))
    question, answer = _first(said, INSTRUCTIONS), _first(said, RESPONSES)
    if question and answer:
        task = task or ("vqa" if parts else "text")
        check_single_answer(said, (question, answer), found)
        asked = image_marks_in_text(verbatim(said[question], f"field {question!r}"), len(parts))
        asked = asked if IMAGE_MARK in asked else with_image_marks(asked, images=len(parts))
        response = image_marks_in_text(_answer(said[answer], answer, task), len(parts))
        return one_turn(key, task, asked, response, [images.read(name)[0] for name in parts], found.meta)
    caption = required(fields, "text")
    used: tuple[str, ...] = ()
    if caption is None:
        name = caption_field(said)
        if name is None:
            what = "the row has no .txt, and its .json no caption, response or conversation"
            raise BadSample("missing_annotation", what)
        caption, used = said[name], (name,)
    check_single_answer(said, used, found)
    captions = [
        image_marks_in_text(verbatim(one, "the caption").strip(), len(parts))
        for one in (caption if isinstance(caption, list) else [caption])
    ]
    if not any(captions):
        raise BadSample("missing_annotation", "the caption is empty")
    if len(parts) != 1:
        names = ", ".join(parts)
        detail = f"one caption for {len(parts)} pictures: {names[:200]}" if parts else "the caption has no picture"
        raise BadSample("bad_field" if parts else "missing_image", detail)
    return captioned(key, captions, images.read(*parts)[0], found.meta)


def _is_conversation(said: dict[str, Any]) -> bool:
    """Whether the .json is a conversation; a list of texts under one of its names may be captions."""
    return any(
        bool(value)
        and (name in ("conversations", "messages") or (isinstance(value, list) and isinstance(value[0], dict)))
        for name in CONVERSATIONS
        if (value := said.get(name)) is not None
    )


def _first(said: dict[str, Any], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if said.get(name) not in (None, "", [])), None)


def _answer(value: Any, name: str, task: str) -> str:
    if isinstance(value, list):
        value, _ = majority([one if isinstance(one, dict) else verbatim(one, f"field {name!r}") for one in value])
    text = verbatim(str(value) if type(value) in (int, float) else value, f"field {name!r}").strip()
    if not text:
        raise BadSample("empty_response", "the response is empty")
    return answer_response(text, "") if task == "vqa" else text


_CONVERSATION = builder(lambda name: [name])

SOURCE = Source(
    name="webdataset",
    title="Your own tars of pictures and texts",
    use="own data",
    task="captioning",
    files="00000.tar … of WebDataset, img2dataset or `tar`, or their folder; 0.jpg with 0.txt or 0.json lie in them",
    published="your own",
    licence="your own",
    evidence="real file",
    records=records,
    identify=lambda record: id_field(as_object(record), "id"),
    build=build,
    images="none",
    extra={"task": f"the task of all rows: {', '.join(TASKS)}"},
)
