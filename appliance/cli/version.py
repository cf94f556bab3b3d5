"""`onward version`."""

import platform

from appliance import __version__
from appliance.cli.output import Exit


def version_text() -> str:
    return f"onward {__version__} (Python {platform.python_version()}, Linux {platform.release()})"


def version() -> int:
    """Print the version."""
    print(version_text())
    return Exit.OK
