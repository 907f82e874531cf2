"""Clever Flamingo for the zoo: choose among trained models, store the best at half precision, measure it.

    python -m polite_flamingo.testbed.zoo.clever out/paper/seed-*/runs/clever/model

The models come from `ray_jobs.paper`, or from `ray_jobs.train` stage by stage. The choice is made by the accuracy on
scenes other than those of the card's figures. Nothing is trained here.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from polite_flamingo import hub
from polite_flamingo.evaluation.bootstrap import Resampling, intervals, matrix
from polite_flamingo.evaluation.judging import RAW, Judges, judge
from polite_flamingo.filters.scorer import ScoringConfig
from polite_flamingo.flamingo.config import FlamingoConfig, GenerationConfig, RewriterConfig
from polite_flamingo.flamingo.model.saved import FILE
from polite_flamingo.sample import Sample
from polite_flamingo.sources.registry import SOURCES
from polite_flamingo.testbed.shapes.evaluation_sets import SETS, write_evaluation
from polite_flamingo.testbed.zoo.pairs import well_formed

NAME = "clever_flamingo"
WEIGHTS = ("tuned.safetensors", "lora/adapter_model.safetensors")
CHOOSING = "choosing 1"
ANSWERED = ("vqa", "vqa_rationale")
ACCURACY = "accuracy in domain"


def measure(folder: Path, size: int, seed: str) -> dict[str, float]:
    """Measure a trained model on the held-out sets of Shapes, with the judges of `ray_jobs.evaluate`.

    Args:
        folder: the model's folder, with its `flamingo.yaml`.
        size: approximate number of questions in domain, a quarter of them from each of the four sets.
        seed: the seed of the scenes.
    """
    from polite_flamingo.rewriters.flamingo import Rewriter, chatting

    samples = unseen(max(9, size // 4), seed)
    model = Rewriter(
        RewriterConfig(
            flamingo=FlamingoConfig(folder=str(folder)),
            generation=GenerationConfig(max_new_tokens=160, num_beams=1, do_sample=False, no_repeat_ngram_size=0),
        ),
        prompt=chatting,
    )
    answers = dict(zip((one.key for one in samples), model.texts(samples), strict=True))
    scores = judge(samples, {NAME: answers}, Judges(ScoringConfig())).scores
    reward_N, raw_N = matrix([scores[NAME]["reward"], scores[RAW]["reward"]])
    figures: dict[str, float] = {}
    for domain, label in (("in", ACCURACY), ("out", "accuracy out of domain")):
        places = [at for at, one in enumerate(samples) if one.task in ANSWERED and SETS[one.dataset][0] == domain]
        found = intervals(matrix([[scores[NAME]["accuracy"][at] for at in places]]), Resampling())[0]
        assert found.value is not None and found.low is not None and found.high is not None
        figures |= {label: found.value, f"{label}, 95 % from": found.low, f"{label}, 95 % to": found.high}
    figures["politeness (reward)"] = float(reward_N.mean())
    figures["politeness of the annotations"] = float(raw_N.mean())
    figures["preferred to the annotation"] = float(((np.sign(reward_N - raw_N) + 1) / 2).mean())
    figures["well-formed answers"] = statistics.mean(well_formed(str(text)) for text in answers.values())
    return figures


def unseen(each: int, seed: str) -> list[Sample]:
    """Return samples with pictures, `each` from every set; see `shapes.evaluation_sets`."""
    with tempfile.TemporaryDirectory() as folder:
        sets = write_evaluation(Path(folder), samples=each, seed=seed)
        rows = [row for name, one in sets.items() if one.domain != "text" for row in SOURCES[name].read(one.options)]
    return [row for row in rows if isinstance(row, Sample)]


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
    parser.add_argument("--size", type=int, default=400, help="questions to choose by (default 400)")
    options = parser.parse_args(arguments)
    for folder in options.trained:
        if not (folder / FILE).is_file():
            parser.error(f"{folder} is not a trained model: it has no {FILE}")
    reached: dict[Path, float] = {}
    for folder in options.trained:
        figures = measure(folder, options.size, CHOOSING)
        reached[folder] = figures[ACCURACY]
        print(f"{folder}: " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items()), file=sys.stderr)
    best = max(options.trained, key=reached.__getitem__)
    ship(best, options.out)
    print(f"{best} goes into {options.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
