"""The tiny Flamingos, for every test here."""

from tiny_flamingo import Tiny as Tiny
from tiny_flamingo import model_v1 as model_v1
from tiny_flamingo import model_v2 as model_v2
from tiny_flamingo import tiny as tiny
from tiny_flamingo import tiny_grouped as tiny_grouped
from tiny_flamingo import tiny_mpt as tiny_mpt
