"""What an image stands for: the programs of a node, started from this machine's packages and our own environment."""

import re
import time
from collections.abc import Callable
from pathlib import Path

from appliance.lab import topology
from appliance.lab.node import LabError, Node, tail

FRR_FOLDERS = ("/usr/lib/frr", "/usr/libexec/frr")
FRR_ALWAYS = ("zebra", "mgmtd", "staticd")
"""These run in every FRR image, whatever its `daemons` file says; mgmtd came with FRR 9."""

_AWAIT_SOCKETS = """
end=$(($(date +%s) + 15))
for socket; do
	until [ -S "$socket" ]; do
		[ "$(date +%s)" -lt $end ] || exit 1
		sleep 0.02
	done
done"""

PRIORITY = ("nice", "-n", "-10")
"""In front of a director's command: what systemd/units/onward.service gives it. News between directors must not wait
for clients, servers and routers that share the machine with them here."""

Launcher = Callable[[Node, topology.Node, Path], None]
"""Starts the node's programs; gets the log file. Raises LabError."""


_LOCKED, _UNLOCKED_S = "locked by another session", 15.0
"""What vtysh says when FRR's mgmtd (10 and later) still reads for its other daemons, and how long that may take. To
give it the file once more does no harm."""


def _frr(node: Node, wanted: topology.Node, log: Path) -> None:
    """FRR the way its image starts it: the daemons of /etc/frr/daemons, then /etc/frr/frr.conf through vtysh."""
    folder = next((Path(place) for place in FRR_FOLDERS if Path(place, "zebra").exists()), None)
    if folder is None:
        raise LabError(f"{node.name}: FRR is not installed on this machine; apt-get install frr")
    daemons = node.run(["cat", "/etc/frr/daemons"], check=False).stdout
    node.run(["install", "-d", "-o", "frr", "-g", "frr", "/run/frr", "/var/tmp/frr"])  # noqa: S108 - private to the node
    # vtysh complains about its absence at every start.
    node.run(["sh", "-c", "test -e /etc/frr/vtysh.conf || : >/etc/frr/vtysh.conf"])
    asked = re.findall(r"^\s*(\w+)=[\"']?yes", daemons, re.MULTILINE)
    for daemon in dict.fromkeys((*FRR_ALWAYS, *asked)):
        if not (folder / daemon).exists():
            if daemon in asked:
                raise LabError(f"{node.name}: /etc/frr/daemons asks for {daemon}, which is not in {folder}")
            continue
        node.start([folder / daemon, "-A", "127.0.0.1", "-P", "0", "--log", "stdout"], log)
        # vtysh says nothing about daemons that do not listen yet; one that finds no zebra tries again after 10 s only.
        sockets = [f"/run/frr/{daemon}.vty", *(["/run/frr/zserv.api"] if daemon == "zebra" else [])]
        result = node.run(["sh", "-c", _AWAIT_SOCKETS, "sh", *sockets], check=False)
        if result.returncode:
            raise LabError(f"{node.name}: {daemon} did not start within 15 s; it said: {tail(log)}")
    if node.run(["test", "-e", "/etc/frr/frr.conf"], check=False).returncode == 0:
        deadline = time.monotonic() + _UNLOCKED_S
        result = node.run(["vtysh", "-b"], check=False)
        while _LOCKED in result.stdout + result.stderr and time.monotonic() < deadline:
            time.sleep(0.2)
            result = node.run(["vtysh", "-b"], check=False)
        if result.returncode or "% " in result.stdout + result.stderr:
            raise LabError(f"{node.name}: /etc/frr/frr.conf: {(result.stdout + result.stderr).strip()}")


def _onward(node: Node, wanted: topology.Node, log: Path) -> None:
    """Our own image: its entry point is `onward`, its command `run /etc/onward/onward.toml`."""
    # As with every image, another entry point comes without the image's own command.
    default = () if wanted.entrypoint else ("run", "/etc/onward/onward.toml")
    node.start([*PRIORITY, *(wanted.entrypoint or ("onward",)), *(wanted.cmd or default)], log)


def _bare(node: Node, wanted: topology.Node, log: Path) -> None:
    """Any other image is only its command, which must be a program of this machine."""
    command = (*wanted.entrypoint, *wanted.cmd)
    if command:
        node.start(command, log)


LAUNCHERS: dict[str, Launcher] = {"frr": _frr, "onward": _onward}
"""By the last part of an image's name, without registry and tag."""


def launcher(image: str) -> Launcher:
    """Of an image's name: `quay.io/frrouting/frr:10.2.1` is `frr`."""
    name = image.partition("@")[0].rpartition("/")[2].partition(":")[0]
    return LAUNCHERS.get(name, _bare)
