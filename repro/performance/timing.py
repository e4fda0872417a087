"""How long the parts of a step take: the local terms of Eq. 2 (t_c, t_mov), the update, and the whole step.

Batch sizes are measured in turn, in several blocks, so that a drift of the machine meets all of them alike and the
blocks are repetitions of the whole measurement; within a block each size has warm-up steps that do not count. The same
step on the same batch is timed before every batch size, after one that is not: what differs between these is the
machine's noise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from repro.data.batches import Batches
from repro.errors import ReproError
from repro.performance.workload import Trainer

PROBE_BATCH = 32
PARTS = ("compute", "movement", "update", "step")


@dataclass
class Timings:
    """Seconds, in order of measurement.

    Attributes:
        samples: (part, batch) -> one value for each repetition of each block.
        probe: time of the same step, again and again: one value before each batch size of each block.
        cpu_share: batch -> processor time over wall time of its steps; well below the number of threads, the process
            had to share its cores (on a GPU: it waited).
        blocks: number of blocks.
        finished: how many of them are finished.
    """

    blocks: int
    samples: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    probe: list[float] = field(default_factory=list)
    cpu_share: dict[int, float] = field(default_factory=dict)
    finished: int = 0


def measure(
    trainer: Trainer,
    sizes: Sequence[int],
    *,
    blocks: int,
    repetitions: int,
    warm_up: int = 1,
    report: Callable[[float], None] = lambda share: None,
    made: Timings | None = None,
    after_block: Callable[[Timings], None] = lambda made: None,
) -> Timings:
    """Time every batch size.

    ``movement``, ``compute`` (forward and backward pass) and ``update`` (of the optimiser) are the parts of the same
    steps, each timed by itself; ``step`` is the same work timed as a whole, in steps of its own, so that Eq. 2's sum
    can be held against it. Either goes first in turn, since steps of a size become faster at the beginning.

    Args:
        trainer: what trains.
        sizes: batch sizes.
        blocks: how often all sizes are gone through; at least 3, of which an interval can be made.
        repetitions: timed steps of each size in a block, for the parts and again for the whole.
        warm_up: steps before these that are not timed.
        report: called with the finished share.
        made: what an interrupted measurement had; it goes on with the next block.
        after_block: called with all finished blocks after each.

    Raises:
        ReproError: fewer than 3 blocks, or no repetition.
    """
    if blocks < 3 or repetitions < 1:
        raise ReproError(f"{blocks} blocks of {repetitions} repetitions; at least 3 blocks of 1 were expected")
    made = made or Timings(blocks)
    probe = trainer.batches(min(PROBE_BATCH, len(trainer.images)))
    fixed = trainer.move(probe, 0)
    for _ in range(3):
        trainer.compute(*fixed)
        trainer.update()
    for block in range(made.finished, blocks):
        # Every other block runs backwards, so that no size always follows the same one.
        for n, size in enumerate(sizes[:: 1 if block % 2 == 0 else -1]):
            trainer.compute(*fixed)  # the first step after a larger batch still waits for memory
            made.probe.append(seconds(trainer, lambda: trainer.compute(*fixed)))
            _one_size(trainer, size, repetitions, warm_up, made)
            report((block + (n + 1) / len(sizes)) / blocks)
        made.finished = block + 1
        after_block(made)
    return made


def _one_size(trainer: Trainer, size: int, repetitions: int, warm_up: int, made: Timings) -> None:
    batches = trainer.batches(size)
    for step in range(warm_up):
        trainer.train(batches, step)
    trainer.wait()
    wall, busy = time.perf_counter(), time.process_time()
    for step in range(repetitions):
        ways = (_in_parts, _as_a_whole) if step % 2 == 0 else (_as_a_whole, _in_parts)
        for way in ways:
            for part, taken in way(trainer, batches, step).items():
                made.samples.setdefault((part, size), []).append(taken)
    share = (time.process_time() - busy) / (time.perf_counter() - wall)
    made.cpu_share[size] = min(share, made.cpu_share.get(size, share))


def _in_parts(trainer: Trainer, batches: Batches, step: int) -> dict[str, float]:
    """Seconds of the parts of one step."""
    trainer.wait()
    clock = time.perf_counter()
    x, y = trainer.move(batches, step)
    trainer.wait()
    middle = time.perf_counter()
    trainer.compute(x, y)
    trainer.wait()
    late = time.perf_counter()
    trainer.update()
    trainer.wait()
    end = time.perf_counter()
    return {"movement": middle - clock, "compute": late - middle, "update": end - late}


def _as_a_whole(trainer: Trainer, batches: Batches, step: int) -> dict[str, float]:
    """Seconds of one step."""
    return {"step": seconds(trainer, lambda: trainer.train(batches, step))}


def seconds(trainer: Trainer, work: Callable[[], None]) -> float:
    """Wall time of ``work`` from an idle device to an idle device."""
    trainer.wait()
    start = time.perf_counter()
    work()
    trainer.wait()
    return time.perf_counter() - start


def threads() -> int:
    """Threads that torch computes with."""
    return torch.get_num_threads()
