"""One director and one browser for all tests here."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.ui.rig import Lab, Seat, chromium, lab


@pytest.fixture(scope="session")
def director(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("ui")) as made:
        yield made


@pytest.fixture(scope="session")
def browser(director: Lab) -> Iterator[Browser]:
    with chromium(director.director, director.folder) as made:
        yield made


@pytest.fixture
def seat(browser: Browser) -> Iterator[Seat]:
    made = Seat(browser)
    yield made
    made.close()
