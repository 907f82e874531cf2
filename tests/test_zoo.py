"""The shipped models: small, loadable by the pipeline, as good as their cards say, and made by their recipes."""

from __future__ import annotations

import json
import random

import pytest

from polite_flamingo.hub import ZOO
from polite_flamingo.zoo import evaluate, train
from polite_flamingo.zoo.documents import Batches, notes_written_out, repeated, rewriting, seen_and_answered
from polite_flamingo.zoo.judges import garble, nli_case
from polite_flamingo.zoo.pairs import random_pair, well_formed

MODELS = ("clip", "flamingo", "polite_flamingo", "nli", "reward")


def test_all_weights_together_stay_under_30_megabytes_and_are_safetensors() -> None:
    files = [file for file in ZOO.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 30e6
    weights = {file.suffix for file in files if file.stat().st_size > 200_000}
    assert weights == {".safetensors"}


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_a_card_with_its_recipe(name: str) -> None:
    card = (ZOO / name / "README.md").read_text()
    assert f"python -m polite_flamingo.zoo.train {name}" in card and "seed" in card


@pytest.mark.parametrize("name", sorted(evaluate.MEASURES))
def test_the_recorded_figures_reach_every_bar(name: str) -> None:
    figures = json.loads((ZOO / name / "figures.json").read_text())["figures"]
    barred = [figure for figure in figures if figure in evaluate.BARS]
    assert barred
    for figure in barred:
        assert evaluate.passes(figure, figures[figure]), (figure, figures[figure])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(evaluate.MEASURES))
def test_measured_again_on_a_small_held_out_set_the_figures_are_near_the_recorded_ones(name: str) -> None:
    recorded = json.loads((ZOO / name / "figures.json").read_text())["figures"]
    measured = evaluate.MEASURES[name](60, ZOO)
    for figure in (f for f in measured if f in evaluate.BARS):
        # 60 cases: a share of 0.95 has a standard error of 0.03
        assert abs(measured[figure] - recorded[figure]) < 0.09, (figure, measured[figure], recorded[figure])


def test_auc_counts_ties_as_half() -> None:
    assert evaluate.auc([2, 3], [0, 1]) == 1
    assert evaluate.auc([0, 1], [2, 3]) == 0
    assert evaluate.auc([1, 1], [1, 1]) == 0.5


def test_pairs_check_themselves_and_refuse_each_other() -> None:
    rng = random.Random(0)
    refused = 0
    for _ in range(300):
        pair, other = random_pair(rng), random_pair(rng)
        assert pair.keeps(pair.polite) and well_formed(pair.polite)
        assert not pair.keeps(pair.raw), "a raw annotation is never polite"
        refused += not pair.keeps(other.polite)
        assert not any(pair.keeps(wrong) for wrong in pair.others)
        assert garble(rng, pair.polite) != pair.polite
    assert refused > 290
    assert not well_formed("The circle is red. The circle is red.")


def test_nli_cases_have_the_label_that_their_texts_deserve() -> None:
    rng = random.Random(1)
    for _ in range(300):
        premise, hypothesis, label = nli_case(rng)
        question = premise.split(' is the answer to the question: "')[-1]
        assert hypothesis.endswith(question), "both sentences are about one question"
        if label == 0:
            assert premise != hypothesis


def test_batches_carry_loss_on_the_text_and_its_end_only() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ZOO / "flamingo")
    makers = {rewriting: 1.0, notes_written_out: 1.0, repeated: 1.0, seen_and_answered: 1.0}
    data = Batches(random.Random(0), makers, tokenizer, 8, prefix_weight=0.0)
    for _ in range(6):
        ids, weights, scenes = next(data)
        assert ids.shape == weights.shape and len(scenes) == 8
        for row in range(8):
            kept = ids[row][weights[row] > 0].tolist()
            assert kept[-1] == tokenizer.eos_token_id and kept.count(tokenizer.eos_token_id) == 1
            text = tokenizer.decode(kept[:-1])
            assert text and "###" not in text, "no prompt carries loss"


@pytest.mark.slow
def test_every_recipe_runs_from_scratch_and_its_models_load(tmp_path) -> None:
    for name in train.ORDER:
        train.train(name, tmp_path, seed=1, scale=0.003)
    assert {folder.name for folder in tmp_path.iterdir()} == set(MODELS)
    for name, measure in evaluate.MEASURES.items():
        figures = measure(20, tmp_path)
        assert all(0 <= figures[f] <= 1 for f in figures if f in evaluate.BARS), name


def test_a_recipe_that_lacks_its_foundation_says_which(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        train.main(["polite_flamingo", "--out", str(tmp_path)])
    assert "polite_flamingo builds on clip" in capsys.readouterr().err
