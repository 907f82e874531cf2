"""A rewriter behind OpenAI-compatible chat servers: samples in, one polite text per learned turn out.

Conversations are rewritten at once, as many as the servers take (`endpoints/servers.py`), and the turns of one in
order: the model sees the turns before, as it rewrote them. An answer that is no rewritten text fails its turn, with the
reason `refused` or `answer_cut` where the user can do something about it, else `rewriting_failed`. A request that the
servers reject fails its turn too. What is wrong with the servers raises `EndpointDown`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from polite_flamingo.endpoints.answer_store import Answer, AnswerStore
from polite_flamingo.endpoints.answers import Unfinished, without_reasoning
from polite_flamingo.endpoints.chat import ChatServers
from polite_flamingo.endpoints.connection import Refused
from polite_flamingo.endpoints.pictures import trial_image
from polite_flamingo.rewriters import chat_prompt
from polite_flamingo.rewriters.config import ChatConfig, EndpointConfig
from polite_flamingo.rewriters.dialogue import Ask, Dialogue, Text, polite_of, rewritten_text
from polite_flamingo.sample import IMAGE_MARK, BadSample, Sample
from polite_flamingo.seeds import seed_number
from polite_flamingo.usage import Usage


class EndpointRewriter:
    """Asks servers; see the module. Nothing is sent before the first call.

    Args:
        config: which servers, and what they are asked.
    """

    def __init__(self, config: EndpointConfig):
        self.config = config
        self.chats = ChatServers(config, "rewriter.endpoint", config.extra)
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
        found = [*self.chats.threads.map(work, samples)]  # cancels the rest if one raises
        for _, used in found:
            usage.update(used)
        return [texts for texts, _ in found]

    def metrics(self) -> Mapping[str, float]:
        """Return how many tries failed, and how many requests the servers get at once by now."""
        return self.chats.servers.metrics()

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
        body = request_body(config, [*self._opening, message], "")
        names: list[str] = []

        def check(answer: Answer) -> None:
            names.append(answer.model)
            text = without_reasoning(answer.text)
            if config.structured and not isinstance(text, Unfinished) and polite_of(text) is None:
                raise TypeError(f"not the JSON that `structured` asks for: {text[:60]!r}")

        problems = self.chats.try_out(body, check)
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
        try:
            answer = self.chats.ask(request_body(self.config, ask.messages, ask.key), usage, answers)
        except Refused as refused:
            return BadSample("rewriting_failed", f"{ask.key}: {refused}")
        usage["images"] += ask.images
        return rewritten_text(ask, answer.text, structured=self.config.structured)


def request_body(config: ChatConfig, messages: Sequence[chat_prompt.Message], key: str) -> dict[str, Any]:
    """Return a request to a chat server, without the model. Its seed depends on the sample's key."""
    body: dict[str, Any] = {
        "messages": list(messages),
        "max_tokens": config.max_tokens,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "seed": seed_number(f"{config.seed}/{key}"),
    }
    if config.structured:
        schema = {"name": "polite", "strict": True, "schema": chat_prompt.SCHEMA}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body
