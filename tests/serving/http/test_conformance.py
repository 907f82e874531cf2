"""The OpenAPI document against the application: what it promises holds, and nothing it allows breaks the server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from polite_flamingo.sample import BadSample, Sample
from serving.backends.engine_host import EngineHost
from serving.backends.local import LocalBackend
from serving.server.app import create_app
from tests.support.chat_service import CHAT, chat_config
from tests.support.patience import PATIENCE
from tests.support.tiny_flamingo import Tiny

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
)


STEADY = settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


class NoFilters:
    def score(self, samples: Sequence[Sample]) -> list[dict[str, Any] | BadSample]:
        return [BadSample("unsupported", "there are no filters here") for _ in samples]


@pytest.fixture(scope="module")
def app(tiny: Tiny) -> Iterator[FastAPI]:
    config = chat_config(tiny)
    model = tiny.load()
    hosts = [
        EngineHost(CHAT, config.serving.chat, chat=True, model=model, flush_seconds=0.0),
        EngineHost(config.serving.rewriter_name, config.rewriter, chat=False, model=model, flush_seconds=0.0),
    ]
    yield create_app(config, LocalBackend(hosts, NoFilters()))


@pytest.fixture(scope="module")
def document(app: FastAPI) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", app)


def test_every_operation_does_as_the_document_says(document: Any) -> None:
    """Send requests that the document allows, and others, which must be refused."""
    tried, failures = [], []
    for found in document.get_all_operations():
        operation = found.ok()
        modes = [GenerationMode.POSITIVE] + [GenerationMode.NEGATIVE] * bool(operation.body or operation.query)
        for mode in modes:

            @STEADY
            @given(case=operation.as_strategy(generation_mode=mode))
            def try_it(case: Any) -> None:
                case.call_and_validate(checks=CHECKS, timeout=PATIENCE)  # schemathesis gives ten seconds

            tried.append((operation.label, mode.value))
            try:
                try_it()
            except (Exception, BaseExceptionGroup) as failure:
                failures.append(f"{operation.label}, {mode.value}: {failure}")
    assert not failures, "\n".join(failures)
    assert {("GET /v1/models", "positive"), ("POST /v1/chat/completions", "negative")} <= {*tried}


def test_the_document_says_how_to_chat(app: FastAPI) -> None:
    document = app.openapi()
    chat = document["paths"]["/v1/chat/completions"]["post"]
    assert chat["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/ChatRequest")
    assert set(chat["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
    assert chat["responses"]["400"]["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorResponse")
    assert "422" not in chat["responses"]
    fields = document["components"]["schemas"]["ChatRequest"]["properties"]
    assert fields["logprobs"]["enum"] == [None, False] and fields["messages"]["examples"]
