"""SIMULATIONS of scale on one small machine: no model, GPU or cluster, but the job's own code and real shards.

    python -m benchmarks.pipeline.scale actors --actors 1 4 16 64   does throughput grow with the number of GPU actors?
    python -m benchmarks.pipeline.scale memory --shards 100 1000 10000    does the driver's memory grow with the shards?
    python -m benchmarks.pipeline.scale ledger --manifests 1000000   how long until such a job knows what is left?

**actors**: builds with models that sleep for each row, for a time that depends on its key (`simulated_build.py`). A GPU
machine has CPU cores for its GPUs; here all actors share this machine's, so the latency per row is long enough for the
work around it. `CPU s/row` is that work, and shows how many rows per second one core can carry. Throughput is the sum
over actors of rows / (end of the last block - start of the first): gaps between blocks count, but not the start of
processes and the tail when shards run out (`rows/s, whole run` includes the tail). Efficiency is throughput / (actors x
that of a single one).

**memory**: the same with instant stand-ins and shards of one row; prints the driver's resident memory at the start and
at its peak. A job of more than `--shards-a-run` shards (`pipeline.SHARDS_PER_RUN`) is several runs.

**ledger**: what a job does before it starts Ray, with that many input tars and manifests (`scale_ledger.py`).

Temporary files go under --folder (default: the system's) and are removed at the end.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import psutil

from benchmarks.pipeline.scale_ledger import run_ledger
from benchmarks.pipeline.simulated_build import MB, simulate

SHARDS_PER_RUN = 2_000
"""The value of `pipeline.SHARDS_PER_RUN`, which is not imported here because it imports Ray."""


def main() -> None:
    """Parse the command line, measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None, help="folder for temporary files")
    modes = parser.add_subparsers(dest="mode", required=True)
    actors = modes.add_parser("actors")
    actors.add_argument("--actors", type=int, nargs="+", default=[1, 4, 16, 64])
    actors.add_argument("--rows-per-shard", type=int, default=128)
    actors.add_argument("--seconds-per-row", type=float, default=0.25)
    actors.add_argument("--shards-per-actor", type=int, default=4)
    memory = modes.add_parser("memory")
    memory.add_argument("--shards", type=int, nargs="+", default=[100, 1000, 10_000])
    memory.add_argument("--shards-a-run", type=int, default=SHARDS_PER_RUN)
    ledger = modes.add_parser("ledger")
    ledger.add_argument("--manifests", type=int, default=1_000_000)
    ledger.add_argument("--before", action="store_true", help="also measure earlier versions: minutes to hours")
    options = parser.parse_args()
    print(f"SIMULATION: python -m benchmarks.pipeline.scale {' '.join(sys.argv[1:])}")
    print(f"{os.cpu_count()} CPU cores, {psutil.virtual_memory().total >> 30} GiB; Python {sys.version.split()[0]}")
    {"actors": run_actors, "memory": run_memory, "ledger": run_ledger}[options.mode](options)


def run_actors(options: argparse.Namespace) -> None:
    """Print the table of `actors`."""
    options.shards_a_run = SHARDS_PER_RUN
    print(f"a row takes {options.seconds_per_row} s (stand-in), a shard has {options.rows_per_shard} rows")
    print(" actors  shards  rows/s  efficiency  busy  rows/s, whole run  CPU s/row  driver MB  all processes MB")
    single = 0.0
    for count in options.actors:
        found = simulate(options, count, count * options.shards_per_actor)
        single = single or found["throughput"] / count
        print(
            f"{count:>7} {found['shards']:>7.0f} {found['throughput']:>7.2f}"
            f" {found['throughput'] / count / single:>11.1%}"
            f" {found['busy']:>5.1%} {found['whole']:>18.2f} {found['cpu'] / found['rows']:>10.4f}"
            f" {found['driver_peak'] / MB:>10.0f} {found['all_peak'] / MB:>17.0f}",
            flush=True,
        )


def run_memory(options: argparse.Namespace) -> None:
    """Print the table of `memory`."""
    options.rows_per_shard, options.seconds_per_row = 1, 0.0
    print(f"at most {options.shards_a_run} shards per run")
    print("  shards  seconds  driver at the start MB  driver at its peak MB  grown MB  kB/shard")
    for count in options.shards:
        found = simulate(options, 1, count)
        grown = found["driver_peak"] - found["driver_start"]
        print(
            f"{count:>8} {found['seconds']:>8.0f}"
            f" {found['driver_start'] / MB:>23.0f} {found['driver_peak'] / MB:>25.0f}"
            f" {grown / MB:>9.1f} {grown / 1024 / count:>11.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
