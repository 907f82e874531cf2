"""The actor that samples several answers to each prompt: a thin shell around a policy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import ClassVar

from actors.base import RowActor
from actors.rows import Block
from polite_flamingo.endpoints.answer_store import AnswerStore
from polite_flamingo.faults.guard import Work
from polite_flamingo.preference.policies import Policy, load_policy
from polite_flamingo.preference.sampling import SamplingSection, facts_of, prompt_of, requests_of, with_answers
from polite_flamingo.sample import BadSample, Reason, Sample
from polite_flamingo.storage.ledger import OutputLayout
from polite_flamingo.usage import Usage


class SamplingActor(RowActor):
    """Holds one copy of the model that answers."""

    name = "sampling"
    reason: ClassVar[Reason] = "answering_failed"
    config: SamplingSection
    model: Policy

    def load(self, config: SamplingSection) -> Policy:
        """Load the model, or connect to its servers."""
        return load_policy(config)

    @contextmanager
    def working_on(self, block: Block, usage: Usage) -> Iterator[Work]:
        """Give `work`; what servers answer is kept until the shard is committed."""
        if self.config.kind != "endpoint":
            yield partial(self.work, usage=usage)
            return
        with AnswerStore(OutputLayout(root=self.settings.out).answers, block.name) as store:
            yield partial(self.work, usage=usage, store=store)

    def check(self, sample: Sample) -> None:
        """Raise `BadSample` for a sample that is no prompt."""
        prompt_of(sample)

    def work(self, samples: list[Sample], usage: Usage, store: AnswerStore | None = None) -> list[Sample | BadSample]:
        """Return each sample as a prompt with its answers."""
        prompts = [prompt_of(sample) for sample in samples]
        requests = [request for prompt in prompts for request in requests_of(prompt, self.config.answers)]
        found = iter(self.model.answers(requests, usage, store))
        facts = facts_of(self.config)
        return [
            with_answers(prompt, [next(found) for _ in range(self.config.answers)], self.config.least, facts)
            for prompt in prompts
        ]
