"""LLaVA's format: conversations about images. LLaVA-Instruct-150K's three parts, and data of your own.

    {id, image: name or [name, …], images: [name, …], conversations: [{from, value}, …]}
    {images: [name, …], messages: [{role, content: [{type: "image", …}, {type: "text", text}]}, …]}

`record_layouts.py` lists the layouts; `turns.py` turns messages into a sample. Each `<image>` in a human message stands
for one image, in order. So do the marks of other models (`placeholder_table.py`): `<image_2>` is the second image, and
`<img>a.jpg</img>` brings its own. The line break between a mark and the text is dropped. If images are named and there
is no mark, they are shown first; any other mismatch between marks and images is quarantined. An `<image>` in what the
assistant says shows nothing: it becomes "(image)", counted in `meta["unmarked"]`.

Boxes that are plain numbers stay as they are. `<ref-object>` and `<bbox>` become the names and boxes of the record's
`objects`. The marks of Qwen-VL and InternVL are put into the words of our own responses (`grounding.py`).

An image is anything that `image_references.py` reads: a path, a URL, base64, bytes in Parquet. LLaVA-Instruct's names
lack the prefix `COCO_train2014_` of the files in COCO's folder; both are tried. LLaVA-1.5's mix calls every picture of
OCR-VQA .jpg; its download script keeps .png and .gif, which are tried too. Published sets and trainers' files in these
layouts are in `visual_instructions.py`.

The three parts are known from records quoted in documentation; the layout is that of LLaVA's own files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from polite_flamingo.images.decoding import inspect
from polite_flamingo.sample import IMAGE_MARK, BadSample, Image, Sample, Task, Turn, unmarked
from polite_flamingo.sources.datasets.conversations import identify, reader
from polite_flamingo.sources.reading.field_checks import as_object
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.records.extra_fields import without_empty_cells
from polite_flamingo.sources.records.field_meanings import IMAGE_NAMES
from polite_flamingo.sources.records.grounding import GroundedObjects, grounding_in_words
from polite_flamingo.sources.records.image_references import read_image, reference_name, references
from polite_flamingo.sources.records.media_fields import may_name_picture, media_of_file
from polite_flamingo.sources.records.messages import Conversation, read_conversation
from polite_flamingo.sources.records.placeholders import ShownImage
from polite_flamingo.sources.records.source import Builder, Context, Records, Source, SourceOptions, extra_choice
from polite_flamingo.sources.records.turns import to_turns

OWN_TASKS: tuple[Task, ...] = ("dialogue", "vqa", "vqa_rationale", "captioning", "classification", "change_captioning")


def images_of_marks(shown: Sequence[ShownImage], named: Sequence[Any], numbered_from: int | None) -> list[Any]:
    """List what each mark shows, in order.

    Args:
        shown: the places of pictures in the texts.
        named: the pictures that the record's own fields name.
        numbered_from: the number of the first of them; None means 1, or 0 if a mark has that number.

    Raises:
        BadSample: `missing_image` if the places and the pictures do not match.
    """
    numbers = [one.number for one in shown if one.number is not None]
    marks = sum(one.number is None and one.reference is None for one in shown)
    if marks != (0 if numbers else len(named)) or (numbers and not named):
        what = f"{marks + len(numbers)} {IMAGE_MARK} marks in what the human says, {len(named)} images"
        raise BadSample(
            "missing_image", what + (", some of the marks with numbers and some without" if numbers and marks else "")
        )
    first = (0 if 0 in numbers else 1) if numbered_from is None else numbered_from
    if numbers and {number - first for number in numbers} != set(range(len(named))):
        raise BadSample("missing_image", f"marks with the numbers {sorted(set(numbers))}, {len(named)} images")
    rest = iter(named)
    return [
        named[one.number - first] if one.number is not None else next(rest) if one.reference is None else one.reference
        for one in shown
    ]


def strip_around_marks(text: str) -> str:
    """Strip the white space between what the human says and the marks at either end."""
    parts = text.split(IMAGE_MARK)
    words = [number for number, part in enumerate(parts) if part.strip()] or [len(parts) - 1]
    before, after = words[0], len(parts) - 1 - words[-1]
    return IMAGE_MARK * before + IMAGE_MARK.join(parts[words[0] : words[-1] + 1]).strip() + IMAGE_MARK * after


def llava_instruct_names(name: str) -> list[str]:
    """Return where COCO keeps an image of LLaVA-Instruct."""
    return [name, f"train2017/{name}", f"train2014/COCO_train2014_{name}", f"COCO_train2014_{name}", f"images/{name}"]


def own_names(name: str) -> list[str]:
    """Return where an image lies in a folder of one's own, or in that of LLaVA-1.5's mix."""
    stem = name.rpartition(".")[0]
    others = [f"{stem}.{ending}" for ending in ("jpg", "png", "gif", "jpeg")] if "ocr_vqa/" in name else []
    return [name, f"images/{name}", *others]


def builder(places: Callable[[str], list[str]]) -> Builder:
    """Make the `build` function of a dataset; `places` says where an image lies, given its name."""

    def build(key: str, record: dict[str, Any], context: Context) -> Sample:
        conversation = read_conversation(without_empty_cells(as_object(record), context.options, IMAGE_NAMES))
        turns, places_shown, meta = to_turns(conversation.messages, conversation.found)
        named = _named(conversation, context)
        if named and not any(one.shown for one in conversation.messages):
            turns[0] = replace(turns[0], instruction=IMAGE_MARK * len(named) + turns[0].instruction)
            places_shown = [ShownImage() for _ in named]
            meta["marks_added"] = len(named)
        wanted = images_of_marks([_given(one, context) for one in places_shown], named, conversation.numbered_from)
        if unmarkable := sum(turn.response.count(IMAGE_MARK) for turn in turns):
            meta["unmarked"] = unmarkable
        if not wanted:
            _refuse_untaken_picture(conversation)
        images = tuple(read_image(one, context, places) for one in wanted)
        turns = [
            replace(turn, instruction=strip_around_marks(turn.instruction), response=unmarked(turn.response))
            for turn in _located(turns, conversation.objects, [images[wanted.index(one)] for one in named or wanted])
        ]
        return Sample(
            key=key,
            dataset="",
            task=extra_choice(context.options, "task", *OWN_TASKS),
            turns=tuple(turns),
            images=images,
            meta=conversation.found.meta | meta | ({"images": list(map(reference_name, wanted))} if wanted else {}),
        )

    return build


def _refuse_untaken_picture(conversation: Conversation) -> None:
    """Raise `BadSample` if an unknown field of a record without pictures names one."""
    known = "and no known field does: call it 'image'"
    for column in conversation.found.unread:
        raise BadSample("unsupported", f"column {column[:40]!r} holds bytes, maybe a picture, {known}")
    for name, value in conversation.found.meta.items():
        if may_name_picture(value):
            raise BadSample("unsupported", f"field {name[:40]!r} may name a picture, {known}")


def _located(turns: list[Turn], objects: GroundedObjects | None, images: Sequence[Image]) -> list[Turn]:
    """Put the objects and boxes of turns into words. In a record without pictures, they are text.

    Args:
        turns: the turns of the whole conversation.
        objects: what its placeholders stand for.
        images: the images as the objects count them: in the order of the record's field, else of the texts.
    """
    if not images:
        return turns
    texts = [text for turn in turns for text in (turn.instruction, turn.response)]
    if objects is not None:
        headers = [inspect(image.data) for image in images]
        texts = objects.located(texts, [(header.width, header.height) for header in headers])
    texts = [grounding_in_words(text) for text in texts]
    return [
        replace(turn, instruction=asked, response=said)
        for turn, asked, said in zip(turns, texts[::2], texts[1::2], strict=True)
    ]


def _references(value: Any, context: Context, what: str) -> list[str | bytes]:
    """List the pictures that a value names. Raises `BadSample`, which names `what`."""
    try:
        found = references(value, context)
    except BadSample as bad:
        raise BadSample(bad.reason, f"{what}: {bad.detail}") from None
    for one in found:
        if medium := media_of_file(one):
            raise BadSample("unsupported", f"{what}: {str(one)[:80]!r} is {medium}, not a picture")
        if isinstance(one, str) and "\0" in one:
            raise BadSample("unsafe_name", f"{what}: {one[:80]!r} leads out of the image folder")
    return found


def _named(conversation: Conversation, context: Context) -> list[str | bytes]:
    """List the pictures that the record's own fields name."""
    what = f"an image name in field {conversation.pictures_in!r}"
    return [one for value in conversation.pictures for one in _references(value, context, what)]


def _given(place: ShownImage, context: Context) -> ShownImage:
    """Turn the own picture of a place, if it has one, into a reference."""
    if place.reference is None:
        return place
    what = "the picture in a message"
    found = _references(place.reference, context, what)
    if len(found) != 1:
        raise BadSample("bad_field", f"{what} is {len(found)} pictures, not one")
    return replace(place, reference=found[0])


def records(options: SourceOptions, scratch: Scratch) -> Records:
    """Yield the conversations. Raises `SourceError` for an unknown task."""
    extra_choice(options, "task", *OWN_TASKS)
    return reader(read_conversation)(options, scratch)


def _part(name: str, title: str, file: str) -> Source:
    return Source(
        name=name,
        title=f"LLaVA-Instruct-150K, {title}",
        use="dialogue",
        task="dialogue",
        files=f"{file}; COCO 2014 or 2017 training images",
        published="Hugging Face: liuhaotian/LLaVA-Instruct-150K",
        licence="CC BY-NC 4.0, and the terms of OpenAI",
        evidence="transcribed",
        records=reader(read_conversation),
        identify=identify,
        build=builder(llava_instruct_names),
    )


CONVERSATION = _part("llava_conversation", "conversations", "conversation_58k.json")
DETAIL = _part("llava_detail", "detailed descriptions", "detail_23k.json")
REASONING = _part("llava_reasoning", "complex reasoning", "complex_reasoning_77k.json")
OWN_IMAGES = builder(own_names)
TASK_EXTRA = {"task": f"the task of all records, which decides how their rewrites are filtered: {', '.join(OWN_TASKS)}"}

LLAVA = Source(
    name="llava",
    title="Your own conversations, as LLaVA's",
    use="own data",
    task="dialogue",
    files="a JSON list or JSON lines of {id, image: name(s), conversations: [{from, value}]}, image and id optional; "
    "or any other layout of conversations; Parquet, or a folder that `datasets` saved",
    published="your own",
    evidence="real file",
    records=records,
    identify=identify,
    build=OWN_IMAGES,
    images="optional",
    extra=TASK_EXTRA,
)
