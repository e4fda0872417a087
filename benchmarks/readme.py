"""The generated parts of ``benchmarks/README.md``, one for each benchmark."""

from __future__ import annotations

from pathlib import Path

from repro import records
from repro.errors import ReproError

README = Path(__file__).resolve().with_name("README.md")


def update(benchmark: str, text: str) -> None:
    """Replace what stands between the two lines that mark the generated part of ``benchmark``.

    Raises:
        ReproError: the file or one of the two lines is missing.
    """
    begin, end = f"<!-- {benchmark}: generated, do not edit -->", f"<!-- {benchmark}: end -->"
    try:
        before, rest = README.read_text().split(begin)
        _, after = rest.split(end)
    except (OSError, ValueError) as error:
        raise ReproError(
            f"{README}: the lines {begin} and {end} were expected once each; `git checkout -- {README}`"
        ) from error
    records.write_atomic(README, f"{before}{begin}\n\n{text}\n{end}{after}")
