"""`onward run`."""

from pathlib import Path

from appliance.cli.output import Exit, print_problems
from appliance.config.problems import ConfigError
from appliance.model import PlaneKind


def run(config: Path, /, *, plane: PlaneKind | None = None) -> int:
    """Run a director in the foreground, until SIGTERM or SIGINT.

    Parameters
    ----------
    config:
        The configuration file.
    plane:
        The data plane to use, whatever the file says: xdp (fast), raw (works anywhere), or auto, which is the first of
        them that works here.
    """
    from appliance.app import run as run_director

    try:
        return run_director(config, plane)
    except ConfigError as error:
        print_problems(error.problems)
        return Exit.CONFIG
