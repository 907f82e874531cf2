"""Polite Flamingo online: what /v1/rewrite gives is what a build would have written, scored and judged."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from polite_flamingo.filters.scorer import Scorer
from polite_flamingo.filters.thresholds import Thresholds, apply_thresholds, first_failure
from polite_flamingo.rewriters.flamingo import Rewriter
from polite_flamingo.sample import BadSample, Sample
from polite_flamingo.selection.select_shard import select_shard
from serving.rewrite.protocol import Content, RewriteOne
from serving.rewrite.rewriting import infer_task, make_result, make_sample
from tests.support.paused_engine import hold
from tests.support.rewriting_service import SCORING, Service, data_url, limited, png, service_config, with_service
from tests.support.tiny_flamingo import Tiny

if TYPE_CHECKING:
    from polite_flamingo.flamingo.model.model import FlamingoModel

CONTENTS = [
    {"instruction": "What colour is it?", "raw": "Answer: red", "image": data_url(png(1))},
    {"instruction": "Describe the image in detail.", "raw": "a red circle\na dog", "image": data_url(png(2))},
    {"instruction": "<image><image>What has changed?", "raw": "the dog is gone",
     "images": [data_url(png(3)), data_url(png(4))], "task": "change_captioning"},
    {"instruction": "How long does an egg boil?", "raw": "8 minutes"},
    {"instruction": "What is this?", "raw": "a photo of a dog.", "image": data_url(png(1)), "task": "classification"},
]  # fmt: skip


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(SCORING)


def samples_of(contents: list[dict[str, Any]]) -> list[Sample]:
    """Return samples as the service makes them, from the pictures themselves."""
    pictures = {data_url(png(shade)): png(shade) for shade in range(10)}
    found = []
    for content in contents:
        urls = content.get("images", [content["image"]] if "image" in content else [])
        found.append(make_sample(Content(**content), [pictures[url] for url in urls]))
    return found


def post(service: Service, body: Any) -> Any:
    return service.client.post("/v1/rewrite", json=body)


@pytest.mark.parametrize(
    "generation",
    [{}, {"do_sample": True, "temperature": 0.8, "top_k": 20, "top_p": 0.9, "no_repeat_ngram_size": 3, "seed": 5}],
    ids=["greedy", "drawn"],
)
def test_text_scores_and_verdicts_are_those_of_a_build(
    tiny: Tiny, model_v2: FlamingoModel, scorer: Scorer, generation: dict[str, Any]
) -> None:
    """With the paper's sampling too: the seed depends on the key, as in a build."""
    config = service_config(tiny, **generation)
    samples = samples_of(CONTENTS)
    texts = Rewriter(config.rewriter, model_v2).texts(samples)
    expected = [replace(one, rewritten=text) for one, text in zip(samples, texts, strict=True) if isinstance(text, str)]
    assert len({one.rewritten for one in expected}) == len(CONTENTS), "all the same text: the test shows little"

    async def use(service: Service) -> None:
        answer = (await post(service, {"items": CONTENTS})).json()
        assert answer["object"] == "list" and [one["index"] for one in answer["data"]] == list(range(5))
        assert len(service.backend.scored) == 1, "scored in one call"
        for one, scores, item in zip(expected, scorer.score(expected), answer["data"], strict=True):
            assert not isinstance(scores, BadSample)
            result, judged = item["result"], replace(one, scores=scores)
            assert item["error"] is None
            assert (result["rewritten"], result["task"]) == (one.rewritten, one.task)
            assert result["scores"] == scores
            verdicts = apply_thresholds(judged, config.thresholds)
            assert [(v["filter"], v["keep"], v["reason"], v["score"]) for v in result["verdicts"]] == [
                (v.filter, v.keep, v.reason, v.score) for v in verdicts
            ]
            failure = first_failure(verdicts)
            assert (result["kept"], result["reason"]) == (failure is None, failure.reason if failure else "")
            assert (result["reward_before"], result["reward_after"]) == (scores["reward_raw"], scores["reward"])
        assert answer["usage"]["completion_tokens"] == sum(
            one["result"]["usage"]["completion_tokens"] for one in answer["data"]
        )
        alone = (await post(service, CONTENTS[0])).json()
        for name in ("rewritten", "scores", "verdicts", "task", "usage"):
            assert alone[name] == answer["data"][0]["result"][name], name

    with_service(config, model_v2, scorer, use)


def test_paragraphs_of_a_kept_caption_that_do_not_fit_are_taken_out_as_by_a_selection() -> None:
    [caption] = samples_of(CONTENTS[1:2])
    text = "There is a red circle here.\n\nA spaceship lands on it.\n\nIt is a circle."
    scores = {
        "words": 14, "characters": 70, "same_text": False, "rouge_l": 0.4, "repetition": 0.0, "reward_raw": -1.0,
        "reward": 2.0, "sts": 0.7, "clip_paragraphs": [30.0, 12.5, 20.0],
    }  # fmt: skip
    sample = replace(caption, rewritten=text, scores=scores)
    result = make_result(sample, "polite-flamingo", Thresholds())
    assert result.kept and result.rewritten == text
    assert result.response == "There is a red circle here.\n\nIt is a circle."
    assert [(one.score, one.text) for one in result.removed_paragraphs] == [(12.5, "A spaceship lands on it.")]
    assert select_shard([sample], shard="s", thresholds=Thresholds()).kept[0].rewritten == result.response
    clip = next(one for one in result.verdicts if one.filter == "clip")
    assert (clip.rule, clip.score, clip.threshold, clip.keep) == ("kept from 17", 30.0, 17.0, True)
    rejected = make_result(replace(sample, scores=scores | {"sts": 0.1}), "polite-flamingo", Thresholds())
    assert (rejected.kept, rejected.reason, rejected.response) == (False, "sts_low", text)
    unscored = make_result(replace(sample, scores=scores | {"reward": None}), "polite-flamingo", Thresholds())
    assert (unscored.reason, unscored.verdicts[-1].filter, unscored.verdicts[-1].score) == ("unscored", "reward", None)


def test_of_many_each_fails_alone_and_says_why(tiny: Tiny, model_v2: FlamingoModel, scorer: Scorer) -> None:
    bad = [
        {"instruction": "What?", "raw": "Answer: red", "image": data_url(b"no picture at all")},
        {"instruction": "What?", "raw": "Answer: red", "task": "vqa"},
        {"instruction": "<image><image>What?", "raw": "Answer: red", "image": data_url(png(1))},
        {"instruction": "What?", "raw": "see <image>", "image": data_url(png(1))},
        {"instruction": "Why?", "raw": "on and on " * 180, "image": data_url(png(1))},
    ]

    async def use(service: Service) -> None:
        answer = (await post(service, {"items": [CONTENTS[0], *bad, CONTENTS[3]]})).json()
        assert [one["error"] is None for one in answer["data"]] == [True, *[False] * 5, True]
        assert [one["result"] is None for one in answer["data"]] == [False, *[True] * 5, False]
        assert [one["error"]["code"] for one in answer["data"][1:-1]] == [
            "invalid_image", "missing_image", "missing_image", "bad_field", "context_length_exceeded",
        ]  # fmt: skip
        alone = await post(service, bad[0])
        assert alone.status_code == 400 and alone.json()["error"]["code"] == "invalid_image"

    with_service(service_config(tiny), model_v2, scorer, use)


class Fragile(Scorer):
    """The filters' models, which fail on one text."""

    def score(self, samples: Sequence[Sample]) -> list[dict[str, Any] | BadSample]:
        if any("crash" in sample.response for sample in samples):
            raise RuntimeError(f"index out of range in {samples[0].response}")
        return super().score(samples)


def test_a_text_that_the_filters_fail_on_fails_alone_and_it_is_our_fault(tiny: Tiny, model_v2: FlamingoModel) -> None:
    crash = CONTENTS[3] | {"raw": "crash"}

    async def use(service: Service) -> None:
        one, two, three = (await post(service, {"items": [CONTENTS[3], crash, CONTENTS[3]]})).json()["data"]
        assert one["result"]["scores"] == three["result"]["scores"] and "words" in one["result"]["scores"]
        assert (two["error"]["code"], two["error"]["type"], two["result"]) == ("scoring_failed", "server_error", None)
        alone = await post(service, crash)
        assert alone.status_code == 500 and "out of range" not in alone.text + str(two)
        assert (await post(service, crash | {"scores": False})).status_code == 200

    with_service(service_config(tiny), model_v2, Fragile(SCORING), use)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"{", 400, "invalid JSON"),
        (b'{"instruction": NaN}', 400, "invalid JSON"),
        (b'{"instruction": "\\ud800"}', 400, "invalid JSON"),
        (b"[]", 400, "must be a JSON object"),
        ({"instruction": "What?"}, 400, "raw: Field required"),
        ({"items": []}, 400, "items"),
        ({"items": [{"instruction": "a", "raw": "b"}, {"instruction": 3, "raw": "b"}]}, 400, "items.1.instruction"),
        ({"items": [{"instruction": "a", "raw": "b"}] * 41}, 400, "the limit is 40 (limits.rewrites)"),
        ({"instruction": "a", "raw": "b", "tone": "rude"}, 400, "tone"),
        ({"instruction": "a", "raw": "b" * 2001}, 400, "the limit is 2000 (limits.text_characters)"),
        ({"instruction": "a", "raw": "b", "images": ["data:,"] * 5}, 400, "the limit is 4 (limits.images)"),
        ({"instruction": "a", "raw": "b", "image": "data:,", "images": []}, 400, "give one of them"),
        ({"instruction": "a", "raw": "b", "model": "clever-flamingo"}, 404, "use 'polite-flamingo'"),
    ],
)
def test_what_is_no_rewriting_is_refused_in_one_line(
    tiny: Tiny, model_v2: FlamingoModel, body: Any, status: int, says: str
) -> None:
    async def use(service: Service) -> None:
        sent: Any = {"content": body} if isinstance(body, bytes) else {"json": body}
        response = await service.client.post("/v1/rewrite", **sent)
        error = response.json()["error"]
        assert response.status_code == status and says in error["message"] and "\n" not in error["message"]
        assert not service.backend.asked

    with_service(service_config(tiny), model_v2, None, use)


def test_options_overrule_the_servers_settings(tiny: Tiny, model_v2: FlamingoModel) -> None:
    async def use(service: Service) -> None:
        one = CONTENTS[3] | {"scores": False}
        plain = (await post(service, one)).json()
        short = (await post(service, one | {"max_tokens": 3})).json()
        assert (short["usage"]["completion_tokens"], short["finish_reason"]) == (3, "length")
        assert plain["rewritten"].startswith(short["rewritten"])
        drawn = [
            (await post(service, one | {"temperature": 2, "seed": seed})).json()["rewritten"] for seed in (1, 2, 1)
        ]
        assert drawn[0] == drawn[2] != drawn[1]
        assert plain["kept"] is None and plain["verdicts"] == [] and plain["response"] == plain["rewritten"]
        assert not service.backend.scored

    with_service(service_config(tiny), model_v2, None, use)


def test_without_filters_the_call_says_so(tiny: Tiny, model_v2: FlamingoModel) -> None:
    async def use(service: Service) -> None:
        response = await post(service, CONTENTS[3])
        assert response.status_code == 503 and response.json()["error"]["code"] == "no_filters"

    with_service(service_config(tiny), model_v2, None, use)


def test_a_client_that_goes_away_frees_its_slots(tiny: Tiny, model_v2: FlamingoModel) -> None:
    config = limited(service_config(tiny, max_new_tokens=400), seconds=0)

    async def use(service: Service) -> None:
        async def streams() -> float:
            return sum(one["streams"] for one in (await service.backend.engine_metrics()).values())

        first = True

        async def receive() -> dict[str, Any]:
            nonlocal first
            if first:
                first = False
                return {"type": "http.request", "body": RewriteOne(**CONTENTS[3]).model_dump_json().encode()}
            while not await streams():
                await asyncio.sleep(0.001)
            return {"type": "http.disconnect"}

        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/v1/rewrite", "headers": [], "query_string": b""}
        [host] = service.backend._hosts.values()
        hold(host._engines[0], threading.Event())  # else the answer may be whole before anybody has left
        await service.app(scope, receive, send)
        while await streams():
            await asyncio.sleep(0.001)
        assert sent[0]["status"] == 499
        assert not service.backend.scored

    with_service(config, model_v2, None, use)


@pytest.mark.parametrize(
    ("instruction", "raw", "images", "task"),
    [
        ("Describe the image in detail.", "a dog", 1, "captioning"),
        ("<image>What does the picture show?", "a dog", 1, "captioning"),
        ("What is this?", "a photo of a dog.", 1, "classification"),
        ("What has changed between the two images?", "the dog is gone", 2, "change_captioning"),
        ("Compare them.", "the dog is gone", 2, "change_captioning"),
        ("Compare it.", "the dog is gone", 1, "captioning"),
        ("Which one is red?", "the first", 2, "vqa"),
        ("Is it red?", "yes", 1, "vqa"),
        ("Say whether it is red.", "Answer: yes", 1, "vqa"),
        ("Is it red?", "Answer: yes\nRationale: it is painted red", 1, "vqa_rationale"),
        ("Is a tomato red?", "yes", 0, "text"),
    ],
)
def test_the_task_is_inferred(instruction: str, raw: str, images: int, task: str) -> None:
    assert infer_task(instruction, raw, images) == task


def test_the_document_shows_both_ways_to_ask(tiny: Tiny, model_v2: FlamingoModel) -> None:
    async def use(service: Service) -> None:
        document = (await service.client.get("/openapi.json")).json()
        schema = document["paths"]["/v1/rewrite"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        one, many = schema["anyOf"]
        assert one["required"] == ["instruction", "raw"] and many["required"] == ["items"]
        assert many["properties"]["items"]["items"]["required"] == ["instruction", "raw"]
        assert "$defs" not in many and "$ref" not in str(schema)

    with_service(service_config(tiny), model_v2, None, use)
