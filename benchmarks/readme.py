"""Where benchmarks write what they found: a file of results each, and a generated part of ``benchmarks/README.md``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from repro import files
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
    files.write_atomic(README, f"{before}{begin}\n\n{text}\n{end}{after}")


def publish(benchmark: str, path: Path, results: dict[str, Any], text: str) -> None:
    """Write ``results`` to ``path`` and ``text`` to the README, and say so. Raises as ``update``."""
    files.write_atomic(path, files.canonical_json(results))
    update(benchmark, text)
    root = README.parents[1]
    print(f"{path.relative_to(root)} and {README.relative_to(root)} were written")
