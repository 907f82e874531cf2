"""The tiny Flamingos and a mixture for them, for every test here."""

from tests.support.made_pairs import pair_mixture as pair_mixture
from tests.support.made_samples import mixture as mixture
from tests.support.tiny_flamingo import model_v1 as model_v1
from tests.support.tiny_flamingo import model_v2 as model_v2
from tests.support.tiny_flamingo import tiny as tiny
from tests.support.tiny_flamingo import tiny_mpt as tiny_mpt
