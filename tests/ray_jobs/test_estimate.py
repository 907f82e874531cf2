"""A forecast draws rows of the whole input and scales what they took."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from polite_flamingo.cost import Prices, TokenPrices
from polite_flamingo.rewriters.config import RewriterSection
from polite_flamingo.sample import Sample
from polite_flamingo.storage.input_files import size_of
from polite_flamingo.storage.ledger import Manifest, OutputLayout, commit_shard
from polite_flamingo.storage.location import Location, location
from polite_flamingo.storage.shards import read_shard, write_shard
from ray_jobs.build_pf1m import BuildConfig, build_or_estimate
from ray_jobs.estimate import Part, forecast, forecast_build, sample_rows
from tests.support.build_world import text_row, write_world

PRICES = Prices(tokens={"rewriting": TokenPrices(generated=10.0)})


def shards_of(folder: Path, *sizes: int) -> dict[str, Location]:
    """Shards of so many rows, in each of which the annotation says how many tokens it will take."""
    found = {}
    for number, rows in enumerate(sizes):
        place = location(folder / f"s{number}.tar")
        write_shard(place, [text_row(number, row) for row in range(rows)])
        found[f"s{number}"] = place
    return found


def test_sums_are_estimated_without_bias_however_unlike_the_shards_are(tmp_path: Path) -> None:
    shards = shards_of(tmp_path, 4, 40, 156)
    cost = {"s0": 900.0, "s1": 10.0, "s2": 1.0}  # tokens of each row
    total_bytes = sum(size_of(place) for place in shards.values())
    sums, rows = [], []
    for seed in range(40):
        parts = sample_rows(shards, 20, location(tmp_path / "trial"), seed)
        drawn = {
            name: [row.key.split("/")[1] for row in read_shard(tmp_path / "trial" / f"{name}.tar")] for name in parts
        }
        assert sum(map(len, drawn.values())) <= 20
        amounts = {name: {"tokens": sum(cost[shard] for shard in found)} for name, found in drawn.items()}
        found = forecast(parts, amounts, total_bytes, PRICES)
        sums.append(found["tokens"].value or 0.0)
        rows.append(found["rows"].value or 0.0)
    assert sum(sums) / 40 == pytest.approx(4 * 900 + 40 * 10 + 156, rel=0.25)
    assert sum(rows) / 40 == pytest.approx(200, rel=0.05)


def test_a_forecast_of_equal_rows_is_exact_and_of_unequal_ones_has_an_interval() -> None:
    parts = {f"part-{n}": Part(density=0.001, readable=1.0, rows=20) for n in range(10)}
    equal = {name: {"rewriting.generated_tokens": 600.0, "kept": 15.0} for name in parts}
    found = forecast(parts, equal, 1_000_000, PRICES)
    assert (found["rows"].value, found["kept"].value) == (1000, 750)
    tokens = found["rewriting.generated_tokens"]
    assert (tokens.value, tokens.low, tokens.high) == pytest.approx((30_000, 30_000, 30_000))
    assert found["money"].value == pytest.approx(0.3)
    uneven = {name: {"rewriting.generated_tokens": 300.0 + 60 * n} for n, name in enumerate(parts)}
    tokens = forecast(parts, uneven, 1_000_000, PRICES)["rewriting.generated_tokens"]
    assert tokens.low is not None and tokens.high is not None and tokens.value == pytest.approx(28_500)
    assert 22_000 < tokens.low < 27_000 and 30_000 < tokens.high < 35_000


def test_unreadable_rows_cost_nothing() -> None:
    parts = {name: Part(density=0.001, readable=0.5, rows=10) for name in ("a", "b")}
    found = forecast(parts, {name: {"rewriting.images": 20.0} for name in parts}, 1_000_000, PRICES)
    assert (found["rows"].value, found["rewriting.images"].value) == (1000, 1000)


def test_the_forecast_is_what_the_whole_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The build is a stand-in here: 7 tokens for each character; `test_demo` builds with models."""
    source = write_world(tmp_path / "in", shards=8, rows=60)
    shards = {place.stem: location(place) for place in sorted(source.glob("*.tar"))}

    def build(folder: str, out: str) -> None:
        layout = OutputLayout(root=out)
        for place in sorted(Path(folder).glob("*.tar")):
            rows = [row for row in read_shard(place) if isinstance(row, Sample)]
            commit(layout, place.stem, rows)
            layout.verdicts(place.stem).put("".join('{"keep": true}\n' for _ in rows))

    found = forecast_build(shards, 100, location(tmp_path / "trial"), build, PRICES, {"rewriting": 2})
    whole = sum(tokens(row) for place in shards.values() for row in read_shard(place) if isinstance(row, Sample))
    forecast_tokens = found["rewriting.generated_tokens"]
    assert forecast_tokens.low is not None and forecast_tokens.high is not None
    assert forecast_tokens.low <= whole <= forecast_tokens.high
    assert found["rows"].value == pytest.approx(480, rel=0.02)
    printed = capsys.readouterr().out
    assert "limited by rewriting (shards in work: rewriting 2)" in printed and "per million kept" in printed
    assert (tmp_path / "trial" / "estimate.json").exists()


def tokens(row: Any) -> int:
    return 7 * len(row.response)


def commit(layout: OutputLayout, name: str, rows: list[Sample]) -> None:
    usage = {"rewriting.generated_tokens": sum(map(tokens, rows))}
    commit_shard(
        layout, name, rows,
        lambda scored, lost: Manifest(
            shard="s.tar", rows_in=scored + lost, scored=scored, quarantined=lost, config_hash="x",
            seconds={"rewriting": 0.5 * scored}, usage=usage,
        ),
    )  # fmt: skip


def test_shards_without_a_readable_row_count_as_such(tmp_path: Path) -> None:
    """Half of the bytes hold no row: the other half's rows are not taken for all."""
    shards = shards_of(tmp_path, 50)
    (tmp_path / "broken.tar").write_bytes(b"x" * size_of(shards["s0"]))
    shards["broken"] = location(tmp_path / "broken.tar")
    total, kept = sum(map(size_of, shards.values())), []
    for seed in range(40):
        parts = sample_rows(shards, 20, location(tmp_path / "trial"), seed)
        amounts = {name: {"kept": part.rows} for name, part in parts.items() if part.rows}
        assert len(parts) == 10 and sum(part.rows for part in parts.values()) == 2 * len(amounts)
        kept.append(forecast(parts, amounts, total, PRICES)["kept"].value or 0.0)
    assert sum(kept) / 40 == pytest.approx(50, rel=0.15)


def test_a_negative_number_of_rows_builds_nothing(tmp_path: Path) -> None:
    """It is a mistake, not the whole input."""
    config = BuildConfig(input="in", out=str(tmp_path / "out"), rewriter=RewriterSection(kind="none"), estimate=-200)
    with pytest.raises(ValueError, match="--estimate -200: give the number of rows"):
        build_or_estimate(config)


def test_an_input_without_a_readable_row_has_no_forecast(tmp_path: Path) -> None:
    (tmp_path / "broken.tar").write_bytes(b"x" * 700)
    with pytest.raises(ValueError, match="no row of the input can be read"):
        sample_rows({"broken": location(tmp_path / "broken.tar")}, 10, location(tmp_path / "trial"))
