"""The answers that tests of the `AsyncEngine` compare with, computed once."""

from tests.support.async_streams import known as known
