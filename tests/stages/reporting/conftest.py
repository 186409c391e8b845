"""The sample page, and its HTML, made once for all tests that only look at it."""

from __future__ import annotations

import pytest
from page_sample import make_page

from stages.reporting.content import Page
from stages.reporting.page import render


@pytest.fixture(scope="session")
def page() -> Page:
    """A page with made-up findings in every section."""
    return make_page()


@pytest.fixture(scope="session")
def html(page: Page) -> str:
    """The page, rendered."""
    return render(page)
