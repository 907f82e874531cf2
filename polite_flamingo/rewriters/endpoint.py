"""A rewriter behind OpenAI-compatible chat servers: samples in, one polite text per learned turn out.

Conversations are rewritten at once, as many as the servers take (`endpoints/servers.py`), and the turns of one in
order: the model sees the turns before, as it rewrote them. An answer that is no rewritten text fails its turn, with the
reason `refused` or `answer_cut` where the user can do something about it, else `rewriting_failed`. A request that the
servers reject fails its turn too. What is wrong with the servers raises `EndpointDown`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from polite_flamingo.endpoints.answers import Unfinished, ending, first_choice, without_reasoning
from polite_flamingo.endpoints.connection import Refused
from polite_flamingo.endpoints.pictures import trial_image
from polite_flamingo.endpoints.responses import refuse_other_model, usage_of
from polite_flamingo.endpoints.servers import Servers
from polite_flamingo.rewriters import chat_prompt
from polite_flamingo.rewriters.answer_store import Answer, AnswerStore, digest
from polite_flamingo.rewriters.config import ChatConfig, EndpointConfig
from polite_flamingo.rewriters.dialogue import Ask, Dialogue, Text, polite_of, rewritten_text
from polite_flamingo.sample import IMAGE_MARK, BadSample, Sample
from polite_flamingo.seeds import seed_number
from polite_flamingo.usage import Usage

PATH = "/chat/completions"


class EndpointRewriter:
    """Asks servers; see the module. Nothing is sent before the first call.

    Args:
        config: which servers, and what they are asked.
    """

    def __init__(self, config: EndpointConfig):
        self.config = config
        self.servers = Servers(config.urls, config, config.patience)
        self._threads = ThreadPoolExecutor(self.servers.concurrency, "rewriting")
        self._opening = chat_prompt.opening(config)

    def rewrite(self, samples: Sequence[Sample], usage: Usage, answers: AnswerStore | None = None) -> list[list[Text]]:
        """Return for each sample, in order, one text per turn, or why there is none; None for a turn without a part.

        Args:
            samples: of one shard.
            usage: what the answers cost is added to it, also if an earlier attempt has paid for them.
            answers: those of earlier attempts; new ones are added.

        Raises:
            EndpointDown: the servers are down, or are not what the profile says; the rest is not sent.
        """
        work = partial(self._conversation, answers=answers)
        found = [*self._threads.map(work, samples)]  # cancels the rest if one raises
        for _, used in found:
            usage.update(used)
        return [texts for texts, _ in found]

    def metrics(self) -> Mapping[str, float]:
        """Return how many tries failed, and how many requests the servers get at once by now."""
        return self.servers.metrics()

    def try_out(self) -> list[str]:
        """Ask every server for one rewritten text, to notice a broken one before work begins.

        Returns:
            Lines to print: which model answers, and servers that do not at present.

        Raises:
            EndpointDown: none answers, or one rejects the key, the model or the request.
        """
        config, images = self.config, [trial_image()] if self.config.pictures else []
        question = IMAGE_MARK * len(images) + "What is the weather like?"
        message = chat_prompt.user(config, question, "sunny", "vqa", images)
        body = request_body(config, config.model, [*self._opening, message], "")
        names: list[str] = []

        def read(response: dict[str, Any]) -> None:
            answer = self._read(response)
            names.append(answer.model)
            text = without_reasoning(answer.text)
            if config.structured and not isinstance(text, Unfinished) and polite_of(text) is None:
                raise TypeError(f"not the JSON that `structured` asks for: {text[:60]!r}")

        problems = self.servers.try_out(PATH, body, read)
        other = f", which calls itself {names[0]}" if names and names[0] not in ("", config.model) else ""
        there = [url for url in config.urls if url.rstrip("/") not in problems]
        said = [f"{config.model} at {' and '.join(there)} rewrites{other}"]
        return said + [f"{url} does not answer at present: {problem}" for url, problem in problems.items()]

    def _conversation(self, sample: Sample, answers: AnswerStore | None) -> tuple[list[Text], Usage]:
        """Rewrite the turns of a sample in order; return its texts and what they cost."""
        usage, talk = Usage(), Dialogue(self.config, self._opening, sample)
        while (ask := talk.next()) is not None:
            talk.take(self._rewritten(ask, answers, usage))
        return talk.texts, usage

    def _rewritten(self, ask: Ask, answers: AnswerStore | None, usage: Usage) -> str | BadSample:
        body = request_body(self.config, self.config.model, ask.messages, ask.key)
        name = digest(json.dumps(body, sort_keys=True).encode())
        answer = answers.get(name) if answers else None
        usage["answers_reused"] += answer is not None
        if answer is None:
            try:
                answer = self.servers.post(PATH, body, self._read)
            except Refused as refused:
                return BadSample("rewriting_failed", f"{ask.key}: {refused}")
            if answers:
                answers.add(name, answer)
        usage["requests"] += 1
        usage["images"] += ask.images
        usage.update(answer.usage)
        return rewritten_text(ask, answer.text, structured=self.config.structured)

    def _read(self, response: dict[str, Any]) -> Answer:
        """Return what a response holds. Raises `EndpointDown` if another model has answered."""
        answer = read_answer(response)
        refuse_other_model(response, self.config.model, self.config.answers_as, "rewriter.endpoint")
        return answer


def request_body(config: ChatConfig, model: str, messages: Sequence[chat_prompt.Message], key: str) -> dict[str, Any]:
    """Return a request to a chat server. Its seed depends on the sample's key."""
    body: dict[str, Any] = {
        "model": model,
        "messages": list(messages),
        "max_tokens": config.max_tokens,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "seed": seed_number(f"{config.seed}/{key}"),
    }
    if config.structured:
        schema = {"name": "polite", "strict": True, "schema": chat_prompt.SCHEMA}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return {name: value for name, value in {**body, **config.extra}.items() if value is not None}


def read_answer(response: Mapping[str, Any]) -> Answer:
    """Return what a chat server's response holds.

    Raises:
        LookupError, TypeError: it has another form.
    """
    model = response.get("model")
    text = first_choice(response)
    valid = ending(text.encode("utf-8", "replace").decode(), getattr(text, "why", None))  # no half surrogate pairs
    return Answer(text=valid, model=model if isinstance(model, str) else "", usage=usage_of(response))
