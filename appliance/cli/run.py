"""`onward run`."""

import tomllib
from pathlib import Path

from appliance.cli.output import Exit, print_problems
from appliance.config.document import read_document
from appliance.config.problems import ConfigError
from appliance.model import PlaneKind, Role


def run(config: Path, /, *, plane: PlaneKind | None = None) -> int:
    """Run a director in the foreground, until SIGTERM or SIGINT; or a node, with role = "tier2" in [director].

    Parameters
    ----------
    config:
        The configuration file.
    plane:
        The data plane to use, whatever the file says: xdp (fast), raw (works anywhere), or auto, which is the first of
        them that works here.
    """
    if _role(config) == Role.TIER2:
        from appliance.cli.tier2 import run as run_node

        return run_node(config)
    from appliance.app import run as run_director
    from appliance.aside import leave

    try:
        code = run_director(config, plane)
        leave(code)
        return code
    except ConfigError as error:
        print_problems(error.problems)
        return Exit.CONFIG


def _role(config: Path) -> str:
    """As it stands there; what cannot be read is told by whoever reads all of it."""
    try:
        for part in read_document(config).parts:
            if role := tomllib.loads(part.text).get("director", {}).get("role"):
                return str(role)
    except (ConfigError, ValueError, AttributeError):
        pass
    return Role.DIRECTOR
