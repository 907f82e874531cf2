"""The command `polite-flamingo`: one name for every job, the same as `python -m` and its module in `COMMANDS`.

    polite-flamingo build --profile profiles/tiny.yaml --input shards --out out/polite

A job is imported only when it is run, so the list of commands appears at once.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

from polite_flamingo import __version__
from ray_jobs.extras import missing_extra

COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "make a dataset": {
        "ingest": ("ray_jobs.ingest", "raw annotations and images -> shards"),
        "build": ("ray_jobs.build_pf1m", "shards -> polite responses, scored, filtered and explained in a report"),
        "select": ("ray_jobs.select", "apply other thresholds to a finished build, in seconds"),
        "export": ("ray_jobs.export", "kept samples -> the format of a trainer or a hub"),
        "push": ("ray_jobs.push", "an export, or a build's Parquet -> a dataset repository of a hub"),
        "compare": ("ray_jobs.compare", "two builds of the same input side by side, on one page"),
        "agreement": ("ray_jobs.agreement", "how far a build's judge agrees with NLI and with people"),
        "replay": ("ray_jobs.replay", "run the quarantined rows of a build again"),
    },
    "train and evaluate": {
        "distort": ("ray_jobs.distort", "good responses -> pairs for training the rewriter"),
        "train": ("ray_jobs.train", "a model and a mixture of shards -> a model"),
        "evaluate": ("ray_jobs.evaluate", "let models answer; accuracy, politeness and the alignment tax"),
    },
    "align with preferences": {
        "sample": ("ray_jobs.sample", "several answers of a model to each prompt"),
        "rate": ("ray_jobs.rate", "rate answers by a rule, a reward model or a chat model that judges"),
        "pair": ("ray_jobs.pair", "rated answers -> preference pairs, and sets for the other ways to align"),
        "audit": ("ray_jobs.audit", "tell whether preference pairs and their judge can be trusted"),
        "align": ("ray_jobs.align", "repeat the paper on preference alignment with tiny models, half an hour"),
        "vote": ("ray_jobs.vote", "people vote on blind pairs; ratings, agreement with judges, labels"),
    },
    "serve": {
        "serve": ("ray_jobs.serve", "chat and rewriting over HTTP"),
        "keys": ("serving.http.keys", "create, list and revoke API keys"),
    },
    "try it": {
        "demo": ("ray_jobs.demo", "build a small dataset from generated scenes, without a network"),
        "demo-real": ("ray_jobs.demo_real", "rewrite excerpts of real datasets with a real model (downloads 1.5 GB)"),
        "paper": ("ray_jobs.paper", "repeat the paper's experiments with tiny models, one to two hours"),
    },
}
"""Group -> name -> module and what it does."""


def overview() -> str:
    """Return the list of commands, one per line."""
    lines = ["usage: polite-flamingo COMMAND [options]", ""]
    for group, commands in COMMANDS.items():
        lines += [f"{group}:", *(f"  {name:<10}{does}" for name, (_, does) in commands.items()), ""]
    last = "polite-flamingo COMMAND --help lists a command's options; --version prints the version;"
    return "\n".join([*lines, last, 'eval "$(polite-flamingo --completion)" completes names and options in bash.'])


COMPLETION = """_polite_flamingo() {
  local words="%s"
  if [ "$COMP_CWORD" -gt 1 ]; then
    words=$(polite-flamingo "${COMP_WORDS[1]}" --help-all 2>/dev/null | grep -oE '^ +--[A-Za-z_.-]+')
  fi
  COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _polite_flamingo polite-flamingo
"""
"""Completion for bash: commands, then the options in a command's help; file names where neither fits."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names; returns the exit status."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    modules = {name: module for commands in COMMANDS.values() for name, (module, _) in commands.items()}
    if name in ("-h", "--help", "help"):
        print(overview())
        return 0
    if name == "--version":
        print(f"polite-flamingo {__version__}")
        return 0
    if name == "--completion":
        print(COMPLETION % " ".join(modules), end="")
        return 0
    if name not in modules:
        near = difflib.get_close_matches(name, modules, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the commands are {', '.join(modules)}"
        print(f"polite-flamingo: error: unknown command {name!r}; {hint}", file=sys.stderr)
        return 2
    try:
        status: int | None = importlib.import_module(modules[name]).main(rest)
    except ModuleNotFoundError as error:
        if not (remedy := missing_extra(error)):
            raise
        print(f"{name}: error: {remedy}", file=sys.stderr)
        return 2
    return status or 0


if __name__ == "__main__":
    sys.exit(main())
