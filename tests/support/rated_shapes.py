"""Samples of Shapes with answers of known quality: right, wrong and garbled."""

from __future__ import annotations

import random
from dataclasses import replace

from polite_flamingo.candidates import Candidate
from polite_flamingo.sample import Sample
from polite_flamingo.testbed.shapes.exam import Part, exam
from polite_flamingo.testbed.shapes.rule import read

POLICY = "policy-1b"
QUALITIES = ("right", "wrong", "garbled")


def with_answers(part: Part = "in", size: int = 12, seed: int = 0, pictures: bool = True) -> list[Sample]:
    """Return prompts with a right, a wrong and a garbled answer each, in this order."""
    rng = random.Random(f"{part}-{seed}")
    samples = []
    for item in exam(part, size, seed):
        question, reasoned = item.check.question, item.check.reasoned
        assert question is not None
        right = question.polite(rng.randrange(2), reasoned=reasoned)
        wrong = question.statement(rng.choice([one for one in question.others if one not in ("6", "7")]))
        texts = (right, wrong, _garbled(rng, right))
        answers = tuple(
            Candidate(text=text, model=POLICY, number=number, tokens=len(text.split()))
            for number, text in enumerate(texts)
        )
        samples.append(replace(item.sample, candidates=answers))
    return samples


def _garbled(rng: random.Random, text: str) -> str:
    """Return the words in another order, in which no sentence is well formed."""
    words = text.split()
    while all(claims is not None for claims in read(" ".join(words))):
        rng.shuffle(words)
    return " ".join(words)
