"""In what order ``make study`` computes the runs of the study."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from repro.registry import specs
from repro.registry.study import PROFILE, Group, load


@dataclass(frozen=True)
class Step:
    """One sweep of ``make study``: the grids of a source, or the runs of a group.

    Attributes:
        name: for messages.
        patterns: run ids, in which ``*`` stands for anything; of runs or, with ``tune``, of grids.
        tune: the source whose learning rates are chosen when all runs of the step are done; None: of no source.
    """

    name: str
    patterns: tuple[str, ...]
    tune: str | None = None

    def tasks(self, root: Path = Path()) -> list[tuple[specs.Spec, int]]:
        """The planned runs of the step; those that wait for a learning rate are left out.

        Raises:
            ReproError: malformed specs.
        """
        sources = (self.tune,) if self.tune else specs.SOURCES
        groups = ("grid",) if self.tune else ("artefact", "control")
        planned = (specs.runs_and_waiting(s, PROFILE, group, root)[0] for s in sources for group in groups)
        return [task for tasks in planned for task in tasks if any(fnmatchcase(task[0].run, p) for p in self.patterns)]


def groups(root: Path = Path()) -> list[Group]:
    """The groups of ``data/study.yaml`` in their order; what none of them names comes last, with its grids.

    Raises:
        ReproError: ``data/study.yaml`` or a spec is malformed.
    """
    every = [source for source in specs.SOURCES if specs.grids(source, PROFILE, root)]
    return [*load(root).order, Group(name="the rest", runs=["*"], grids=every)]


def steps(root: Path = Path()) -> list[Step]:
    """The sweeps of ``make study`` in their order; runs that no group names come last, with their grids.

    Raises:
        ReproError: ``data/study.yaml`` or a spec is malformed.
    """
    made: list[Step] = []
    for group in groups(root):
        made += [
            Step(f"{group.name}, learning rates of {source}", ("*",), source)
            for source in group.grids
            if source not in {step.tune for step in made}
        ]
        made.append(Step(group.name, tuple(group.runs)))
    return made
