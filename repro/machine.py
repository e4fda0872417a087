"""This machine: its device, and what a bit-identical repetition needs to have in common."""

from __future__ import annotations

import os
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


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use: those of its affinity, and not more than a control group's quota allows.

    ``root`` is the file system's, where Linux tells the quota: ``cpu.max`` of version 2 of control groups, of this
    process's group and of all above it, or ``cpu.cfs_quota_us`` of version 1.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        cores = os.cpu_count() or 1
    return max(1, min([cores, *_quotas(root / "sys/fs/cgroup", root / "proc/self/cgroup")]))


def _quotas(mount: Path, memberships: Path) -> list[int]:
    """Whole cores that control groups allow; the empty list where none has a quota."""
    try:
        lines = memberships.read_text().splitlines()
    except OSError:
        lines = []
    own = next((line[3:] for line in lines if line.startswith("0::")), "/")
    group = mount / own.strip("/")
    found = []
    for folder in (group, *group.parents):
        if folder == mount or mount in folder.parents:
            found += [_numbers(folder / "cpu.max")]
    quota, period = mount / "cpu/cpu.cfs_quota_us", mount / "cpu/cpu.cfs_period_us"
    found += [_numbers(quota) + _numbers(period)]
    return [max(1, pair[0] // pair[1]) for pair in found if len(pair) == 2 and pair[0] > 0 and pair[1] > 0]


def _numbers(path: Path) -> list[int]:
    """The whole numbers in a file; none where it cannot be read, or says ``max``."""
    try:
        return [int(word) for word in path.read_text().split()]
    except (OSError, ValueError):
        return []
