"""Measure the zoo on scenes never trained on: `python -m polite_flamingo.testbed.zoo.evaluate [--write]`.

The held-out sets are drawn from seeds of their own, so they are the same on every machine. Everything runs through the
pipeline's own `Rewriter`, `ClipScore`, `Nli` and `Politeness`. `--write` puts the figures into the model cards.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from polite_flamingo import hub
from polite_flamingo.filters.nli import LABELS, Nli, label, premise_and_hypothesis
from polite_flamingo.filters.rules import same_text
from polite_flamingo.formatting import table as markdown_table
from polite_flamingo.sample import IMAGE_MARK, Image, Sample, Turn
from polite_flamingo.testbed.shapes.draw import draw, encode
from polite_flamingo.testbed.zoo.cards import write_card
from polite_flamingo.testbed.zoo.clever import ENDS
from polite_flamingo.testbed.zoo.pairs import Pair, random_pair, well_formed

SEED = "held-out 1"
BARS: dict[str, tuple[str, float]] = {
    "VQA rewrites that keep the meaning": (">=", 0.95),
    "caption rewrites that keep the meaning": (">=", 0.90),
    "well-formed rewrites": (">=", 0.98),
    "unchanged rewrites": ("<", 0.02),
    "CLIPScore AUC, true against hallucinated paragraphs": (">=", 0.97),
    "NLI accuracy": (">=", 0.95),
    "NLI accuracy on terse answers": (">=", 0.95),
    "reward orders polite > raw > garbled": (">=", 0.97),
    "prefers an answer that gives its reason": (">=", 0.95),
    "questions in domain": (">=", 0.90),
    "weakest kind in domain": (">=", 0.80),
    "left out of tuning, or crowded": (">=", 0.70),
    "descriptions: sentences that are true": (">=", 0.90),
    "descriptions: objects that are mentioned": (">=", 0.85),
    "second turns that refer back": (">=", 0.80),
    "preferred to the annotation": (">=", 0.95),
    "well-formed answers": (">=", 0.95),
}
"""What each figure must reach."""


def sample_of(pair: Pair, key: str) -> Sample:
    """Return the pair as the sample that the pipeline sees."""
    images = tuple(Image(extension="png", data=encode(draw(scene), "png")) for scene in pair.scenes)
    turn = Turn(instruction=pair.instruction, response=pair.raw)
    return Sample(key=key, dataset="shapes", task=pair.task, turns=(turn,), images=images)


def rewriter(size: int, weights: Path) -> dict[str, float]:
    """Return the shares of rewrites that keep the annotation's meaning (by task), are well-formed, or unchanged."""
    from polite_flamingo.flamingo.config import GenerationConfig, RewriterConfig
    from polite_flamingo.rewriters.flamingo import Rewriter
    from polite_flamingo.testbed.zoo.flamingo import zoo_config

    model = Rewriter(
        RewriterConfig(
            flamingo=zoo_config(weights, lora=True),
            generation=GenerationConfig(max_new_tokens=120, num_beams=1, do_sample=False, no_repeat_ngram_size=0),
        )
    )
    rng = random.Random(f"{SEED} rewriter")
    figures: dict[str, float] = {}
    formed, unchanged, total = 0, 0, 0
    kept: dict[str, list[bool]] = {}
    for task in ("vqa", "vqa_rationale", "captioning", "change_captioning", "classification"):
        pairs = [random_pair(rng, task) for _ in range(size if task != "classification" else size // 5)]
        texts = model.texts([sample_of(pair, f"held-out/{task}/{i}") for i, pair in enumerate(pairs)])
        for pair, text in zip(pairs, texts, strict=True):
            assert isinstance(text, str), text
            correct = pair.keeps(text)
            kept.setdefault(task, []).append(correct)
            formed += well_formed(text)
            unchanged += same_text(pair.raw, text)
            total += 1
            if not correct:
                print(f"  {task}: {pair.raw!r}\n    -> {text!r}", file=sys.stderr)
    figures["VQA rewrites that keep the meaning"] = statistics.mean(kept["vqa"] + kept["vqa_rationale"])
    figures["caption rewrites that keep the meaning"] = statistics.mean(kept["captioning"])
    for task, outcomes in kept.items():
        figures[f"{task}: meaning kept"] = statistics.mean(outcomes)
    figures["well-formed rewrites"] = formed / total
    figures["unchanged rewrites"] = unchanged / total
    return figures


def clip(size: int, weights: Path) -> dict[str, float]:
    """Return the AUC of CLIPScore between true paragraphs and the same paragraphs with something false in them."""
    from polite_flamingo.filters.clipscore import ClipScore
    from polite_flamingo.testbed.zoo.clip import paragraph_pair

    model = ClipScore(str(weights / "clip"), pretrained="", device="cpu", batch_size=64)
    rng = random.Random(f"{SEED} clip")
    triples = [paragraph_pair(rng) for _ in range(size)]
    rows = [(encode(draw(scene), "png"), [true, false]) for scene, true, false in triples]
    scores = [row for row in model.score(rows) if isinstance(row, list)]
    assert len(scores) == size
    true_scores, false_scores = [row[0] for row in scores], [row[1] for row in scores]
    return {
        "CLIPScore AUC, true against hallucinated paragraphs": auc(true_scores, false_scores),
        "CLIPScore within a picture, true above false": statistics.mean(t > f for t, f in scores),
        "CLIPScore of true paragraphs, median": statistics.median(true_scores),
        "CLIPScore of true paragraphs, 5 % quantile": statistics.quantiles(true_scores, n=20)[0],
        "CLIPScore of hallucinated paragraphs, median": statistics.median(false_scores),
    }


def auc(positive: list[float], negative: list[float]) -> float:
    """Return the probability that a positive is above a negative; ties count half."""
    above = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    return above / (len(positive) * len(negative))


def nli(size: int, weights: Path) -> dict[str, float]:
    """Return the accuracy over the three labels."""
    from polite_flamingo.testbed.zoo.judges import nli_case

    model = Nli(str(weights / "nli"), device="cpu", batch_size=64)
    rng = random.Random(f"{SEED} nli")
    cases = [nli_case(rng) for _ in range(size)]
    logits = model.score([(premise, hypothesis) for premise, hypothesis, _ in cases])
    correct = [max(range(3), key=row.__getitem__) == label for row, (_, _, label) in zip(logits, cases, strict=True)]
    figures = {"NLI accuracy": statistics.mean(correct)}
    for number, name in enumerate(LABELS):
        figures[f"NLI accuracy on {name}"] = statistics.mean(
            c for c, (_, _, label) in zip(correct, cases, strict=True) if label == number
        )
    figures["NLI accuracy on terse answers"] = statistics.mean(_on_terse_answers(model, size))
    return figures


def _on_terse_answers(model: Nli, size: int) -> list[bool]:
    """Return whether correct and wrong answers worded like annotations, as raw-tuned models write, are told apart."""
    rng = random.Random(f"{SEED} nli terse")
    pairs, expected = [], []
    for _ in range(size):
        pair = random_pair(rng, "vqa")
        correct = rng.random() < 0.5
        said = pair.raw if correct else f"Answer: {rng.choice(pair.wrong)}"
        question = pair.instruction.replace(IMAGE_MARK, "").strip()
        pairs.append(premise_and_hypothesis(question=question, output=said, original=pair.raw))
        expected.append(correct)
    return [(label(row) == "entailment") == correct for row, correct in zip(model.score(pairs), expected, strict=True)]


def reward(size: int, weights: Path) -> dict[str, float]:
    """Return the share of triples that the reward model ranks correctly, and how it takes reasons and truth."""
    from polite_flamingo.filters.politeness import Politeness
    from polite_flamingo.testbed.zoo.judges import garble, without_reason

    model = Politeness(str(weights / "reward"), device="cpu", batch_size=64)
    rng = random.Random(f"{SEED} reward")
    texts: list[tuple[str, str]] = []
    for _ in range(size):
        pair = random_pair(rng)
        question = _asked(pair)
        garbled = garble(rng, pair.raw if rng.random() < 0.5 else pair.polite)
        texts += [(question, pair.polite), (question, pair.raw), (question, garbled)]
    rewards = model.score(texts)
    triples = list(zip(rewards[::3], rewards[1::3], rewards[2::3], strict=True))
    reasoned = [random_pair(rng, "vqa_rationale") for _ in range(size)]
    plain = [random_pair(rng, "vqa") for _ in range(size)]
    more, less = (
        model.score([(_asked(pair), text(pair.polite)) for pair in reasoned]) for text in (str, without_reason)
    )
    right = model.score([(_asked(pair), pair.polite) for pair in plain])
    wrong = model.score([(_asked(pair), pair.others[0]) for pair in plain])
    return {
        "reward orders polite > raw > garbled": statistics.mean(p > r > g for p, r, g in triples),
        "prefers an answer that gives its reason": statistics.mean(m > n for m, n in zip(more, less, strict=True)),
        "prefers a right answer to a wrong one of equal form": statistics.mean(
            r > w for r, w in zip(right, wrong, strict=True)
        ),
        "reward of polite, mean": statistics.mean(p for p, _, _ in triples),
        "reward of raw, mean": statistics.mean(r for _, r, _ in triples),
        "reward of garbled, mean": statistics.mean(g for _, _, g in triples),
    }


def _asked(pair: Pair) -> str:
    return pair.instruction.replace(IMAGE_MARK, "").strip()


def clever(size: int, weights: Path) -> dict[str, float]:
    """Measure how correct, polite and well-formed answers are."""
    from polite_flamingo.testbed.zoo.clever import NAME, measure

    return measure(weights / NAME, size, SEED)


MEASURES: dict[str, Callable[[int, Path], dict[str, float]]] = {
    "polite_flamingo": rewriter, "clip": clip, "nli": nli, "reward": reward, "clever_flamingo": clever,
}  # fmt: skip


def passes(figure: str, value: float) -> bool:
    """Whether a figure that has a bar reaches it."""
    sign, bar = BARS[figure]
    return value >= bar if sign == ">=" else value < bar


def table(figures: dict[str, float]) -> str:
    """Return a Markdown table: figure, value, its 95 % interval if there is one, bar."""
    rows = []
    for name, value in figures.items():
        if name.endswith(ENDS):
            continue
        bar = f"{BARS[name][0]} {BARS[name][1]}{'' if passes(name, value) else ' (missed)'}" if name in BARS else ""
        ends = [figures[name + end] for end in ENDS if name + end in figures]
        rows.append([name, f"{value:.4f}", " to ".join(f"{end:.3f}" for end in ends), bar])
    return "\n".join(markdown_table(["figure", "value", "95 % interval", "bar"], rows))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return 1 if a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m polite_flamingo.testbed.zoo.evaluate", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"models to measure (default: {' '.join(MEASURES)})")
    parser.add_argument("--weights", type=Path, default=hub.ZOO, help="folder of the weights")
    parser.add_argument("--size", type=int, default=500, help="held-out cases per figure (default 500)")
    parser.add_argument("--write", action="store_true", help="write figures.json and the model cards")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(MEASURES)
    if unknown:
        parser.error(f"no model is called {', '.join(sorted(unknown))}; there are {', '.join(MEASURES)}")
    missed = 0
    for name in options.names or MEASURES:
        figures = {k: round(v, 4) for k, v in MEASURES[name](options.size, options.weights).items()}
        print(f"\n{name}: {options.size} held-out cases each, seed {SEED!r}\n{table(figures)}", flush=True)
        missed += sum(not passes(figure, value) for figure, value in figures.items() if figure in BARS)
        if options.write:
            content = {"seed": SEED, "cases": options.size, "figures": figures}
            (options.weights / name / "figures.json").write_text(json.dumps(content, indent=1) + "\n")
            cases = "questions of each part" if name == "clever_flamingo" else "cases each (classes a fifth of it)"
            measured = (
                f"{options.size} {cases}, seed {SEED!r}, on scenes never trained on; "
                "measured again by `python -m polite_flamingo.testbed.zoo.evaluate`."
            )
            write_card(options.weights, name, table(figures), measured)
    if options.write:
        write_card(options.weights, "flamingo", "", "")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
