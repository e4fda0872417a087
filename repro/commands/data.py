"""``repro data``: fetch and prepare data sets, and write their manifests and labels."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from repro import files
from repro.data import labels, sets


def run(options: Namespace, root: Path) -> int:
    """Print a line for each data set, when its hashes are verified."""
    names = options.names or sets.DEFAULT
    for name in names:  # before anything is fetched
        sets.declaration(name, root / "data")
    _let_dvc_work_without_git(root)
    for name in names:
        path = sets.write_manifest(name, root / "data")
        images = sets.load(name, root / "data")
        labels.write(name, images.train_labels, path.parent)
        reduced = f"; REDUCED: {images.reduced}" if images.reduced else ""
        count = f"{len(images.train_labels)} + {len(images.test_labels)} images"
        print(f"{name}: {count}, hashes verified; manifest {path}{reduced}")
    return 0


def _let_dvc_work_without_git(root: Path) -> None:
    """A downloaded archive has no ``.git``, without which DVC refuses to work unless its own settings say so."""
    if not (root / ".dvc").exists() or (root / ".git").exists():
        return
    settings = root / ".dvc/config.local"
    text = settings.read_text(encoding="utf-8") if settings.exists() else ""
    if "no_scm" not in text:
        core = "[core]\n    no_scm = true\n"
        text = text.replace("[core]\n", core, 1) if "[core]\n" in text else core + text
        files.write_atomic(settings, text)
        print(f"no .git here: {settings} tells DVC to work without it")
