"""This machine: its device, and what a bit-identical repetition needs to have in common."""

from __future__ import annotations

import platform
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch


def device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@cache
def describe() -> dict[str, Any]:
    """What a bit-identical repetition needs to have in common: processor or GPU, instruction set, versions."""
    where = device()
    return {
        "device": torch.cuda.get_device_name() if where.type == "cuda" else _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability() + (" bf16" if has_bfloat16() else " bf16 by float32"),
        "system": platform.system(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "zlib": zlib.ZLIB_RUNTIME_VERSION,
    }


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def _processor() -> str:
    names = [line.split(":", 1)[1].strip() for line in _cpuinfo().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def has_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16."""
    return "avx512_bf16" in _cpuinfo()
