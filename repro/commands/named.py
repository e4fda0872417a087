"""What the command line names: sources, runs, seeds and ids, found or refused with a hint."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Collection, Iterable
from pathlib import Path

from repro.errors import ReproError, did_you_mean
from repro.registry import specs
from repro.registry.published import Published, load_published, runs_named
from repro.registry.specs import Spec

Task = tuple[Spec, int]
"""A run and its seed."""
Planned = tuple[list[Task], list[tuple[str, int]]]
"""Runs with their seeds, and ids with seeds of those whose learning rate a grid has still to choose."""


def sources(options: Namespace) -> tuple[str, ...]:
    """The source that was named, or all."""
    return (options.source,) if options.source else specs.SOURCES


def planned(profile: str, root: Path, of: Iterable[str] = specs.SOURCES) -> dict[tuple[str, str], Planned]:
    """What is planned for each (source, group).

    Raises:
        ReproError: malformed specs.
    """
    return {
        (source, group): specs.runs_and_waiting(source, profile, group, root) for source in of for group in specs.GROUPS
    }


def task(options: Namespace, root: Path) -> Task:
    """The run that was named, and the seed, or else the first one that is planned for it.

    Raises:
        ReproError: no such run.
    """
    if "." in options.run and (instead := _not_a_run(options.run, root)):  # no id of a run has a dot
        raise ReproError(instead)
    spec = specs.find(options.run, options.profile, root)
    if options.seed is not None:
        return spec, int(options.seed)
    tasks = (specs.runs_and_waiting(spec.source, spec.profile, group, root)[0] for group in specs.GROUPS)
    return spec, next(seed for planned in tasks for s, seed in planned if s.run == spec.run)


def check_ids(ids: Iterable[str], known: Collection[str]) -> None:
    """Refuse an id that is none of ``known``.

    Raises:
        ReproError: an unknown id; the line names the nearest ones.
    """
    for name in ids:
        if name not in known:
            raise ReproError(f"unknown id {name!r}; {did_you_mean(name, known)}`python -m repro list` shows all ids")


def without_a_run(name: str, published: Published) -> str | None:
    """What to say of an id that a source has and for which this package has no run; None of any other id."""
    from repro import report

    for statement in published.statements:
        if statement.id == name and statement.judge is None:
            return f"{name} is a statement that has no run in this package; its verdict is 'not run'"
    for artefact in published.artefacts:
        if artefact.id == name and name not in report.ARTEFACTS:
            return f"{name} is a {artefact.kind} that has no run in this package; nothing draws it"
    return None


def _not_a_run(name: str, root: Path) -> str | None:
    """What to say where a run was expected and ``name`` is a figure, a table or a statement; None of any other id."""
    from repro import report

    published = load_published(root)
    if why := without_a_run(name, published):
        return why
    patterns = {statement.id: tuple(runs_named(statement)) for statement in published.statements}
    patterns |= {artefact: item.runs for artefact, item in report.ARTEFACTS.items()}
    if name not in patterns:
        return None
    behind = ", ".join(patterns[name][:3]) + ("" if len(patterns[name]) <= 3 else " and others")
    return f"{name} is no run; the id of a run was expected, and behind it stand {behind}"
