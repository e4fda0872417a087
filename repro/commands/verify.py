"""``repro verify``, the reviewer's check: what can be computed again within minutes, statement by statement.

Laws, definitions and the sources' arithmetic are executed, the stored verdicts are judged again from the records, and
of every statement that has records the quickest one is computed again and compared, while the time lasts. A run that
several statements read is computed once. Measurements are left out: a time needs the machine for itself.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from html import escape
from pathlib import Path
from typing import Any

from repro import files
from repro.commands import check, console
from repro.commands.verdicts import stored_at
from repro.errors import ReproError
from repro.registry import specs, store, study
from repro.running import rerun, sweep
from repro.running.rerun import DIFFERS, Comparison
from repro.verdicts import arithmetic, judge, rules
from repro.verdicts.judge import Statement

Task = tuple[str, int]
"""Id of a run, and seed."""


def run(options: Namespace, root: Path) -> int:
    """Print what the check found, statement by statement; 1 if anything disagrees."""
    found = review(
        options.profile,
        root,
        time_budget=options.time_budget,
        jobs=options.jobs,
        tell=lambda line: console.note(f"verify: {line}"),
    )
    if options.json:
        console.as_json(found.as_json())
    else:
        print("\n".join(found.lines()))
    return int(not found.agrees)


@dataclass(frozen=True)
class Checked:
    """What was checked of one statement.

    Attributes:
        id, kind: of the statement.
        agrees: whether all that was compared agrees; None where nothing could be.
        runs: records that were computed again, laws among them.
        said: what else was executed, or why nothing was.
    """

    id: str
    kind: str
    agrees: bool | None
    runs: tuple[Comparison, ...] = ()
    said: tuple[str, ...] = ()


@dataclass(frozen=True)
class Known:
    """A valid record that can be computed again; ``seconds`` of one core it took, None where no provenance tells."""

    spec: specs.Spec
    seed: int
    seconds: float | None


@dataclass
class Report:
    """All that the check found. ``arithmetic`` and ``verdicts`` are lines of what disagrees, and ``notes`` explain."""

    statements: list[Checked] = field(default_factory=list)
    arithmetic: list[str] = field(default_factory=list)
    verdicts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    records: int = 0
    seconds: float = 0.0

    @property
    def agrees(self) -> bool:
        """Whether nothing disagrees; what was not checked does not."""
        return not (self.arithmetic or self.verdicts or any(each.agrees is False for each in self.statements))

    def as_json(self) -> dict[str, Any]:
        """Plain mapping."""
        return {"agrees": self.agrees} | asdict(self)

    def lines(self) -> list[str]:
        """Statement by statement, then a summary."""
        words = {True: "agrees", False: "DISAGREES", None: "not checked"}
        found = [f"{each.id:8} {words[each.agrees]:11}  {'; '.join(_said(each))}" for each in self.statements]
        found += [f"arithmetic: DISAGREES: {line}" for line in self.arithmetic]
        found += [f"verdicts: DISAGREES: {line}" for line in self.verdicts]
        found += self.notes
        counts = {answer: sum(each.agrees is answer for each in self.statements) for answer in words}
        runs = {(run.run, run.seed): run.verdict for each in self.statements for run in each.runs}
        same = sum(verdict == rerun.IDENTICAL for verdict in runs.values())
        return [
            *found,
            f"{counts[True]} of {len(self.statements)} statements agree in what was computed again, {counts[False]} "
            f"disagree, {counts[None]} were not checked; {len(runs)} runs computed again, {same} of them identical to "
            f"their records, in {self.seconds / 60:.1f} minutes",
        ]


def _said(checked: Checked) -> list[str]:
    runs = [
        f"{run.run} seed {run.seed} {run.verdict}"
        + (f" ({run.detail})" if run.verdict == DIFFERS else "")
        + (f", recorded {run.recorded}, now {run.again}" if run.recorded else "")
        for run in checked.runs
    ]
    return [*runs, *checked.said]


def _silent(line: str) -> None:
    """Tell nobody."""


def review(
    profile: str, root: Path, *, time_budget: float, jobs: int | None = None, tell: Callable[[str], None] = _silent
) -> Report:
    """Check what can be checked within ``time_budget`` seconds, and compare it with what is committed.

    Args:
        profile: whose records are computed again.
        root: root of the repository.
        time_budget: seconds after which no further run is started; only runs that should end before are.
        jobs: processes; as many as a sweep has when None.
        tell: called with a line before and after every step.

    Raises:
        ReproError: a file of the package or a record is damaged.
    """
    started, report = time.monotonic(), Report()
    statements, valid = judge.load_published(root).statements, _valid(profile, root)
    tell("arithmetic of the sources, done again")
    report.arithmetic = _arithmetic(profile, root, report.notes)
    tell("verdicts, judged again from the records")
    report.verdicts = _verdicts(profile, root, report.notes)
    report.records = len(valid)
    if not valid:
        report.notes.append(
            f"no valid record of profile {profile} is here, so that no training could be computed again and compared: "
            "laws, definitions and arithmetic alone were checked"
        )
    executed = {each.id: list(_executed(each, profile, root, valid, tell)) for each in statements}
    behind = {each.id: _quickest_first(each, valid, root) for each in statements}
    processes = jobs or sweep.default_jobs()
    left = time_budget - (time.monotonic() - started)
    chosen = choose(behind, left, processes)
    tell(f"{len(chosen)} runs to compute again, in {processes} processes")
    again = _computed([valid[task] for task in chosen], root, processes, started + time_budget, tell)
    report.statements = [_checked(each, executed[each.id], behind[each.id], again) for each in statements]
    report.seconds = round(time.monotonic() - started, 1)
    return report


# What needs no run -------------------------------------------------------------------------------------------------


def _arithmetic(profile: str, root: Path, notes: list[str]) -> list[str]:
    found, page = arithmetic.lines(root), root / "book/arithmetic.html"
    if not page.exists():
        notes.append(f"arithmetic: {len(found)} computations done; no book is here to hold them against")
        return []
    text = page.read_text(encoding="utf-8").replace("&#34;", "&quot;").replace("&#39;", "&#x27;")
    wrong = [f"{line.id}: {line.computed} is not on {page}" for line in found if escape(line.computed) not in text]
    notes.append(f"arithmetic: {len(found) - len(wrong)} of {len(found)} computations give what the book shows")
    return wrong


def _verdicts(profile: str, root: Path, notes: list[str]) -> list[str]:
    path = stored_at(profile, root)
    if not path.exists():
        notes.append(f"verdicts: {path} is not here, so that none could be compared")
        return []
    stored = {verdict["id"]: verdict for verdict in files.read_json(path)}
    wrong = check.judged_otherwise(stored, profile, root)
    notes.append(f"verdicts: {len(stored) - len(wrong)} of {len(stored)} are what judging the records again gives")
    return wrong


def _executed(
    statement: Statement, profile: str, root: Path, valid: Mapping[Task, Known], tell: Callable[[str], None]
) -> Iterable[tuple[bool | None, str | Comparison]]:
    """Every law and definition of a statement, executed: whether it agrees, and what to say of it."""
    for part in (statement.judge or {}).get("parts", []):
        if part["rule"] not in ("law", "definition"):
            continue
        tell(f"{statement.id}: {part['rule']} of {part['run']}, executed")
        try:
            spec = specs.find(part["run"], profile, root)
            if part["rule"] == "definition":
                yield _definition(statement, spec, root)
            else:
                seed = next(seed for s, seed in _planned(spec.source, profile, root) if s.run == spec.run)
                yield _law(spec, seed, root, recorded=(spec.run, seed) in valid)
        except ReproError as error:
            yield None, f"{part['rule']} of {part['run']} not executed ({error})"


def _definition(statement: Statement, spec: specs.Spec, root: Path) -> tuple[bool | None, str]:
    """Whether a definition comes out, executed, as the stored verdict of the profile says; None where there is none."""
    from repro.verdicts import definitions

    ours = definitions.of_codec(spec.as_dict())
    unmet = [
        f"{name} is {ours.get(name)}, published is {said}"
        for name, said in statement.published.items()
        if ours.get(name) != said
    ]
    told = f"definition executed: {'; '.join(unmet) or 'every setting is as published'}"
    path = stored_at(spec.profile, root)
    stored = next((v for v in (files.read_json(path) if path.exists() else []) if v["id"] == statement.id), None)
    if stored is None or stored.get("pilot") or stored["verdict"] == judge.NOT_RUN:
        return None if unmet else True, told
    return any(part["outcome"] == rules.FAILS for part in stored["parts"]) == bool(unmet), told


def _law(spec: specs.Spec, seed: int, root: Path, *, recorded: bool) -> tuple[bool, str | Comparison]:
    if recorded:
        found = rerun.rerun(spec, seed, root)
        return found.verdict != DIFFERS, found
    from repro.running import runner

    made, _ = runner.run(spec, seed, root, checkpoint_seconds=float("inf"))
    checks = rerun.law_checks(spec.run, root)
    unmet = rules.unmet_checks(made.law or {}, checks)
    told = "; ".join(unmet) or f"{len(checks)} checks met"
    return not unmet, f"law {spec.run} executed, without a record to compare with: {told}"


# Runs --------------------------------------------------------------------------------------------------------------


def _planned(source: str, profile: str, root: Path) -> list[tuple[specs.Spec, int]]:
    return [task for group in specs.GROUPS for task in specs.runs_and_waiting(source, profile, group, root)[0]]


def _valid(profile: str, root: Path) -> dict[Task, Known]:
    """Planned runs with a valid record."""
    return {
        (spec.run, seed): Known(spec, seed, rerun.recorded_seconds(spec, seed, root))
        for source in specs.SOURCES
        for spec, seed in _planned(source, profile, root)
        if store.stored(spec, seed, root) is not None
    }


def _quickest_first(statement: Statement, valid: Mapping[Task, Known], root: Path) -> dict[Task, float]:
    """Records that a statement reads and that a repetition can be compared with, with their seconds, ascending."""
    patterns = [pattern for run in study.runs_read(statement, root) for pattern in (run, f"{run}-lr*")]
    found = {
        task: known.seconds
        for task, known in valid.items()
        if known.seconds is not None
        and known.spec.kind in rerun.COMPARED
        and any(fnmatchcase(known.spec.run, pattern) for pattern in patterns)
    }
    return dict(sorted(found.items(), key=lambda item: (item[1], item[0])))


def choose(behind: Mapping[str, Mapping[Task, float]], budget: float, jobs: int) -> list[Task]:
    """The quickest run of as many statements as end within ``budget`` seconds, the quickest first.

    Args:
        behind: statement -> its runs with a record, and the seconds of one core that each takes, the quickest first.
        budget: seconds of the wall clock.
        jobs: processes side by side.
    """
    chosen: list[Task] = []
    free = [0.0] * jobs  # when each process has done what it was given
    firsts = sorted((seconds, task, name) for name, tasks in behind.items() for task, seconds in [*tasks.items()][:1])
    for needed, task, name in firsts:
        if any(other in chosen for other in behind[name]):
            continue
        process = min(range(jobs), key=lambda index: free[index])
        if free[process] + needed > budget:
            break
        free[process] += needed
        chosen.append(task)
    return chosen


def _again(spec: specs.Spec, seed: int, root: Path) -> Comparison:
    return rerun.rerun(spec, seed, root)


def _computed(
    chosen: Sequence[Known], root: Path, jobs: int, until: float, tell: Callable[[str], None]
) -> dict[Task, Comparison | str]:
    """Compare each run that can still end before ``until``; why not, of what could not be compared."""
    from repro.data import sets

    found: dict[Task, Comparison | str] = {}
    for name in sorted({known.spec.dataset for known in chosen}):
        try:
            sets.load(name, root / "data")  # once, before processes start
        except ReproError as error:
            found |= {(known.spec.run, known.seed): str(error) for known in chosen if known.spec.dataset == name}
    waiting = [known for known in chosen if (known.spec.run, known.seed) not in found]
    running = dict[Future[Comparison], Task]()
    if not waiting:
        return found
    with ProcessPoolExecutor(
        min(jobs, len(waiting)), multiprocessing.get_context("spawn"), sweep.start_worker, (os.getpid(),)
    ) as pool:
        while waiting or running:
            while waiting and len(running) < jobs:
                known = waiting.pop(0)
                task = (known.spec.run, known.seed)
                if time.monotonic() + (known.seconds or 0.0) > until:
                    found[task] = "the time was over"
                else:
                    running[pool.submit(_again, known.spec, known.seed, root)] = task
            for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
                task = running.pop(future)
                try:
                    found[task] = future.result()
                except Exception as error:  # whatever one run met, the others go on
                    found[task] = str(error) if isinstance(error, ReproError) else f"{type(error).__name__}: {error}"
                told = found[task]
                verdict = told if isinstance(told, str) else told.verdict
                tell(f"[{len(found)}/{len(chosen)}] {task[0]} seed {task[1]}: {verdict}")
    return found


def _checked(
    statement: Statement,
    executed: Sequence[tuple[bool | None, str | Comparison]],
    behind: Mapping[Task, float],
    again: Mapping[Task, Comparison | str],
) -> Checked:
    """The answer for one statement."""
    answers = [answer for answer, _ in executed]
    runs = [what for _, what in executed if isinstance(what, Comparison)]
    said = [what for _, what in executed if isinstance(what, str)]
    for (run, seed), told in ((task, again[task]) for task in behind if task in again):
        if isinstance(told, str):
            said.append(f"{run} seed {seed} not compared ({told})")
        else:
            runs.append(told)
            answers.append(told.verdict != DIFFERS)
    known = [answer for answer in answers if answer is not None]
    if not executed and not known and not said:
        said.append(_why_not(statement, behind))
    return Checked(statement.id, statement.kind, all(known) if known else None, tuple(runs), tuple(said))


def _why_not(statement: Statement, behind: Mapping[Task, float]) -> str:
    if behind:
        (run, seed), seconds = next(iter(behind.items()))
        return f"its quickest record ({run} seed {seed}) takes {seconds / 60:.1f} core-minutes, which did not fit"
    parts = (statement.judge or {}).get("parts", [])
    if parts and all(part["rule"] == "measured" for part in parts):
        return "rests on measured times and memory, which need the machine for themselves (`repro rerun`)"
    return "no valid record of the runs that it reads"
