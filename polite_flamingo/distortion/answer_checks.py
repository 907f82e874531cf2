"""Check that what an LLM returned is a distortion of the good response: small models often write other things.

    empty       no letter, digit or symbol
    cut         stopped by the token limit before the quotation was closed
    filtered    withheld by the server's filter
    aborted     stopped by the server
    leaked      special tokens or role names of the chat protocol
    declined    "I'm sorry, but I can't …", and the good response does not say so
    echo        repeats the robot's instructions, the praise, the system message or the question
    near_copy   the good response, except for case, punctuation, blanks and a few words
    too_long    longer than a turn may be

A faulty text is never used. The checks compare words, without a model, so a text that merely invents things passes. The
rule-based speaker is not checked: it derives its texts from the response.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

from polite_flamingo.distortion.command_checks import followed
from polite_flamingo.distortion.llm_prompts import instructions
from polite_flamingo.distortion.shorten import STOP_WORDS
from polite_flamingo.distortion.speakers import SpeakerRequest
from polite_flamingo.endpoints import answers
from polite_flamingo.filters.rouge_l import common_subsequence
from polite_flamingo.sample import MAX_TEXT_CHARACTERS, unmarked

Fault = answers.Fault | Literal["echo", "near_copy", "too_long"]

ECHO_WORDS = 5
"""This many consecutive words of the instructions that are not in the response are an echo."""
NEAR_COPY_SHARE = 0.9
"""Share of common words from which a text is a near copy: one dropped word of ten still is one, two are not."""
FORM_COMMANDS = frozenset({"no_punctuation", "upper_case", "lower_case", "typos", "plain", "repetition", "echo"})
"""Commands that change few words. A near copy that verifiably follows one is a valid distortion, unless the response
already did."""

_WORD = re.compile(
    r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]+"
)
"""Runs of letters and digits; single characters in scripts without spaces between words."""


def fault(text: str, request: SpeakerRequest) -> Fault | None:
    """Return why a text is not a distortion of the request's response; None if it is one."""
    if len(unmarked(text)) > MAX_TEXT_CHARACTERS:
        return "too_long"
    if found := answers.faults(text, (request.instruction, request.response)):
        return found[-1] if found[0] == "empty" and len(found) > 1 else found[0]  # empty because it was cut
    if is_echo(text, request):
        return "echo"
    if is_near_copy(text, request.response) and not _follows_form_command(text, request):
        return "near_copy"
    return None


def is_echo(text: str, request: SpeakerRequest) -> bool:
    """Whether a text repeats the instructions or the question instead of the response."""
    said, response, question = words(text), words(request.response), words(request.instruction)
    told = [words(part) for part in instructions(request.command)]
    runs_of_prompt = set().union(*(_runs(part) for part in told)) - _runs(response) - _runs(question)
    if runs_of_prompt & _runs(said):
        return True
    meant, known = _content(said), _content(response)
    start = said[:3]
    if len(_content(start) - known) >= 2 and any(_contains(part, start) for part in told):  # "Keep only the …"
        return True
    hits = meant & (set().union(*map(_content, told)) - known - _content(question))
    if len(hits) >= max(3, 0.3 * len(meant)) or (len(hits) >= 2 and not meant & known):
        return True
    if len(said) > 1 and hits and hits == meant and not set(said) & set(response):
        return any(_contains(part, said) for part in told)
    return _share(said, question) >= 0.8 > _share(said, response)


def is_near_copy(text: str, response: str) -> bool:
    """Whether a text is the response except for case, punctuation, blanks and a few words, or contains it."""
    said, known = words(text), words(response)
    if said == known or (4 <= len(known) <= len(said) < 1.5 * len(known) and _contains(said, known)):
        return True
    return 2 * common_subsequence(known, said) >= NEAR_COPY_SHARE * (len(known) + len(said))


def _follows_form_command(text: str, request: SpeakerRequest) -> bool:
    """Whether the small changes of a near copy are what the command asked for."""
    command, response = request.command, request.response
    already = followed(command, response, response) != "no"
    return command in FORM_COMMANDS and followed(command, text, response) == "yes" and not already


def words(text: str) -> list[str]:
    """Return the words in lower case, without punctuation."""
    return _WORD.findall(text.casefold().replace("’", "'").replace("'", ""))


def _content(said: Iterable[str]) -> set[str]:
    """Return content words without their endings: waste, wastes and wasted are the same."""
    return {re.sub(r"(?<=\w{3})(?:ings?|ed|es|s|e|d)$", "", word) for word in said if word not in STOP_WORDS}


def _runs(said: Sequence[str], length: int = ECHO_WORDS) -> set[tuple[str, ...]]:
    return {tuple(said[start : start + length]) for start in range(len(said) - length + 1)}


def _contains(whole: Sequence[str], part: Sequence[str]) -> bool:
    return bool(part) and tuple(part) in _runs(whole, len(part))


def _share(said: Sequence[str], source: Sequence[str]) -> float:
    """Return the share of words in runs of three (of all words, if fewer) that also occur in `source`."""
    length = min(3, len(said))
    if not length:
        return 0.0
    known = _runs(source, length)
    found = {n for start in range(len(said) - length + 1) if tuple(said[start : start + length]) in known
             for n in range(start, start + length)}  # fmt: skip
    return len(found) / len(said)
