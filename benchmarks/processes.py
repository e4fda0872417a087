"""Processor seconds and memory of a program and everything it starts, taken from outside (Linux)."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from repro.errors import ReproError

SAMPLES_PER_SECOND = 4
_TICKS = os.sysconf("SC_CLK_TCK")
_GONE = (FileNotFoundError, ProcessLookupError)  # a process ended while it was looked at


def say(line: str) -> None:
    """A line of a watched program for ``watch``."""
    print(f"benchmark: {line}", flush=True)


def tree(pid: int) -> Iterator[int]:
    """``pid`` and its descendants."""
    yield pid
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from tree(int(child))
    except _GONE:
        return


def cpu_seconds(pid: int) -> float:
    """Processor seconds, in the program and in the system, of ``pid``, its descendants and those that have ended."""
    ticks = 0
    for each in tree(pid):
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        except _GONE:
            continue
        ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    return ticks / _TICKS


def memory(pid: int) -> tuple[float, float]:
    """MB of ``pid`` and its descendants: proportional set size, and resident set size.

    The first counts a page that processes share once, the second once a process.
    """
    pss = rss = 0
    for each in tree(pid):
        try:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        except _GONE:
            continue
        sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
        pss, rss = pss + sizes["Pss"], rss + sizes["Rss"]
    return pss * 1024 / 1e6, rss * 1024 / 1e6


@dataclass
class Measured:
    """What a program was seen to do.

    Attributes:
        lines: what it said after ``benchmark:``, with processor seconds and wall clock at that moment.
        pss_mb, rss_mb: peaks of ``memory``, whose samples are ``samples``.
        most: most processes at a time.
    """

    lines: list[tuple[str, float, float]] = field(default_factory=list)
    pss_mb: float = 0.0
    rss_mb: float = 0.0
    samples: int = 0
    most: int = 0

    def rounds(self) -> tuple[list[float], list[float]]:
        """Processor and wall seconds from one line to the next, up to the last that says ``round N``."""
        ends = [(cpu, wall) for line, cpu, wall in self.lines if line == "ready" or line.startswith("round ")]
        pairs = list(itertools.pairwise(ends))
        return [round(b[0] - a[0], 3) for a, b in pairs], [round(b[1] - a[1], 3) for a, b in pairs]

    def value(self, name: str) -> float:
        """The number that it said with ``name``."""
        return next(float(line.split()[1]) for line, _, _ in self.lines if line.split()[0] == name)


def watch(
    command: Sequence[str], environment: Mapping[str, str], say: Callable[[str], None] = lambda _: None
) -> Measured:
    """Run ``command`` to its end; ``say`` gets every line for the benchmark.

    Raises:
        ReproError: it cannot be started, or fails; the message ends with the last line that it wrote.
    """
    found, over, others = Measured(), threading.Event(), [""]
    try:
        process = subprocess.Popen(
            command, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise ReproError(f"{command[0]}: {error.strerror}; a program was expected; correct its path") from error

    def sample() -> None:
        while not over.wait(1 / SAMPLES_PER_SECOND):
            pss, rss = memory(process.pid)
            found.pss_mb, found.rss_mb = max(found.pss_mb, round(pss, 1)), max(found.rss_mb, round(rss, 1))
            found.samples, found.most = found.samples + 1, max(found.most, sum(1 for _ in tree(process.pid)))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            _, mark, said = line.rstrip().partition("benchmark: ")
            if mark:
                found.lines.append((said, cpu_seconds(process.pid), time.perf_counter()))
                say(said)
            elif line.strip():
                others.append(line.strip())
        if process.wait():
            raise ReproError(f"{' '.join(command)}: failed: {others[-1]}")
    finally:
        over.set()
        sampler.join()
        if process.poll() is None:
            stop(process)
    return found


def end_with_children() -> None:
    """Let a SIGTERM end this program as an error does, so that ``watch`` ends what it has started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def stop(process: subprocess.Popen[str]) -> None:
    """End ``process`` and its descendants."""
    for each in reversed(list(tree(process.pid))):
        try:
            os.kill(each, 9)
        except ProcessLookupError:
            continue
    process.wait()
