"""The checkout that the working folder belongs to: its root, found from anywhere inside, and whose code runs."""

from __future__ import annotations

import os
from pathlib import Path

from repro.errors import ReproError
from repro.files import root_around

PACKAGE = Path(__file__).resolve().parents[1]
"""The package that is running."""


def root() -> Path:
    """The root of the checkout around the working folder, as a path relative to it.

    Raises:
        ReproError: the working folder is in no checkout, or in one whose code is not the code that runs.
    """
    here = Path.cwd()
    found = root_around(here)
    own = found / "repro"
    if (own / "__init__.py").exists() and own.resolve() != PACKAGE:
        raise ReproError(
            f"{found}: its own code was expected to run, but {PACKAGE} is installed in this environment; run "
            f"`python -m repro` in {found}, which takes the code there, or install it (`pip install -e .`)"
        )
    return Path(os.path.relpath(found, here))
