"""Published values that figures and tables show are those of ``data/published.yaml``."""

from __future__ import annotations

from typing import Any

import yaml
from tree import REPOSITORY

from repro.report import e2, e3, lb
from repro.report.e2.runs import PUBLISHED_ACCURACY, PUBLISHED_RATE, PUBLISHED_SAVED, TOLERANCES

STATED = yaml.safe_load((REPOSITORY / "data/published.yaml").read_text())
ARTEFACTS, STATEMENTS = ({item["id"]: item for item in STATED[kind]} for kind in ("artefacts", "statements"))


def published(name: str) -> Any:
    return (ARTEFACTS | STATEMENTS)[name]["published"]


def test_tables_1_and_2_show_the_papers_numbers() -> None:
    splits = {"iid": "iid", "non-iid": "noniid"}
    for name, shown in (("lb.table1", lb.accuracy.PUBLISHED_1), ("lb.table2", lb.accuracy.PUBLISHED_2)):
        rows = {(model.lower(), splits[split]): tuple(ends) for model, _, split, *ends in published(name)["rows"]}
        assert rows == shown


def test_errors_of_lines_and_turns_of_epochs_are_the_papers() -> None:
    errors = {("compute", model.lower()): tuple(ends) for model, ends in published("lb.c9")["error"].items()}
    errors |= {("loader", data.lower().replace("-", "")): tuple(v) for data, v in published("lb.c8")["error"].items()}
    assert errors == lb.measured.PUBLISHED
    largest = {model.lower(): error for model, error in published("lb.fig5")["largest_error"].items()}
    assert largest == {model: ends[1] for (what, model), ends in errors.items() if what == "compute"}
    turns = published("lb.c5")["saturates_at"] | published("lb.c5")["rises_at"]
    assert {model.lower(): batch for model, batch in turns.items()} == lb.times.PUBLISHED_TURNS


def test_levels_drawn_as_dashes_and_stars_are_stated() -> None:
    assert published("e2.c6")["accuracy_percent"] == published("e2.fig2")["accuracy_percent"] == PUBLISHED_ACCURACY
    assert published("e3.c7")["every_10_batches_percent"] == e3.curves.PUBLISHED_SKEWED
    at_16 = {("vgg11", "t05"): published("lb.c13"), ("vgg11", "t08"): published("lb.c14")}
    assert {case: stated["factor_16_percent"] for case, stated in at_16.items()} == lb.step_up.PUBLISHED_AT_16


def test_rates_fit_as_widely_as_their_rules_say() -> None:
    assert published("e2.c1")["factor"] == PUBLISHED_RATE
    assert published("e2.c2")["saved_percent"] == PUBLISHED_SAVED
    rules = [STATEMENTS[name]["judge"]["parts"][0]["tolerance"] for name in ("e2.c1", "e2.c2")]
    assert rules == [TOLERANCES[PUBLISHED_RATE], TOLERANCES[PUBLISHED_SAVED] / 100]
    assert len(e2.runs.PUBLISHED_FACTORS) == 2
