"""Random augmentation: seeded, in the paper's proportions, and without a trace in the global generators."""

from __future__ import annotations

import random
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polite_flamingo.distortion.augmentation import CHARACTER_ACTIONS, WORD_ACTIONS, augment, seeded, sentences

TEXT = (
    "The image shows a harbour with several small boats. Two fishermen are mending their nets on the quay. "
    "Behind them, gulls are waiting!\n\nIs it early in the morning? The light suggests so."
)


def words(text: str) -> list[str]:
    return sorted(re.findall(r"\w+", text.lower()))


def test_the_same_seed_gives_the_same_text_and_another_another() -> None:
    assert [augment(TEXT, str(n)) for n in range(30)] == [augment(TEXT, str(n)) for n in range(30)]
    assert len({augment(TEXT, str(n))[0] for n in range(60)}) > 50


def test_global_generators_are_as_if_nothing_had_happened() -> None:
    random.seed(5), np.random.seed(5)
    expected = random.random(), np.random.random()
    random.seed(5), np.random.seed(5)
    for n in range(20):
        augment(TEXT, str(n))
    assert (random.random(), np.random.random()) == expected
    with pytest.raises(KeyError), seeded(1):
        raise KeyError
    random.seed(5)
    assert random.random() == expected[0]


def test_each_step_is_taken_half_the_time_and_independently() -> None:
    """2,000 fixed seeds: a share of one half is within 0.45 and 0.55 in all but one of a hundred thousand cases."""
    taken: Counter[str] = Counter()
    actions: Counter[str] = Counter()
    joints: Counter[str] = Counter()
    both = 0
    for n in range(2000):
        _, done = augment("One two three. Four five six. Seven eight.", f"share {n}")
        taken.update(done.keys())
        both += "keep_first" in done and "words" in done
        actions.update(done[level]["action"] for level in ("characters", "words") if level in done)
        joints[done.get("shuffled", "")] += 1
    for step in ("keep_first", "shuffled", "characters", "words"):
        assert 900 < taken[step] < 1100, taken
    assert 430 < both < 570
    assert 400 < joints["joined"] < 600 and 400 < joints["lines"] < 600
    assert set(actions) == {*CHARACTER_ACTIONS, *WORD_ACTIONS}


def test_each_step_does_what_it_says() -> None:
    seen = set()
    for n in range(400):
        text, done = augment(TEXT, f"alone {n}")
        if set(done) == {"keep_first"}:
            assert TEXT.startswith(text) and len(sentences(text)) == done["keep_first"]
        elif set(done) == {"shuffled"}:
            joint = "\n" if done["shuffled"] == "lines" else ""
            assert sorted(sentences(TEXT)) == sorted(text.split("\n")) if joint else len(text) < len(TEXT)
        elif set(done) == {"words"} and done["words"]["action"] == "swap":
            assert words(text) == words(TEXT)
        elif set(done) == {"words"}:
            assert len(words(text)) < len(words(TEXT))
        elif set(done) == {"characters"}:
            action, length = done["characters"]["action"], len("".join(TEXT.split()))
            grown = len("".join(text.split())) - length
            assert {"insert": grown > 0, "delete": grown < 0}.get(action, grown == 0), (action, text)
        elif not done:
            assert text == TEXT
        else:
            continue
        seen.add(frozenset(done))
    assert len(seen) == 5


def test_line_breaks_survive_changes_of_words() -> None:
    lines = "circle: 0.1\nsquare: 0.2\ntriangle: 0.3"
    kept = [
        text.count("\n") for n in range(200) for text, done in [augment(lines, f"{n}")] if set(done) == {"characters"}
    ]
    assert kept and all(count == 2 for count in kept)


@settings(max_examples=150)
@given(
    st.text(max_size=120)
    | st.sampled_from(["", " ", "a", "a b", ".", "a.", "犬がいる。猫もいる。", "\n\n", "🦩 🦩", "don't (x)"]),
    st.integers(0, 30),
)
def test_any_text_is_augmented_without_an_error(text: str, seed: int) -> None:
    changed, done = augment(text, str(seed))
    assert (changed, done) == augment(text, str(seed))
    changed.encode("utf-8", "surrogatepass")


def test_a_huge_text_does_not_take_for_ever() -> None:
    changed, _ = augment("Some words follow others here. " * 3000, "huge 1")
    assert changed
