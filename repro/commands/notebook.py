"""``repro notebook``: execute a notebook and write it with its outputs."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from repro.errors import ReproError, did_you_mean
from repro.registry import study
from repro.report import pilot


def run(options: Namespace, root: Path) -> int:
    """Write ``figures/<profile>/notebooks/<name>.ipynb``: the pilot's where the study lacks runs that it reads."""
    known = sorted(path.stem for path in (root / "notebooks").glob("*.ipynb"))
    if options.name not in known:
        hint = did_you_mean(options.name, known)
        raise ReproError(f"unknown notebook {options.name!r}; {hint}one of {', '.join(known)} was expected")
    out = root / "figures" / options.profile / "notebooks" / f"{options.name}.ipynb"
    if options.profile == study.PROFILE and pilot.notebook_waits(options.name, pilot.Evidence(root)):
        print(f"{pilot.copy_notebook(options.name, root)} (the pilot's: the study lacks runs that it reads)")
        return 0
    from repro.book import notebooks  # which imports what executes them

    notebooks.execute(root / "notebooks" / f"{options.name}.ipynb", out, {"profile": options.profile}, root)
    print(out)
    return 0
