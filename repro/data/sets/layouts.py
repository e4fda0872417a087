"""Layouts: the files of a data set, as its authors publish them, to four arrays."""

from __future__ import annotations

import io
import json
import pickle
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")

Array = NDArray[Any]
Files = Iterable[tuple[str, bytes]]  # name and content, one file after the other: a data set may exceed the memory


class Decoded(NamedTuple):
    """What the files of a data set hold.

    Attributes:
        arrays: the arrays of ``ARRAYS``.
        classes: names of the classes by label, or None where the files do not name them.
        stored_px: height and width of every stored image, None where they differ.
    """

    arrays: dict[str, Array]
    classes: tuple[str, ...] | None = None
    stored_px: int | None = None


@dataclass(frozen=True)
class Layout(ABC):
    """Which files make a data set, and how they are decoded."""

    format: ClassVar[str]

    @property
    def required(self) -> list[str]:
        """Names of the files without which nothing can be decoded; empty where only the files themselves tell."""
        return []

    @abstractmethod
    def wants(self, name: str) -> bool:
        """Whether the file ``name``, relative to the data set's folder, is decoded."""

    @abstractmethod
    def decode(self, files: Files, image_shape: tuple[int, ...]) -> Decoded:
        """The wanted files to arrays; ``image_shape`` is (H, W, C). Damaged files raise any exception."""


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
class PickledBatches(Layout):
    """Pickled dicts: ``data`` is uint8 (N, C * H * W), channel by channel; key ``labels`` has N integers."""

    format = "pickled_batches"
    train: list[str]
    test: list[str]
    labels: str

    @property
    def required(self) -> list[str]:
        """All batches."""
        return [*self.train, *self.test]

    def wants(self, name: str) -> bool:
        """The batches."""
        return name in self.required

    def decode(self, files: Files, image_shape: tuple[int, ...]) -> Decoded:
        """Batches to arrays, in the order of the names."""
        contents = dict(files)
        height, width, channels = image_shape

        def split(names: list[str]) -> tuple[Array, Array]:
            batches = [_BatchUnpickler(io.BytesIO(contents[name]), encoding="latin1").load() for name in names]
            planes = np.concatenate([batch["data"] for batch in batches])  # (N, C * H * W)
            images = planes.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
            return images, np.concatenate([batch[self.labels] for batch in batches])

        return Decoded(dict(zip(ARRAYS, (*split(self.train), *split(self.test)), strict=True)))


@dataclass(frozen=True)
class PngSheets(Layout):
    """PNG sheets, N rows of H * W RGB pixels (one row is one image, row-major), with labels as JSON lists."""

    format = "png_sheets"
    train: list[str]
    train_labels: str
    test: list[str]
    test_labels: str

    @property
    def required(self) -> list[str]:
        """All sheets and both lists of labels."""
        return [*self.train, self.train_labels, *self.test, self.test_labels]

    def wants(self, name: str) -> bool:
        """The sheets and the lists."""
        return name in self.required

    def decode(self, files: Files, image_shape: tuple[int, ...]) -> Decoded:
        """Sheets to arrays, in the order of the names."""
        from PIL import Image

        contents = dict(files)

        def sheet(name: str) -> Array:
            with Image.open(io.BytesIO(contents[name])) as png:
                return np.asarray(png.convert("RGB")).reshape(-1, *image_shape)

        def split(sheets: list[str], labels: str) -> tuple[Array, Array]:
            return np.concatenate([sheet(name) for name in sheets]), np.array(json.loads(contents[labels]))

        halves = (*split(self.train, self.train_labels), *split(self.test, self.test_labels))
        return Decoded(dict(zip(ARRAYS, halves, strict=True)))


@dataclass(frozen=True)
class ImageFolders(Layout):
    """One folder of JPEG files for each class: ``<class>/<name>.jpg``.

    Labels number the classes in the order of their names. There is no official split, so the first 80 % (rounded up)
    of each class, in the order of the file names, are for training and the rest for testing, as in the code that the
    paper's author published with his earlier work.

    Args:
        left_out: folders that are no class, such as pictures of clutter.
    """

    format = "image_folders"
    left_out: list[str]

    def wants(self, name: str) -> bool:
        """Visible ``.jpg`` files directly in the folder of a class."""
        parts = PurePosixPath(name).parts
        if len(parts) != 2 or parts[0] in self.left_out:
            return False
        return parts[1].endswith(".jpg") and not parts[1].startswith(".")

    def decode(self, files: Files, image_shape: tuple[int, ...]) -> Decoded:
        """JPEG files to arrays of square images (see ``framed``), class by class."""
        from PIL import Image

        images, sizes = {}, set()
        for name, content in files:
            try:
                with Image.open(io.BytesIO(content)) as jpeg:
                    sizes.add(jpeg.size)
                    images[name] = framed(jpeg, image_shape[0])
            except Exception as error:
                raise ValueError(f"{name}: {error}") from error
        classes: dict[str, list[str]] = {}
        for name in sorted(images):
            classes.setdefault(PurePosixPath(name).parts[0], []).append(name)
        train, test = [], []
        for label, folder in enumerate(sorted(classes)):
            names = classes[folder]
            first = -(-4 * len(names) // 5)  # 80 %, rounded up without the error of a product of floats
            train += [(name, label) for name in names[:first]]
            test += [(name, label) for name in names[first:]]

        def stacked(part: list[tuple[str, int]]) -> tuple[Array, Array]:
            stack = np.empty((len(part), *image_shape), dtype=np.uint8)
            for row, (name, _) in enumerate(part):
                stack[row] = images.pop(name)  # never all images twice in memory: Food-101 has 1.2 GB of them
            return stack, np.array([label for _, label in part], dtype=np.int64)

        arrays = dict(zip(ARRAYS, (*stacked(train), *stacked(test)), strict=True))
        width, height = sizes.pop() if len(sizes) == 1 else (0, 1)
        return Decoded(arrays, tuple(sorted(classes)), width if width == height else None)


def framed(picture: Any, size: int) -> Array:
    """A picture of any size as (size, size, 3) uint8: the shorter side scaled to 9/8 of ``size``, then the centre.

    The usual recipe (and that of the author's code) scales the shorter side to 256 pixels and cuts out 224, a ratio
    of 8/7. With 9/8, the 64 pixels here are cut out of 72, so that pictures that were already stored at 72 pixels are
    not scaled a second time and complete and reduced sets show the same detail.

    Args:
        picture: a ``PIL.Image.Image``; grey and palette pictures become RGB.
        size: height and width of the result, a multiple of 8 or the scale is rounded down.
    """
    from PIL import Image

    rgb = picture.convert("RGB")
    shorter = size * 9 // 8
    scale = shorter / min(rgb.size)
    width, height = (max(shorter, int(side * scale)) for side in rgb.size)
    if (width, height) != rgb.size:
        rgb = rgb.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(rgb.crop((left, top, left + size, top + size)))


LAYOUTS: dict[str, type[Layout]] = {each.format: each for each in (PickledBatches, PngSheets, ImageFolders)}
