"""Generates docs/formats.md, which says what each source accepts, from the code that reads it.

    python -m polite_flamingo.sources.formats_page > docs/formats.md

The functions that a source's module imports show which files it takes, where its pictures may be, and whether it
honours the fields that change the meaning. The tables of kinds, names and fields are the ones that these functions use.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from types import FunctionType

from polite_flamingo.formatting import table
from polite_flamingo.images.decoding import EXTENSION_OF
from polite_flamingo.sources.datasets import llava, webdataset
from polite_flamingo.sources.list_sources import escaped
from polite_flamingo.sources.reading import tars
from polite_flamingo.sources.reading.compression import MAGIC
from polite_flamingo.sources.reading.file_kinds import READABLE
from polite_flamingo.sources.reading.tars import CAPTION_FIELDS
from polite_flamingo.sources.reading.unsupported_files import SIGNATURES
from polite_flamingo.sources.records import (
    annotation_files,
    extra_fields,
    field_meanings,
    file_records,
    image_references,
    messages,
    placeholder_table,
    record_layouts,
)
from polite_flamingo.sources.records.file_records import WRAPPERS
from polite_flamingo.sources.records.image_references import IMAGE_KEYS
from polite_flamingo.sources.records.source import Source
from polite_flamingo.sources.records.table_columns import FIELDS as COLUMNS
from polite_flamingo.sources.registry import SOURCES

_PAGE = """\
# Formats

What `polite-flamingo ingest` accepts. Generated from the code that reads it:
`python -m polite_flamingo.sources.formats_page > docs/formats.md`. [Sources](sources.md) says where each dataset is
published.

Every record of an annotation file, and every member of a tar, becomes a sample, a line in `OUT/quarantine/NAME.jsonl`
with its reason and its place, or part of a count of what was passed over. Guesses (columns, delimiters, layouts) are
printed before anything is written, and kept in `OUT/ingest/NAME.json`. `--preview` shows them beforehand.

## What each source accepts

{sources}

## Annotation files

The bytes of a file tell what it is, not its name. A folder stands for the files in it, all of one kind. In saved \
datasets and hub clones from Hugging Face, the file names give the splits.

{kinds}

Text may be compressed with {packed}. An object may hold its records under {wrappers}. A byte order mark is removed; \
UTF-16 and UTF-32 are refused with the command that converts them. Refused at once, by name: {refused}, zip archives, \
Office documents, Python pickles, weights (safetensors, PyTorch), HTML pages.

## Pictures

A source that takes any reference reads a path below `--images` (relative, absolute, `file://`, with backslashes, or \
beginning with the folder's own name), an address of a host named with `--download`, a `data:` URL, base64, bytes of \
Parquet and Arrow (binary of any width, views, dictionaries), an object that has one of these under {image_keys}, and \
lists of them. A path that leads out of `--images` is quarantined (`unsafe_name`).

Formats: {image_formats}; HEIC (HEIF) with the extra `heic`. Any other format is named and quarantined as \
`unsupported_image`. The stored bytes stay as they are. Every model, endpoint and report sees the same picture: \
upright as EXIF says, the first frame, transparency on white, 16 bits scaled to 8, CMYK and palettes as RGB.

## Tars

From WebDataset, img2dataset or `tar`, with their members in any order: a picture with a `.txt` or a `.json` of the \
same path, columns as `0.seg.png`, and folders of pictures beside folders of texts. A `.json` may hold a caption \
({captions}), an instruction ({instructions}) and its response ({responses}), or a conversation ({conversations}).

## Conversations

`sharegpt`, `llava` and the sources that share its reader take a record's messages in each of these layouts. Pairs and \
messages may be JSON in a string, or an object of columns, as `datasets` stores `Sequence({{…}})`. Images are named by \
{image_fields}, or in the parts of a message.

```
{layouts}
```

## Columns of `table`

`--columns FIELD=COLUMN …` maps the fields {columns}. Without it the columns are guessed by their names. The choice is \
printed. A column that is neither chosen nor kept as `meta.NAME` is reported as left out. It can still exclude a row: \
if it says that the answer is bad or must not be learned, or if it holds or names a video or a sound. Placeholders in \
texts are honoured as in other layouts. Class labels of Hugging Face become their names, and numbers stay as they are \
written.

## Fields that change the meaning

In records, messages and content parts; case, `_` and `-` in a name make no difference. A field that is neither here \
nor part of the layout is kept in `meta`, and counted. Null means absent.

{fields}

A field whose name has {media} as a word and that is not empty, or that names a file of such a kind, quarantines its \
record (`unsupported`).

## Placeholders in texts

{placeholders}
"""

_BECOMES: dict[placeholder_table.Becomes, str] = {
    "picture": "the picture at that place",
    "object": "the name of the record's next object",
    "box": "the next box, as our responses write boxes",
    "refused": "the record is quarantined (unsupported)",
    "noted": "stays in the text, and is counted",
}


def files_of(source: Source) -> str:
    """Tell which annotation files a source takes: "records" of any kind, "tars", or only its "own"."""
    found = _used(source)
    if found & {file_records.file_records, annotation_files.annotation_files}:
        return "records"
    if tars.tar_rows not in found:
        return "own"
    return "own or tars" if source.use == "PF-1M" else "tars"


def pictures_of(source: Source) -> str:
    """Tell where a source's pictures may be: "anywhere", "tars", "folder", "folder, tars or addresses", "none"."""
    if _used(source) & {image_references.read_images, image_references.read_image, llava.OWN_IMAGES}:
        return "anywhere"
    if files_of(source) == "tars":
        return "tars"
    if source.images == "none":
        return "none"
    return "folder, tars or addresses" if source.images == "optional" else "folder"


def honours_meanings(source: Source) -> bool:
    """Whether a source honours the lists of fields and placeholders (`field_meanings.py`)."""
    return bool(_used(source) & {extra_fields.check_fields, messages.read_conversation, llava.builder})


def as_markdown(sources: Sequence[Source]) -> str:
    """Write the whole page."""
    media: dict[str, list[str]] = {}
    for name, medium in field_meanings.MEDIA.items():
        media.setdefault(medium, []).append(name)
    return _PAGE.format(
        sources=_table(["source", "layout", "annotation files", "pictures", "fields"], map(_row, sources)),
        kinds=_table(["kind", "what is read"], ([kind, escaped(what)] for kind, what in READABLE.items())),
        packed=", ".join(MAGIC.values()),
        wrappers=_codes(WRAPPERS),
        refused=", ".join(dict.fromkeys(what for _, _, what, _ in SIGNATURES)),
        image_keys=_codes(IMAGE_KEYS),
        image_formats=", ".join(EXTENSION_OF),
        captions=_codes(CAPTION_FIELDS),
        instructions=_codes(webdataset.INSTRUCTIONS),
        responses=_codes(webdataset.RESPONSES),
        conversations=_codes(webdataset.CONVERSATIONS),
        image_fields=_codes(field_meanings.IMAGE_NAMES),
        layouts="\n".join(re.findall(r"^    (.+)", record_layouts.__doc__ or "", re.MULTILINE)),
        columns=_codes(COLUMNS),
        fields=_table(
            ["fields", "found in", "what becomes of them"],
            (
                [_codes(field.names), ", ".join(field.where), _becomes(field_meanings.EFFECTS[field.kind], field.says)]
                for field in field_meanings.FIELDS
            ),
        ),
        media="; or ".join(f"{_codes(names)} ({medium})" for medium, names in media.items()),
        placeholders=_table(
            ["placeholder", "what becomes of it"],
            (
                [_codes([place.example]), _becomes(_BECOMES[place.becomes], place.says)]
                for place in placeholder_table.PLACEHOLDERS
            ),
        ),
    )


def _row(source: Source) -> list[str]:
    files = {
        "records": "[any kind](#annotation-files)",
        "tars": "[tars](#tars)",
        "own or tars": "its own, or [tars](#tars)",
        "own": "its own",
    }
    places = {
        "anywhere": "[any reference](#pictures)",
        "tars": "in the tars",
        "folder": "files below `--images`",
        "folder, tars or addresses": "files below `--images`, in tars, or at their addresses with `--download`",
        "none": "–",
    }
    if honours_meanings(source):
        meaning = "[honoured or named](#fields-that-change-the-meaning), all others kept in `meta`"
    elif source.columns:
        meaning = "[columns](#columns-of-table) that are chosen"
    else:
        meaning = "those of its layout"
    return [f"`{source.name}`", escaped(source.files), files[files_of(source)], places[pictures_of(source)], meaning]


def _becomes(effect: str, says: str) -> str:
    return escaped(f"{effect}: {says}" if says else effect)


def _codes(texts: Iterable[str]) -> str:
    """Write texts as code in Markdown; a bar would end a table's cell."""
    return ", ".join("`" + text.replace("|", "\\|") + "`" for text in texts)


def _used(source: Source) -> set[FunctionType]:
    """Return the functions in the modules that define a source's three functions."""
    return {
        value
        for function in (source.records, source.identify, source.build)
        for value in vars(sys.modules[function.__module__]).values()
        if isinstance(value, FunctionType)
    }


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(table(head, rows))


if __name__ == "__main__":
    print(as_markdown(list(SOURCES.values())), end="")
