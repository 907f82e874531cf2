"""Requests in exactly the form that evaluators send are answered; docs/serving.md describes them."""

from __future__ import annotations

import base64
import io
import json
import urllib.request
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image as Pillow

from polite_flamingo.endpoints.client import ServerConfig
from polite_flamingo.evaluation.endpoint_contestant import EndpointContestant
from polite_flamingo.sample import Image, Sample, Turn
from tests.support.chat_service import CHAT, ChatService, chat_config, data_url, image, picture, running, text, user
from tests.support.patience import PATIENCE
from tests.support.tiny_flamingo import Tiny

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel


@pytest.fixture(scope="module")
def service(tiny: Tiny, model_v2: FlamingoModel) -> Iterator[ChatService]:
    with running(chat_config(tiny), model_v2) as found:
        yield found


def post(service: ChatService, payload: dict[str, Any], **headers: str) -> dict[str, Any]:
    sent = {"Content-Type": "application/json", **headers}
    request = urllib.request.Request(f"{service.url}/v1/chat/completions", json.dumps(payload).encode(), sent)
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def jpeg() -> str:
    buffer = io.BytesIO()
    Pillow.new("RGB", (20, 30), (200, 10, 10)).save(buffer, "JPEG")
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def test_lmms_eval_may_ask_for_more_tokens_than_the_model_reads(service: ChatService) -> None:
    """1,024 by default; a model of 512 positions answers as far as it can."""
    asked = user(image(picture(1)), image(picture(2)), text("What has changed?"))
    payload = {
        "messages": [asked],
        "model": CHAT,
        "max_tokens": 1024,
        "temperature": 0,
        "top_p": 1.0,
        "n": 1,
        "seed": 1,
    }
    answer = service.client().chat.completions.create(**payload)
    assert answer.usage.total_tokens <= 512 and answer.choices[0].finish_reason in ("stop", "length")
    assert service.backend.asked[-1].params.max_new_tokens == 1024


def test_vlmevalkit_sends_no_text_but_parts_and_details_of_images(service: ChatService) -> None:
    shown = {"type": "image_url", "image_url": {"url": jpeg(), "detail": "low"}}
    patched = {"type": "image_url", "image_url": {"url": jpeg(), "max_dynamic_patch": 6}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [shown, patched, text("Which is larger?")]},
    ]
    payload = {"model": CHAT, "messages": messages, "n": 1, "temperature": 0, "max_tokens": 2048}
    answer = post(service, payload, Authorization="Bearer sk-123456")
    assert isinstance(answer["choices"][0]["message"]["content"], str)
    only_text = {**payload, "messages": [{"role": "user", "content": [text("hello")]}]}
    assert post(service, only_text)["choices"][0]["finish_reason"] in ("stop", "length")


def test_our_own_evaluation_asks_the_service_as_any_endpoint(service: ChatService) -> None:
    pictures = (Image(extension="png", data=picture(3)), Image(extension="png", data=picture(4)))
    samples = [
        Sample(
            key=f"d/val/{number}",
            dataset="d",
            task="vqa",
            turns=(Turn(instruction="<image>What <image>is it?" if shown else "Why?", response="Answer: red"),),
            images=shown,
        )
        for number, shown in enumerate((pictures, ()))
    ]
    contestant = EndpointContestant(CHAT, f"{service.url}/v1", max_tokens=600, config=ServerConfig())
    answers = contestant.answer(samples)
    assert all(isinstance(one, str) for one in answers), answers
    asked = {one.exchanges[-1].images: one for one in service.backend.asked[-2:]}
    assert asked[2].images == (picture(3), picture(4))
    parts = [{"type": "image_url", "image_url": {"url": data_url(picture(3))}}, text("What")]
    parts += [{"type": "image_url", "image_url": {"url": data_url(picture(4))}}, text("is it?")]
    alone = service.client().chat.completions.create(
        model=CHAT, messages=[user(*parts)], max_tokens=600, temperature=0
    )  # fmt: skip
    assert alone.choices[0].message.content.strip() == answers[0]
