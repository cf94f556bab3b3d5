"""Questions to a lab that is up: what directors and routers say of themselves."""

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from appliance.lab.node import Node, Process, socket_in
from appliance.lab.runner import Lab
from containerlab.tour import captures

Status = dict[str, Any]

SETTLE_S = 0.5
"""More than any packet is under way in the lab."""


class _InNode(HTTPConnection):
    """HTTP to a node's own loopback, from outside."""

    def __init__(self, node: Node, port: int) -> None:
        super().__init__("127.0.0.1", port, timeout=3)
        self._node = node

    def connect(self) -> None:
        import socket

        self.sock = socket_in(self._node.netns_path, kind=socket.SOCK_STREAM)
        self.sock.settimeout(3)
        self.sock.connect((self.host, self.port))


def status(director: Node) -> Status | None:
    """A director's status document; None while it does not answer."""
    connection = _InNode(director, 8080)
    try:
        connection.request("GET", "/api/v1/status")
        document: Status = json.loads(connection.getresponse().read())
    except (OSError, ValueError):
        return None
    finally:
        connection.close()
    return document


def rotation(document: Status | None, member: str) -> set[bool]:
    """Whether a member (by name, in whatever pools; or as `pool/member`) is in rotation: {True}, {False}, or both."""
    if document is None:
        return set()
    return {
        entry["state"] == "in_rotation"
        for pool in document["pools"].values()
        for entry in pool["members"]
        if member in (entry["name"], entry["id"])
    }


def next_hops(router: Node, vip: str) -> set[str]:
    """Where the router's kernel really sends packets for a VIP: the gateways of its multipath route."""
    family = "-6" if ":" in vip else "-4"
    said = subprocess.run(
        ["ip", "-n", router.netns, family, "-j", "route", "show", vip], capture_output=True, text=True, check=False
    )
    routes = json.loads(said.stdout or "[]")
    hops = [hop for route in routes for hop in route.get("nexthops", [route])]
    return {hop["gateway"] for hop in hops if "gateway" in hop}


def until(condition: Callable[[], bool], deadline_s: float, tick: Callable[[], None] = lambda: None) -> float | None:
    """Seconds until *condition* held; None when it did not within the deadline."""
    start = time.monotonic()
    while time.monotonic() - start < deadline_s:
        if condition():
            return time.monotonic() - start
        tick()
        time.sleep(0.05)
    return None


class Captures:
    """tcpdump on interfaces of nodes; files end up in *folder*."""

    def __init__(self, lab: Lab, places: list[tuple[str, str]], folder: Path) -> None:
        self._running: list[Process] = []
        self._files: dict[tuple[str, str], Path] = {}
        for node, interface in places:
            file = folder / f"{node}-{interface}.pcap"
            # Immediate: what still sits in the kernel's buffer when tcpdump is ended would be missing. The snapshot
            # length is also the size of that buffer's slots: of tcpdump's own 256 kB there would be a handful.
            options = ["--immediate-mode", "-s", "2048", "-B", "32768", "-U", "-n", "-Z", "root", "-c", "400000"]
            command = ["tcpdump", "-i", interface, *options, "-w", str(file)]
            # Everything that can carry the VIPs' traffic, inside or outside of a tunnel; no ARP, no BGP.
            process = lab.node(node).popen([*command, "not port 179 and (tcp or udp or proto 4 or proto 41)"])
            self._running.append(process)
            self._files[node, interface] = file
        for process in self._running:
            _await_listening(process)

    def stop(self) -> "Seen":
        """End them all, and read what they saw.

        Only what was under way well before the end counts as received: the rest may be in one file and not in another.
        """
        end = time.time()
        time.sleep(SETTLE_S)
        for process in self._running:
            process.terminate()
        for process in self._running:
            process.communicate(timeout=10)
        return Seen({place: captures.read(path) for place, path in self._files.items()}, end)


@dataclass(frozen=True)
class Seen:
    """Packets by place, and the time until which every place has all of them."""

    packets: dict[tuple[str, str], list[captures.Packet]]
    end: float

    def sent(self, *places: tuple[str, str]) -> list[captures.Packet]:
        """All of these places."""
        return [packet for place in places for packet in self.packets[place]]

    def received(self, *places: tuple[str, str]) -> list[captures.Packet]:
        """What these places had seen when the end was called: its cause is in every capture before them."""
        return [packet for packet in self.sent(*places) if packet.time <= self.end]


def _await_listening(process: Process) -> None:
    """Frames before tcpdump says that it listens would be missing."""
    assert process.stderr is not None
    said = ""
    while line := process.stderr.readline():
        if "listening on" in line:
            return
        said += line
    raise RuntimeError(f"tcpdump did not start: {said.strip()}")
