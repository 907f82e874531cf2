"""What a contestant makes of the multiple-choice questions of a shard, as a file.

The file has log-probabilities, not picks, so sums and means are compared without asking a model again.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from polite_flamingo.evaluation.choices import Options
from polite_flamingo.evaluation.multiple_choice import Scored
from polite_flamingo.sample import BadSample


@dataclass(kw_only=True)
class ChoiceRecords:
    """The questions of a shard.

    Attributes:
        identity: hash of what the numbers depend on.
        options: key of a question -> its options.
        scored: key -> what the contestant makes of them.
        refused: key -> why the sample cannot be asked.
    """

    identity: str
    options: dict[str, Options] = field(default_factory=dict)
    scored: dict[str, Scored] = field(default_factory=dict)
    refused: dict[str, BadSample] = field(default_factory=dict)

    def to_json(self) -> str:
        """Write the content of a file."""
        questions = [
            {"key": key, "choices": options.texts, "right": options.right, **_to_record(self.scored[key])}
            for key, options in self.options.items()
        ]
        refused = [{"key": key, **_to_record(bad)} for key, bad in self.refused.items()]
        found = {"identity": self.identity, "questions": questions, "refused": refused}
        return json.dumps(found, allow_nan=False, indent=1) + "\n"

    @staticmethod
    def from_json(text: str) -> ChoiceRecords:
        """Read what `to_json` wrote."""
        found = json.loads(text)
        questions = found["questions"]
        return ChoiceRecords(
            identity=found["identity"],
            options={one["key"]: Options(texts=tuple(one["choices"]), right=one["right"]) for one in questions},
            scored={one["key"]: _from_record(one) for one in questions},
            refused={one["key"]: BadSample(one["failed"], one["detail"]) for one in found["refused"]},
        )


def _to_record(scored: Scored) -> dict[str, Any]:
    if isinstance(scored, BadSample):
        return {"failed": scored.reason, "detail": scored.detail}
    return {"log_probs": [[total if math.isfinite(total) else None, tokens] for total, tokens in scored]}


def _from_record(record: dict[str, Any]) -> Scored:
    if "failed" in record:
        return BadSample(record["failed"], record["detail"])
    return tuple((math.nan if total is None else total, tokens) for total, tokens in record["log_probs"])
