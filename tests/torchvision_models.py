"""torchvision's networks, which ours are compared with where torchvision is installed; the package never needs it."""

import contextlib
from types import ModuleType

import pytest
import torch


def load() -> ModuleType:
    """``torchvision.models``; skips the test where it cannot be imported.

    A torchvision built for CUDA cannot load its compiled operators beside a torch for CPUs, and its import then fails
    where it attaches Python code to two of them. Once they are declared it succeeds; no network calls them.
    """
    for name in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):  # declared by an earlier call, or really there
            torch.library.define(f"torchvision::{name}", "(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    try:
        import torchvision
    except (ImportError, RuntimeError, OSError) as error:
        pytest.skip(f"torchvision cannot be imported: {error}")
    return torchvision.models
