"""A director with a pool of a hundred members, and members that can be killed by the dozen under live traffic.

    client c0 ---- d0 director d1 ---- r0 router r1 ---- s0 members

All members are one namespace that answers for a hundred addresses and takes packets out of IP in IP. The router kills:
a member is *silent* when nothing for its address gets through, and *refuses* when connections to its own address are
reset besides. What the router lets through to whom is recorded, packet by packet, with the time.
"""

import json
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from tests.netns import Namespace, namespaces, until, veth
from tests.root.plane_rig import REPOSITORY, inside

MEMBERS = 100
FIRST = IPv4Address("203.0.113.101")
VIP, PORT = "198.51.100.7", 5000
SERVICE_PORT = 80
"""Of members' own addresses: what the direct monitor asks."""

FALL = 2
_SO_TIMESTAMPNS = 35

CONFIGURATION = """
schema_version = 1

[director]
name = "d1"
interfaces = ["d0"]
plane = "{plane}"
runtime_dir = "{folder}/run"

[fleet]
secret_file = "fleet.key"

[[health_monitor]]
name = "alive"
{monitor}
send_interval = {interval}
receive_timeout = {limit}
failed_checks = {fall}

[[network_profile]]
name = "udp"
type = "udp_fast_path"
session_idle_timeout = 60
dsr = {{ type = "l3", encapsulation = "ipip" }}

[[pool]]
name = "many"
health_monitors = ["alive"]
{of_pool}
{members}
[[virtual_service]]
name = "many"
vips = ["{vip}"]
ports = [{port}]
network_profile = "udp"
pool = "many"
"""

MONITORS = {
    "refuses": f'type = "tcp"\nvantage = "direct"\nmonitor_port = {SERVICE_PORT}',
    "silent": 'type = "udp"\nvantage = "path"\nrequest = "?"\nresponse = "?"',
    "says so": f'type = "http"\nvantage = "direct"\nmonitor_port = {SERVICE_PORT}\nmaintenance_codes = [503]',
}
"""How members are asked, by what a dead one does, or one that is worked on."""


def address(member: int) -> str:
    return str(FIRST + member)


@dataclass(frozen=True)
class Seen:
    """A packet that got through to a member."""

    at: float
    """Seconds since 1970."""
    member: int
    flow: int
    """The client's port."""
    number: int
    """Of the packet in its flow."""


@dataclass
class Traffic:
    """What was sent, and what arrived."""

    sent: dict[int, int] = field(default_factory=dict)
    """Packets so far by the client's port."""
    seen: list[Seen] = field(default_factory=list)


@dataclass
class Many:
    """All that runs."""

    client: Namespace
    director: Namespace
    router: Namespace
    members: Namespace
    log: Path
    worked_on: Path
    traffic: Traffic = field(default_factory=Traffic)

    def kill(self, members: Sequence[int]) -> float:
        """All at once; returns when that was, in seconds since 1970."""
        elements = ", ".join(map(address, members))
        now = time.time()
        self.router.run("nft", f"add element inet many dead {{ {elements} }}")
        return now

    def work_on(self, members: Sequence[int]) -> None:
        """These answer that they are worked on, and nobody else does."""
        self.worked_on.write_text("\n".join(map(address, members)))

    def revive(self) -> None:
        self.router.run("nft", "flush set inet many dead")

    def by_slow_path(self) -> int:
        """Packets so far that an XDP program has left to the slow path, since it cannot send by their interface."""
        text = inside(self.director, lambda: urlopen("http://127.0.0.1:8080/metrics", timeout=10).read().decode())
        found = re.search(r'^onward_plane_events_total{event="xdp_slow_egress"} (\S+)$', text, re.MULTILINE)
        return int(float(found[1])) if found else 0

    def events(self) -> list[dict[str, Any]]:
        """What the director has logged, with times in seconds since 1970."""
        found = []
        for line in self.log.read_text().splitlines():
            if line.startswith("{") and line.endswith("}"):
                event = json.loads(line)
                event["at"] = datetime.fromisoformat(event["timestamp"]).timestamp()
                found.append(event)
        return found

    def turned(self, name: str, since: float) -> dict[int, dict[str, Any]]:
        """The first event of that name of each member since then."""
        found: dict[int, dict[str, Any]] = {}
        for event in self.events():
            if event["event"] == name and event["at"] >= since:
                found.setdefault(int(event["member"].removeprefix("many/m")), event)
        return found

    @contextmanager
    def flows(self, count: int, per_s: float) -> Iterator[Traffic]:
        """Numbered datagrams of so many flows, each so often."""
        over = threading.Event()
        tap = inside(self.router, lambda: _tap("r1"))

        def sender() -> None:
            sockets = []
            for _ in range(count):
                made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                made.connect((VIP, PORT))
                sockets.append((made, made.getsockname()[1]))
            due, step = time.monotonic(), 1 / (count * per_s)
            while not over.is_set():
                for made, port in sockets:
                    number = self.traffic.sent.get(port, 0)
                    made.send(struct.pack("!I", number))
                    self.traffic.sent[port] = number + 1
                    due += step
                    if (pause := due - time.monotonic()) > 0.001:
                        time.sleep(pause)
                    elif pause < -0.1:
                        due = time.monotonic()  # a busy machine: later, not faster
                    if over.is_set():
                        break
            for made, _ in sockets:
                made.close()

        def sniffer() -> None:
            quiet_since = None
            while quiet_since is None or time.monotonic() - quiet_since < 1.0:
                try:
                    frame, ancillary, _, source = tap.recvmsg(2048, 64)
                except TimeoutError:
                    if over.is_set() and quiet_since is None:
                        quiet_since = time.monotonic()
                    continue
                if over.is_set() and quiet_since is None:
                    quiet_since = time.monotonic()
                if source[2] == socket.PACKET_OUTGOING and frame[14 + 9] == socket.IPPROTO_IPIP:
                    self._note(frame[14:], ancillary)

        self.traffic = Traffic()
        threads = [
            threading.Thread(target=lambda: inside(self.client, sender)),
            threading.Thread(target=sniffer),
        ]
        for thread in threads:
            thread.start()
        try:
            yield self.traffic
        finally:
            over.set()
            for thread in threads:
                thread.join()
            tap.close()

    def _note(self, packet: bytes, ancillary: list[tuple[int, int, bytes]]) -> None:
        inner = packet[20:]
        if inner[9] != socket.IPPROTO_UDP or struct.unpack_from("!H", inner, 22)[0] != PORT or len(inner) != 32:
            return
        seconds, nanoseconds = struct.unpack("qq", ancillary[0][2])
        member = int(IPv4Address(packet[16:20])) - int(FIRST)
        flow, number = struct.unpack_from("!H", inner, 20)[0], struct.unpack_from("!I", inner, 28)[0]
        self.traffic.seen.append(Seen(seconds + nanoseconds * 1e-9, member, flow, number))


def _tap(interface: str) -> socket.socket:
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    tap.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
    tap.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    tap.bind((interface, 3))
    tap.settimeout(0.2)
    return tap


@contextmanager
def many(
    plane: str,
    dead_ones: str,
    folder: Path,
    *,
    interval_s: float,
    limit_s: float,
    of_pool: str = "",
    takes_frames: bool = True,
) -> Iterator[Many]:
    """The director runs, and all members are in rotation.

    Args:
        plane: raw or xdp.
        dead_ones: one of MONITORS.
        folder: for files.
        interval_s: how often members are asked.
        limit_s: how long an answer may take.
        of_pool: further settings of the pool.
        takes_frames: whether the router takes frames of XDP programs; otherwise they take the slow path.
    """
    members = "".join(
        f'[[pool.member]]\nname = "m{number}"\naddress = "{address(number)}"\n' for number in range(MEMBERS)
    )
    (folder / "onward.toml").write_text(
        CONFIGURATION.format(
            plane=plane, folder=folder, monitor=MONITORS[dead_ones], members=members, vip=VIP, port=PORT,
            of_pool=of_pool, interval=interval_s, limit=limit_s, fall=FALL,
        )
    )  # fmt: skip
    (folder / "fleet.key").write_text("0123456789abcdef")
    with namespaces("c", "d", "r", "s", prefix="owmany") as (client, director, router, space), ExitStack() as stack:
        made = Many(client, director, router, space, folder / "director.log", folder / "worked_on")
        _wire(made, takes_frames=takes_frames)

        def start(where: Namespace, log: Path, *words: str) -> None:
            with log.open("ab") as output:
                process = subprocess.Popen(
                    where.command(sys.executable, *words), cwd=REPOSITORY, stdout=output, stderr=output
                )

            def end() -> None:
                process.terminate()
                process.wait(20)

            stack.callback(end)

        made.work_on([])
        start(space, folder / "members.log", "-c", SERVERS, str(made.worked_on))
        outer = [word for number in range(MEMBERS) for word in ("--address", address(number))]
        decap = ["decap", "run", "--interface", "s0", "--from", "192.0.2.0/24", "--vip", VIP, *outer]
        start(space, folder / "decap.log", "-m", "appliance", *decap)
        until(lambda: "decapsulating" in (folder / "decap.log").read_text(), "members decapsulate", 20)
        start(director, made.log, "-m", "appliance", "run", str(folder / "onward.toml"))
        until(lambda: len(made.turned("member.in_rotation", 0.0)) == MEMBERS, "all members are in rotation", 60)
        yield made


SERVERS = f"""
import socket, sys, threading
tcp = socket.create_server(("", {SERVICE_PORT}), backlog=256)
def accept():
    while True:
        connection, _ = tcp.accept()
        with connection:
            try:
                if connection.recv(1000):
                    worked_on = connection.getsockname()[0] in open(sys.argv[1]).read().split()
                    status = b"503 Service Unavailable" if worked_on else b"200 OK"
                    connection.sendall(b"HTTP/1.1 " + status + b"\\r\\nContent-Length: 0\\r\\n\\r\\n")
            except OSError:
                pass
threading.Thread(target=accept, daemon=True).start()
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("{VIP}", {PORT}))
while True:
    data, peer = udp.recvfrom(100)
    if data == b"?":
        udp.sendto(data, peer)
"""
"""What all members serve. Clients' datagrams get no answer: it would be none of the director's business."""


def _wire(made: Many, *, takes_frames: bool) -> None:
    veth(made.client, "c0", made.director, "d0")
    veth(made.director, "d1", made.router, "r0")
    veth(made.router, "r1", made.members, "s0")
    for space, name, text in (
        (made.client, "c0", "198.18.0.2/24"),
        (made.director, "d0", "198.18.0.1/24"),
        (made.director, "d1", "192.0.2.1/24"),
        (made.router, "r0", "192.0.2.2/24"),
        (made.router, "r1", "203.0.113.1/24"),
        (made.members, "s0", "203.0.113.2/24"),
    ):
        space.ip(f"addr add {text} dev {name}")
    made.members.run("sh", "-c", "ip -batch - <<END\n" + "".join(
        f"addr add {address(number)}/24 dev s0\n" for number in range(MEMBERS)
    ) + "END\n")  # fmt: skip
    made.members.ip(f"addr add {VIP}/32 dev lo")
    for space, gateway in ((made.client, "198.18.0.1"), (made.director, "192.0.2.2"), (made.members, "203.0.113.1")):
        space.ip(f"route add default via {gateway}")
    made.router.ip("route add 198.18.0.0/24 via 192.0.2.1")
    made.router.sysctl(net__ipv4__ip_forward=1, net__ipv4__conf__all__rp_filter=0)
    made.members.sysctl(net__ipv4__conf__all__rp_filter=0, net__ipv4__conf__s0__rp_filter=0)
    # The other ends of cables that XDP programs send by take their frames.
    for space, name in ((made.client, "c0"), (made.router, "r1"), *(((made.router, "r0"),) if takes_frames else ())):
        space.run("ethtool", "-K", name, "gro", "on")
    made.router.run(
        "nft",
        "table inet many { set dead { type ipv4_addr; }; chain pass { type filter hook forward priority 0; "
        f"ip daddr @dead tcp dport {SERVICE_PORT} reject with tcp reset; ip daddr @dead drop; }}; }}",
    )


def lost(traffic: Traffic, alive: Sequence[int]) -> tuple[int, int]:
    """Of flows whose first packet went to one of these members: how many packets should have arrived and did not arrive
    exactly once and there; and how many there were."""
    owner: dict[int, int] = {}
    got: dict[int, list[int]] = {}
    elsewhere = 0
    for one in traffic.seen:
        if owner.setdefault(one.flow, one.member) != one.member and owner[one.flow] in alive:
            elsewhere += 1
        got.setdefault(one.flow, []).append(one.number)
    mine = [flow for flow, member in owner.items() if member in alive]
    missing = sum(
        len(set(range(min(got[flow]), traffic.sent[flow])) - set(got[flow])) + len(got[flow]) - len(set(got[flow]))
        for flow in mine
    )
    return missing + elsewhere, sum(len(got[flow]) for flow in mine)
