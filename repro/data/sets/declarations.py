"""Declarations: what a data set must contain and where it may come from, read from ``sources.yaml``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from repro.data.sets.layouts import ARRAYS, LAYOUTS, Array, Decoded
from repro.data.sets.sources import SOURCES, Source
from repro.errors import ReproError
from repro.files import parsed_yaml, read_text
from repro.validation import Model, Text, expecting, fitting, flaw, misfit, optional

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


# Entries of the file ------------------------------------------------------------------------------------------

_Names = Annotated[list[Text], expecting("a list of texts")]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$"), expecting("the 64 hex digits of a SHA-256")]
_Digest = Annotated[
    str, Field(pattern=r"^(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})$"), expecting("md5:<hex> or sha256:<hex>")
]
_Size = Annotated[int, Field(ge=1)]


class PickledBatchesEntry(Model):
    """``layouts.PickledBatches``."""

    format: Literal["pickled_batches"]
    train: _Names
    test: _Names
    labels: Text


class PngSheetsEntry(Model):
    """``layouts.PngSheets``."""

    format: Literal["png_sheets"]
    train: _Names
    train_labels: Text
    test: _Names
    test_labels: Text


class ImageFoldersEntry(Model):
    """``layouts.ImageFolders``."""

    format: Literal["image_folders"]
    left_out: _Names


_Layout = Annotated[PickledBatchesEntry | PngSheetsEntry | ImageFoldersEntry, Field(discriminator="format")]


class RawEntry(Model):
    """``sources.RawFolder``."""

    kind: Literal["raw"]
    folder: Text
    layout: _Layout


class OfficialEntry(Model):
    """``sources.OfficialArchive``."""

    kind: Literal["official"]
    url: Text
    digest: _Digest
    folder: Text
    inner: Text = optional()
    layout: _Layout


class NpmEntry(Model):
    """``sources.NpmPackage``."""

    kind: Literal["npm"]
    package: Text
    version: Text
    digest: _Digest
    folder: Text
    inner: Text = optional()
    layout: _Layout


class DerivedEntry(Model):
    """``sources.Derived``."""

    kind: Literal["derived"]
    base: Text


class ArrayEntry(Model):
    """Shape of a prepared array, and the SHA-256 of its raw bytes in C order."""

    shape: Annotated[list[_Size], Field(min_length=1, max_length=4)]
    sha256: _Sha256


class ArraysEntry(Model):
    """The four prepared arrays."""

    train_images: ArrayEntry
    train_labels: ArrayEntry
    test_images: ArrayEntry
    test_labels: ArrayEntry

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each array."""
        return {array: tuple(getattr(self, array).shape) for array in ARRAYS}

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of each array."""
        return {array: getattr(self, array).sha256 for array in ARRAYS}


class VariantEntry(Model):
    """One form of a data set."""

    images: _Size
    classes: _Size
    reduced: Text = optional()
    stored_px: _Size = optional()
    arrays: ArraysEntry = optional()


class Entry(Model):
    """A data set: with ``arrays`` where one form exists, with ``image_px`` and ``variants`` where several do."""

    title: Text
    citation: Text
    licence: Text
    reduced: Text | None = None
    classes: Annotated[list[Text], Field(min_length=1)] = optional()
    arrays: ArraysEntry = optional()
    image_px: _Size = optional()
    variants: Annotated[dict[Text, VariantEntry], Field(min_length=1)] = optional()
    sources: list[Annotated[RawEntry | OfficialEntry | NpmEntry | DerivedEntry, Field(discriminator="kind")]]

    @model_validator(mode="after")
    def _one_form_or_several(self) -> Entry:
        given = {name for name in ("arrays", "image_px", "variants", "reduced") if name in self.model_fields_set}
        if given not in ({"arrays", "reduced"}, {"image_px", "variants"}):
            raise flaw(
                f"{' and '.join(sorted(given)) or 'nothing'} given; arrays and reduced, or image_px and variants were "
                "expected; compare it with another entry"
            )
        if self.arrays is not None and len(self.arrays.train_images.shape) != 4:
            raise flaw(f"images of shape {self.arrays.train_images.shape}; [N, H, W, C] was expected; correct it")
        return self

    def declaration(self, name: str) -> Declaration:
        """What the entry of this name declares."""
        if self.arrays is not None:
            shapes = self.arrays.shapes
            shape, images = shapes["train_images"][1:], shapes["train_images"][0] + shapes["test_images"][0]
            variants = (
                Variant("complete", self.reduced, images, len(self.classes or ()), None, shapes, self.arrays.hashes),
            )
        else:
            shape = (self.image_px, self.image_px, 3)
            variants = tuple(
                Variant(
                    each, variant.reduced, variant.images, variant.classes, variant.stored_px,
                    variant.arrays and variant.arrays.shapes, variant.arrays and variant.arrays.hashes,
                )
                for each, variant in self.variants.items()
            )  # fmt: skip
        classes = tuple(self.classes) if self.classes else None
        sources = tuple(_source(entry.given()) for entry in self.sources)
        return Declaration(name, self.title, self.citation, self.licence, shape, variants, classes, sources)


def _source(given: dict[str, Any]) -> Source:
    if "layout" in given:
        layout = given["layout"].given()
        given["layout"] = LAYOUTS[layout.pop("format")](**layout)
    return SOURCES[given.pop("kind")](**given)


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
    return dict(_declared(read_text(path), path))


@lru_cache(maxsize=8)
def _declared(text: str, path: Path) -> dict[str, Declaration]:
    entries = fitting(dict[Text, Entry], parsed_yaml(text, path), path)
    for name, entry in entries.items():
        for source in entry.sources:
            if isinstance(source, DerivedEntry) and source.base not in entries:
                raise misfit(path, f"{name}.sources", source.base, f"one of {', '.join(entries)}")
    return {name: entry.declaration(name) for name, entry in entries.items()}


def declaration(name: str, root: Path = ROOT) -> Declaration:
    """The declaration of one data set; raises ReproError that lists the known names when there is none."""
    declared = declarations(root)
    if name not in declared:
        known = ", ".join(declared)
        raise ReproError(f"there is no data set {name!r}; {Path(root) / 'sources.yaml'} declares: {known}")
    return declared[name]
