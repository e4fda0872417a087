"""State of an unfinished run on disk, one interface for every kind of run, and the time that the run has taken so far.

A checkpoint is ``MAGIC``, a file of ``torch.save``, and the SHA-256 of both. One that was damaged, that another spec or
older numerics wrote, or whose state no longer fits the code is not used: the run starts from the beginning. Time is
that of clocks that never go back.
"""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import pickle
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import torch

from repro import files
from repro.errors import ReproError

MAGIC = b"repro-c2"
LONGEST_PAUSE = 40.0
"""Seconds between checkpoints of a state that takes long to write, so that a kill costs less than a minute."""
_SHARE_OF_WRITING = 0.1  # of the time between two checkpoints, at most, up to the longest pause
_SLOW = 1.0  # seconds; a checkpoint that is written faster costs too little to be put off
_DIGEST = hashlib.sha256().digest_size
_MISFITS = (
    OSError,
    RuntimeError,
    EOFError,
    KeyError,
    IndexError,
    AttributeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)
T = TypeVar("T")


class Damaged(ReproError):
    """The file is not what was written: cut off, altered, or of another format."""


@dataclass(frozen=True)
class Spent:
    """What a run has taken so far.

    Attributes:
        seconds: of the wall, while it ran.
        cpu_seconds: of processors, its child processes included.
        interruptions: how often it was taken up again from a checkpoint.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    interruptions: int = 0


def cpu_seconds() -> float:
    """Processor seconds of this process and its children, those that still run included where the system tells.

    Only Linux tells of running children; elsewhere they count once they have ended.
    """
    running = [child.pid for child in multiprocessing.active_children()]  # this also waits for those that have ended
    ended = os.times()
    return time.process_time() + ended.children_user + ended.children_system + sum(map(_of_child, running))


def _of_child(pid: int | None) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime, proc(5)
    except (OSError, ValueError, IndexError):
        return 0.0


class Checkpoint:
    """Where one run keeps its state, and how often.

    The time of the run counts from the moment that this is made.

    Args:
        path: the file.
        fingerprint: of the run; the state of another one is not used.
        pause: least seconds between two checkpoints; with infinity they are neither written nor read.
    """

    def __init__(self, path: Path, fingerprint: str, pause: float) -> None:
        self.path, self.fingerprint, self.pause = path, fingerprint, pause
        self._before = Spent()
        self._started, self._cpu = time.monotonic(), cpu_seconds()
        self._saved = self._started
        self._said = False

    def spent(self) -> Spent:
        """What the run has taken until now, in all its parts."""
        return Spent(
            self._before.seconds + time.monotonic() - self._started,
            self._before.cpu_seconds + cpu_seconds() - self._cpu,
            self._before.interruptions,
        )

    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() - self._saved >= self.pause

    def save(self, state: Mapping[str, Any]) -> None:
        """Write ``state``: tensors, numbers and texts in dictionaries, lists and tuples.

        A disk that is full does not end a run that could finish without checkpoints: that is said once, and the next
        one is tried in its turn.
        """
        content = {"fingerprint": self.fingerprint, "spent": asdict(self.spent()), "state": dict(state)}
        began = time.monotonic()
        try:
            files.write_atomic(self.path, lambda file: _write(file, content))
        except ReproError as error:
            if not self._said:
                told = error.__cause__.strerror if isinstance(error.__cause__, OSError) else error
                print(f"{self.path}: no checkpoint can be written ({told}); the run goes on without", file=sys.stderr)
            self._said = True
        self._saved = time.monotonic()
        took = self._saved - began
        if took > _SLOW:
            self.pause = max(self.pause, min(took / _SHARE_OF_WRITING, LONGEST_PAUSE))

    def restore(self, into: Callable[[dict[str, Any]], T]) -> T | None:
        """What ``into`` makes of the saved state; None where there is none that counts.

        ``into`` leaves all as it was where the state does not fit, and raises what Python raises then.
        """
        if self.pause == float("inf") or not self.path.exists():
            return None
        try:
            content = _read(self.path)
            if content["fingerprint"] != self.fingerprint:
                return None
            before, made = Spent(**content["spent"]), into(content["state"])
        except (ReproError, *_MISFITS) as error:
            told = str(error).splitlines()[0] if str(error) else type(error).__name__
            print(f"{self.path}: damaged checkpoint ({told}); the run starts from the beginning", file=sys.stderr)
            return None
        self._before = Spent(before.seconds, before.cpu_seconds, before.interruptions + 1)
        return made


class _Hashed(io.RawIOBase):
    """Passes on what is written, and hashes it on the way."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.digest = file, hashlib.sha256()
        self.failed: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        try:
            return self._file.write(data)
        except OSError as error:
            self.failed = error
            raise


def _write(file: IO[bytes], content: Mapping[str, Any]) -> None:
    hashed = _Hashed(file)
    hashed.write(MAGIC)
    try:
        torch.save(content, cast(IO[bytes], hashed))
    except RuntimeError as error:  # what torch makes of a write that failed
        raise hashed.failed or error from error
    file.write(hashed.digest.digest())


def _read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, on the device where runs are computed.

    Raises:
        Damaged: it is not what was written.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        magic = file.read(len(MAGIC))
        if magic != MAGIC:
            raise Damaged(f"it begins with {magic!r}, {MAGIC!r} was expected")
        payload = file.read(max(0, size - len(MAGIC) - _DIGEST))
        digest = hashlib.sha256(magic)
        digest.update(payload)
        if file.read() != digest.digest():
            raise Damaged("its checksum does not match its content")
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    content: dict[str, Any] = torch.load(io.BytesIO(payload), map_location=where, weights_only=True)
    return content
