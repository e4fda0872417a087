"""``repro data``: fetch and prepare data sets, and write their manifests."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from repro import files
from repro.data import sets


def run(options: Namespace, root: Path) -> int:
    """Print a line for each data set, when its hashes are verified."""
    _let_dvc_work_without_git(root)
    for name in options.names or sets.DEFAULT:
        path = sets.write_manifest(name, root / "data")
        images = sets.load(name, root / "data")
        reduced = f"; REDUCED: {images.reduced}" if images.reduced else ""
        count = f"{len(images.train_labels)} + {len(images.test_labels)} images"
        print(f"{name}: {count}, hashes verified; manifest {path}{reduced}")
    return 0


def _let_dvc_work_without_git(root: Path) -> None:
    """A downloaded archive has no ``.git``, without which DVC refuses to work unless its own settings say so."""
    settings = root / ".dvc/config.local"
    if (root / ".dvc").exists() and not (root / ".git").exists() and not settings.exists():
        files.write_atomic(settings, "[core]\n    no_scm = true\n")
        print(f"no .git here: {settings} tells DVC to work without it")
