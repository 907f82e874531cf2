"""Placeholders in texts: what each stands for, and what becomes of it. `placeholders.py` applies this table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from polite_flamingo.sources.records.field_meanings import PICTURE_ENDINGS

Becomes = Literal["picture", "object", "box", "refused", "noted"]


@dataclass(frozen=True, kw_only=True)
class Placeholder:
    """What stands in a text for something else.

    Attributes:
        example: how it is written.
        pattern: a regular expression that ignores case; its group, if any, is what `takes` says.
        becomes: what becomes of it.
        takes: what the group is: the picture's "path", or its "number" among the record's pictures.
        says: what a refused or noted placeholder stands for.
        text: whether a text about other things may hold it; in text-only datasets it is then plain text.
        html: whether it may be an HTML element, in a text that has others.
    """

    example: str
    pattern: str
    becomes: Becomes
    takes: Literal["", "path", "number"] = ""
    says: str = ""
    text: bool = False
    html: bool = False


PLACEHOLDERS: tuple[Placeholder, ...] = (
    # Pictures. Longer forms stand before the shorter ones that they hold.
    Placeholder(example="<|vision_start|><|image_pad|><|vision_end|>", becomes="picture",
        pattern=r"<\|vision_start\|>(?:<\|image_pad\|>)+<\|vision_end\|>|(?:<\|image_pad\|>)+"),
    Placeholder(example="<img><IMG_CONTEXT></img>", becomes="picture",
        pattern=r"<img>\s*(?:(?:<imagehere>|<image>|(?:<img_context>)+)\s*)?</img>|(?:<img_context>)+|<imagehere>"),
    Placeholder(example="(<image>./</image>)", becomes="picture", pattern=r"\(<image>\./</image>\)|<image>\./</image>"),
    Placeholder(example="<img>path</img>", becomes="picture", takes="path", pattern=r"<img>([^<>\n]{1,4096})</img>"),
    Placeholder(example="<image>path.jpg</image>", becomes="picture", takes="path",
        pattern=rf"<image>([^<>\n]{{1,4096}}\.(?:{'|'.join(PICTURE_ENDINGS)}))</image>"),
    Placeholder(example="<fake_token_around_image><image><fake_token_around_image>", becomes="picture",
        pattern=r"<fake_token_around_image>(?:<image>)+<fake_token_around_image>"),
    Placeholder(example="<im_start><im_patch><im_end>", becomes="picture",
        pattern=r"<im_start>(?:<im_patch>)*<im_end>|(?:<im_patch>)+"),
    Placeholder(example="<start_of_image>", becomes="picture",
        pattern=r"<start_of_image>(?:(?:<image_soft_token>)*<end_of_image>)?"),
    Placeholder(example="<image_1>, <|image_1|>, <image 1>", becomes="picture", takes="number",
        pattern=r"<\|?image[ _-]?(\d{1,3})\|?>"),
    Placeholder(example="<|image|>, <image_placeholder>, <image_token>, <image_soft_token>", becomes="picture",
        pattern=r"<\|image\|>|<\|?image_(?:placeholder|token|soft_token)\|?>"),
    Placeholder(example="[IMG], [IMAGE]", becomes="picture", text=True, pattern=r"\[img\](?!.*?\[/img\])|\[image\]"),
    Placeholder(example="<image>", becomes="picture", text=True, pattern=r"<image>"),
    # Objects and boxes.
    Placeholder(example="<ref-object>", becomes="object", pattern=r"<ref-object>"),
    Placeholder(example="<bbox>", becomes="box", text=True, html=True, pattern=r"<bbox>"),
    # What cannot be read.
    Placeholder(example="<video>, <audio>, <|video_pad|>, <|AUDIO|>, <SpeechHere>",
        becomes="refused", says="a video or a sound", html=True,
        pattern=r"<\|?(?:video|audio|speech|sound|voice|music)"
        r"(?:here|[_-]?(?:pad|bos|eos|start|end|token|placeholder|\d{1,3}))?\|?>"),
    Placeholder(example="<cot-process>", becomes="refused", says="a place for a reward", pattern=r"<cot-process>"),
    Placeholder(example="<grounding>, <phrase>dog</phrase><object>, <patch_index_0044>",
        becomes="refused", says="Kosmos's marks of places",
        pattern=r"<grounding>|<patch_index_\d+>|<phrase>.*?</phrase>\s*<object>"),
    Placeholder(example="<loc_12>, <loc0012>, <seg012>, [SEG]",
        becomes="refused", says="places or shapes in tokens of a certain model",
        pattern=r"<loc_?\d{1,4}>|<seg_?\d{1,3}>|\[seg\]"),
    Placeholder(example="{<40><12><60><80>}", becomes="refused", says="MiniGPT-v2's marks of places",
        pattern=r"\{<\d{1,3}>(?:<\d{1,3}>){3}"),
    Placeholder(example="<boxes>, <ph_st>, <points>", becomes="refused", says="Shikra's placeholders of places",
        pattern=r"<boxes>|<ph_st>|<points>"),
    Placeholder(example="<quad>, <|quad_start|>", becomes="refused", says="corners of places",
        pattern=r"<quad>|<\|quad_start\|>"),
    Placeholder(example="<region>, <region1>, <mask>",
        becomes="refused", says="a region of a picture", text=True, html=True,
        pattern=r"<\|?(?:region|mask)_?\d{0,3}\|?>"),
    Placeholder(example="<image-x>, <|vision_pad|>",
        becomes="refused", says="not a known image mark", text=True, html=True,
        pattern=r"<\|?(?:image|img|vision|visual|picture|photo)[\w-]*\|?>"),
    # Plain text, but worth a note.
    Placeholder(example="<think>", becomes="noted", says="thoughts, which are taught unchanged", text=True,
        pattern=r"</?think(?:ing)?>"),
)  # fmt: skip
