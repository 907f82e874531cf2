"""The tables of settings in docs/serving.md match the code."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from serving import config, settings_tables

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"


def test_the_page_shows_the_settings_as_they_are() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert settings_tables.put_into(text) == text, "stale: run  python -m serving.settings_tables docs/serving.md"


def test_every_setting_has_a_row_and_a_meaning() -> None:
    table = settings_tables.tables()
    for name in ("LimitsConfig", "AccessConfig", "RemoteImagesConfig", "BatchesConfig"):
        one = getattr(config, name)
        said = settings_tables.meanings(one)
        for field in dataclasses.fields(one):
            assert said[field.name], f"{name}.{field.name}"
            assert f".{field.name}` |" in table
    assert "| `serving.limits.body_bytes` | 32 MiB (33554432) | maximum size of a body;" in table
    assert "| `serving.remote_images.hosts` | none |" in table
    assert "`serving.scale.chat`" in table and "| `downscale_seconds` | 300 |" in table


def test_a_page_without_the_marks_is_refused_and_one_with_them_keeps_the_rest(tmp_path: Path, capsys) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        settings_tables.main([str(page)])
    assert "must hold the lines" in capsys.readouterr().err
    page.write_text(f"before\n{settings_tables.BEGIN}\nstale line\n{settings_tables.END}\nafter\n")
    settings_tables.main([str(page)])
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "stale line" not in text
    settings_tables.main([str(page)])
    assert page.read_text() == text
