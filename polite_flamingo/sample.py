"""The sample, the record that flows through the whole pipeline.

A `Sample` is an instruction (or several turns), its raw responses, and its images as the **original encoded bytes**;
images are never decoded or re-encoded here. Rewriting and scoring add `rewritten`, `scores` and `provenance` and never
overwrite existing fields. What cannot become a `Sample` becomes a `Quarantined` record with a reason.

Shards are read and written in `storage/shards.py`; filters are in `filters/`.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from polite_flamingo.candidates import Candidate
from polite_flamingo.text_files import is_writable

Task = Literal["captioning", "classification", "change_captioning", "vqa_rationale", "vqa", "text", "dialogue"]
TASKS: tuple[str, ...] = get_args(Task)

IMAGE_MARK = "<image>"
"""Marks the place of an image in an instruction; a sample's marks match its images in order."""


def unmarked(text: str) -> str:
    """Replace image marks by "(image)", in a text that shows no image."""
    return text.replace(IMAGE_MARK, "(image)")


Reason = Literal[
    "truncated_tar", "unreadable_shard", "empty_shard", "unsafe_name", "bad_json", "bad_field", "duplicate_key",
    "missing_image", "corrupt_image", "image_too_large", "empty_image", "unsupported_image", "missing_annotation",
    "empty_response", "text_too_long", "unsupported", "excluded", "rewriting_failed", "refused", "answer_cut",
    "answering_failed", "equal_sides", "swapped_sides", "swapped_roles", "bad_encoding", "other_language",
    "scoring_failed", "judging_failed", "distortion_failed", "not_distorted", "killed_worker",
]  # fmt: skip
REASONS: tuple[str, ...] = get_args(Reason)

MAX_TEXT_CHARACTERS = 100_000
"""Longer turns are quarantined: no model here reads a tenth of this, and one such row can starve a batch."""


class BadSample(ValueError):
    """A sample that cannot be processed. `reason` is one of `REASONS`; `detail` is one line: what and where."""

    def __init__(self, reason: Reason, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[Any, ...]:  # exceptions with two arguments cannot be unpickled otherwise
        return (BadSample, (self.reason, self.detail))


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One exchange.

    Attributes:
        instruction: has an `IMAGE_MARK` for each image it shows.
        response: the raw annotation.
        learned: False if the source says that the response must not be learned; the turn is then only context.
        rewritten: the polite response, in a sample of several turns (see `conversations.py`).
        scores: the filters' scores, likewise.
        failed: one of `REASONS` if the turn could not be rewritten or scored, likewise.
    """

    instruction: str
    response: str
    learned: bool = True
    rewritten: str | None = None
    scores: Mapping[str, Any] = field(default_factory=dict)
    failed: str = ""

    def to_record(self) -> dict[str, Any]:
        """Convert to JSON types; all but the texts are written only if they differ from the default."""
        record: dict[str, Any] = {"instruction": self.instruction, "response": self.response}
        if not self.learned:
            record["learned"] = False
        if self.rewritten is not None:
            record["rewritten"] = self.rewritten
        if self.scores:
            record["scores"] = dict(self.scores)
        return record | {"failed": self.failed} if self.failed else record


@dataclass(frozen=True, kw_only=True)
class Image:
    """Encoded bytes exactly as read from disk. `extension` is in lower case without the dot, such as "jpg"."""

    extension: str
    data: bytes


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The result of one check of one sample: `keep`, a stable snake_case `reason`, and the score.

    The reason of a kept sample is "", or "does not apply: …" where a filter does not know the language.
    """

    filter: str
    keep: bool
    reason: str = ""
    score: float | None = None


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """A row that could not be read or processed; `payload` points back to it ("shard.tar#member")."""

    key: str
    shard: str
    index: int
    reason: str
    detail: str
    payload: str = ""

    def to_json(self) -> str:
        """Convert to one line of `quarantine/NAME.jsonl`."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One row of a dataset.

    Attributes:
        key: unique and stable, `dataset/split/original-id` (see `make_key`).
        dataset: name of the source, as in `sources.SOURCES`.
        task: one of `TASKS`; decides which filters apply to the sample.
        turns: at least one.
        images: in the order of the marks; empty for text.
        meta: anything else from the source, JSON types only.
        rewritten: the polite response, once rewritten, of a sample with one turn; conversations have it in their turns.
        scores: the filters' scores, the reward before and after, Rouge-L, likewise; JSON types only.
        provenance: source shard and index, SHA-256 of images, config hash; JSON types only.
        candidates: several models' answers to the last turn, with their ratings.
        rejected: the worse answer of a preference pair, to the last turn; the better one is `rewritten`.
        before: of a turn that is handled as a sample of its own (`conversations.parts_of`), the turns before it; never
            stored.
    """

    key: str
    dataset: str
    task: str
    turns: tuple[Turn, ...]
    images: tuple[Image, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    rewritten: str | None = None
    scores: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    candidates: tuple[Candidate, ...] = ()
    rejected: str | None = None
    before: tuple[Turn, ...] = ()

    @property
    def instruction(self) -> str:
        """The instruction of the first turn."""
        return self.turns[0].instruction

    @property
    def response(self) -> str:
        """The raw annotation: the response of the first turn."""
        return self.turns[0].response

    @property
    def question(self) -> str:
        """The instruction for a text-only model: stripped, without image marks."""
        return self.instruction.replace(IMAGE_MARK, "").strip()

    def validate(self) -> Sample:
        """Return self if valid.

        Raises:
            BadSample: with reason "unsafe_name", "bad_field", "missing_image", "empty_image", "empty_response",
                "text_too_long", or "excluded" (no turn is to be learned).
        """
        if self.key != _safe(self.key) or not self.key:
            raise BadSample("unsafe_name", f"key {self.key[:80]!r} is not a safe path (see make_key)")
        if self.task not in TASKS:
            raise BadSample("bad_field", f"{self.key}: task {self.task!r} is not one of {', '.join(TASKS)}")
        if not self.turns:
            raise BadSample("bad_field", f"{self.key}: no turns")
        if not any(turn.learned for turn in self.turns):
            raise BadSample("excluded", f"{self.key}: none of its responses is to be learned")
        marks = 0
        for turn in self.turns:
            marks += turn.instruction.count(IMAGE_MARK)
            if not turn.response.strip():
                raise BadSample("empty_response", f"{self.key}: a turn has an empty response")
            for text in (turn.instruction, turn.response):
                if not is_writable(text):
                    raise BadSample("bad_field", f"{self.key}: a lone surrogate in a text, which cannot be encoded")
                if len(text) > MAX_TEXT_CHARACTERS:
                    size = f"{len(text)} characters, more than the limit of {MAX_TEXT_CHARACTERS}"
                    raise BadSample("text_too_long", f"{self.key}: {size}")
        if marks != len(self.images):
            raise BadSample("missing_image", f"{self.key}: {marks} {IMAGE_MARK} marks, {len(self.images)} images")
        for number, image in enumerate(self.images):
            if not image.data:
                raise BadSample("empty_image", f"{self.key}: image {number} has no bytes")
        return self

    def to_record(self) -> dict[str, Any]:
        """Convert everything but the image bytes to JSON types; `from_record` is the inverse."""
        record = {
            "key": self.key,
            "dataset": self.dataset,
            "task": self.task,
            "turns": [turn.to_record() for turn in self.turns],
            "images": [image.extension for image in self.images],
            "meta": dict(self.meta),
        }
        if self.rewritten is not None:
            record["rewritten"] = self.rewritten
        if self.rejected is not None:
            record["rejected"] = self.rejected
        if self.candidates:
            record["candidates"] = [candidate.to_record() for candidate in self.candidates]
        return record | {name: dict(found) for name in ("scores", "provenance") if (found := getattr(self, name))}

    @staticmethod
    def from_record(record: Any, images: tuple[Image, ...]) -> Sample:
        """Read what `to_record` wrote. Raises `BadSample("bad_field", …)` naming the first field of a wrong type."""
        if not isinstance(record, dict):
            raise BadSample("bad_field", f"a record must be a JSON object, not {type(record).__name__}")

        def require(holds: bool, what: str) -> None:
            if not holds:
                raise BadSample("bad_field", f"{record.get('key', '?')}: {what}")

        for name, kind in _FIELDS.items():
            require(name in record, f"field {name!r} is missing")
            require(isinstance(record[name], kind), f"field {name!r} must be {kind.__name__}")
        turns = []
        for turn in record["turns"]:
            texts = [turn.get(name) for name in ("instruction", "response")] if isinstance(turn, dict) else [None]
            require(
                all(isinstance(text, str) for text in texts), "a turn needs the strings 'instruction' and 'response'"
            )
            learned = turn.get("learned", True)
            require(isinstance(learned, bool), "field 'learned' of a turn must be true or false")
            text, scores, failed = (turn.get(name, kind) for name, kind in _TURN_FIELDS.items())
            require(text is None or isinstance(text, str), "field 'rewritten' of a turn must be a string")
            require(isinstance(scores, dict), "field 'scores' of a turn must be an object")
            require(isinstance(failed, str), "field 'failed' of a turn must be a string")
            turns.append(
                Turn(
                    instruction=turn["instruction"], response=turn["response"], learned=learned,
                    rewritten=text, scores=scores, failed=failed,
                )
            )  # fmt: skip
        for name in ("meta", "scores", "provenance"):
            require(isinstance(record.get(name, {}), dict), f"field {name!r} must be an object")
        rewritten = record.get("rewritten")
        require(rewritten is None or isinstance(rewritten, str), "field 'rewritten' must be a string")
        rejected = record.get("rejected")
        require(rejected is None or isinstance(rejected, str), "field 'rejected' must be a string")
        try:
            candidates = tuple(Candidate.from_record(one) for one in record.get("candidates", ()))
        except (TypeError, KeyError, ValueError) as error:
            raise BadSample("bad_field", f"{record['key']}: field 'candidates': {error}") from error
        return Sample(
            key=record["key"],
            dataset=record["dataset"],
            task=record["task"],
            turns=tuple(turns),
            images=images,
            meta=record.get("meta", {}),
            rewritten=rewritten,
            scores=record.get("scores", {}),
            provenance=record.get("provenance", {}),
            candidates=candidates,
            rejected=rejected,
        )


_FIELDS: dict[str, type] = {"key": str, "dataset": str, "task": str, "turns": list}
_TURN_FIELDS: dict[str, Any] = {"rewritten": None, "scores": {}, "failed": ""}


def make_key(dataset: str, split: str, original_id: object) -> str:
    """Build the key `dataset/split/original-id`; characters other than letters, digits, `_`, `-` become `~XX` (hex).

    WebDataset cuts a member's name at the first dot, so keys contain none. Distinct ids give distinct keys.
    """
    return "/".join(_escape(str(part)) for part in (dataset, split, original_id))


def _escape(part: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", lambda m: "".join(f"~{b:02X}" for b in m.group().encode()), part)


def _safe(key: str) -> str:
    return "/".join(re.sub(r"[^A-Za-z0-9_~-]", "", part) for part in key.split("/") if part)
