"""Fixtures of the training job: tiny models and a mixture for them."""

from tests.support.made_pairs import pair_mixture as pair_mixture
from tests.support.made_samples import mixture as mixture
from tests.support.tiny_flamingo import tiny as tiny
