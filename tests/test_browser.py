"""The site as a reader opens it: from a disk, in a headless Chromium, wide and narrow, light and dark, by keyboard."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from urllib.parse import unquote

import pytest
import tree
from browser import Browser, program

from repro import book
from repro.registry import specs

pytestmark = pytest.mark.skipif(program() is None, reason="no Chromium on the PATH (Debian: apt install chromium)")

#: One page of each kind; axe-core looks at these.
KINDS = (
    "index", "e1.c2", "e3.c1", "e1.fig1", "e1.table2", "figures", "notebooks", "notebook-e1", "runs", "runs-e1",
    "ledger", "arithmetic", "provenance", "terms", "cite",
)  # fmt: skip
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of the default profile, built by today's code, beside what it links to."""
    root = tmp_path_factory.mktemp("site")
    for name in ("figures", "data", "pipelines", "notebooks", "CITATION.cff", "LICENSE"):
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
            if link.startswith(("data:", "https:")):  # notebooks cite papers
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


def test_the_driver_sees_errors_missing_pictures_and_requests(tmp_path: Path, browser: Browser) -> None:
    """Else the test above would pass whatever happens."""
    page = tmp_path / "page.html"
    page.write_text("<img src='absent.png'><script>console.error('oh'); null.x</script><img src='http://localhost:9/'>")
    browser.open(page)
    said = " ".join(browser.errors)
    for part in ("ERR_FILE_NOT_FOUND", "oh", "TypeError", "asks for http://localhost:9/"):
        assert part in said


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
    browser.run("new Promise(done => setTimeout(() => done(1), 50))")
    assert shown(browser) == everything
    assert browser.errors == []


def test_a_choice_has_an_address_and_the_counts_lead_to_it(site: Path, browser: Browser) -> None:
    browser.open(site / "index.html", "#source=e1")
    assert 0 < shown(browser) == browser.run("document.querySelectorAll('[data-source=e1]').length")
    link = "document.querySelector('caption').parentElement.querySelector('td a')"
    count = int(browser.run(f"{link}.textContent"))
    browser.run(f"{link}.click()")
    browser.run("new Promise(done => setTimeout(() => done(1), 50))")
    assert shown(browser) == count
    assert "verdict=" in browser.run("location.hash")


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
