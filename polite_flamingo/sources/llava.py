"""LLaVA's format: conversations about images. LLaVA-Instruct-150K's three parts, and data of your own.

    {id, image: name or [name, …], images: [name, …], conversations: [{from, value}, …]}

Turns become samples as in `conversations.py`. Each `<image>` that the human says stands for one image, in order; the
line break between it and the text goes. Where images are named and no mark is there, they are shown first; any other
number of marks than of images is quarantined. An `<image>` that the assistant says shows nothing: it becomes
"(image)", counted in `meta["unmarked"]`. Boxes stay as they are.

A name may be a URL, fetched only where its host is allowed. LLaVA-Instruct's names lack the prefix `COCO_train2014_` of
the files in COCO's folder: both are looked for.

The three parts are known from records quoted in documentation; the layout is that of LLaVA's own files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from polite_flamingo.sample import IMAGE_MARK, BadSample, Image, Sample, Task, Turn, unmarked
from polite_flamingo.sources.base import Context, Place, Source, SourceOptions, choice
from polite_flamingo.sources.conversations import exchanges, identify, records, said_in
from polite_flamingo.sources.reading import verbatim
from polite_flamingo.sources.shelf import Shelf

OWN_TASKS: tuple[Task, ...] = ("dialogue", "vqa", "vqa_rationale", "captioning", "classification", "change_captioning")


def image_names(record: dict[str, Any]) -> list[str]:
    """The images of a record: those of `images`, else those of `image`; none where neither names any."""
    field = "images" if record.get("images") else "image"
    given = record.get(field) or []
    names = given if isinstance(given, list) else [given]
    return [verbatim(name, f"an image name in field {field!r}") for name in names]


def shown(text: str) -> str:
    """What the human says, without the white space between its text and the marks at either end."""
    parts = text.split(IMAGE_MARK)
    words = [number for number, part in enumerate(parts) if part.strip()] or [len(parts) - 1]
    before, after = words[0], len(parts) - 1 - words[-1]
    return IMAGE_MARK * before + IMAGE_MARK.join(parts[words[0] : words[-1] + 1]).strip() + IMAGE_MARK * after


def in_coco(name: str) -> list[str]:
    """Where COCO keeps an image of LLaVA-Instruct."""
    return [name, f"train2017/{name}", f"train2014/COCO_train2014_{name}", f"COCO_train2014_{name}", f"images/{name}"]


def builder(name: str, places: Callable[[str], list[str]]) -> Callable[[str, Any, Context], Sample]:
    """The `build` of a dataset whose images lie at `places` of their names."""

    def build(key: str, record: dict[str, Any], context: Context) -> Sample:
        names, said = image_names(record), said_in(record)
        turns, meta = exchanges(said)
        if names and not any(IMAGE_MARK in text for speaker, text in said if speaker == "human"):
            turns[0] = Turn(instruction=IMAGE_MARK * len(names) + turns[0].instruction, response=turns[0].response)
            meta["marks_added"] = len(names)
        marks = sum(turn.instruction.count(IMAGE_MARK) for turn in turns)
        if marks != len(names):
            raise BadSample("missing_image", f"{marks} {IMAGE_MARK} marks in what the human says, {len(names)} images")
        if unmarkable := sum(turn.response.count(IMAGE_MARK) for turn in turns):
            meta["unmarked"] = unmarkable
        return Sample(
            key=key,
            dataset=name,
            task=choice(context.options, "task", *OWN_TASKS),
            turns=tuple(Turn(instruction=shown(turn.instruction), response=unmarked(turn.response)) for turn in turns),
            images=tuple(_image(context, image, places(image)) for image in names),
            meta=meta | ({"images": names} if names else {}),
        )

    return build


def _image(context: Context, name: str, places: list[str]) -> Image:
    if name.startswith(("http://", "https://")):
        return context.local_or_downloaded(name, *places)
    return context.images.read(*places)[0]


def own_records(options: SourceOptions, shelf: Shelf) -> Iterator[tuple[Place, int, Any]]:
    """The conversations. Raises `SourceError` for a task that does not exist."""
    choice(options, "task", *OWN_TASKS)
    return records(options, shelf)


def _part(name: str, title: str, file: str) -> Source:
    return Source(
        name=name,
        title=f"LLaVA-Instruct-150K, {title}",
        use="dialogue",
        task="dialogue",
        category="dialogue",
        files=f"{file}; COCO 2014 or 2017 training images",
        published="Hugging Face: liuhaotian/LLaVA-Instruct-150K",
        licence="CC BY-NC 4.0, and the terms of OpenAI",
        evidence="transcribed",
        records=records,
        identify=identify,
        build=builder(name, in_coco),
    )


CONVERSATION = _part("llava_conversation", "conversations", "conversation_58k.json")
DETAIL = _part("llava_detail", "detailed descriptions", "detail_23k.json")
REASONING = _part("llava_reasoning", "complex reasoning", "complex_reasoning_77k.json")
LLAVA = Source(
    name="llava",
    title="Your own data in LLaVA's format",
    use="own data",
    task="dialogue",
    category="dialogue",
    files="a JSON list or JSON lines of {id, image: name(s), conversations: [{from, value}]}, image and id optional",
    published="your own",
    evidence="real file",
    records=own_records,
    identify=identify,
    build=builder("llava", lambda name: [name, f"images/{name}"]),
    images="optional",
    extra={"task": f"what it is, so that the right filters judge it when it is rewritten: {', '.join(OWN_TASKS)}"},
)
