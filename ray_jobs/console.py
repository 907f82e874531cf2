"""What a user sees: options with help, one-line errors, a progress bar, tables.

Every entry point goes through `run`, so a user's mistake ends with one line and exit status 2, failed work with one
line and status 1, and a bug with its traceback. Signals: interruption.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import os
import shlex
import shutil
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from polite_flamingo.config import SECTIONS, ConfigError, fill, merged, nested, own_sections, read_yaml
from polite_flamingo.config_fields import ConfigField, all_config_fields, config_fields, type_words
from polite_flamingo.storage.location import location
from polite_flamingo.storage.user_paths import user_path
from ray_jobs.extras import missing_extra
from ray_jobs.progress import progress as progress
from ray_jobs.submitted import refuse_relative_data, with_paths

Config = TypeVar("Config")

METAVARS = {"input": "SHARDS", "out": "DIR", "init": "DIR"}

OFTEN_SET: dict[str, tuple[str, ...]] = {
    "build": ("thresholds", "pools"),
    "select": ("thresholds",),
    "distort": ("distortion", "pools.distorting"),
    "pair": ("pairing", "sets"),
    "audit": ("audit",),
    "train": ("workers",),
    "evaluate": ("evaluation",),
    "sample": ("sampling", "sampling.endpoint", "pools.sampling"),
    "rate": ("judge", "judge.endpoint", "pools.rating"),
    "serve": ("serving.access", "serving.scale.chat"),
    "paper": ("sizes",),
}
"""Sections whose settings `--help` lists one by one; the others get one line, and --help-all lists everything."""


class JobFailed(RuntimeError):
    """A job cannot continue, for a reason that the message explains; no traceback is shown. Exit status 1."""


class CannotStart(JobFailed):
    """The environment does not allow a job to start. Exit status 2."""


class AllFailed(JobFailed):
    """A job finished, but every row failed; the message gives the most common reason. Exit status 1."""


def run(
    name: str,
    description: str,
    config_class: type[Config],
    job: Callable[[Config], int | None],
    arguments: Sequence[str] | None = None,
    defaults: Callable[[Sequence[str]], Sequence[str]] = lambda arguments: (),
) -> int:
    """Parse the command line into a config, run the job, and return the exit status; an error prints one line.

    Args:
        name: the command's name.
        description: the docstring of its module; the indented lines are the examples of its help.
        config_class: a dataclass.
        job: the function to run; it may return an exit status.
        arguments: instead of those of this process.
        defaults: maps the user's arguments to default arguments, which they override.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        config = parse(name, description, config_class, [*defaults(arguments), *arguments])
        refuse_relative_data(config)
        if (out := getattr(config, "out", None)) and not hasattr(config, "to"):  # which says where the output is
            print(f"{name}: output in {location(out).absolute()}", flush=True)
        return job(config) or 0
    except ModuleNotFoundError as error:
        if not (remedy := missing_extra(error)):
            raise
        _say(name, remedy)
        return 2
    except (ValueError, OSError, JobFailed) as error:
        if os.environ.get("POLITE_FLAMINGO_TRACEBACK"):
            raise
        _say(name, str(error) or type(error).__name__)
        return 1 if isinstance(error, JobFailed) and not isinstance(error, CannotStart) else 2
    except KeyboardInterrupt:  # only where the command was not started as one (interruption.py)
        print(f"\n{name}: interrupted; run the same command again to resume", file=sys.stderr)
        return 130


def parse(name: str, description: str, config_class: type[Config], arguments: Sequence[str]) -> Config:
    """Fill a config dataclass from `--profile FILE` and `--section.field value`; a later one wins.

    Exits with status 2 and one line for an unknown name, a wrong type, a missing value or an impossible one, and with
    status 0 after `--help`.
    """
    if {"-h", "--help", "--help-all"} & {*arguments}:
        print(_parser(name, description, config_class, everything="--help-all" in arguments).format_help(), end="")
        sys.exit(0)
    try:
        config: Config = with_paths(fill(config_class, _content(name, config_class, arguments)), user_path)
        return config
    except ValueError as error:
        fail(name, f"{error} (--help lists the options)")


def _content(name: str, config_class: type, arguments: Sequence[str]) -> dict[str, Any]:
    """Merge what the command line gives, including profiles. Raises `ValueError`."""
    parser = _parser(name, "", config_class, everything=True)
    _add_names(parser, config_class, arguments)
    try:
        found, strangers = parser.parse_known_args(arguments, argparse.Namespace(given=[]))
    except argparse.ArgumentError as error:
        raise ValueError(f"{error.argument_name}: {error.message}") from None
    content: dict[str, Any] = {}
    for path, value in found.given:
        if path == "profile":
            try:
                content = merged(content, own_sections(config_class, read_yaml(user_path(value, "--profile"))))
            except ConfigError as error:
                raise ValueError(f"profile {value}: {error}") from None
        else:
            content = merged(content, nested(path, value))
    for stranger in strangers:
        if stranger.startswith("--"):  # the loader says what was probably meant
            option = stranger[2:].partition("=")[0]
            if (section := option.partition(".")[0]) in SECTIONS and not any(
                one.path == section for one in config_fields(config_class)
            ):
                raise ValueError(f"--{option}: {name} has no section {section}")
            known = [one.path for one in all_config_fields(config_class)]
            dashes = option.replace("-", "_")
            if dashes in known or ("." in option and difflib.get_close_matches(dashes, known, n=1, cutoff=0.8)):
                near = difflib.get_close_matches(dashes, known, n=1)
                raise ValueError(f"--{option}: unknown; did you mean --{near[0]}?")
            for one in all_config_fields(config_class):
                if option.startswith(f"{one.path}.") and typing.get_origin(one.hint) is dict:
                    inner = str(nested(option.removeprefix(f"{one.path}."), "VALUE")).replace("'", "")
                    raise ValueError(f"--{option}: give the mapping as a whole, such as --{one.path} '{inner}'")
            try:
                fill(config_class, nested(option, ""))
            except ValueError as error:
                raise ValueError(f"--{error}") from None
        raise ValueError(f"unexpected argument {stranger!r}; options begin with --")
    return content


class _Note(argparse.Action):
    """Stores options and profiles in the order given, so that later ones win."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if isinstance(values, list) and len(values) == 1 and values[0][:1] + values[0][-1:] in ("[]", "{}"):
            values = values[0]  # a list or a mapping spelled in YAML
        namespace.given.append((self.dest, self.const if values == [] else values))


class _NotePairs(_Note):
    """Does the same for NAME=VALUE."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if values and all("=" in value for value in values) and not values[0].startswith("{"):
            values = dict(value.split("=", 1) for value in values)
        super().__call__(parser, namespace, values, option_string)


def _parser(name: str, description: str, config_class: type, *, everything: bool) -> argparse.ArgumentParser:
    """Return a parser with an option for every setting; its help lists all of them or only the common ones."""
    about, examples = _about(description)
    often = OFTEN_SET.get(name, ())
    fields = list(config_fields(config_class))
    values = [one for one in fields if not one.section]
    required = [one for one in values if one.default is dataclasses.MISSING]
    needed = [f"--{one.path} {_metavar(one) if '{' not in _metavar(one) else one.path.upper()}" for one in required]
    whole = any(one.section and one.default is dataclasses.MISSING for one in fields)
    profile = "--profile FILE" if whole else "[--profile FILE]"
    more = "[--section.setting VALUE ...]" if len(values) < len(fields) else "[options]"
    parser = argparse.ArgumentParser(
        prog=f"polite-flamingo {name}",
        usage=" ".join([f"polite-flamingo {name}", *needed, profile, more]),
        description="\n\n".join([about, *([f"examples:\n{examples}"] if examples else [])]),
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=_width()),
        add_help=False,
        allow_abbrev=False,
        exit_on_error=False,
    )
    group = parser.add_argument_group("options")
    group.add_argument("--profile", action=_Note, metavar="FILE", help="YAML file of the settings below, see profiles/")
    for one in values:
        _add(group, one)
    sections = [one for one in fields if one.section]
    for one in sections:
        _add(parser, one, shown=False)
        _add_section(parser, one, ("",) if everything else often)
    closed = [one for one in sections if not everything and one.path not in often]
    if closed:
        rows = "\n".join(f"--{one.path}.…".ljust(28) + one.meaning.rstrip(".") for one in closed)
        parser.add_argument_group("more settings, which --help-all lists", rows)
    last = parser.add_argument_group("help")
    last.add_argument("-h", "--help", action="store_true", help="show this and exit")
    if closed:
        last.add_argument("--help-all", action="store_true", help="show every setting and exit")
    return parser


def _add_section(parser: argparse.ArgumentParser, section: ConfigField, listed: tuple[str, ...]) -> None:
    """Add the options of a section; `listed` names the parts that the help shows, ("",) for all."""
    group = parser.add_argument_group(f"{section.path}: {section.meaning.rstrip('.')}")
    assert section.section is not None
    first_of: dict[Any, str] = {}
    same = "-"
    for one in all_config_fields(section.section, section.path, section.default):
        if not section.metadata.get("defaults_apply", True):
            one = dataclasses.replace(one, default="")
        shown = one.path.startswith(listed) and not one.path.startswith(f"{same}.")
        if shown and one.section and listed != ("",) and first_of.setdefault(one.section, one.path) != one.path:
            same = one.path
            meaning = f"{one.meaning.rstrip('.')}; the same settings as {first_of[one.section]}"
            group.add_argument(f"--{one.path}.…", nargs=0, action=_Note, help=meaning)
        _add(group, one, shown=shown and not one.section)


def _add(group: Any, one: ConfigField, *, shown: bool = True) -> None:
    """Add the option of a setting."""
    words = type_words(one.hint)
    more: dict[str, Any] = {"metavar": _metavar(one)}
    if "nargs" in one.metadata:
        more |= {"nargs": one.metadata["nargs"], "const": one.metadata["const"]}
    elif one.default is False and "." not in one.path:
        more = {"nargs": 0, "const": True}
    elif words == "true or false":
        more |= {"nargs": "?", "const": True}
    elif not one.section and ("a list" in words or "a mapping" in words):
        more["nargs"] = "+"
    action = _NotePairs if "a mapping" in words and not one.section else _Note
    group.add_argument(
        f"--{one.path}", action=action, dest=one.path, help=_help(one) if shown else argparse.SUPPRESS, **more
    )


def _add_names(parser: argparse.ArgumentParser, config_class: type, arguments: Sequence[str]) -> None:
    """Add the options that name an entry of a mapping, such as `--data.text out/text`."""
    mappings = [
        one.path for one in config_fields(config_class) if "a mapping" in type_words(one.hint) and not one.section
    ]
    for option in {argument.partition("=")[0] for argument in arguments}:
        if any(option.startswith(f"--{path}.") for path in mappings):
            parser.add_argument(option, action=_Note, dest=option[2:])


def _about(description: str) -> tuple[str, str]:
    """Return the first paragraph of a docstring and its indented commands."""
    about, *blocks = description.strip().split("\n\n")
    examples = (line for block in blocks if block.startswith("    polite-flamingo") for line in block.split("\n"))
    return about, "\n".join(line[2:] for line in examples)


def _metavar(one: ConfigField) -> str:
    if "metavar" in one.metadata or one.path in METAVARS:
        return str(one.metadata.get("metavar", METAVARS.get(one.path)))
    words = type_words(one.hint).removesuffix(" or a mapping")
    if words.startswith("one of "):
        return f"{{{words.removeprefix('one of ').replace(', ', ',')}}}"
    return {"a whole number": "INTEGER", "a number": "NUMBER", "a string": "TEXT", "true or false": "true|false"}.get(
        words, "NAME=VALUE" if words == "a mapping" else "VALUE"
    )


def _help(one: ConfigField) -> str:
    said = one.meaning.rstrip(".")
    if one.default is dataclasses.MISSING:
        said += " (required)"
    elif one.default not in ("", (), {}, None, False) or type(one.default) in (int, float):
        shown = str(one.default).lower() if isinstance(one.default, bool) else one.default
        if isinstance(shown, tuple):
            records = any(map(dataclasses.is_dataclass, shown))
            shown = f"{len(shown)} built in" if records else ", ".join(map(str, shown))
        said += f" (default: {shown})"
    return said.strip().replace("%", "%%")


def _width() -> int:
    return min(shutil.get_terminal_size((100, 24)).columns, 120)


def fail(name: str, message: str, status: int = 2) -> NoReturn:
    """One line to stderr, and the exit status."""
    _say(name, message)
    sys.exit(status)


def _say(name: str, message: str) -> None:
    print(f"{name}: error: {' '.join(message.split())}", file=sys.stderr)


def typed() -> str:
    """Return the command line of this process, quoted for a shell."""
    main = sys.modules["__main__"].__spec__
    program = ["python", "-m", main.name] if main else [Path(sys.argv[0]).name]
    return shlex.join([*program, *sys.argv[1:]])


def table(rows: Sequence[tuple[str, str]], title: str) -> str:
    """Format two aligned columns under a title."""
    width = max(len(label) for label, _ in rows)
    lines = [f"  {label:<{width}}  {value}" for label, value in rows]
    return "\n".join([title, *lines])


def names_of(names: Sequence[str], most: int = 12) -> str:
    """Format a list of names, shortened if it is long."""
    more = f" … and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
