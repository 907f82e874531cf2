"""llama.cpp's OpenAI-compatible server of one GGUF file, on loopback, in a process of its own.

    python -m polite_flamingo.testbed.real_models.llama_server MODEL.gguf NAME PORT THREADS SLOTS CONTEXT

is that process; `xllamacpp` must be importable there. It ends when its standard input is closed, so never outlives the
process that started it.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polite_flamingo.testbed.s3_server import free_port

READY = "ready"


@contextmanager
def llama_server(
    model: Path, name: str, packages: Path, log: Path, *, threads: int, slots: int = 2, context: int = 4096
) -> Iterator[str]:
    """Run a server while the block runs; yield its base address, such as http://127.0.0.1:8100/v1.

    Args:
        model: the GGUF file.
        name: what the server calls the model.
        packages: a folder with the package `xllamacpp`.
        log: the file for what the server says.
        threads: of the CPU.
        slots: requests answered at once.
        context: tokens of the longest request, answer included.

    Raises:
        ValueError: the server does not start.
    """
    port = free_port()
    numbers = [str(number) for number in (port, threads, slots, context)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(packages), str(Path(__file__).parents[3])])}
    with log.open("w") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "polite_flamingo.testbed.real_models.llama_server", str(model), name, *numbers],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True, env=environment,
        )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if process.stdout.readline().strip() != READY:
            raise ValueError(f"llama.cpp did not start: {_last_line(log)} (all of it: {log})")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.stdin.close()
        process.stdout.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _last_line(log: Path) -> str:
    said = [line for line in log.read_text(errors="replace").split("\n") if line.strip()]
    return said[-1] if said else "it said nothing"


def serve(model: str, name: str, port: int, threads: int, slots: int, context: int) -> None:
    """Serve until standard input is closed."""
    xllamacpp: Any = importlib.import_module("xllamacpp")  # no dependency: only the path of this process has it
    settings = xllamacpp.CommonParams()
    settings.model.path, settings.model_alias = model, {name}
    settings.hostnames, settings.port = ["127.0.0.1"], port
    settings.n_ctx, settings.n_parallel = context * slots, slots
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(settings)  # returns once it listens
    print(READY, flush=True)
    sys.stdin.read()
    del server
    os._exit(0)  # its threads do not end by themselves


if __name__ == "__main__":
    serve(*sys.argv[1:3], *map(int, sys.argv[3:]))  # type: ignore[arg-type]
