"""Laws of notebooks as parts of the site."""

from __future__ import annotations

import base64
import re
import zlib
from pathlib import Path

import nbformat
import pytest
import tree
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from site_inputs import NOTEBOOK, inputs

from repro import book
from repro.book import notebook, views
from repro.commands.check import WAITING
from repro.errors import ReproError


def png(pixel: bytes, title: str) -> bytes:
    """A grey picture of one pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = (1).to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    parts = [chunk(b"IHDR", head), chunk(b"tEXt", b"Title\0" + title.encode())]
    return b"".join([b"\x89PNG\r\n\x1a\n", *parts, chunk(b"IDAT", zlib.compress(b"\0" + pixel)), chunk(b"IEND", b"")])


def test_a_picture_of_a_notebook_that_is_a_committed_figure_is_shown_as_that_file(tmp_path: Path) -> None:
    (tmp_path / "e1.fig1.png").write_bytes(png(b"a", "one title"))

    def shown(pixel: bytes) -> str:
        data = {"image/png": base64.b64encode(png(pixel, "another")).decode()}
        cell = new_code_cell("1", outputs=[new_output("display_data", data=data)])
        nbformat.write(new_notebook(cells=[new_markdown_cell("# Title"), cell]), tmp_path / "e1.ipynb")
        return notebook.body(tmp_path / "e1.ipynb", {"e1.fig1": tmp_path / "e1.fig1.png"}, "../figures/study")

    assert 'src="../figures/study/e1.fig1.png"' in shown(b"a")
    assert '<a href="e1.fig1.html">' in shown(b"a")
    assert "data:image/png;base64" in shown(b"b")


def test_a_damaged_notebook_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "e1.ipynb").write_text("<<<<<<< HEAD\n")
    with pytest.raises(ReproError, match="not a notebook"):
        notebook.body(tmp_path / "e1.ipynb", {}, "")


def test_a_statement_links_to_the_section_that_names_fewest_others() -> None:
    html = '<h2 id="all">e1.c1 e1.c2 e1.c10</h2><h2 id="one">about e1.c1</h2><h2 id="ten">e1.c10</h2>'
    assert notebook.sections(html, ["e1.c1", "e1.c2", "e1.c10", "e1.c3"]) == {
        "e1.c1": "one", "e1.c2": "all", "e1.c10": "ten"
    }  # fmt: skip


def test_every_notebook_of_a_source_is_listed_with_its_title_and_ids_link_to_the_one_that_has_their_section() -> None:
    more = '<h1 id="M">More &amp; <em>more</em><a class="anchor-link" href="#M">¶</a></h1><h2 id="three">e1.c3</h2>'
    site = views.Site(inputs(notebooks={"e1": NOTEBOOK, "e1-more": more, "e12": more}))
    assert site.notebooks_of("e1") == {"e1": "Post 1", "e1-more": "More & more"}
    assert [site.section(i) for i in ("e1.c2", "e1.c3", "e1.c1")] == [
        "notebook-e1.html#Figure-1", "notebook-e1-more.html#three", ""
    ]  # fmt: skip
    made = book.site(site.inputs)
    assert '<a href="notebook-e1-more.html">More &amp; more</a>' in made["notebooks.html"]
    assert "notebooks/e1-more.ipynb" in made["notebook-e1-more.html"]
    assert 'href="notebook-e1-more.html#three"' in made["e1.c3.html"]
    assert "Section of the notebook" not in made["e1.c1.html"], "no section names it"
    links = re.findall(r'href="(notebook-[^"]*)"', "".join(made[f"{row.id}.html"] for row in site.rows))
    assert links
    assert all("#" in link for link in links)
    section = made["index.md"].partition('### <a id="e1.c1"></a>')[2].partition("###")[0]
    assert ".ipynb" not in section
    section = made["index.md"].partition('### <a id="e1.c3"></a>')[2].partition("###")[0]
    assert "notebooks/e1-more.ipynb" in section


def test_a_notebook_that_is_not_executed_is_listed_and_linked_from_what_it_deals_with() -> None:
    made = book.site(inputs(waiting={"e1-late": "about e1.c3 and e1.c11", "e12-late": "nothing"}))
    link = '<a href="../notebooks/e1-late.ipynb">'
    assert (
        made["notebooks.html"].count(f"<li>e1-late: not executed yet, for it reads runs that are missing · {link}") == 1
    )
    assert "e12-late" not in made["notebooks.html"]
    assert [name for name in ("e1.c1.html", "e1.c2.html", "e1.c3.html") if link in made[name]] == ["e1.c3.html"]


def test_no_exercise_of_a_notebook_replaces_a_committed_record_of_the_study() -> None:
    runs = {
        path.stem: re.findall(r"repro run \S+[^`]*", path.read_text(encoding="utf-8"))
        for path in sorted((tree.REPOSITORY / "notebooks").glob("*.ipynb"))
    }
    assert sum(map(len, runs.values())) >= 8
    for name, commands in runs.items():
        assert all(" --profile smoke " in command for command in commands), name


def test_every_artefact_and_statement_of_a_built_source_has_its_section_in_the_notebook_page() -> None:
    site = views.Site(book.load("study", tree.REPOSITORY))
    published = site.inputs.published
    items = [*published.artefacts, *published.statements]
    ids = {item.id for item in items if item.source in site.inputs.notebooks}
    assert ids
    assert set(site.sections) <= ids
    old = {name.partition("-")[0] for name in site.inputs.notebooks if name in site.inputs.of_pilot}
    new = {item.id for item in items if item.source in old}  # the pilot's notebook may not know an id that came later
    assert ids - WAITING - new <= set(site.sections)
