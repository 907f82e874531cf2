"""Requests to chat servers, each for one text. What is paid for is kept, and never asked for again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from polite_flamingo.endpoints.answer_store import Answer, AnswerStore, digest
from polite_flamingo.endpoints.answers import ending, first_choice
from polite_flamingo.endpoints.config import ServersConfig
from polite_flamingo.endpoints.responses import refuse_other_model, usage_of
from polite_flamingo.endpoints.servers import Servers
from polite_flamingo.usage import Usage

PATH = "/chat/completions"


class ChatServers:
    """A client of the chat servers of one model; nothing is sent before the first call. Threads may share it.

    Args:
        config: the servers.
        section: the section of the profile that names them, such as scoring.judge.
        extra: further fields of each request; None removes a field.

    Attributes:
        servers: which are asked.
        threads: one for each request that they take at once.
    """

    def __init__(self, config: ServersConfig, section: str, extra: Mapping[str, Any]):
        self._config, self._section, self._extra = config, section, extra
        self.servers = Servers(config.urls, config, config.patience)
        self.threads = ThreadPoolExecutor(self.servers.concurrency, section)

    def ask(self, body: Mapping[str, Any], usage: Usage, answers: AnswerStore | None, mark: str = "") -> Answer:
        """Return the answer to a request.

        Args:
            body: without the model.
            usage: what the answer costs is added to it, also if an earlier attempt has paid for it.
            answers: those of earlier attempts; a new one is added.
            mark: tells apart requests with the same body, each of which is to have an answer of its own.

        Raises:
            Refused: the servers refuse the request.
            EndpointDown: they are down, or are not what the profile says.
        """
        whole = self._config.request(body, self._extra)
        name = digest(json.dumps(whole, sort_keys=True).encode() + mark.encode())
        answer = answers.get(name) if answers else None
        if answer is not None:
            usage["answers_reused"] += 1
        else:
            answer = self.send(whole)
            if answers:
                answers.add(name, answer)
        usage["requests"] += 1
        usage.update(answer.usage)
        return answer

    def send(self, whole: Mapping[str, Any]) -> Answer:
        """Send a request that is not paid for yet; raises like `ask`. Subclasses may count or limit them."""
        return self.servers.post(PATH, whole, self.read)

    def try_out(self, body: Mapping[str, Any], check: Callable[[Answer], object]) -> dict[str, str]:
        """Ask every server once, to notice a broken one before work begins; see `Servers.try_out`.

        Args:
            body: without the model.
            check: raises LookupError, TypeError or ValueError for an answer of another form.
        """
        return self.servers.try_out(PATH, self._config.request(body, self._extra), lambda said: check(self.read(said)))

    def read(self, response: Mapping[str, Any]) -> Answer:
        """Return what a response holds; subclasses may keep or refuse more of it.

        Raises:
            EndpointDown: another model has answered.
            LookupError, TypeError: the response has another form.
        """
        refuse_other_model(response, self._config.model, self._config.answers_as, self._section)
        model, text = response.get("model"), first_choice(response)
        valid = ending(text.encode("utf-8", "replace").decode(), getattr(text, "why", None))  # no half surrogate pairs
        return Answer(text=valid, model=model if isinstance(model, str) else "", usage=usage_of(response))
