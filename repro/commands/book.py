"""``repro book``: write the site, the headline verdicts in README.md, and descriptions of the whole."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from repro import book
from repro.book import describe, markdown, views
from repro.files import write_atomic
from repro.registry import specs


def run(options: Namespace, root: Path) -> int:
    """Write ``book/``; where the profile is that of ``params.yaml``, README.md and ``describe.files`` too."""
    inputs = book.load(options.profile, root)
    pages = book.site(inputs)
    book.write(pages, root)
    print(f"{root / 'book'}: {len(pages)} files, {sum(map(len, pages.values())) / 1e6:.1f} MB; open book/index.html")
    if options.profile == specs.default_profile(root):
        made = views.Site(inputs)
        markdown.update_readme(made, root / "README.md")
        print("README.md: headline verdicts")
        for name, content in describe.files(made).items():
            write_atomic(root / name, content)
            print(name)
    return 0
