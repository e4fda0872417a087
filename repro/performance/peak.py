"""Peak resident memory of a training process, watched from outside while it trains.

What decides whether a batch fits is not a sum of tensors but what the operating system counts. A child process with an
interpreter of its own trains a few steps; its parent reads the high-water mark of its resident memory, and ends it when
it goes beyond a limit. On a GPU the child reports the device memory that torch had reserved: what the driver takes for
the context of a process and its kernels is not in it, nor are the training images, which stay with the host.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import repro
from repro.errors import ReproError
from repro.performance.workload import Workload

STEPS = 3
"""Steps of a child: gradients and momentum exist from the second on."""
POLL_SECONDS = 0.01
TIMEOUT = 1800.0
"""Seconds that a child may take for its few steps; longer, and it is taken to hang."""


@dataclass(frozen=True)
class Peak:
    """What one child needed.

    Attributes:
        batch: images.
        peak: most bytes at any time. Where the child was stopped at the limit: what it had by then.
        base: bytes that it had before the network, the images and the first batch: interpreter and libraries.
        finished: whether it trained to the end within the limit.
    """

    batch: int
    peak: int
    base: int
    finished: bool


def resident_peak(pid: int | str = "self") -> int:
    """High-water mark of a process's resident memory since it began (VmHWM), in bytes.

    Raises:
        ReproError: the process is gone, or this system has no /proc.
    """
    return _status(pid, "VmHWM")


def resident(pid: int | str = "self") -> int:
    """Resident memory of a process now (VmRSS), in bytes. Raises as ``resident_peak``."""
    return _status(pid, "VmRSS")


def _status(pid: int | str, name: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError as error:
        raise ReproError(
            f"/proc/{pid}/status: {error.strerror}; peak memory is read there; measure memory on Linux"
        ) from error
    for line in lines:
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ReproError(f"/proc/{pid}/status: no {name}; a running process was expected")


def reset_peak() -> None:
    """Set this process's high-water mark to what it has now.

    Raises:
        ReproError: this system does not allow it.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        raise ReproError(
            f"/proc/self/clear_refs: {error.strerror}; resetting the peak of this process was expected; measure memory "
            "on Linux, as the owner of the process"
        ) from error


def train(workload: Workload, batch: int, *, limit: int | None = None, steps: int = STEPS, device: str = "cpu") -> Peak:
    """Train ``steps`` steps in a child process and watch its memory; what was seen is said in one line on stderr.

    Args:
        workload: what is trained.
        batch: images of a step.
        limit: bytes beyond which the child is stopped at once.
        steps: how many.
        device: ``cpu`` or ``cuda``.

    Raises:
        ReproError: the child failed for another reason than memory; its last line is in the message. Or it was not
            done after ``TIMEOUT`` seconds.
    """
    task = {"workload": workload.as_dict(), "batch": batch, "steps": steps, "device": device, "limit": limit}
    # The child finds the package where its parent found it.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(repro.__file__).parent.parent), *sys.path])}
    command = [sys.executable, "-m", "repro.performance.child", json.dumps(task)]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        ) as child,
    ):
        told, highest, over = _watch(child, limit if device == "cpu" else None)
        errors.seek(0)
        last = (["no message", *errors.read().splitlines()])[-1]
    if device == "cuda":
        highest = int(told.get("reserved", 0))
    ended = over or told.get("out_of_memory") or child.returncode == -signal.SIGKILL
    if not ended and "done" not in told:
        raise ReproError(f"training {workload.model} at batch {batch} failed: {last}")
    finished = not ended and (limit is None or highest <= limit)
    words = "peak" if finished else "does not fit, ended at"
    print(f"probe: {workload.model}, batch {batch}: {words} {highest / 2**30:.3f} GiB", file=sys.stderr, flush=True)
    return Peak(batch, highest, int(told.get("base", 0)), finished)


def _watch(
    child: subprocess.Popen[bytes], limit: int | None, timeout: float = TIMEOUT
) -> tuple[dict[str, Any], int, bool]:
    """What the child says, its highest resident memory, and whether it was ended because that exceeded ``limit``.

    The child waits for the end of its input before it ends, so that its last high-water mark can still be read.

    Raises:
        ReproError: it was not done after ``timeout`` seconds.
    """
    assert child.stdin is not None
    assert child.stdout is not None
    told: dict[str, Any] = {}
    highest, over, unread, end = 0, False, b"", time.monotonic() + timeout
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            while not over and "done" not in told:
                said = selector.select(POLL_SECONDS)
                with suppress(ReproError):  # the child has just ended
                    highest = max(highest, resident_peak(child.pid))
                over = limit is not None and highest > limit
                if said:
                    # Not a buffered readline: what it holds back, the selector does not see.
                    found = os.read(child.stdout.fileno(), 65536)
                    if not found:
                        break
                    *lines, unread = (unread + found).split(b"\n")
                    for line in lines:
                        told |= json.loads(line)
                if time.monotonic() > end:
                    raise ReproError(
                        f"a child was not done after {timeout:g} s; a few training steps were expected in that time; "
                        "take a smaller network or image"
                    )
        if over:
            child.kill()
    except BaseException:
        child.kill()
        raise
    child.stdin.close()
    child.wait()
    return told, highest, over
