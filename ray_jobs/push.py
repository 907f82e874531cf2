"""Upload an export, or the Parquet of a build, to a dataset repository of a Hugging Face hub.

    polite-flamingo push --out exports/pairs --to hf://datasets/OWNER/NAME
    polite-flamingo push --out out/demo --to hf://datasets/OWNER/NAME --public

huggingface_hub uploads, with the token that `hf auth login` or HF_TOKEN gives. The repository is created if it is not
there, private unless --public is given. Afterwards it holds what was pushed: changed files are replaced, those of
an earlier push that are gone are deleted, and what this command never pushes (a LICENSE, say) stays. The same command
resumes after an interruption, and uploads nothing if nothing has changed.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from polite_flamingo.storage.hub_files import SCHEME
from polite_flamingo.storage.lease import exclusive
from polite_flamingo.storage.ledger import OutputLayout, undamaged
from polite_flamingo.storage.location import Location, location
from polite_flamingo.storage.run_info import read_stats
from polite_flamingo.storage.store import READ_AHEAD
from ray_jobs import console
from ray_jobs.progress import phase

DATASETS = f"{SCHEME}datasets/"

OF_A_BUILD = ("README.md", "parquet/*", "report.html", "stats.json")
"""What is pushed of a build: what `load_dataset` reads, and what explains it."""

OF_AN_EXPORT = ("README.md", "data/*", "images/*", "llava.json", "dataset_info.json", "export.json")


@dataclass(frozen=True, kw_only=True)
class PushConfig:
    """An upload.

    Attributes:
        out: the folder of an export, or the output folder of a build; also an address (s3://).
        to: the repository, hf://datasets/OWNER/NAME, or hf://datasets/OWNER/NAME@BRANCH.
        public: let everyone read a repository that is created; an existing one stays as it is.
        message: of the commit.
    """

    out: str
    to: str = field(metadata={"metavar": "hf://datasets/OWNER/NAME"})
    public: bool = False
    message: str = "Upload with polite-flamingo push"

    def __post_init__(self) -> None:
        name, at, branch = self.to.removeprefix(DATASETS).partition("@")
        parts = name.rstrip("/").split("/")
        if not self.to.startswith(DATASETS) or len(parts) != 2 or not all(parts) or (at and not branch):
            raise ValueError(f"to: must be {DATASETS}OWNER/NAME, got {self.to!r}")

    @property
    def repository(self) -> tuple[str, str | None]:
        """The repository's name, and its branch if one was given."""
        name, _, branch = self.to.removeprefix(DATASETS).partition("@")
        return name.rstrip("/"), branch or None


def push(config: PushConfig) -> None:
    """Run the job.

    Raises:
        ValueError: there is nothing finished to push.
        JobFailed: the hub refuses it or cannot be reached.
    """
    place = location(config.out)
    patterns, counts = _what(place, config.out)
    with exclusive(place), _on_disk(place, patterns) as folder:
        phase(f"uploading {counts} to {config.to}")
        print(f"{counts}; in {_upload(config, folder, patterns)}")


def _what(place: Location, given: str) -> tuple[tuple[str, ...], str]:
    """Return the patterns of the files to push, and what they hold in a few words. Raises `ValueError`."""
    note, layout = place / "export.json", OutputLayout(root=place)
    if note.exists():
        with undamaged(note, "export again"):
            found = json.loads(note.read_text())
            if found["finished"]:
                return OF_AN_EXPORT, str(found["counts"])
        raise ValueError(f"{given} holds an export that is not finished; run the same polite-flamingo export again")
    if layout.stats.exists() and layout.run.exists():
        return OF_A_BUILD, f"{read_stats(layout)['kept']:,} kept samples as parquet"
    raise ValueError(f"{given} holds neither an export nor a finished selection; give the --to of an export")


@contextmanager
def _on_disk(place: Location, patterns: tuple[str, ...]) -> Iterator[Path]:
    """Yield the folder on this machine's disk; what is in a bucket is copied to a temporary one first."""
    if place.local is not None:
        yield place.local
        return
    with tempfile.TemporaryDirectory(prefix="push-") as folder:
        for name in place.names():
            if any(fnmatchcase(name, pattern) for pattern in patterns):
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                with (place / name).open() as source, path.open("wb") as copy:
                    shutil.copyfileobj(source, copy, READ_AHEAD)
        yield Path(folder)


def _upload(config: PushConfig, folder: Path, patterns: tuple[str, ...]) -> str:
    """Upload; return the address of the commit. Raises `JobFailed`."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError

    if get_token() is None:
        raise console.CannotStart("no token for the hub: run hf auth login, or set HF_TOKEN to one that may write")
    failures: tuple[type[Exception], ...] = (OSError, ValueError, RuntimeError)
    failures += tuple(kind for kind in HfHubHTTPError.__bases__ if issubclass(kind, Exception))  # of its HTTP client
    (name, branch), api = config.repository, HfApi()
    try:
        api.create_repo(name, repo_type="dataset", private=not config.public, exist_ok=True)
        ours = sorted({*OF_A_BUILD, *OF_AN_EXPORT} - {"README.md"})
        commit = api.upload_folder(
            repo_id=name, repo_type="dataset", revision=branch, folder_path=folder, allow_patterns=list(patterns),
            delete_patterns=ours, commit_message=config.message,
        )  # fmt: skip
    except HfHubHTTPError as error:
        raise console.JobFailed(_refusal(config.to, error)) from None
    except failures as error:
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise console.JobFailed(f"{config.to} cannot be pushed to ({why}); check the network and HF_ENDPOINT") from None
    return str(commit.commit_url)


def _refusal(to: str, error: Exception) -> str:
    """Say in one line why the hub refuses, and what to do."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", 0)
    remedies = {
        401: "the hub does not know the token: run hf auth login, or set HF_TOKEN to one that may write",
        403: "the token may not write there: give one that may, or push to a repository of your own",
        404: "there is no such repository or branch: check the name, and that the token may see it",
    }
    server = " ".join(str(getattr(error, "server_message", None) or error).split())[:200]
    return f"{to}: {remedies.get(status, 'the hub refused it; run the same command again')} ({status}: {server})"


main = partial(console.run, "push", __doc__, PushConfig, push)
"""The command; returns the exit status."""


if __name__ == "__main__":
    sys.exit(main())
