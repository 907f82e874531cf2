"""Re-train a tiny model from scratch: `python -m polite_flamingo.testbed.zoo.train NAME [--out FOLDER]`.

    clip            the tiny CLIP (vision tower of the Flamingo, and CLIPScore)
    flamingo        the base: its language model on text, then perceiver and cross-attention; needs clip
    polite_flamingo the LoRA over the base; needs flamingo
    nli, reward     the text judges
    all             every one, in this order

Recipes are seeded; the figures of the shipped weights are in their model cards (`weights/NAME/README.md`), which
`python -m polite_flamingo.testbed.zoo.evaluate` measures again.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import torch

from polite_flamingo.hub import ZOO

ORDER = ("clip", "flamingo", "polite_flamingo", "nli", "reward")


def train(name: str, out: Path, *, seed: int, scale: float) -> None:
    """Train one model into `out/NAME`; `scale` shortens every recipe (for tests)."""
    from polite_flamingo.testbed.zoo import clip, flamingo, judges, language_model
    from polite_flamingo.testbed.zoo.cards import write_world

    def steps(full: int) -> int:
        return max(2, round(full * scale))

    if name == "clip":
        clip.train(out / "clip", seed=seed, see=steps(clip.SEE_STEPS), match=steps(clip.MATCH_STEPS))
    elif name == "flamingo":
        training = out / "flamingo" / "training"
        text_only = training / "language_model"
        language_model.train(text_only, training / "language_model.pt", seed=seed, steps=steps(language_model.STEPS))
        flamingo.train_base(
            out, text_only, seed=seed, steps=steps(flamingo.BASE_STEPS), compare=steps(flamingo.COMPARE_STEPS)
        )
        shutil.rmtree(training)
    elif name == "polite_flamingo":
        flamingo.train_polite(out, seed=seed, steps=steps(flamingo.POLITE_STEPS))
    elif name == "nli":
        judges.train_nli(out / "nli", seed=seed, steps=steps(judges.NLI_STEPS))
    else:
        judges.train_reward(out / "reward", seed=seed, steps=steps(judges.REWARD_STEPS))
    write_world(out / name)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m polite_flamingo.testbed.zoo.train",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("name", choices=[*ORDER, "all"], help="which model")
    parser.add_argument("--out", type=Path, default=ZOO, help="folder of the weights (default: the package's own)")
    parser.add_argument("--seed", type=int, default=0, help="of initial weights and data (default 0: the shipped ones)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's choice)")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the recipe's steps, to try things out")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    needed = {"flamingo": ["clip"], "polite_flamingo": ["clip", "flamingo"]}.get(options.name, [])
    for other in needed:
        if not (options.out / other).is_dir():
            parser.error(f"{options.name} builds on {other}, which {options.out} lacks: train {other} first")
    for name in ORDER if options.name == "all" else (options.name,):
        print(f"training {name} into {options.out / name}", file=sys.stderr)
        train(name, options.out, seed=options.seed, scale=options.scale)


if __name__ == "__main__":
    main()
