"""At profile study the check judges again, and asks for the commit that every record was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tree

from repro import files
from repro.commands import check
from repro.registry import specs, store
from repro.report import pilot
from repro.results import records
from repro.results.records import Record
from repro.verdicts import judge, rules
from repro.verdicts.parts import six_digits

RUN, SEED = "e1-central", 11
CLEAN = {"commit": "c0ffee" * 6 + "c0ff", "code": "f00d"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tree.plant(tmp_path)


def recorded(root: Path, known: dict[str, Any] | None, seed: int = SEED) -> Record:
    spec = specs.find(RUN, "study", root)
    made = tree.record(spec, seed, root)
    path = records.provenance_path(store.record_path(spec, seed, root))
    if known is not None:
        files.write_atomic(path, files.canonical_json(known))
    return made


@pytest.mark.parametrize(
    ("known", "says"),
    [
        (CLEAN, None),
        (CLEAN | {"commit": "c0ffee+changes"}, "made at commit c0ffee+changes"),
        (CLEAN | {"commit": ""}, "made at commit not recorded"),
        ({"commit": CLEAN["commit"]}, "no hash of the code"),
        (None, "missing"),
    ],
)
def test_a_record_that_no_commit_stands_for_is_a_problem(known: Any, says: str | None, root: Path) -> None:
    recorded(root, known)
    found = [line for line in check.check("study", root)[0] if RUN in line and "provenance" in line]
    assert [says in line for line in found] == ([True] if says else [])


def stored(root: Path) -> dict[str, Any]:
    """The verdicts as `verdicts --write` stores them, by statement."""
    made = pilot.judge_all(judge.load_published(root).statements, "study", root)
    path = root / "figures/study/verdicts.json"
    files.write_atomic(path, files.canonical_json(made))
    return {verdict["id"]: verdict for verdict in files.read_json(path)}


def test_verdicts_are_those_of_todays_records_and_rules(root: Path) -> None:
    spec = specs.find("e1-union-law", "study", root)
    seed = next(seed for s, seed in specs.runs_and_waiting("e1", "study", "artefact", root)[0] if s.run == spec.run)
    numbers = {
        name: 1.0 for part in _law(root) for check_ in part["checks"] for name in (check_["number"], check_["limit"])
    }
    made = tree.record(spec, seed, root, rows=[], law=numbers)
    verdicts = stored(root)
    assert check.judged_otherwise(verdicts, "study", root) == []
    store.record_path(spec, seed, root).unlink()
    (line,) = check.judged_otherwise(verdicts, "study", root)
    assert line.startswith("e1.c4: the stored verdict is "), "a record that is gone"
    tree.record(spec, seed, root, rows=[], law=made.law, fingerprint="0" * 64)
    assert len(check.judged_otherwise(verdicts, "study", root)) == 1, "a record that is stale"
    tree.record(spec, seed, root, rows=[], law=made.law | {name: 2.0 for name in list(made.law or {})[:1]})
    (line,) = check.judged_otherwise(verdicts, "study", root)
    assert line.startswith("e1.c4: "), "a record with other numbers"


def _law(root: Path) -> list[dict[str, Any]]:
    (statement,) = (s for s in judge.load_published(root).statements if s.id == "e1.c4")
    return [part for part in (statement.judge or {})["parts"] if part["rule"] == "law"]


def part(p: float | None, outcome: str = "holds", **more: Any) -> dict[str, Any]:
    return {"p": p, "q": 0.5, "outcome": outcome, "looks": [{"n": 5}]} | more


def test_false_discovery_rates_run_over_the_whole_study_and_not_over_the_pilot() -> None:
    judged = [
        {"parts": [part(0.01), part(None, rules.OPEN)]},
        {"parts": [part(0.04), part(0.001, beside=True, q=None), part(None, rules.NOT_RUN, looks=[])]},
        {"parts": [part(0.02)]},
        {"parts": [part(0.001)], "pilot": True},
    ]
    pilot._with_q(judged)
    expected = [six_digits(q) for q in rules.q_values([0.01, 0.04, 0.02], 4)]
    assert [judged[0]["parts"][0]["q"], judged[1]["parts"][0]["q"], judged[2]["parts"][0]["q"]] == expected
    assert judged[1]["parts"][1]["q"] is None
    assert judged[3]["parts"][0]["q"] == 0.5
