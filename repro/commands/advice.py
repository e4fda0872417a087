"""What follows from measured memory and steps: the largest and the fastest batch, and what they will take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from repro import codecs
from repro.errors import ReproError
from repro.performance.workload import Workload
from repro.results import batch_costs, fits
from repro.results.batch_costs import gibibytes
from repro.results.fits import Line
from repro.results.links import Link, round_seconds
from repro.training.buffers import shared_state
from repro.verdicts import rules

APART = 0.75
"""Two probes make a line where the smaller batch is at most this share of the larger."""


@dataclass(frozen=True)
class Evidence:
    """What an advice rests on.

    Attributes:
        origin: for readers: a probe, or which records.
        peaks: batch -> peak bytes of the whole process.
        steps: batch -> (blocks, repetitions) seconds of a step, compute and data movement.
        noise: relative, of one and the same step.
        tried: whether the largest of ``peaks`` is the prediction tried out, so that nothing larger is advised.
    """

    origin: str
    peaks: dict[int, float]
    steps: dict[int, np.ndarray]
    noise: float
    tried: bool = False

    @property
    def memory(self) -> Line:
        """The line through the largest probe and the next one that lies well below; smaller ones bend it.

        Of two that lie close together the larger can have the smaller peak, by what processes differ. Small ones that
        share the peak of loading the images make no line either; if there are no others, the next one has to do.
        """
        sizes = sorted(self.peaks)
        floor = (1 + batch_costs.MARGIN) * self.peaks[sizes[0]]
        apart = [size for size in sizes if size <= APART * sizes[-1] and self.peaks[size] > floor]
        chosen = [(apart or sizes[:-1] or sizes)[-1], sizes[-1]]
        return fits.extremes(chosen, [self.peaks[batch] for batch in chosen])

    def bytes_at(self, batch: int) -> float:
        """Peak bytes of the process at a batch: watched where there is a probe, else on the line."""
        return self.peaks[batch] if batch in self.peaks else self.memory(batch)

    def step(self, batch: int) -> tuple[float, float, float]:
        """Seconds of a step at any batch: estimate, and 95 % interval over the blocks of the measurement."""
        sizes = sorted(self.steps)
        blocks = np.stack([np.median(self.steps[size], axis=1) for size in sizes], axis=1)
        found = rules.paired_interval([fits.between(sizes, block)(batch) for block in blocks])
        return found.estimate, max(found.low, 0.0), found.high


def line_of(peaks: Mapping[int, float]) -> Line:
    """``Evidence.memory`` of watched peaks."""
    return Evidence("", dict(peaks), {}, 0.0).memory


def advise(
    workload: Workload,
    evidence: Evidence,
    budget: int,
    *,
    speeds: Sequence[float] = (),
    links: Sequence[Link] = (),
    every: int = 1,
) -> dict[str, Any]:
    """What to do with ``budget`` bytes, as plain data.

    Args:
        workload: what will be trained.
        evidence: from ``repro.commands.probe``.
        budget: bytes of the whole process; on a GPU, of the device.
        speeds: of the clients, relative to this machine; for shares of a global batch of as many times the advised one.
        links: of the clients, for the synchronisation of Eq. 2.
        every: steps between synchronisations.

    Raises:
        ReproError: not even one image fits, or impossible clients.
    """
    predicted = batch_costs.advised_batch(evidence.memory, budget)
    largest = max(evidence.peaks) if evidence.tried else min(predicted, workload.images)
    timed = {size: float(np.median(each)) for size, each in evidence.steps.items() if size <= largest}
    if not timed:
        raise ReproError(
            f"{gibibytes(budget)} of memory leaves batches up to {largest}, the smallest timed one is "
            f"{min(evidence.steps)}; allow more"
        )
    fastest = batch_costs.fastest_batch(timed, evidence.noise)
    shown = sorted({fastest.smallest_as_fast, fastest.batch, largest})
    advice: dict[str, Any] = {
        "workload": workload.as_dict(),
        "evidence": evidence.origin,
        "noise": evidence.noise,
        "budget_bytes": budget,
        "largest_batch": largest,
        "limited_by": "number of images" if largest == workload.images < predicted else "memory",
        "tried_out": evidence.tried,
        "largest_batch_bytes": round(evidence.bytes_at(largest)),
        "fastest_batch": fastest.batch,
        "smallest_as_fast": fastest.smallest_as_fast,
        "measured": sorted(timed),
        "largest_measured": max(evidence.steps),
        "batches": [_costs(workload, evidence, size) for size in shown],
    }
    synchronisation = 0.0
    if links:
        message = _message_bytes(workload)
        synchronisation = round_seconds(links, message, message)
        for each in advice["batches"]:
            step = each["step_seconds"][0]
            each["mean_step_seconds"] = batch_costs.mean_step_seconds(step, 0.0, synchronisation, every)
        advice |= {"message_bytes": message, "assumed_synchronisation_seconds": synchronisation, "every": every}
    if speeds:
        advice["shares"] = _shares(evidence, fastest.smallest_as_fast, speeds, largest, synchronisation / every)
    return advice


def _message_bytes(workload: Workload) -> int:
    """Length of the message that holds all that clients share of the network."""
    codec = codecs.build("dense")
    return len(codec.encode(codec.new_state(), shared_state(workload.network())))


def _costs(workload: Workload, evidence: Evidence, batch: int) -> dict[str, Any]:
    step, steps = evidence.step(batch), math.ceil(workload.images / batch)
    return {
        "batch": batch,
        "bytes": round(evidence.bytes_at(batch)),
        "step_seconds": list(step),
        "epoch_seconds": [steps * each for each in step],
        "images_per_second": batch / step[0],
        "extrapolated": batch > max(evidence.steps),
    }


def _shares(
    evidence: Evidence, batch: int, speeds: Sequence[float], largest: int, synchronisation: float
) -> dict[str, Any]:
    """Three ways to share a global batch of ``batch`` for each client, and the mean step of each."""
    total = batch * len(speeds)

    def cost(size: float) -> float:
        return evidence.step(round(size))[0]

    made: dict[str, Any] = {"global_batch": total, "speeds": list(speeds)}
    ways = {
        "uniform": batch_costs.uniform_shares(total, len(speeds)),
        "proportional": batch_costs.proportional_shares(total, speeds),
        "equalising": batch_costs.equalising_shares(total, speeds, cost),
    }
    for name, shares in ways.items():
        seconds = batch_costs.round_seconds(shares, speeds, cost) + synchronisation
        made[name] = {"shares": shares, "round_seconds": seconds, "fits_everywhere": max(shares) <= largest}
    for name in ("proportional", "equalising"):
        made[name]["times_faster"] = made["uniform"]["round_seconds"] / made[name]["round_seconds"]
    return made
