"""``repro check``: does every published id have what it needs, and does every rule name what exists?"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from repro import files, report
from repro.commands import console
from repro.commands.verdicts import stored_at
from repro.errors import ReproError
from repro.registry import specs, study
from repro.registry.notebook_files import of_source
from repro.report import pilot
from repro.results import records
from repro.results.records import Record
from repro.running import tuning
from repro.verdicts import judge, rules
from repro.verdicts.judge import Published, Statement

WAITING = frozenset[str]()
"""Artefacts and statements that this package has no run for. Every other one that lacks something is a problem."""


def run(options: Namespace, root: Path) -> int:
    """Print what is wrong and, if asked, what waits; 1 if that is anything."""
    problems, waiting = check(options.profile, root)
    failed = console.problems([*problems, *(waiting if options.complete else ())])
    print(f"{len(problems)} problems; {len(waiting)} artefacts and statements without a run or a valid record")
    return failed


@dataclass(frozen=True)
class _Look:
    """What is compared, and what was found.

    Attributes:
        profile, root: whose files are looked at.
        published: the artefacts and statements.
        verdicts: the stored ones by statement.
        evidence: which runs have their records.
        problems, waiting: lines.
    """

    profile: str
    root: Path
    published: Published
    verdicts: Mapping[str, Mapping[str, Any]]
    evidence: pilot.Evidence
    problems: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)

    @property
    def of_study(self) -> bool:
        """Whether it is the study that is looked at."""
        return self.profile == study.PROFILE


def check(profile: str, root: Path = Path()) -> tuple[list[str], list[str]]:
    """Compare ``data/published.yaml`` with what exists.

    Every artefact needs something that draws it from defined runs, its files under
    ``figures/<profile>`` and a place in a notebook of the source; every statement needs a rule whose runs are defined,
    a figure or table that something draws (laws and definitions are shown by the code that executes them), a verdict
    and a place in a notebook; and the stored learning rates must be those that the grids choose today. No record may be
    stale or gone (its provenance tells), and the stored verdicts must be those that today's records and rules give.
    What is in ``WAITING`` and has neither a rule nor a drawing waits.

    Returns:
        (problems, waiting): one line for everything that is missing or wrong, and one for everything that has no
        run, or none with a valid record, or whose control runs were not drawn. At profile ``study`` what the pilot
        stands in for waits, until ``data/study.yaml`` says that the study is complete, and records must come from a
        clean commit there.

    Raises:
        ReproError: a file of the package is malformed.
    """
    path = stored_at(profile, root)
    verdicts = {v["id"]: v for v in files.read_json(path)} if path.exists() else {}
    look = _Look(profile, root, judge.load_published(root), verdicts, pilot.Evidence(root, profile))
    for source in sorted({artefact.source for artefact in look.published.artefacts}):
        _source(look, source)
    try:
        look.problems.extend(judged_otherwise(verdicts, profile, root, look.evidence))
    except ReproError as error:
        look.problems.extend([str(error)] * (str(error) not in look.problems))
    return look.problems, look.waiting


def _source(look: _Look, source: str) -> None:
    """Add what is found of one source."""
    profile, root, later = look.profile, look.root, _later(look.published, source)
    look.problems.extend(_records(look, source))
    try:
        look.evidence.found(source)
    except ReproError:  # a damaged record, which is said by now; nothing can be judged beside it
        return
    look.waiting.extend(f"{item}: this package has no run for it" for item in later)
    look.problems.extend(_not_in_notebook(look.published, source, later, root))
    look.problems.extend(
        f"{artefact.id}: nothing draws it; add it to repro.report.ARTEFACTS"
        for artefact in look.published.artefacts
        if artefact.source == source and artefact.id not in report.ARTEFACTS and artefact.id not in later
    )
    _missing_files(look, source)
    statements = [each for each in look.published.statements if each.source == source and each.id not in later]
    look.problems.extend(problem for statement in statements for problem in _unfit(statement))
    look.problems.extend(_undefined_runs(statements, source, profile, root))
    if not look.of_study or _grids_complete(look, source):
        look.problems.extend(_learning_rates(source, profile, root))
    else:
        look.waiting.append(f"{source}: its learning-rate grids are not all run at profile {profile}; run `make study`")
    for statement in statements:
        _verdict(look, statement)


def _missing_files(look: _Look, source: str) -> None:
    """Files of figures and tables; of the controls, and of what neither the study nor the pilot has, they wait."""
    for group, command in (("artefact", "dvc repro"), ("control", specs.remedy(look.profile))):
        for artefact in report.ids(source, group):
            waits = group == "control" or (
                look.of_study and not pilot.has(artefact, look.root) and pilot.stands_in_for(artefact, look.evidence)
            )
            (look.waiting if waits else look.problems).extend(
                f"figures/{look.profile}/{name}: missing; run `{command}`"
                for name in report.outputs(artefact)
                if not (look.root / "figures" / look.profile / name).exists()
            )


def _verdict(look: _Look, statement: Statement) -> None:
    """A verdict that is missing, or the pilot's, or no result."""
    verdict = look.verdicts.get(statement.id)
    if verdict is None:
        look.problems.append(f"{statement.id}: no verdict in {stored_at(look.profile, Path())}; run `dvc repro`")
    elif verdict["verdict"] == rules.NOT_RUN:
        look.waiting.append(f"{statement.id}: not run ({verdict['reason']})")
    elif verdict.get("pilot"):
        open_yet = not (look.of_study and look.evidence.study.complete)
        (look.waiting if open_yet else look.problems).append(f"{statement.id}: shows the pilot; run `make study`")


def _records(look: _Look, source: str) -> Iterator[str]:
    """A damaged record, records that count no longer, and records that were there and are gone.

    Of the study, also records that no commit stands for.
    """
    profile, root = look.profile, look.root
    try:
        found = look.evidence.found(source)
    except ReproError as error:
        yield str(error)
        return
    if look.of_study:
        yield from _without_a_commit(found.records, root)
    gone = [task for task in found.missing if _provenance(*task, source, profile, root)]
    for tasks, why in (
        (found.stale, "stale, made with other settings, data or numerics"),
        (gone, "gone, while their provenance is there"),
    ):
        if tasks:
            named = ", ".join(f"{run} seed {seed}" for run, seed in tasks[:3])
            more = f" and {len(tasks) - 3} more" if len(tasks) > 3 else ""
            yield f"{source}: records are {why} ({named}{more}); run `dvc repro` or `{specs.remedy(profile)}`"


def _provenance(run: str, seed: int, source: str, profile: str, root: Path) -> bool:
    """Whether a run left its provenance, with the records of the artefacts or of the controls."""
    folders = (root / "data/provenance" / profile / name for name in (source, f"{source}_controls"))
    return any((folder / f"{run}.s{seed}.json").exists() for folder in folders)


def judged_otherwise(
    verdicts: Mapping[str, Mapping[str, Any]], profile: str, root: Path = Path(), evidence: pilot.Evidence | None = None
) -> list[str]:
    """One line for each stored verdict (by statement) that is not what today's records and rules give.

    Records are read unless they are here, as ``evidence``.

    Raises:
        ReproError: a file of the package or a record is damaged.
    """
    problems = []
    for today in pilot.judge_all(judge.load_published(root).statements, profile, root, evidence):
        stored = verdicts.get(today["id"])
        if stored is not None and files.canonical_json(stored) != files.canonical_json(today):
            was, now = str(stored["verdict"]), str(today["verdict"])
            how = f"the stored verdict is {was!r}, judged again it is {now!r}"
            if was == now:
                how = f"the stored verdict ({was}) has other numbers than judging again gives"
            problems.append(f"{today['id']}: {how}; records or rules changed since; run `dvc repro`")
    return problems


def _without_a_commit(found: Iterable[Record], root: Path) -> Iterator[str]:
    """Records of the study that no commit stands for: made from changed files, or by code that nothing identifies."""
    for record in found:
        path = records.provenance_path(records.path_of(record))
        known = files.read_json(root / path) if (root / path).exists() else {}
        wrong = None
        if not known:
            wrong = "missing"
        elif str(known.get("commit", "")).endswith("+changes") or not known.get("commit"):
            wrong = f"made at commit {known.get('commit') or 'not recorded'}"
        elif not known.get("code"):
            wrong = "no hash of the code"
        if wrong:
            yield f"{path}: {wrong}; a clean commit and its code were expected; compute {record.run} again from one"


def _ids(published: Published, source: str) -> list[str]:
    listed = [(item.id, item.source) for item in published.artefacts]
    listed += [(item.id, item.source) for item in published.statements]
    return [name for name, owner in listed if owner == source]


def _later(published: Published, source: str) -> list[str]:
    """Artefacts without a drawing, and statements without a rule, that may be without."""
    drawn = [item.id for item in published.artefacts if item.id in report.ARTEFACTS]
    ruled = [statement.id for statement in published.statements if statement.judge is not None]
    return [name for name in _ids(published, source) if name in WAITING and name not in drawn + ruled]


def _not_in_notebook(published: Published, source: str, later: list[str], root: Path) -> Iterator[str]:
    found = of_source(root / "notebooks", source)
    text = "\n".join(path.read_text(encoding="utf-8") for path in found)
    where = " or ".join(f"notebooks/{path.name}" for path in found) or f"notebooks/{source}.ipynb"
    for name in _ids(published, source):
        if name not in later and not re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", text):
            yield f"{name}: not in {where}; a section that names it was expected"


def _unfit(statement: Statement) -> Iterator[str]:
    """A statement without a rule, or shown by a companion figure that nothing draws."""
    if statement.judge is None:
        yield f"{statement.id}: no rule; a key `judge` was expected in data/published.yaml"
    if statement.artefact is None and statement.kind not in ("law", "definition"):
        yield f"{statement.id}: no figure or table; a key `artefact` was expected in data/published.yaml"
    for artefact in statement.shown_by:
        if artefact not in report.ARTEFACTS:
            yield f"{statement.id}: shown by {artefact}, which nothing draws; add it to repro.report.ARTEFACTS"


def _undefined_runs(statements: list[Statement], source: str, profile: str, root: Path) -> Iterator[str]:
    try:
        planned = [specs.runs_and_waiting(source, profile, group, root) for group in specs.GROUPS]
        known = {spec.run for tasks, _ in planned for spec, _ in tasks}
        known |= {run for _, later in planned for run, _ in later}
        drawn = [(name, run) for name, item in report.ARTEFACTS.items() if item.source == source for run in item.runs]
        for name, pattern in drawn:
            if not any(fnmatchcase(run, pattern) for run in known):
                yield f"{name}: drawn from {pattern}, which pipelines/{source}.yaml does not define; correct one"
        known |= {f"{source}-grid-{arm}" for arm in specs.grids(source, profile, root)}
    except ReproError as error:
        yield str(error)
        return
    for statement in statements:
        for run in judge.runs_named(statement):
            if run not in known:
                yield f"{statement.id}: judged by {run}, which pipelines/{source}.yaml does not define; correct one"


def _grids_complete(look: _Look, source: str) -> bool:
    found = look.evidence.found(source)
    return not any(run.startswith(f"{source}-grid-") for run, _ in [*found.missing, *found.stale])


def _learning_rates(source: str, profile: str, root: Path) -> Iterator[str]:
    """Every difference between the stored learning rates and what the grids choose today."""
    path = specs.learning_rates_path(profile, root).relative_to(root)
    try:
        chosen = tuning.choose(source, profile, root)
        stored = files.read_json(root / path)[source] if chosen else {}
    except (ReproError, OSError, KeyError) as error:
        yield f"{path}: cannot be compared with the grids ({error}); run `{specs.remedy(profile)}`"
        return
    for grid in sorted(chosen.keys() | stored.keys()):
        if chosen.get(grid) != stored.get(grid):
            yield f"{path}: {grid} is stale; run `{specs.remedy(profile)}`"
