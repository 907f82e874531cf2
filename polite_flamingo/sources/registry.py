"""The registry of datasets that ingest can read: a new dataset is added here.

`SOURCES[name].read(options)` reads one. Each file in `datasets/` covers one family of formats, and
`preference/formats/` preference pairs and ratings; CONTRIBUTING.md has the
steps for a new one.
"""

from __future__ import annotations

from polite_flamingo.preference.formats.pair_sources import PAIR_SOURCES
from polite_flamingo.preference.formats.rating_source import SOURCE as RATINGS
from polite_flamingo.sources.datasets import (
    aerial,
    alpaca,
    captions,
    cc3m,
    changes,
    choices,
    coco,
    conversations,
    elevater,
    llama_factory,
    llava,
    oasst1,
    pf1m,
    pointqa,
    questions,
    rationales,
    refcocog,
    statements,
    table,
    visual_instructions,
    vqa,
    webdataset,
)
from polite_flamingo.sources.records.source import Source

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        coco.SOURCE, captions.FLICKR30K, captions.TEXTCAPS, captions.IMAGE2PARAGRAPH, cc3m.SOURCE, refcocog.SOURCE,
        captions.RSICD, captions.RSITMD, captions.UCM, aerial.DIOR, aerial.DOTA, aerial.HRRSD, elevater.SOURCE,
        changes.LEVIR_CC, changes.SPOT_THE_DIFF, changes.IMAGE_EDITING_REQUEST, rationales.AOKVQA, rationales.VQA_E,
        rationales.SCIENCEQA, vqa.VQA_V2, questions.CLEVR, questions.GQA, vqa.TEXTVQA, questions.OCR_VQA,
        pointqa.LOCAL, pointqa.LOOKTWICE, pointqa.GENERAL, pointqa.SPATIAL, pointqa.VERBAL, pointqa.INTENT, vqa.OKVQA,
        statements.VSR, questions.GRID_3D, statements.NLVR2, choices.ICONQA, questions.CHARTQA, choices.AI2D,
        conversations.ULTRACHAT, conversations.SHAREGPT, oasst1.SOURCE, alpaca.ALPACA_GPT4, alpaca.GPTEACHER,
        alpaca.INSTRUCTIONWILD, llava.CONVERSATION, llava.DETAIL, llava.REASONING, visual_instructions.LLAVA_1_5,
        visual_instructions.SHAREGPT4V, visual_instructions.LLAVA_ONEVISION, visual_instructions.CAULDRON,
        visual_instructions.FINEVISION, llava.LLAVA, visual_instructions.OPENAI_MESSAGES, visual_instructions.MS_SWIFT,
        llama_factory.SOURCE,
        pf1m.SOURCE, table.SOURCE, webdataset.SOURCE, *PAIR_SOURCES.values(), RATINGS,
    )
}  # fmt: skip
"""Every source by name."""
