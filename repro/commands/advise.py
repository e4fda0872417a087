"""``repro advise``: the largest and the fastest batch for a network on a device, and what they will take.

Memory is that of the whole process, which is what a limit is set on: it is probed in child processes, at batches that
grow until they fill most of the budget (the paper's "extreme batch-sizes"), and goes on as a line. malloc keeps what it
may need again, so that the line bends by some percent; therefore the batch that it predicts is tried out, lowered until
it fits, and raised while the line through what fitted leaves room. What a probe advises has been trained. Time comes
from steps at several sizes. Both can come from committed measurements of the same kind of machine instead.

On a GPU the memory is what torch reserves there. The context that the driver keeps for each process and the code of
kernels (some hundred MB) are not in it, so that a budget must leave them free; nor are the images, which stay with the
host.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from repro import codecs, machine
from repro.errors import ReproError
from repro.performance import measure, peak, timing
from repro.performance.workload import Trainer, Workload
from repro.registry import specs, store
from repro.results import batch_costs, fits, measurements, records
from repro.results import links as network
from repro.results.batch_costs import gibibytes
from repro.results.fits import Line
from repro.results.records import Record
from repro.training.buffers import shared_state
from repro.verdicts import rules

FIRST_PROBE = 16
FILLED = 0.6
"""Probing stops once a child's growth over its libraries fills this share of what the budget leaves for it."""
LOWER = 0.93
"""Factor by which a predicted batch is lowered while trying it out shows that it does not fit."""
CLOSE = 1.02
"""A prediction less than this factor above a batch that fitted is not tried out: processes differ by as much."""
APART = 0.75
"""Two probes make a line where the smaller batch is at most this share of the larger."""
BLOCKS, REPETITIONS = 3, 3
SIZES = (1, 8, 32, 64, 128, 256, 512, 1024)
LONGEST_STEP = 4.0
"""Seconds: larger batches are not timed by a probe, their time is extrapolated."""

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def parse_bytes(text: str) -> int:
    """A number of bytes with a unit.

    >>> parse_bytes("8GiB"), parse_bytes("1.5 GB")
    (8589934592, 1500000000)

    Raises:
        ReproError: not a number above 0 with a known unit.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if not found or found[2] not in _UNITS or float(found[1]) <= 0:
        raise ReproError(f"memory {text!r}; a number above 0 and one of {', '.join(filter(None, _UNITS))} was expected")
    return int(float(found[1]) * _UNITS[found[2]])


def physical_bytes(device: str) -> int:
    """Memory that the machine, or its GPU, has in all.

    Raises:
        ReproError: ``cuda`` where there is none.
    """
    if device == "cuda":
        if not torch.cuda.is_available():
            raise ReproError("no CUDA device here; leave --device out, or run where there is one")
        return int(torch.cuda.get_device_properties(0).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


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


def probe_memory(workload: Workload, budget: int, device: str = "cpu") -> dict[int, float]:
    """Peak bytes of children at growing batches, each twice the one before, until they fill ``FILLED`` of the budget.

    Small batches can share one peak, that of loading the images, which no line through two of them shows. Probing
    therefore goes on, between sizes where doubling does not fit, until the last but one exceeds the first by more than
    the share of the budget by which processes differ anyway.

    Raises:
        ReproError: not even one image fits, too few images to probe two batches, or a child failed.
    """
    peaks: dict[int, float] = {}
    batch, over = max(1, min(FIRST_PROBE, workload.images // 2)), workload.images + 1
    full = False
    while True:
        found = peak.train(workload, batch, limit=budget, device=device)
        if found.finished:
            peaks[batch] = found.peak
            full = found.peak - found.base > FILLED * (budget - found.base)
        elif batch == 1:
            raise ReproError(
                f"{gibibytes(budget)} of memory; training {workload.model} at batch 1 needs more; allow more"
            )
        else:
            over = batch
        if not peaks:
            batch = 1
            continue
        sizes = sorted(peaks)
        grown = len(sizes) > 1 and peaks[sizes[-2]] - peaks[sizes[0]] > batch_costs.MARGIN * budget
        doubled = 2 * sizes[-1]
        if grown and (full or doubled >= over):
            return peaks
        batch = doubled if doubled < over else (sizes[-1] + over) // 2
        if batch in peaks:  # nothing lies between the largest that fits and the smallest that does not
            if len(peaks) > 1:
                return peaks
            raise ReproError(f"{workload.images} images are too few to probe two batch sizes; at least 2 were expected")


def try_out(workload: Workload, peaks: Mapping[int, float], budget: int, device: str = "cpu") -> dict[int, float]:
    """``peaks``, and those of predicted batches that really trained within the budget; the largest is to be advised.

    A prediction that does not fit is lowered by ``LOWER`` until it does. After one that fits the line goes through it,
    and its prediction is tried in turn, while it is not ``CLOSE`` already and nothing has failed.

    Raises:
        ReproError: a child failed for another reason than memory.
    """
    peaks, failed = dict(peaks), False
    batch = min(workload.images, batch_costs.advised_batch(line_of(peaks), budget))
    while batch > max(peaks):
        found = peak.train(workload, batch, limit=budget, device=device)
        if not found.finished:
            failed, batch = True, math.floor(LOWER * batch)
            continue
        peaks[batch] = found.peak
        better = min(workload.images, batch_costs.advised_batch(line_of(peaks), budget))
        if failed or better < CLOSE * batch:
            break
        batch = better
    return peaks


def probe_time(workload: Workload, largest: int, device: str = "cpu") -> tuple[dict[int, np.ndarray], float]:
    """Seconds of steps at sizes up to ``largest``, as (blocks, repetitions) by batch, and the machine's noise.

    A line on stderr for each size and each block says how far it is.
    """
    trainer = Trainer(workload, device=torch.device(device))
    wanted = sorted({*(size for size in SIZES if size <= largest), min(largest, SIZES[-1])})
    sizes: list[int] = []
    for size in wanted:
        batches = trainer.batches(size)
        trainer.train(batches, 0)
        sizes.append(size)
        taken = timing.seconds(trainer, lambda batches=batches: trainer.train(batches, 0))  # type: ignore[misc]
        print(f"probe: {workload.model}, batch {size}: {taken:.3g} s a step", file=sys.stderr, flush=True)
        if len(sizes) > 1 and taken > LONGEST_STEP:
            break

    def say(share: float) -> None:
        if (done := round(share * BLOCKS, 6)).is_integer():
            print(f"probe: {workload.model}, block {done:.0f} of {BLOCKS} timed", file=sys.stderr, flush=True)

    made = timing.measure(trainer, sizes, blocks=BLOCKS, repetitions=REPETITIONS, report=say)
    steps = {size: np.reshape(made.samples["step", size], (BLOCKS, -1)) for size in sizes}
    return steps, measurements.noise_of(made.probe)


def probe(workload: Workload, budget: int, device: str = "cpu") -> Evidence:
    """Measure here and now. Raises as ``probe_memory``."""
    torch.set_num_threads(1)
    peaks = try_out(workload, probe_memory(workload, budget, device), budget, device)
    steps, noise = probe_time(workload, max(peaks), device)
    return Evidence("probed now on this machine", peaks, steps, noise, tried=True)


def line_of(peaks: Mapping[int, float]) -> Line:
    """``Evidence.memory`` of watched peaks."""
    return Evidence("", dict(peaks), {}, 0.0).memory


def stored(workload: Workload, dataset: str, device: str, root: Path = Path()) -> Evidence | None:
    """Evidence from a committed measurement of the same workload on the same kind of machine, or None.

    Its children held another number of images in memory; the difference is counted, but on a GPU, where images stay
    with the host.
    """
    here = measure.machine_kind(machine.describe(), torch.device(device)) | {"threads": 1}
    for record in _measurements(root):
        spec = record.spec
        same = {name: spec.get(name) for name in _SAME}
        wanted = workload.as_dict()
        if any(value != wanted[name] for name, value in same.items()) or spec["dataset"] != dataset:
            continue
        sizes, peaks = measurements.bytes_of(record, "peak")
        if record.machine != here or len(sizes) < 2 or "probe" not in record.series:
            continue
        image = (workload.image_size + 2 * max(1, workload.image_size // 8) * workload.augment) ** 2 * 3
        more = (workload.images - spec["train_images"]) * image * (device == "cpu")
        steps = {size: measurements.samples(record, "step", size) for size in measurements.batches(record)}
        origin = f"{records.path_of(record).as_posix()}, measured on this kind of machine"
        return Evidence(
            origin, {s: p + more for s, p in zip(sizes, peaks, strict=True)}, steps, measurements.noise(record)
        )
    return None


_SAME = ("model", "width", "norm", "image_size", "precision", "augment", "momentum", "patch", "depth")
"""Settings that a stored measurement must share with what is advised on."""


def _measurements(root: Path) -> list[Record]:
    """Valid measurement records of all profiles."""
    tasks = [task for profile in specs.PROFILES for task in specs.runs("lb", profile, "artefact", root)]
    stored = (store.stored(*task, root) for task in tasks if task[0].kind == "measure")
    return [record for record in stored if record is not None]


def advise(
    workload: Workload, evidence: Evidence, budget: int, *, speeds: Sequence[float] = (),
    links: Sequence[network.Link] = (), every: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """What to do with ``budget`` bytes, as plain data.

    Args:
        workload: what will be trained.
        evidence: from ``probe`` or ``stored``.
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
    advice: dict[str, Any] = {
        "workload": workload.as_dict(), "evidence": evidence.origin, "noise": evidence.noise, "budget_bytes": budget,
        "largest_batch": largest,
        "limited_by": "number of images" if largest == workload.images < predicted else "memory",
        "tried_out": evidence.tried, "largest_batch_bytes": round(evidence.bytes_at(largest)),
        "fastest_batch": fastest.batch, "smallest_as_fast": fastest.smallest_as_fast,
        "measured": sorted(timed), "largest_measured": max(evidence.steps),
        "batches": [
            _costs(workload, evidence, size) for size in sorted({fastest.smallest_as_fast, fastest.batch, largest})
        ],
    }  # fmt: skip
    synchronisation = 0.0
    if links:
        model = workload.network()
        codec = codecs.build("dense")
        message = len(codec.encode(codec.new_state(), shared_state(model)))
        synchronisation = network.round_seconds(links, message, message)
        for each in advice["batches"]:
            each["mean_step_seconds"] = batch_costs.mean_step_seconds(
                each["step_seconds"][0], 0.0, synchronisation, every
            )
        advice |= {"message_bytes": message, "assumed_synchronisation_seconds": synchronisation, "every": every}
    if speeds:
        advice["shares"] = _shares(evidence, fastest.smallest_as_fast, speeds, largest, synchronisation / every)
    return advice


def _costs(workload: Workload, evidence: Evidence, batch: int) -> dict[str, Any]:
    step, steps = evidence.step(batch), math.ceil(workload.images / batch)
    return {
        "batch": batch, "bytes": round(evidence.bytes_at(batch)), "step_seconds": list(step),
        "epoch_seconds": [steps * each for each in step], "images_per_second": batch / step[0],
        "extrapolated": batch > max(evidence.steps),
    }  # fmt: skip


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


def check(workload: Workload, batch: int, budget: int, device: str = "cpu") -> dict[str, Any]:
    """Really train at ``batch`` and at twice that under the limit, watched from outside."""
    once = peak.train(workload, batch, limit=budget, device=device)
    found: dict[str, Any] = {"batch": batch, "fits": once.finished, "peak_bytes": once.peak}
    if 2 * batch <= workload.images:
        twice = peak.train(workload, 2 * batch, limit=budget, device=device)
        found |= {"twice_fits": twice.finished, "twice_peak_bytes": twice.peak}
    return found


def lines(advice: Mapping[str, Any]) -> list[str]:
    """The advice for readers."""
    work = advice["workload"]
    told = [
        f"this is about {work['model']} of width {work['width']} on images of {work['image_size']} px, "
        f"{work['images']} of them, {work['precision']}; {advice['evidence']}; noise {100 * advice['noise']:.1f} %",
        f"largest batch: {advice['largest_batch']} (limited by {advice['limited_by']}; predicted peak "
        f"{gibibytes(advice['largest_batch_bytes'])} of {gibibytes(advice['budget_bytes'])}"
        + (")" if advice["tried_out"] else "; from a line, not tried out: it may miss; --probe tries it out)"),
        f"fastest batch of the {len(advice['measured'])} measured ones: {advice['fastest_batch']}; from "
        f"{advice['smallest_as_fast']} on as fast within the noise"
        if len(advice["measured"]) > 1
        else f"fastest batch: {advice['fastest_batch']} is the only measured one that this memory leaves; allow more "
        "to compare",
    ]
    for each in advice["batches"]:
        step, epoch = each["step_seconds"], each["epoch_seconds"]
        told.append(
            f"  batch {each['batch']}: step {step[0]:.4g} s [{step[1]:.4g}, {step[2]:.4g}], epoch {epoch[0]:.4g} s "
            f"[{epoch[1]:.4g}, {epoch[2]:.4g}], {each['images_per_second']:.0f} images/s, {gibibytes(each['bytes'])}"
            + (f", time extrapolated beyond {advice['largest_measured']}" if each["extrapolated"] else "")
            + (
                f"; with synchronisation, assumed below, {each['mean_step_seconds']:.4g} s a step"
                if "mean_step_seconds" in each
                else ""
            )
        )
    if "assumed_synchronisation_seconds" in advice:
        told.append(
            f"synchronisation, assumed from the links, not measured: {advice['message_bytes'] / 1e6:.1f} MB each way, "
            f"{advice['assumed_synchronisation_seconds']:.4g} s on the slowest link, every {advice['every']} steps"
        )
    if "shares" in advice:
        shares = advice["shares"]
        assumed = "speeds and synchronisation" if "assumed_synchronisation_seconds" in advice else "speeds"
        told.append(f"shares of a global batch of {shares['global_batch']}, measured steps with assumed {assumed}:")
        for name in ("uniform", "proportional", "equalising"):
            each = shares[name]
            gain = f", {each['times_faster']:.2f} times faster than uniform" if "times_faster" in each else ""
            room = "" if each["fits_everywhere"] else "; the largest share does not fit into the memory"
            told.append(
                f"  {name}: {' '.join(map(str, each['shares']))}: {each['round_seconds']:.4g} s a step{gain}{room}"
            )
    if "check" in advice:
        found = advice["check"]
        fits_now = "fits" if found["fits"] else "DOES NOT FIT"
        told.append(f"trained at {found['batch']}: {fits_now}, peak {gibibytes(found['peak_bytes'])}")
        if "twice_fits" in found:
            told.append(
                f"trained at {2 * found['batch']}: {'FITS' if found['twice_fits'] else 'does not fit, as predicted'}"
            )
    return told
