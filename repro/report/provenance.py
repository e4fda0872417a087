"""What stands behind a figure or table: run ids, seeds, settings, data, code versions and environment, as JSON.

The same content goes into ``<artefact>.json`` beside the files and, shortened, into the metadata of the PNG. It holds
no date and no host: those are in the provenance files that it names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from repro.experiments import numerics
from repro.files import canonical_json, read_json, sha256
from repro.report.artefact import Artefact
from repro.report.selection import Selection, named
from repro.results import records
from repro.results.records import Record


def content(artefact: Artefact, chosen: Selection, root: Path = Path()) -> dict[str, Any]:
    """What stands behind one artefact, as a mapping.

    ``runs`` has one entry per run, which is one curve of a figure or the cells of a table that its CSV attributes to
    the run; ``environments`` are the machine types and versions that provenance names, each given once.

    Args:
        artefact: which figure or table.
        chosen: the records that it shows.
        root: root of the repository, where provenance is looked for; a record without any has no environment, and
            no ``code``, the hash of the package that made it.

    Raises:
        ReproError: a provenance file is damaged.
    """
    environments: dict[str, dict[str, Any]] = {}
    runs = [_run(run, group, environments, root) for run, group in chosen.items()]
    profile = chosen.profile
    stage = f"pipelines/{profile}/dvc.yaml:figures-{artefact.source}"
    return {
        "artefact": artefact.id,
        "title": artefact.title,
        "profile": profile,
        "files": list(artefact.files),
        "made_by": [f"python -m repro render {artefact.id} --profile {profile}", f"dvc repro {stage}"],
        "runs": runs,
        "environments": environments,
    }


def _run(run: str, group: Sequence[Record], environments: dict[str, dict[str, Any]], root: Path) -> dict[str, Any]:
    first = group[0]
    return {
        "run": run,
        "label": named(group),
        "parameters": first.spec,
        "parameters_sha256": sha256(first.spec),
        "data": {name: first.data.get(name) for name in ("name", "sha256", "reduced")},
        "code_versions": numerics.used_by(first.spec),
        "n": len(group),
        "seeds": [_seed(record, environments, root) for record in group],
    }


def _seed(record: Record, environments: dict[str, dict[str, Any]], root: Path) -> dict[str, Any]:
    path = records.path_of(record)
    provenance = records.provenance_path(path)
    entry: dict[str, Any] = {
        "seed": record.seed,
        "status": record.status,
        "fingerprint": record.fingerprint,
        "record": path.as_posix(),
        "provenance": None,
        "environment": None,
        "code": None,
    }
    if (root / provenance).exists():
        known = read_json(root / provenance)
        machine = dict(known.get("machine", {})) | {"precision": known.get("precision")}
        name = sha256(machine)[:12]
        environments[name] = machine
        entry |= {"provenance": provenance.as_posix(), "environment": name, "code": known.get("code")}
    return entry


def text(made: Mapping[str, Any]) -> str:
    """The file ``<artefact>.json``, from what ``content`` gives."""
    return canonical_json(made)


def brief(made: Mapping[str, Any]) -> str:
    """One line for the metadata of a picture: without the paths, which follow from run, seed and profile."""
    runs = [
        {name: entry[name] for name in ("run", "parameters_sha256", "code_versions")}
        | {"seeds": {str(seed["seed"]): seed["fingerprint"] for seed in entry["seeds"]}}
        for entry in made["runs"]
    ]
    short = {name: made[name] for name in ("artefact", "profile", "environments")} | {"runs": runs}
    return json.dumps(short, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
