"""``repro advise``: the largest and the fastest batch for a network on a device, and what they will take.

What it rests on is measured now (``repro.commands.probe``) or comes from committed measurements of the same kind of
machine; what follows from it is in ``repro.commands.advice``.
"""

from __future__ import annotations

import ctypes
import os
import re
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from repro import files
from repro.commands import console, probe
from repro.commands.advice import Evidence, advise
from repro.errors import ReproError
from repro.performance.workload import Workload
from repro.registry import specs
from repro.results.batch_costs import gibibytes
from repro.results.links import Link, load_links

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_MOST_BYTES = 2**60


def run(options: Namespace, root: Path) -> int:
    """Print the advice; 1 if it was checked and the advised batch does not fit, or twice that does."""
    budget, workload = parse_bytes(options.memory), _workload(options, root)
    if options.probe or options.check:  # what is read from records needs no memory here
        _check_budget(budget, options.device)
    speeds, links = _clients(options, load_links(root))
    evidence = _evidence(options, workload, budget, root)
    advice = advise(workload, evidence, budget, speeds=speeds, links=links, every=options.every)
    if options.check:
        advice["check"] = probe.check(workload, advice["largest_batch"], budget, options.device)
    if options.json:
        console.as_json(advice)
    else:
        print("\n".join(lines(advice)))
    failed = options.check and (not advice["check"]["fits"] or advice["check"].get("twice_fits"))
    return int(bool(failed))


def parse_bytes(text: str) -> int:
    """A number of bytes with a unit.

    >>> parse_bytes("8GiB"), parse_bytes("1.5 GB")
    (8589934592, 1500000000)

    Raises:
        ReproError: not a number above 0 with a known unit, or more than any machine has.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    if not found or found[2] not in _UNITS or not 1 <= float(found[1]) * _UNITS[found[2]] <= _MOST_BYTES:
        shown = text if len(text) <= 40 else f"{text[:40]}..."
        units = ", ".join(filter(None, _UNITS))
        raise ReproError(f"memory {shown!r}; a number above 0 and one of {units} was expected, 2^60 bytes at most")
    return int(float(found[1]) * _UNITS[found[2]])


def physical_bytes(device: str) -> int | None:
    """Memory that the machine, or its GPU, has in all; None where the system does not say.

    Raises:
        ReproError: ``cuda`` where there is none.
    """
    if device == "cuda":
        if not torch.cuda.is_available():
            raise ReproError("no CUDA device here; leave --device out, or run where there is one")
        return int(torch.cuda.get_device_properties(0).total_memory)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # no such function, or no such name, as on Windows
        return _windows_bytes()


def _windows_bytes() -> int | None:
    kernel = getattr(ctypes, "windll", None)
    kibibytes = ctypes.c_ulonglong(0)
    if kernel is None or not kernel.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kibibytes)):
        return None
    return kibibytes.value * 1024


def _check_budget(budget: int, device: str) -> None:
    most = physical_bytes(device)
    if most is not None and budget > most:
        raise ReproError(
            f"{gibibytes(budget)} of memory; this machine has {gibibytes(most)}; a budget within it was expected to "
            "probe or check"
        )


def _evidence(options: Namespace, workload: Workload, budget: int, root: Path) -> Evidence:
    if options.probe:
        return probe.probe(workload, budget, options.device)
    known = probe.stored(workload, options.data, options.device, root)
    if known is None:
        raise ReproError(
            f"no measurement of {_network(workload.model, workload.width)} at {workload.image_size} px on this kind "
            "of machine is stored; run the command with --probe"
        )
    return known


def _workload(options: Namespace, root: Path) -> Workload:
    """What is advised on: the profile's size of the network, all training images of the data set."""
    folder = root / "data/manifests"
    known = sorted(path.stem for path in folder.glob("*.json"))
    if options.data not in known:
        raise ReproError(f"unknown data set {options.data!r}; one of {', '.join(known)} was expected")
    path = folder / f"{options.data}.json"
    manifest = files.read_json(path)
    try:
        images, height = (int(size) for size in manifest["arrays"]["train_images"]["shape"][:2])
        classes = len(manifest["classes"])
    except (KeyError, TypeError, ValueError) as error:
        raise ReproError(
            f"{path}: no shape of the training images, or no classes; a manifest as `python -m repro data "
            f"{options.data}` writes it was expected; restore it from git (`git checkout -- {path}`)"
        ) from error
    sizes = specs.sizes_of("lb", options.profile, options.model, root)
    chosen = sizes | {
        "model": options.model,
        "image_size": options.image_size or min(height, sizes["image_size"]),
        "width": options.width or sizes["width"],
        "precision": options.precision,
    }
    workload = Workload.of(chosen, classes=classes, images=images)
    workload.network()  # an unknown network, or one that these images are too small for, is said before anything runs
    return workload


def _clients(options: Namespace, known: Sequence[Link]) -> tuple[list[float], list[Link]]:
    """Speeds and links, one for each client; shorter lists are repeated."""
    speeds, by_name = _speeds(options.speeds), {link.name: link for link in known}
    names = options.links.split(",") if options.links else []
    for name in names:
        if name not in by_name:
            raise ReproError(f"--links: unknown link {name!r}; some of {', '.join(by_name)} were expected")
    if options.clients and not speeds and not names:
        raise ReproError(f"--clients {options.clients} alone changes nothing; give their --speeds, --links or both")
    count = options.clients or max(len(speeds), len(names))
    if count < max(len(speeds), len(names)):
        raise ReproError(f"--clients {count}; at least as many as speeds and links were expected")
    return (
        [speeds[i % len(speeds)] for i in range(count)] if speeds else [],
        [by_name[names[i % len(names)]] for i in range(count)] if names else [],
    )


def _speeds(text: str | None) -> list[float]:
    if not text:
        return []
    try:
        speeds = [float(each) for each in text.split(",")]
    except ValueError:
        speeds = []
    if not speeds or not all(1e-6 <= speed <= 1e6 for speed in speeds):
        raise ReproError(f"--speeds {text!r}; numbers separated by commas were expected, each from 0.000001 to 1000000")
    return speeds


# For readers -------------------------------------------------------------------------------------------------------


def lines(advice: Mapping[str, Any]) -> list[str]:
    """The advice for readers."""
    return [
        *_headlines(advice),
        *(_batch(each, advice["largest_measured"]) for each in advice["batches"]),
        *_synchronisation(advice),
        *_shares(advice),
        *_checked(advice),
    ]


def _network(model: str, width: int | None) -> str:
    return model if width is None else f"{model} of width {width}"


def _headlines(advice: Mapping[str, Any]) -> Iterator[str]:
    work, measured = advice["workload"], advice["measured"]
    yield (
        f"this is about {_network(work['model'], work['width'])} on images of {work['image_size']} px, "
        f"{work['images']} of them, {work['precision']}; {advice['evidence']}; noise {100 * advice['noise']:.1f} %"
    )
    tried = "" if advice["tried_out"] else "; from a line, not tried out: it may miss; --probe tries it out"
    yield (
        f"largest batch: {advice['largest_batch']} (limited by {advice['limited_by']}; predicted peak "
        f"{gibibytes(advice['largest_batch_bytes'])} of {gibibytes(advice['budget_bytes'])}{tried})"
    )
    if len(measured) > 1:
        yield (
            f"fastest batch of the {len(measured)} measured ones: {advice['fastest_batch']}; from "
            f"{advice['smallest_as_fast']} on as fast within the noise"
        )
    else:
        yield (
            f"fastest batch: {advice['fastest_batch']} is the only measured one that this memory leaves; allow more to "
            "compare"
        )


def _batch(costs: Mapping[str, Any], largest_measured: int) -> str:
    step, epoch = costs["step_seconds"], costs["epoch_seconds"]
    told = (
        f"  batch {costs['batch']}: step {step[0]:.4g} s [{step[1]:.4g}, {step[2]:.4g}], epoch {epoch[0]:.4g} s "
        f"[{epoch[1]:.4g}, {epoch[2]:.4g}], {costs['images_per_second']:.0f} images/s, {gibibytes(costs['bytes'])}"
    )
    if costs["extrapolated"]:
        told += f", time extrapolated beyond {largest_measured}"
    if "mean_step_seconds" in costs:
        told += f"; with synchronisation, assumed below, {costs['mean_step_seconds']:.4g} s a step"
    return told


def _synchronisation(advice: Mapping[str, Any]) -> Iterator[str]:
    if "assumed_synchronisation_seconds" in advice:
        yield (
            f"synchronisation, assumed from the links, not measured: {advice['message_bytes'] / 1e6:.1f} MB each way, "
            f"{advice['assumed_synchronisation_seconds']:.4g} s on the slowest link, every {advice['every']} steps"
        )


def _shares(advice: Mapping[str, Any]) -> Iterator[str]:
    if "shares" not in advice:
        return
    shares = advice["shares"]
    assumed = "speeds and synchronisation" if "assumed_synchronisation_seconds" in advice else "speeds"
    yield f"shares of a global batch of {shares['global_batch']}, measured steps with assumed {assumed}:"
    for name in ("uniform", "proportional", "equalising"):
        each = shares[name]
        gain = f", {each['times_faster']:.2f} times faster than uniform" if "times_faster" in each else ""
        room = "" if each["fits_everywhere"] else "; the largest share does not fit into the memory"
        yield f"  {name}: {' '.join(map(str, each['shares']))}: {each['round_seconds']:.4g} s a step{gain}{room}"


def _checked(advice: Mapping[str, Any]) -> Iterator[str]:
    if "check" not in advice:
        return
    found = advice["check"]
    fits = "fits" if found["fits"] else "DOES NOT FIT"
    yield f"trained at {found['batch']}: {fits}, peak {gibibytes(found['peak_bytes'])}"
    if "twice_fits" in found:
        yield f"trained at {2 * found['batch']}: {'FITS' if found['twice_fits'] else 'does not fit, as predicted'}"
