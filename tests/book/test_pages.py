"""Laws of all pages: complete, escaped, self-contained, accessible, byte-stable."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import reduce
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from site_inputs import PUBLISHED, VERDICTS, Reader, inputs, verdict
from synthetic import e1_grid_records, e1_records

from repro import book, report
from repro.book import theme as page
from repro.book import wording
from repro.results.records import path_of, provenance_path
from repro.running.bill import Line as Bill
from repro.verdicts.judge import Artefact, Published, Statement


def test_every_link_is_relative_and_stays_inside_the_repository(readers: dict[str, Reader], pages) -> None:
    cited = {item["url"] for item in inputs().citation["references"]}
    assert cited <= set(readers["index.html"].links), "the sources are linked from the first page"
    links = [link for reader in readers.values() for link in reader.links if link not in cited]
    links += re.findall(r"\]\(([^)]+)\)", pages["index.md"])
    assert len(links) > 500
    for link in links:
        parts = urlsplit(link)
        assert not parts.scheme, link
        assert not parts.netloc
        assert not link.startswith("/")
        assert link.count("../") <= 1


def test_every_link_within_the_site_has_its_page_and_place(readers: dict[str, Reader], pages) -> None:
    for name, reader in readers.items():
        for link in reader.links:
            if link.startswith("https:"):
                continue
            file, _, place = link.partition("#")
            if file.startswith("../"):
                continue
            assert not file or file in pages, f"{name}: {link}"
            if place and "=" not in place:
                assert unquote(place) in readers[file or name].ids, f"{name}: {link}"


def test_records_and_provenance_are_linked_where_they_are_stored(readers: dict[str, Reader]) -> None:
    linked = {unquote(link) for link in readers["runs-e1.html"].links}
    expected = {f"../{path_of(r)}" for r in [*e1_records(), *e1_grid_records()]}
    assert expected == {link for link in linked if "/records/" in link}
    assert {f"../{provenance_path(path_of(r))}" for r in e1_records()} == {x for x in linked if "/provenance/" in x}


def test_every_artefact_has_a_page_that_says_how_to_make_it_alone_and_how_long_that_takes(readers) -> None:
    for name, item in report.ARTEFACTS.items():
        text = "".join(readers[f"{name}.html"].text)
        assert f"python -m repro render {name} --profile study" in text
        stage = f"dvc repro pipelines/study/dvc.yaml:figures-{item.source}"
        assert (stage if item.group == "artefact" else "make controls PROFILE=study") in text
        if item.source == "e1" and not name.endswith("-gn"):  # of which no synthetic records exist
            assert "rerun e1-" in text
            assert "from nothing took " in text
    assert "under 5 minutes of one process (abacus)" in "".join(readers["e1.fig1.html"].text)


def test_what_was_not_drawn_is_called_not_run_and_nothing_links_to_its_files() -> None:
    absent = frozenset({"e1.extra-grid", "e1.extra-skew-gn", "e1.table2"})
    made = book.site(inputs(absent))
    for name in absent:
        for page_name in (f"{name}.html", "figures.html", "index.md"):
            assert f"figures/study/{name}.png" not in made[page_name]
            assert f"figures/study/{name}.csv" not in made[page_name]
        assert "not run" in made[f"{name}.html"]


def test_a_new_source_appears_by_its_data_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = replace(report.ARTEFACTS["e1.fig1"], id="e3.fig2", runs=("e3-central",))
    monkeypatch.setitem(report.ARTEFACTS, "e3.fig2", changed)
    records = [replace(r, source="e3", run="e3-central") for r in e1_records() if r.run == "e1-central"]
    published = Published(
        [*PUBLISHED.artefacts, Artefact("e3.fig2", "e3", "figure", "Figure 2", "accuracy", None)],
        [*PUBLISHED.statements, Statement("e3.c1", "e3", "value", "text", "random", 10, "e3.fig2")],
    )
    new = verdict("e3.c1", source="e3", artefact="e3.fig2", runs=["e3-central"], verdict="fails at study scale")
    made = book.site(
        inputs(
            published=published, records=[*e1_records(), *records], verdicts=[*VERDICTS, new],
            present=frozenset(report.ARTEFACTS), notebooks={"e3": '<h1>Post 3</h1><h2 id="a">e3.c1 e3.fig2</h2>'},
        )
    )  # fmt: skip
    assert "runs-e3.html" in made["runs.html"]
    assert "data/records/study/e3/e3-central.s1.json" in made["runs-e3.html"]
    assert "fails at study scale" in made["e3.c1.html"]
    assert "figures/study/e3.fig2.png" in made["figures.html"]
    assert 'href="notebook-e3.html#a"' in made["e3.c1.html"]
    assert 'id="e3.c1" data-source="e3" data-group="results" data-verdict="fails"' in made["index.html"]
    assert "e3-central" in made["curves-e3.js"]


def test_a_published_table_is_shown_as_one() -> None:
    rows = {"unit": "percent", "columns": ["model", "bsp"], "rows": [["ResNet50", 82.54]]}
    artefact = Artefact("lb.table1", "lb", "table", "Table I", "accuracy", rows)
    made = book.site(inputs(published=PUBLISHED._replace(artefacts=[*PUBLISHED.artefacts, artefact])))
    assert '<tr><th scope="row">ResNet50</th><td>82.54</td></tr>' in made["lb.table1.html"]


SCRIPTS = ("matrix.js", "explorer.js", "search.js")


SVG = "http://www.w3.org/2000/svg"


def test_the_bill_is_shown_and_added_up() -> None:
    bill = [Bill("post <1>", 3, 2, 1.5, 0.25, 1), Bill("post 2", 1, 0, 0.5, 0.0, 0)]
    made = " ".join(Reader(book.site(inputs(bill=bill))["provenance.html"]).text).split()
    said = " ".join(made)
    assert "post <1> 3 1.50 2 0.25 1" in said
    assert "All 4 2.00 2 0.25 1" in said


def test_text_from_data_is_escaped(pages: dict[str, str], readers: dict[str, Reader]) -> None:
    assert "<b>order</b>" not in pages["index.html"]
    assert "&lt;b&gt;order&lt;/b&gt; central and large &amp; batch" in pages["e1.c2.html"]
    assert "&lt;b&gt;order&lt;/b&gt;" in pages["index.html"]
    assert '5 < 6 & "quotes" | pipe_and*star' in "".join(readers["index.html"].text)
    assert r'5 &lt; 6 &amp; "quotes" \| pipe\_and\*star' in pages["index.md"]
    assert "a &lt;note&gt;" in pages["arithmetic.html"]


def test_every_figure_with_evidence_is_linked_from_its_statement_and_back() -> None:
    statement = replace(PUBLISHED.statements[0], companions=("e1.extra-convergence",))
    made = book.site(inputs(published=PUBLISHED._replace(statements=[statement, *PUBLISHED.statements[1:]])))
    for name in ("e1.fig1", "e1.extra-convergence"):
        assert f'<a href="{name}.html"' in made["e1.c1.html"]
        assert f"figures/study/{name}.png" in made["e1.c1.html"]
        assert f"[{name}](#{name})" in made["index.md"].partition('<a id="e1.c1">')[2].partition("###")[0]
        assert 'href="e1.c1.html"' in made[f"{name}.html"]
    assert 'href="e1.c3.html"' not in made["e1.extra-convergence.html"]


def test_pages_need_nothing_from_elsewhere(pages: dict[str, str], readers: dict[str, Reader]) -> None:
    for reader in readers.values():
        assert {script.get("src") for script in reader.all("script")} <= {*SCRIPTS, "search-index.js"}
    for name in ("style.css", *SCRIPTS):
        assert "@import" not in pages[name]
        assert "url(" not in pages[name]
        assert "//" not in re.sub(r"^ *// .*$", "", pages[name], flags=re.MULTILINE).replace(SVG, "")


def test_pages_are_well_formed_and_accessible_as_far_as_markup_goes(readers: dict[str, Reader]) -> None:
    for name, reader in readers.items():
        (root,) = reader.all("html")
        assert root["lang"] == "en-GB"
        assert len(list(reader.all("title"))) == 1, name
        assert len(list(reader.all("h1"))) == 1, name
        assert all(cell.get("scope") in ("col", "row") for cell in reader.all("th")), name
        assert all(image.get("alt") for image in reader.all("img")), name
        assert len(set(reader.ids)) == len(reader.ids), name


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", page.THEMES)
def test_every_text_has_aa_contrast_on_every_background_it_meets(theme: str) -> None:
    colours = page.THEMES[theme]
    pairs = [(text, ground) for text in ("text", "muted", "link") for ground in ("page", "card")]
    pairs += [(f"{name}-text", name) for name in ("holds", "fails", "open")]
    for text, ground in pairs:
        dark, light = sorted((luminance(colours[text]), luminance(colours[ground])))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (theme, text, ground)


def test_the_same_inputs_give_the_same_bytes_without_dates_paths_or_hosts(pages: dict[str, str]) -> None:
    assert book.site(inputs()) == pages
    for name, text in pages.items():
        assert str(Path.cwd()) not in text, name
        cited = [item["url"] for item in inputs().citation["references"]] + [SVG]
        assert not re.search(r"https?://", reduce(lambda said, url: said.replace(url, ""), cited, text)), name
        assert "2001" not in text, name


def test_durations_are_rounded_up_so_that_a_slower_machine_changes_no_page() -> None:
    assert wording.about(61) == wording.about(119) == "under 2 minutes"
    assert wording.about(200_000) == "about 2 days"


def test_writing_removes_pages_that_are_made_no_more(tmp_path: Path) -> None:
    book.write({"a.html": "a\n", "b.html": "b\n"}, tmp_path)
    book.write({"b.html": "c\n"}, tmp_path)
    assert {p.name: p.read_text() for p in (tmp_path / "book").iterdir()} == {"b.html": "c\n"}
