"""All benchmarks of speed against others, one after the other, within a number of minutes.

    python benchmarks/speed.py --minutes 20

It needs an otherwise idle machine, and the environments of the peers (benchmarks/README.md). Stop it at any time: what
is measured is written, and the same command goes on with the programs of ``federated_peers.py`` that are left.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import federated_peers
import processes

from repro.errors import ReproError

HERE = Path(__file__).resolve().parent


def run(name: str, *arguments: str) -> None:
    """Run the benchmark ``name``.

    Raises:
        ReproError: it failed.
    """
    print(f"== {name}.py {' '.join(arguments)}", flush=True)
    program = subprocess.Popen([sys.executable, str(HERE / f"{name}.py"), *arguments])
    try:
        if program.wait():
            raise ReproError(f"{name}.py failed; see above")
    finally:
        if program.poll() is None:
            program.terminate()
            program.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for peer, variable in federated_peers.VARIABLES.items():
        parser.add_argument(f"--{peer}", help=f"Python of an environment with {peer} (default: ${variable})")
    parser.add_argument("--minutes", type=float, default=20.0, help="minutes in all (default: %(default)g)")
    parser.add_argument("--only-peers", action="store_true", help="go on with federated_peers.py alone")
    options = parser.parse_args(arguments)
    processes.end_with_children()
    started = time.monotonic()
    named: list[str] = []
    for peer in federated_peers.RELEASES:
        named += [f"--{peer}", federated_peers.python_of(peer, getattr(options, peer))]
    print(f"load of the last minute {os.getloadavg()[0]:.2f} (0 is expected)", flush=True)
    if not options.only_peers:
        run("large_batch_workers")
        run("many_clients")
    left = options.minutes - (time.monotonic() - started) / 60
    if left > 0:
        run("federated_peers", "--minutes", f"{left:.2f}", *named)


if __name__ == "__main__":
    try:
        main()
    except ReproError as problem:
        print(problem, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; what was measured is kept, and the same command goes on", file=sys.stderr)
        sys.exit(130)
