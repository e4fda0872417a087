"""The bill has every planned record once, done or left, and takes what is left to cost what other seeds did."""

from __future__ import annotations

from pathlib import Path

import pytest
import tree

from repro import files
from repro.registry import specs, store
from repro.results import records
from repro.running import bill


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tree.plant(tmp_path)


def planned(root: Path) -> int:
    made = [specs.runs_and_waiting(source, "study", group, root) for source in specs.SOURCES for group in specs.GROUPS]
    return sum(len(tasks) + len(waiting) for tasks, waiting in made)


def test_every_planned_record_is_counted_once_and_nothing_is_free(root: Path) -> None:
    found = bill.lines(set(), root)
    assert sum(line.left for line in found) == planned(root)
    assert sum(line.done for line in found) == 0
    assert all(line.hours == line.hours_left == 0 for line in found)
    assert all(line.unknown == line.left for line in found)


def test_what_is_done_is_added_up_and_other_seeds_of_the_run_cost_the_same(root: Path) -> None:
    spec = specs.find("e1-central", "study", root)
    for seed, seconds in ((11, 3600.0), (12, 7200.0)):
        tree.record(spec, seed, root)
        path = records.provenance_path(store.record_path(spec, seed, root))
        files.write_atomic(path, files.canonical_json({"cpu_seconds": seconds}))
    found = bill.lines({("e1-central", 11), ("e1-central", 12)}, root)
    (line,) = (line for line in found if line.done)
    assert (line.group, line.done, line.hours) == ("post 1", 2, 3.0)
    seeds = len([seed for s, seed in specs.runs_and_waiting("e1", "study", "artefact", root)[0] if s.run == spec.run])
    assert line.hours_left == pytest.approx((seeds - 2) * 1.5)
    assert line.unknown == line.left - (seeds - 2)
    assert sum(line.left for line in found) == planned(root) - 2
