"""Whether the choice survives a black picture: what is chosen without seeing was not chosen for what is seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from polite_flamingo.preference.audit.check import Check, Findings, counted
from polite_flamingo.preference.audit.evidence import Evidence
from polite_flamingo.preference.audit.readings import Prompt
from polite_flamingo.preference.audit.repeats import Signs, compared, contrast, kept, kept_share, repeated
from polite_flamingo.preference.pairing import REWARD

LEFT = "left of the choice without the picture"


def blind(evidence: Evidence) -> Check:
    """Check how much of the choice is left when the judge is shown a black picture.

    A reward model reads text alone, so with it everything is left, and nothing has to be measured.

    A noisy judge does not repeat itself either, so what is left is measured against how far it does: 0 if the black
    picture leaves only chance, 1 if it changes no more than asking again.
    """
    judge, settings, limits = evidence.judge, evidence.settings, evidence.settings.limits
    findings, resampling = Findings("blind", settings), settings.resampling
    seen = [prompt for prompt in evidence.prompts if prompt.pictures and prompt.read_by(judge)]
    asked = [prompt for prompt in seen if prompt.read_by(judge, blind=True)]
    black = kept(asked, lambda prompt: _without(prompt, judge))
    again = kept(asked, lambda prompt: repeated(prompt.read_by(judge)))
    if reads_text_alone(seen, judge) and not len(black):
        about = "A reward model reads text alone: known, not measured."
        findings.add(LEFT, counted(len(seen), len(seen)), limits.blind, about=about, whole=True)
        return findings.check()
    if not len(black):
        needed = "ratings of the same answers with a black picture (judge.blind of polite-flamingo rate)"
        findings.lacks(needed if seen else "rated answers to questions about pictures")
        return findings.check()
    survives = kept_share(black, resampling)
    about = "Half is chance. A choice that becomes a tie counts half."
    findings.add("choices kept with a black picture", survives, about=about)
    findings.draw_estimate("kept", "black picture", survives)
    if len(again):
        repeats = kept_share(again, resampling)
        findings.add("choices kept when asked again", repeats)
        findings.draw_estimate("kept", "asked again", repeats)
    else:
        findings.lacks("the same answers rated twice with their picture: the judge is taken to repeat itself exactly")
    left = contrast(_left, again, black, resampling)
    about = "Share of the choice, beyond chance, that needs no picture."
    findings.add(LEFT, left, limits.blind, about=about)
    return findings.check()


def reads_text_alone(prompts: Sequence[Prompt], judge: str) -> bool:
    """Whether a judge is a reward model, which gives one number and is never shown a picture."""
    given = [values for prompt in prompts for one in prompt.read_by(judge) for values in one.values.values()]
    return bool(given) and all(values.keys() == {REWARD} for values in given)


def _without(prompt: Prompt, judge: str) -> Iterator[Signs]:
    """Yield what is said with the picture and without it, of answers between which the picture decided."""
    for seeing in prompt.read_by(judge):
        for black in prompt.read_by(judge, blind=True):
            if seeing.alone == black.alone:
                yield from (signs for signs in compared(seeing, black) if signs[0])


def _left(again: float, black: float) -> float:
    """Return what a black picture keeps beyond chance, over what asking again keeps."""
    return (black - 0.5) / (again - 0.5) if again > 0.5 else float("nan")
