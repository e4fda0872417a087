"""Laws of the site: complete, escaped, self-contained, accessible, byte-stable."""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
import tree
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from synthetic import e1_grid_records, e1_records

from repro import book, report
from repro.book import Inputs, markdown, notebook, views
from repro.book import theme as page
from repro.commands.check import WAITING
from repro.errors import ReproError
from repro.registry.published import rule_hash
from repro.registry.study import Pilot
from repro.report.tables import Table, from_markdown
from repro.results.records import path_of, provenance_path
from repro.running.bill import Line as Bill
from repro.verdicts.arithmetic import Line
from repro.verdicts.judge import Artefact, Choice, Published, Statement

VOID = {"meta", "img", "br", "link", "input"}


def verdict(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": name,
        "source": "e1",
        "kind": "order",
        "says": "A beats B",
        "place": "figure 1",
        "published": None,
        "ours": "2.1 points",
        "interval": [1.25, 3.5],
        "unit": "points",
        "n": 3,
        "verdict": "holds at study scale",
        "reason": "the interval excludes zero",
        "runs": ["e1-central", "e1-federated"],
        "artefact": "e1.fig1",
        "profile": "study",
        "why": "2 points <is> the margin",
        "parts": [],
    } | changes


NUMBERS = {"name": None, "under": None, "estimate": None, "interval": None, "unit": None, "looks": [], "p": None}
PARTS = [
    NUMBERS | {
        "ours": "+2.1 points [+1.2, +3.5]", "outcome": "holds", "rule": "equivalence", "n": 8, "reason": "so",
        "name": "A <beats> B", "under": {"setting": "C", "is": "large"}, "estimate": 2.1, "interval": [1.2, 3.5],
        "unit": "points", "p": 0.0123, "q": 0.04, "post_hoc": True,
        "looks": [
            {"n": 5, "estimate": 2.5, "interval": [-0.5, 5.5]}, {"n": 8, "estimate": 2.1, "interval": [1.2, 3.5]},
        ],
    },
    NUMBERS | {
        "ours": "+0.1 points [−1.2, +1.5]", "outcome": "open", "rule": "equivalence", "n": 3, "reason": "wide",
        "q": None, "beside": True,
    },
]  # fmt: skip
VERDICTS = [
    verdict("e1.c1", kind="equivalence", verdict="open", parts=PARTS),
    verdict(
        "e1.c2",
        published={"<b>order</b>": ["central", "large & batch"]},
        says='5 < 6 & "quotes" | pipe_and*star',
    ),
    verdict("e1.c3", verdict="fails at study scale", artefact="e1.table2"),
    verdict("e1.c4", kind="law", runs=["e1-union-law"], artefact=None, interval=None, n=1),
    verdict("e1.c6", runs=sorted({r.run for r in e1_grid_records()}), artefact=None),
    verdict("e1.c7", verdict="not run", ours=None, interval=None, n=0, artefact=None, runs=["e1-absent"]),
]
PUBLISHED = Published(
    [Artefact("e1.fig1", "e1", "figure", "figure 1", "test accuracy <against> epochs.", None)],
    [
        *(Statement(v["id"], "e1", v["kind"], v["place"], v["says"], v["published"], v["artefact"]) for v in VERDICTS),
        Statement("e2.c1", "e2", "value", "text", "F2I sends 4x less", "4x", None),
        Statement("lb.c1", "lb", "order", "table 1", "BSP beats FA", None, None),
    ],
)
LEDGER = [
    Choice("e1.batches", "e1", "3072 batches?", "3072 images", "arithmetic", "nothing <else>"),
    Choice("e2.stem", "e2", "which stem", "CIFAR", "62 % of weights", "a row"),
]
NOTEBOOK = "<h1>Post 1</h1><h2 id='x'>no</h2><h2 id=\"Figure-1\">Figure 1</h2><p>shows e1.fig1 and e1.c2</p>"


def inputs(absent: frozenset[str] = frozenset(), **changes: Any) -> Inputs:
    records = [*e1_records(), *e1_grid_records()]
    provenance = {
        path_of(r).as_posix(): {
            "seconds": 30.0 + r.seed, "machine": {"device": "abacus", "torch": "2"}, "precision": "bf16",
            "commit": "c0ffee", "code": "f00d", "finished": "2001-02-03T04:05:06Z",
        }
        for r in e1_records()
    }  # fmt: skip
    given: dict[str, Any] = {
        "profile": "study",
        "published": PUBLISHED,
        "verdicts": VERDICTS,
        "ledger": LEDGER,
        "others": {"paper": [verdict("e1.c2", verdict="reproduced")], "smoke": []},
        "records": records,
        "provenance": provenance,
        "tables": {name: report.table(name, records) for name in ("e1.table1", "e1.table2")},
        "present": frozenset(set(report.ARTEFACTS) - absent),
        "notebooks": {"e1": NOTEBOOK},
        "manifests": {
            "toys": {
                "title": "Toys", "reduced": None, "train_per_class": [2, 2], "test_per_class": [1, 1],
                "classes": ["a", "b"], "citation": "A. Toy", "licence": None, "sha256": "0" * 64,
                "arrays": {"train_images": {"shape": [4, 2, 2, 3], "dtype": "uint8", "sha256": "1" * 64}},
            }
        },
        "arithmetic": [Line("e1.sum", "e1", "text", "One & one?", "1 + 1", "2", "2", "agrees", "a <note>")],
        "citation": yaml.safe_load((tree.REPOSITORY / "CITATION.cff").read_text()),
    }  # fmt: skip
    return Inputs(**given | changes)


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return book.site(inputs())


@pytest.fixture(scope="module")
def html(pages: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in pages.items() if name.endswith(".html")}


class Reader(HTMLParser):
    """Collects tags with attributes and text, and insists that every tag is closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.tags if name == tag)

    @property
    def links(self) -> list[str]:
        found = [a["href"] for a in self.all("a")] + [image["src"] for image in self.all("img")]
        found += [link["href"] for link in self.all("link")] + [script["src"] for script in self.all("script")]
        return [link for link in found if link is not None and link != "data:,"]

    @property
    def ids(self) -> list[str]:
        return [str(attributes["id"]) for _, attributes in self.tags if "id" in attributes]


@pytest.fixture(scope="module")
def readers(html: dict[str, str]) -> dict[str, Reader]:
    return {name: Reader(text) for name, text in html.items()}


def test_every_link_is_relative_and_stays_inside_the_repository(readers: dict[str, Reader], pages) -> None:
    links = [link for reader in readers.values() for link in reader.links]
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


def test_every_statement_is_in_the_matrix_and_has_a_page_with_its_evidence(readers: dict[str, Reader]) -> None:
    rows = [row for row in readers["index.html"].all("tr") if "id" in row]
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
    text = " ".join("".join(readers["lb.c1.html"].text).split())
    assert "○ not run no run of this source exists yet" in text
    assert "Runs behind it None." in text


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


def test_a_published_table_is_shown_as_one() -> None:
    rows = {"unit": "percent", "columns": ["model", "bsp"], "rows": [["ResNet50", 82.54]]}
    artefact = Artefact("lb.table1", "lb", "table", "Table I", "accuracy", rows)
    made = book.site(inputs(published=PUBLISHED._replace(artefacts=[*PUBLISHED.artefacts, artefact])))
    assert '<tr><th scope="row">ResNet50</th><td>82.54</td></tr>' in made["lb.table1.html"]


def test_laws_are_counted_apart_and_words_accompany_colour(pages: dict[str, str]) -> None:
    assert "results: ✗ 1 fails at study scale, ✓ 2 holds at study scale, ○ 3 not run, ? 1 open" in pages["index.md"]
    assert "laws: ✓ 1 holds at study scale" in pages["index.md"]
    site = views.Site(inputs())
    for source, _, counts in site.counts():
        kinds = [row for row in site.rows if row.source == source and row.kind not in ("law", "definition")]
        assert sum(counts.values()) == len(kinds), source
    assert [(kind, counts) for kind, _, counts in site.apart()] == [("law", {"holds": 1}), ("definition", {})]
    assert 'href="#source=e1&amp;group=results&amp;verdict=holds" aria-label="2 holds, e1">2</a>' in pages["index.html"]
    assert 'href="#kind=law&amp;verdict=holds" aria-label="1 holds, laws">1</a>' in pages["index.html"]
    assert "- **Laws**, of all sources: Of 1 law 1 holds." in markdown.readme_block(site)
    for sign in page.SIGNS.values():
        assert f'<span aria-hidden="true">{sign}</span>' in pages["terms.html"]


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
    said = (
        "Of 1 parts that count, 1 are decided. Of the 1 decisions that rest on an interval or a test, at most 0.0 are"
    )
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


def test_the_bill_is_shown_and_added_up() -> None:
    bill = [Bill("post <1>", 3, 2, 1.5, 0.25, 1), Bill("post 2", 1, 0, 0.5, 0.0, 0)]
    made = " ".join(Reader(book.site(inputs(bill=bill))["provenance.html"]).text).split()
    said = " ".join(made)
    assert "post <1> 3 1.50 2 0.25 1" in said
    assert "All 4 2.00 2 0.25 1" in said


def test_other_profiles_stand_beside(readers: dict[str, Reader]) -> None:
    text = "".join(readers["index.html"].text)
    assert "paper: reproduced (n = 3)" in text
    assert "study: holds" not in text


def test_text_from_data_is_escaped(pages: dict[str, str], readers: dict[str, Reader]) -> None:
    assert "<b>order</b>" not in pages["index.html"]
    assert "&lt;b&gt;order&lt;/b&gt;" in pages["index.html"]
    assert '5 < 6 & "quotes" | pipe_and*star' in "".join(readers["index.html"].text)
    assert r'5 &lt; 6 &amp; "quotes" \| pipe\_and\*star' in pages["index.md"]
    assert "a &lt;note&gt;" in pages["arithmetic.html"]


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
    assert {link.partition("#")[2] for link in re.findall(r"\]\(([^)]+)\)", block)} <= set(anchors)
    for name in ids:
        assert f"]({name}.html)" in text.partition(f'<a id="{name}">')[2].partition("###")[0]
    assert not re.search(r"· *(\||$)", text, re.MULTILINE), "a separator that separates nothing"


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
        assert {script.get("src") for script in reader.all("script")} <= {"matrix.js"}
    for name in ("style.css", "matrix.js"):
        assert "@import" not in pages[name]
        assert "url(" not in pages[name]
        assert "//" not in re.sub(r"^ *// .*$", "", pages[name], flags=re.MULTILINE).replace("\\//", "")


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


def test_the_same_inputs_give_the_same_bytes_without_dates_paths_or_hosts(pages: dict[str, str]) -> None:
    assert book.site(inputs()) == pages
    for name, text in pages.items():
        assert str(Path.cwd()) not in text, name
        assert not re.search(r"https?://", text), name
        assert "2001" not in text, name


def test_durations_are_rounded_up_so_that_a_slower_machine_changes_no_page() -> None:
    assert views.about(61) == views.about(119) == "under 2 minutes"
    assert views.about(200_000) == "about 2 days"


def test_writing_removes_pages_that_are_made_no_more(tmp_path: Path) -> None:
    book.write({"a.html": "a\n", "b.html": "b\n"}, tmp_path)
    book.write({"b.html": "c\n"}, tmp_path)
    assert {p.name: p.read_text() for p in (tmp_path / "book").iterdir()} == {"b.html": "c\n"}


# Notebooks ------------------------------------------------------------------------------------------------


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
        "notebook-e1.html#Figure-1", "notebook-e1-more.html#three", "notebook-e1.html"
    ]  # fmt: skip
    made = book.site(site.inputs)
    assert '<a href="notebook-e1-more.html">More &amp; more</a>' in made["notebooks.html"]
    assert "notebooks/e1-more.ipynb" in made["notebook-e1-more.html"]
    assert 'href="notebook-e1-more.html#three"' in made["e1.c3.html"]
    section = made["index.md"].partition('### <a id="e1.c3"></a>')[2].partition("###")[0]
    assert "notebooks/e1-more.ipynb" in section


# README ---------------------------------------------------------------------------------------------------


def test_readme_holds_the_verdicts_that_are_stored_and_none_is_typed() -> None:
    profile = book.inputs.specs.default_profile(tree.REPOSITORY)
    made = book.load(profile, tree.REPOSITORY)
    block = markdown.readme_block(views.Site(made))
    assert block in (tree.REPOSITORY / "README.md").read_text(), "README.md is stale; run `python -m repro book`"


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
        assert "Of 5 results 2 hold, 1 fails, 1 is open and 1 was not run." in text
        assert "points" not in text, "intervals are in the book"
    path.write_text("no markers")
    with pytest.raises(ReproError, match="markers"):
        markdown.update_readme(views.Site(inputs()), path)


PILOT = Pilot(commit="c0ffee" * 6 + "c0ff", profile="laptop", seeds=3)


def with_pilot() -> dict[str, str]:
    """e1.c2 and e1.fig1 are the pilot's, as is the notebook of e1."""
    old = verdict("e1.c2", verdict="holds (pilot)", pilot=True, commit=PILOT.commit, profile="laptop")
    given = [old if v["id"] == "e1.c2" else v for v in VERDICTS]
    return book.site(inputs(verdicts=given, pilot=PILOT, of_pilot=frozenset(["e1.fig1", "e1"])))


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
    assert f"data/records/laptop/ at commit {PILOT.commit}" in made["index.md"]


def test_the_pilot_is_counted_apart() -> None:
    made = with_pilot()
    said = "5 of 8 statements have study evidence so far; 1 show the pilot (3 seeds, short trainings, never counted)"
    assert said not in made["index.html"], "two of the eight are of sources without runs, and one was not run"
    assert "4 of 8 statements have study evidence so far; 1 show the pilot (3 seeds, " in made["index.html"]
    assert "results: ✗ 1 fails at study scale, ✓ 1 holds at study scale, ○ 3 not run, ? 1 open" in made["index.md"]
    assert 'id="e1.c2" data-source="e1" data-group="results" data-verdict="pilot"' in made["index.html"]
    assert (
        '<a href="#source=e1&amp;group=results&amp;verdict=pilot" aria-label="1 pilot, e1">1</a>' in made["index.html"]
    )
    assert '<option value="pilot">' in made["index.html"]
    assert '<span class="badge open"><span aria-hidden="true">✓</span> holds (pilot)</span>' in made["e1.c2.html"]


def test_without_a_pilot_nothing_speaks_of_one(pages: dict[str, str]) -> None:
    assert not [name for name, text in pages.items() if "pilot" in text.lower() and name != "terms.html"]


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
