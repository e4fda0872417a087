"""``repro book``: write the site that a reviewer opens, and the headline verdicts in README.md."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from repro import book
from repro.book import markdown, views
from repro.registry import specs


def run(options: Namespace, root: Path) -> int:
    """Write ``book/``; README.md too where the profile is that of ``params.yaml``."""
    inputs = book.load(options.profile, root)
    pages = book.site(inputs)
    book.write(pages, root)
    print(f"{root / 'book'}: {len(pages)} files, {sum(map(len, pages.values())) / 1e6:.1f} MB; open book/index.html")
    if options.profile == specs.default_profile(root):
        markdown.update_readme(views.Site(inputs), root / "README.md")
        print("README.md: headline verdicts")
    return 0
