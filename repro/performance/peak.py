"""Peak resident memory of a training process, watched from outside while it trains.

What decides whether a batch fits is not a sum of tensors but what the operating system counts. A child process with an
interpreter of its own trains a few steps; its parent reads the high-water mark of its resident memory, and ends it when
it goes beyond a limit. On a GPU the child reports the device memory that torch had reserved.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import repro
from repro.errors import ReproError
from repro.performance.workload import Workload

STEPS = 3
"""Steps of a child: gradients and momentum exist from the second on."""
POLL_SECONDS = 0.01


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
    """Train ``steps`` steps in a child process and watch its memory.

    Args:
        workload: what is trained.
        batch: images of a step.
        limit: bytes beyond which the child is stopped at once.
        steps: how many.
        device: ``cpu`` or ``cuda``.

    Raises:
        ReproError: the child failed for another reason than memory; its last line is in the message.
    """
    task = json.dumps({"workload": workload.as_dict(), "batch": batch, "steps": steps, "device": device, "limit": limit})
    # One malloc arena, as in a process of one thread; the package is found wherever the parent found it.
    environment = os.environ | {
        "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(Path(repro.__file__).parent.parent), *sys.path]),
    }  # fmt: skip
    child = subprocess.Popen(
        [sys.executable, "-m", "repro.performance.child", task], env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdin and child.stdout and child.stderr
    stderr: list[str] = []
    reader = threading.Thread(target=lambda: stderr.extend(child.stderr or []), daemon=True)
    reader.start()
    said: list[str] = []
    listener = threading.Thread(target=lambda: said.extend(iter((child.stdout or [""]).readline, "")), daemon=True)  # type: ignore[union-attr]
    listener.start()
    peak, stopped = 0, False
    try:
        # The child waits for a word before it ends, so that its last high-water mark can still be read.
        while child.poll() is None and not any('"done"' in line for line in said):
            listener.join(POLL_SECONDS)
            try:
                peak = max(peak, resident_peak(child.pid))
            except ReproError:
                break
            if device == "cpu" and limit is not None and peak > limit:
                child.kill()
                stopped = True
                break
            if not listener.is_alive():
                break
        if not stopped and child.poll() is None:
            peak = max(peak, resident_peak(child.pid))
            child.stdin.close()
        code = child.wait(timeout=60)
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        listener.join(1)
        reader.join(1)
    told = {}
    for line in said:
        told |= json.loads(line)
    if device == "cuda" and "done" in told:
        peak = int(told["reserved"])
    base = int(told.get("base", 0))
    if stopped or told.get("out_of_memory") or code == -9:
        return Peak(batch, peak, base, False)
    if code != 0 or "done" not in told:
        last = (["no message", *stderr])[-1].strip()
        raise ReproError(f"training {workload.model} at batch {batch} failed: {last}")
    return Peak(batch, peak, base, limit is None or peak <= limit)
