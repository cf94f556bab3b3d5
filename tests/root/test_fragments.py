"""Datagrams in fragments through the data planes, to two members with real sockets: each has to arrive whole."""

import random
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest

from appliance.forwarding import ForwardingTables, NextHop, TableMember, TableService
from appliance.model import Delivery, DsrType, HashMode, IPAddress, PortRange, Protocol
from appliance.packet.checksum import checksum
from appliance.packet.forward import Ingress, PacketPath
from tests.netns import Namespace, namespaces, veth
from tests.root.plane_child import KINDS
from tests.root.plane_rig import MACS, Plane, Wire, inside, mac, receptive
from tests.root.test_planes import SECRET, VIP4, VIP6, vips_at
from tests.root.test_tunnels import GRE, GUE, IPIP, kernel_sockets
from tests.unit.dataplane.frames import L2, cycle

pytestmark = pytest.mark.root

SIZE = 8192
MTU = 1400
"""Of the client's way: what a tunnel adds still fits on the link."""
CLIENTS = 100
GROUP = 10
"""Clients whose fragments come at once, in any order. It has to be quicker than 2 ms from the first to the last."""
ADDRESS = {4: "203.0.113.2", 6: "2001:db8:2::2"}
VIPS = {4: VIP4, 6: VIP6}


@dataclass
class Site:
    client: Namespace
    members: tuple[Namespace, Namespace]
    near: Wire
    plane: Plane
    ways: tuple[tuple[int, str, str], ...]
    """To the members: ifindex, name and the name of the other end."""
    spoken: int = 0
    """Identifications that were used."""

    def tables(self, delivery: Delivery, outer: int, mode: HashMode = HashMode.FIVE_TUPLE) -> ForwardingTables:
        source = ip_address("203.0.113.1" if outer == 4 else "2001:db8:2::1")
        members = {
            index: TableMember(
                index,
                f"web/m{index}",
                ip_address(ADDRESS[outer]),
                delivery,
                NextHop(ifindex, name, mac(name), mac(end), 1500, source, direct=True),
            )
            for index, (ifindex, name, end) in enumerate(self.ways, 1)
        }
        slots, ports = cycle(*members), (PortRange(80, 80),)
        services = tuple(
            TableService(number, "web", vip, Protocol.UDP, ports, mode, slots)
            for number, vip in enumerate(VIPS.values())
        )
        return ForwardingTables(SECRET, services, members)


@contextmanager
def site(kind: str) -> Iterator[Site]:
    """client c0 -- d0 director d1 -- s0 first member; d2 -- t0 second member, with the same addresses as the first."""
    with namespaces("c", "d", "s", "t", prefix="owg") as (client, director, first, second), ExitStack() as stack:
        veth(client, "c0", director, "d0")
        veth(director, "d1", first, "s0")
        veth(director, "d2", second, "t0")
        ends = (client, "c0"), (director, "d0"), (director, "d1"), (director, "d2"), (first, "s0"), (second, "t0")
        for space, name in ends:
            space.ip(f"link set {name} address {MACS[name]}")
        client.ip("addr add 192.0.2.2/24 dev c0")
        client.ip("addr add 2001:db8:1::2/64 dev c0 nodad")
        client.ip(f"neigh add 192.0.2.1 lladdr {MACS['d0']} dev c0")
        client.ip(f"neigh add 2001:db8:1::1 lladdr {MACS['d0']} dev c0")
        client.ip(f"route add default via 192.0.2.1 mtu {MTU}")
        client.ip(f"-6 route add default via 2001:db8:1::1 mtu {MTU}")
        for space, name in ((first, "s0"), (second, "t0")):
            space.ip(f"addr add {ADDRESS[4]}/24 dev {name}")
            space.ip(f"addr add {ADDRESS[6]}/64 dev {name} nodad")
            space.ip("route add default dev lo")  # so that a source is not refused; nothing is sent back
            space.ip(f"-6 route add default dev {name}")
            space.sysctl(net__ipv4__conf__all__rp_filter=0, **{f"net__ipv4__conf__{name}__rp_filter": 0})
            stack.enter_context(vips_at(space))
        near = Wire(client, "c0")
        stack.callback(near.close)
        if kind == "xdp":
            for space, name in ((client, "c0"), (first, "s0"), (second, "t0")):
                stack.callback(receptive(space, name).close)
        plane = Plane(director, "d0", kind)
        stack.callback(plane.end)
        plane.start()
        ways = [
            (inside(director, lambda n=n: socket.if_nametoindex(n)), n, end) for n, end in (("d1", "s0"), ("d2", "t0"))
        ]
        yield Site(client, (first, second), near, plane, tuple(ways))


@pytest.fixture(scope="module", params=KINDS)
def bench(request: pytest.FixtureRequest) -> Iterator[Site]:
    with site(str(request.param)) as made:
        yield made


@dataclass
class Ear:
    """What a member's programs have got."""

    got: defaultdict[tuple[str, int], list[bytes]] = field(default_factory=lambda: defaultdict(list))
    """By the client's address and port."""


@contextmanager
def listening(members: Sequence[Namespace], version: int) -> Iterator[list[Ear]]:
    """A socket at the VIP in each of them."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6

    def make() -> socket.socket:
        made = socket.socket(family, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)  # SO_RCVBUFFORCE
        made.bind((str(VIPS[version]), 80))
        made.settimeout(0.05)
        return made

    ears, stop = [Ear() for _ in members], threading.Event()
    sockets = [inside(space, make) for space in members]

    def hear(ear: Ear, of: socket.socket) -> None:
        while not stop.is_set():
            try:
                data, address = of.recvfrom(65536)
            except TimeoutError:
                continue
            ear.got[address[0], address[1]].append(data)

    threads = [threading.Thread(target=hear, args=pair) for pair in zip(ears, sockets, strict=True)]
    for thread in threads:
        thread.start()
    try:
        yield ears
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for one in sockets:
            one.close()


def client(version: int, number: int) -> IPAddress:
    return ip_address(f"192.0.2.{100 + number}" if version == 4 else f"2001:db8:1:{number:x}::9")


def words(version: int, number: int) -> bytes:
    """What a client has to say: nobody else says any part of it."""
    return random.Random(version << 16 | number).randbytes(SIZE)


def datagram(version: int, source: IPAddress, port: int, payload: bytes) -> bytes:
    """UDP, with its checksum."""
    addresses = source.packed + VIPS[version].packed
    head = struct.pack("!HHH", port, 80, 8 + len(payload))
    pseudo = addresses + struct.pack("!II", 8 + len(payload), 17)
    return head + (checksum(pseudo + head + bytes(2) + payload) or 0xFFFF).to_bytes(2, "big") + payload


def fragments(version: int, source: IPAddress, port: int, payload: bytes, ident: int, size: int = MTU) -> list[bytes]:
    """The frames that a datagram comes in, the first one first."""
    whole, addresses = datagram(version, source, port, payload), source.packed + VIPS[version].packed
    step = (size - (20 if version == 4 else 48)) // 8 * 8
    frames = []
    for begin in range(0, len(whole), step):
        part, more = whole[begin : begin + step], begin + step < len(whole)
        if version == 4:
            head = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(part), ident & 0xFFFF, more << 13 | begin >> 3, 64, 17)
            packet = head + checksum(head + addresses).to_bytes(2, "big") + addresses + part
        else:
            head = struct.pack("!IHBB", 6 << 28, 8 + len(part), 44, 64)
            packet = head + addresses + struct.pack("!BBHI", 17, 0, begin | more, ident) + part
        frames.append(mac("d0") + mac("c0") + (b"\x08\x00" if version == 4 else b"\x86\xdd") + packet)
    return frames


def whole(version: int, source: IPAddress, port: int) -> bytes:
    """A small packet of the same flow."""
    if version == 4:
        return fragments(4, source, port, b"", 0)[0]
    segment = datagram(6, source, port, b"")
    head = struct.pack("!IHBB", 6 << 28, len(segment), 17, 64) + source.packed + VIP6.packed
    return mac("d0") + mac("c0") + b"\x86\xdd" + head + segment


def say(site: Site, version: int, order: str, numbers: Sequence[int]) -> None:
    """Send the datagrams of some clients."""
    rnd = random.Random(version)
    for begin in range(0, len(numbers), GROUP):
        burst: list[bytes] = []
        for number in numbers[begin : begin + GROUP]:
            site.spoken += 1
            frames = fragments(version, client(version, number), 40000 + number, words(version, number), site.spoken)
            burst += frames if order == "in-order" else frames[::-1]
        if order == "mixed":
            rnd.shuffle(burst)
        site.near.send(*burst, pause_every=1000)
        time.sleep(0.01)


@pytest.mark.parametrize("order", ["in-order", "reversed", "mixed"])
@pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("delivery", [L2, IPIP, GRE, GUE], ids=str)
def test_large_datagrams_arrive_whole(bench: Site, delivery: Delivery, version: int, order: str) -> None:
    """8 KiB from each of a hundred clients, one after the other and all mixed: each comes whole to the member of its
    flow, and nothing of it to the other one. What a busy machine has kept too long is said again, as clients do."""
    outer = version if delivery.dsr_type is DsrType.L3 else 4
    by = bench.tables(delivery, outer)
    bench.plane.set(by)
    before = bench.plane.counters()
    path, ingress = PacketPath(by), Ingress(0, mac("d0"), 1500)
    home = {n: path.forward(whole(version, client(version, n), 40000 + n), ingress).member for n in range(CLIENTS)}
    with ExitStack() as stack:
        if delivery.dsr_type is DsrType.L3:
            for space in bench.members:
                stack.enter_context(kernel_sockets(space, delivery, outer))
        ears = stack.enter_context(listening(bench.members, version))
        missing, rounds = list(range(CLIENTS)), 0
        while missing and rounds < 10:
            say(bench, version, order, missing)
            rounds += 1
            end = time.monotonic() + 0.5
            while missing and time.monotonic() < end:
                time.sleep(0.01)
                missing = [n for n in missing if (str(client(version, n)), 40000 + n) not in ears[home[n] - 1].got]
    assert not missing
    assert set(home.values()) == {1, 2}
    for index, ear in enumerate(ears, 1):
        at_home = {(str(client(version, n)), 40000 + n): words(version, n) for n in range(CLIENTS) if home[n] == index}
        assert ear.got.keys() == at_home.keys()
        assert all(set(said) == {at_home[who]} for who, said in ear.got.items())
    grown = {
        name: count - before.details.get(name, 0)
        for name, count in bench.plane.counters().details.items()
        if name.startswith("fragments")
    }
    assert grown["fragments_remembered"] >= CLIENTS
    assert (grown["fragments_held"] == 0) == (order == "in-order")
    print(f"{rounds} rounds")


@pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
def test_the_kernels_own_fragments(bench: Site, version: int) -> None:
    """What a client's kernel makes of large datagrams arrives whole, where small ones of the same sockets do. These may
    overtake it: they do not take the slow path."""
    bench.plane.set(bench.tables(L2, 4))
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    senders = [inside(bench.client, lambda: socket.socket(family, socket.SOCK_DGRAM)) for _ in range(20)]
    with listening(bench.members, version) as ears:
        for number, sender in enumerate(senders):
            sender.connect((str(VIPS[version]), 80))
            for data in (b"small", words(version, number), b"small again"):
                sender.send(data)
        time.sleep(0.5)
    ports = [sender.getsockname()[1] for sender in senders]
    for sender in senders:
        sender.close()
    heard = [{who[1]: said for who, said in ear.got.items()} for ear in ears]
    assert not heard[0].keys() & heard[1].keys()
    assert all(heard)
    for number, port in enumerate(ports):
        said = sorted((heard[0] | heard[1])[port], key=len)
        assert said == [b"small", b"small again", words(version, number)]


@pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
def test_orphans_are_dropped_by_name(bench: Site, version: int) -> None:
    """Later fragments whose first never comes are dropped after a moment, and nothing of them is sent."""
    bench.plane.set(bench.tables(L2, 4))
    before = bench.plane.counters().reasons.get("fragment", 0)
    with listening(bench.members, version) as ears:
        orphans = fragments(version, client(version, 1), 40001, words(version, 1), 99_999)[1:]
        bench.near.send(*orphans)
        time.sleep(0.3)
        assert not ears[0].got
        assert not ears[1].got
    assert bench.plane.counters().reasons["fragment"] - before == len(orphans)
