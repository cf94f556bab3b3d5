"""`onward run`."""

from pathlib import Path

from appliance.cli.output import Exit, print_problems
from appliance.config.problems import ConfigError


def run(config: Path, /) -> int:
    """Run a director in the foreground, until SIGTERM or SIGINT.

    Parameters
    ----------
    config:
        The configuration file.
    """
    from appliance.app import run as run_director

    try:
        return run_director(config)
    except ConfigError as error:
        print_problems(error.problems)
        return Exit.CONFIG
