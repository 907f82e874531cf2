"""Raw datasets on disk -> samples: `SOURCES[name].read(options)`. One file a family; the dict below is the registry."""

from __future__ import annotations

from polite_flamingo.sources import (
    aerial,
    alpaca,
    aokvqa,
    changes,
    clevr,
    coco,
    conversations,
    elevater,
    gqa,
    llava,
    oasst1,
    pf1m,
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
    "aokvqa": aokvqa.SOURCE,
    "vqa_v2": vqa.VQA_V2,
    "textvqa": vqa.TEXTVQA,
    "clevr": clevr.SOURCE,
    "gqa": gqa.SOURCE,
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
}

__all__ = ["SOURCES", "Row", "Source", "SourceError", "SourceOptions"]
