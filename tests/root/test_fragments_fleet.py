"""Datagrams in fragments behind a router that has two directors to choose from, by Linux's own ECMP."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import count

import pytest

from appliance.forwarding import ForwardingTables, NextHop, TableMember, TableService
from appliance.model import HashMode, PortRange, Protocol
from tests.netns import Namespace, namespaces, veth
from tests.root.plane_rig import Plane, Wire, inside
from tests.root.test_fragments import VIPS, client, fragments, listening, whole, words
from tests.root.test_planes import SECRET, vips_at
from tests.unit.dataplane.frames import L2, cycle

pytestmark = pytest.mark.root

CLIENTS = 60
IDENTS = count()


def mac_of(name: str) -> str:
    """Of an interface: another one for each name."""
    return f"02:72:00:00:{ord(name[0]):02x}:{ord(name[1]):02x}"


def raw(name: str) -> bytes:
    return bytes.fromhex(mac_of(name).replace(":", ""))


@dataclass
class Fleet:
    router: Namespace
    directors: tuple[Namespace, Namespace]
    members: tuple[Namespace, Namespace]
    near: Wire
    planes: tuple[Plane, Plane]

    def hash_by(self, mode: HashMode) -> None:
        for plane, space, director, ends in zip(
            self.planes, self.directors, "ab", (("s1", "t1"), ("s2", "t2")), strict=True
        ):
            plane.set(tables(space, director, ends, mode))


@contextmanager
def fleet() -> Iterator[Fleet]:
    """client c0 -- r0 router r1, r2 -- a0, b0 directors a1, a2, b1, b2 -- s1, t1, s2, t2 two members."""
    with namespaces("c", "r", "a", "b", "s", "t", prefix="owh") as spaces, ExitStack() as stack:
        of = dict(zip("crabst", spaces, strict=True))
        for one, other in (
            ("c0", "r0"),
            ("r1", "a0"),
            ("r2", "b0"),
            ("a1", "s1"),
            ("a2", "t1"),
            ("b1", "s2"),
            ("b2", "t2"),
        ):
            veth(of[one[0]], one, of[other[0]], other)
            for name in (one, other):
                of[name[0]].ip(f"link set {name} address {mac_of(name)}")
        router = of["r"]
        router.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1, net__ipv4__conf__all__rp_filter=0)
        for number in (0, 1, 2):
            router.ip(f"addr add 192.0.2.{32 * number + 1}/27 dev r{number}")
            router.ip(f"addr add 2001:db8:{number}::1/64 dev r{number} nodad")
            router.sysctl(**{f"net__ipv4__conf__r{number}__rp_filter": 0})
        for number, director in ((1, "a0"), (2, "b0")):
            router.ip(f"neigh add 192.0.2.{32 * number + 2} lladdr {mac_of(director)} dev r{number}")
            router.ip(f"neigh add 2001:db8:{number}::2 lladdr {mac_of(director)} dev r{number}")
        hops4 = " ".join(f"nexthop via 192.0.2.{32 * number + 2} dev r{number}" for number in (1, 2))
        hops6 = " ".join(f"nexthop via 2001:db8:{number}::2 dev r{number}" for number in (1, 2))
        router.ip(f"route add {VIPS[4]}/32 {hops4}")
        router.ip(f"-6 route add {VIPS[6]}/128 {hops6}")
        for name in "st":
            of[name].sysctl(net__ipv4__conf__all__rp_filter=0)
            for interface in (f"{name}1", f"{name}2"):
                of[name].sysctl(**{f"net__ipv4__conf__{interface}__rp_filter": 0})
            of[name].ip(f"addr add 203.0.113.2/24 dev {name}1")
            of[name].ip(f"addr add 2001:db8:2::2/64 dev {name}1 nodad")
            of[name].ip(f"route add default dev {name}1")
            of[name].ip(f"-6 route add default dev {name}1")
            stack.enter_context(vips_at(of[name]))
        near = Wire(of["c"], "c0")
        stack.callback(near.close)
        planes = []
        for director in "ab":
            plane = Plane(of[director], f"{director}0")
            stack.callback(plane.end)
            plane.start()
            planes.append(plane)
        yield Fleet(router, (of["a"], of["b"]), (of["s"], of["t"]), near, (planes[0], planes[1]))


def tables(space: Namespace, director: str, ends: tuple[str, str], mode: HashMode) -> ForwardingTables:
    """The same on both directors but for their interfaces."""
    members = {}
    for index, end in enumerate(ends, 1):
        name = f"{director}{index}"
        ifindex = inside(space, lambda name=name: socket.if_nametoindex(name))
        hop = NextHop(ifindex, name, raw(name), raw(end), 1500, ip_address("203.0.113.1"), direct=True)
        members[index] = TableMember(index, f"web/m{index}", ip_address("203.0.113.2"), L2, hop)
    slots = cycle(1, 2)
    services = tuple(
        TableService(number, "web", vip, Protocol.UDP, (PortRange(80, 80),), mode, slots)
        for number, vip in enumerate(VIPS.values())
    )
    return ForwardingTables(SECRET, services, members)


@pytest.fixture(scope="module")
def bench() -> Iterator[Fleet]:
    with fleet() as made:
        yield made


def towards_router(frames: list[bytes]) -> list[bytes]:
    return [raw("r0") + raw("c0") + frame[12:] for frame in frames]


@contextmanager
def split(router: Namespace) -> Iterator[None]:
    """First fragments go one way, later ones the other: what routers do that look for ports where there are any."""
    router.run("nft", "add table ip split; add chain ip split in { type filter hook prerouting priority mangle; }")
    router.run("nft", "add rule ip split in ip frag-off & 0x3fff == 0x2000 meta mark set 1")
    router.run("nft", "add rule ip split in ip frag-off & 0x1fff != 0 meta mark set 2")
    for number in (1, 2):
        router.ip(f"route add {VIPS[4]}/32 via 192.0.2.{32 * number + 2} dev r{number} table {100 + number}")
        router.ip(f"rule add fwmark {number} table {100 + number}")
    try:
        yield
    finally:
        router.run("nft", "delete table ip split")
        for number in (1, 2):
            router.ip(f"rule del fwmark {number} table {100 + number}")
            router.ip(f"route flush table {100 + number}")


@pytest.mark.parametrize("mode", [HashMode.FIVE_TUPLE, HashMode.SOURCE_IP], ids=str)
def test_a_router_that_splits_datagrams(bench: Fleet, mode: HashMode) -> None:
    """Where the ports are needed, nothing arrives, and the reason is counted on the director that does not see them; by
    the source address alone, all of it arrives."""
    bench.hash_by(mode)
    before = bench.planes[1].counters().reasons.get("fragment", 0)
    with split(bench.router), listening(bench.members, 4) as ears:
        for number in range(10):
            frames = fragments(4, client(4, number), 40000 + number, words(4, number), next(IDENTS))
            bench.near.send(*towards_router(frames))
        time.sleep(0.5)
    said = sorted(data for ear in ears for got in ear.got.values() for data in got)
    dropped = bench.planes[1].counters().reasons.get("fragment", 0) - before
    if mode is HashMode.SOURCE_IP:
        assert said == sorted(words(4, number) for number in range(10))
        assert dropped == 0
    else:
        assert said == []
        assert dropped == 10 * (len(frames) - 1)


@pytest.mark.parametrize("order", [1, -1], ids=["in-order", "reversed"])
@pytest.mark.parametrize("policy", [0, 1], ids=["by-addresses", "by-ports"])
@pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
def test_fragments_of_a_datagram_come_by_one_director(bench: Fleet, version: int, policy: int, order: int) -> None:
    """Whatever Linux hashes, large datagrams arrive whole, at the members that have the small ones of their flows;
    both directors have had some of each."""
    bench.router.sysctl(net__ipv4__fib_multipath_hash_policy=policy, net__ipv6__fib_multipath_hash_policy=policy)
    bench.hash_by(HashMode.FIVE_TUPLE)
    before = [plane.counters() for plane in bench.planes]

    def is_missing(number: int) -> bool:
        who = str(client(version, number)), 40000 + number
        return not any(words(version, number) in ear.got.get(who, ()) for ear in ears)

    numbers = list(range(CLIENTS))
    with listening(bench.members, version) as ears:
        for number in numbers:
            bench.near.send(*towards_router([whole(version, client(version, number), 40000 + number)]))
        missing, rounds = numbers, 0
        while missing and rounds < 10:
            rounds += 1
            for number in missing:
                data = words(version, number)
                frames = fragments(version, client(version, number), 40000 + number, data, next(IDENTS))
                bench.near.send(*towards_router(frames)[::order])
                time.sleep(0.002)
            time.sleep(0.3)
            missing = list(filter(is_missing, numbers))
    assert not missing
    assert not ears[0].got.keys() & ears[1].got.keys()
    assert all(ear.got for ear in ears)
    for said in (said for ear in ears for said in ear.got.values()):
        assert b"" in said
        assert len(set(said)) == 2
    for plane, old in zip(bench.planes, before, strict=True):
        counters = plane.counters()
        large = counters.details["fragments_remembered"] - old.details["fragments_remembered"]
        assert large > 0
        assert (counters.details["fragments_held"] > old.details["fragments_held"]) == (order < 0)
