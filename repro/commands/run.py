"""``repro run``: one run, one record."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from repro.commands import console, named
from repro.registry import store


def run(options: Namespace, root: Path) -> int:
    """Compute a run that has no valid record; 1 if it diverged though it was not expected to."""
    spec, seed = named.task(options, root)
    if store.stored(spec, seed, root) is not None:
        path = store.record_path(spec, seed, root)
        print(f"{path} is valid; nothing to do (`repro rerun {spec.run}` repeats it and compares)")
        return 0
    from repro.running import runner  # which imports torch

    with console.progress(f"{spec.run} seed {seed}") as report:
        record, provenance = runner.run(spec, seed, root, processes=options.processes, report=report)
    path = runner.save(record, provenance, root)
    print(f"{path}: {record.status} in {provenance['seconds']} s" + (f"; {record.reason}" if record.reason else ""))
    return int(record.status == "diverged" and not spec.expects_divergence)
