"""The exact judge of Shapes: five ratings from 0 to 4, computed from the scene that was drawn.

    correctness   4 right, and nothing false; 2 the right answer, but something false beside it or its reason missing;
                  1 true, but no answer to the question; 0 wrong. Of descriptions by the share of true sentences and of
                  things named, of changes 2 if some sentence is right
    coherence     4 well-formed sentences; 2 a bare or templated answer ("red", "Answer: red"); else the share of
                  well-formed sentences, 0 to 2
    helpfulness   the lesser of the two: an answer helps if it is right and can be read
    complexity    number of statements in well-formed sentences, at most 4
    verbosity     0 up to 3 words, 1 up to 10, 2 up to 20, 3 up to 40, else 4

A profile names it: `judge: {kind: rule, rule: polite_flamingo.testbed.shapes.rule:rate}`.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence

from polite_flamingo.sample import BadSample, Sample
from polite_flamingo.testbed.shapes.checks import Check, check_of, mentioned, plain, sentences
from polite_flamingo.testbed.shapes.grammar import Claim, parse, parse_sentence, true_of

WORDS = (3, 10, 20, 40)
"""Most words of each verbosity below 4."""

_TERSE = re.compile(r"(?:Answer: |The answer is )[^.\n]+(?:\nRationale: .+)?\.?", re.DOTALL)


def rate(sample: Sample, answer: str) -> tuple[dict[str, int], str]:
    """Return the rating of each attribute, and a sentence that says why.

    Raises:
        BadSample: the sample carries no check of Shapes.
    """
    try:
        check = check_of(sample)
    except (KeyError, TypeError, ValueError) as error:
        raise BadSample("bad_field", f"{sample.key}: its check of Shapes is damaged ({error})") from None
    if check is None:
        raise BadSample(
            "unsupported", f"{sample.key}: no scene in its meta; only samples of testbed.shapes.exam can be checked"
        )
    claims = read(answer)
    statements = [claim for found in claims for claim in found or ()]
    correctness, coherence = _correctness(check, answer, claims), _coherence(check, answer, claims)
    values = {
        "helpfulness": min(correctness, coherence),
        "correctness": correctness,
        "coherence": coherence,
        "complexity": min(4, sum(max(1, len(claim.items)) for claim in statements)),
        "verbosity": bisect_left(WORDS, len(answer.split())),
    }
    well = sum(found is not None for found in claims)
    return values, f"{_SAYS[correctness]}; {well} of {len(claims)} sentences are well formed."


_SAYS = ("It is wrong", "It is true, but no answer", "It is right in part", "It is nearly right", "It is right")


def read(text: str) -> list[list[Claim] | None]:
    """Return the claims of each sentence; None for one that is not well formed."""
    found: list[list[Claim] | None] = []
    for paragraph in text.split("\n\n"):
        said = paragraph.removesuffix(".").split(". ")
        for number, sentence in enumerate(said):
            ends = number + 1 < len(said) or paragraph.endswith(".")
            found.append(parse_sentence(sentence) if ends and sentence[:1].isupper() else None)
    return found


def _correctness(check: Check, answer: str, claims: Sequence[list[Claim] | None]) -> int:
    if answer.strip() and check.right(answer):
        return 4
    if check.kind == "description":
        assert check.scene is not None
        true, named = sentences(answer, check.scene), mentioned(answer, check.scene)
        return min(3, int(4 * (sum(true) / len(true)) * (sum(named) / len(named))))
    if check.kind == "change":
        return 2 if {plain(one) for one in re.split(r"\n|\. ", answer)} & {*check.sentences} else 0
    assert check.question is not None
    right = [claim for wording in range(2) for claim in parse(check.question.polite(wording)) or ()]
    statements = [claim for found in claims for claim in found or ()]
    if any(claim in right for claim in statements) or check.question.answered_by(answer):
        return 2
    if check.scene is None or not all(found is not None for found in claims):
        return 0
    return int(all(true_of(claim, check.scene) for claim in statements))


def _coherence(check: Check, answer: str, claims: Sequence[list[Claim] | None]) -> int:
    if all(found is not None for found in claims):
        return 4
    domain = {check.question.answer, *check.question.others} if check.question else {*check.sentences}
    if {plain(line) for line in answer.split("\n")} <= domain or _TERSE.fullmatch(answer):
        return 2
    return int(3 * sum(found is not None for found in claims) / len(claims))
