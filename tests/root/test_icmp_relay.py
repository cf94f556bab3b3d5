"""Downloads through a director, by way of a link too small for the members' packets: path MTU discovery with DSR."""

import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from ipaddress import ip_address

import pytest

from appliance.forwarding import ForwardingTables, NextHop, TableMember, TableService
from appliance.model import Delivery, DsrType, Encapsulation, HashMode, PortRange, Protocol
from tests.netns import Namespace, namespaces, until, veth
from tests.root.plane_rig import REPOSITORY, Plane, inside
from tests.unit.dataplane.frames import L2, cycle

pytestmark = pytest.mark.root

VIPS = {4: "198.51.100.7", 6: "2001:db8:f::7"}
CLIENT = {4: "192.0.2.2", 6: "2001:db8:1::2"}
MEMBER = {4: "203.0.113.18", 6: "2001:db8:3::2"}
DIRECTOR = {4: "203.0.113.17", 6: "2001:db8:3::1"}
MACS = {name: f"02:69:00:00:00:{number:02x}" for number, name in enumerate(("c0", "r0", "r1", "r2", "d0", "d1", "s0"))}
SIZE = 1_000_000
SMALL_MTU = 1400


@dataclass
class Network:
    """client c0 -- r0 router r1 -- d0 director d1 -- s0 member s1 -- r2 router: what the member sends goes past the
    director, and the router's packets to the client may have 1400 bytes."""

    client: Namespace
    router: Namespace
    director: Namespace
    member: Namespace


@pytest.fixture
def network() -> Iterator[Network]:
    with namespaces("c", "r", "d", "s", prefix="owi") as (client, router, director, member):
        veth(client, "c0", router, "r0")
        veth(router, "r1", director, "d0")
        veth(director, "d1", member, "s0")
        veth(member, "s1", router, "r2")
        for space, name, four, six in (
            (client, "c0", f"{CLIENT[4]}/24", f"{CLIENT[6]}/64"),
            (router, "r0", "192.0.2.1/24", "2001:db8:1::1/64"),
            (router, "r1", "203.0.113.1/28", "2001:db8:2::1/64"),
            (director, "d0", "203.0.113.2/28", "2001:db8:2::2/64"),
            (director, "d1", f"{DIRECTOR[4]}/28", f"{DIRECTOR[6]}/64"),
            (member, "s0", f"{MEMBER[4]}/28", f"{MEMBER[6]}/64"),
            (member, "s1", "203.0.113.33/28", "2001:db8:4::1/64"),
            (router, "r2", "203.0.113.34/28", "2001:db8:4::2/64"),
        ):
            if name in MACS:
                space.ip(f"link set {name} address {MACS[name]}")
            space.ip(f"addr add {four} dev {name}")
            space.ip(f"addr add {six} dev {name} nodad")
        # Only the router's end: the client does not know, and asks for segments of 1460 bytes.
        router.ip(f"link set r0 mtu {SMALL_MTU}")
        client.ip("route add default via 192.0.2.1")
        client.ip("-6 route add default via 2001:db8:1::1")
        router.ip(f"route add {VIPS[4]} via 203.0.113.2")
        router.ip(f"-6 route add {VIPS[6]} via 2001:db8:2::2")
        member.ip("route add default via 203.0.113.34")
        member.ip("-6 route add default via 2001:db8:4::2")
        member.ip(f"addr add {VIPS[4]}/32 dev lo")
        member.ip(f"addr add {VIPS[6]}/128 dev lo nodad")
        router.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
        # Without mtu_probing, TCP has no other means to find out what fits.
        member.sysctl(net__ipv4__conf__all__rp_filter=0, net__ipv4__conf__s0__rp_filter=0, net__ipv4__tcp_mtu_probing=0)
        yield Network(client, router, director, member)


def tables(network: Network, delivery: Delivery, family: int) -> ForwardingTables:
    """A service on both VIPs; its member is reached by L2, or within that version of IP."""
    hop = NextHop(
        ifindex=inside(network.director, lambda: socket.if_nametoindex("d1")),
        interface="d1",
        source_mac=bytes.fromhex(MACS["d1"].replace(":", "")),
        mac=bytes.fromhex(MACS["s0"].replace(":", "")),
        mtu=1500,
        source=ip_address(DIRECTOR[family]),
        direct=True,
    )
    member = TableMember(1, "web/m1", ip_address(MEMBER[family]), delivery, hop)
    services = tuple(
        TableService(
            number, "web", ip_address(vip), Protocol.TCP, (PortRange(80, 80),), HashMode.FIVE_TUPLE, cycle(1, 1)
        )
        for number, vip in enumerate(VIPS.values())
    )
    return ForwardingTables(bytes(range(16)), services, {1: member})


@contextmanager
def raw_plane(network: Network, delivery: Delivery = L2, family: int = 4) -> Iterator[Plane]:
    plane = Plane(network.director, "d0")
    try:
        plane.start()
        plane.set(tables(network, delivery, family))
        yield plane
    finally:
        plane.end()


@contextmanager
def decapsulation(space: Namespace) -> Iterator[None]:
    """What a member of L3 DSR runs."""
    sources = ("--from", f"{DIRECTOR[4]}/32", "--from", f"{DIRECTOR[6]}/128")
    vips = ("--vip", VIPS[4], "--vip", VIPS[6])
    with subprocess.Popen(
        space.command(sys.executable, "-m", "appliance", "decap", "run", "--interface", "s0", *sources, *vips),
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    ) as process:
        try:
            assert process.stdout is not None
            assert "decapsulating" in process.stdout.readline()
            yield
        finally:
            process.terminate()
            process.communicate(timeout=10)


@contextmanager
def downloads(space: Namespace, address: str) -> Iterator[None]:
    """A server in the namespace that sends SIZE bytes to whoever connects."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = inside(space, lambda: socket.create_server((address, 80), family=family))
    listener.settimeout(0.05)
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(10)
                try:
                    connection.sendall(b"onward  " * (SIZE // 8))
                except ConnectionError:
                    pass  # the client has lost patience

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        listener.close()


def download(space: Namespace, address: str, patience_s: float) -> int:
    """Bytes that arrived until the server's end of the connection, or until nothing came for so long."""

    def connect() -> socket.socket:
        return socket.create_connection((address, 80), timeout=patience_s)

    size = 0
    with inside(space, connect) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing resets
        try:
            while data := connection.recv(65536):
                size += len(data)
        except TimeoutError:
            pass
    return size


@pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize(
    ("delivery", "family"),
    [(L2, 4), *((Delivery(DsrType.L3, encapsulation), family) for encapsulation in Encapsulation for family in (4, 6))],
    ids=lambda value: f"over-ipv{value}" if isinstance(value, int) else str(value),
)
def test_download_through_a_smaller_link(network: Network, version: int, delivery: Delivery, family: int) -> None:
    """The router's "packet too big" reaches the member by the flow's own delivery, and the download gets through."""
    vip = VIPS[version]
    unpack: Callable[[Namespace], AbstractContextManager[None]] = nullcontext if delivery is L2 else decapsulation
    with raw_plane(network, delivery, family) as plane, unpack(network.member), downloads(network.member, vip):
        assert download(network.client, vip, 5.0) == SIZE
        six = "-6 " if version == 6 else ""
        assert f"mtu {SMALL_MTU}" in network.member.ip(f"{six}route get {CLIENT[version]} from {vip}")
        until(lambda: plane.counters().details["slow_path_frames"], "the error is seen on the slow path")
        counters = plane.counters()
    assert counters.services["web", vip].new_flows == 1
    assert counters.members["web/m1"].new_flows == 1
    assert not any(counters.reasons.values())


@pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
def test_without_errors_nothing_arrives(network: Network, version: int) -> None:
    """The control: when the router keeps its errors to itself, the same download hangs from its first full segment."""
    network.router.run(
        "nft",
        "add table inet silence; add chain inet silence out { type filter hook output priority 0; }; "
        f"add rule inet silence out ip daddr {VIPS[4]} meta l4proto icmp drop; "
        f"add rule inet silence out ip6 daddr {VIPS[6]} meta l4proto icmpv6 drop",
    )
    with raw_plane(network), downloads(network.member, VIPS[version]):
        assert download(network.client, VIPS[version], 1.5) == 0
