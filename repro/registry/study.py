"""How the study is run (``data/study.yaml``): its pilot, which statements have more seeds, and in what order runs go.

The first look at a statement of profile ``study`` is at the seeds of the profile's sizes (five from 11 up). A statement
under ``looks`` has more; so have all runs that it reads. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from repro import files, validation
from repro.errors import ReproError
from repro.experiments.spec import SOURCES
from repro.registry.published import TO_TARGET, Statement, load_published, runs_named
from repro.results.looks import LOOKS
from repro.results.metrics import TARGETS
from repro.validation import Model, OneOf, Text, expecting

PROFILE = "study"
Commit = Annotated[
    str, Field(pattern=r"^[0-9a-f]{40}$"), expecting("the full hash of a commit (40 hex digits, quoted)")
]

CodeHash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$"), expecting("a SHA-256 (64 hex digits, quoted)")]


class Pilot(Model):
    """What was run before the study: the commit that holds its records, and its profile and seeds there."""

    commit: Commit
    profile: Text
    seeds: Annotated[int, Field(ge=1)]


class Group(Model):
    """Runs that ``make study`` computes together.

    Attributes:
        name: for messages.
        runs: run ids, in which ``*`` stands for anything.
        grids: sources whose learning rates these runs need: their grids come first.
    """

    name: Text
    runs: list[Text]
    grids: list[Annotated[str, OneOf(SOURCES)]] = Field(default=[])


class Study(Model):
    """Contents of ``data/study.yaml``.

    Attributes:
        pilot: the pilot evidence under ``figures/pilot``.
        rules_commit: full hash of the commit whose rules the runs were made under; None before the first run.
        complete: whether every statement has its last look.
        looks: statement id -> number of seeds, of those that have more than the first look's.
        order: groups of runs in the order in which they are computed.
        changed: statement id -> id of the ledger's entry that says why its rule is no longer that of ``rules_commit``.
        added: statement id -> full hash of the commit of its rule, of those that got one after ``rules_commit``. Runs
            that no other statement reads are made after it.
        judging: hash of judging code -> id of the ledger's entry that says how it differs from that of ``rules_commit``
            and how it was shown to judge alike.
    """

    pilot: Pilot
    rules_commit: Commit | None
    complete: bool
    looks: dict[Text, Annotated[int, OneOf(LOOKS[1:])]]
    order: list[Group]
    changed: dict[Text, Text] = Field(default={})
    added: dict[Text, Commit] = Field(default={})
    judging: dict[CodeHash, Text] = Field(default={})


def load(root: Path = Path()) -> Study:
    """Read and validate ``data/study.yaml``; shared by all who read it, so not to be changed.

    Raises:
        ReproError: the file is missing or malformed; the line names file, key and what was expected.
    """
    return validation.load(Study, root / "data/study.yaml")


# Seeds --------------------------------------------------------------------------------------------------------


def looks_of_runs(source: str, root: Path = Path()) -> dict[str, int]:
    """Run -> largest look of its statements, of the runs of ``source`` that have more seeds than those of the first.

    Raises:
        ReproError: ``data/study.yaml`` or ``data/published.yaml`` is malformed, or a look is one of no statement.
    """
    looks = load(root).looks
    statements = {statement.id: statement for statement in load_published(root).statements} if looks else {}
    found: dict[str, int] = {}
    for name, n in looks.items():
        if name not in statements:
            raise ReproError(f"{root / 'data/study.yaml'}, key looks: {name!r} is no statement of data/published.yaml")
        if statements[name].source == source:
            for run in runs_read(statements[name], root):
                found[run] = max(n, found.get(run, 0))
    return found


def at_look(first: Sequence[int], n: int) -> list[int]:
    """The seeds of a look of ``n`` seeds, of which ``first`` are those of the first look.

    >>> at_look([11, 12, 13, 14, 15], 8)
    [11, 12, 13, 14, 15, 16, 17, 18]
    """
    return [*first, *range(max(first) + 1, max(first) + 1 + n - len(first))]


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
    path = root / "pipelines" / f"{statement.source}.yaml"
    content = files.parsed_yaml(files.read_text(path), path)
    defined = (content.get("runs") or {}) | (content.get("controls") or {})
    steps = ((defined.get(run) or {}).get("step_up") or {} for run in runs)
    runs += [str(step["share_of"]) for step in steps if "share_of" in step]
    return list(dict.fromkeys(runs))


# Order --------------------------------------------------------------------------------------------------------
