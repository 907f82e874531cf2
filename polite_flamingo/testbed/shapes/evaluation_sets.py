"""Held-out sets to measure models with: unseen scenes, raw annotations as ground truth, the real datasets' formats.

    in       the datasets of `write_raw` with new scenes: kinds of task that tuning shows, on other pictures
    out      what tuning does not show: kinds of question that `write_raw(held_out=…)` leaves out, in OK-VQA's format,
             and crowded scenes, in GRiD-3D's
    text     no pictures: reading, knowledge and notes, in three formats of Alpaca's family

The short answer of a text task is worded like those about pictures ("Answer: red"). Its text follows the question after
a blank line; the sample's `meta["instruction"]` is the question alone, which judges read. `instruct.py` never writes
the same texts. `evaluation/` measures.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from polite_flamingo.sources.records.responses import answer_response
from polite_flamingo.sources.records.source import SourceOptions
from polite_flamingo.testbed.shapes.questions import KINDS, Kind
from polite_flamingo.testbed.shapes.texts import Exchange, drawn, knowledge, note, reading
from polite_flamingo.testbed.shapes.write import SPLIT, Annotator, save_json, save_picture, write_raw

Domain = Literal["in", "out", "text"]

HELD_OUT: tuple[Kind, ...] = ("ground", "pattern")
"""Kinds of question for `write_raw(held_out=…)`, so that asking them is out of domain."""

UNJUDGED: tuple[Kind, ...] = ("where",)
"""Never asked: the zoo's NLI accepts one wrong answer in six. It judges all other kinds well."""

CROWDS = (5, 6)
"""Things in a crowded scene; training has at most four, except that one hard scene in 25 has six or seven."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """One set: `SOURCES[name].read(options)` gives its samples.

    Attributes:
        options: options for the source that has the set's name.
        domain: see the module.
        title: what is measured, in words.
    """

    options: SourceOptions
    domain: Domain
    title: str


def write_evaluation(
    folder: Path, *, samples: int = 60, seed: int | str = 0, held_out: Collection[Kind] = HELD_OUT
) -> dict[str, EvaluationSet]:
    """Write `samples` samples of each set (a third of it of classification) under `folder/NAME/`.

    Args:
        folder: the folder to write; it is created.
        samples: number of samples per set, at least 9.
        seed: the same seed writes the same bytes; no seed gives the scenes of `write_raw`.
        held_out: kinds of question that training leaves out; only `okvqa` asks them.

    Returns:
        The sets by the name of their source.

    Raises:
        ValueError: fewer than 9 samples; no kind is held out, or too many.
    """
    unseen = _without(KINDS, {*KINDS} - {*held_out} | {*UNJUDGED, "colour", "beside"})
    if not unseen:
        raise ValueError(f"held_out must name a kind that every scene and judge allows, such as {', '.join(HELD_OUT)}")
    options = write_raw(
        folder,
        samples=samples,
        seed=f"evaluation-{seed}",
        damage=False,
        hard=0.0,
        held_out={*held_out, *UNJUDGED},
    )
    seen = _without(KINDS, {*held_out, *UNJUDGED})
    options["okvqa"] = _okvqa(Annotator(_rng("okvqa", seed)), _home(folder, "okvqa"), unseen, samples)
    crowded = Annotator(_rng("grid_3d", seed), crowd=CROWDS)
    options["grid_3d"] = _grid_3d(crowded, _home(folder, "grid_3d"), seen, samples)
    for name, (make, answer) in _TEXTS.items():
        path = _texts(_rng(name, seed), _home(folder, name), make, answer, samples)
        options[name] = SourceOptions(annotations=(path,), split=SPLIT)
    return {
        name: EvaluationSet(options=options[name], domain=domain, title=title) for name, (domain, title) in SETS.items()
    }


SETS: dict[str, tuple[Domain, str]] = {
    "coco_captions": ("in", "captions"),
    "elevater_ic": ("in", "classes"),
    "levir_cc": ("in", "changes between two pictures"),
    "aokvqa": ("in", "questions with reasons"),
    "vqa_v2": ("in", "questions (VQA-v2's format)"),
    "clevr": ("in", "questions (CLEVR's format)"),
    "gqa": ("in", "questions (GQA's format)"),
    "okvqa": ("out", "questions of kinds that tuning leaves out"),
    "grid_3d": ("out", "questions about scenes of five or six things, which tuning hardly shows"),
    "alpaca_gpt4": ("text", "reading a text"),
    "gpteacher": ("text", "knowledge of shapes"),
    "instructionwild": ("text", "notes put politely"),
}
"""Domain and title of each set, by the name of its source."""


def _without(kinds: tuple[Kind, ...], left_out: Collection[Kind]) -> tuple[Kind, ...]:
    return tuple(kind for kind in kinds if kind not in left_out)


def _rng(name: str, seed: int | str) -> random.Random:
    return random.Random(f"{name}-evaluation-{seed}")


def _home(folder: Path, name: str) -> Path:
    home = folder / name
    home.mkdir(parents=True, exist_ok=True)
    return home


def _okvqa(annotator: Annotator, home: Path, kinds: tuple[Kind, ...], samples: int) -> SourceOptions:
    questions: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image, scene, question in annotator.asked(kinds, samples):
        save_picture(scene, home / "val2014" / f"COCO_val2014_{image:012d}.jpg")
        asked = {"image_id": image, "question_id": image * 1000 + len(questions)}
        questions.append(asked | {"question": question.text})
        said = {"raw_answer": question.answer, "answer": question.answer, "answer_confidence": "yes"}
        annotations.append(asked | {"answers": [said | {"answer_id": number} for number in range(1, 11)]})
    head = {"data_type": "mscoco", "data_subtype": "val2014", "license": {}}
    files = (
        save_json(home / "OpenEnded_mscoco_val2014_questions.json", head | {"questions": questions}),
        save_json(home / "mscoco_val2014_annotations.json", head | {"annotations": annotations}),
    )
    return SourceOptions(annotations=files, images=home, split=SPLIT)


def _grid_3d(annotator: Annotator, home: Path, kinds: tuple[Kind, ...], samples: int) -> SourceOptions:
    questions: list[dict[str, Any]] = []
    for image, scene, question in annotator.asked(kinds, samples):
        save_picture(scene, home / "images" / f"{image:06d}.png")
        words = question.text.replace(",", " ,").replace("?", " ?").split()
        questions.append({"question": words, "answer": question.answer, "img_idx": image})
    return SourceOptions(annotations=(save_json(home / "questions.json", questions),), images=home, split=SPLIT)


_TEXTS: dict[str, tuple[Callable[[random.Random], Exchange], str]] = {
    "alpaca_gpt4": (lambda rng: reading(rng, _without(KINDS, UNJUDGED)), "output"),
    "gpteacher": (knowledge, "response"),
    "instructionwild": (lambda rng: note(rng, _without(KINDS, UNJUDGED)), "output"),
}
"""Each text set: how its texts are made, and its format's field for the response."""


def _texts(
    rng: random.Random, home: Path, make: Callable[[random.Random], Exchange], answer: str, samples: int
) -> Path:
    found: dict[tuple[str, str], dict[str, str]] = {}
    while len(found) < samples:
        exchange = drawn(rng, make, reserved=True)
        record = {"instruction": exchange.question, "input": exchange.given, answer: answer_response(exchange.answer)}
        found.setdefault((exchange.question, exchange.given), record)
    return save_json(home / f"{home.name}_shapes.json", list(found.values()))
