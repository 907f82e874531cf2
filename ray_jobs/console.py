"""What a user sees: options with help, one-line errors, a progress bar, tables.

Every entry point goes through `run`, so that a mistake of the user ends with one line and exit status 2, work that
failed with one line and 1, and a mistake of ours with its traceback. Signals: interruption.py.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml

from polite_flamingo.profile_keys import refuse_empty_strangers
from polite_flamingo.storage.user_paths import local_path
from polite_flamingo.text_files import NotText, read_text
from ray_jobs.progress import progress as progress
from ray_jobs.submitted import refuse_relative_data

Config = TypeVar("Config")

SECTIONS = ("rewriter", "scoring", "thresholds", "pools", "distortion", "training", "workers", "evaluation", "serving")
"""Top-level keys of a profile. One profile serves every job: each reads its own sections and passes over the others."""


class JobFailed(RuntimeError):
    """A job that cannot go on, for a reason that the message explains; no traceback is needed. Exit status 1."""


class CannotStart(JobFailed):
    """A job whose surroundings are not such that it can begin. Exit status 2."""


class AllFailed(JobFailed):
    """A job came to its end, and every row of it failed: the message says how, most often."""


def run(
    name: str,
    description: str,
    config_class: type[Config],
    job: Callable[[Config], None],
    arguments: Sequence[str] | None = None,
    defaults: Callable[[Sequence[str]], Sequence[str]] = lambda arguments: (),
) -> int:
    """Parse the command line into a config and do the job; return the exit status, after one line for what went wrong.

    `defaults` gives, for the user's arguments, arguments that stand before them and so yield to them.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    config = parse(name, description, config_class, [*defaults(arguments), *arguments])
    try:
        refuse_relative_data(config)
        if hasattr(config, "out"):
            print(f"{name}: output in {Path(config.out).absolute()}", flush=True)
        job(config)
    except (ValueError, OSError, JobFailed) as error:
        if os.environ.get("POLITE_FLAMINGO_TRACEBACK"):
            raise
        _say(name, str(error) or type(error).__name__)
        return 1 if isinstance(error, JobFailed) and not isinstance(error, CannotStart) else 2
    except KeyboardInterrupt:  # only where the command was not started by `python -m` (interruption.py)
        print(f"\n{name}: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    return 0


def parse(name: str, description: str, config_class: type[Config], arguments: Sequence[str]) -> Config:
    """Fill a config dataclass from `--profile FILE` and `--section.field value`; a later one wins.

    Exits with status 2 and one line for an unknown key, a wrong type, a missing value or an impossible one.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    assert dataclasses.is_dataclass(config_class)
    fields = dataclasses.fields(config_class)
    flags = [field.name for field in fields if field.default is False]
    parser = ArgumentParser(
        prog=f"polite-flamingo {name}",
        usage=f"polite-flamingo {name} [--profile FILE] [--section.field value …]",
        description=description,
        exit_on_error=False,
    )
    parser.add_argument("--profile", action="config", help="YAML file that fills the options below, see profiles/")
    parser.add_class_arguments(config_class, as_group=False, skip=set(flags))
    for flag in flags:
        parser.add_argument(f"--{flag}", action="store_true", help=_help_of(config_class, flag))
    try:
        options = parser.instantiate(parser.parse_args(_own_sections(arguments, config_class)))
        return config_class(**{field.name: _here(field.name, options[field.name]) for field in fields})
    except (ArgumentError, ValueError, TypeError) as error:
        fail(name, f"{error} (--help lists the options)")


def _here(name: str, value: Any) -> Any:
    """A field's value; paths as `local_path` gives them. Raises `ValueError`."""
    if name in ("input", "out") or (name == "init" and value):
        return local_path(value, f"--{name}")
    if name != "data":
        return value
    return {
        key: local_path(one, f"--data.{key}")
        if isinstance(one, str)
        else dataclasses.replace(one, shards=local_path(one.shards, f"--data.{key}"))
        for key, one in value.items()
    }


def _own_sections(arguments: Sequence[str], config_class: Any) -> list[str]:
    """The arguments, `--profile FILE` replaced by the YAML text that FILE holds without the sections of other jobs."""
    foreign = set(SECTIONS) - {field.name for field in dataclasses.fields(config_class)}
    own: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        flag, _, file = argument.partition("=")
        if flag != "--profile":
            own.append(argument)
            continue
        file = file or next(rest, "")
        try:
            content = yaml.safe_load(read_text(Path(file)))
        except FileNotFoundError:
            raise ValueError(f"--profile: {file!r} does not exist") from None
        except NotText as error:
            raise ValueError(f"--profile: {error}") from None
        except yaml.YAMLError as error:
            raise ValueError(f"--profile: problem parsing {file}: {error}") from None
        if not isinstance(content, dict):
            raise ValueError(f"--profile: {file} must hold sections such as `rewriter:`")
        content = {key: value for key, value in content.items() if key not in foreign}
        refuse_empty_strangers(content, config_class)
        own += ["--profile", yaml.safe_dump(content)]
    return own


def fail(name: str, message: str, status: int = 2) -> NoReturn:
    """One line to stderr, and the exit status."""
    _say(name, message)
    sys.exit(status)


def _say(name: str, message: str) -> None:
    print(f"{name}: error: {' '.join(message.split())}", file=sys.stderr)


def to_yaml(config: Any) -> str:
    """A config dataclass as YAML, such as `--profile` reads."""
    return yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False, allow_unicode=True)


def table(rows: Sequence[tuple[str, str]], title: str) -> str:
    """Two aligned columns under a title."""
    width = max(len(label) for label, _ in rows)
    lines = [f"  {label:<{width}}  {value}" for label, value in rows]
    return "\n".join([title, *lines])


def names_of(names: Sequence[str], most: int = 12) -> str:
    """A list of names that stays readable when there are thousands."""
    more = f" … and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _help_of(config_class: type, name: str) -> str:
    """The line of a field in the class's docstring."""
    lines = [line.strip() for line in (config_class.__doc__ or "").splitlines()]
    return next((line.partition(": ")[2] for line in lines if line.startswith(f"{name}: ")), "")
