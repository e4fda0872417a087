"""Laws of the Markdown page and of the block in README.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tree
from site_inputs import PILOT, PUBLISHED, TALLY, inputs
from synthetic import e1_records

from repro import book, report
from repro.book import markdown, views
from repro.errors import ReproError
from repro.report.tables import Table, from_markdown


def test_markdown_rows_have_as_many_cells_as_their_header(pages: dict[str, str]) -> None:
    width = None
    for line in pages["index.md"].splitlines():
        if not line.startswith("|"):
            width = None
            continue
        cells = len(re.findall(r"(?<!\\)\|", line))
        assert width in (None, cells), line
        width = cells


def test_every_id_in_the_matrix_and_in_the_readme_leads_to_its_section_and_that_to_its_page(pages) -> None:
    text, block = pages["index.md"], markdown.readme_block(views.Site(inputs()))
    anchors = re.findall(r'<a id="([^"]+)">', text)
    assert len(set(anchors)) == len(anchors)
    ids = [s.id for s in PUBLISHED.statements if s.source == "e1"]
    assert [name for name in re.findall(r"\| \[[^]]+\]\(#([^)]+)\) \|", text) if name.startswith("e1.")] == ids
    assert re.findall(r"\| \[[^]]+\]\(book/index\.md#(e1[^)]+)\) \|", block) == ids
    links = re.findall(r"(?<!!)\[[^]]+\]\(([^)]+)\)", block)
    assert {link.partition("#")[2] for link in links} <= set(anchors)
    for name in ids:
        assert f"]({name}.html)" in text.partition(f'<a id="{name}">')[2].partition("###")[0]
    assert not re.search(r"· *(\||$)", text, re.MULTILINE), "a separator that separates nothing"


def test_the_picture_of_the_readme_says_whose_runs_it_shows() -> None:
    def block(**changes: Any) -> str:
        return markdown.readme_block(views.Site(inputs(**changes)))

    own, old = block(), block(pilot=PILOT, of_pilot=frozenset(["e1.fig1"]))
    for text in (own, old):
        assert text.count("](figures/study/e1.fig1.png)\n\n*") == 1
    assert "runs at the `study` profile ([e1.fig1](book/index.md#e1.fig1)).*" in own
    assert "the pilot's runs, until the study's own are in ([e1.fig1](book/index.md#e1.fig1)).*" in old
    assert ".png" not in block(present=frozenset())


def test_readme_holds_the_verdicts_that_are_stored_and_none_is_typed() -> None:
    profile = book.inputs.specs.default_profile(tree.REPOSITORY)
    made = book.load(profile, tree.REPOSITORY)
    block = markdown.readme_block(views.Site(made))
    assert block in (tree.REPOSITORY / "README.md").read_text(), "README.md is stale; run `python -m repro book`"


def test_the_block_of_the_readme_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"before\n{markdown.BEGIN}\nwritten before\n{markdown.END}\nafter\n")
    for _ in range(2):
        markdown.update_readme(views.Site(inputs()), path)
        text = path.read_text()
        assert text.startswith("before\n")
        assert text.endswith("\nafter\n")
        assert text.count(markdown.BEGIN) == 1
        assert "written before" not in text
        assert "| [e1.c3](book/index.md#e1.c3) | A beats B | ✗ fails at study scale | 3 |" in text
        assert TALLY in text
        assert "points" not in text, "intervals are in the book"
    path.write_text("no markers")
    with pytest.raises(ReproError, match="markers"):
        markdown.update_readme(views.Site(inputs()), path)


def test_a_table_read_from_its_markdown_is_the_same(tmp_path: Path) -> None:
    made = report.table("e1.table2", e1_records())
    again = from_markdown(made.markdown())
    assert (again.title, again.header, again.rows, again.notes) == (made.title, made.header, made.rows, made.notes)
    odd = Table("A | title", ["a", "b|c"], [["", "|"], ["x | y", "–"]], [], [])
    assert from_markdown(odd.markdown()).rows == odd.rows
    for text in ("", "no table", "**title**\n", "| a |\n"):
        with pytest.raises(ReproError, match="not a table"):
            from_markdown(text)


def test_the_readme_names_no_number_of_ours_outside_the_block() -> None:
    text = (tree.REPOSITORY / "README.md").read_text()
    outside = text[: text.index(markdown.BEGIN)] + text[text.index(markdown.END) :]
    assert not re.search(r"\d+(\.\d+)? ?(%|points)(?! interval)", outside)
