"""What the site shows in the forms that reviewers of artefacts, CODECHECK and archives read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from repro.book.markdown import escaped
from repro.book.rows import Row
from repro.book.runs import Stored
from repro.book.views import Site
from repro.files import canonical_json
from repro.report.tables import ABSENT, duration

_PARTS = {
    "book/": "the site: verdict on every statement, with its evidence",
    "data/": "records, their provenance, published statements and their rules, manifests of data sets",
    "figures/": "figures, tables, verdicts and executed notebooks by profile",
    "notebooks/": "notebooks without outputs",
    "pipelines/": "what is run, and at which sizes",
    "repro/": "the program",
    "tests/": "its tests",
}


def files(site: Site) -> dict[str, str]:
    """File at the root of the repository -> content."""
    return {"codecheck.yml": codecheck(site), "ro-crate-metadata.json": crate(site)}


def appendix(site: Site) -> str:
    """Claim, experiment, command, time and expected output of every statement, as artefact evaluations ask for them."""
    header = ("claim", "experiment", "command", "time", "expected output")
    rows = [header, tuple("---" for _ in header), *(_claim(site, row) for row in site.rows)]
    lines = ["| " + " | ".join(cells) + " |" for cells in rows]
    said = (
        "What is needed: README.md, Installation. Data: `make data`, some minutes. `make verify` takes the quickest of "
        "these commands for as many statements as 25 minutes allow. Times are of one core of the machine that made the "
        "record; a command agrees where it ends with `identical` or `agrees`. Written by `python -m repro book`."
    )
    return "\n".join(["# Artefact appendix", "", f"Profile: **{site.profile}**. {said}", "", *lines]) + "\n"


def _claim(site: Site, row: Row) -> tuple[str, ...]:
    claim, expected = f"**{row.id}** {escaped(row.says)}", escaped(f"{row.verdict}: {row.short}")
    if row.pilot:
        return claim, "the pilot's", ABSENT, ABSENT, f"{expected}; `make study` computes the study's own"
    found = min((run.quickest for run in site.runs_of(row.runs)), key=Stored.by_wait, default=None)
    if found is None:
        command = f"`python -m repro verdicts {row.id}`" if row.n else ABSENT
        return claim, ", ".join(row.runs) or "none", command, ABSENT, expected
    time = "not known" if found.seconds is None else duration(found.seconds)
    return claim, found.run, f"`python -m repro rerun {found.run} --seed {found.seed}`", time, expected


def codecheck(site: Site) -> str:
    """The manifest that a codechecker starts from; who checks adds name, report and certificate."""
    cited = site.inputs.citation
    content = {
        "version": "https://codecheck.org.uk/spec/config/1.0/",
        "paper": {"title": cited["title"], "authors": cited["authors"], "reference": "README.md"},
        "manifest": [{"file": path, "comment": title} for path, title in _drawn(site)],
    }
    said = "# Written by `python -m repro book`. What comes out where, for CODECHECK.\n"
    return said + yaml.safe_dump(content, sort_keys=False, width=1000)


def _drawn(site: Site) -> Iterator[tuple[str, str]]:
    """The picture, or the table as Markdown, of everything drawn: path from the root, and title."""
    for item in site.artefacts():
        if item["drawn"]:
            shown = item["picture"] or dict(item["files"])["md"]
            yield shown.removeprefix("../"), f"{item['id']}: {item['title'] or item['says']}"


def crate(site: Site) -> str:
    """RO-Crate 1.1: the repository, its parts, and the sources that it repeats."""
    cited = site.inputs.citation
    author = {"@id": "#authors", "@type": "Organization", "name": cited["authors"][0]["name"]}
    sources = [
        {
            "@id": each["url"],
            "@type": "ScholarlyArticle" if each["type"] == "article" else "BlogPosting",
            "name": each["title"],
            "author": [_name(one) for one in each["authors"]],
        }
        for each in cited["references"]
    ]
    parts = [
        {
            "@id": path,
            "@type": ["Dataset", "SoftwareSourceCode"] if path == "repro/" else "Dataset",
            "description": says,
        }
        for path, says in _PARTS.items()
    ]
    root: dict[str, Any] = {
        "@id": "./",
        "@type": "Dataset",
        "name": cited["title"],
        "description": cited["message"],
        "datePublished": str(cited["date-released"]),
        "version": cited["version"],
        "license": {"@id": "LICENSE"},
        "author": {"@id": author["@id"]},
        "hasPart": [{"@id": part["@id"]} for part in parts],
        "isBasedOn": [{"@id": source["@id"]} for source in sources],
    }
    described = {
        "@id": "ro-crate-metadata.json",
        "@type": "CreativeWork",
        "about": {"@id": "./"},
        "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
    }
    licence = {"@id": "LICENSE", "@type": "File", "name": f"{cited['license']} licence"}
    graph = [described, root, author, licence, *parts, *sources]
    return canonical_json({"@context": "https://w3id.org/ro/crate/1.1/context", "@graph": graph})


def _name(author: dict[str, str]) -> str:
    return author.get("name") or f"{author['given-names']} {author['family-names']}"
