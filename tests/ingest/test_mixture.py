"""Several sources in one YAML, and how much to take from each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from polite_flamingo.ingest.ingest import ingest_all
from polite_flamingo.ingest.mixture import Mixture, by_square_root, load_mixture, shares
from polite_flamingo.sample import Sample
from polite_flamingo.sources.registry import SOURCES
from polite_flamingo.storage.shards import read_shard
from ray_jobs.ingest import main

PROFILE = Path(__file__).parents[2] / "profiles" / "pf1m-mixture.yaml"
SIZES = st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(0, 10**6), min_size=1, max_size=6)


def write(tmp_path: Path, **content: Any) -> Path:
    path = tmp_path / "mixture.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def entry(**fields: Any) -> dict[str, Any]:
    return {"annotations": ["questions.json"], "images": "images", **fields}


def load(tmp_path: Path, **content: Any) -> Mixture:
    return load_mixture(write(tmp_path, **content))


@given(sizes=SIZES, total=st.integers(0, 2 * 10**6))
def test_what_is_shared_out_adds_up_and_fits(sizes: dict[str, int], total: int) -> None:
    for share in (by_square_root, shares):
        counts = share(sizes, total)
        assert list(counts) == list(sizes)
        assert sum(counts.values()) == min(total, sum(sizes.values()))
        assert all(0 <= counts[name] <= sizes[name] for name in sizes)


def test_square_roots_even_the_sizes_out_and_pass_on_what_is_lacking() -> None:
    assert by_square_root({"large": 10_000, "small": 100}, 110) == {"large": 100, "small": 10}
    assert by_square_root({"large": 10_000, "small": 100}, 5_000) == {"large": 4_900, "small": 100}


def test_each_way_of_sampling(tmp_path: Path) -> None:
    two = {"clevr": entry(), "gqa": entry()}
    assert load(tmp_path, sources=two).counts([10, 20]) == [None, None]
    halves = {name: {**fields, "ratio": 0.5} for name, fields in two.items()}
    assert load(tmp_path, sampling="ratio", sources=halves).counts([10, 20]) == [5, 10]
    counted = {name: {**fields, "count": 15} for name, fields in two.items()}
    assert load(tmp_path, sampling="counts", sources=counted).counts([10, 20]) == [10, 15]
    assert load(tmp_path, sampling="sqrt", total=9, sources=two).counts([100, 400]) == [3, 6]
    assert load(tmp_path, sampling="paper", sources=two).counts([10**6, 10**6]) == [26_390, 223_244]
    assert load(tmp_path, sampling="paper", margin=1.2, sources=two).counts([10**6, 10]) == [31_668, 10]


def test_an_entry_of_its_own_count_comes_first(tmp_path: Path) -> None:
    sources = {"clevr": entry(count=7), "gqa": entry(), "vqa_v2": entry(ratio=0.1)}
    assert load(tmp_path, sampling="sqrt", total=27, sources=sources).counts([100, 400, 100]) == [7, 10, 10]


def test_what_the_paper_counts_together_shares_its_count(tmp_path: Path) -> None:
    ret_3 = {name: entry() for name in ("rsicd", "rsitmd", "ucm")}
    assert sum(load(tmp_path, sampling="paper", sources=ret_3).counts([10**5] * 3)) == 13_551  # type: ignore[arg-type]
    parts = {"clevr_a": entry(source="clevr", split="trainA"), "clevr_b": entry(source="clevr", split="valB")}
    assert load(tmp_path, sampling="paper", sources=parts).counts([30_000, 60_000]) == [8_797, 17_593]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"sources": {}}, "is empty: name at least one"),
        ({"sources": {"clevr": {"annotations": "q.json"}}}, "annotations"),
        (
            {"sources": {"clevr": entry(anotations=[])}},
            "clevr.anotations: unknown; did you mean",
        ),
        ({"sources": {"clevr": entry(ratio=2)}}, "at most 1, not 2"),
        ({"sources": {"clevr": entry(ratio=0.5, count=5)}}, "not both"),
        (
            {"sources": {"clevr": entry()}, "sampling": "some"},
            "sampling: must be one of all, ratio, .*, got 'some'",
        ),
        ({"sources": {"clevr": entry()}, "sampling": "sqrt"}, "'total' is the number"),
        ({"sources": {"clevr": entry()}, "sampling": "ratio"}, "clevr: 'sampling: ratio' needs a 'ratio'"),
        ({"sources": {"clevr": entry()}, "margin": 0}, "'margin' must be above 0"),
        ({}, "sources"),
    ],
)
def test_a_wrong_mixture_is_one_line_that_names_what_is_wrong(tmp_path: Path, content: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        load(tmp_path, **content)
    assert "mixture.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_source_is_named_with_its_entry(tmp_path: Path) -> None:
    mixture = load(tmp_path, sources={"mine": entry(source="clevrr")})
    with pytest.raises(ValueError, match="mine: no source is called 'clevrr'"):
        mixture.configs(tmp_path, tmp_path / "out")


def test_the_papers_mixture_names_every_dataset_of_pf1m() -> None:
    mixture = load_mixture(PROFILE)
    used = {SOURCES[fields.source or name].name for name, fields in mixture.sources.items()}
    assert used == {source.name for source in SOURCES.values() if source.use == "PF-1M"}
    sizes = [10**7] * len(mixture.sources)
    drawn = sum(count or 0 for count in mixture.counts(sizes))
    assert drawn == pytest.approx(975_782 * mixture.margin, rel=0.001)  # the paper's total of what was kept


def clevr(tmp_path: Path, questions: int) -> None:
    from PIL import Image as Pillow

    (tmp_path / "images").mkdir()
    Pillow.new("RGB", (9, 9)).save(tmp_path / "images/a.png")
    records = [
        {"question_index": n, "question": f"Is it {n}?", "answer": "yes", "image_filename": "a.png", "split": split}
        for n in range(questions)
        for split in ("train", "val")
    ]
    (tmp_path / "questions.json").write_text(json.dumps({"questions": records}))


def test_the_command_ingests_a_mixture_and_skips_what_is_absent_only_when_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clevr(tmp_path, 10)
    sources = {
        "clevr_train": entry(source="clevr", split="train", count=4),
        "clevr_val": entry(source="clevr", split="val"),
        "gqa": {"annotations": ["nowhere.json"], "images": "images"},
    }
    out = tmp_path / "out"
    command = ["--mixture", str(write(tmp_path, sources=sources)), "--root", str(tmp_path), "--out", str(out)]
    assert main(command) == 2
    assert (
        "gqa: " in (said := capsys.readouterr().err)
        and "nowhere.json does not exist" in said
        and "--skip_absent" in said
    )
    assert main([*command, "--skip_absent", "--preview", "2"]) == 0
    assert {path.name for path in out.iterdir()} == {"preview-clevr_train.html", "preview-clevr_val.html"}
    assert "clevr_train-00000.tar" in (out / "preview-clevr_train.html").read_text()
    capsys.readouterr()
    assert main([*command, "--skip_absent"]) == 0
    shown = capsys.readouterr()
    assert "left out, because files are missing: gqa" in shown.err and "14 samples in 2 shards" in shown.out
    keys = [row.key for path in sorted(out.glob("*.tar")) for row in read_shard(path) if isinstance(row, Sample)]
    assert [key.split("/")[1] for key in keys] == ["train"] * 4 + ["val"] * 10
    assert main([*command, "--skip_absent"]) == 0  # it is done already


def test_a_mixture_is_the_same_however_often_it_is_made(tmp_path: Path) -> None:
    clevr(tmp_path, 30)
    sources = {"a": entry(source="clevr", split="train"), "b": entry(source="clevr", split="val", ratio=0.2)}
    mixture = load(tmp_path, sampling="sqrt", total=20, seed=3, sources=sources)
    made = [
        [path.read_bytes() for result in ingest_all(mixture.configs(tmp_path, tmp_path / name), mixture.counts)
         for path in result.shards]
        for name in ("one", "two")
    ]  # fmt: skip
    assert made[0] == made[1]
    other = load(tmp_path, sampling="sqrt", total=20, seed=4, sources=sources)
    again = ingest_all(other.configs(tmp_path, tmp_path / "three"), other.counts)
    assert [path.read_bytes() for result in again for path in result.shards] != made[0]


def test_a_profile_may_be_overridden(tmp_path: Path) -> None:
    path = write(tmp_path, sampling="sqrt", total=5, sources={"clevr": entry()})
    assert load_mixture(path, sampling="all", total=None, seed=None).total is None
    assert load_mixture(path, sampling=None, total=7, seed=2) == load_mixture(path, total=7, seed=2)
    with pytest.raises(ValueError, match="does not exist"):
        load_mixture(tmp_path / "nowhere.yaml")


def test_an_option_that_a_mixture_would_ignore_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--mixture", "m.yaml", "--source", "vqa_v2", "--columns", "a=b", "--out", str(tmp_path)])
    assert ended.value.code == 2
    assert "--source, --columns: not together with --mixture" in capsys.readouterr().err
