"""Texts that people and programs read, kept as they should be.

A change that is meant: run the test with ONWARD_GOLDEN=write in the environment, and read the difference before you
commit it.
"""

import os
from pathlib import Path


def check(name: str, text: str) -> None:
    """Hold *text* to the file of that name here."""
    path = Path(__file__).parent / name
    if os.environ.get("ONWARD_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), f"differs from tests/golden/{name}"
