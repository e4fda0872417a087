"""``repro import``: records made elsewhere, on another machine or a borrowed GPU, are checked and taken in."""

from __future__ import annotations

import ast
import re
import subprocess
from argparse import Namespace
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from repro import files
from repro.commands import console, named
from repro.errors import ReproError
from repro.registry import published, specs, store, study
from repro.registry.specs import Spec
from repro.results import records
from repro.results.records import Record

_MACHINE = ("device", "instructions", "system", "torch", "numpy", "python")
"""What provenance says of the machine at least: its processor or GPU, and versions."""

Planned = Mapping[tuple[str, int], Spec]
"""The spec of every planned run by its id and seed."""


def run(options: Namespace, root: Path) -> int:
    """Take in every record of a folder, or say in a line why not; 1 if any was refused.

    The folder has the layout of a checkout: ``data/records`` and, beside it, ``data/provenance``.

    Raises:
        ReproError: the folder holds no record, or a file of this checkout is malformed.
    """
    folder = Path(options.folder)
    places = sorted((folder / "data/records").rglob("*.json"))
    if not places:
        raise ReproError(
            f"{folder}: no records; a folder with data/records/<profile>/<source>/RUN.sN.json and with "
            "data/provenance/<profile>/<source>/RUN.sN.json was expected"
        )
    plans: dict[str, Planned] = {}
    refused = []
    for path in places:
        try:
            record = records.read(path)
            if path.relative_to(folder) != records.path_of(record):
                raise ReproError(f"{path}: it belongs at {records.path_of(record, folder)}; move it there")
            if record.profile not in plans:
                plans[record.profile] = _planned(record.profile, root)
            print(_take_in(record, path, plans[record.profile], root, write=not options.dry_run))
        except ReproError as error:
            refused.append(f"refused: {error}")
    return console.problems(refused)


def _planned(profile: str, root: Path) -> Planned:
    """Every planned run of a profile; none where there is no such profile."""
    plans = named.planned(profile, root).values() if profile in specs.PROFILES else ()
    return {(spec.run, seed): spec for tasks, _ in plans for spec, seed in tasks}


def _take_in(record: Record, path: Path, planned: Planned, root: Path, *, write: bool) -> str:
    """What became of the ``record`` at ``path``, in a line; nothing is written unless ``write``.

    Raises:
        ReproError: why it is refused.
    """
    spec = planned.get((record.run, record.seed))
    if spec is None:
        raise ReproError(
            f"{path}: {record.run} seed {record.seed} is not planned at profile {record.profile}, or waits for its "
            "learning rate; `python -m repro list` shows what is"
        )
    if store.valid(path, spec, record.seed, root) is None:
        raise ReproError(
            f"{path}: stale, its fingerprint is not that of the settings, data and numerics of this checkout; run it "
            "again at the commit that is checked out here"
        )
    beside = records.provenance_path(path)
    provenance: Any = files.read_json(beside) if beside.exists() else None
    if wrong := next(_of_provenance(provenance, record), None):
        raise ReproError(f"{beside}: {wrong}; what `python -m repro run` writes at a clean commit was expected")
    if record.profile == study.PROFILE and (wrong := next(_of_study(provenance["commit"], record, root), None)):
        raise ReproError(f"{path}: {wrong}; run it again at a commit that has today's rules")
    own = records.path_of(record, root)
    if (known := _known(spec, record.seed, root)) is not None:
        if differing := records.differences(known, record):
            raise ReproError(
                f"{path}: {own} is valid, and {', '.join(differing)} differ; delete that file first if this one shall "
                "take its place"
            )
        return f"{own}: is here already, identical"
    if not write:
        return f"{own}: would be taken in"
    from repro.running import runner  # which imports torch

    return f"{runner.save(record, provenance, root)}: taken in"


def _known(spec: Spec, seed: int, root: Path) -> Record | None:
    """The valid record that is here; one that is damaged counts no more than none."""
    try:
        return store.stored(spec, seed, root)
    except ReproError:
        return None


def _of_provenance(provenance: Any, record: Record) -> Iterator[str]:
    """What is wrong with the provenance of a record."""
    if not isinstance(provenance, dict):
        yield "no provenance" if provenance is None else "not a mapping"
        return
    for name in ("run", "seed", "fingerprint"):
        if provenance.get(name) != getattr(record, name):
            yield f"its {name} is {provenance.get(name)!r}, that of the record is {getattr(record, name)!r}"
    commit = provenance.get("commit")
    if not re.fullmatch(r"[0-9a-f]{40}", str(commit)):
        yield f"made at commit {commit!r}, with uncommitted changes or without git"
    if not provenance.get("code"):
        yield "no hash of the code"
    machine = provenance.get("machine")
    for name in _MACHINE:
        if not isinstance(machine, dict) or not machine.get(name):
            yield f"it does not name the machine's {name}"


def _of_study(commit: str, record: Record, root: Path) -> Iterator[str]:
    """What a record of the study, made at ``commit``, lacks: it must be younger than the rules, and hold them."""
    plan, held = study.load(root), dict(record.rules or {})
    if plan.rules_commit is None or not _descends(plan.rules_commit, commit, root):
        yield f"made at {commit}, no descendant of the rules' commit {plan.rules_commit} in git here"
    code = held.pop("code", None)
    known = {published.judging_code_hash(), *plan.judging}
    if code is None or (code not in known and code != _judging_code(plan.rules_commit, root)):
        yield "its judging code is neither today's nor one that data/study.yaml names, nor that of the rules' commit"
    today = published.rules_of(record.run, root)
    del today["code"]
    for statement in sorted(today.keys() | held.keys()):
        added = plan.added.get(statement)
        before_its_rule = added is not None and statement not in held and not _descends(added, commit, root)
        if held.get(statement) != today.get(statement) and statement not in plan.changed and not before_its_rule:
            yield f"its rule of {statement} is not today's"


@lru_cache(maxsize=8)
def _judging_code(commit: str | None, root: Path) -> str | None:
    """``published.judging_code_hash`` as it was at a commit; None where git does not tell."""
    names = _git(root, "ls-tree", "-r", "--name-only", f"{commit}", "repro").stdout.decode().splitlines()
    declaring = next((name for name in names if re.fullmatch(r"repro/(registry/)?published\.py", name)), None)
    if declaring is None:
        return None

    def content(name: str) -> bytes | None:
        return _git(root, "show", f"{commit}:{name}").stdout if name in names else None

    judging: list[str] = []
    for node in ast.parse(content(declaring) or b"").body:
        if isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == ["JUDGING"]:
            judging = ast.literal_eval(node.value)
    return published.judging_code_hash(judging, lambda name: content(f"repro/{name}"))


def _git(root: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    """What git answers; a failure that says nothing where there is no git."""
    try:
        return subprocess.run(["git", *words], cwd=root, capture_output=True)
    except OSError:
        return subprocess.CompletedProcess(words, 1, b"", b"")


@lru_cache(maxsize=64)
def _descends(ancestor: str, commit: str, root: Path) -> bool:
    """Whether git knows both commits and the second one comes after the first, or is it."""
    return _git(root, "merge-base", "--is-ancestor", ancestor, commit).returncode == 0
