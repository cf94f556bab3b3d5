"""The manual page."""

import subprocess

from appliance.cli.manual import page
from appliance.cli.root import COMMANDS


def test_every_command_stands_in_it() -> None:
    """With those below it; and exit codes only once."""
    text = page()
    for name in COMMANDS:
        assert f".SS onward {name}".replace("-", "\\-") in text
    assert ".SS onward member drain" in text
    assert text.count("the daemon does not answer") == 1


def test_roff_finds_no_fault_with_it() -> None:
    """Every warning counts."""
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-z"], input=page(), capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
