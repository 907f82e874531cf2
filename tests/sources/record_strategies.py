"""Records as hostile or careless people write them: right fields, wrong fields, junk."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


def mostly(good: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Three times in four what it should be."""
    return st.one_of(good, good, good, JUNK)


def record(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """An object with any of these fields, each mostly good; or something else altogether."""
    some = st.fixed_dictionaries({}, optional={name: mostly(good) for name, good in fields.items()})
    return st.one_of(st.fixed_dictionaries({name: mostly(good) for name, good in fields.items()}), some, JUNK)
