"""The quickstart topology's names and addresses, and what its captures must prove."""

import json
import os
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

from appliance.lab.launchers import PRIORITY
from appliance.lab.node import Node
from appliance.lab.runner import Lab
from containerlab.tour import captures
from containerlab.tour.captures import Claim
from containerlab.tour.lab import Seen

TOPOLOGY = Path(__file__).resolve().parent.parent / "quickstart.clab.yml"

VIPS = {"198.51.100.10": "L3", "2001:db8:f::10": "L3", "198.51.100.20": "L2", "2001:db8:f::20": "L2"}
DIRECTORS = {"d1": ("203.0.113.11", "2001:db8:2::11"), "d2": ("203.0.113.12", "2001:db8:2::12")}
MEMBERS = {
    "m1": ("203.0.113.131", "2001:db8:11::11"),
    "m2": ("203.0.113.147", "2001:db8:12::11"),
    "m3": ("203.0.113.23", "2001:db8:2::23"),
    "m4": ("203.0.113.24", "2001:db8:2::24"),
}
SERVES = {"L3": ("m1", "m2"), "L2": ("m3", "m4")}

CLIENT = ("client", "eth1")
AT_DIRECTORS = [(name, "eth1") for name in DIRECTORS]
AT_MEMBERS = [(name, "eth1") for name in MEMBERS]
WIRES = {"L3": [("r2", "eth2"), ("r2", "eth3")], "L2": [("m3", "eth1"), ("m4", "eth1")]}
"""Where frames for members are seen as a director made them. A tap on a member that decapsulates by XDP would sit
behind that, and behind GRO, which puts segments together."""

PLACES = [CLIENT, *AT_DIRECTORS, *AT_MEMBERS, *WIRES["L3"]]

RESPONDER = ("onward", "lab", "responder")
RUN = ("onward", "run", "/etc/onward/onward.toml")


def url(vip: str, scheme: str = "http", port: int = 80) -> str:
    return f"{scheme}://[{vip}]:{port}" if ":" in vip else f"{scheme}://{vip}:{port}"


def kill(node: Node, program: tuple[str, ...], number: int) -> None:
    """Send a signal to the node's program.

    Raises:
        LookupError: it does not run.
    """
    wanted = " ".join(program[1:]) if program[0] == "onward" else " ".join(program)
    hit = [pid for pid, command in node.holder.processes() if command.endswith(wanted) or wanted in command]
    if not hit:
        raise LookupError(f"{node.name}: {' '.join(program)} does not run")
    for pid in hit:
        os.kill(pid, number)


def start(lab: Lab, name: str, program: tuple[str, ...]) -> None:
    """Start a node's program again, as the topology did."""
    lab.node(name).start([*(PRIORITY if program == RUN else ()), *program], lab.log(name))


def proofs(lab: Lab, seen: Seen) -> Iterator[Claim]:
    """Everything that must hold of traffic through all VIPs."""
    directors = {ip_address(text) for pair in DIRECTORS.values() for text in pair}
    members = {ip_address(text) for pair in MEMBERS.values() for text in pair}
    macs = {name: _mac(lab.node(name)) for name in (*DIRECTORS, *MEMBERS)}
    client = seen.sent(CLIENT)
    for text, delivery in VIPS.items():
        vip = ip_address(text)
        # Directors ask members the same way, from addresses of their own: that is no client's traffic.
        wire = [packet for packet in seen.received(*WIRES[delivery]) if packet.source not in directors]
        if delivery == "L3":
            yield captures.encapsulated(wire, vip, directors, members)
        else:
            yield captures.rewritten(
                wire, vip, {macs[name] for name in DIRECTORS}, {macs[name] for name in SERVES[delivery]}
            )
        yield captures.unchanged(client, wire, vip)
        passed = [packet for packet in seen.sent(*AT_DIRECTORS) if packet.destination not in directors]
        yield captures.direct_return(seen.received(CLIENT), seen.sent(*AT_MEMBERS), passed, vip)


def _mac(node: Node) -> str:
    return str(json.loads(node.run(["ip", "-j", "link", "show", "eth1"]).stdout)[0]["address"])
