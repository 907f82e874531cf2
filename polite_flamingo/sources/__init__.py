"""Raw datasets on disk -> samples: `SOURCES[name].read(options)`. One file a family; the dict below is the registry."""

from __future__ import annotations

from polite_flamingo.sources import (
    aerial,
    alpaca,
    changes,
    choices,
    coco,
    conversations,
    elevater,
    llava,
    oasst1,
    pf1m,
    questions,
    rationales,
    statements,
    table,
    vqa,
)
from polite_flamingo.sources.base import Row, Source, SourceOptions
from polite_flamingo.sources.reading import SourceError

SOURCES: dict[str, Source] = {
    "coco_captions": coco.SOURCE,
    "dota": aerial.DOTA,
    "dior": aerial.DIOR,
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
}

__all__ = ["SOURCES", "Row", "Source", "SourceError", "SourceOptions"]
