"""``repro export``: the records of a profile as one table."""

from __future__ import annotations

import csv
import io
from argparse import Namespace
from pathlib import Path

from repro.commands import console
from repro.errors import ReproError
from repro.files import canonical_json, write_atomic
from repro.results import frame


def run(options: Namespace, root: Path) -> int:
    """Write the table to the file that is named, or else print it."""
    if options.file is not None and not options.file.absolute().parent.is_dir():
        raise ReproError(
            f"{options.file}: its folder {options.file.parent} does not exist; the file of an existing folder was "
            "expected; make the folder first, or name another file"
        )
    rows = frame(options.profile, root, evaluations=options.evaluations)
    if options.json:
        text = canonical_json(rows)
    else:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        text = buffer.getvalue()
    if options.file is None:
        print(text, end="")
        return 0
    write_atomic(options.file, text)
    console.note(f"{options.file}: {len(rows)} rows of {len(rows[0])} columns")
    return 0
