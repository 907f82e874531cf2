"""Make pairs for training the rewriter from good responses: a distorted text as input, the original as target.

A pair is a single-turn `Sample` whose `response` is the distorted text and whose `rewritten` is the original, so it
looks like a rewritten row. `provenance["distortion"]` records the kind and every random choice. Choices depend only on
the sample's key and the configured seed: a retry gives the same pair if the speaker is deterministic.

    {"kind": "llm", "speaker": "rules", "command": "typos", "followed": "yes", "draws": 1}
    {"kind": "llm", "speaker": "guanaco", "wording": "completion", "command": "", "draws": 3, "not_taken": {"echo": 2}}
    {"kind": "text", "keep_first": 2, "words": {"action": "swap", "rate": 0.31}, "draws": 1}
    {"kind": "captions_and_boxes", "image_id": "442786", "captions": 5, "boxes": 3, …}

If a kind is impossible for a sample (no captions of its image; a text too short to change), another kind replaces it,
and `instead_of` records the reason.

The text of a language model is checked (`answer_checks.py`). A faulty text is sampled again; if every try is faulty,
the sample has no pair. An extra command that was not followed is only recorded: the text is still a distortion.

Nothing here reads shards.
"""

from __future__ import annotations

import random
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from polite_flamingo.distortion.answer_checks import fault
from polite_flamingo.distortion.augmentation import augment
from polite_flamingo.distortion.command_checks import followed
from polite_flamingo.distortion.config import KINDS, DistortionConfig, Kind
from polite_flamingo.distortion.loading import load_speaker
from polite_flamingo.distortion.retrieval import CaptionIndex, NoCaptions, index_name, write_index
from polite_flamingo.distortion.rule_speaker import RuleSpeaker
from polite_flamingo.distortion.speakers import Speaker, SpeakerRequest
from polite_flamingo.sample import IMAGE_MARK, MAX_TEXT_CHARACTERS, BadSample, Quarantined, Sample, unmarked
from polite_flamingo.storage.location import Location, location

Row = Sample | Quarantined


def distort(
    samples: Iterable[Row], config: DistortionConfig, speaker: Speaker | None = None
) -> list[Sample | Quarantined]:
    """Make pairs of good responses, in order: one row per turn that `config.turns` selects.

    Args:
        samples: good responses; rows that are already quarantined pass through.
        config: the profile's `distortion` section.
        speaker: used instead of the speaker in `config`.

    Raises:
        ValueError: the speaker or the annotations cannot be used; the message says what to do.
    """
    rows = single_turns(samples, config.turns)
    with tempfile.TemporaryDirectory(prefix="distortion-") as folder:
        distorter = Distorter(config, speaker=speaker, captions=caption_index(config, location(folder)))
        made = iter(distorter.distort([row for row in rows if isinstance(row, Sample)]))
        for number, row in enumerate(rows):
            if isinstance(row, Sample):
                one = next(made)
                rows[number] = (
                    Quarantined(key=row.key, shard="", index=number, reason=one.reason, detail=one.detail)
                    if isinstance(one, BadSample)
                    else one
                )
    return rows


def single_turns(rows: Iterable[Row], turns: Literal["first", "all"]) -> list[Row]:
    """Split dialogues into single turns with their images; quarantined rows pass through.

    A single-turn sample keeps its key. The turns of a dialogue are called KEY/turn0, KEY/turn1 …, and only the first is
    taken if `turns` says so. A turn that must not be learned is quarantined.
    """
    found: list[Row] = []
    for row in rows:
        if isinstance(row, Quarantined) or len(row.turns) == 1:
            found.append(row)
            continue
        seen = 0
        for number, turn in enumerate(row.turns[: 1 if turns == "first" else None]):
            marks, key = turn.instruction.count(IMAGE_MARK), f"{row.key}/turn{number}"
            one: Row = replace(
                row,
                key=key,
                turns=(turn,),
                images=row.images[seen : seen + marks],
                provenance={**row.provenance, "turn": number, "turns": len(row.turns)},
            )
            if not turn.learned:
                detail = f"{key}: a turn that must not be learned makes no pair"
                one = Quarantined(key=key, shard="", index=len(found), reason="excluded", detail=detail)
            found.append(one)
            seen += marks
    return found


def caption_index(config: DistortionConfig, folder: Location) -> CaptionIndex | None:
    """Return the index of the configured annotations, written to `folder` if needed; None if there are none.

    Raises:
        ValueError: a file is missing.
        SourceError: a file is unusable.
    """
    annotations = config.retrieval.annotations
    if not annotations or not config.shares.captions_and_boxes:
        return None
    where = folder / index_name(annotations)
    write_index(annotations, where)
    return CaptionIndex(where)


@dataclass(kw_only=True)
class _Pending:
    """A sample that still needs a text from the speaker or the augmentation."""

    place: int
    sample: Sample
    kind: Kind
    fallback_from: dict[str, str] | None
    attempts: int = 0
    rejected_attempts: Counter[str] = field(default_factory=Counter)


class Distorter:
    """Distorts single-turn samples in batches; holds the speaker and the captions, which are expensive.

    Args:
        config: the profile's `distortion` section.
        speaker: used instead of the speaker in `config`, which is loaded only if the share of "llm" is above 0.
        captions: COCO's captions; without them other kinds replace "captions_and_boxes".
    """

    def __init__(self, config: DistortionConfig, *, speaker: Speaker | None = None, captions: CaptionIndex | None):
        self._config = config
        self._speaker = speaker or (load_speaker(config) if config.shares.llm else None)
        self._commands = sorted(self._speaker.commands) if self._speaker else []
        self._captions = captions

    def distort(self, samples: Sequence[Sample]) -> list[Sample | BadSample]:
        """Return a pair for each sample, in order, or why there is none. Errors of the speaker propagate."""
        made: dict[int, Sample | BadSample] = {}
        pending = []
        for place, sample in enumerate(samples):
            one: Sample | BadSample | _Pending
            try:
                check_good(sample)
                one = self._plan(place, sample)
            except BadSample as bad:
                one = bad
            if isinstance(one, _Pending):
                pending.append(one)
            else:
                made[place] = one
        while pending:
            pending = self._attempt(pending, made)
        return [made[place] for place in range(len(samples))]

    def _plan(self, place: int, sample: Sample) -> Sample | _Pending:
        """Return a pair from captions if that kind is chosen and possible; otherwise what is left to do."""
        rng = random.Random(f"{self._config.seed} {sample.key} kind")
        kind = self._choose_kind(rng, KINDS)
        fallback_from = None
        if kind == "captions_and_boxes":
            try:
                text, found = self._retrieved(sample)
                if usable(text, sample):
                    return pair(sample, text, {"kind": kind, **found})
                raise NoCaptions("same_text")
            except NoCaptions as absent:
                fallback_from = {"kind": kind, "reason": absent.why}
            kind = self._choose_kind(rng, ("llm", "text"))
        return _Pending(place=place, sample=sample, kind=kind, fallback_from=fallback_from)

    def _choose_kind(self, rng: random.Random, kinds: Sequence[Kind]) -> Kind:
        return rng.choices(kinds, [getattr(self._config.shares, kind) for kind in kinds])[0]

    def _retrieved(self, sample: Sample) -> tuple[str, dict[str, Any]]:
        if self._captions is None:
            raise NoCaptions("no_annotations_given")
        if sample.dataset not in self._config.retrieval.datasets or len(sample.images) != 1:
            raise NoCaptions("no_description_of_one_image")
        return self._captions.response(sample)

    def _attempt(self, pending: list[_Pending], made: dict[int, Sample | BadSample]) -> list[_Pending]:
        """Sample one text for each; finished pairs go into `made`, those to sample again are returned."""
        spoken = [one for one in pending if one.kind == "llm"]
        requests = [self._request(one) for one in spoken]
        said: Sequence[str | BadSample] = []
        if requests:
            assert self._speaker is not None, "a text needs the speaker, but its share is 0"
            said = self._speaker.say(requests)
        results: list[tuple[_Pending, str | BadSample, SpeakerRequest | None, dict[str, Any]]] = [
            (one, text, request, self._facts(request, text))
            for one, request, text in zip(spoken, requests, said, strict=True)
        ]
        for one in pending:
            if one.kind == "text":
                augmented, drawn = augment(one.sample.response, self._seed(one))
                results.append((one, augmented, None, drawn))
        return [
            again for one, text, request, drawn in results if (again := self._judge(one, text, request, drawn, made))
        ]

    def _facts(self, request: SpeakerRequest, text: str | BadSample) -> dict[str, Any]:
        """Return the provenance of a speaker's text."""
        assert self._speaker is not None
        wording = getattr(self._speaker, "wording", "")
        facts = {"speaker": self._speaker.name, **({"wording": wording} if wording else {}), "command": request.command}
        if request.command and isinstance(text, str):
            facts["followed"] = followed(request.command, text, request.response)
        return facts

    def _judge(
        self, one: _Pending, text: str | BadSample, request: SpeakerRequest | None, drawn: dict[str, Any],
        made: dict[int, Sample | BadSample],
    ) -> _Pending | None:  # fmt: skip
        """Put a pair or a reason into `made`, or return the sample if it must be sampled again."""
        one.attempts += 1
        if isinstance(text, BadSample):
            made[one.place] = text
            return None
        wrong = self._wrong(text, one.sample, request)
        if wrong is None:
            rejected = {"not_taken": dict(sorted(one.rejected_attempts.items()))} if one.rejected_attempts else {}
            fallback = {"instead_of": one.fallback_from} if one.fallback_from else {}
            distortion = {"kind": one.kind, **drawn, "draws": one.attempts, **rejected, **fallback}
            made[one.place] = pair(one.sample, text, distortion)
            return None
        one.rejected_attempts[wrong] += 1
        if one.attempts < self._config.draws:
            return one
        if one.kind == "text" and self._config.shares.llm:
            fallback_from = {"kind": "text", "reason": "not_distorted"}
            return _Pending(place=one.place, sample=one.sample, kind="llm", fallback_from=fallback_from)
        made[one.place] = all_rejected(one.sample.key, one.kind, one.rejected_attempts, text)
        return None

    def _wrong(self, text: str, sample: Sample, request: SpeakerRequest | None) -> str | None:
        """Return why a text is rejected. Rules and augmentation change the response itself and need fewer checks."""
        if request is not None and not isinstance(self._speaker, RuleSpeaker) and (found := fault(text, request)):
            return found
        return None if usable(text, sample) else "unchanged" if re.search(r"\w", text) else "empty"

    def _request(self, one: _Pending) -> SpeakerRequest:
        rng = random.Random(f"{self._seed(one)} command")
        command = ""
        if rng.random() < self._config.command_share and self._commands:
            command = rng.choice(self._commands)
        return SpeakerRequest(
            seed=self._seed(one), instruction=one.sample.question, response=one.sample.response, command=command
        )

    def _seed(self, one: _Pending) -> str:
        return f"{self._config.seed} {one.sample.key} {one.kind} {one.attempts}"


def pair(sample: Sample, text: str, distortion: dict[str, Any]) -> Sample:
    """Return the pair of a single-turn sample and its distorted text. Raises `BadSample` if it is invalid."""
    turn = replace(sample.turns[0], response=unmarked(text))
    return replace(
        sample, turns=(turn,), rewritten=sample.response, provenance={**sample.provenance, "distortion": distortion}
    ).validate()


_ALL_REJECTED = re.compile(r"\d+ draws of \w+, none taken: (\d+ \w+(?:, \d+ \w+)*)")


def all_rejected(key: str, kind: Kind, rejected_attempts: Counter[str], last: str) -> BadSample:
    """Return why a sample has no pair: the fault of each attempt, and the beginning of the last text."""
    reasons = ", ".join(f"{times} {reason}" for reason, times in rejected_attempts.most_common())
    start = f"; the last: {' '.join(last.split())[:80]!r}" if last.strip() else ""
    count = rejected_attempts.total()
    return BadSample("not_distorted", f"{key}: {count} draws of {kind}, none taken: {reasons}{start}")


def reasons_of(row: Quarantined) -> Counter[str]:
    """Count the rejected attempts of a quarantined row by reason; the inverse of `all_rejected`."""
    found = _ALL_REJECTED.match(row.detail.removeprefix(f"{row.key}: ")) if row.reason == "not_distorted" else None
    counted: Counter[str] = Counter()
    for one in found[1].split(", ") if found else ():
        times, _, reason = one.partition(" ")
        counted[reason] += int(times)
    return counted


def usable(text: str, sample: Sample) -> bool:
    """Whether a distorted text has a word, fits a turn, and differs from the original in more than blanks."""
    fits = len(unmarked(text)) <= MAX_TEXT_CHARACTERS
    return fits and bool(re.search(r"\w", text)) and text.split() != sample.response.split()


def check_good(sample: Sample) -> None:
    """Raise `BadSample` for a response that cannot be distorted."""
    if len(sample.turns) != 1:
        raise BadSample("unsupported", f"{sample.key}: {len(sample.turns)} turns; split it into single turns first")
    if sample.rewritten is not None:
        raise BadSample("unsupported", f"{sample.key}: is already a pair; give shards of good responses")
    sample.validate()
