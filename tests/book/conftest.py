"""Pages of a small site, made once for all tests."""

from __future__ import annotations

import pytest
from site_inputs import Reader, inputs

from repro import book


@pytest.fixture(scope="session")
def pages() -> dict[str, str]:
    return book.site(inputs())


@pytest.fixture(scope="session")
def html(pages: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in pages.items() if name.endswith(".html")}


@pytest.fixture(scope="session")
def readers(html: dict[str, str]) -> dict[str, Reader]:
    return {name: Reader(text) for name, text in html.items()}
