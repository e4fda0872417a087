"""A run of kind ``measure``: what one network costs in time and memory against the batch size.

Its record is a measurement: made alone on the machine, repeated within an interval and never to the last bit.
"""

from __future__ import annotations

import ctypes
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from repro.checkpoint import Checkpoint
from repro.errors import ReproError
from repro.performance import memory, peak, timing
from repro.performance.timing import Timings
from repro.performance.workload import Trainer

LOADER_BLOCKS = 5


@dataclass
class _Found:
    """What a measurement has so far: readings of the loader, finished blocks, and (peak, base) by batch size."""

    loader: dict[int, list[int]] | None = None
    timed: Timings | None = None
    watched: dict[int, tuple[int, int]] = field(default_factory=dict)


def _restored(state: dict[str, Any]) -> _Found:
    timed = state["timed"]
    return _Found(state["loader"], None if timed is None else Timings(**timed), state["watched"])


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        sizes: batch sizes, ascending.
        blocks, repetitions: of the timing (``timing.measure``); with 0 repetitions nothing is timed.
        peak_sizes: batch sizes whose peak is watched.
    """

    sizes: Sequence[int]
    blocks: int
    repetitions: int
    peak_sizes: Sequence[int] = ()


def measure(
    trainer: Trainer,
    plan: Plan,
    report: Callable[[float], None] = lambda share: None,
    checkpoint: Checkpoint | None = None,
) -> tuple[list[dict[str, Any]], dict[str, list[float]]]:
    """Count, time and watch every batch size.

    Args:
        trainer: what trains; children train the same workload, on random images.
        plan: what is measured.
        report: called with the finished share.
        checkpoint: where finished blocks and peaks are kept; an interrupted measurement goes on with the next one.

    Returns:
        One row for each batch size (``_row``), and every single time as series: ``compute 32`` and so on, all seconds
        of a part at a batch size, block after block; ``loader 32``, all readings of ``loader``, one of each block;
        ``probe``, the same step at batch 32 again and again: the machine's noise.

    Raises:
        ReproError: as ``timing.measure`` and ``peak.train``.
    """
    found = (checkpoint.restore(_restored) if checkpoint else None) or _Found()

    def keep() -> None:
        if checkpoint and checkpoint.due():
            checkpoint.save(asdict(found))

    if found.loader is None:
        found.loader = _loader_bytes(trainer, plan.sizes)  # first, before training leaves free memory behind
    counted = {size: memory.terms(trainer, size) for size in plan.sizes}
    share = 0.85 if plan.peak_sizes else 1.0
    if plan.repetitions:

        def after_block(made: Timings) -> None:
            found.timed = made
            keep()

        found.timed = timing.measure(
            trainer,
            plan.sizes,
            blocks=plan.blocks,
            repetitions=plan.repetitions,
            report=lambda done: report(share * done),
            made=found.timed,
            after_block=after_block,
        )
    for size in plan.peak_sizes:
        if size not in found.watched:
            seen = peak.train(trainer.workload, size, device=trainer.device.type)
            found.watched[size] = (seen.peak, seen.base)
            keep()
    rows = [_row(trainer, size, counted[size], found) for size in plan.sizes]
    report(1.0)
    return rows, _series(found)


def _row(trainer: Trainer, size: int, counted: memory.Terms, found: _Found) -> dict[str, Any]:
    """What a record holds of one batch size.

    ``batch``; ``parameters``, how many, and bytes of ``buffers``; the bytes ``model``, ``gradients``, ``optimiser``,
    ``activations`` and ``batch_held`` of Eq. 3; ``loader``, growth of resident memory while the loader makes a batch
    (median of ``LOADER_BLOCKS``; None where the system does not tell); ``peak``, of a child process, and ``base``, of
    its interpreter and libraries (None where not watched); ``n`` timed steps; ``compute``, ``movement``, ``update`` and
    ``step`` seconds as [lower quartile, median, upper quartile] (None where nothing was timed); ``cpu_share``,
    processor time over wall time.
    """
    timed, loader = found.timed or Timings(0), found.loader or {}
    highest, base = found.watched.get(size, (None, None))
    return {
        "batch": size,
        "parameters": sum(each.numel() for each in trainer.model.parameters()),
        "buffers": memory.held(trainer.model.buffers()),
        "model": counted.model,
        "gradients": counted.gradients,
        "optimiser": counted.optimiser,
        "activations": counted.activations,
        "batch_held": counted.batch,
        "loader": round(statistics.median(loader[size])) if loader else None,
        "peak": highest,
        "base": base,
        "n": len(timed.samples.get(("step", size), [])),
        **{part: _quartiles(timed.samples.get((part, size))) for part in timing.PARTS},
        "cpu_share": _digits(timed.cpu_share[size]) if size in timed.cpu_share else None,
    }


def _series(found: _Found) -> dict[str, list[float]]:
    timed = found.timed or Timings(0)
    series = {f"{part} {size}": [_digits(each) for each in samples] for (part, size), samples in timed.samples.items()}
    series |= {f"loader {size}": list(map(float, readings)) for size, readings in (found.loader or {}).items()}
    probe = {"probe": [_digits(each) for each in timed.probe]} if found.timed else {}
    return dict(sorted(series.items())) | probe


def _digits(value: float) -> float:
    """Five significant digits: more is noise."""
    return float(f"{value:.5g}")


def _quartiles(samples: Sequence[float] | None) -> list[float] | None:
    return [_digits(float(each)) for each in np.quantile(samples, (0.25, 0.5, 0.75))] if samples else None


def _loader_bytes(trainer: Trainer, sizes: Sequence[int]) -> dict[int, list[int]]:
    """Growth of this process's resident memory, at its highest, while the loader makes one batch.

    Every block goes through all sizes, so that blocks repeat the whole measurement.

    Returns:
        One reading of each block by size; nothing where the system does not tell. A reading counts whole pages.
    """
    batches = {size: trainer.batches(size) for size in sizes}
    found: dict[int, list[int]] = {size: [] for size in sizes}
    try:
        for block in range(LOADER_BLOCKS):
            for size, each in batches.items():
                if block == 0:
                    trainer.images.window(*each._slice(0, 0))  # the first call loads code and plans the epoch
                _give_back_free_memory()
                peak.reset_peak()
                before = peak.resident()
                x, y = each.get(0, block)
                found[size].append(peak.resident_peak() - before)
                del x, y
    except ReproError:
        return {}
    return found


def _give_back_free_memory() -> None:
    """Ask malloc to return what is free, so that the next batch is new to the system. Not every C library can."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError) as error:
        raise ReproError("this C library cannot return free memory; glibc was expected") from error


def machine_kind(described: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """What two measurements must share to be comparable: the device, its instructions, threads and torch."""
    return {
        "device": described["device"],
        "instructions": described["instructions"],
        "torch": described["torch"],
        "threads": timing.threads(),
        "kind": device.type,
    }
