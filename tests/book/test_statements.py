"""Laws of what the site says of statements: tally, lists, matrix, pages, and the pilot."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from typing import Any

import pytest
import tree
from site_inputs import PILOT, PUBLISHED, TALLY, Reader, inputs, with_pilot
from synthetic import e1_records

from repro import book
from repro.book import markdown, of_pilot, reasons, views, wording
from repro.book import parts as of_parts
from repro.book import theme as page
from repro.registry import study
from repro.registry.published import load_published, rule_hash
from repro.report import pilot
from repro.results.records import path_of


def test_every_statement_is_in_the_matrix_and_has_a_page_with_its_evidence(readers: dict[str, Reader]) -> None:
    rows = [row for row in readers["index.html"].all("tr") if "data-kind" in row]
    assert [row["id"] for row in rows] == [s.id for s in PUBLISHED.statements]
    assert rows[1]["data-verdict"] == "holds"
    assert rows[-1]["data-source"] == "lb"
    page = readers["e1.c2.html"]
    for link in ("e1.fig1.html", "notebook-e1.html#Figure-1", "../pipelines/e1.yaml", "ledger.html#e1"):
        assert link in page.links
    for r in e1_records():
        if r.run in ("e1-central", "e1-federated"):
            assert f"../{path_of(r)}" in page.links
    text = "".join(page.text)
    assert "python -m repro rerun e1-central --seed 1 --profile study" in text
    assert "under a minute on the machine that made it, one process on abacus" in text
    assert "2 points <is> the margin" in text


def test_statements_of_sources_that_are_not_built_read_not_run(readers: dict[str, Reader]) -> None:
    text = " ".join(" ".join(readers["lb.c1.html"].text).split())
    assert "Verdict ○ not run Reason no run of this source exists yet" in text
    assert "Runs behind it None." in text


def test_one_sentence_tells_the_tally_everywhere_laws_apart(pages: dict[str, str], readers: dict[str, Reader]) -> None:
    site = views.Site(inputs())
    assert TALLY in "".join(readers["index.html"].text)
    assert f"**{TALLY}**" in pages["index.md"]
    assert f"**{TALLY}**" in markdown.readme_block(site)
    for source, _, counts in site.counts():
        kinds = [row for row in site.rows if row.source == source and row.kind not in ("law", "definition")]
        assert sum(counts.values()) == len(kinds), source
    assert [(kind, counts) for kind, _, counts in site.apart()] == [("law", {"holds": 1}), ("definition", {})]


def test_words_accompany_colour_and_counts_lead_to_their_statements(pages: dict[str, str]) -> None:
    assert 'href="#source=e1&amp;group=results&amp;verdict=holds" aria-label="2 holds, e1">2</a>' in pages["index.html"]
    assert 'href="#kind=law&amp;verdict=holds" aria-label="1 holds, laws">1</a>' in pages["index.html"]
    for sign in page.SIGNS.values():
        assert f'<span aria-hidden="true">{sign}</span>' in pages["terms.html"]


def test_the_first_page_lists_what_holds_and_fails_and_why_the_rest_is_open(pages: dict[str, str]) -> None:
    index = pages["index.html"]
    holds, fails = (index.index(f'<h2 id="{word}">') for word in ("holds", "fails"))
    rest = index.index('<h2 id="open">')
    for name, low, high in (("e1.c2", holds, fails), ("e1.c3", fails, rest), ("e1.c1", rest, len(index))):
        assert low < index.index(f'<a class="id" href="{name}.html">', low) < high, name
    assert "Its runs are planned and not all computed yet" not in index[:rest]
    assert "This package has no run for it: <strong>3</strong>" in index[rest:]


def test_the_picture_has_a_line_and_a_link_for_every_statement(pages: dict[str, str]) -> None:
    glance = pages["index.html"].partition('<nav class="glance"')[2].partition("</nav>")[0]
    for statement in PUBLISHED.statements:
        assert f'<li><a href="{statement.id}.html"' in glance
    assert glance.count("<svg") == len(PUBLISHED.statements)
    assert "✗</span> fails" in glance, "the word stands beside the colour"


def test_every_published_value_is_in_words() -> None:
    published = load_published(tree.REPOSITORY)
    for item in [*published.artefacts, *published.statements]:
        if isinstance(item.published, dict):
            unknown = [key for key in item.published if not wording.known(key) and "rows" not in item.published]
            assert not unknown, f"{item.id}: no words for {unknown} in repro/book/wording.py"
        said = wording.published(item.published)
        assert not re.search(r"[{}\[\]_]\w*:|: [\d\[]", said), f"{item.id}: {said}"


def test_a_part_is_on_the_stated_side_exactly_where_its_rule_holds() -> None:
    def at(rule: dict[str, Any], estimate: float, low: float, high: float, unit: str = "points") -> Any:
        return of_parts.standing({"estimate": estimate, "interval": [low, high], "unit": unit}, rule)

    assert at({"rule": "order"}, 3, 1, 5).low == 0.5
    assert at({"rule": "order"}, -3, -5, -1).high == -0.5
    assert at({"rule": "order", "by_more_than": 0.02}, 3, 1, 5).low < 0 < at({"rule": "order"}, 3, 1, 5).low
    assert at({"rule": "bound", "at_most": 0.02}, 1, 0, 2).low == 0
    assert at({"rule": "trend", "direction": "falling"}, -3, -4, -2).low == 2
    assert at({"rule": "equivalence", "margin": 0.02}, 0, -1, 1).low == 1
    assert at({"rule": "equivalence", "margin": 0.02}, 5, 4, 6).high == -2
    assert at({"rule": "value", "published": 0.9, "tolerance": 0.02}, 90, 89, 91, "%").low == 1
    assert at({"rule": "ratio"}, 2, 1, 4, "times").low == pytest.approx(0)
    assert at({"rule": "order"}, 3, 3, 3).at == float("inf")
    for none in (at({}, 1, 0, 2), at({"rule": "measured"}, 1, 0, 2), at({"rule": "ratio"}, 2, -1, 4, "times")):
        assert none is None


def test_what_decides_is_the_least_certain_part_that_holds_and_the_most_certain_that_fails() -> None:
    parts = [
        {"outcome": "holds", "p": 0.001, "estimate": 1}, {"outcome": "holds", "p": 0.04, "estimate": 2},
        {"outcome": "fails", "p": 0.03, "estimate": 3}, {"outcome": "fails", "p": 0.002, "estimate": 4},
        {"outcome": "holds", "p": 0.05, "estimate": 5, "beside": True},
    ]  # fmt: skip
    for word, index in (("holds", 1), ("holds in part", 1), ("fails", 3)):
        found = of_parts.decisive(parts, word)
        assert found is not None
        assert found[0] == index
    assert of_parts.decisive([], "not run") is None


def test_every_reason_of_the_stored_verdicts_is_of_a_known_kind() -> None:
    for profile in ("study", "smoke"):
        for made in json.loads((tree.REPOSITORY / f"figures/{profile}/verdicts.json").read_text()):
            word = page.verdict_class(made["verdict"])
            if word not in page.DECIDED:
                assert reasons.kind_of(word, made["parts"]) != reasons.OTHER, (profile, made["id"])


def test_parts_of_a_compound_statement_each_show_their_outcome(readers: dict[str, Reader]) -> None:
    text = "".join(readers["index.html"].text)
    assert "+2.1 points [+1.2, +3.5] (holds)" in text
    assert "+0.1 points [−1.2, +1.5] (open)" in text


def test_a_part_shows_each_look_and_what_its_decision_rests_on(readers: dict[str, Reader], pages) -> None:
    text = " ".join(" ".join(readers["e1.c1.html"].text).split())
    for said in (
        "A <beats> B (added later)", "setting: C; is: large", "n = 5: +2.5 [−0.5, +5.5] points",
        "n = 8: +2.1 [+1.2, +3.5] points", "0.012", "0.04", "part 2 (beside)",
    ):  # fmt: skip
        assert said in text, said
    (drawn,) = readers["e1.c1.html"].all("svg")
    assert drawn["role"] == "img"
    assert "A <beats> B (points): n = 5: +2.5 [−0.5, +5.5], n = 8: +2.1 [+1.2, +3.5]" in str(drawn["aria-label"])
    assert "<svg" not in pages["e1.c2.html"], "nothing to draw without an interval"


def test_what_is_expected_to_be_wrong_leaves_out_what_does_not_count(pages: dict[str, str]) -> None:
    said = "Of 1 parts that count, 1 is decided. Of the 1 decisions that rest on an interval or a test, at most 0.0 are"
    for name in ("index.html", "index.md"):
        assert said in pages[name]


def test_a_rule_that_was_committed_before_the_runs_says_so_with_the_commit() -> None:
    (statement,) = (s for s in PUBLISHED.statements if s.id == "e1.c2")
    before = "The rule was committed before the runs"
    commit = "0123456789" * 4
    for rules, same in (({"e1.c2": rule_hash(statement)}, True), ({"e1.c2": "0" * 64}, False), (None, False)):
        held = [replace(record, rules=rules) for record in e1_records()]
        made = book.site(inputs(records=held, rules_commit=commit))["e1.c2.html"]
        assert (before in made) is same
        assert (commit in made) is same
        assert ("made under another rule" in made) is (rules is not None and not same)


def test_a_later_rule_names_its_own_commit_and_the_entry_of_the_ledger_on_what_changed() -> None:
    later, first = "abcdef0123" * 4, "0123456789" * 4
    (statement,) = (s for s in PUBLISHED.statements if s.id == "e1.c2")
    held = [replace(record, rules={"e1.c2": rule_hash(statement)}) for record in e1_records()]
    made = book.site(inputs(records=held, rules_commit=first, later_rules={"e1.c2": later}))
    assert later in made["e1.c2.html"]
    assert first not in made["e1.c2.html"]
    assert "those of all statements but 1" in made["index.html"]
    other = [replace(record, rules={"e1.c2": "0" * 64}) for record in e1_records()]
    made = book.site(inputs(records=other, rules_commit=first, changed_rules={"e1.c2": "e1-why"}))
    assert 'href="ledger.html#e1-why"' in made["e1.c2.html"]


def test_other_profiles_stand_beside(readers: dict[str, Reader]) -> None:
    text = "".join(readers["index.html"].text)
    assert "At paper scalereproduced (n = 3)" in text
    assert "At study scale" not in text


def test_every_class_of_verdict_has_a_sign() -> None:
    words = ["reproduced", "not reproduced", "holds at smoke scale", "fails at study scale", "open"]
    words += ["not comparable", "not run"]
    assert [page.verdict_class(w) for w in words] == [
        "holds",
        "fails",
        "holds",
        "fails",
        "open",
        "not comparable",
        "not run",
    ]


def test_what_is_the_pilots_says_so_with_its_commit() -> None:
    made = with_pilot()
    for name in ("e1.c2.html", "e1.fig1.html", "notebook-e1.html"):
        assert "<strong>Pilot</strong>: 3 seeds, short trainings, never counted." in made[name], name
        assert PILOT.commit in made[name], name
    for name in ("e1.c1.html", "e1.table2.html", "e2.c1.html"):
        assert "Pilot" not in made[name], name
    assert "(pilot)" in made["notebooks.html"]
    assert made["figures.html"].count("<strong>Pilot</strong>") == 1
    assert 'href="runs-e1.html#' not in made["e1.c2.html"], "the study's runs do not stand behind it"
    assert "make study" in made["e1.c2.html"]
    assert f"device abacus; their records: data/records/laptop/ at commit {PILOT.commit}" in made["index.md"]


def test_the_pilot_says_of_what_size_its_runs_were_and_where_they_are() -> None:
    made = with_pilot()
    images = "profile laptop, 4\u202f000 or 12\u202f000 training images, 500 test images"
    for name in ("e1.c2.html", "e1.fig1.html"):
        assert "; device abacus." in made[name], name
    assert f"{images}, 16 pixels, 8 base width, 2.50 epochs; device" in made["e1.c2.html"], "of its own two runs"
    assert "777 or 4\u202f000 or 12\u202f000 training images" in made["e1.fig1.html"]
    for path in ("data/records/laptop/e1/e1-central.s1.json", "pipelines/laptop/params.yaml"):
        assert f"git show {PILOT.commit}:{path}" in made["e1.c2.html"]
    assert "device abacus." not in made["e1.c3.html"], "it is the study's"


def test_a_notebook_of_the_pilot_says_that_its_code_and_words_are_those_of_then() -> None:
    text = " ".join("".join(Reader(with_pilot()["notebook-e1.html"]).text).split())
    assert "It was executed at that commit, with the code of then" in text
    assert "Where it says “inconclusive”, today's word is “open”." in text
    assert f"git show {PILOT.commit}:notebooks/e1.ipynb" in text
    assert "python -m repro notebook e1" not in text, "today's command gives the same copy"


def test_what_the_commands_of_the_pilot_name_is_in_the_history() -> None:
    old, known = study.load(tree.REPOSITORY).pilot, pilot.made(tree.REPOSITORY)
    runs = {run["run"] for content in known.values() for run in content["runs"]}
    found = of_pilot.behind(known, old, runs)
    assert found is not None
    assert len(found.commands) == 3
    if (tree.REPOSITORY / ".git").exists():
        for command in found.commands:
            subprocess.run(command.split(), cwd=tree.REPOSITORY, check=True, stdout=subprocess.DEVNULL)


def test_the_pilot_is_counted_apart() -> None:
    made = with_pilot()
    text = "".join(Reader(made["index.html"]).text)
    assert "4 of 8 statements judged: 1 result holds, 1 fails and 1 is open; 1 law holds." in text
    assert "4 of 8 statements have its evidence, 1 shows the pilot for now (3 repetitions, short trainings, " in text
    assert "In the pilot 1 holds." in text
    assert "What holds: 1 result + 1 law, and 1 in the pilot" in text
    assert 'id="e1.c2" data-source="e1" data-group="results" data-verdict="pilot"' in made["index.html"]
    assert (
        '<a href="#source=e1&amp;group=results&amp;verdict=pilot" aria-label="1 pilot, e1">1</a>' in made["index.html"]
    )
    assert '<option value="pilot">' in made["index.html"]
    assert '<span class="badge open"><span aria-hidden="true">✓</span> holds (pilot)</span>' in made["e1.c2.html"]


def test_without_a_pilot_nothing_speaks_of_one(pages: dict[str, str]) -> None:
    assert not [
        name
        for name, text in pages.items()
        if "pilot" in text.lower() and name not in ("terms.html", "search-index.js")
    ]
