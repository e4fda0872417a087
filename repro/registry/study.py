"""How the study is run (``data/study.yaml``): its pilot, which statements have more seeds, and in what order runs go.

The first look at a statement of profile ``study`` is at the seeds of the profile's sizes (five from 11 up). A statement
under ``looks`` has more; so have all runs that it reads. Nothing here imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from repro import files
from repro.errors import ReproError
from repro.registry import specs
from repro.registry.published import TO_TARGET, Statement, load_published, runs_named
from repro.results.looks import LOOKS
from repro.results.metrics import TARGETS

PROFILE = "study"
_KEYS = ("pilot", "rules_commit", "complete", "looks", "order")
_OPTIONAL = ("changed",)


@dataclass(frozen=True)
class Pilot:
    """What was run before the study: the commit that holds its records, and its profile and seeds there."""

    commit: str
    profile: str
    seeds: int


@dataclass(frozen=True)
class Group:
    """Runs that ``make study`` computes together.

    Attributes:
        name: for messages.
        runs: run ids, in which ``*`` stands for anything.
        grids: sources whose learning rates these runs need: their grids come first.
    """

    name: str
    runs: tuple[str, ...]
    grids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """Contents of ``data/study.yaml``.

    Attributes:
        pilot: the pilot evidence under ``figures/pilot``.
        rules_commit: full hash of the commit whose rules the runs were made under; None before the first run.
        complete: whether every statement has its last look.
        looks: statement id -> number of seeds, of those that have more than the first look's.
        order: groups of runs in the order in which they are computed.
        changed: statement id -> id of the ledger's entry that says why its rule is no longer that of ``rules_commit``.
    """

    pilot: Pilot
    rules_commit: str | None
    complete: bool
    looks: Mapping[str, int]
    order: Sequence[Group]
    changed: Mapping[str, str] = field(default_factory=dict)


def load(root: Path = Path()) -> Study:
    """Read and validate ``data/study.yaml``.

    Raises:
        ReproError: the file is missing or malformed; the line names file, key and what was expected.
    """
    path = root / "data/study.yaml"
    content = files.read_yaml(path)
    _keys(content, _KEYS, (*_KEYS, *_OPTIONAL), str(path))
    rules_commit = content["rules_commit"]
    return Study(
        _pilot(content["pilot"], f"{path}, key pilot"),
        None if rules_commit is None else _commit(rules_commit, f"{path}, key rules_commit"),
        _typed(content["complete"], bool, "true or false", f"{path}, key complete"),
        _looks(content["looks"], f"{path}, key looks"),
        _order(content["order"], f"{path}, key order"),
        _changed(content.get("changed", {}), f"{path}, key changed"),
    )


def _pilot(given: Any, where: str) -> Pilot:
    pilot = _keys(given, ("commit", "profile", "seeds"), ("commit", "profile", "seeds"), where)
    return Pilot(
        _commit(pilot["commit"], f"{where}.commit"),
        _typed(pilot["profile"], str, "text", f"{where}.profile"),
        _typed(pilot["seeds"], int, "a whole number", f"{where}.seeds"),
    )


def _looks(given: Any, where: str) -> dict[str, int]:
    looks = _typed(given, dict, "a mapping", where)
    for statement, seeds in looks.items():
        if not isinstance(statement, str) or isinstance(seeds, bool) or seeds not in LOOKS[1:]:
            raise ReproError(
                f"{where}: {statement!r}: {seeds!r}; the id of a statement with {' or '.join(map(str, LOOKS[1:]))} "
                "seeds was expected; correct it"
            )
    return dict(looks)


def _changed(given: Any, where: str) -> dict[str, str]:
    changed = _typed(given, dict, "a mapping from statements to entries of data/ledger.yaml", where)
    for statement, entry in changed.items():
        if not isinstance(statement, str) or not isinstance(entry, str):
            raise ReproError(
                f"{where}: {statement!r}: {entry!r}; the id of a statement with that of the entry of data/ledger.yaml "
                "that says why its rule changed was expected; correct it"
            )
    return dict(changed)


def _order(given: Any, where: str) -> list[Group]:
    groups = []
    for i, item in enumerate(_typed(given, list, "a list of groups", where), start=1):
        group = _keys(item, ("name", "runs"), ("name", "runs", "grids"), f"{where}, group {i}")
        runs, grids = (_texts(group.get(key, []), f"{where}, group {i}, key {key}") for key in ("runs", "grids"))
        if unknown := [source for source in grids if source not in specs.SOURCES]:
            raise ReproError(
                f"{where}, group {i}, key grids: {unknown[0]!r}; some of {', '.join(specs.SOURCES)} were expected"
            )
        groups.append(Group(_typed(group["name"], str, "text", f"{where}, group {i}, key name"), runs, grids))
    return groups


def _keys(given: Any, needed: Sequence[str], known: Sequence[str], where: str) -> dict[str, Any]:
    mapping: dict[str, Any] = _typed(given, dict, f"a mapping with {', '.join(needed)}", where)
    for key in mapping:
        if key not in known:
            raise ReproError(f"{where}: unknown key {key!r}; one of {', '.join(known)} was expected")
    for key in needed:
        if key not in mapping:
            raise ReproError(f"{where}: key {key!r} is missing; add it")
    return mapping


def _typed(value: Any, kind: type, name: str, where: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ReproError(f"{where}: {value!r}; {name} was expected; correct it")
    return value


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ReproError(f"{where}: {value!r}; a list of texts was expected; correct it")
    return tuple(value)


def _commit(value: Any, where: str) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{40}", value):
        raise ReproError(f"{where}: {value!r}; the full hash of a commit (40 hex digits, in quotes) was expected")
    return value


# Seeds --------------------------------------------------------------------------------------------------------


def seeds_of(run: str, source: str, first: Sequence[int], root: Path = Path()) -> list[int]:
    """Seeds planned for a run at profile ``study``: ``first``, and the next ones up to its statements' largest look.

    Args:
        run: run id.
        source: its source.
        first: seeds of the first look, in a row, from the profile's sizes.
        root: root of the repository.

    Raises:
        ReproError: ``data/study.yaml`` or ``data/published.yaml`` is malformed, or a look is one of no statement.
    """
    looks = load(root).looks
    if not looks:
        return list(first)
    text = (root / "data/published.yaml").read_text(encoding="utf-8")
    of_run = _looks_of_runs(text, tuple(sorted(looks.items())), source, root)
    return at_look(first, max(len(first), of_run.get(run, 0)))


def at_look(first: Sequence[int], n: int) -> list[int]:
    """The seeds of a look of ``n`` seeds, of which ``first`` are those of the first look.

    >>> at_look([11, 12, 13, 14, 15], 8)
    [11, 12, 13, 14, 15, 16, 17, 18]
    """
    return [*first, *range(max(first) + 1, max(first) + 1 + n - len(first))]


@lru_cache(maxsize=64)
def _looks_of_runs(text: str, looks: tuple[tuple[str, int], ...], source: str, root: Path) -> dict[str, int]:
    """Run -> largest look of any statement that reads it; ``text`` is that of the statements, read from ``root``."""
    statements = {statement.id: statement for statement in load_published(root).statements}
    found: dict[str, int] = {}
    for name, n in looks:
        if name not in statements:
            raise ReproError(f"{root / 'data/study.yaml'}, key looks: {name!r} is no statement of data/published.yaml")
        if statements[name].source == source:
            for run in runs_read(statements[name], root):
                found[run] = max(n, found.get(run, 0))
    return found


def runs_read(statement: Statement, root: Path = Path()) -> list[str]:
    """Ids of the runs, and of the arms of grids, whose records decide ``statement``.

    To those that its rule names come the run that sets the target of what is timed, and the run whose share of
    stepped-up iterations another one repeats.

    Raises:
        ReproError: ``pipelines/<source>.yaml`` is malformed.
    """
    runs = runs_named(statement)
    parts = (statement.judge or {}).get("parts", [])
    if statement.source in TARGETS and any(part.get("metric") in TO_TARGET for part in parts):
        runs.append(TARGETS[statement.source].run)
    content = files.read_yaml(root / "pipelines" / f"{statement.source}.yaml")
    defined = (content.get("runs") or {}) | (content.get("controls") or {})
    steps = ((defined.get(run) or {}).get("step_up") or {} for run in runs)
    runs += [str(step["share_of"]) for step in steps if "share_of" in step]
    return list(dict.fromkeys(runs))


# Order --------------------------------------------------------------------------------------------------------
