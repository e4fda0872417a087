"""Declarations: what a data set must contain and where it may come from, read from ``sources.yaml``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from repro.data.sets.layouts import ARRAYS, LAYOUTS, Array, Decoded
from repro.data.sets.sources import SOURCES, FileSource, Source, told
from repro.errors import ReproError

ROOT = Path("data")


@dataclass(frozen=True)
class Variant:
    """One form in which a data set may be found; its counts and the size of its images tell which one it is.

    Attributes:
        name: ``complete``, or what the entry calls it.
        reduced: how it differs from the published data set, as a clause for figures; None when it is complete.
        images: number of images, training and test together.
        classes: number of classes.
        stored_px: height and width of every stored image; None where they differ, or where they are not looked at.
        shapes, hashes: of each prepared array, where they are known.
    """

    name: str
    reduced: str | None
    images: int
    classes: int
    stored_px: int | None
    shapes: Mapping[str, tuple[int, ...]] | None
    hashes: Mapping[str, str] | None

    def __str__(self) -> str:
        return f"{self.name} ({_counted(self.images, self.classes, self.stored_px)})"


@dataclass(frozen=True)
class Declaration:
    """One entry of ``sources.yaml``.

    Attributes:
        name, title, citation, licence: what it is called, whose it is, and under which terms.
        image_shape: (H, W, C) of the prepared images.
        variants: the forms in which it may be found, the published one first.
        classes: names of the classes by label, where the files do not tell them.
        sources: where it may come from, in the order in which they are tried.
    """

    name: str
    title: str
    citation: str
    licence: str
    image_shape: tuple[int, ...]
    variants: tuple[Variant, ...]
    classes: tuple[str, ...] | None
    sources: tuple[Source, ...]

    def variant(self, found: Decoded) -> Variant:
        """The variant that was found.

        Raises:
            ValueError: it is none of them, as after an interrupted unpacking.
        """
        if len(self.variants) == 1:  # whose arrays are checked one by one
            return self.variants[0]
        images = len(found.arrays["train_labels"]) + len(found.arrays["test_labels"])
        counts = (images, len(found.classes or ()), found.stored_px)
        for variant in self.variants:
            if counts == (variant.images, variant.classes, variant.stored_px):
                return variant
        raise ValueError(f"it has {_counted(*counts)}, expected {' or '.join(map(str, self.variants))}")


def _counted(images: int, classes: int, stored_px: int | None) -> str:
    size = "of various sizes" if stored_px is None else f"of {stored_px} x {stored_px} px"
    return f"{images} images {size} in {classes} classes"


def array_dtype(array: str) -> str:
    """The dtype of a prepared array, as numpy names it."""
    return "uint8" if array.endswith("_images") else "int64"


def array_sha256(array: Array) -> str:
    """SHA-256 of the raw bytes in C order."""
    return hashlib.sha256(array.data).hexdigest()


def combined_sha256(hashes: Mapping[str, str]) -> str:
    """One digest over those of the four arrays."""
    return hashlib.sha256("".join(hashes[array] for array in ARRAYS).encode()).hexdigest()


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
        raise ReproError(f"{path} is not valid YAML: {told(error)}") from error
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
    if "variants" in given:
        pixels = given.pop("image_px")
        shape: tuple[int, ...] = (pixels, pixels, 3)
        variants = tuple(_variant(name, **facts) for name, facts in given.pop("variants").items())
    else:
        shapes, hashes = _array_facts(given.pop("arrays"))
        shape = shapes["train_images"][1:]
        images = shapes["train_images"][0] + shapes["test_images"][0]
        variants = (
            Variant("complete", given.pop("reduced"), images, len(given.get("classes") or ()), None, shapes, hashes),
        )
    classes = given.pop("classes", None)
    sources = tuple(_source(source) for source in given.pop("sources"))
    return Declaration(
        name=name, image_shape=shape, variants=variants, classes=tuple(classes) if classes else None, sources=sources,
        **given,
    )  # fmt: skip


def _variant(
    name: str, images: int, classes: int, reduced: str | None = None, stored_px: int | None = None,
    arrays: Mapping[str, Any] | None = None,
) -> Variant:  # fmt: skip
    shapes, hashes = _array_facts(arrays) if arrays else (None, None)
    return Variant(name, reduced, images, classes, stored_px, shapes, hashes)


def _array_facts(arrays: Mapping[str, Any]) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    for array in ARRAYS:
        if len(bytes.fromhex(arrays[array]["sha256"])) != 32:
            raise ValueError(f"sha256 of {array} must have 64 digits, it is {arrays[array]['sha256']!r}")
    shapes = {array: tuple(arrays[array]["shape"]) for array in ARRAYS}
    return shapes, {array: arrays[array]["sha256"] for array in ARRAYS}


def _source(entry: Mapping[str, Any]) -> Source:
    given = dict(entry)
    kind = given.pop("kind")
    if kind not in SOURCES:
        raise ValueError(f"unknown kind of source {kind!r}, expected one of {', '.join(SOURCES)}")
    if issubclass(SOURCES[kind], FileSource):
        layout = dict(given["layout"])
        decoder = layout.pop("format")
        if decoder not in LAYOUTS:
            raise ValueError(f"unknown format {decoder!r}, expected one of {', '.join(LAYOUTS)}")
        given["layout"] = LAYOUTS[decoder](**layout)
    if "digest" in given and given["digest"].split(":")[0] not in ("md5", "sha256"):
        raise ValueError(f"digest must be md5:<hex> or sha256:<hex>, it is {given['digest']!r}")
    return SOURCES[kind](**given)
