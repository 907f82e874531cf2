"""What the page of an audit says about each check: its title, its question, and how to read the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CheckText:
    """The words of one check.

    Attributes:
        title: of its section.
        question: what it asks.
        reading: how to read its figures, and what to do if it fails.
    """

    title: str
    question: str
    reading: str


TEXTS: Mapping[str, CheckText] = {
    "margins": CheckText(
        title="Margins and ties",
        question="Is the chosen answer rated higher, and do ratings tell answers apart?",
        reading="Pink bars are pairs whose rejected answer is rated higher: their labels were flipped, or came "
        "from other ratings. Many ties mean that the judge sees no difference: sharpen its prompt, or "
        "take its log-probabilities.",
    ),
    "attributes": CheckText(
        title="Attributes",
        question="Are the five ratings more than one opinion?",
        reading="Correlations of rating differences between two answers to one prompt. Near 1, the judge wrote "
        "down one opinion several times, and a score that adds the ratings up counts it as often. The "
        "paper's judge has 0.93 for helpfulness and correctness, 0.80 for helpfulness and coherence.",
    ),
    "length": CheckText(
        title="Length",
        question="Is the longer answer chosen because it is longer?",
        reading="If length alone predicts the choice, training teaches length. Better answers may be longer, too: "
        "with a reference, the check compares both judges on the same answers and fails for the excess "
        "alone. Cures: a prompt that tells the judge to ignore length, pairs of similar length, a length "
        "term in the loss.",
    ),
    "position": CheckText(
        title="Position",
        question="Does the judge prefer a place among the answers shown?",
        reading="Every answer takes every place equally often, so ratings should not depend on the place. Cures: "
        "rate in several orders and average, or rate each answer alone.",
    ),
    "judges": CheckText(
        title="Other judges",
        question="Does the judge choose as other judges do?",
        reading="Kappa is 0 at chance and 1 if all choices are equal. Against the reference, a low kappa fails: "
        "the labels are then mostly wrong. Against any other judge it only warns.",
    ),
    "people": CheckText(
        title="People",
        question="Does the judge choose as people do?",
        reading="Kappa of choices, and quadratic-weighted kappa of ratings. People reach about 0.6 among "
        "themselves (81 % of choices without ties); expect no more of a judge.",
    ),
    "blind": CheckText(
        title="Black picture",
        question="Does the choice depend on the picture?",
        reading="The judge rated the same answers again with a black picture in place of the real one. If its "
        "choices stay the same, it judged by the text alone, and training on them teaches the model to "
        "ignore what it sees. A reward model is never shown a picture, so for it nothing needs to be measured.",
    ),
    "noise": CheckText(
        title="Label noise",
        question="How many labels would another reading turn round?",
        reading="Estimated from answers that the judge rated several times. It says nothing of errors that the "
        "judge always makes. The chart predicts the noise of labels from the mean of several readings.",
    ),
    "duplicates": CheckText(
        title="Duplicates",
        question="Do pairs teach something, once?",
        reading="Equal or empty sides teach nothing, and contradicting pairs cancel out. Repeated ones count "
        "several times.",
    ),
    "leaks": CheckText(
        title="Leaks",
        question="Are questions of the evaluation sets among the prompts?",
        reading="A model that was trained on a question is not measured by it. Remove these prompts.",
    ),
}
"""Name of a check -> its words."""
