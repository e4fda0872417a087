"""JSON Schemas of the YAML files that people edit, for editors that complete keys and mark mistakes while one types.

``python -m repro.registry.schemas`` writes them again after a model has changed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from repro.data.sets.declarations import Entry
from repro.files import write_atomic
from repro.registry.entry_models import LedgerFile, PublishedFile
from repro.registry.source_files import DefaultFile, ParamsFile, SourceFile
from repro.registry.study import Study
from repro.validation import Text

FOLDER = Path("schemas")
MODELS: dict[str, Any] = {
    "default": DefaultFile,
    "ledger": LedgerFile,
    "params": ParamsFile,
    "published": PublishedFile,
    "runs": SourceFile,
    "sources": dict[Text, Entry],
    "study": Study,
}
"""Name of a schema -> what it describes."""
FILES = {
    "params.yaml": "default",
    "data/ledger.yaml": "ledger",
    "data/published.yaml": "published",
    "data/sources.yaml": "sources",
    "data/study.yaml": "study",
    **{f"pipelines/{source}.yaml": "runs" for source in ("e1", "e2", "e3", "lb")},
    **{f"pipelines/{profile}/params.yaml": "params" for profile in ("smoke", "study", "paper")},
}
"""File that people edit -> name of its schema, which its first line names."""


def schemas() -> dict[Path, str]:
    """Path of each schema and its text."""
    return {FOLDER / f"{name}.json": _text(model) for name, model in MODELS.items()}


def first_line(file: str) -> str:
    """The line by which an editor finds the schema of a file.

    >>> first_line("pipelines/e1.yaml")
    '# yaml-language-server: $schema=../schemas/runs.json'
    """
    up = "../" * file.count("/")
    return f"# yaml-language-server: $schema={up}{FOLDER.as_posix()}/{FILES[file]}.json"


def _text(model: Any) -> str:
    return json.dumps(TypeAdapter(model).json_schema(), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    for path, text in schemas().items():
        write_atomic(path, text)
