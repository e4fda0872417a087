"""Server and clients in processes of their own: the simulation's record, its bytes, and the same after a kill."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import toy
from processes import Started

from repro import files
from repro.data.batches import Batches
from repro.errors import ReproError
from repro.registry.specs import Spec
from repro.results import records
from repro.results.records import Record
from repro.running import processes, runner

pytestmark = [pytest.mark.data, pytest.mark.usefixtures("data")]
SEED = 3


def together(size: int, spec: Spec, root: Path, *, timeout: float = 60, work=None, **options: Any) -> Started:
    """``size`` processes that compute a run; the first one writes it."""

    def take_part(rank: int) -> None:
        if work is not None:
            work(rank)
        made = processes.run(spec, SEED, root, timeout=timeout, **options)
        if made is not None:
            runner.save(*made, root)

    return Started(size, root, take_part)


def computed(size: int, spec: Spec, root: Path, **options: Any) -> tuple[Record, dict[str, Any]]:
    """The record and provenance that they wrote."""
    started = together(size, spec, root, **options)
    assert started.ended() == [0] * size, [started.said(rank) for rank in range(size)]
    (path,) = (root / "data/records/smoke/e1").glob("*.json")
    return records.read(path), files.read_json(records.provenance_path(path))


LARGE_BATCH = {"momentum": 0.9, "weight_decay": 1e-3, "precision": "fp32", "sparsity_warmup": 0.5, "epochs": 3}


@pytest.mark.parametrize(
    ("size", "method", "changes"),
    [
        (2, "large_batch", {"codec": "int8"}),
        (4, "large_batch", {"codec": "dgc", "track": ["gradient_norm"]}),
        (3, "large_batch", {"codec": "int8", "buffers": "local", "quantised_weights": True}),
        (2, "federated", {"codec": "dense", "track": ["per_class"]}),
        (4, "federated", {"codec": "int8", "local_momentum": "average"}),
        (3, "federated", {"codec": "1-bit", "local_momentum": "keep", "buffers": "local"}),
    ],
)
def test_the_record_is_that_of_the_simulation_and_its_bytes_came_over_the_wire(
    size: int, method: str, changes: dict[str, Any], root: Path
) -> None:
    spec = toy.spec(method, **LARGE_BATCH | changes)
    simulated, _ = runner.run(spec, SEED, root, checkpoint_seconds=math.inf)
    record, provenance = computed(size, spec, root)
    assert record.body() == simulated.body()
    assert provenance["processes"] == size
    last = record.rows[-1]
    assert provenance["transport"] == {
        "backend": "gloo", "bytes_up": last["bytes_up"], "bytes_down": last["bytes_down"]
    }  # fmt: skip
    assert last["bytes_up"] > 0


@pytest.mark.parametrize("size", [2, 4])
def test_dense_gradients_are_summed_worker_by_worker(size: int, root: Path) -> None:
    """To the last bit as in ``plain``; ``fast`` computes the sum in one pass, and so differs by round-off."""
    spec = toy.spec("large_batch", momentum=0.9, precision="fp64")
    separate, _ = runner.run(spec, SEED, root, checkpoint_seconds=math.inf, separate=True)
    fast, _ = runner.run(spec, SEED, root, checkpoint_seconds=math.inf)
    record, provenance = computed(size, spec, root)
    assert record.body() == separate.body()
    for ours, theirs in zip(record.rows, fast.rows, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9)
        assert (ours["bytes_up"], ours["bytes_down"]) == (theirs["bytes_up"], theirs["bytes_down"])
    assert provenance["transport"]["bytes_up"] == record.rows[-1]["bytes_up"]
