"""The book: the static site that a reviewer opens, made from records, verdicts and executed notebooks.

``load`` reads everything the pages show, ``site`` turns it into pages (file name -> text) and ``write`` puts them into
``book/``. Pages are filled in by Jinja templates; notebooks are converted by nbconvert. Both are part of what the
notebooks need anyway (see CONTRIBUTING.md for why not a larger tool). Every link is relative, nothing is fetched from
elsewhere, and the same inputs give the same bytes, so that the site works from a disk and a diff of it is a change.
"""

from __future__ import annotations

from pathlib import Path

from repro.book.inputs import Inputs, load
from repro.book.pages import site
from repro.files import write_atomic

__all__ = ["Inputs", "load", "site", "write"]


def write(pages: dict[str, str], root: Path = Path()) -> list[Path]:
    """Write ``pages`` into ``book/`` and remove what an earlier build left there and this one did not make.

    Raises:
        ReproError: a file cannot be written.
    """
    folder = root / "book"
    for old in folder.glob("*") if folder.exists() else ():
        if old.is_file() and old.name not in pages:
            old.unlink()
    for name, text in pages.items():
        write_atomic(folder / name, text)
    return [folder / name for name in pages]
