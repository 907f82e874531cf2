from __future__ import annotations

import json
import math

import pytest

from polite_flamingo.evaluation.bootstrap import Resampling
from polite_flamingo.evaluation.judging import NO_RESPONSE, RAW, Judged
from polite_flamingo.evaluation.markdown import to_markdown
from polite_flamingo.evaluation.metrics import METRICS, shown
from polite_flamingo.evaluation.results import summarise

FEW = Resampling(draws=60)


def judged(tasks: list[str], **numbers: dict[str, list[float | None]]) -> Judged:
    """Contestant -> metric -> numbers; "words" are 3 where there is a reward."""
    scores = {}
    for name, given in numbers.items():
        words = [None if one is None else 3.0 for one in given["reward"]]
        exact = [None if one is None else 0.0 for one in given["reward"]]
        scores[name.replace("_", " ")] = {
            **{metric: given.get(metric, [None] * len(tasks)) for metric in METRICS}, "words": words, "exact": exact,
        }  # fmt: skip
    return Judged(
        contestants=tuple(scores), keys=[f"k{n}" for n in range(len(tasks))], tasks=tasks, scores=scores,
        missing={
            name: {NO_RESPONSE: missing} if (missing := sum(one is None for one in given["words"])) else {}
            for name, given in scores.items()
        },
        unscored={name: {} for name in scores},
    )  # fmt: skip


TASKS = ["vqa", "vqa", "vqa", "captioning"]
NUMBERS = judged(
    TASKS,
    raw_annotation={"reward": [0.0, 0.0, 0.0, -4.0], "accuracy": [1, 1, 1, None], "rouge_l": [None] * 3 + [1.0]},
    language={"reward": [5.0, 5.0, 5.0, 5.0], "accuracy": [0, 0, 1, None], "rouge_l": [None] * 3 + [0.1]},
    model={"reward": [1.0, 2.0, None, 3.0], "accuracy": [1, 0, None, None], "rouge_l": [None] * 3 + [0.5]},
)


def test_means_are_over_what_all_who_take_part_answered() -> None:
    found = summarise(NUMBERS, resampling=FEW)
    vqa = found.tasks["vqa"]
    assert (vqa.samples, vqa.left_out) == (3, {"reward": 1, "accuracy": 1})
    assert {name: one.value for name, one in vqa.means["accuracy"].items()} == {RAW: 1.0, "language": 0.0, "model": 0.5}
    assert all(one.n == 2 for one in vqa.means["reward"].values())
    assert found.mean("model", "reward", "vqa") == 1.5 and found.mean("model", "sts", "vqa") is None
    assert found.reward["model"].value == 2.0 and found.reward[RAW].value == pytest.approx(-4 / 3)
    assert list(found.tasks) == ["vqa", "captioning"] and found.tasks["captioning"].means["rouge_l"]["model"].n == 1


def test_one_who_left_out_a_whole_task_does_not_take_it_from_the_others() -> None:
    numbers = judged(
        TASKS, a={"reward": [1.0, 2.0, 3.0, 4.0]}, b={"reward": [None, None, None, 5.0]}, c={"reward": [None] * 4}
    )
    found = summarise(numbers, resampling=FEW)
    assert set(found.tasks["vqa"].means["reward"]) == {"a"} and found.tasks["vqa"].means["reward"]["a"].n == 3
    assert found.reward["c"].value is None and found.answers["c"].missing == {NO_RESPONSE: 4}
    assert found.wins.rates["b"]["a"].value == 1.0 and found.wins.rates["b"]["a"].n == 1


def test_wins_count_every_sample_that_a_pair_shares() -> None:
    found = summarise(NUMBERS, resampling=FEW).wins
    assert found.rates["language"][RAW].n == 4 and found.rates["model"][RAW].n == 3
    assert found.rates["model"][RAW].value == 1.0 and found.rates["model"]["language"].value == 0.0


def test_the_tax_is_that_of_definition_1_for_every_performance() -> None:
    found = summarise(NUMBERS, text_only="language", resampling=FEW)
    reward = found.tax["reward"]["model"]
    assert reward.tasks["vqa"].value == 3.5 and reward.tasks["captioning"].value == 2.0 and reward.total.value == 5.5
    assert found.tax["accuracy"]["model"].total.value == -0.5
    assert list(found.tax["reward"]) == ["model"], "no tax is counted of annotations"
    assert summarise(NUMBERS, resampling=FEW).tax == {}
    with pytest.raises(ValueError, match=r"'nobody'.*raw annotation, language, model"):
        summarise(NUMBERS, text_only="nobody")


def test_results_are_json_and_reproducible() -> None:
    first = json.dumps(summarise(NUMBERS, text_only="language", resampling=FEW).to_json(), allow_nan=False)
    assert first == json.dumps(summarise(NUMBERS, text_only="language", resampling=FEW).to_json())
    assert math.isfinite(len(first))


def test_one_sample_and_none() -> None:
    one = summarise(judged(["vqa"], a={"reward": [1.0]}, b={"reward": [1.0]}), text_only="a", resampling=FEW)
    assert one.wins.rates["a"]["b"].value == 0.5 and one.wins.ties["a"]["b"] == 1.0
    assert one.wins.rates["a"]["b"].low is None and one.tax["reward"]["b"].total.value == 0.0
    none = summarise(judged([], a={"reward": []}, b={"reward": []}), text_only="a", resampling=FEW)
    assert none.samples == 0 and none.tasks == {} and none.reward["a"].value is None
    for results in (one, none):
        json.dumps(results.to_json(), allow_nan=False)
        assert to_markdown(results).startswith("# Evaluation")


def test_the_markdown_says_it_all() -> None:
    text = to_markdown(summarise(NUMBERS, text_only="language", resampling=FEW))
    assert "| model | 1.50 (1.00 to 2.00) | 50.0 % (0.0 to 100.0) |" in text
    assert "Reward: 1 samples are left out" in text and "1 no_response" in text
    assert "| model | +3.50 (+3.00 to +4.00) | +2.00 | +5.50 |" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.count("|") == rows[rows.index(line)].count("|") for line in rows)


def test_length_stands_beside_every_number() -> None:
    results = summarise(NUMBERS, text_only="language", resampling=FEW)
    assert results.tasks["vqa"].words == {RAW: 3.0, "language": 3.0, "model": 3.0}
    text = to_markdown(results)
    heads = [line for line in text.splitlines() if line.startswith("|  |")]
    assert len(heads) >= 6 and all("words" in head for head in heads)
    assert "| model | 100.0 % (100.0 to 100.0) | 0.0 % (0.0 to 0.0) | – | 3.0 |" in text


def test_a_win_that_words_explain_is_none_at_equal_length() -> None:
    """b is preferred whenever it is longer, and it is longer more often."""
    lengths = {"a": [10.0] * 90, "b": [float(5 + n % 15) for n in range(90)]}
    longer = [0.5 if one == 10 else float(one > 10) for one in lengths["b"]]
    numbers = judged(["vqa"] * 90, a={"reward": [0.5] * 90}, b={"reward": [*longer]})
    for name, words in lengths.items():
        numbers.scores[name]["words"] = [*words]
    found = summarise(numbers, resampling=FEW)
    raw, controlled = found.wins.rates["b"]["a"].value, found.controlled["b"]["a"]
    assert raw is not None and raw > 0.55 and controlled.slope.value is not None and controlled.slope.value > 1
    assert controlled.rate.value is not None and abs(controlled.rate.value - 0.5) < abs(raw - 0.5)
    assert summarise(numbers, resampling=FEW, difficulty=True).controlled["b"]["a"].rate.n == 90, "nobody else is there"


def test_yes_or_no_is_judged_against_the_annotation() -> None:
    numbers = judged(["vqa"] * 4, raw_annotation={"reward": [0.0] * 4}, model={"reward": [1.0] * 4})
    assert summarise(numbers, resampling=FEW).yes_no == {}
    numbers.scores[RAW]["yes"] = [1.0, 1.0, 0.0, None]
    numbers.scores["model"]["yes"] = [1.0, 0.0, 0.5, None]
    results = summarise(numbers, resampling=FEW)
    found = results.yes_no["model"]
    assert list(results.yes_no) == ["model"] and found.accuracy.n == 3 and found.words == 3.0
    assert found.accuracy.value == pytest.approx(1 / 3) and found.yes_share.value == pytest.approx(1 / 3)
    assert "## Yes or no, by PoPe's rule: 3 questions, yes is right for 66.7 %" in to_markdown(results)
    json.dumps(results.to_json(), allow_nan=False)


def test_numbers_read_well() -> None:
    assert shown("reward", -1.234) == "−1.23" and shown("accuracy", 0.4567) == "45.7 %" and shown("sts", None) == "–"
    assert shown("reward", -0.001) == "0.00" and shown("reward", 0.5, sign=True) == "+0.50"
