"""A stand-in for a data set of 100 classes, made from one of 10: a class is an object and how it is shown.

It lets what needs 100 classes run where CIFAR-100 cannot be had. It is easier than CIFAR-100, and no published number
can be compared with one that was reached on it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from repro.data.sets.layouts import ARRAYS, Array, Decoded

Transformation = Callable[[Array], Array]  # (N, H, H, 3) uint8 -> the same shape


def _upright(x: Array) -> Array:
    return x


def _quarter(x: Array) -> Array:
    return np.rot90(x, axes=(1, 2))


def _half(x: Array) -> Array:
    return np.rot90(x, 2, axes=(1, 2))


def _inverted(x: Array) -> Array:
    return 255 - x


def _channels_rotated(x: Array) -> Array:
    return x[..., [1, 2, 0]]


# No two of them are each other's mirror image, and none is a shift: training data are shifted and mirrored at random,
# which would make such classes one and the same. That is why there is one quarter turn, not two.
TRANSFORMATIONS: dict[str, Transformation] = {
    "as it is": _upright,
    "quarter turn": _quarter,
    "half turn": _half,
    "inverted": _inverted,
    "inverted, quarter turn": lambda x: _inverted(_quarter(x)),
    "inverted, half turn": lambda x: _inverted(_half(x)),
    "channels rotated": _channels_rotated,
    "channels rotated, quarter turn": lambda x: _channels_rotated(_quarter(x)),
    "channels rotated, half turn": lambda x: _channels_rotated(_half(x)),
    "channels rotated twice": lambda x: _channels_rotated(_channels_rotated(x)),
}


def hundred_classes(arrays: dict[str, Array], classes: tuple[str, ...]) -> Decoded:
    """Ten classes times ten transformations; every image is used once, in the order of the original.

    Within each class and split, image k (from 0) gets transformation k mod 10 and the label 10 x class + k mod 10.

    Args:
        arrays: the arrays of ``ARRAYS`` of a data set of square images.
        classes: names of its classes by label.
    """
    made = {}
    for split in ("train", "test"):
        images, labels = np.array(arrays[f"{split}_images"]), np.array(arrays[f"{split}_labels"])
        kind = np.empty_like(labels)
        for label in range(len(classes)):
            mine = labels == label
            kind[mine] = np.arange(mine.sum()) % len(TRANSFORMATIONS)
        for number, transform in enumerate(TRANSFORMATIONS.values()):
            images[kind == number] = transform(images[kind == number])
        made[f"{split}_images"], made[f"{split}_labels"] = images, labels * len(TRANSFORMATIONS) + kind
    names = tuple(f"{name}, {shown}" for name in classes for shown in TRANSFORMATIONS)
    return Decoded({name: made[name] for name in ARRAYS}, names)
