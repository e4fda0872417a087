"""The site as a reader opens it: from a disk, in a headless Chromium, wide and narrow, light and dark, by keyboard."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import tree
from browser import Browser, program
from synthetic import e1_records

from repro import book
from repro.registry import specs

pytestmark = pytest.mark.skipif(program() is None, reason="no Chromium on the PATH (Debian: apt install chromium)")

#: One page of each kind; axe-core looks at these.
KINDS = (
    "index", "e1.c2", "e3.c1", "e1.fig1", "e1.table2", "figures", "notebooks", "notebook-e1", "runs", "runs-e1",
    "ledger", "arithmetic", "provenance", "terms", "cite", "explorer", "search",
)  # fmt: skip
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of the default profile, built by today's code, beside what it links to."""
    root = tmp_path_factory.mktemp("site")
    linked = ("figures", "data", "pipelines", "notebooks", "CITATION.cff", "LICENSE", "README.md", "codecheck.yml")
    for name in (*linked, "ro-crate-metadata.json"):
        (root / name).symlink_to(tree.REPOSITORY / name)
    book.write(book.site(book.load(specs.default_profile(tree.REPOSITORY), tree.REPOSITORY)), root)
    return root / "book"


@pytest.fixture(scope="module")
def shared() -> Iterator[Browser]:
    with Browser() as made:
        yield made


@pytest.fixture
def browser(shared: Browser) -> Browser:
    shared.errors.clear()
    shared.size(1280)
    shared.scheme("light")
    return shared


def shown(browser: Browser) -> int:
    return int(browser.run("document.querySelectorAll('#matrix tbody tr:not([hidden])').length"))


def choose(browser: Browser, name: str, value: str) -> None:
    browser.run(
        f"(e => {{ e.value = {json.dumps(value)}; e.dispatchEvent(new Event('input', {{bubbles: true}})); }})"
        f"(document.getElementById('filters').elements['{name}'])"
    )


def test_every_link_leads_to_a_file_and_every_anchor_to_a_place(site: Path) -> None:
    pages = {path.name: path.read_text() for path in site.glob("*.html")}
    places = {name: set(re.findall(r'\bid="([^"]+)"', text)) for name, text in pages.items()}
    for name, text in pages.items():
        for link in re.findall(r'\b(?:href|src)="([^"]+)"', text):
            if link.startswith(("data:", "https:")):  # the sources, and papers that notebooks cite
                continue
            file, _, place = unquote(link.replace("&amp;", "&")).partition("#")
            assert (site / (file or name)).exists(), f"{name}: {link}"
            if place and "=" not in place and (file or name) in pages:
                assert place in places[file or name], f"{name}: {link}"


def test_no_page_scrolls_sideways_on_a_phone_errs_asks_the_network_or_lacks_a_picture(
    site: Path, browser: Browser
) -> None:
    browser.size(360, 740)
    for path in sorted(site.glob("*.html")):
        browser.open(path)
        assert browser.run("document.documentElement.scrollWidth") <= 360, path.name
        browser.run("document.querySelectorAll('img').forEach(image => { image.loading = 'eager'; })")
        broken = (
            "Promise.all([...document.images].map(i => i.decode().then(() => '', () => i.src))).then(a => a.join(''))"
        )
        assert browser.run(broken) == "", path.name
        assert browser.errors == [], path.name


def test_a_phone_shows_what_holds_and_fails_before_it_is_scrolled(site: Path, browser: Browser) -> None:
    browser.size(390, 844)
    browser.open(site / "index.html")
    ends = browser.run("[...document.querySelectorAll('.jump li')].map(each => each.getBoundingClientRect().bottom)")
    assert len(ends) >= 4
    assert max(ends) <= 844


def test_the_driver_sees_errors_missing_pictures_and_requests(tmp_path: Path, browser: Browser) -> None:
    """Else the test above would pass whatever happens."""
    page = tmp_path / "page.html"
    page.write_text("<img src='absent.png'><script>console.error('oh'); null.x</script><img src='http://localhost:9/'>")
    browser.open(page)
    said = " ".join(browser.errors)
    for part in ("ERR_FILE_NOT_FOUND", "oh", "TypeError", "asks for http://localhost:9/"):
        assert part in said


def pause(browser: Browser) -> None:
    browser.run("new Promise(done => setTimeout(() => done(1), 100))")


def listed(browser: Browser, rows: str, value: str) -> list[Any]:
    """What the JavaScript expression ``value`` gives of each element ``e`` that ``rows`` selects."""
    return list(json.loads(browser.run(f"JSON.stringify([...document.querySelectorAll('{rows}')].map(e => {value}))")))


def order(browser: Browser) -> list[str]:
    return listed(browser, "#matrix tbody tr:not([hidden])", "e.id")


def test_the_matrix_is_filtered_by_source_verdict_kind_and_words(site: Path, browser: Browser) -> None:
    browser.open(site / "index.html")
    everything = shown(browser)
    rows = json.loads(
        browser.run("JSON.stringify([...document.querySelectorAll('#matrix tbody tr')].map(r => r.dataset))")
    )
    assert everything == len(rows)
    for name in ("source", "verdict", "kind"):
        for value in {row[name] for row in rows}:
            choose(browser, name, value)
            assert shown(browser) == sum(row[name] == value for row in rows), (name, value)
        choose(browser, name, "")
    choose(browser, "text", "FEDERATED  rounds")
    assert 0 < shown(browser) < everything
    assert f"{shown(browser)} of {everything}" in browser.run("document.getElementById('shown').textContent")
    choose(browser, "text", "no such words")
    assert shown(browser) == 0
    browser.run("document.querySelector('#filters button').click()")
    pause(browser)
    assert shown(browser) == everything
    assert browser.errors == []


def test_a_choice_has_an_address_and_the_counts_lead_to_its_result_in_view(site: Path, browser: Browser) -> None:
    browser.open(site / "index.html", "#source=e1")
    assert 0 < shown(browser) == browser.run("document.querySelectorAll('[data-source=e1]').length")
    browser.run("scrollTo(0, 0)")
    link = "document.querySelector('.counts td a')"
    count = int(browser.run(f"{link}.textContent"))
    browser.run(f"{link}.click()")
    pause(browser)
    assert shown(browser) == count
    assert "verdict=" in browser.run("location.hash")
    assert (
        0 < browser.run("document.querySelector('#matrix tr:not([hidden]) .clamp').getBoundingClientRect().top") < 900
    )


def test_the_matrix_is_sorted_by_each_head_and_back(site: Path, browser: Browser) -> None:
    browser.open(site / "index.html")
    given = order(browser)
    for name in ("says", "difference", "verdict", "n"):
        button = f"document.querySelector('#matrix th[data-sort={name}] button')"
        browser.run(f"{button}.click()")
        assert browser.run(f"{button}.parentElement.getAttribute('aria-sort')") in ("ascending", "descending")
        assert sorted(order(browser)) == sorted(given)
        if name == "n":
            counted = listed(browser, "#matrix tbody tr", "+e.dataset.n")
            assert counted == sorted(counted, reverse=True) != sorted(counted)
        elif name != "difference":  # where nothing is to be compared yet, all are equal
            assert order(browser) != given, name
    browser.run(f"{button}.click()")
    assert order(browser) == given


@pytest.mark.parametrize("width", [1280, 390])
def test_a_line_unfolds_over_the_whole_width_by_keyboard(width: int, site: Path, browser: Browser) -> None:
    browser.size(width)
    browser.open(site / "index.html")
    first = "document.querySelector('#matrix details')"
    browser.run(f"{first}.querySelector('summary').focus()")
    browser.press("Enter", 13)
    assert browser.run(f"{first}.open") is True
    wide = float(browser.run(f"{first}.querySelector('.more').getBoundingClientRect().width"))
    assert wide > 0.8 * width
    other = "document.querySelector('#matrix tbody tr td[data-label=Ours]').getBoundingClientRect()"
    clear = f"{first}.querySelector('.more').getBoundingClientRect().top >= {other}.top + 16"
    if width > 600:
        assert browser.run(clear) is True, "it lies below the line, not over its numbers"
    browser.press("Enter", 13)
    assert browser.run(f"{first}.open") is False


def test_the_head_of_the_matrix_stays_in_view(site: Path, browser: Browser) -> None:
    browser.open(site / "index.html")
    browser.run("document.querySelector('#matrix tbody tr:nth-child(30)').scrollIntoView()")
    assert abs(float(browser.run("document.querySelector('#matrix thead th').getBoundingClientRect().top"))) < 2


def test_every_statement_is_two_clicks_from_its_evidence(site: Path, browser: Browser) -> None:
    """From the first page to the statement, and from there to a figure, runs or the source's words."""
    browser.open(site / "index.html")
    pages = listed(browser, ".glance li a", "e.href")
    assert len(pages) == shown(browser)
    for page in pages:
        text = (site / page.rpartition("/")[2]).read_text()
        assert "data/published.yaml" in text
        assert 'id="runs"' in text


# Search ---------------------------------------------------------------------------------------------------


def results(browser: Browser) -> list[str]:
    return listed(browser, "#results a", "e.getAttribute('href')")


def test_the_search_finds_words_on_every_kind_of_page_and_leads_there(site: Path, browser: Browser) -> None:
    for words, page in (
        ("larger learning rate than centralised", "e1.c6.html"), ("false discovery rate", "terms.html#q"),
        ("e2-plateau", "ledger.html#e2-plateau"), ("residual", "notebook-e2.html"), ("lb.fig7", "lb.fig7.html"),
    ):  # fmt: skip
        browser.open(site / "search.html", f"?q={words.replace(' ', '%20')}")
        assert any(found.startswith(page) for found in results(browser)), (words, results(browser)[:5])
        assert browser.run("document.querySelectorAll('#results mark').length") > 0
    browser.open(site / "search.html", "?q=%3Cb%3Enosuchword")
    assert results(browser) == []
    assert browser.run("document.getElementById('found').textContent") == "0 sections"
    assert browser.errors == [], "and nothing leaves the site"


def test_the_search_field_of_every_page_leads_to_the_search(site: Path, browser: Browser) -> None:
    browser.open(site / "e1.c1.html")
    browser.run("document.querySelector('header input[name=q]').focus()")
    browser.send("Input.insertText", text="plateau")
    browser.follow("Enter", 13)
    assert "/search.html" in browser.run("location.href")
    assert browser.run("document.getElementById('search').elements.q.value") == "plateau"
    assert results(browser)


# Curves ---------------------------------------------------------------------------------------------------


def explore(browser: Browser, name: str, value: str | bool) -> None:
    what = "checked" if isinstance(value, bool) else "value"
    browser.run(
        f"(e => {{ e.{what} = {json.dumps(value)}; e.dispatchEvent(new Event('input', {{bubbles: true}})); }})"
        f"(document.getElementById('explorer').elements['{name}'])"
    )
    pause(browser)


def paths(browser: Browser, kind: str) -> int:
    return int(browser.run(f"document.querySelectorAll('#chart path.{kind}').length"))


@pytest.fixture
def explorer(tmp_path: Path, pages: dict[str, str], browser: Browser) -> Browser:
    """The page of curves over synthetic records, three seeds a run."""
    made = {name: text for name, text in pages.items() if name.startswith(("explorer", "curves", "style"))}
    book.write(made, tmp_path)
    browser.open(tmp_path / "book/explorer.html")
    pause(browser)
    return browser


def test_curves_are_drawn_with_seeds_and_bands_on_and_off(explorer: Browser) -> None:
    assert paths(explorer, "mean") == 8
    assert (paths(explorer, "band"), paths(explorer, "seed")) == (8, 0)
    explore(explorer, "seeds", True)
    explore(explorer, "bands", False)
    assert (paths(explorer, "band"), paths(explorer, "seed")) == (0, 24)
    explorer.run("document.getElementById('none').click()")
    assert paths(explorer, "mean") == 0
    assert explorer.errors == []


def test_curves_are_chosen_by_words_of_a_setting(explorer: Browser) -> None:
    explore(explorer, "text", "norm: group")
    runs = listed(explorer, "#list input", "e.value")
    assert runs == sorted({record.run for record in e1_records() if record.spec["norm"] == "group"})
    explore(explorer, "text", "nosuchword")
    assert explorer.run("document.getElementById('list').textContent") == "No run fits."


def test_the_pointer_and_the_slider_read_the_means_of_the_records(explorer: Browser) -> None:
    explore(explorer, "text", "e1-central")
    rows = ("#values tbody tr", "[...e.cells].map(c => c.textContent)")
    last = listed(explorer, *rows)
    ends = [record.rows[-1]["test_top1"] for record in e1_records() if record.run == "e1-central"]
    assert float(last[0][1]) == pytest.approx(100 * sum(ends) / len(ends), abs=0.1)
    assert last[0][3] == str(len(ends))
    box = json.loads(explorer.run("JSON.stringify(document.getElementById('chart').getBoundingClientRect())"))
    explorer.send("Input.dispatchMouseEvent", type="mouseMoved", x=box["x"] + box["width"] / 4, y=box["y"] + 100)
    pause(explorer)
    assert listed(explorer, *rows) != last


def test_a_statement_leads_to_its_curves(site: Path, browser: Browser) -> None:
    pages = [path for path in site.glob("*.html") if "explorer.html#" in path.read_text()]
    assert pages, "the study has trained runs"
    link = re.search(r'href="explorer\.html(#[^"]+)"', pages[0].read_text())
    assert link
    browser.open(site / "explorer.html", link[1].replace("&amp;", "&"))
    pause(browser)
    assert browser.run("document.getElementById('explorer').elements.statement.value") == pages[0].stem
    assert paths(browser, "mean") > 0
    assert sum(path.stat().st_size for path in site.glob("curves-*.js")) < 3_000_000


# Everybody ------------------------------------------------------------------------------------------------


def test_everything_is_shown_where_scripts_are_off(site: Path, browser: Browser) -> None:
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(site / "index.html")
        assert browser.run("document.getElementById('filters').hidden") is True
        assert browser.run("document.querySelectorAll('#matrix tbody tr[hidden]').length") == 0
    finally:
        browser.send("Emulation.setScriptExecutionDisabled", value=False)


def test_the_keyboard_reaches_the_content_and_the_filters(site: Path, browser: Browser) -> None:
    browser.open(site / "index.html")
    browser.press("Tab", 9)
    assert browser.run("document.activeElement.className") == "skip"
    assert browser.run("document.activeElement.getBoundingClientRect().left") >= 0, "the skip link shows itself"
    browser.run("document.getElementById('filters').elements.source.focus()")
    everything = shown(browser)
    browser.press("ArrowDown", 40)
    assert shown(browser) < everything
    outline = "getComputedStyle(document.querySelector('main a')).outlineStyle"
    browser.run("document.querySelector('main a').focus({focusVisible: true})")
    assert browser.run(outline) == "solid"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_a_page_of_each_kind(scheme: str, site: Path, browser: Browser) -> None:
    axe = files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    browser.scheme(scheme)
    for name in KINDS:
        browser.open(site / f"{name}.html")
        browser.run(axe + ";1")
        options = json.dumps({"runOnly": RULES, "resultTypes": ["violations"]})
        report = "r => JSON.stringify(r.violations.map(v => [v.id, v.nodes.length, v.nodes[0].html.slice(0, 200)]))"
        found = json.loads(browser.run(f"axe.run(document, {options}).then({report})"))
        assert found == [], f"{name}, {scheme}"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_colour_scheme(scheme: str, site: Path, browser: Browser) -> None:
    browser.scheme(scheme)
    browser.open(site / "index.html")
    red = int(re.findall(r"\d+", browser.run("getComputedStyle(document.body).backgroundColor"))[0])
    assert (red > 200) == (scheme == "light")
