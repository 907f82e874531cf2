"""The models that answer prompts: a Flamingo in our engine, or any chat model behind a server.

A request's seed depends on the sample's key and the answer's number alone, so a retry gives the same answers (of a
server, if it honours seeds; what it has answered is kept anyway). An answer that says nothing, or that a filter
withheld, is a `BadSample` in its place; one that ends at the limit of tokens is kept and marked.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

from polite_flamingo.conversations import asked
from polite_flamingo.endpoints.answer_store import AnswerStore
from polite_flamingo.endpoints.answers import Unfinished, says_nothing, stripped, without_reasoning
from polite_flamingo.endpoints.chat import ChatServers
from polite_flamingo.endpoints.connection import Refused
from polite_flamingo.endpoints.pictures import content, trial_image
from polite_flamingo.preference.sampling import Answered, Found, SamplingSection
from polite_flamingo.sample import IMAGE_MARK, MAX_TEXT_CHARACTERS, BadSample, Image, Sample, Turn
from polite_flamingo.seeds import seed_number
from polite_flamingo.usage import Usage, of_model

Message = dict[str, Any]


class Policy(Protocol):
    """A model that answers."""

    def answers(self, requests: Sequence[Sample], usage: Usage, store: AnswerStore | None = None) -> list[Found]:
        """Return the answer to the last turn of each request, in order, or why there is none.

        Args:
            requests: see `sampling.requests_of`.
            usage: what the answers cost is added to it.
            store: answers of earlier attempts; a server's new ones are added.

        Raises:
            EndpointDown: the servers are down, or are not what the profile says.
        """


def load_policy(config: SamplingSection) -> Policy:
    """Load the model, or connect to its servers; nothing is sent yet."""
    return EndpointPolicy(config) if config.kind == "endpoint" else FlamingoPolicy(config)


class FlamingoPolicy:
    """A checkpoint in our engine, with the chat prompt."""

    def __init__(self, config: SamplingSection):
        from polite_flamingo.rewriters.flamingo import Rewriter, chatting  # imports torch

        self._model = Rewriter(config.of_flamingo(), prompt=chatting)
        self._name = config.model

    def answers(self, requests: Sequence[Sample], usage: Usage, store: AnswerStore | None = None) -> list[Found]:
        """See `Policy.answers`."""
        encode, texts = self._model.model.tokenizer.encode, self._model.texts(requests, usage)
        return [
            text if isinstance(text, BadSample)
            else checked(request, text, self._name, len(encode(text, begin=False)))
            for request, text in zip(requests, texts, strict=True)
        ]  # fmt: skip


class EndpointPolicy:
    """A chat model behind servers; each answer is a request of its own, so that each has its own seed."""

    def __init__(self, config: SamplingSection):
        self._config = config
        self._chats = ChatServers(config.endpoint, "sampling.endpoint", config.endpoint.extra)

    def answers(self, requests: Sequence[Sample], usage: Usage, store: AnswerStore | None = None) -> list[Found]:
        """See `Policy.answers`."""
        found = [
            *self._chats.threads.map(partial(self._answer, store=store), requests)
        ]  # cancels the rest if one raises
        for _, used in found:
            usage.update(of_model(used, "sampling"))
        return [one for one, _ in found]

    def try_out(self) -> list[str]:
        """Ask every server once, to notice a broken one before work begins; return lines to print.

        Raises:
            EndpointDown: none answers, or one rejects the key, the model or the request.
        """
        images = (trial_image(),) if self._config.endpoint.pictures else ()
        turn = Turn(instruction=IMAGE_MARK * len(images) + "What is the weather like?", response="sunny")
        trial = Sample(key="trial", dataset="trial", task="vqa", turns=(turn,), images=images)
        problems = self._chats.try_out(self._body(trial), lambda answer: None)
        served = self._config.endpoint
        there = [url for url in served.urls if url.rstrip("/") not in problems]
        said = [f"{served.model} at {' and '.join(there)} answers"]
        return said + [f"{url} does not answer at present: {problem}" for url, problem in problems.items()]

    def _answer(self, request: Sample, store: AnswerStore | None) -> tuple[Found, Usage]:
        usage = Usage()
        try:
            answer = self._chats.ask(self._body(request), usage, store, mark=request.key)
        except BadSample as bad:
            return bad, usage
        except Refused as refused:
            usage["requests"] += 1
            return BadSample("answering_failed", f"{request.key}: {refused}"), usage
        usage["images"] += len(request.images) if self._config.endpoint.pictures else 0
        text = stripped(without_reasoning(answer.text))
        tokens = answer.usage.get("generated_tokens") or len(text.split())
        return checked(request, text, answer.model or self._config.model, tokens), usage

    def _body(self, request: Sample) -> dict[str, Any]:
        """Return a request, without the model. Raises `BadSample` for a picture that cannot be read."""
        config = self._config
        return {
            "messages": messages_of(request, pictures=config.endpoint.pictures, max_side=config.endpoint.max_side),
            "max_tokens": config.max_tokens,
            "temperature": config.temperature,
            "top_p": config.top_p,
            "seed": seed_number(f"{config.seed}/{request.key}"),
        }


def messages_of(sample: Sample, *, pictures: bool, max_side: int) -> list[Message]:
    """Return a conversation as chat messages, up to the question of its last turn.

    Raises:
        BadSample: a picture cannot be read.
    """
    messages: list[Message] = []
    images = iter(sample.images)
    for turn in sample.turns:
        shown: list[Image] = [next(images) for _ in range(turn.instruction.count(IMAGE_MARK))]
        said = content(turn.instruction, shown, max_side) if pictures else asked(turn)
        messages += [{"role": "user", "content": said}, {"role": "assistant", "content": turn.response}]
    return messages[:-1]


def checked(request: Sample, text: str, model: str, tokens: int) -> Found:
    """Return an answer as it is kept, or why it is none. Args: text: `Unfinished` if it was cut."""
    why = text.why if isinstance(text, Unfinished) else ""
    if why == "content_filter":
        return BadSample("refused", f"{request.key}: the server's filter withheld the answer")
    if why == "error":
        return BadSample("answering_failed", f"{request.key}: the server ended the answer early")
    if says_nothing(text):
        ended = "the limit of tokens came before any answer" if why else "the answer is empty"
        return BadSample("answer_cut" if why else "answering_failed", f"{request.key}: {ended}")
    if len(text) > MAX_TEXT_CHARACTERS:
        return BadSample("text_too_long", f"{request.key}: the answer has {len(text):,} characters")
    return Answered(text=str(text), model=model, tokens=tokens, cut=bool(why))
