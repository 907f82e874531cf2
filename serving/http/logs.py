"""Logs of requests and failures: who, what, how long; never content.

The access log (`serving.access`) has one line of JSON per request; failures go to `serving.failures`. An exception's
message may quote a prompt, so a failure is logged by its types and its places in the code, without messages.
"""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime
from textwrap import indent
from typing import Any

_access = logging.getLogger("serving.access")
_line = json.JSONEncoder(separators=(",", ":")).encode
_failures = logging.getLogger("serving.failures")


def write_to_stderr() -> None:
    """Log at level INFO, to stderr unless the process has configured handlers of its own."""
    own = logging.getLogger("serving")
    own.setLevel(logging.INFO)
    if own.hasHandlers():
        return
    for logger, form in ((own, "%(asctime)s %(levelname)s %(name)s: %(message)s"), (_access, "%(message)s")):
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(form))
        logger.addHandler(handler)
    _access.propagate = False  # its lines are JSON alone


def request_line(**fields: Any) -> None:
    """Log a finished request. Args: fields: JSON types; None and "" are left out."""
    if not _access.isEnabledFor(logging.INFO):
        return
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    fields = {"time": now} | {name: value for name, value in fields.items() if value is not None and value != ""}
    record = _access.makeRecord(_access.name, logging.INFO, "", 0, _line(fields), (), None)
    _access.handle(record)  # `info` would look for the line of code that logs: a third of the cost


def failure(request_id: str, route: str, error: BaseException) -> None:
    """Log an unexpected exception. Args: request_id: also sent to the client; route: the template of the path."""
    _failures.error("request %s to %s failed\n%s", request_id, route, without_messages(error))


def store_failure(error: OSError) -> None:
    """Log that the store of files and batches is out of reach: its message names the place and what to do."""
    _failures.error("%s", error)


def scoring_failure(error: BaseException) -> None:
    """Log an exception that the filters raised on a single sample."""
    _failures.error("the filters failed on a sample\n%s", without_messages(error))


def without_messages(error: BaseException) -> str:
    """Return a traceback with files, lines, types and causes, but without messages and values."""
    parts: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        number = f" (errno {current.errno})" if isinstance(current, OSError) and current.errno is not None else ""
        lines = traceback.StackSummary.extract(traceback.walk_tb(current.__traceback__)).format()
        parts.append(f"{''.join(lines)}{type(current).__module__}.{type(current).__qualname__}{number}")
        if isinstance(current, BaseExceptionGroup):
            parts[-1] += "".join(f"\n{indent(without_messages(one), '  | ')}" for one in current.exceptions)
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "\ncaused by:\n".join(parts)
