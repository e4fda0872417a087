"""A copy of the small files that commands read, for tests that damage them, and valid records without any training."""

import ast
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import synthetic_lb
from synthetic import choose_rates, grid_arms

from repro.data import sets
from repro.files import canonical_json, read_yaml
from repro.registry import store
from repro.registry.specs import Spec
from repro.results import records
from repro.results.records import Record

REPOSITORY = Path(__file__).resolve().parent.parent
ARMS = grid_arms()


def of_arm(source: str, arm: str) -> str:
    """The run whose learning rate the grid of an arm chooses."""
    return str(read_yaml(REPOSITORY / f"pipelines/{source}.yaml")["grid"]["arms"][arm])


def plant(root: Path) -> Path:
    """Specs, sizes, published statements and manifests under ``root``, with the learning rate 0.1 for every arm."""
    shutil.copytree(REPOSITORY / "pipelines", root / "pipelines")
    shutil.copytree(REPOSITORY / "data/manifests", root / "data/manifests")
    files = ("ledger.yaml", "power.json", "published.yaml", "sources.yaml", "study.yaml")
    for name in ("params.yaml", *(f"data/{file}" for file in files)):
        shutil.copy(REPOSITORY / name, root / name)
    choose_rates(root)
    return root


def edit(path: Path, old: str, new: str) -> None:
    """Replace the first ``old`` in a file; a test whose target is gone must not pass by accident."""
    text = path.read_text()
    assert old in text, f"{path} no longer holds {old!r}"
    path.write_text(text.replace(old, new, 1))


def record(spec: Spec, seed: int, root: Path, top1: float = 0.5, **changes: Any) -> Record:
    """A record with the current fingerprint and one evaluation, stored under ``root``."""
    row = {
        "epoch": float(spec.epochs), "round": 2, "lr": spec.schedule["lr"], "train_loss": 1.5, "train_top1": 0.4,
        "test_loss": 1.25, "test_top1": top1, "test_top5": 0.9, "bytes_up": 100, "bytes_down": 100,
    }  # fmt: skip
    rows: list[dict[str, Any]] = [row]
    series = {"train_loss": [2.25, 1.5]} if spec.kind == "train" else {}
    if spec.kind == "measure":
        rows, series = synthetic_lb.rows_and_series(spec.as_dict())
        changes = {"machine": synthetic_lb.MACHINE} | changes
    if spec.kind == "gradients":
        rows = synthetic_lb.gradients(spec.run, seed, spec.profile).rows
    if spec.kind == "teacher":
        rows = synthetic_lb.teacher(seed, spec.profile).rows
    if spec.kind == "payloads":
        message = {"what": "gradient", "codec": "int8", "bytes": 25, "dense_bytes": 100}
        rows = [{"step": step} | message for step in spec.measured_steps or [1]]
    law = spec.kind == "law"
    sha256 = None if law else sets.manifest_sha256(spec.dataset, root / "data")
    data = {"name": None if law else spec.dataset, "sha256": sha256, "reduced": None, "classes": None if law else 10}
    made = Record(
        run=spec.run, source=spec.source, group=spec.group, kind=spec.kind, profile=spec.profile, seed=seed,
        spec=spec.as_dict(), data=data, fingerprint=store.fingerprint(spec, seed, root), status="completed", rows=rows,
        series=series,
    )  # fmt: skip
    made = replace(made, **changes)
    path = records.path_of(made, root)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(canonical_json(made.body()))  # as records.write, without waiting for the disk
    return made


def imported(path: Path) -> dict[str, set[str]]:
    """Module -> names that a file imports from it, lazy and type-only imports included; of this package only."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "repro":
            found.setdefault(str(node.module), set()).update(alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            found |= {alias.name: set() for alias in node.names if alias.name.split(".")[0] == "repro"}
    return found
