"""What an image stands for: the programs of a node, started from this machine's packages and our own environment."""

import re
from collections.abc import Callable
from pathlib import Path

from appliance.lab import topology
from appliance.lab.node import LabError, Node

FRR_FOLDERS = ("/usr/lib/frr", "/usr/libexec/frr")
FRR_ALWAYS = ("zebra", "mgmtd", "staticd")
"""These run in every FRR image, whatever its `daemons` file says; mgmtd came with FRR 9."""

Launcher = Callable[[Node, topology.Node, Path], None]
"""Starts the node's programs; gets the log file. Raises LabError."""


def _frr(node: Node, wanted: topology.Node, log: Path) -> None:
    """FRR the way its image starts it: the daemons of /etc/frr/daemons, then /etc/frr/frr.conf through vtysh."""
    folder = next((Path(place) for place in FRR_FOLDERS if Path(place, "zebra").exists()), None)
    if folder is None:
        raise LabError(f"{node.name}: FRR is not installed on this machine; apt-get install frr")
    daemons = node.run(["cat", "/etc/frr/daemons"], check=False).stdout
    # vtysh complains about its absence at every start.
    node.run(["sh", "-c", "install -d -o frr -g frr /run/frr /var/tmp/frr; test -e /etc/frr/vtysh.conf || : >/etc/frr/vtysh.conf"])
    asked = re.findall(r"^\s*(\w+)=[\"']?yes", daemons, re.MULTILINE)
    for daemon in dict.fromkeys((*FRR_ALWAYS, *asked)):
        if (folder / daemon).exists():
            node.start([folder / daemon, "-A", "127.0.0.1", "-P", "0", "--log", "stdout"], log)
        elif daemon in asked:
            raise LabError(f"{node.name}: /etc/frr/daemons asks for {daemon}, which is not in {folder}")
    _await_frr(node, [daemon for daemon in dict.fromkeys((*FRR_ALWAYS, *asked)) if (folder / daemon).exists()], log)
    if node.run(["test", "-e", "/etc/frr/frr.conf"], check=False).returncode == 0:
        result = node.run(["vtysh", "-b"], check=False)
        if result.returncode or "% " in result.stdout + result.stderr:
            raise LabError(f"{node.name}: /etc/frr/frr.conf: {(result.stdout + result.stderr).strip()}")


def _await_frr(node: Node, daemons: list[str], log: Path) -> None:
    """Until each has its socket: vtysh configures only those that listen, and says nothing about the others."""
    script = """
end=$(($(date +%s) + 15))
for daemon; do
	until [ -S "/run/frr/$daemon.vty" ]; do
		if [ "$(date +%s)" -ge $end ]; then echo "$daemon" >&2; exit 1; fi
		sleep 0.05
	done
done"""
    result = node.run(["sh", "-c", script, "sh", *daemons], check=False)
    if result.returncode:
        raise LabError(f"{node.name}: {result.stderr.strip()} did not start within 15 s; see {log}")


def _onward(node: Node, wanted: topology.Node, log: Path) -> None:
    """Our own image: its entry point is `onward`, its command `run /etc/onward/onward.toml`."""
    node.start([*(wanted.entrypoint or ("onward",)), *(wanted.cmd or ("run", "/etc/onward/onward.toml"))], log)


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
