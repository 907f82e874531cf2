"""A chat server that judges by the exact rule of Shapes, and spoils as many replies as it is told to.

It knows the samples that it will be asked about, and finds each by the question, the answers and the picture that it is
sent. What it spoils depends only on the request, so that a retry is spoilt alike.
"""

from __future__ import annotations

import base64
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from polite_flamingo.conversations import asked
from polite_flamingo.sample import Sample
from polite_flamingo.testbed.shapes.rule import rate
from tests.support.fake_chat import ChatHandler, FakeChat

JUDGE = "judge-9b"

Spoil = Callable[[dict[str, Any]], tuple[str, str]]
"""A good reply -> a bad one, and the reason why it ended."""


def _altered(change: Callable[[dict[str, Any]], None]) -> Spoil:
    def spoil(reply: dict[str, Any]) -> tuple[str, str]:
        changed = json.loads(json.dumps(reply))
        change(changed["answers"][-1])
        return json.dumps(changed), "stop"

    return spoil


READABLE: dict[str, Spoil] = {
    "fenced": lambda reply: (f"Here you are:\n```json\n{json.dumps(reply, indent=2)}\n```\nI hope it helps.", "stop"),
    "bare list": lambda reply: (json.dumps(reply["answers"]), "stop"),
    "by name": lambda reply: (json.dumps({f"Answer {one.pop('answer')}": one for one in _copy(reply)}), "stop"),
    "strings": _altered(
        lambda one: one.update(correctness=f"{one['correctness']}/4", coherence=f" {one['coherence']}.0")
    ),
    "commas": lambda reply: (json.dumps(reply).replace("}", ",}").replace("]", ",]"), "stop"),
    "python": lambda reply: (repr(reply), "stop"),
    "shuffled": lambda reply: (json.dumps({"answers": reply["answers"][::-1]}), "stop"),
    "reasoned": lambda reply: (f"<think>Is it {{3}}?</think>{json.dumps(reply)}", "stop"),
}
"""Replies in another form, whose ratings can be read without a guess."""

UNREADABLE: dict[str, tuple[str, Spoil]] = {
    "prose": ("prose", lambda reply: ("All of them are rather good; I would say three or four each.", "stop")),
    "nothing": ("prose", lambda reply: ("", "stop")),
    "cut": ("cut", lambda reply: (json.dumps(reply)[: len(json.dumps(reply)) // 2], "length")),
    "withheld": ("withheld", lambda reply: ("", "content_filter")),
    "refuses": ("refused", lambda reply: ("I'm sorry, but I cannot rate these answers.", "stop")),
    "without one": ("incomplete", _altered(lambda one: one.pop("correctness"))),
    "another answer": ("incomplete", _altered(lambda one: one.update(answer=9))),
    "of ten": ("out of range", _altered(lambda one: one.update(helpfulness=8))),
    "halves": ("out of range", _altered(lambda one: one.update(coherence=2.5))),
    "yes": ("out of range", _altered(lambda one: one.update(verbosity=True))),
}
"""Name -> the fault that it is to be recognised as, and how it is made."""


def _copy(reply: dict[str, Any]) -> list[dict[str, Any]]:
    return [dict(one) for one in reply["answers"]]


class FakeRuleJudge(FakeChat):
    """The server.

    Attributes:
        spoilt: share of replies that are spoilt, each in a way that its request decides.
        ways: name -> how.
        counts: how often each way was used.
        names: names under which it answers in turn; a judge that changes has two.
        change_after: number of replies after which the second name answers.
    """

    class handler(ChatHandler):
        server: FakeRuleJudge

        def reply(self, body: dict[str, Any], before: int) -> None:
            status = self.server.status_of(body)
            if status:
                return self.error(status, "the server says why", {"Retry-After": "0"})
            text, reason = self.server.judged(body)
            choice: dict[str, Any] = {
                "index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": text},
            }  # fmt: skip
            if body.get("logprobs"):
                choice["logprobs"] = {"content": tokens_of(text)}
            usage = {"prompt_tokens": 400, "completion_tokens": 100}
            answer = {"model": self.server.named(), "choices": [choice], "usage": usage}
            return self.send(200, json.dumps(answer).encode())

    def __init__(self, samples: Sequence[Sample], spoilt: float = 0.0, ways: dict[str, Spoil] | None = None):
        super().__init__(model=JUDGE)
        self.samples = {_known(sample): sample for sample in samples}
        self.spoilt, self.ways = spoilt, ways or {**READABLE, **{name: way for name, (_, way) in UNREADABLE.items()}}
        self.counts: Counter[str] = Counter()
        self.names: tuple[str, ...] = (JUDGE,)
        self.change_after, self.replies = 1 << 30, 0
        self.status_of: Callable[[dict[str, Any]], int] = lambda body: 0

    def named(self) -> str:
        """The name of the model that answers now."""
        with self.lock:
            self.replies += 1
            return self.names[-1] if self.replies > self.change_after else self.names[0]

    def judged(self, body: dict[str, Any]) -> tuple[str, str]:
        """Return a reply, and why it ended."""
        question, answers, picture = _asked(body)
        trial = question == "What is the weather like?"
        sample = None if trial else self.samples[question, picture]
        entries = []
        for number, answer in enumerate(answers, start=1):
            values, why = rate(sample, answer) if sample else (dict.fromkeys(_FIVE, 4), "fine")
            entries.append({"answer": number, "reason": why, **values})
        reply = {"answers": entries}
        rng = random.Random(json.dumps(body, sort_keys=True))
        if sample is None or rng.random() >= self.spoilt:
            return json.dumps(reply), "stop"
        way = rng.choice(sorted(self.ways))
        with self.lock:
            self.counts[way] += 1
        return self.ways[way](reply)


_FIVE = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def _known(sample: Sample) -> tuple[str, bytes]:
    return asked(sample.turns[-1]), sample.images[0].data if sample.images else b""


def _asked(body: dict[str, Any]) -> tuple[str, list[str], bytes]:
    """Return the question, the answers in the order shown, and the first picture's bytes."""
    content = body["messages"][1]["content"]
    parts: list[dict[str, Any]] = [{"type": "text", "text": content}] if isinstance(content, str) else content
    text = "".join(part["text"] for part in parts if part["type"] == "text")
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    picture = base64.b64decode(urls[0].partition(",")[2]) if urls else b""
    question, *answers = re.split(r"\n\nAnswer \d+:\n", text.rpartition("Question: ")[2])
    return question.partition("\n\nReference: ")[0], answers, picture


def tokens_of(text: str) -> list[dict[str, Any]]:
    """Return the tokens of a reply: a digit has probability 0.75, its neighbour the rest."""
    tokens: list[dict[str, Any]] = []
    for piece in re.findall(r" ?\d|[^\d ]+| ", text):
        top: list[dict[str, Any]] = [{"token": piece, "logprob": -0.2876820724517809}]
        if piece.strip().isdigit():
            other = str(abs(int(piece) - 1))
            top.append({"token": other, "logprob": -1.3862943611198906})
        tokens.append({"token": piece, "logprob": top[0]["logprob"], "top_logprobs": top})
    return tokens
