"""The paper's rule: the best answer against a random one at least two points below; every prompt counted once."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polite_flamingo.candidates import ATTRIBUTES, Candidate, Rating
from polite_flamingo.preference.pair_shard import LEFT_OUT, Choices, Pairing
from polite_flamingo.preference.pairing import (
    FAILED,
    TOO_CLOSE,
    NoPair,
    Pair,
    PairingConfig,
    first_share,
    mean_ratings,
    pair_of,
    score,
)
from polite_flamingo.preference.sets import SETS, SetsConfig
from polite_flamingo.sample import IMAGE_MARK, Image, Quarantined, Sample, Turn
from tests.support.rated_answers import rated, rating

PAPER = PairingConfig()
GOOD, FAIR, POOR, BAD = [4, 4, 4, 0, 0], [3, 4, 4, 4, 4], [3, 3, 3, 4, 4], [0, 0, 1, 4, 4]
ANSWERS = {"two": GOOD, "There are two.": FAIR, "three": POOR, "blue": BAD}


def pair(sample: Sample, config: PairingConfig = PAPER) -> tuple[str, str]:
    found = pair_of(sample, config)
    assert isinstance(found, Pair), found
    return found.chosen.candidate.text, found.rejected.candidate.text


def reason(sample: Sample, config: PairingConfig = PAPER) -> str:
    found = pair_of(sample, config)
    assert isinstance(found, NoPair), found
    assert found.reason in (*TOO_CLOSE, *FAILED) and "\n" not in found.detail
    return found.reason


def test_the_score_is_what_the_paper_adds_up() -> None:
    assert score(dict(zip(ATTRIBUTES, [4, 3, 2, 4, 4], strict=True)), PAPER.weights) == 9
    helpsteer = (0.65, 0.8, 0.45, 0.55, -0.4)
    assert score(dict.fromkeys(ATTRIBUTES, 2), helpsteer) == pytest.approx(4.1)
    assert score({"helpfulness": 4, "correctness": 4}, PAPER.weights) is None, "one that has a weight is missing"
    assert score({"helpfulness": 4, "correctness": 4, "coherence": 1}, PAPER.weights) == 9
    assert score({"reward": -0.5}, PAPER.weights) == -0.5, "a judge of one number needs no weights"


def test_the_best_meets_a_random_one_that_is_far_enough_below() -> None:
    found = Counter(pair(rated(f"d/t/{n}", ANSWERS)) for n in range(200))
    assert set(found) == {("two", "three"), ("two", "blue")}, "There are two. is 1 below, which is too close"
    assert min(found.values()) > 70, "either about half of the time"
    assert found == Counter(pair(rated(f"d/t/{n}", ANSWERS)) for n in range(200)), "the key decides, not the moment"
    other = Counter(pair(rated(f"d/t/{n}", ANSWERS), PairingConfig(seed=1)) for n in range(200))
    assert other != found
    worst = PairingConfig(rule="worst")
    assert {pair(rated(f"d/t/{n}", ANSWERS), worst) for n in range(20)} == {("two", "blue")}


def test_of_tied_best_answers_the_first_is_chosen() -> None:
    assert pair(rated("d/t/1", {"blue": BAD, "two": GOOD, "2": GOOD})) == ("two", "blue")


def test_ratings_of_one_judge_are_averaged_and_those_of_a_black_picture_ignored() -> None:
    ratings = (
        rating(4, 4, 4), rating(2, 4, 4, sample=1), rating(0, 0, 0, blind=True), rating(0, 0, 0, judge="reward"),
        rating(math.nan, 7, -1, sample=2), Rating(judge="rule", values={"helpfulness": True}),
    )  # fmt: skip
    assert mean_ratings(ratings, "rule") == {"helpfulness": 3, "correctness": 4, "coherence": 4}
    assert mean_ratings(ratings, "") == {"helpfulness": 2, "correctness": 8 / 3, "coherence": 8 / 3}
    expected = (rating(4, 4, 4, expected={"helpfulness": 3.5}),)
    assert mean_ratings(expected, "rule", expected=True)["helpfulness"] == 3.5
    assert mean_ratings(expected, "rule")["helpfulness"] == 4


def test_thirds_that_should_be_two_apart_are() -> None:
    """Three ratings of each answer: 7/3 - 1/3 is less than 2 in binary fractions."""
    thirds = {"two": [4 / 3, 1, 0], "blue": [1 / 3, 0, 0]}
    assert math.fsum(thirds["two"]) - math.fsum(thirds["blue"]) < 2
    assert pair(rated("d/t/1", thirds)) == ("two", "blue")


def test_each_reason_for_no_pair_has_its_name() -> None:
    def sample(*answers: tuple[str, Sequence[float]]) -> Sample:
        return rated("d/t/1", answers)

    assert reason(sample()) == reason(sample(("two", GOOD))) == "too_few_answers"
    assert reason(sample(("two", GOOD), (" \n", BAD))) == "empty_answers"
    for text in (IMAGE_MARK + "two", "\ud800", "x" * 100_001):
        assert reason(sample(("two", GOOD), (text, BAD))) == "bad_answers"
    assert reason(sample(("two", GOOD), ("blue", []))) == "not_rated"
    assert reason(sample(("two", GOOD), ("blue", [4, 4]))) == "not_rated"
    assert reason(sample(("two  shapes", GOOD), ("two shapes\n", BAD))) == "equal_answers"
    assert reason(sample(("two", GOOD), ("2", GOOD))) == "equal_scores"
    assert reason(sample(("two", GOOD), ("There are two.", FAIR))) == "too_close"
    assert reason(rated("d/t/1", ANSWERS), PairingConfig(judge="gemini")) == "not_rated"


def test_the_same_text_rated_twice_is_never_both_sides() -> None:
    assert pair(rated("d/t/1", [("two", GOOD), (" two", BAD), ("three", POOR)])) == ("two", "three")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"weights": (1.0, 1.0)}, "must be 5 numbers"), ({"weights": (0.0,) * 5}, "not all 0"),
        ({"margin": 0.0}, "above 0"), ({"flips": 1.5}, "lie in"), ({"fraction": 0.0}, "lie in"),
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PairingConfig(**settings)


def test_shares_are_exact_seeded_and_nested() -> None:
    keys = [f"d/t/{n}" for n in range(100)]
    quarter, half = (first_share(keys, share, 0, "fraction") for share in (0.25, 0.5))
    assert (len(quarter), len(half)) == (25, 50) and quarter < half
    assert first_share(reversed(keys), 0.25, 0, "fraction") == quarter, "in whatever order shards are read"
    assert quarter not in (first_share(keys, 0.25, 1, "fraction"), first_share(keys, 0.25, 0, "flips"))


texts = st.sampled_from(["two", "2", " two ", "", "  ", "blue", "<image>", "\ud800"])
values = st.lists(st.sampled_from([0, 1, 2, 3, 4, 4.0, 9, -1, math.nan, math.inf]), max_size=5)
candidates = st.builds(
    lambda text, model, ratings: Candidate(text=text, model=model, ratings=tuple(ratings)),
    texts,
    st.sampled_from(["flamingo", "gemini"]),
    st.lists(st.builds(lambda v, judge, blind: rating(*v, judge=judge, blind=blind), values,
                       st.sampled_from(["rule", "other"]), st.booleans()), max_size=3),
)  # fmt: skip
pictures = st.sampled_from([(), (Image(extension="png", data=b"no picture"),)])


@st.composite
def rows(draw: st.DrawFn) -> Sample | Quarantined:
    key = f"d/t/{draw(st.integers(0, 6))}"
    if draw(st.integers(0, 5)) == 0:
        return Quarantined(key=key, shard="s.tar", index=0, reason="missing_image", detail="1 mark, no image")
    images = draw(pictures)
    turn = Turn(instruction=IMAGE_MARK * len(images) + "How many?", response="two")
    turns = (Turn(instruction="Hello", response="Hi"),) * draw(st.integers(0, 1)) + (turn,)
    answers = tuple(draw(st.lists(candidates, max_size=4)))
    return Sample(key=key, dataset="d", task="vqa", turns=turns, images=images, candidates=answers)


configs = st.builds(
    PairingConfig, judge=st.sampled_from(["", "rule"]), rule=st.sampled_from(["random", "worst"]),
    margin=st.sampled_from([0.5, 2.0, 5.0]), fraction=st.sampled_from([0.3, 1.0]), flips=st.sampled_from([0.0, 0.5]),
)  # fmt: skip


@given(st.lists(st.lists(rows(), max_size=6), max_size=3), configs, st.sampled_from(["dataset", "gemini"]))
def test_whatever_comes_in_every_prompt_is_counted_once(
    shards: list[list[Sample | Quarantined]], config: PairingConfig, sft: str
) -> None:
    sets = SetsConfig(sft=sft)
    first = Pairing(config, sets)
    keys = [key for shard in shards for key in first.paired_keys(shard)]
    assert len({*keys}) == len(keys)
    written = first_share(keys, config.fraction, 0, "fraction")
    flipped = first_share(written, config.flips, 0, "flips")
    pairing = Pairing(config, sets, Choices(written=written, flipped=flipped))
    made = [pairing.add(shard) for shard in shards]
    stats = pairing.counts.to_json()
    prompts = sum(map(len, shards))
    assert stats["prompts"] == prompts == stats["pairs"] + stats[LEFT_OUT] + stats["too_close"] + stats["failed"]
    assert sum(stats["reasons"].values()) == stats["too_close"] + stats["failed"]
    assert stats["pairs"] == len(written) and stats["flipped"] == len(flipped)
    assert sum(len(lines) for _, lines in made) == prompts - stats["pairs"]
    for name in SETS:
        found = [sample for of_shard, _ in made for sample in of_shard[name]]
        assert stats["sets"][name] == len(found) == len({sample.key for sample in found})
        if name in ("rejection", "sft"):
            assert len(found) + sum(stats["absent"][name].values()) == prompts
        for sample in found:
            sample.validate()
    for of_shard, _ in made:
        for sample in of_shard["pairs"]:
            assert sample.rewritten and sample.rejected and sample.rewritten.split() != sample.rejected.split()
            about = sample.provenance["pair"]
            assert abs(about["margin"]) >= config.margin - 1e-6 and (about["margin"] < 0) == about["flipped"]
            assert about["flipped"] == (sample.key in flipped)


def test_sets_learn_the_last_turn_only() -> None:
    talk = (Turn(instruction="<image>What is this?", response="a drawing"), Turn(instruction="Sure?", response="Yes."))
    sample = dataclasses.replace(rated("d/t/1", ANSWERS, pictures=0, before=talk), images=rated("d", {}).images)
    pairing = Pairing(PairingConfig(rule="worst"), SetsConfig())
    [made] = [pairing.add([sample.validate()])[0]]
    [pair], [best], [sft] = made["pairs"], made["rejection"], made["sft"]
    assert (pair.rewritten, pair.rejected) == ("two", "blue") and pair.candidates == sample.candidates
    assert [best.turns[-1].rewritten, sft.turns[-1].rewritten] == ["two", "two"] and best.rewritten is None
    assert [one.turns[-1].rewritten for one in made["steerlm"]] == [*ANSWERS]
    assert made["steerlm"][0].turns[-1].instruction == (
        "How many shapes?\nAnswer so that, from 0 to 4, the ratings are: "
        "helpfulness 4, correctness 4, coherence 4, complexity 0, verbosity 0."
    )
    for one in (pair, best, sft, *made["steerlm"]):
        assert [turn.learned for turn in one.turns] == [False, False, True]
        assert [turn.response for turn in one.turns] == ["a drawing", "Yes.", "two"], "annotations stay as they are"


def test_rejection_sampling_can_ask_for_full_ratings() -> None:
    perfect, good = rated("d/t/1", ANSWERS), rated("d/t/2", {"There are two.": FAIR, "blue": BAD})
    for kind, texts_found in (("best", ["two", "There are two."]), ("full", ["two"])):
        pairing = Pairing(PAPER, SetsConfig(rejection=kind))  # type: ignore[arg-type]
        made, _ = pairing.add([perfect, good])
        assert [sample.rewritten for sample in made["rejection"]] == texts_found
    assert pairing.counts.absent["rejection"] == {"not_full": 1}


def test_sft_can_learn_a_named_model_s_answers_which_then_are_no_side_of_a_pair() -> None:
    golden = Candidate(text="Two: a circle and a square.", model="gemini", ratings=(rating(4, 4, 4, 4, 4),))
    sample = rated("d/t/1", ANSWERS)
    both = dataclasses.replace(sample, candidates=(golden, *sample.candidates))
    made, _ = Pairing(PAPER, SetsConfig(sft="gemini")).add([both, rated("d/t/2", ANSWERS)])
    assert [one.rewritten for one in made["sft"]] == [golden.text]
    assert [one.rewritten for one in made["pairs"]] == ["two", "two"] and len(made["steerlm"]) == 8
    assert Pairing(PAPER, SetsConfig()).add([both])[0]["pairs"][0].rewritten == golden.text
