"""The tiny Flamingos, for every test here."""

from tests.support.tiny_flamingo import Tiny as Tiny
from tests.support.tiny_flamingo import model_v1 as model_v1
from tests.support.tiny_flamingo import model_v2 as model_v2
from tests.support.tiny_flamingo import tiny as tiny
from tests.support.tiny_flamingo import tiny_grouped as tiny_grouped
from tests.support.tiny_flamingo import tiny_mpt as tiny_mpt
