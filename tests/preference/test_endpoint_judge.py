"""A chat model as a judge, on a real socket: what it is asked, what its replies mean and cost, and how it fails."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

from polite_flamingo.candidates import ATTRIBUTES
from polite_flamingo.cost import Prices, TokenPrices
from polite_flamingo.endpoints.answer_store import AnswerStore
from polite_flamingo.endpoints.connection import EndpointDown
from polite_flamingo.preference.judges.config import JudgeEndpoint, JudgeSection
from polite_flamingo.preference.judges.endpoint import EndpointJudge
from polite_flamingo.preference.judges.reading import FAULTS
from polite_flamingo.preference.judges.rule import RuleJudge, load_rule
from polite_flamingo.preference.judges.servers import Budget, CostReached
from polite_flamingo.preference.judges.showings import showings
from polite_flamingo.preference.rating import check_rateable, count_ratings, spent_so_far
from polite_flamingo.sample import BadSample, Image, Sample
from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.storage.location import location
from polite_flamingo.usage import Usage
from tests.preference.test_rule_judge import RULE
from tests.support.fake_filter_servers import serving
from tests.support.fake_rule_judge import JUDGE, READABLE, UNREADABLE, FakeRuleJudge
from tests.support.rated_shapes import with_answers

SAMPLES = with_answers(size=12)
PRICES = Prices(tokens={"judge": TokenPrices(prompt=1.0, generated=6.0)})
"""A reply of the fake costs 400 + 6 * 100 millionths."""
REPLY = 0.001
QUICK: dict[str, Any] = {"pause": 0.0, "longest_pause": 0.01, "attempts": 2, "patience": 0.0, "concurrency": 8}


@pytest.fixture
def server() -> Iterator[FakeRuleJudge]:
    with serving(FakeRuleJudge(SAMPLES)) as found:
        assert isinstance(found, FakeRuleJudge)
        yield found


def section(server: FakeRuleJudge, endpoint: dict[str, Any] | None = None, **settings: Any) -> JudgeSection:
    servers = JudgeEndpoint(**{"urls": (server.url,), "model": JUDGE, **QUICK, **(endpoint or {})})
    return JudgeSection(**{"endpoint": servers, "audit": 0.0, **settings})


def judge(server: FakeRuleJudge, budget: Budget | None = None, **settings: Any) -> EndpointJudge:
    return EndpointJudge(section(server, **settings), budget or Budget(PRICES))


def rated(found: Sequence[Sample | BadSample]) -> list[Sample]:
    assert all(isinstance(one, Sample) for one in found), found
    return [one for one in found if isinstance(one, Sample)]


def by_rule(sample: Sample) -> list[dict[str, float]]:
    [found] = rated(RuleJudge(load_rule(RULE)).rate([replace(sample, scores={})], Usage()))
    return [dict(one.ratings[-1].values) for one in found.candidates]


def test_over_http_the_rule_rates_as_in_process_and_each_answer_stands_in_each_place_once(
    server: FakeRuleJudge,
) -> None:
    usage = Usage()
    found = rated(judge(server, orders=3).rate(SAMPLES, usage))
    for sample in found:
        for answer, values in zip(sample.candidates, by_rule(sample), strict=True):
            assert [dict(one.values) for one in answer.ratings] == [values] * 3
            assert sorted(one.place for one in answer.ratings) == [0, 1, 2]
            for rating in answer.ratings:
                assert (rating.judge, rating.shown, rating.sample, rating.blind) == (JUDGE, 3, 0, False)
                assert rating.reason.endswith("well formed.") and rating.tokens == (400 / 3, 100 / 3)
                assert rating.cost == pytest.approx(REPLY / 3)
    assert usage == {
        "judge.requests": 36, "judge.prompt_tokens": 14_400, "judge.generated_tokens": 3_600, "judge.images": 36,
    }  # fmt: skip


def test_over_many_prompts_each_answer_comes_to_each_place_about_equally_often(server: FakeRuleJudge) -> None:
    config = section(server)
    first = Counter(showings(f"a/b/{number}", 3, config)[0].shown.index(0) for number in range(3000))
    assert len(first) == 3 and min(first.values()) > 900
    assert len(showings("a/b/0", 3, replace(config, orders=9))) == 3, "more orders than answers repeat"


def test_the_judge_sees_pictures_question_and_answers_and_is_bound_to_reason_first(server: FakeRuleJudge) -> None:
    judge(server).rate(SAMPLES[:1], Usage())
    [body] = server.bodies
    system, user = body["messages"]
    assert "you see the pictures" in system["content"] and "four" not in system["content"]
    assert [part["type"] for part in user["content"]] == ["image_url", "text"]
    schema = body["response_format"]["json_schema"]["schema"]["properties"]["answers"]
    assert list(schema["items"]["properties"]) == ["answer", "reason", *ATTRIBUTES], "reasons before ratings"
    assert schema["minItems"] == schema["maxItems"] == 3 and body["temperature"] == 0.0 and "seed" not in body


def test_a_language_model_is_shown_the_reference_in_place_of_pictures(server: FakeRuleJudge) -> None:
    server.samples = {(question, b""): sample for (question, _), sample in server.samples.items()}
    [_] = rated(
        judge(server, endpoint={"pictures": False, "reference": True, "structured": False}).rate(SAMPLES[:1], Usage())
    )
    [body] = server.bodies
    said = body["messages"][1]["content"]
    assert isinstance(said, str) and f"Reference: {SAMPLES[0].response}" in said and "response_format" not in body
    assert "cannot see the pictures" in body["messages"][0]["content"]


@pytest.mark.parametrize("way", READABLE)
def test_a_reply_in_another_form_is_read_without_asking_again(way: str, server: FakeRuleJudge) -> None:
    server.spoilt, server.ways = 1.0, {way: READABLE[way]}
    [sample] = rated(judge(server).rate(SAMPLES[:1], Usage()))
    assert [dict(one.ratings[0].values) for one in sample.candidates] == by_rule(sample)
    assert len(server.bodies) == 1 and sample.scores["judging"][JUDGE]["asked_again"] == 0


@pytest.mark.parametrize("way", UNREADABLE)
def test_a_reply_without_ratings_is_asked_for_once_more_with_its_fault_and_then_typed(
    way: str, server: FakeRuleJudge
) -> None:
    fault, spoil = UNREADABLE[way]
    server.spoilt, server.ways = 1.0, {way: spoil}
    [found] = judge(server).rate(SAMPLES[:1], Usage())
    assert isinstance(found, BadSample), "no rating is ever assumed"
    assert found.detail.startswith(f"{fault}: {SAMPLES[0].key}: ") and found.detail.endswith("also when asked again")
    assert found.reason == {"cut": "answer_cut", "withheld": "refused", "refused": "refused"}.get(
        fault, "judging_failed"
    )
    assert len(server.bodies) == 2
    *_, said, again = server.bodies[1]["messages"]
    assert said["role"] == "assistant" and "cannot be used: " in again["content"]


def test_of_many_malformed_replies_all_are_repaired_or_typed(server: FakeRuleJudge) -> None:
    samples = with_answers(size=300, seed=5)
    server.samples |= FakeRuleJudge(samples).samples
    server.spoilt = 0.3
    found = judge(server).rate(samples, Usage())
    kept, failed = (
        [one for one in found if isinstance(one, Sample)],
        [one for one in found if isinstance(one, BadSample)],
    )
    assert len(kept) + len(failed) == 300 and failed and len(server.counts) == len(READABLE) + len(UNREADABLE)
    for sample in kept:
        assert [dict(one.ratings[0].values) for one in sample.candidates] == by_rule(sample)
    assert all(one.detail.partition(":")[0] in FAULTS for one in failed)
    counts = count_ratings([*kept])
    bad = sum(number for way, number in server.counts.items() if way in UNREADABLE)
    read = sum(number for way, number in server.counts.items() if way in READABLE and way != "shuffled")
    assert counts["ratings"]["asked_again"] + 2 * len(failed) == bad, "each was asked for again, once"
    reasoned = sum(one.scores["judging"][JUDGE]["lenient"] for one in kept)
    assert 0 < reasoned <= read
    assert sum(counts["faults"].values()) == counts["ratings"]["asked_again"]


def test_one_good_order_of_several_is_enough_and_what_failed_is_noted(server: FakeRuleJudge) -> None:
    server.ways, server.spoilt = {"prose": UNREADABLE["prose"][1]}, 0.6
    found = judge(server, orders=3).rate(SAMPLES, Usage())
    noted = [one.scores["judging"][JUDGE] for one in found if isinstance(one, Sample)]
    some = [one for one in noted if one.get("failed")]
    assert some and all(one["failed"]["prose"] < 3 for one in some)
    for sample in found:
        if isinstance(sample, Sample):
            missing = sample.scores["judging"][JUDGE].get("failed", {}).get("prose", 0)
            assert {len(one.ratings) for one in sample.candidates} == {3 - missing}


def test_an_audited_prompt_is_asked_several_times_and_each_answer_alone(server: FakeRuleJudge) -> None:
    found = rated(judge(server, audit=0.4, audit_samples=3).rate(SAMPLES, Usage()))
    audited = [one for one in found if len(one.candidates[0].ratings) > 1]
    assert 0 < len(audited) < len(found), "a share of them"
    for sample in audited:
        for answer in sample.candidates:
            assert [(one.shown, one.sample) for one in answer.ratings] == [(3, 0), (3, 1), (3, 2), (1, 0)]
    warm = [body for body in server.bodies if body["temperature"] > 0]
    assert len(warm) == 2 * len(audited) and {body["seed"] for body in warm} == {1, 2}


def test_with_orders_0_and_with_one_answer_each_is_shown_alone(server: FakeRuleJudge) -> None:
    [alone] = rated(judge(server, orders=0).rate(SAMPLES[:1], Usage()))
    single = replace(SAMPLES[1], candidates=SAMPLES[1].candidates[:1])
    [one] = rated(judge(server, orders=4).rate([single], Usage()))
    assert [rating.shown for sample in (alone, one) for answer in sample.candidates for rating in answer.ratings] == [
        1
    ] * 4


def test_log_probabilities_become_expected_ratings(server: FakeRuleJudge) -> None:
    server.ways, server.spoilt = {"shuffled": READABLE["shuffled"]}, 0.5
    for sample in rated(judge(server, endpoint={"logprobs": True}).rate(SAMPLES[:4], Usage())):
        for answer in sample.candidates:
            [rating] = answer.ratings
            means = {name: 0.75 * value + 0.25 * abs(value - 1) for name, value in rating.values.items()}
            assert rating.expected == pytest.approx(means, abs=1e-5)
            assert all(isinstance(value, int) for value in rating.values.values()), "the integers stay"
    assert server.bodies[0]["top_logprobs"] == 20 and server.counts["shuffled"]


def test_a_blind_judge_gets_black_pictures_of_the_same_size(server: FakeRuleJudge) -> None:
    server.judged = lambda body: ("", "stop")  # type: ignore[method-assign]
    judge(server, blind=True).rate(SAMPLES[:1], Usage())
    url = server.bodies[0]["messages"][1]["content"][0]["image_url"]["url"]
    picture = Pillow.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    assert picture.size == Pillow.open(io.BytesIO(SAMPLES[0].images[0].data)).size
    assert picture.convert("L").getextrema() == (0, 0)


def test_ratings_are_added_to_those_of_other_judges(server: FakeRuleJudge) -> None:
    ruled = rated(RuleJudge(load_rule(RULE)).rate(SAMPLES[:2], Usage()))
    for sample in rated(judge(server).rate(ruled, Usage())):
        assert [[one.judge for one in answer.ratings] for answer in sample.candidates] == [["rule", JUDGE]] * 3


def test_what_was_paid_for_is_not_asked_again(server: FakeRuleJudge, tmp_path: Path) -> None:
    server.spoilt, kept = 0.4, location(tmp_path) / "answers"
    first, again = Usage(), Usage()
    settings: dict[str, Any] = {"orders": 2, "audit": 0.3, "endpoint": {"logprobs": True}}
    with AnswerStore(kept, "s0") as answers:
        found = judge(server, **settings).rate(SAMPLES, first, answers)
    asked = len(server.bodies)
    with AnswerStore(kept, "s0") as answers:
        assert judge(server, **settings).rate(SAMPLES, again, answers) == found
    assert len(server.bodies) == asked == first["judge.requests"], "nothing is sent, bad replies included"
    assert again == first + Usage({"judge.answers_reused": asked})


def test_a_limit_of_cost_stops_in_time_and_the_next_attempt_goes_on_from_there(
    server: FakeRuleJudge, tmp_path: Path
) -> None:
    layout, limit = OutputLayout(root=tmp_path), 5.5 * REPLY
    says = r"\$0\.005.* of judge\.max_cost \$0\.0055.*raise judge\.max_cost"
    with pytest.raises(CostReached, match=says), AnswerStore(layout.answers, "s0") as answers:
        judge(server, Budget(PRICES, limit), endpoint={"concurrency": 1}).rate(SAMPLES, Usage(), answers)
    assert len(server.bodies) == 5, "the sixth would pass the limit"
    spent = spent_so_far(layout, PRICES)
    assert spent == pytest.approx(5 * REPLY)
    with AnswerStore(layout.answers, "s0") as answers:
        found = judge(server, Budget(PRICES, 12.5 * REPLY, spent)).rate(SAMPLES, Usage(), answers)
    assert len(rated(found)) == 12 == len(server.bodies), "each was paid for once"


def test_threads_together_stay_within_the_limit(server: FakeRuleJudge) -> None:
    budget = Budget(PRICES, 7 * REPLY)
    budget.spent = budget._dearest = REPLY  # one reply came before
    with pytest.raises(CostReached):
        judge(server, budget).rate(SAMPLES, Usage())
    assert len(server.bodies) <= 6 and budget.spent <= 7 * REPLY + 1e-9


def test_a_judge_that_becomes_another_ends_the_job_before_its_ratings_mix(
    server: FakeRuleJudge, tmp_path: Path
) -> None:
    server.names, server.change_after = (f"{JUDGE}-2026-01-01", f"{JUDGE}-2026-05-05"), 4
    one = judge(server, endpoint={"concurrency": 1})
    kept = location(tmp_path) / "answers"
    says = "2026-01-01 answered before, now judge-9b-2026-05-05"
    with pytest.raises(EndpointDown, match=says), AnswerStore(kept, "s0") as answers:
        one.rate(SAMPLES, Usage(), answers)
    lines = [line for file in (tmp_path / "answers").rglob("*.jsonl") for line in file.read_text().splitlines()]
    assert {json.loads(line)["model"] for line in lines} == {f"{JUDGE}-2026-01-01"}
    later = EndpointJudge(section(server), Budget(PRICES), named=f"{JUDGE}-2026-01-01")
    with pytest.raises(EndpointDown, match="the judge has changed"):
        later.try_out()


def test_what_the_server_does_not_answer_is_typed_by_why(server: FakeRuleJudge) -> None:
    status = {SAMPLES[0].images[0].data: 400, SAMPLES[1].images[0].data: 500}

    def status_of(body: dict[str, Any]) -> int:
        url = body["messages"][1]["content"][0]["image_url"]["url"]
        return status.get(base64.b64decode(url.partition(",")[2]), 0)

    server.status_of = status_of
    broken = replace(SAMPLES[2], images=(Image(extension="png", data=b"none"),))
    rejected, unanswered, unseen, good = judge(server).rate([*SAMPLES[:2], broken, SAMPLES[3]], Usage())
    assert isinstance(rejected, BadSample) and rejected.detail.startswith("rejected: ")
    assert isinstance(unanswered, BadSample) and unanswered.detail.startswith("no answer: ")
    assert isinstance(unseen, BadSample) and unseen.reason == "corrupt_image"
    assert isinstance(good, Sample)


def test_a_judge_that_is_too_slow_is_typed_and_one_that_always_is_ends_the_job(server: FakeRuleJudge) -> None:
    from threading import Event

    released = Event()
    server.hold = lambda: released.wait(60)
    try:
        slow = {"timeout": 0.05, "attempts": 1}
        [found] = judge(server, endpoint=slow).rate(SAMPLES[:1], Usage())
        assert isinstance(found, BadSample) and found.detail.startswith("timed out: ")
        with pytest.raises(EndpointDown, match="requests in a row"):
            judge(server, endpoint={**slow, "give_up_after": 2}).rate(SAMPLES, Usage())
    finally:
        released.set()


def test_a_judge_of_its_own_answers_is_refused_unless_that_is_allowed(server: FakeRuleJudge) -> None:
    def answered_by(model: str) -> Sample:
        return replace(SAMPLES[0], candidates=tuple(replace(one, model=model) for one in SAMPLES[0].candidates))

    config = section(server)
    for own in (JUDGE, f"org/{JUDGE.upper()}", f"{JUDGE}-2026-01-01", f"{JUDGE}.gguf"):
        with pytest.raises(BadSample, match="would judge its own answers"):
            check_rateable(answered_by(own), config)
        check_rateable(answered_by(own), replace(config, allow_same_model=True))
    for other in ("judge-9b-mini", "policy", ""):
        check_rateable(answered_by(other), config)
    with pytest.raises(BadSample, match="alias"):
        check_rateable(answered_by("alias"), config, named="alias")
    with pytest.raises(BadSample, match="no answers to rate"):
        check_rateable(replace(SAMPLES[0], candidates=()), config)


def test_the_trial_says_who_judges_and_what_will_be_trouble(server: FakeRuleJudge) -> None:
    assert judge(server).try_out() == [f"{JUDGE} at {server.url} judges"]
    server.judged = lambda body: ("three of four", "stop")  # type: ignore[method-assign]
    blind = judge(server, endpoint={"pictures": False})
    [_, unusable, guesses] = blind.try_out()
    assert "a trial reply cannot be used (no ratings in JSON: 'three of four')" in unusable and "guess" in guesses
    server.status_of = lambda body: 400
    with pytest.raises(EndpointDown, match="does not answer as it should"):
        judge(server).try_out()
