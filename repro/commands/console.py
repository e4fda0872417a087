"""How commands speak: tables and JSON on stdout, problems and progress on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

LINE_SECONDS = 30.0
"""Between two lines of progress, where there is no terminal."""


def table(rows: Sequence[Sequence[object]]) -> None:
    """Print ``rows`` in columns as wide as their widest cell."""
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def as_json(content: Any) -> None:
    """Print ``content`` for programs."""
    print(json.dumps(content, indent=1))


def note(line: str) -> None:
    """Print a line for people only: on stderr, at once."""
    print(line, file=sys.stderr, flush=True)


def problems(found: Iterable[str]) -> int:
    """Print one line for each problem; the exit code is 1 if there is any."""
    lines = list(found)
    for line in lines:
        note(f"repro: {line}")
    return int(bool(lines))


@contextmanager
def progress(text: str) -> Iterator[Callable[[float], None]]:
    """A bar on a terminal, elsewhere a line every half minute; the function it gives is told the share done, 0 to 1.

    What is left is told from what this process did, which may have gone on from a checkpoint.
    """
    if not sys.stderr.isatty():
        yield _in_lines(text)
        return
    from tqdm import tqdm

    layout = "{desc} {percentage:3.0f}% [{elapsed}<{remaining}]"
    with tqdm(total=100, desc=text, unit="%", disable=None, bar_format=layout) as bar:

        def report(share: float) -> None:
            bar.update(100 * share - bar.n)

        yield report


def _in_lines(text: str) -> Callable[[float], None]:
    began = said = time.monotonic()
    first: float | None = None

    def report(share: float) -> None:
        nonlocal said, first
        now = time.monotonic()
        first = share if first is None else first
        if now - said < LINE_SECONDS:
            return
        said = now
        left = f", about {(now - began) * (1 - share) / (share - first):.0f} s left" if share > first else ""
        note(f"{text}: {100 * share:.0f} % after {now - began:.0f} s{left}")

    return report
