"""Which notebooks belong to a source, by the names of their files."""

from __future__ import annotations

from pathlib import Path

from repro.experiments.spec import SOURCES


def of_source(folder: Path, source: str) -> list[Path]:
    """The notebooks of a source in ``folder``: ``<source>.ipynb``, and then ``<source>-<part>.ipynb`` by name."""
    return [path for path in (folder / f"{source}.ipynb", *sorted(folder.glob(f"{source}-*.ipynb"))) if path.exists()]


def of_none(folder: Path) -> list[Path]:
    """The notebooks in ``folder`` that belong to no source, by name."""
    owned = {path for source in SOURCES for path in of_source(folder, source)}
    return [path for path in sorted(folder.glob("*.ipynb")) if path not in owned]
