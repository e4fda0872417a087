"""Data sets: fetched from the first source that works, checked by hash, prepared once, shared by processes.

``data/sources.yaml`` declares what a data set must contain and where it may come from. A *source* (``sources``) yields
named files; a *layout* (``layouts``) decodes them into four arrays. A new data set is an entry in that file, and a
class there only where its files look different.

    data/raw/                      what was downloaded, or put there by hand
    data/prepared/<name>/          the four arrays as .npy, memory-mapped by every process; manifest; provenance
    data/manifests/<name>.json     committed: hashes and counts, the same whatever source served the data

Nothing is used before its hash is right: archives are hashed before they are opened, decoded arrays before they are
written, prepared arrays whenever they are loaded (0.1 s for CIFAR-10).

Some data sets exist in several *variants*: complete, or reduced in a declared way. The committed manifest states the
variant that the repository's records were made from; a machine that has another one is told so and does not mix them.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from repro.data.sets.declarations import (
    ROOT,
    Declaration,
    Variant,
    array_dtype,
    array_sha256,
    combined_sha256,
    declaration,
    declarations,
)
from repro.data.sets.layouts import ARRAYS, Array
from repro.data.sets.sources import NotServed, Source, say, told
from repro.errors import ReproError
from repro.files import canonical_json, write_atomic

__all__ = [
    "ARRAYS",
    "DEFAULT",
    "Declaration",
    "Images",
    "declaration",
    "declarations",
    "load",
    "manifest",
    "manifest_sha256",
    "prepare",
    "write_manifest",
]

DEFAULT = ("cifar10",)
"""What everything but the paper's measurements needs, and ``repro data`` prepares when it is not told what.

The sets of the measurements cannot be fetched on every machine; a run of one that is not there is a problem of the
sweep in one line, and all others go on.
"""

MANIFEST = "manifest.json"
PROVENANCE = "provenance.json"


@dataclass(frozen=True)
class Images:
    """One prepared data set; the arrays are read-only memory maps, so that processes share their pages.

    Attributes:
        name: name in ``sources.yaml``.
        train_images: uint8 (N, H, W, C), in the order of the official distribution.
        train_labels: int64 (N,), values in ``range(n_classes)``.
        test_images: uint8 (M, H, W, C).
        test_labels: int64 (M,).
        n_classes: number of classes.
        class_names: names of the classes, by label.
        sha256: one hex digest over the SHA-256 of the four arrays.
        reduced: how this copy differs from the published data set; None when it is complete.
    """

    name: str
    train_images: Array
    train_labels: Array
    test_images: Array
    test_labels: Array
    n_classes: int
    class_names: tuple[str, ...]
    sha256: str
    reduced: str | None


class _NotPrepared(Exception):
    """There are no intact prepared arrays; ``str`` is the reason, empty when there are none at all."""


# ---- prepare and load --------------------------------------------------------------------------------------


def load(name: str, root: Path = ROOT) -> Images:
    """The data set ``name``, prepared when it is not yet; every call checks the SHA-256 of all arrays.

    Raises:
        ReproError: the name is unknown, no source served the data, there is no room to prepare it, or this machine
            has another variant than the committed manifest states.
    """
    arrays, stored = _intact(name, root)
    committed = _manifest_path(name, root)
    if committed.exists() and manifest_sha256(name, root) != stored["sha256"]:
        stated = json.loads(committed.read_text(encoding="utf-8"))["reduced"]
        raise ReproError(
            f"{name}: this machine has {_form(stored['reduced'])}, but {committed} and the records of this repository "
            f"rest on {_form(stated)}; put those data under {Path(root) / 'raw'} and delete "
            f"{Path(root) / 'prepared' / name}, or run `python -m repro data {name}` to go on with what is here, which "
            "makes the records stale"
        )
    return Images(
        name=name,
        **arrays,
        n_classes=len(stored["classes"]),
        class_names=tuple(stored["classes"]),
        sha256=stored["sha256"],
        reduced=stored["reduced"],
    )


def _form(reduced: str | None) -> str:
    return "the complete data set" if reduced is None else f"a reduced one ({reduced})"


def _intact(name: str, root: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Checked memory maps of the prepared arrays and their manifest."""
    declared = declaration(name, root)
    try:
        return _opened(declared, Path(root))
    except _NotPrepared:
        prepare(name, root)
    try:
        return _opened(declared, Path(root))
    except _NotPrepared as flaw:
        raise ReproError(f"{name} was prepared, yet {flaw}; check the disk, then run again") from flaw


def prepare(name: str, root: Path = ROOT, download: bool = True) -> dict[str, Any]:
    """Make ``root/prepared/<name>`` from the first source that serves a declared variant; its provenance.

    Nothing is done where intact arrays exist. Of several processes, one prepares and the others wait.

    Args:
        name: a data set of ``sources.yaml``.
        root: the data folder.
        download: whether sources outside ``root/raw`` may be asked.

    Returns:
        ``{"name", "served_by": "raw" | "official" | "npm" | "derived", "origin", "sha256"}``, stored beside the arrays.

    Raises:
        ReproError: unknown name; no source served the data (the message lists all ways); no room to write.
    """
    from filelock import FileLock  # whose import takes longer than most commands, which only read manifests

    declared, root = declaration(name, root), Path(root)
    prepared = root / "prepared"
    try:
        for folder in (prepared, root / "raw"):
            folder.mkdir(parents=True, exist_ok=True)
        with FileLock(prepared / f".{name}.lock"):
            try:
                _opened(declared, root)
                return dict(json.loads((prepared / name / PROVENANCE).read_text(encoding="utf-8")))
            except _NotPrepared as flaw:
                if str(flaw):
                    say(f"{flaw}; preparing {name} again")
            source, arrays, made = _obtained(declared, root / "raw", download)
            provenance = {
                "name": name,
                "served_by": source.kind,
                "origin": source.origin,
                "sha256": made["sha256"],
            }
            _write(prepared / name, arrays, made, provenance)
            return provenance
    except OSError as error:
        images = max(variant.images for variant in declared.variants)
        arrays_mb = images * (math.prod(declared.image_shape) + np.dtype(np.int64).itemsize) / 1e6
        raise ReproError(
            f"{name} could not be prepared under {root} ({told(error)}); it takes a writable folder "
            f"with room for a download and {arrays_mb:.0f} MB of arrays; make room, then run again"
        ) from error


def _opened(declared: Declaration, root: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Memory maps of the prepared arrays, all hashes checked, and their manifest. Raises _NotPrepared."""
    folder = root / "prepared" / declared.name
    if not folder.is_dir():
        raise _NotPrepared
    try:
        json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
        stored = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        arrays = {array: np.load(folder / f"{array}.npy", mmap_mode="r") for array in ARRAYS}
        classes = tuple(stored["classes"])
        (variant,) = (each for each in declared.variants if each.reduced == stored["reduced"])
        found = _manifest(declared, variant, arrays, classes)
    except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
        raise _NotPrepared(f"{folder} is damaged or outdated ({told(error)})") from error
    if found != stored or _flaw(found, variant):
        raise _NotPrepared(f"{folder} is damaged or outdated: {_flaw(found, variant) or 'its manifest differs'}")
    return arrays, stored


def _obtained(
    declared: Declaration, raw: Path, download: bool
) -> tuple[Source, dict[str, Array], dict[str, Any]]:  # fmt: skip
    """The first source that works, the arrays that it served, and their manifest."""
    reasons = []
    for place, source in enumerate(declared.sources, start=1):
        try:
            return source, *_decoded(source, declared, raw, download)
        except NotServed as reason:
            reasons.append(f"({place}) {source.way(raw)} [{reason}]")
            if place < len(declared.sources):
                following = declared.sources[place].kind
                say(f"{declared.name}: source '{source.kind}' did not work: {reason}; trying '{following}'")
    raise ReproError(
        f"{declared.name} could not be obtained from any of its {len(reasons)} sources; do one of these, "
        f"then run the command again: {'; or '.join(reasons)}"
    )


def _decoded(
    source: Source, declared: Declaration, raw: Path, download: bool
) -> tuple[dict[str, Array], dict[str, Any]]:  # fmt: skip
    def other(name: str) -> Images:
        prepare(name, raw.parent, download)
        return load(name, raw.parent)

    decoded = source.decoded(raw, download, declared.image_shape, other)
    arrays = {array: np.ascontiguousarray(decoded.arrays[array], dtype=array_dtype(array)) for array in ARRAYS}
    try:
        variant = declared.variant(decoded)
    except ValueError as error:
        raise NotServed(f"{source.origin} does not hold {declared.title}: {error}") from error
    found = _manifest(declared, variant, arrays, decoded.classes or ())
    if flaw := _flaw(found, variant):
        raise NotServed(f"{source.origin} does not hold {declared.title}: {flaw}")
    return arrays, found


def _write(
    target: Path, arrays: Mapping[str, Array], made: Mapping[str, Any], provenance: Mapping[str, Any]
) -> None:  # fmt: skip
    """All files in a folder of another name, which takes the right name only when it is complete."""
    work = target.with_name(f".{target.name}.part")
    shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
    work.mkdir()
    try:
        for name, array in arrays.items():
            with (work / f"{name}.npy").open("wb") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
        write_atomic(work / MANIFEST, canonical_json(made))
        write_atomic(work / PROVENANCE, canonical_json(provenance))
        if target.exists():
            shutil.rmtree(target)
        os.replace(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _flaw(found: Mapping[str, Any], variant: Variant) -> str | None:
    """What the first array that differs from the declared ones should have been, or None."""
    if variant.shapes is None or variant.hashes is None:
        return None
    for name, facts in found["arrays"].items():
        dtype, shape = np.dtype(facts["dtype"]), tuple(facts["shape"])
        if shape != variant.shapes[name] or dtype != array_dtype(name):
            return f"{name} is {dtype} {shape}, expected {array_dtype(name)} {variant.shapes[name]}"
        if facts["sha256"] != variant.hashes[name]:
            return f"{name} has SHA-256 {facts['sha256']}, expected {variant.hashes[name]}"
    return None


# ---- manifests ---------------------------------------------------------------------------------------------


def _manifest(
    declared: Declaration, variant: Variant, arrays: Mapping[str, Array], classes: tuple[str, ...]
) -> dict[str, Any]:  # fmt: skip
    names = declared.classes or classes
    hashes = {array: array_sha256(arrays[array]) for array in ARRAYS}
    facts = {
        array: {
            "dtype": arrays[array].dtype.name,
            "shape": list(arrays[array].shape),
            "sha256": hashes[array],
        }
        for array in ARRAYS
    }
    return {
        "name": declared.name,
        "title": declared.title,
        "reduced": variant.reduced,
        "classes": list(names),
        "train_per_class": np.bincount(arrays["train_labels"], minlength=len(names)).tolist(),
        "test_per_class": np.bincount(arrays["test_labels"], minlength=len(names)).tolist(),
        "arrays": facts,
        "sha256": combined_sha256(hashes),
    }


def manifest(name: str, root: Path = ROOT) -> dict[str, Any]:
    """Hashes and counts of the arrays on this machine, the same whatever source served them."""
    return _intact(name, root)[1]


def _manifest_path(name: str, root: Path) -> Path:
    return Path(root) / "manifests" / f"{name}.json"


def write_manifest(name: str, root: Path = ROOT) -> Path:
    """Write ``root/manifests/<name>.json`` for the variant on this machine; its path.

    Records that were made from another variant are stale from then on.
    """
    path = _manifest_path(name, root)
    found = canonical_json(manifest(name, root))
    if path.exists() and path.read_text(encoding="utf-8") != found:
        say(f"{path} now states other data than before: records made from those are stale")
    write_atomic(path, found)
    return path


def manifest_sha256(name: str, root: Path = ROOT) -> str:
    """``Images.sha256`` as the committed manifest states it, so that a clone without data can check records.

    Raises:
        ReproError: the name is unknown, or its manifest is absent or contradicts itself.
    """
    path = _manifest_path(name, root)
    remedy = f"run `python -m repro data {name}` to write it again"
    try:
        return _stated(path.read_text(encoding="utf-8"), path, remedy)
    except OSError as error:
        declaration(name, root)
        raise ReproError(f"{path} cannot be read ({error.strerror}); {remedy}") from error
    except UnicodeDecodeError as error:
        raise ReproError(f"{path} is not a manifest of a data set ({error!r}); {remedy}") from error


@lru_cache(maxsize=32)
def _stated(text: str, path: Path, remedy: str) -> str:
    """What the manifest ``text`` at ``path`` states."""
    try:
        stored = json.loads(text)
        hashes = {array: str(stored["arrays"][array]["sha256"]) for array in ARRAYS}
        combined = combined_sha256(hashes)
        consistent = stored["sha256"] == combined
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ReproError(f"{path} is not a manifest of a data set ({error!r}); {remedy}") from error
    if not consistent:
        raise ReproError(f"{path}: sha256 is {stored['sha256']}, the arrays give {combined}; {remedy}")
    return combined
