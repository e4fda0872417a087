"""Laws of the verdicts page: complete, escaped, self-contained, accessible, byte-stable."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from synthetic import e1_grid_records, e1_records

from repro import page, report
from repro.claims import Artefact, Choice, Published, Statement
from repro.records import path_of

VOID = {"meta", "img", "br"}


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
        "verdict": "holds at laptop scale",
        "reason": "the interval excludes zero",
        "runs": ["e1-central", "e1-federated"],
        "artefact": "e1.fig1",
        "profile": "laptop",
        "why": "2 points <is> the margin",
        "parts": [],
    } | changes


PARTS = [
    {"ours": "+2.1 points [+1.2, +3.5]", "outcome": "holds"},
    {"ours": "+0.1 points [−1.2, +1.5]", "outcome": "inconclusive"},
]
VERDICTS = [
    verdict("e1.c1", kind="equivalence", verdict="inconclusive", parts=PARTS),
    verdict(
        "e1.c2",
        published={"<b>order</b>": ["central", "large & batch"]},
        says='5 < 6 & "quotes" | pipe_and*star',
    ),
    verdict("e1.c3", verdict="fails at laptop scale", artefact="e1.table2"),
    verdict("e1.c4", kind="law", runs=["e1-union-law"], artefact=None, interval=None, n=1),
    verdict("e1.c6", runs=sorted({r.run for r in e1_grid_records()}), artefact=None),
    verdict("e1.c7", verdict="not run", ours=None, interval=None, n=0, artefact=None, runs=["e1-absent"]),
]
PUBLISHED = Published(
    [Artefact("e1.fig1", "e1", "figure", "figure 1", "test accuracy <against> epochs.", None)],
    [
        *(Statement(v["id"], "e1", v["kind"], v["place"], v["says"], None, None) for v in VERDICTS),
        Statement("e2.c1", "e2", "value", "text", "F2I sends 4x less", "4x", None),
        Statement("lb.c1", "lb", "order", "table 1", "BSP beats FA", None, None),
    ],
)
LEDGER = [
    Choice("e1.batches", "e1", "3072 batches?", "3072 images", "arithmetic", "nothing <else>"),
    Choice("e2.stem", "e2", "which stem", "CIFAR", "62 % of weights", "a row"),
]


@pytest.fixture(scope="module")
def rendered() -> tuple[str, str]:
    return render()


def render(absent: frozenset[str] = frozenset()) -> tuple[str, str]:
    records = e1_records()
    return page.render_verdicts(
        VERDICTS,
        PUBLISHED,
        LEDGER,
        profile="laptop",
        other_profiles={"laptop": VERDICTS, "paper": [verdict("e1.c2", verdict="reproduced")], "smoke": []},
        records=[*records, *e1_grid_records()],
        tables={name: report.table(name, records) for name in ("e1.table1", "e1.table2")},
        present=set(report.ARTEFACTS) - absent,
    )


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
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    def all(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.tags if name == tag)


@pytest.fixture(scope="module")
def reader(rendered: tuple[str, str]) -> Reader:
    return Reader(rendered[0])


def hrefs(reader: Reader) -> list[str]:
    links = [a["href"] for a in reader.all("a")] + [image["src"] for image in reader.all("img")]
    return [link for link in links if link is not None]


def test_every_link_is_relative_and_stays_inside_the_repository(reader: Reader, rendered: tuple[str, str]) -> None:
    links = hrefs(reader) + re.findall(r"\]\(([^)]+)\)", rendered[1])
    assert len(links) > 50
    for link in links:
        parts = urlsplit(link)
        assert not parts.scheme
        assert not parts.netloc
        assert not link.startswith("/")
        assert link.count("../") <= 1


def test_records_are_linked_where_records_stores_them(reader: Reader) -> None:
    linked = {unquote(link) for link in hrefs(reader)}
    named = {run for v in VERDICTS for run in v["runs"]}
    expected = {f"../{path_of(r)}" for r in [*e1_records(), *e1_grid_records()] if r.run in named}
    assert expected == {link for link in linked if "/records/" in link}
    assert "../data/records/laptop/e1_controls/e1-grid-central-lr0_1.s101.json" in linked


def test_every_verdict_is_present_with_figure_notebook_spec(reader: Reader, rendered: tuple[str, str]) -> None:
    ids = [row["id"] for row in reader.all("tr") if "id" in row]
    assert ids == [v["id"] for v in VERDICTS]
    for link in (
        "#e1.fig1",
        "#e1.table2",
        "../figures/laptop/e1.fig1.png",
        "../figures/laptop/notebooks/e1.html",
        "../pipelines/e1.yaml",
    ):
        assert link in hrefs(reader)
        assert f"({link})" in rendered[1]
    for one in VERDICTS:
        assert f"**{one['id']}**" in rendered[1]


def test_statements_without_a_verdict_are_listed_as_not_run(reader: Reader, rendered: tuple[str, str]) -> None:
    text = "".join(reader.text)
    assert "1 statement, not run" in text
    assert "F2I sends 4x less" in text
    assert "e2.c1" in rendered[1]
    assert "lb.c1" in rendered[1]


def test_what_was_not_drawn_is_called_not_run_and_nothing_links_to_its_files() -> None:
    absent = frozenset({"e1.extra-grid", "e1.extra-skew-gn", "e1.table2"})
    for text, whole in zip(render(absent), render(), strict=True):
        for name in absent:
            assert f'id="{name}"' in text, "a verdict still finds the place"
            assert f"figures/laptop/{name}." not in text
            assert f"figures/laptop/{name}." in whole
        assert len(re.findall(r"○(?:</span>)? not run", text)) == len(re.findall(r"○(?:</span>)? not run", whole)) + 3
    Reader(render(absent)[0])


def test_a_description_ends_with_one_full_stop(rendered: tuple[str, str]) -> None:
    assert ".. [" not in rendered[1]


def test_laws_are_counted_apart_and_words_accompany_colour(reader: Reader, rendered: tuple[str, str]) -> None:
    text = " ".join(" ".join(reader.text).split())
    results = "✗ 1 fails at laptop scale{} ✓ 2 holds at laptop scale{} ? 1 inconclusive{} ○ 1 not run"
    assert "results: " + results.format("", "", "") in text
    assert "laws: ✓ 1 holds at laptop scale" in text
    assert "results: " + results.format(",", ",", ",") in rendered[1]


def test_parts_of_a_compound_statement_each_show_their_outcome(reader: Reader) -> None:
    assert "+2.1 points [+1.2, +3.5] (holds)" in "".join(reader.text)
    assert "+0.1 points [−1.2, +1.5] (inconclusive)" in "".join(reader.text)


def test_other_profiles_stand_beside(reader: Reader) -> None:
    text = "".join(reader.text)
    assert "paper: reproduced (n = 3)" in text
    assert "smoke: not run" in text
    assert "laptop: holds" not in text


def test_text_from_data_is_escaped(rendered: tuple[str, str], reader: Reader) -> None:
    text, markdown = rendered
    assert "<b>order</b>" not in text
    assert "&lt;b&gt;order&lt;/b&gt;" in text
    assert '5 < 6 & "quotes" | pipe_and*star' in "".join(reader.text)
    assert r"5 &lt; 6 &amp; \"quotes\" \| pipe\_and\*star".replace(r"\"", '"') in markdown


def test_markdown_rows_have_as_many_cells_as_their_header(rendered: tuple[str, str]) -> None:
    width = None
    for line in rendered[1].splitlines():
        if not line.startswith("|"):
            width = None
            continue
        cells = len(re.findall(r"(?<!\\)\|", line))
        assert width in (None, cells), line
        width = cells


def test_html_needs_nothing_from_elsewhere(reader: Reader, rendered: tuple[str, str]) -> None:
    assert not list(reader.all("script"))
    assert not list(reader.all("link"))
    assert "@import" not in rendered[0]
    assert "url(" not in rendered[0]


def test_html_is_accessible(reader: Reader) -> None:
    (root,) = reader.all("html")
    assert root["lang"] == "en-GB"
    assert len(list(reader.all("title"))) == 1
    assert len(list(reader.all("h1"))) == 1
    assert all(cell.get("scope") in ("col", "row") for cell in reader.all("th"))
    assert all(image.get("alt") for image in reader.all("img"))
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {link[1:] for link in hrefs(reader) if link.startswith("#")} <= set(ids)


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
    words = ["reproduced", "not reproduced", "holds at smoke scale", "fails at laptop scale", "inconclusive"]
    words += ["not comparable", "not run"]
    assert [page.verdict_class(w) for w in words] == [
        "holds",
        "fails",
        "holds",
        "fails",
        "inconclusive",
        "not comparable",
        "not run",
    ]


def test_the_page_is_byte_stable(rendered: tuple[str, str]) -> None:
    assert render() == rendered


def test_no_absolute_path_or_host_in_the_page(rendered: tuple[str, str], tmp_path: Path) -> None:
    for text in rendered:
        assert str(Path.cwd()) not in text
        assert not re.search(r"https?://", text)
