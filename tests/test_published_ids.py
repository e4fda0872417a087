"""Every artefact and statement that the package promises is in ``data/published.yaml``; one that goes missing fails."""

from fnmatch import fnmatchcase

import pytest
import tree
from test_claims import WITHOUT_A_RUN

from repro import report
from repro.commands.check import WAITING, check
from repro.registry.published import load_published, runs_named

ARTEFACTS = {
    "e1": "table1 fig1 table2",
    "e2": "table1 table2 fig1 table3 fig2 table4 table5 table6",
    "e3": "fig1 fig2 fig3 fig4 table1 fig5",
    "lb": "table1 table2 fig1 fig2 fig3 fig4 fig5 fig6 fig7 fig8 eq2 eq3 teacher",
}
STATEMENTS = {"e1": 10, "e2": 16, "e3": 12, "lb": 33}  # c1 to c<number>


@pytest.mark.parametrize("source", ARTEFACTS)
def test_no_artefact_and_no_statement_is_missing(source: str) -> None:
    published = load_published(tree.REPOSITORY)
    artefacts = [item.id for item in published.artefacts if item.source == source]
    statements = [item.id for item in published.statements if item.source == source]
    assert sorted(artefacts) == sorted(f"{source}.{name}" for name in ARTEFACTS[source].split())
    assert sorted(statements) == sorted(f"{source}.c{number}" for number in range(1, STATEMENTS[source] + 1))


@pytest.mark.parametrize("profile", ["smoke", "study"])
def test_nothing_is_missing_in_the_committed_package(profile: str) -> None:
    """Runs, figures, tables, notebook sections, rules and verdicts of every source that is built (``repro check``)."""
    problems, _ = check(profile, tree.REPOSITORY)
    assert problems == []


def test_only_these_may_wait_and_all_of_them_do() -> None:
    published = load_published(tree.REPOSITORY)
    assert WITHOUT_A_RUN == WAITING
    _, waiting = check("study", tree.REPOSITORY)
    for item in [*published.artefacts, *published.statements]:
        assert (item.id in WAITING) == any(line.startswith(f"{item.id}: this package has no run") for line in waiting)


def test_whatever_a_rule_reads_is_drawn_in_a_figure_or_table_that_its_statement_links() -> None:
    """Laws have numbers and no picture; of e2-large-batch-plain, which only counts epochs, there is none either."""
    checked, undrawn = 0, []
    for statement in load_published(tree.REPOSITORY).statements:
        drawn = [p for name in statement.shown_by if name in report.ARTEFACTS for p in report.ARTEFACTS[name].runs]
        for run in runs_named(statement):
            if run != "e2-large-batch-plain" and "-law" not in run:
                checked += 1
                if not any(fnmatchcase(run, p) or p.startswith(f"{run}-lr") for p in drawn):
                    undrawn.append(f"{statement.id}: {run}")
    assert undrawn == []
    assert checked > 100
