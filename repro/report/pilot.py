"""What stands in while the study is not complete: the pilot's verdicts, figures, tables and executed notebooks.

At profile ``study`` only. A statement, a figure or a table is the study's own once every run that it reads has a valid
record of every seed of the first look; until then it is the pilot's, marked as such. The pilot is never judged again:
its files under ``figures/pilot`` are copied, and its records are in the repository's history (``data/study.yaml``).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from repro import files, report
from repro.errors import ReproError
from repro.registry import specs, store, study
from repro.report import provenance
from repro.verdicts import judge, rules
from repro.verdicts.judge import Statement
from repro.verdicts.parts import six_digits

FOLDER = Path("figures/pilot")
MARK = " (pilot)"
TODAY = {"inconclusive": "open"}
"""Outcomes that had another name when the pilot was judged."""


class Evidence:
    """Which planned runs of a profile have their records, source by source; read from disk when first asked for."""

    def __init__(self, root: Path = Path(), profile: str = study.PROFILE):
        self.root, self.profile = root, profile
        self.study = study.load(root)
        self._found: dict[str, store.Found] = {}
        self._first: dict[str, list[int]] = {}
        self._lacking: dict[tuple[str, int], set[str]] = {}

    def found(self, source: str) -> store.Found:
        """The valid records of a source, and the planned runs that have none."""
        if source not in self._found:
            self._found[source] = store.current(source, self.profile, self.root)
        return self._found[source]

    def _after(self, source: str, n: int) -> Collection[int]:
        """Seeds that belong to looks of more than ``n`` seeds."""
        if source not in self._first:
            self._first[source] = specs.first_seeds(source, self.profile, self.root)
        first = self._first[source]
        return set(study.at_look(first, study.LOOKS[-1])) - set(study.at_look(first, n))

    def complete(self, source: str, patterns: Iterable[str], n: int = study.LOOKS[0]) -> bool:
        """Whether all planned runs that match ``patterns`` have valid records of the look of ``n`` seeds."""
        if (source, n) not in self._lacking:
            found, after = self.found(source), self._after(source, n)
            self._lacking[source, n] = {run for run, seed in [*found.missing, *found.stale] if seed not in after}
        return not any(fnmatch.filter(self._lacking[source, n], pattern) for pattern in patterns)

    def up_to(self, source: str, n: int) -> store.Found:
        """What ``found`` gives, without the seeds of later looks than that of ``n`` seeds."""
        found, after = self.found(source), self._after(source, n)
        return store.Found(
            [record for record in found.records if record.seed not in after],
            [task for task in found.missing if task[1] not in after],
            [task for task in found.stale if task[1] not in after],
        )


# Verdicts -----------------------------------------------------------------------------------------------------


def judge_all(
    statements: Iterable[Statement], profile: str, root: Path = Path(), evidence: Evidence | None = None
) -> list[dict[str, Any]]:
    """The verdict on every statement: ``claims.judge_all``, with the pilot's where the study has none yet.

    A statement of the study is judged at the largest of its looks for which all its runs are in; false discovery rates
    are over all parts that the study tried, whatever their look, and the pilot's are not among them.

    Records are read unless they are here, as ``evidence``.

    Raises:
        ReproError: a file of the package or a record is damaged.
    """
    statements, evidence = list(statements), evidence or Evidence(root, profile)
    if profile != study.PROFILE:
        loaded = [evidence.found(source) for source in dict.fromkeys(s.source for s in statements)]
        return _judged(statements, loaded, profile)
    old = verdicts(root)
    return _with_q([_of_study(statement, evidence, old.get(statement.id), root) for statement in statements])


def _with_q(judged: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """``judged`` with the false discovery rates over all of them, as ``claims.judge_all`` has them over its own."""
    own = [part for verdict in judged if not verdict.get("pilot") for part in verdict["parts"]]
    tried = [
        part
        for part in own
        if not part.get("beside") and (part["p"] is not None or (part["outcome"] == rules.OPEN and part["looks"]))
    ]
    decided = [part for part in tried if part["p"] is not None]
    for part, q in zip(decided, rules.q_values([part["p"] for part in decided], len(tried)), strict=True):
        part["q"] = six_digits(q)
    return list(judged)


def _judged(statements: Sequence[Statement], loaded: Sequence[store.Found], profile: str) -> list[dict[str, Any]]:
    return judge.judge_all(
        statements,
        [record for found in loaded for record in found.records],
        profile=profile,
        missing=[task for found in loaded for task in found.missing],
        stale=[task for found in loaded for task in found.stale],
    )


def _of_study(statement: Statement, evidence: Evidence, old: Mapping[str, Any] | None, root: Path) -> dict[str, Any]:
    runs = study.runs_read(statement, root)
    patterns = [pattern for run in runs for pattern in (run, f"{run}-lr*")]  # an arm of a grid stands for its runs
    largest = evidence.study.looks.get(statement.id, study.LOOKS[0])
    for n in sorted((n for n in study.LOOKS if n <= largest), reverse=True):
        if evidence.complete(statement.source, patterns, n):
            return _judged([statement], [evidence.up_to(statement.source, n)], study.PROFILE)[0]
    (own,) = _judged([statement], [evidence.up_to(statement.source, study.LOOKS[0])], study.PROFILE)
    return own if old is None or old["verdict"] == judge.NOT_RUN else _marked(own, old, evidence.study.pilot)


def _marked(own: Mapping[str, Any], old: Mapping[str, Any], pilot: study.Pilot) -> dict[str, Any]:
    """The pilot's entry ``old`` under the statement as it reads today, in today's words."""
    word = str(old["verdict"]).removesuffix(f" at {pilot.profile} scale")
    parts = [part | {"outcome": TODAY.get(part["outcome"], part["outcome"])} for part in old["parts"]]
    today = {name: own[name] for name in ("id", "source", "kind", "says", "place", "published", "artefact")}
    return (
        dict(old)
        | today
        | {"verdict": TODAY.get(word, word) + MARK, "parts": parts, "pilot": True, "commit": pilot.commit}
    )


def verdicts(root: Path = Path()) -> dict[str, dict[str, Any]]:
    """The pilot's verdicts by statement, as they were stored; none where the file is not there."""
    path = root / FOLDER / "verdicts.json"
    return {verdict["id"]: verdict for verdict in files.read_json(path)} if path.exists() else {}


def made(root: Path = Path()) -> dict[str, dict[str, Any]]:
    """Figure or table of the pilot -> content of the JSON beside it, which tells of its runs.

    Raises:
        ReproError: a file is damaged.
    """
    paths = (root / FOLDER / f"{artefact}.json" for artefact in report.ARTEFACTS)
    return {path.stem: files.read_json(path) for path in paths if path.exists()}


# Figures, tables, notebooks -----------------------------------------------------------------------------------


def stands_in_for(artefact_id: str, evidence: Evidence) -> bool:
    """Whether the study lacks runs that a figure or table of it reads."""
    artefact = report.ARTEFACTS[artefact_id]
    return not evidence.complete(artefact.source, artefact.runs)


def has(artefact_id: str, root: Path = Path()) -> bool:
    """Whether the pilot has all files of a figure or table."""
    return all((root / FOLDER / name).exists() for name in report.outputs(artefact_id))


def copy_artefact(artefact_id: str, pilot: study.Pilot, root: Path = Path()) -> list[Path]:
    """Copy the pilot's files of a figure or table to ``figures/study`` byte by byte; the JSON gets a mark besides.

    Returns:
        The files; none where the pilot has no such figure or table.

    Raises:
        ReproError: a file is damaged or cannot be written.
    """
    if not has(artefact_id, root):
        return []
    made = []
    for name in report.outputs(artefact_id):
        source, target = root / FOLDER / name, root / "figures" / study.PROFILE / name
        content: bytes | str = source.read_bytes()
        if source.suffix == ".json":
            content = provenance.text(files.read_json(source) | {"pilot": True, "commit": pilot.commit})
        files.write_atomic(target, content)
        made.append(target)
    return made


def notebook_waits(name: str, evidence: Evidence) -> bool:
    """Whether the study lacks runs of the source of a notebook, all of which its cells read, controls apart."""
    source = name.partition("-")[0]
    return any(stands_in_for(artefact, evidence) for artefact in report.ids(source, "artefact"))


def without_notebook(name: str, root: Path = Path()) -> bool:
    """Whether the study has no such notebook yet: it lacks runs that it reads, and the pilot has none."""
    return not (root / FOLDER / "notebooks" / f"{name}.ipynb").exists() and notebook_waits(name, Evidence(root))


def copy_notebook(name: str, root: Path = Path()) -> Path:
    """Copy the pilot's executed notebook to ``figures/study/notebooks``, byte by byte.

    Raises:
        ReproError: the pilot has no such notebook, or the file cannot be written.
    """
    source = root / FOLDER / "notebooks" / f"{name}.ipynb"
    if not source.exists():
        raise ReproError(
            f"notebook {name}: runs of the study that it reads are missing, and the pilot has no such notebook; "
            "compute them with `make study`"
        )
    target = root / "figures" / study.PROFILE / "notebooks" / source.name
    files.write_atomic(target, source.read_bytes())
    return target


def shown(profile: str, root: Path = Path()) -> tuple[frozenset[str], frozenset[str]]:
    """Ids of the figures and tables, and names of the notebooks, of ``profile`` that are copies of the pilot's.

    Raises:
        ReproError: a JSON file beside a figure is damaged.
    """
    if profile != study.PROFILE:
        return frozenset(), frozenset()
    folder = root / "figures" / profile
    copied = {i for i in report.present(profile, root) if files.read_json(folder / f"{i}.json").get("pilot")}
    books = {
        path.stem
        for path in (folder / "notebooks").glob("*.ipynb")
        if (old := root / FOLDER / "notebooks" / path.name).exists() and old.read_bytes() == path.read_bytes()
    }
    return frozenset(copied), frozenset(books)
