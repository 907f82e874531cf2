"""The service in this process: a tiny Flamingo of random weights under both names, no Ray."""

from tests.support.bulk_site import shared as shared
from tests.support.tiny_flamingo import Tiny as Tiny
from tests.support.tiny_flamingo import model_v2 as model_v2
from tests.support.tiny_flamingo import tiny as tiny
