"""The service's HTTP side over engines in the same process, without Ray, to show what Ray Serve costs.

python -m benchmarks.serving.in_process_server --profile profiles/tiny.yaml --port 8002 --engines 2
"""

from __future__ import annotations

import argparse

import uvicorn

from benchmarks.serving.bare_engine import host_of
from serving.backends.local import LocalBackend
from serving.config import from_profile
from serving.server.app import create_app


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--engines", type=int, default=1)
    parser.add_argument("--override", action="append", default=[], help="NAME=VALUE of the profile")
    options = parser.parse_args()
    config = from_profile(options.profile, dict(one.split("=", 1) for one in options.override))
    app = create_app(config, LocalBackend([host_of(config, options.engines)]))
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
