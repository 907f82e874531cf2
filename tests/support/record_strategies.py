"""Good records, a few of them spoiled: a field missing, a field of any other kind, or something else altogether."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


@st.composite
def spoiled(draw: st.DrawFn, records: Sequence[dict[str, Any]]) -> tuple[list[Any], set[int]]:
    """The records with up to three of them spoiled, and the places of those."""
    made: list[Any] = copy.deepcopy(list(records))
    places = draw(st.lists(st.integers(0, len(made) - 1), max_size=3, unique=True))
    for place in places:
        name = draw(st.sampled_from([*records[place], ""]))
        if not name:
            made[place] = draw(JUNK)
        elif draw(st.booleans()):
            del made[place][name]
        else:
            made[place][name] = draw(JUNK)
    return made, set(places)
