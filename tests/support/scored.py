"""Samples with invented scores: the filters' models did not run, everything after them is real."""

from __future__ import annotations

import hashlib
import io
import random
from functools import cache
from typing import Any

from PIL import Image as Pillow
from PIL import ImageDraw

from polite_flamingo.filters.judge import AXES
from polite_flamingo.sample import Image, Sample, Turn

COLOURS = {"red": "#d64545", "blue": "#3f6fd8", "green": "#3f9d63", "yellow": "#e0b03c", "purple": "#8a5bc7"}
SHAPES = ("circle", "square", "triangle")
GOOD: dict[str, Any] = {
    "words": 12, "characters": 60, "same_text": False, "rouge_l": 0.4, "repetition": 0.0, "reward_raw": -2.0,
    "reward": 1.0,
}  # fmt: skip
DATASETS = {
    "coco_captions": "captioning",
    "dior": "captioning",
    "elevater_ic": "classification",
    "spot_the_diff": "change_captioning",
    "a_okvqa": "vqa_rationale",
    "vqa_v2": "vqa",
}


@cache
def draw(colour: str, shape: str, size: int = 96) -> bytes:
    """A picture of one shape, PNG."""
    image = Pillow.new("RGB", (size, size), "#f4efe4")
    pen = ImageDraw.Draw(image)
    box = (size // 4, size // 4, size * 3 // 4, size * 3 // 4)
    if shape == "circle":
        pen.ellipse(box, fill=COLOURS[colour])
    elif shape == "square":
        pen.rectangle(box, fill=COLOURS[colour])
    else:
        pen.polygon([(size // 2, box[1]), (box[2], box[3]), (box[0], box[3])], fill=COLOURS[colour])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def scored(key: str, task: str = "vqa", rewritten: str = "The circle that you see is red.", **scores: Any) -> Sample:
    """Return a sample that every filter keeps, unless `scores` say otherwise."""
    count = {"text": 0, "change_captioning": 2}.get(task, 1)
    extra: dict[str, Any] = {"nli": [-3.0, 4.0, 0.1]} if task in ("vqa", "vqa_rationale") else {}
    if task in ("captioning", "classification", "change_captioning"):
        extra["sts"] = 0.8
    if task == "captioning":
        extra["clip_paragraphs"] = [24.0] * len(rewritten.split("\n\n"))
    return Sample(
        key=key,
        dataset=key.split("/")[0],
        task=task,
        turns=(Turn(instruction="<image>" * count + "What is this?", response="Answer: red"),),
        images=tuple(Image(extension="png", data=draw("red", SHAPES[i])) for i in range(count)),
        rewritten=rewritten,
        scores={**GOOD, **extra, **scores},
    )


def conversation(key: str, *turns: Turn, images: int = 1) -> Sample:
    """Return a conversation about some pictures; `said` makes its turns."""
    pictures = tuple(Image(extension="png", data=draw("red", SHAPES[i])) for i in range(images))
    return Sample(key=key, dataset=key.split("/")[0], task="dialogue", turns=turns, images=pictures)


def said(instruction: str = "And its colour?", **scores: Any) -> Turn:
    """Return a turn that every filter keeps, unless `scores` say otherwise."""
    found = {**GOOD, "nli": [-3.0, 4.0, 0.1], **scores}
    return Turn(instruction=instruction, response="red", rewritten="The circle that you see is red.", scores=found)


def world(rows: int, *, seed: int = 0) -> list[Sample]:
    """Return a plausible run over six datasets: most rewrites are good, and some fail each filter."""
    return [_made_up(number, random.Random(f"{seed}/{number}")) for number in range(rows)]


def _made_up(number: int, rng: random.Random) -> Sample:
    dataset, task = rng.choice(list(DATASETS.items()))
    colour, shape, other = rng.choice(list(COLOURS)), rng.choice(SHAPES), rng.choice(list(COLOURS))
    rewritten = f"The image shows a {colour} {shape} in the middle of a light background."
    raw, question = f"{colour} {shape}", "Describe the image in detail."
    clip = [round(rng.gauss(26, 4), 4)]
    if task in ("vqa", "vqa_rationale"):
        raw, question = f"Answer: {colour}", f"What colour is the {shape}?"
        rewritten = f"The {shape} that you see in the picture is {colour}."
    elif task == "change_captioning":
        raw, question = f"the {shape} is gone", "What has changed between the two images?"
        rewritten = f"In the second image the {colour} {shape} has disappeared; nothing else has changed."
    elif rng.random() < 0.5:
        rewritten += f"\n\nIn addition, a {other} star shines in the background."
        clip.append(round(rng.gauss(15, 5), 4))
    scores: dict[str, Any] = {
        "words": len(rewritten.split()),
        "characters": len(rewritten),
        "rouge_l": round(min(0.94, max(0.0, rng.gauss(0.35, 0.12))), 4),
        "reward_raw": round(rng.gauss(-2.4, 1.0), 4),
        "reward": round(rng.gauss(0.6, 1.1), 4),
        "repetition": round(abs(rng.gauss(0, 0.05)), 4),
    }
    fate = rng.random()
    if fate < 0.04:
        rewritten, scores["same_text"], scores["rouge_l"] = raw, True, 1.0
    elif fate < 0.06:
        rewritten = rewritten + f" It is {colour}." * 60
        scores |= {"repetition": 0.93, "words": len(rewritten.split()), "reward": -4.0}
    elif fate < 0.07:
        rewritten = "Yes."
        scores |= {"words": 1, "characters": 4}
    count = {"change_captioning": 2}.get(task, 1)
    if task in ("vqa", "vqa_rationale"):
        lean = rng.gauss(3, 2.5)
        scores["nli"] = [round(-lean, 4), round(lean, 4), round(rng.gauss(0, 1), 4)]
    else:
        scores["sts"] = round(min(1.0, max(-0.2, rng.gauss(0.68, 0.15))), 4)
    if task == "captioning":
        scores["clip_paragraphs"] = clip[: len(rewritten.split("\n\n"))]
    key = f"{dataset}/train/{hashlib.sha256(str(number).encode()).hexdigest()[:10]}"
    images = [draw(colour, shape), draw(other, rng.choice(SHAPES))][:count]
    scores |= {f"judge_{axis}": rng.choice((1, 2, 3, 4, 5, 5)) for axis in AXES}
    scores |= {"near_text": round(rng.random() ** 2, 4), "near_image": rng.randrange(65) / 64}
    return Sample(
        key=key,
        dataset=dataset,
        task=task,
        turns=(Turn(instruction="<image>" * count + question, response=raw),),
        images=tuple(Image(extension="png", data=data) for data in images),
        rewritten=rewritten,
        scores={**GOOD, **scores},
    )
