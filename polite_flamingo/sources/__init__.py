"""Raw datasets on disk -> samples: `SOURCES[name].read(options)`.

Each file in `datasets/` covers one family of formats; the dict below registers every dataset. CONTRIBUTING.md has the
steps for a new one.
"""

from __future__ import annotations

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
    llava,
    oasst1,
    pf1m,
    pointqa,
    questions,
    rationales,
    refcocog,
    statements,
    table,
    vqa,
    webdataset,
)
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.records.source import Row, Source, SourceOptions

SOURCES: dict[str, Source] = {
    "coco_captions": coco.SOURCE,
    "flickr30k": captions.FLICKR30K,
    "textcaps": captions.TEXTCAPS,
    "image2paragraph": captions.IMAGE2PARAGRAPH,
    "cc3m": cc3m.SOURCE,
    "refcocog": refcocog.SOURCE,
    "rsicd": captions.RSICD,
    "rsitmd": captions.RSITMD,
    "ucm": captions.UCM,
    "dior": aerial.DIOR,
    "dota": aerial.DOTA,
    "hrrsd": aerial.HRRSD,
    "elevater_ic": elevater.SOURCE,
    "levir_cc": changes.LEVIR_CC,
    "spot_the_diff": changes.SPOT_THE_DIFF,
    "image_editing_request": changes.IMAGE_EDITING_REQUEST,
    "aokvqa": rationales.AOKVQA,
    "vqa_e": rationales.VQA_E,
    "scienceqa": rationales.SCIENCEQA,
    "vqa_v2": vqa.VQA_V2,
    "clevr": questions.CLEVR,
    "gqa": questions.GQA,
    "textvqa": vqa.TEXTVQA,
    "ocr_vqa": questions.OCR_VQA,
    "pointqa_local": pointqa.LOCAL,
    "pointqa_looktwice": pointqa.LOOKTWICE,
    "pointqa_general": pointqa.GENERAL,
    "pointqa_spatial": pointqa.SPATIAL,
    "pointqa_verbal": pointqa.VERBAL,
    "pointqa_intent": pointqa.INTENT,
    "okvqa": vqa.OKVQA,
    "vsr": statements.VSR,
    "grid_3d": questions.GRID_3D,
    "nlvr2": statements.NLVR2,
    "iconqa": choices.ICONQA,
    "chartqa": questions.CHARTQA,
    "ai2d": choices.AI2D,
    "ultrachat": conversations.ULTRACHAT,
    "sharegpt": conversations.SHAREGPT,
    "oasst1": oasst1.SOURCE,
    "alpaca_gpt4": alpaca.ALPACA_GPT4,
    "gpteacher": alpaca.GPTEACHER,
    "instructionwild": alpaca.INSTRUCTIONWILD,
    "llava_conversation": llava.CONVERSATION,
    "llava_detail": llava.DETAIL,
    "llava_reasoning": llava.REASONING,
    "llava": llava.LLAVA,
    "pf1m": pf1m.SOURCE,
    "table": table.SOURCE,
    "webdataset": webdataset.SOURCE,
}

__all__ = ["SOURCES", "Row", "Source", "SourceError", "SourceOptions"]
