"""Laws of the index, of the links to terms, of lists of sections, and of the curves."""

from __future__ import annotations

import json
import re

import pytest
from markupsafe import Markup
from site_inputs import Reader, inputs
from synthetic import e1_records

from repro.book import curves, glossary, search
from repro.errors import ReproError


def test_terms_are_linked_once_a_page_to_their_place(readers: dict[str, Reader]) -> None:
    assert set(glossary.TERMS) <= set(readers["terms.html"].ids)
    gloss = glossary.linker()
    assert gloss("DGC <b> DGC") == Markup('<a class="term" href="terms.html#dgc">DGC</a> &lt;b&gt; DGC')
    assert gloss("deep gradient compression") == "deep gradient compression"


def test_the_index_has_every_section_and_leads_to_places_that_exist(pages: dict[str, str], readers) -> None:
    lines = pages["search-index.js"].splitlines()[1:-1]
    found = {name: (title, sections) for name, title, sections in (json.loads(line.rstrip(",")) for line in lines)}
    assert set(found) == {name for name in readers if name not in search.LEFT_OUT}
    for name, (title, sections) in found.items():
        assert title, name
        for anchor, heading, text in sections:
            assert not anchor or anchor in readers[name].ids, (name, anchor)
            assert heading or text
    assert "weight decay" not in json.dumps(found["runs-e1.html"]), "settings of runs are searched in the curves"
    assert "e1-central" in [anchor for anchor, _, _ in found["runs-e1.html"][1]]
    said = json.dumps(found["e1.c2.html"], ensure_ascii=False)
    assert "2 points <is> the margin" in said, "text, not markup"
    assert "Figure-1" in [anchor for anchor, _, _ in found["notebook-e1.html"][1]]


def test_curves_are_the_records_thinned_with_both_ends() -> None:
    (name, text), *others = curves.files(inputs()).items()
    assert (name, others) == ("curves-e1.js", [])
    runs = {run["run"]: run for run in json.loads(text[text.index("[") : text.rindex("]") + 1])}
    for record in e1_records():
        run = runs[record.run]
        seed = run["seeds"][str(record.seed)]
        assert (run["epoch"][0], run["epoch"][-1]) == (record.rows[0]["epoch"], record.rows[-1]["epoch"])
        assert seed["test_top1"][-1] == round(100 * record.rows[-1]["test_top1"], 1)
        assert len(seed["test_top1"]) == len(run["epoch"]) <= 40
    assert len(text.encode()) <= curves.LIMIT


def test_curves_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "LIMIT", 10)
    with pytest.raises(ReproError, match="curves of e1: more than 10 bytes with 8 points a curve"):
        curves.files(inputs())


def test_a_long_page_lists_its_sections(readers: dict[str, Reader], pages: dict[str, str]) -> None:
    for name in ("terms.html", "provenance.html", "runs-e1.html"):
        contents = pages[name].partition('<nav class="toc"')[2].partition("</nav>")[0]
        linked = re.findall(r'href="#([^"]+)"', contents)
        assert len(linked) >= 4, name
        assert set(linked) <= set(readers[name].ids)
    assert 'class="toc"' not in pages["cite.html"]
    assert pages["e1.c1.html"].index("<svg") < pages["e1.c1.html"].index('class="toc"'), "the picture comes first"
