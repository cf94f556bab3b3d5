"""What all tests share."""

import pytest
import structlog


@pytest.fixture(autouse=True)
def own_logging():
    """A test that sets logging up does not leave it to the next one."""
    yield
    structlog.reset_defaults()
