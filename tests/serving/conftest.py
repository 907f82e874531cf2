"""The service in this process: a tiny Flamingo of random weights under both names, no Ray."""

from bulk_site import shared as shared
from tiny_flamingo import Tiny as Tiny
from tiny_flamingo import model_v2 as model_v2
from tiny_flamingo import tiny as tiny
