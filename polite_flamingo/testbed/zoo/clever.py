"""Clever Flamingo for the zoo: choose among trained models, store the best at half precision, measure it.

    python -m polite_flamingo.testbed.zoo.clever out/paper/seed-*/runs/clever/model

The models come from `ray_jobs.paper`, or from `ray_jobs.train` stage by stage. The choice is made by the accuracy on
scenes other than those of the card's figures. Nothing is trained here.
"""

from __future__ import annotations

import argparse
import math
import shutil
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from polite_flamingo import hub
from polite_flamingo.filters.nli import Nli, label, premise_and_hypothesis
from polite_flamingo.filters.politeness import Politeness
from polite_flamingo.flamingo.config import FlamingoConfig, GenerationConfig, RewriterConfig
from polite_flamingo.flamingo.model.saved import FILE
from polite_flamingo.sample import Sample
from polite_flamingo.testbed.shapes.checks import mentioned, sentences
from polite_flamingo.testbed.shapes.exam import PARTS, Item, exam
from polite_flamingo.testbed.shapes.scene import Scene
from polite_flamingo.testbed.zoo.pairs import well_formed

if TYPE_CHECKING:
    from polite_flamingo.rewriters.flamingo import Rewriter

NAME = "clever_flamingo"
WEIGHTS = ("tuned.safetensors", "lora/adapter_model.safetensors")
CHOOSING = "choosing 1"
IN = "questions in domain"
ENDS = (", 95 % from", ", 95 % to")
"""Ends of the names of the figures that hold an interval."""


def measure(folder: Path, size: int, seed: str) -> dict[str, float]:
    """Measure a trained model on scenes never trained on, by exact check against the scene graph (`shapes.exam`).

    Args:
        folder: the model's folder, with its `flamingo.yaml`.
        size: number of questions of each part of the exam.
        seed: the seed of the scenes.
    """
    from polite_flamingo.rewriters.flamingo import Rewriter, chatting

    model = Rewriter(
        RewriterConfig(
            flamingo=FlamingoConfig(folder=str(folder)),
            generation=GenerationConfig(max_new_tokens=160, num_beams=1, do_sample=False, no_repeat_ngram_size=0),
        ),
        prompt=chatting,
    )
    items = {part: exam(part, size, seed) for part in PARTS}
    said = {part: answers(model, [item.sample for item in found]) for part, found in items.items()}
    seconds = answers(model, [one.after(text) for one, text in zip(items["second"], said["second"], strict=True)])
    marks: dict[str, list[tuple[str, bool]]] = {
        part: [(one.kind, one.right(text)) for one, text in zip(found, said[part], strict=True)]
        for part, found in items.items()
    }
    following = [one.next for one in items["second"] if one.next]
    marks["second"] = [(one.kind, one.right(text)) for one, text in zip(following, seconds, strict=True)]
    figures: dict[str, float] = {}
    _note(figures, IN, marks["in"])
    kinds = sorted({kind for kind, _ in marks["in"]})
    for kind in kinds:
        _note(figures, f"in domain: {kind}", [mark for mark in marks["in"] if mark[0] == kind])
    figures["weakest kind in domain"] = min(figures[f"in domain: {kind}"] for kind in kinds)
    _note(figures, "left out of tuning, or crowded", marks["out"])
    for name, crowded in (("kinds left out of tuning", False), ("crowded scenes", True)):
        _note(figures, name, [mark for mark in marks["out"] if mark[0].startswith("crowded") == crowded])
    described = [(one.scene, text) for one, text in zip(items["described"], said["described"], strict=True)]
    checks: dict[str, Callable[[str, Scene], list[bool]]] = {
        "descriptions: sentences that are true": sentences,
        "descriptions: objects that are mentioned": mentioned,
    }
    for name, check in checks.items():
        _note(figures, name, [(name, mark) for scene, text in described if scene for mark in check(text, scene)])
    _note(figures, "second turns that refer back", marks["second"])
    _note(figures, "changes between two pictures", marks["changes"])
    _note(figures, "text-only questions", marks["text"])
    return figures | _judged(items["in"], said["in"])


def answers(model: Rewriter, samples: list[Sample]) -> list[str]:
    """Let a model answer; what cannot be answered is an empty text, which no check finds right."""
    return [text if isinstance(text, str) else "" for text in model.texts(samples)]


def _note(figures: dict[str, float], name: str, marks: list[tuple[str, bool]]) -> None:
    """Add the share of right answers with its 95 % interval."""
    right, n = sum(mark for _, mark in marks), len(marks)
    low, high = wilson(right, n)
    figures |= {name: right / n, name + ENDS[0]: low, name + ENDS[1]: high}


def wilson(right: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927)."""
    z = 1.959964
    middle, half = right + z * z / 2, z * math.sqrt(right * (n - right) / n + z * z / 4)
    return (middle - half) / (n + z * z), (middle + half) / (n + z * z)


def _judged(items: list[Item], said: list[str]) -> dict[str, float]:
    """Return what the zoo's own judges think of the answers in domain."""
    asked = [item.sample.question for item in items]
    raw = [item.sample.response for item in items]
    polite = Politeness(str(hub.ZOO / "reward"), device="cpu", batch_size=64)
    reward_N, raw_N = (np.array(polite.score(list(zip(asked, texts, strict=True)))) for texts in (said, raw))
    judge = Nli(str(hub.ZOO / "nli"), device="cpu", batch_size=64)
    pairs = [
        premise_and_hypothesis(question=q, output=text, original=r) for q, text, r in zip(asked, said, raw, strict=True)
    ]
    return {
        "in domain, as zoo:nli judges": statistics.mean(label(row) == "entailment" for row in judge.score(pairs)),
        "politeness (reward)": float(reward_N.mean()),
        "politeness of the annotations": float(raw_N.mean()),
        "preferred to the annotation": float(((np.sign(reward_N - raw_N) + 1) / 2).mean()),
        "well-formed answers": statistics.mean(well_formed(text) for text in said),
    }


def ship(trained: Path, out: Path) -> None:
    """Copy a trained model, with weights in half precision."""
    for name in WEIGHTS:
        file = out / name
        file.parent.mkdir(parents=True, exist_ok=True)
        halves = {key: tensor.to(torch.float16) for key, tensor in load_file(trained / name).items()}
        save_file(halves, str(file), metadata={"format": "pt"})
    for name in (FILE, "lora/adapter_config.json"):
        shutil.copyfile(trained / name, out / name)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m polite_flamingo.testbed.zoo.clever",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("trained", type=Path, nargs="+", metavar="FOLDER", help="models that training left")
    parser.add_argument("--out", type=Path, default=hub.ZOO / NAME, help="where the best goes (default: the zoo)")
    parser.add_argument("--size", type=int, default=400, help="questions a part to choose by (default 400)")
    options = parser.parse_args(arguments)
    for folder in options.trained:
        if not (folder / FILE).is_file():
            parser.error(f"{folder} is not a trained model: it has no {FILE}")
    reached: dict[Path, float] = {}
    for folder in options.trained:
        figures = measure(folder, options.size, CHOOSING)
        reached[folder] = figures[IN]
        print(
            f"{folder}: "
            + ", ".join(f"{name} {value:.4f}" for name, value in figures.items() if not name.endswith(ENDS)),
            file=sys.stderr,
        )
    best = max(options.trained, key=reached.__getitem__)
    ship(best, options.out)
    print(f"{best} goes into {options.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
