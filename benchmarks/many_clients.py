"""Rounds of federated averaging with 10, 100 and 1 000 clients of 50 images each: seconds and memory.

    python benchmarks/many_clients.py

The small CNN on 32 x 32 px and ResNet18 of width 8 on 16 x 16 px, local batch 10, one local epoch a round, two
processes, driven as in ``federated_peers.py``. Each is a program of its own, and numbers of clients take turns.
Processor seconds are of a whole round of all processes, the first one apart. Memory is the peak from loading the data
to the evaluation of 2 000 images at the end: the proportional set size of all processes, and beside it their resident
set sizes summed, in which what they share counts once for each.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import federated_peers as peers
import processes
import readme
from federated_round import ROOT

from repro import files, machine
from repro.errors import ReproError
from repro.running import provenance

RESULTS = ROOT / "benchmarks/results/many_clients.json"
ROUNDS = {10: 9, 100: 4, 1000: 2}  # in a program, by number of clients
NETWORKS = {"cnn": (32, 32), "resnet18": (8, 16)}  # width, image size
IMAGES, BATCH = 50, 10  # of a client
LIMIT = 1000  # MB, with the most clients


def workload(model: str, clients: int, rounds: int) -> peers.Workload:
    width, size = NETWORKS[model]
    return peers.Workload(
        model, width, IMAGES * clients, clients, BATCH, augment=False, rounds=rounds, limit=0, test_images=2000,
        image_size=size,
    )  # fmt: skip


def table(results: dict[str, Any]) -> str:
    """Results as a Markdown table with a line on where they come from."""
    lines = [
        "| network | clients | round, CPU s | a client, CPU ms | round, s | memory, MB | summed RSS, MB | limit | |",
        "|---" * 9 + "|",
    ]
    most = max(ROUNDS)
    for row in results["rows"]:
        limit = ""
        if row["clients"] == most:
            limit = f"at most {LIMIT} | {'holds' if row['pss_mb'] <= LIMIT else 'missed'}"
        cpu = peers.seconds(row)
        lines.append(
            f"| {row['workload']} | {row['clients']} | {cpu:.2f} | {1000 * cpu / row['clients']:.1f} | "
            f"{peers.seconds(row, 'wall_s'):.2f} | {row['pss_mb']:.0f} | {row['rss_mb']:.0f} | {limit or ' | '} |"
        )
    machine = results["machine"]
    rounds = ", ".join(f"{count - 1} with {clients}" for clients, count in ROUNDS.items())
    lines += [
        "",
        f"{results['date']}, {machine['device']} ({machine['instructions']}), {peers.PROCESSES} of {results['cores']} "
        f"cores, torch {machine['torch']}, Python {machine['python']}; load of the minute before "
        f"{results['load_before']}; seconds: median of the rounds: {rounds} clients.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=int, default=max(ROUNDS), choices=ROUNDS, help="most clients (default: "
                        "%(default)s); results are written for the default only")  # fmt: skip
    options = parser.parse_args(arguments)
    processes.end_with_children()
    results: dict[str, Any] = {
        "machine": machine.describe(), "cores": os.cpu_count(), "load_before": round(os.getloadavg()[0], 2),
        "code": provenance.CODE, "limit_mb": LIMIT, "rows": [],
    }  # fmt: skip
    for clients in (number for number in ROUNDS if number <= options.most):
        for model in NETWORKS:
            work = workload(model, clients, ROUNDS[clients])
            row = {"clients": clients, **peers.measure(work, peers.OURS, 1, {}), "settings": asdict(work)}
            results["rows"].append(row)
            print(
                f"{model}, {clients} clients: {peers.seconds(row):.2f} CPU s a round, {row['pss_mb']:.0f} MB; "
                f"{row['seconds']:.0f} s in all",
                flush=True,
            )
            results["date"] = time.strftime("%Y-%m-%d")
            if options.most == max(ROUNDS):
                files.write_atomic(RESULTS, files.canonical_json(results))
                readme.update("many_clients", table(results))
    print("\n" + table(results))


if __name__ == "__main__":
    try:
        main()
    except ReproError as problem:
        print(problem, file=sys.stderr)
        sys.exit(2)
