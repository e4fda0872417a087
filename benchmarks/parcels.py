"""What travels to a borrowed machine and back, as files of a limited size: code, CIFAR-10, records, checkpoints.

Images travel as lossless WebP, 1 000 in a picture: 107 MB of 184. Each part is a folder, so that an upload of limited
size can take one at a time. Unpacked arrays are held to the hashes of ``data/manifests``.
"""

from __future__ import annotations

import json
import subprocess
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from repro import files
from repro.data import sets
from repro.data.sets.declarations import combined_sha256
from repro.errors import ReproError
from repro.running import provenance

DATA = "cifar10"
CODE = ("repro", "benchmarks", "pipelines", "requirements", "params.yaml", "pyproject.toml", "data/manifests",
        "data/learning_rates", "data/published.yaml", "data/sources.yaml", "data/study.yaml",
        "data/ledger.yaml")  # fmt: skip
STAMP = "checkout.json"
ROWS, COLUMNS = 25, 40  # of images in a picture
KINDS = ("train", "test")


def _mosaic(images: np.ndarray) -> Image.Image:
    """1 000 images (N, H, H, 3) side by side, the last ones black where there are fewer."""
    size = images.shape[1]
    whole = np.zeros((ROWS * COLUMNS, size, size, 3), np.uint8)
    whole[: len(images)] = images
    tiles = whole.reshape(ROWS, COLUMNS, size, size, 3).transpose(0, 2, 1, 3, 4)
    return Image.fromarray(tiles.reshape(ROWS * size, COLUMNS * size, 3))


def _images(picture: Path, count: int, size: int) -> np.ndarray:
    """The inverse of ``_mosaic``."""
    with Image.open(picture) as opened:
        tiles = np.asarray(opened.convert("RGB")).reshape(ROWS, size, COLUMNS, size, 3)
    return tiles.transpose(0, 2, 1, 3, 4).reshape(-1, size, size, 3)[:count]


def pack_data(folder: Path, megabytes: float, root: Path, name: str = DATA) -> list[Path]:
    """Write the data set in parts of at most ``megabytes``, each a folder; what was there before is replaced.

    Raises:
        ReproError: the data are not there, or a picture alone is larger.
    """
    loaded, each = sets.load(name, root / "data"), ROWS * COLUMNS
    parts, held = [folder / "part-1"], 0.0
    for old in sorted(folder.glob("part-*/*")):
        old.unlink()
    parts[0].mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        images = getattr(loaded, f"{kind}_images")
        for at in range(0, len(images), each):
            path = folder / f"{kind}-{at:06d}.webp"
            _mosaic(images[at : at + each]).save(path, "WEBP", lossless=True, method=0, quality=0)
            if (size := path.stat().st_size / 1e6) > megabytes:
                raise ReproError(f"{path}: {size:.1f} MB in parts of {megabytes:g} MB; allow larger parts")
            if held + size > megabytes:
                parts, held = [*parts, folder / f"part-{len(parts) + 1}"], 0.0
                parts[-1].mkdir(exist_ok=True)
            held += size
            path.rename(parts[-1] / path.name)
    labels = {kind: np.asarray(getattr(loaded, f"{kind}_labels"), np.uint8) for kind in KINDS}
    np.savez_compressed(parts[0] / "labels.npz", **labels)  # type: ignore[arg-type]
    return parts


def unpack_data(folder: Path, root: Path, name: str = DATA) -> str:
    """Make ``data/prepared`` of ``root`` from the parts; returns the SHA-256 of the arrays.

    Raises:
        ReproError: a part lacks, or the arrays are not those of ``data/manifests``.
    """
    stated = json.loads((root / "data/manifests" / f"{name}.json").read_text())
    pictures = {path.name: path for path in folder.glob("part-*/*")}
    try:
        with np.load(pictures["labels.npz"]) as labels:
            arrays = {f"{kind}_labels": labels[kind].astype(np.int64) for kind in KINDS}
        for kind in KINDS:
            count, size = stated["arrays"][f"{kind}_images"]["shape"][:2]
            starts = range(0, count, ROWS * COLUMNS)
            made = [_images(pictures[f"{kind}-{at:06d}.webp"], count - at, size) for at in starts]
            arrays[f"{kind}_images"] = np.concatenate(made)
    except KeyError as error:
        raise ReproError(f"{folder}: {error} is missing; all parts were expected beside each other") from error
    found = combined_sha256({array: sets.array_sha256(values) for array, values in arrays.items()})
    if found != stated["sha256"]:
        raise ReproError(f"{folder}: arrays with SHA-256 {found}, {stated['sha256']} was expected; pack them again")
    target = root / "data/prepared" / name
    target.mkdir(parents=True, exist_ok=True)
    for array, values in arrays.items():
        np.save(target / f"{array}.npy", np.ascontiguousarray(values))
    files.write_atomic(target / "manifest.json", files.canonical_json(stated))
    files.write_atomic(target / "provenance.json", files.canonical_json(
        {"name": name, "served_by": "raw", "origin": "parts packed on another machine", "sha256": found}
    ))  # fmt: skip
    return found


def pack_code(folder: Path, root: Path) -> Path:
    """Write the committed code, and which commit it is of, as one archive.

    Raises:
        ReproError: no git, or uncommitted changes: records of such code could not be imported.
    """
    if not (commit := provenance.CODE["commit"]).isalnum() or commit == "unknown":
        raise ReproError(f"commit {commit!r}: records of a clean commit alone can be imported; commit your changes")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "code.zip"
    made = subprocess.run(
        ["git", "archive", "--format=zip", "-o", str(path.resolve()), "HEAD", "--", *CODE], cwd=root, text=True,
        capture_output=True,
    )  # fmt: skip
    if made.returncode:
        raise ReproError(f"git archive: {made.stderr.strip()}; the files that travel were expected in the commit")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(STAMP, json.dumps(provenance.CODE))
    return path


def adopt_commit(root: Path) -> None:
    """Where there is no git, let provenance name the commit that the archive was made of, if this is still its code."""
    stamp = root / STAMP
    if provenance.CODE["commit"] == "unknown" and stamp.exists():
        made_of = json.loads(stamp.read_text())
        if made_of["code"] == provenance.CODE["code"]:
            provenance.CODE["commit"] = made_of["commit"]


def gather(folder: Path, root: Path, profile: str, piece_mb: float | None) -> None:
    """Write ``records.zip`` with the records of a profile; with ``piece_mb``, checkpoints in pieces of that size."""
    folder.mkdir(parents=True, exist_ok=True)
    home = [path for kind in ("records", "provenance") for path in (root / "data" / kind / profile).rglob("*.json")]
    _archive(folder / "records.zip", home, root)
    if piece_mb is None:
        return
    for old in folder.glob("checkpoints.zip.*"):
        old.unlink()
    if kept := sorted((root / "data/checkpoints" / profile).rglob("*.pt")):
        whole = folder / "checkpoints.zip"
        _archive(whole, kept, root)
        _split(whole, int(piece_mb * 1e6))
        whole.unlink()


def _archive(path: Path, content: Iterable[Path], root: Path) -> None:
    part = path.with_name(f".{path.name}.part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for each in content:
            archive.write(each, each.relative_to(root))
    part.replace(path)


def _split(path: Path, size: int) -> None:
    with path.open("rb") as file:
        for number, piece in enumerate(iter(lambda: file.read(size), b"")):
            path.with_name(f"{path.name}.{number:03d}").write_bytes(piece)


def take(folder: Path, into: Path) -> list[str]:
    """Unpack what ``gather`` wrote: a folder for ``repro import``, with the checkpoints in it; the names of the files.

    Raises:
        ReproError: nothing was gathered there, or a piece lacks.
    """
    pieces = sorted(folder.glob("checkpoints.zip.*"))
    whole = into / "checkpoints.zip"
    into.mkdir(parents=True, exist_ok=True)
    if pieces:
        whole.write_bytes(b"".join(piece.read_bytes() for piece in pieces))
    names: list[str] = []
    try:
        for path in (folder / "records.zip", *([whole] if pieces else [])):
            with zipfile.ZipFile(path) as archive:
                archive.extractall(into)
                names += archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise ReproError(f"{folder}: {error}; records.zip, and every piece of checkpoints.zip, was expected") from error
    whole.unlink(missing_ok=True)
    return names
