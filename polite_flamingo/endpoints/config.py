"""Settings of servers that all hold the same model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from polite_flamingo.endpoints.connection import ServerConfig
from polite_flamingo.endpoints.servers import PATIENCE

_SECRETS = frozenset({"apikey", "key", "authorization", "token", "accesstoken", "secret", "password", "bearer"})


@dataclass(frozen=True, kw_only=True)
class ServersConfig(ServerConfig):
    """Servers of one model.

    Attributes:
        urls: base addresses, such as [http://10.0.0.1:8000/v1, http://10.0.0.2:8000/v1].
        model: its name on the servers.
        answers_as: how the servers' answers name the model, if not as `model`; empty for the same name.
        concurrency: most requests that one server gets at once.
        patience: seconds that servers which are busy or gone are waited for before the job ends.
    """

    urls: tuple[str, ...] = ("http://127.0.0.1:8000/v1",)
    model: str = ""
    answers_as: str = ""
    concurrency: int = 64
    patience: float = PATIENCE

    def __post_init__(self) -> None:
        """Raise ValueError for what no server can do."""
        super().__post_init__()
        if self.patience < 0:
            raise ValueError("endpoint: patience must not be negative")
        for url in self.urls:
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"endpoint: urls must begin with http:// or https://, not {url[:60]!r}")
            if urlsplit(url).username is not None or urlsplit(url).query:
                raise ValueError(
                    "endpoint: urls are shown and written to files, so they must not hold a user or a key; put the key "
                    f"into the environment variable {self.api_key_variable}"
                )
        if not self.urls or len(set(self.urls)) < len(self.urls):
            raise ValueError("endpoint: urls must name at least one server, and each once")

    def request(self, body: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
        """Return a request body for the model with these fields added; those that are None are left out."""
        whole = {"model": self.model, **body, **extra}
        return {name: value for name, value in whole.items() if value is not None}


def refuse_extra(extra: Mapping[str, Any], reserved: frozenset[str] = frozenset()) -> None:
    """Raise ValueError for further fields of a request that are set elsewhere, or hold a key.

    Args:
        extra: the fields.
        reserved: names that are set elsewhere.
    """
    if taken := reserved & extra.keys():
        raise ValueError(f"extra must not set {', '.join(sorted(taken))}")
    for name, value in extra.items():
        if re.sub(r"[\W_]|^x(?=\W)", "", name.casefold()) in _SECRETS:
            raise ValueError(
                f"extra must not hold a key ({name}): it is written to files; put it into the environment variable "
                "that api_key_variable names"
            )
        if isinstance(value, Mapping):
            refuse_extra(value)
