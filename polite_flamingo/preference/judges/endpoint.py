"""A chat model behind servers as a judge: reasons first, then five integers for each answer.

A reply that cannot be read is asked for once more, with its fault named. What then still has no ratings is a failed
request; a sample of which some answer has no rating at all has failed, with the reason of the fault. No rating is ever
assumed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from polite_flamingo.candidates import ATTRIBUTES, Candidate, Rating
from polite_flamingo.endpoints.answer_store import Answer, AnswerStore
from polite_flamingo.endpoints.connection import Refused
from polite_flamingo.endpoints.pictures import trial_image
from polite_flamingo.preference.judges import prompt
from polite_flamingo.preference.judges.base import with_ratings
from polite_flamingo.preference.judges.config import JudgeSection
from polite_flamingo.preference.judges.reading import Fault, Faulty, Reply, read_reply
from polite_flamingo.preference.judges.servers import NAME, TOP_LOGPROBS, Budget, JudgeServers, price_of
from polite_flamingo.preference.judges.showings import Showing, showings
from polite_flamingo.sample import IMAGE_MARK, BadSample, Reason, Sample, Turn
from polite_flamingo.usage import Usage, of_model

_REASONS: dict[Fault, Reason] = {"cut": "answer_cut", "withheld": "refused", "refused": "refused"}
"""Fault of a reply -> reason of the sample's quarantine; "judging_failed" for all others."""


@dataclass(kw_only=True)
class _Verdict:
    """What came of one showing: a reply, or a fault; and what it cost.

    Attributes:
        showing: what was asked.
        reply: the ratings; None if there are none.
        fault: kind of the first thing that went wrong, also if the second reply was good; None if nothing did.
        again: whether it was asked for again.
        failure: why the answers have no ratings.
        model: as it names itself.
        expected: attribute and expected rating, in the order of the reply.
        usage: of both requests.
    """

    showing: Showing
    reply: Reply | None = None
    fault: Fault | None = None
    again: bool = False
    failure: BadSample | None = None
    model: str = ""
    expected: Sequence[tuple[str, float]] = ()
    usage: Usage = field(default_factory=Usage)


class EndpointJudge:
    """Asks servers; nothing is sent before the first call.

    Args:
        config: of the judge.
        budget: counts what is paid for.
        named: see `JudgeServers`.
    """

    def __init__(self, config: JudgeSection, budget: Budget, named: str = ""):
        self.name = config.endpoint.model
        self.servers = JudgeServers(config.endpoint, budget, named)
        self._config, self._budget = config, budget

    def rate(
        self, samples: Sequence[Sample], usage: Usage, answers: AnswerStore | None = None
    ) -> list[Sample | BadSample]:
        """See `Judge.rate`."""
        asked = [
            (number, showing)
            for number, sample in enumerate(samples)
            for showing in showings(sample.key, len(sample.candidates), self._config)
        ]

        def ask(one: tuple[int, Showing]) -> _Verdict:
            return self._verdict(samples[one[0]], one[1], answers)

        verdicts: list[list[_Verdict]] = [[] for _ in samples]
        for (number, _), verdict in zip(asked, self.servers.threads.map(ask, asked), strict=True):
            usage.update(of_model(verdict.usage, NAME))
            verdicts[number].append(verdict)
        return [self._rated(sample, found) for sample, found in zip(samples, verdicts, strict=True)]

    def try_out(self) -> list[str]:
        """Ask every server about one answer, to notice a broken one before work begins; return lines to print.

        Raises:
            EndpointDown: none answers, or one rejects the key, the model or the request.
        """
        images = (trial_image(),) if self._config.endpoint.pictures else ()
        turn = Turn(instruction=IMAGE_MARK * len(images) + "What is the weather like?", response="sunny")
        trial = Sample(
            key="trial", dataset="trial", task="vqa", turns=(turn,), images=images,
            candidates=(Candidate(text="It is sunny."),),
        )  # fmt: skip
        replies: list[Reply | Faulty] = []
        messages = prompt.messages_of(self._config.endpoint, trial, (0,))
        problems = self.servers.try_out(
            self._body(messages, Showing(shown=(0,))), lambda answer: replies.append(read_reply(answer.text, 1))
        )
        endpoint = self._config.endpoint
        there = [url for url in endpoint.urls if url.rstrip("/") not in problems]
        said = [f"{self.servers.named or self.name} at {' and '.join(there)} judges"]
        said += [f"a trial reply cannot be used ({one.words}); each such is asked for once more"
                 for one in replies if isinstance(one, Faulty)]  # fmt: skip
        if not endpoint.pictures and not endpoint.reference:
            said.append("the judge sees neither pictures nor a reference: it can only guess what is correct about a "
                        "picture (judge.endpoint.reference)")  # fmt: skip
        return said + [f"{url} does not answer at present: {problem}" for url, problem in problems.items()]

    def _verdict(self, sample: Sample, showing: Showing, answers: AnswerStore | None) -> _Verdict:
        verdict = _Verdict(showing=showing)
        try:
            messages = prompt.messages_of(self._config.endpoint, sample, showing.shown, blind=self._config.blind)
            self._ask(verdict, messages, answers, sample)
        except BadSample as bad:
            verdict.failure, verdict.fault = BadSample(bad.reason, f"picture: {bad.detail}"), "picture"
        except Refused as refused:
            verdict.usage["requests"] += 1
            fault = _fault_of(refused)
            verdict.failure = _failure(sample, fault, str(refused))
            verdict.fault = verdict.fault or fault
        return verdict

    def _ask(
        self, verdict: _Verdict, messages: Sequence[prompt.Message], answers: AnswerStore | None, sample: Sample
    ) -> None:
        """Ask, and ask again if the reply cannot be read; note what came of it."""
        shown = len(verdict.showing.shown)
        answer = self._answer(messages, verdict, answers)
        read = read_reply(answer.text, shown)
        if isinstance(read, Faulty):
            verdict.fault, verdict.again = read.fault, True
            again = prompt.ask_again(messages, str(answer.text), read.words)
            answer = self._answer(again, verdict, answers)
            read = read_reply(answer.text, shown)
        if isinstance(read, Faulty):
            verdict.failure = _failure(sample, read.fault, f"{read.words}, also when asked again")
            return
        verdict.reply, verdict.model = read, answer.model or self.name
        verdict.expected = [(name, mean) for name, mean in answer.more.get("expected", ())]

    def _answer(self, messages: Sequence[prompt.Message], verdict: _Verdict, answers: AnswerStore | None) -> Answer:
        """Raises `Refused`, and `EndpointDown`."""
        sample = verdict.showing.sample
        answer = self.servers.ask(
            self._body(messages, verdict.showing), verdict.usage, answers, mark=f"#{sample}" if sample else ""
        )
        contents = [one["content"] for one in messages if isinstance(one["content"], list)]
        verdict.usage["images"] += sum(part["type"] == "image_url" for parts in contents for part in parts)
        return answer

    def _body(self, messages: Sequence[prompt.Message], showing: Showing) -> dict[str, Any]:
        config = self._config.endpoint
        body: dict[str, Any] = {
            "messages": list(messages),
            "max_tokens": config.max_tokens,
            "temperature": config.again_temperature if showing.sample else config.temperature,
        }
        if showing.sample or config.temperature:
            body["seed"] = self._config.seed + showing.sample
        if config.structured:
            body["response_format"] = prompt.response_format(len(showing.shown))
        if config.logprobs:
            body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        return body

    def _rated(self, sample: Sample, verdicts: Sequence[_Verdict]) -> Sample | BadSample:
        ratings: list[list[Rating]] = [[] for _ in sample.candidates]
        for verdict in verdicts:
            for place, rating in enumerate(self._ratings(verdict)):
                ratings[verdict.showing.shown[place]].append(rating)
        if not all(ratings):
            return next(one.failure for one in verdicts if one.failure is not None)
        rated = with_ratings(sample, ratings)
        name = next(one.judge for one in ratings[0])
        noted = {**rated.scores.get("judging", {}), name: _summary(verdicts)}
        return replace(rated, scores={**rated.scores, "judging": noted})

    def _ratings(self, verdict: _Verdict) -> list[Rating]:
        if verdict.reply is None:
            return []
        shown = len(verdict.showing.shown)
        used = verdict.usage
        expected = _by_place(verdict.expected, verdict.reply.places)
        cost = price_of(used, self._budget.prices) / shown
        return [
            Rating(
                judge=verdict.model, values=values, reason=reason, place=place, shown=shown,
                sample=verdict.showing.sample, expected=expected.get(place, {}), blind=self._config.blind,
                tokens=(used["prompt_tokens"] / shown, used["generated_tokens"] / shown), cost=cost,
            )
            for place, (values, reason) in enumerate(zip(verdict.reply.values, verdict.reply.reasons, strict=True))
        ]  # fmt: skip


def _by_place(expected: Sequence[tuple[str, float]], places: Sequence[int]) -> dict[int, dict[str, float]]:
    """Return place -> expected ratings; empty unless the reply has one for each rating, in the order of its entries."""
    size = len(ATTRIBUTES)
    if len(expected) != size * len(places):
        return {}
    groups = [dict(expected[start : start + size]) for start in range(0, len(expected), size)]
    complete = all(group.keys() == {*ATTRIBUTES} for group in groups)
    return dict(zip(places, groups, strict=True)) if complete else {}


def _fault_of(refused: Refused) -> Fault:
    if refused.trouble == "slow":
        return "timed out"
    return "rejected" if refused.status and refused.status < 500 and not refused.trouble else "no answer"


def _failure(sample: Sample, fault: Fault, words: str) -> BadSample:
    """Return why a sample is not rated; its detail begins with the fault, by which failures are counted."""
    return BadSample(_REASONS.get(fault, "judging_failed"), f"{fault}: {sample.key}: {words}")


def _summary(verdicts: Sequence[_Verdict]) -> dict[str, Any]:
    """Return what became of a sample's requests, JSON types only."""
    faults = Counter(one.fault for one in verdicts if one.fault)
    failed = Counter(one.fault for one in verdicts if one.reply is None)
    counts: Mapping[str, int] = {
        "asked": len(verdicts),
        "lenient": sum(one.reply is not None and one.reply.lenient for one in verdicts),
        "asked_again": sum(one.again for one in verdicts),
    }
    return {**counts, **({"faults": dict(faults)} if faults else {}), **({"failed": dict(failed)} if failed else {})}
