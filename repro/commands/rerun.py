"""``repro rerun``: run again and compare with the stored record."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from repro.commands import console, named
from repro.errors import ReproError
from repro.running import rerun


def run(options: Namespace, root: Path) -> int:
    """Compare one run with its record; 1 if it differs."""
    return compare([named.task(options, root)], root, processes=options.processes, as_json=options.json)


def compare(
    tasks: Sequence[named.Task], root: Path, *, processes: int = 1, as_json: bool = False, go_on: bool = False
) -> int:
    """Run each task again; a line before, on stderr, and one after, so that a long one is seen to work.

    Args:
        tasks: runs and seeds, all of which have a record.
        root: root of the repository.
        processes: for the clients of federated averaging.
        as_json: print the comparisons for programs.
        go_on: say of a run that cannot be computed here (its data set is not there) that it was not compared and leave
            it aside, unless it is all there is.

    Raises:
        ReproError: a record is missing, damaged or stale, or no run can be computed.
    """
    found: list[rerun.Comparison] = []
    for i, (spec, seed) in enumerate(tasks, start=1):
        rerun.recorded(spec, seed, root)  # what cannot be compared is said before anything is announced
        seconds = rerun.recorded_seconds(spec, seed, root)
        took = "" if seconds is None else f"; the record took {seconds:.0f} s"
        console.note(f"[{i}/{len(tasks)}] computing {spec.run} seed {seed} (profile {spec.profile}) again{took}")
        try:
            with console.progress(f"{spec.profile} {spec.run} seed {seed}") as report:
                c = rerun.rerun(spec, seed, root, processes=processes, report=report)
        except ReproError as error:
            if not go_on or (i == len(tasks) and not found):
                raise
            console.note(f"{spec.run} seed {seed}: not compared ({error})")
            continue
        found.append(c)
        said = f"{c.run} seed {c.seed}: {c.verdict} ({c.detail}); recorded {c.recorded}, computed again {c.again}"
        print(said, file=sys.stderr if as_json else sys.stdout, flush=True)
    if as_json:
        console.as_json([vars(c) for c in found])
    return int(any(c.verdict == rerun.DIFFERS for c in found))
