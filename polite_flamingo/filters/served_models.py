"""The scoring models behind servers: the same numbers as of local models, asked for in batches over HTTP.

The scores are computed from embeddings and probabilities as from a local model's, so thresholds keep their meaning. A
server returns probabilities where a local model has logits: of NLI their logarithms are stored, which are the logits
up to a constant that is the same for the three labels, so that every difference of logits stays. Rewards are asked for
as raw logits.

What a server refuses alone (a text that is too long for it) is the text's fault: a `BadSample`, as is an image that
cannot be read. What is wrong with a server raises `EndpointDown`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from polite_flamingo.endpoints.batched import BatchedRequests, Route, in_order
from polite_flamingo.endpoints.connection import EndpointDown, Refused
from polite_flamingo.endpoints.pictures import data_url
from polite_flamingo.filters.batches import distinct
from polite_flamingo.filters.endpoint_config import ClipEndpoint, NliEndpoint, RewardEndpoint, StsEndpoint
from polite_flamingo.filters.nli import LABELS
from polite_flamingo.filters.paragraphs import pieces
from polite_flamingo.images.digest import digest
from polite_flamingo.sample import BadSample, Image
from polite_flamingo.usage import Usage

Pair = tuple[str, str]

_LEAST = 1e-30
"""Probabilities that a server rounds to zero count as this."""


class ServedModel(ABC):
    """A model behind servers. Subclasses set both attributes."""

    _requests: BatchedRequests
    _trial: tuple[Route[Any, Any], Any]
    """What `try_out` asks."""

    @abstractmethod
    def score(self, rows: Sequence[Any], usage: Usage | None = None) -> Sequence[Any]:
        """Return one score per row, in order, or the `BadSample` that says why there is none.

        Args:
            rows: what the model scores.
            usage: what the servers say it cost is added to it.
        """

    def try_out(self) -> list[str]:
        """Ask every server about one item; see `BatchedRequests.try_out`."""
        route, item = self._trial
        return self._requests.try_out(route, item)


class ServedSts(ServedModel):
    """Sentence embeddings from servers. Each distinct text of a call is sent once."""

    def __init__(self, config: StsEndpoint):
        self._requests = BatchedRequests(config, "scoring.sts", config.extra)
        self._route = _text_embeddings(config.batch_size)
        self._trial = (self._route, "A red circle.")

    def score(self, pairs: Sequence[Pair], usage: Usage | None = None) -> list[float | BadSample]:
        """Return the cosine similarity of each pair of texts, in [-1, 1], or why there is none."""
        found = _of_each(self._requests, self._route, [text for pair in pairs for text in pair], usage)
        return [_cosine(found[left], found[right]) for left, right in pairs]


class ServedNli(ServedModel):
    """A classifier of pairs from servers; scores are logits up to a constant, in the order of `LABELS`."""

    def __init__(self, config: NliEndpoint):
        self._requests = BatchedRequests(config, "scoring.nli", config.extra)
        self._labels = config.labels
        if config.route == "predict":
            self._route: Route[Pair, list[float]] = _predict(config.batch_size, _logits_by_name)
        else:
            self._route = Route(
                path="/classify",
                body=lambda pairs: {"input": [config.separator.join(pair) for pair in pairs]},
                read=lambda said, _: [self._log_probabilities(one) for one in in_order(said)],
                items=config.batch_size,
            )
        self._trial = (self._route, ("The circle is red.", "red"))

    def score(self, pairs: Sequence[Pair], usage: Usage | None = None) -> list[list[float] | BadSample]:
        """Return three logits for each (premise, hypothesis), or why there are none."""
        found = _of_each(self._requests, self._route, pairs, usage)
        return [found[pair] for pair in pairs]

    def _log_probabilities(self, one: Mapping[str, Any]) -> list[float]:
        """Return the logarithms of the probabilities. Raises `EndpointDown` if the labels are in another order."""
        probabilities = [float(value) for value in one["probs"]]
        if len(probabilities) != len(self._labels):
            raise EndpointDown(f"scoring.nli: the model has {len(probabilities)} labels, but the filter needs 3")
        best = max(range(len(probabilities)), key=lambda index: probabilities[index])
        said = str(one.get("label") or "").lower()
        if said in LABELS and said != self._labels[best]:
            raise EndpointDown(
                f"scoring.nli.labels are in another order than the model's: it says {said} where they say "
                f"{self._labels[best]}; take the order of id2label in its config.json"
            )
        by_name = dict(zip(self._labels, probabilities, strict=True))
        return [math.log(max(by_name[label], _LEAST)) for label in LABELS]


class ServedReward(ServedModel):
    """A reward model from servers."""

    def __init__(self, config: RewardEndpoint):
        self._requests = BatchedRequests(config, "scoring.reward", config.extra)
        routes: dict[str, Route[Pair, float]] = {
            "score": Route(
                path="/score",
                body=lambda pairs: {
                    "text_1": [first for first, _ in pairs],
                    "text_2": [second for _, second in pairs],
                    "use_activation": False,
                },
                read=lambda said, _: [float(one["score"]) for one in in_order(said)],
                items=config.batch_size,
            ),
            "predict": _predict(config.batch_size, _only_score),
            "chat": Route(
                path="/classify",
                body=lambda pairs: {"messages": _exchange(*pairs[0]), "use_activation": False},
                read=lambda said, _: [_only([float(value) for value in one["probs"]]) for one in in_order(said)],
                items=1,
            ),
        }
        self._route = routes[config.route]
        self._trial = (self._route, ("What colour is it?", "It is red."))

    def score(self, pairs: Sequence[Pair], usage: Usage | None = None) -> list[float | BadSample]:
        """Return the reward of each (question, answer), or why there is none."""
        found = _of_each(self._requests, self._route, pairs, usage)
        return [found[pair] for pair in pairs]


class ServedClip(ServedModel):
    """Embeddings of images and texts from servers; CLIPScore as of a local model (`clipscore.py`)."""

    def __init__(self, config: ClipEndpoint):
        self._requests = BatchedRequests(config, "scoring.clip", config.extra)
        self._max_side = config.max_side
        self._texts = _text_embeddings(config.batch_size)
        self._trial = (self._texts, "A red circle.")
        self._images: Route[str, np.ndarray] = {
            "messages": Route(
                path="/embeddings",
                body=lambda urls: {"messages": [{"role": "user", "content": [_picture(urls[0])]}]} | _FLOATS,
                read=_embeddings,
                items=1,
            ),
            "modality": Route(
                path="/embeddings",
                body=lambda urls: {"input": list(urls), "modality": "image"} | _FLOATS,
                read=_embeddings,
                items=config.batch_size,
            ),
        }[config.images]

    def score(
        self, rows: Sequence[tuple[bytes, Sequence[str]]], usage: Usage | None = None
    ) -> list[list[float] | BadSample]:
        """Return the scores of each row's paragraphs, or why it has none. Args: rows: encoded image, paragraphs."""
        urls: dict[str, str | BadSample] = {}
        for data in {digest(image): image for image, _ in rows}.values():
            try:
                urls[digest(data)] = data_url(Image(extension="", data=data), self._max_side)
            except BadSample as bad:
                urls[digest(data)] = bad
        readable = [url for url in urls.values() if isinstance(url, str)]
        seen = _of_each(self._requests, self._images, readable, usage)
        said = [piece for _, texts in rows for text in texts for piece in _pieces(text)]
        read = _of_each(self._requests, self._texts, [piece for piece in said if piece], usage)
        if "" in said:
            read |= _of_each(self._requests, self._texts, [""], usage)  # alone: some servers refuse it
        if usage is not None:
            usage["clip.images"] += len(seen)
        return [self._score(urls[digest(image)], texts, seen, read) for image, texts in rows]

    def _score(
        self, url: str | BadSample, texts: Sequence[str],
        seen: Mapping[str, np.ndarray | BadSample], read: Mapping[str, np.ndarray | BadSample],
    ) -> list[float] | BadSample:  # fmt: skip
        """Return 100 times the mean cosine of each text's pieces; empty ones count if the server embeds them."""
        image = seen[url] if isinstance(url, str) else url
        if isinstance(image, BadSample):
            return image
        scores = []
        for text in texts:
            cosines = {piece: _cosine(image, read[piece]) for piece in _pieces(text)}
            for piece, cosine in cosines.items():
                if isinstance(cosine, BadSample) and piece:
                    return cosine
            numbers = [cosine for piece in _pieces(text) if not isinstance(cosine := cosines[piece], BadSample)]
            scores.append(100 * float(np.mean(numbers)) if numbers else math.nan)
        return scores


def _pieces(text: str) -> list[str]:
    return [piece if piece.strip() else "" for piece in pieces(text)]


_FLOATS = {"encoding_format": "float"}


def _text_embeddings(items: int) -> Route[str, np.ndarray]:
    return Route(
        path="/embeddings", body=lambda texts: {"input": list(texts)} | _FLOATS, read=_embeddings, items=items
    )  # fmt: skip


def _embeddings(said: Mapping[str, Any], count: int) -> list[np.ndarray]:
    return [np.asarray([float(value) for value in one["embedding"]]) for one in in_order(said)]


def _predict(items: int, result: Any) -> Route[Pair, Any]:
    """Return TEI's route for pairs; `result` makes one of a list of labels with scores."""
    return Route(
        path="/predict",
        body=lambda pairs: {"inputs": [list(pair) for pair in pairs], "raw_scores": True, "truncate": True},
        read=lambda said, _: [result(one) for one in said["data"]],
        items=items,
    )


def _logits_by_name(labels: Sequence[Mapping[str, Any]]) -> list[float]:
    scores = {str(one["label"]).lower(): float(one["score"]) for one in labels}
    if sorted(scores) != sorted(LABELS):
        raise EndpointDown(f"scoring.nli: the model has the labels {sorted(scores)}, but the filter needs {LABELS}")
    return [scores[label] for label in LABELS]


def _only_score(labels: Sequence[Mapping[str, Any]]) -> float:
    return _only([float(one["score"]) for one in labels])


def _only(values: Sequence[float]) -> float:
    if len(values) != 1:
        raise EndpointDown(f"scoring.reward: the model has {len(values)} labels; a reward model has one")
    return values[0]


def _exchange(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _picture(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def _of_each(
    requests: BatchedRequests, route: Route[Any, Any], items: Sequence[Any], usage: Usage | None
) -> dict[Any, Any]:
    """Return distinct item -> result, or the `BadSample` that says why there is none."""
    once = distinct(items)
    found = requests.ask(route, once, Usage() if usage is None else usage) if once else []
    return {
        item: BadSample("scoring_failed", f"{route.path}: {result}") if isinstance(result, Refused) else result
        for item, result in zip(once, found, strict=True)
    }


def _cosine(left: np.ndarray | BadSample, right: np.ndarray | BadSample) -> float | BadSample:
    if isinstance(left, BadSample):
        return left
    if isinstance(right, BadSample):
        return right
    with np.errstate(all="ignore"):  # an embedding of length zero gives NaN, which is never kept
        return float(np.clip(left @ right / (np.linalg.norm(left) * np.linalg.norm(right)), -1.0, 1.0))
