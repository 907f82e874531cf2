"""Would speculative decoding from the prompt pay? Counts how many drafted tokens would be right in real rewrites.

    python -m benchmarks.pipeline.speculation --profile profiles/tiny.yaml [--samples 300]

A rewrite copies much of its annotation. So the next few tokens could be guessed before a step (what followed the last n
tokens at their previous occurrence in the prompt or text), checked in one step, and kept as far as they are right: the
same text in fewer steps, but every guess must run. Nothing is decoded that way here; greedy texts are replayed, and
steps and guesses are counted. Columns: length of the match, most tokens guessed at once, generated tokens per step, and
tokens run per generated token (both 1 without guessing).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.pipeline.rewriters import read_all
from benchmarks.pipeline.rewriting import generate_samples
from polite_flamingo.prompts import rewriting_prompt
from polite_flamingo.rewriters.flamingo import Rewriter
from ray_jobs import console
from ray_jobs.build_pf1m import BuildConfig


def main() -> None:
    """Rewrite, replay, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="profiles/tiny.yaml")
    parser.add_argument("--samples", type=int, default=300, help="approximate number of samples (%(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="benchmark_speculation_") as made:
        shards = Path(made) / "shards"
        generate_samples(shards, options.samples)
        command = ["--profile", options.profile, "--input", str(shards), "--out", str(Path(made) / "out")]
        rewriter = Rewriter(console.parse("speculation", "", BuildConfig, command).rewriter)
        samples = read_all(shards)
    texts = rewriter.texts(samples)
    tokenizer = rewriter.model.tokenizer
    pairs = [
        (
            tokenizer.encode(rewriting_prompt(sample.instruction, sample.response)),
            [*tokenizer.encode(text)[1:], tokenizer.eos_id],
        )
        for sample, text in zip(samples, texts, strict=True)
        if isinstance(text, str)
    ]
    print(f"{len(pairs)} texts of {sum(len(text) for _, text in pairs) / len(pairs):.1f} tokens")
    print(f"{'match':>6}{'guesses':>9}{'tokens/step':>13}{'run/token':>11}")
    for match in (1, 2, 3):
        for most in (2, 4, 8):
            counts = [replay(prompt, text, match, most) for prompt, text in pairs]
            steps, guesses = map(sum, zip(*counts, strict=True))
            tokens = sum(len(text) for _, text in pairs)
            print(f"{match:>6}{most:>9}{tokens / steps:>13.2f}{(steps + guesses) / tokens:>11.2f}")


def replay(prompt: Sequence[int], text: Sequence[int], match: int, most: int) -> tuple[int, int]:
    """Count the steps that a text takes, and the tokens guessed in them."""
    steps = guessed = done = 0
    while done < len(text):
        known = [*prompt, *text[:done]]
        guesses: list[int] = []
        while len(guesses) < most and (token := follower([*known, *guesses], len(known), match)) is not None:
            guesses.append(token)
        right = 0
        while right < min(len(guesses), len(text) - done) and guesses[right] == text[done + right]:
            right += 1
        done += right + 1
        steps += 1
        guessed += len(guesses)
    return steps, guessed


def follower(tokens: Sequence[int], known: int, match: int) -> int | None:
    """Guess what follows the last tokens: what followed their previous occurrence."""
    last = tokens[-match:]
    for start in range(known - match - 1, -1, -1):
        if tokens[start : start + match] == last:
            return tokens[start + match]
    return None


if __name__ == "__main__":
    main()
