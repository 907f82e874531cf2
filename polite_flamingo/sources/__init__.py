"""Raw datasets on disk -> samples: `SOURCES[name].read(options)`. One file a family; the dict below is the registry."""

from __future__ import annotations

from polite_flamingo.sources import aerial, aokvqa, changes, clevr, coco, elevater, gqa, table, vqa
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
    "aokvqa": aokvqa.SOURCE,
    "vqa_v2": vqa.VQA_V2,
    "textvqa": vqa.TEXTVQA,
    "clevr": clevr.SOURCE,
    "gqa": gqa.SOURCE,
    "table": table.SOURCE,
}

__all__ = ["SOURCES", "Row", "Source", "SourceError", "SourceOptions"]
