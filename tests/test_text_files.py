"""One decoder for all text from outside: what it accepts, and that every reader uses it."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from polite_flamingo.evaluation.responses import read_responses
from polite_flamingo.ingest.mixture import load_mixture
from polite_flamingo.sources.reading.streaming import only_value
from polite_flamingo.text_files import NotText, decoded
from ray_jobs import console
from ray_jobs.select import SelectConfig
from serving.config import from_profile
from serving.http.keys import read_keys

REPO = Path(__file__).parents[1]


def profile(path: Path) -> float:
    return console.parse("s", "", SelectConfig, ["--profile", str(path), "--out", "out"]).thresholds.sts


READERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "annotations": (only_value, '{"ä": 1}'),
    "recorded answers": (read_responses, json.dumps({"key": "a", "response": "A dog."}) + "\n"),
    "mixture": (load_mixture, (REPO / "profiles" / "pf1m-mixture.yaml").read_text()),
    "profile of a job": (profile, "thresholds: {sts: 0.7}\n"),
    "profile of the service": (from_profile, (REPO / "profiles" / "tiny.yaml").read_text()),
    "API keys": (read_keys, '{"keys": []}'),
}


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_takes_a_mark_and_names_another_encoding(
    reader: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read, text = READERS[reader]
    file = tmp_path / "file.json"
    file.write_text(text, encoding="utf-8")
    plain = read(file)
    file.write_bytes(codecs.BOM_UTF8 + text.encode())
    assert read(file) == plain
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        file.write_bytes(text.encode(encoding))
        with pytest.raises((ValueError, SystemExit)) as refused:
            read(file)
        said = capsys.readouterr().err or str(refused.value)
        assert str(file) in said and f"{encoding[:6].upper()}" in said and "iconv" in said, said


def test_what_is_text_and_what_is_not() -> None:
    assert decoded(b"") == "" and decoded(codecs.BOM_UTF8) == "" and decoded(b"a\0b") == "a\0b"
    assert decoded("\ufeffä\ufeff".encode()) == "ä\ufeff"
    with pytest.raises(NotText, match=r"not UTF-8 \(byte 0xe4 at 1\): convert it .* iconv -f CP1252"):
        decoded(b"a\xe4")
