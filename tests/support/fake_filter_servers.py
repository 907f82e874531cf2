"""Servers of scoring models on a real port, as vLLM, TEI and infinity answer, around the local models of the tests.

A text with "[400]" in it is refused, with its whole request.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

from polite_flamingo.filters.clipscore import ClipScore
from polite_flamingo.filters.pair_classifier import PairClassifier
from polite_flamingo.filters.sts import Sts
from polite_flamingo.images.digest import digest
from tests.support.fake_chat import ChatHandler, FakeChat, said

Vectors = list[list[float]]


class Handler(ChatHandler):
    server: FakeFilters

    def reply(self, body: dict[str, Any], before: int) -> None:
        if "[400]" in json.dumps(body):
            return self.error(400, "this text is too long")
        route = self.path.removeprefix("/v1")
        self.server.paths.append(self.path)
        if route not in ("/embeddings", "/classify", "/score", "/predict"):
            return self.error(404, "Not Found")
        data = getattr(self.server, route[1:])(body)
        if route == "/predict":
            return self.send(200, json.dumps(data).encode())
        numbered = [{"index": index, **one} for index, one in enumerate(data)]
        answer = {"model": body["model"], "data": numbered[::-1], "usage": {"prompt_tokens": 10 * len(data)}}
        return self.send(200, json.dumps(answer).encode())


class FakeFilters(FakeChat):
    """Whichever models are given are served.

    Attributes:
        paths: of the requests that were answered.
    """

    handler = Handler

    def __init__(self, *, sts: Any = None, nli: Any = None, clip: Any = None, reward: Any = None):
        super().__init__()
        where: dict[str, Any] = {"device": "cpu", "batch_size": 8}
        self.sts = Sts(sts, **where) if sts else None
        self.clip = ClipScore(clip, pretrained="", **where) if clip else None
        classifier = nli or reward
        self.classifier = PairClassifier(classifier, **where) if classifier else None
        self.paths: list[str] = []
        self.computing = threading.Lock()

    @property
    def root(self) -> str:
        return self.url.removesuffix("/v1")

    def embeddings(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        assert body["encoding_format"] == "float"
        with self.computing:
            return [{"object": "embedding", "embedding": vector} for vector in self._vectors(body)]

    def _vectors(self, body: dict[str, Any]) -> Vectors:
        if self.sts is not None:
            return self.sts._encode(body["input"]).tolist()
        assert self.clip is not None
        if "messages" in body:
            [part] = body["messages"][0]["content"]
            urls = [part["image_url"]["url"]]
        elif body.get("modality") == "image":
            urls = body["input"]
        else:
            texts = self.clip.encode_texts(body["input"])
            return [(3 * texts[text]).tolist() for text in body["input"]]
        images = [base64.b64decode(url.partition(",")[2]) for url in urls]
        features = self.clip.encode_images(images)
        return [features[digest(image)].tolist() for image in images]

    def logits(self, pairs: list[tuple[str, str]]) -> Vectors:
        assert self.classifier is not None
        with self.computing:
            return self.classifier.logits(pairs)

    def classify(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        if "messages" in body:
            question, answer = (message["content"] for message in body["messages"])
            return [{"label": "LABEL_0", "probs": row, "num_classes": 1} for row in self.logits([(question, answer)])]
        assert self.classifier is not None
        names = self.classifier.config.id2label
        found = []
        for row in self.logits([tuple(text.split("[SEP]")) for text in body["input"]]):
            odds = [math.exp(logit - max(row)) for logit in row]
            probabilities = [one / sum(odds) for one in odds]
            best = probabilities.index(max(probabilities))
            found.append({"label": names[best], "probs": probabilities, "num_classes": len(row)})
        return found

    def score(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        assert body["use_activation"] is False
        pairs = list(zip(body["text_1"], body["text_2"], strict=True))
        return [{"object": "score", "score": row[0]} for row in self.logits(pairs)]

    def predict(self, body: dict[str, Any]) -> list[list[dict[str, Any]]]:
        assert body["raw_scores"] is True and self.classifier is not None
        names = self.classifier.config.id2label
        rows = self.logits([(first, second) for first, second in body["inputs"]])
        return [
            sorted(({"label": names[n], "score": one} for n, one in enumerate(row)), key=lambda one: -one["score"])
            for row in rows
        ]


class FakeJudge(FakeChat):
    """A chat server that gives marks; `says` makes an answer of a request's text and pictures."""

    class handler(ChatHandler):
        server: FakeJudge

        def reply(self, body: dict[str, Any], before: int) -> None:
            text, images = said(body)
            if "[400]" in text:
                return self.error(400, "the prompt is too long")
            message = {"role": "assistant", "content": self.server.says(text, images)}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            answer = {
                "model": body["model"],
                "choices": [choice],
                "usage": {"prompt_tokens": 50, "completion_tokens": 9},
            }
            return self.send(200, json.dumps(answer).encode())

    def __init__(self, says: Callable[[str, list[Any]], str]):
        super().__init__()
        self.says = says


@contextlib.contextmanager
def serving(server: FakeChat) -> Iterator[FakeChat]:
    """Serve in a thread until the block ends."""
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield server
    finally:
        server.die()


@contextlib.contextmanager
def fake_filters(**models: Any) -> Iterator[FakeFilters]:
    """Serve models in a thread until the block ends."""
    server = FakeFilters(**models)
    with serving(server):
        yield server
