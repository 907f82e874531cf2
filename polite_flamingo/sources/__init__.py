"""Raw datasets on disk -> samples: `SOURCES[name].read(options)`. One file a family; the dict below is the registry."""

from __future__ import annotations

from polite_flamingo.sources import aerial, aokvqa, changes, clevr, coco, elevater, gqa, pointqa, refcocog, vqa
from polite_flamingo.sources.base import Row, Source, SourceOptions
from polite_flamingo.sources.reading import SourceError

SOURCES: dict[str, Source] = {
    "coco_captions": coco.SOURCE,
    "refcocog": refcocog.SOURCE,
    "dota": aerial.DOTA,
    "dior": aerial.DIOR,
    "elevater_ic": elevater.SOURCE,
    "levir_cc": changes.LEVIR_CC,
    "spot_the_diff": changes.SPOT_THE_DIFF,
    "image_editing_request": changes.IMAGE_EDITING_REQUEST,
    "aokvqa": aokvqa.SOURCE,
    "vqa_v2": vqa.VQA_V2,
    "textvqa": vqa.TEXTVQA,
    "clevr": clevr.SOURCE,
    "gqa": gqa.SOURCE,
    "pointqa_local": pointqa.LOCAL,
    "pointqa_looktwice": pointqa.LOOKTWICE,
    "pointqa_general": pointqa.GENERAL,
    "pointqa_spatial": pointqa.SPATIAL,
    "pointqa_verbal": pointqa.VERBAL,
    "pointqa_intent": pointqa.INTENT,
}

__all__ = ["SOURCES", "Row", "Source", "SourceError", "SourceOptions"]
