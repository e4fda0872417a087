"""The checkout that the working folder belongs to: its root, found from anywhere inside, and whose code runs."""

from __future__ import annotations

import os
from pathlib import Path

from repro.errors import ReproError

PACKAGE = Path(__file__).resolve().parents[1]
"""The package that is running."""


def root() -> Path:
    """The root of the checkout around the working folder, as a path relative to it.

    Raises:
        ReproError: the working folder is in no checkout, or in one whose code is not the code that runs.
    """
    here = Path.cwd()
    found = next(
        (f for f in (here, *here.parents) if (f / "params.yaml").is_file() and (f / "pipelines").is_dir()), None
    )
    if found is None:
        raise ReproError(
            f"{here}: not in a checkout of this project, which has params.yaml and pipelines/ at its root; run the "
            "command inside one"
        )
    own = found / "repro"
    if (own / "__init__.py").exists() and own.resolve() != PACKAGE:
        raise ReproError(
            f"{found}: its own code was expected to run, but {PACKAGE} is installed in this environment; run "
            f"`python -m repro` in {found}, which takes the code there, or install it (`pip install -e .`)"
        )
    return Path(os.path.relpath(found, here))
