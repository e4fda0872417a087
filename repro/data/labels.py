"""Labels of training images as text beside the manifests: what partitions are made from, where no image is.

A clone has them without any data set, so that figures show the partitions of stored runs.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repro.data.sets.declarations import array_sha256
from repro.errors import ReproError
from repro.files import read_json, write_atomic
from repro.randomness import generator


def order(dataset: str, images: int) -> NDArray[np.int64]:
    """The fixed order of a data set's training ``images``, of which every profile takes the first ones."""
    return generator(0, "subset", dataset).permutation(images)


def write(dataset: str, labels: NDArray[np.int64], folder: Path) -> Path:
    """Write ``labels``, shape (images,), one a line into ``folder``, where the manifest is; the path."""
    path = folder / f"{dataset}.labels.txt"
    write_atomic(path, "".join(f"{label}\n" for label in labels))
    return path


def read(dataset: str, folder: Path) -> NDArray[np.int64]:
    """The labels, shape (images,), int64, that ``write`` wrote.

    Raises:
        ReproError: there are none, or they are not those of the manifest beside them.
    """
    path, remedy = folder / f"{dataset}.labels.txt", f"run `python -m repro data {dataset}` to write it again"
    stated = read_json(folder / f"{dataset}.json")["arrays"]["train_labels"]["sha256"]
    try:
        return _read(path.read_text(encoding="utf-8"), stated, path, remedy)
    except (OSError, ValueError) as error:
        raise ReproError(f"{path} cannot be read ({error}); a label a line was expected; {remedy}") from error


@lru_cache(maxsize=8)
def _read(text: str, stated: str, path: Path, remedy: str) -> NDArray[np.int64]:
    """The labels in ``text``, the content of ``path``; once per content."""
    labels = np.array(text.split(), dtype=np.int64)
    if array_sha256(labels) != stated:
        raise ReproError(f"{path}: other labels than the manifest beside it states; {remedy}")
    labels.flags.writeable = False
    return labels
