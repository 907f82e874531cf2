#!/usr/bin/env bash
# The steps of deploy/Dockerfile, so that a test runs them without Docker (tests/deploy/test_image.py).
#
#   deploy/install.sh system        as root: Debian packages, and the user that containers run as
#   deploy/install.sh environment   every package of requirements.lock, into $VENV
#   deploy/install.sh project       this checkout's command, into $VENV
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
: "${VENV:?the folder of the environment, such as /opt/venv}"

case "${1:-}" in
  system) # wget: KubeRay's probes call it. make: the other steps. ca-certificates: TLS to buckets.
    export DEBIAN_FRONTEND=noninteractive
    apt-get update
    apt-get install --yes --no-install-recommends ca-certificates make wget
    rm -rf /var/lib/apt/lists/*
    useradd --create-home --uid 1000 --shell /bin/bash flamingo
    # Debian's login shells set PATH anew, and KubeRay before 1.4 starts Ray in one.
    echo "export PATH=$VENV/bin:\$PATH" >/etc/profile.d/polite-flamingo.sh
    ;;
  environment) # compiled now: the container's user may not write here, so each worker would compile again
    PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1 make "$VENV/.ready" VENV="$VENV"
    ;;
  project)
    UV_NO_CACHE=1 make setup VENV="$VENV"
    "$VENV/bin/python" -m compileall -q polite_flamingo actors ray_jobs training serving
    "$VENV/bin/polite-flamingo" --version
    ;;
  *)
    echo "usage: VENV=FOLDER deploy/install.sh system | environment | project" >&2
    exit 2
    ;;
esac
