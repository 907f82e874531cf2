"""Published sets of visual instructions, and trainers' files: names for what `llava.py` reads.

    llava_v1_5       {id, image: "coco/train2017/1.jpg", conversations: [{from, value}]}; text-only rows have no image
    sharegpt4v       the same, with images of coco, llava, sam, …
    llava_onevision  Parquet {id, image, conversations, data_source}, or JSON as LLaVA's
    cauldron         Parquet {images: […], texts: [{user, assistant, source}]}
    finevision       the same, with four ratings of each turn (1 to 5) and the least of each
    openai_messages  {messages: [{role, content: [{type: "text", text}, {type: "image_url", image_url: {url}}]}]}
    ms_swift         {messages: [{role, content}], images: […]}, or {query, response, history, images}

The Cauldron and FineVision mark no places of images: all are shown before the first question. FineVision's ratings are
kept in `meta` as they are named, so every export has them: `relevance_ratings[n]` is that of turn n of the source, and
`provenance["turns"]` says which turns a selection has kept. A row of a text-only set has no image.
"""

from __future__ import annotations

import functools

from polite_flamingo.sources.datasets.conversations import identify
from polite_flamingo.sources.datasets.llava import OWN_IMAGES, TASK_EXTRA, records
from polite_flamingo.sources.records.source import Source

_published = functools.partial(
    Source, use="dialogue", task="dialogue", records=records, identify=identify, build=OWN_IMAGES, extra=TASK_EXTRA,
)  # fmt: skip
_own = functools.partial(_published, use="own data", published="your own", licence="your own", images="optional")

LLAVA_1_5 = _published(
    name="llava_v1_5",
    title="LLaVA-1.5's instruction mix (665k)",
    files="llava_v1_5_mix665k.json; coco/train2017/, gqa/images/, ocr_vqa/images/, textvqa/train_images/, vg/VG_100K/",
    published="Hugging Face: liuhaotian/LLaVA-Instruct-150K",
    licence="CC BY-NC 4.0, and the terms of OpenAI",
    images="optional",
    evidence="documentation",
)
SHAREGPT4V = _published(
    name="sharegpt4v",
    title="ShareGPT4V",
    files="sharegpt4v_instruct_gpt4-vision_cap100k.json or another of its files; coco/train2017/, sam/images/ …",
    published="Hugging Face: Lin-Chen/ShareGPT4V",
    licence="CC BY-NC 4.0, and the terms of OpenAI",
    images="optional",
    evidence="documentation",
)
LLAVA_ONEVISION = _published(
    name="llava_onevision",
    title="LLaVA-OneVision-Data",
    files="train-00000-of-00001.parquet or a folder of them, which hold the pictures; or JSON, and their folder",
    published="Hugging Face: lmms-lab/LLaVA-OneVision-Data",
    licence="Apache-2.0; each set its own",
    images="optional",
    evidence="documentation",
)
CAULDRON = _published(
    name="cauldron",
    title="The Cauldron",
    files="train-00000-of-00001.parquet or a folder of them; the pictures lie in them",
    images="none",
    published="Hugging Face: HuggingFaceM4/the_cauldron",
    licence="each set its own",
    evidence="documentation",
)
FINEVISION = _published(
    name="finevision",
    title="FineVision",
    files="train-00000-of-00001.parquet or a folder of them; the pictures lie in them",
    images="none",
    published="Hugging Face: HuggingFaceM4/FineVision",
    licence="each set its own",
    evidence="documentation",
)
OPENAI_MESSAGES = _own(
    name="openai_messages",
    title="OpenAI's messages",
    files="chats.jsonl of {messages: [{role, content}]}; its pictures are data URLs, paths or addresses",
    evidence="documentation",
)
MS_SWIFT = _own(
    name="ms_swift",
    title="ms-swift's files",
    files="train.jsonl of {messages, images} or {query, response, images}; the folder that its paths begin in",
    evidence="documentation",
)
