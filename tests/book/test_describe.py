"""Descriptions for reviewers of artefacts and for archives: they name what there is."""

from __future__ import annotations

import json
import re

import tree
import yaml
from site_inputs import inputs

from repro import report
from repro.book import describe
from repro.book.views import Site
from repro.files import read_yaml

ROOT = tree.REPOSITORY


def test_the_appendix_has_every_statement_with_a_command_for_a_record_that_exists(pages: dict[str, str]) -> None:
    given = inputs()
    rows = [line for line in pages["appendix.md"].splitlines() if line.startswith("| **")]
    assert [re.match(r"\| \*\*([\w.]+)\*\*", row)[1] for row in rows] == [s.id for s in given.published.statements]  # type: ignore[index]
    stored = {(record.run, record.seed) for record in given.records}
    named = [re.search(r"rerun ([\w-]+) --seed (\d+)", row) for row in rows]
    commands = {(found[1], int(found[2])) for found in named if found}
    assert commands
    assert commands <= stored
    assert all(row.count(" | ") == 4 for row in rows)


def test_the_manifest_and_the_crate_name_what_is_drawn_and_what_is_cited() -> None:
    given = Site(inputs())
    manifest = yaml.safe_load(describe.codecheck(given))["manifest"]
    assert {entry["comment"].partition(":")[0] for entry in manifest} == set(given.inputs.present)
    graph = json.loads(describe.crate(given))["@graph"]
    known = {entity["@id"] for entity in graph}
    (whole,) = (entity for entity in graph if entity["@id"] == "./")
    assert {part["@id"] for name in ("hasPart", "isBasedOn") for part in whole[name]} <= known


def test_committed_descriptions_fit_the_repository() -> None:
    manifest = read_yaml(ROOT / "codecheck.yml")["manifest"]
    assert {entry["comment"].partition(":")[0] for entry in manifest} == report.present("study", ROOT)
    assert all((ROOT / entry["file"]).is_file() for entry in manifest)
    cited = read_yaml(ROOT / "CITATION.cff")
    graph = {entity["@id"]: entity for entity in json.loads((ROOT / "ro-crate-metadata.json").read_text())["@graph"]}
    assert graph["./"]["version"] == cited["version"]
    assert {source["url"] for source in cited["references"]} <= set(graph)
    assert all((ROOT / part["@id"]).is_dir() for part in graph["./"]["hasPart"])
