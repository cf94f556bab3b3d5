"""Real connections through both data planes and every tunnel, to members that take packets out of it."""

import fcntl
import os
import select
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from appliance.model import Delivery, DfPolicy, DsrType, Encapsulation, IPAddress, OuterSource, Protocol
from appliance.packet.action import Reason
from appliance.packet.checksum import checksum
from tests.netns import Namespace, until
from tests.root.plane_child import KINDS
from tests.root.plane_rig import Rig, inside, mac, of_the_kernel, rig
from tests.root.test_planes import VIP4, VIP6, drops_of, member, serve_tcp, tables, udp, upload, vips_at

pytestmark = pytest.mark.root

ADDRESS = {4: "203.0.113.2", 6: "2001:db8:2::2"}
UDP_NO_CHECK6_RX = 102
TUNNELS = IPIP, GRE, GUE = [Delivery(DsrType.L3, encapsulation) for encapsulation in Encapsulation]


@pytest.fixture(scope="module", params=KINDS)
def bench(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with rig(str(request.param)) as made:
        yield made


@contextmanager
def kernel_sockets(space: Namespace, delivery: Delivery, outer: int) -> Iterator[None]:
    """The kernel reads and checks the outer headers for sockets of that protocol, and gets what is inside from a TUN
    interface: nothing of ours but the removal of four bytes of GRE or GUE, which have to be as expected."""
    family = socket.AF_INET if outer == 4 else socket.AF_INET6
    skip = 20 if outer == 4 else 0  # IPv4 raw sockets show the outer header

    def make() -> tuple[int, dict[socket.socket, tuple[int, tuple[bytes, ...]]]]:
        tun = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH14x", b"tun0", 0x1001))  # TUNSETIFF: IFF_TUN | IFF_NO_PI
        match delivery.encapsulation:
            case Encapsulation.IPIP:
                taps = {socket.socket(family, socket.SOCK_RAW, number): (skip, (b"",)) for number in (4, 41)}
            case Encapsulation.GRE:
                heads = bytes.fromhex("00000800"), bytes.fromhex("000086dd")
                taps = {socket.socket(family, socket.SOCK_RAW, 47): (skip, heads)}
            case _:
                datagrams = socket.socket(family, socket.SOCK_DGRAM)
                if outer == 6:
                    datagrams.setsockopt(socket.IPPROTO_UDP, UDP_NO_CHECK6_RX, 1)
                datagrams.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
                datagrams.bind((ADDRESS[outer], 6080))
                taps = {datagrams: (0, (bytes.fromhex("00040000"), bytes.fromhex("00290000")))}
        return tun, taps

    tun, taps = inside(space, make)
    space.ip("link set tun0 up")
    space.sysctl(net__ipv4__conf__tun0__rp_filter=0, net__ipv4__conf__all__rp_filter=0)
    stop, odd = threading.Event(), []

    def pump() -> None:
        poll = select.poll()
        for tap in taps:
            poll.register(tap, select.POLLIN)
        by_fd = {tap.fileno(): tap for tap in taps}
        while not stop.is_set():
            for fd, _ in poll.poll(50):
                cut, heads = taps[by_fd[fd]]
                payload = by_fd[fd].recv(65536)[cut:]
                head = payload[: len(heads[0])]
                if head not in heads:
                    odd.append(head)
                os.write(tun, payload[len(head) :])

    thread = threading.Thread(target=pump)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        os.close(tun)
        for tap in taps:
            tap.close()
    assert not odd


@contextmanager
def our_program(space: Namespace, delivery: Delivery, outer: int) -> Iterator[None]:
    """`onward decap`, behind whatever program the interface has."""
    directors = ["--from", "203.0.113.1/32", "--from", "2001:db8:2::1/128", "--vip", str(VIP4), "--vip", str(VIP6)]
    onward = str(Path(sys.executable).with_name("onward"))
    command = space.command(onward, "decap", "run", "--interface", "s0", *directors, "--mode", "tc")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert "decapsulating in tc mode" in process.stdout.readline()
            yield
        finally:
            process.terminate()
            said = process.communicate(timeout=10)[0]
    counters = {name: int(value) for name, value in map(str.split, said.splitlines())}
    assert counters["decapsulated_ipv4"] > 50
    assert counters["decapsulated_ipv6"] > 50
    assert not any(count for name, count in counters.items() if name.startswith("dropped"))


Unpack = Callable[[Namespace, Delivery, int], AbstractContextManager[None]]


UPLOADS: list[tuple[Delivery, int, Unpack]] = [
    (delivery, outer, kernel_sockets) for delivery in TUNNELS for outer in (4, 6)
]
UPLOADS += [(GRE, 4, our_program), (GUE, 6, our_program)]  # test_decap.py has all of them, one by one


@pytest.mark.parametrize(
    ("delivery", "outer", "unpack"),
    UPLOADS,
    ids=[f"{delivery}-over-ipv{outer}-{unpack.__name__}" for delivery, outer, unpack in UPLOADS],
)
def test_uploads(bench: Rig, delivery: Delivery, outer: int, unpack: Unpack) -> None:
    """Uploads to an IPv4 and an IPv6 VIP arrive whole, in packets that fill the link to the last byte when the member
    advertises the MSS that `onward check` names."""
    space = bench.member
    with bench.plane() as plane, vips_at(space):
        for family, vip, router in (("", VIP4, "203.0.113.1"), ("-6 ", VIP6, "2001:db8:2::1")):
            mss = delivery.mss(vip.version, outer, 1500)
            space.ip(f"{family}route change default via {router} advmss {mss}")
        plane.set(tables(member(bench, 1, delivery, ADDRESS[outer])))
        ends = [serve_tcp(space, str(vip)) for vip in (VIP4, VIP6)]
        bench.far.receive(0)
        try:
            with unpack(space, delivery, outer):
                assert [upload(bench.client, str(vip), 300_000) for vip in (VIP4, VIP6)] == [300_000] * 2
        finally:
            for end in ends:
                end()
        counters = plane.counters()
        frames = bench.far.receive(0, keep=lambda frame: frame[6:12] == mac("d1"))
    assert not drops_of(counters)
    assert max(map(len, frames)) == 1514


@pytest.mark.parametrize("outer", [4, 6], ids=["over-ipv4", "over-ipv6"])
@pytest.mark.parametrize("delivery", TUNNELS, ids=str)
def test_what_does_not_fit_is_answered(bench: Rig, delivery: Delivery, outer: int) -> None:
    """The largest packet passes; one byte more, and the client is told the size that fits."""
    room = 1500 - delivery.overhead(outer)
    with bench.plane() as plane:
        plane.set(tables(member(bench, 1, delivery, ADDRESS[outer]), protocol=Protocol.UDP))
        bench.near.receive(0)
        for vip, header in ((VIP4, 28), (VIP6, 48)):
            bench.near.send(udp(1024, room - header, str(vip)), udp(1025, room + 2 - header, str(vip)))
        until(lambda: plane.counters().reasons.get(Reason.TOO_BIG, 0) == 2, "both large packets are seen")
        answers = bench.near.receive(2, keep=tells_a_size)
        counters = plane.counters()
    told = {
        int.from_bytes(frame[40:42], "big") if frame[12:14] == b"\x08\x00" else int.from_bytes(frame[58:62], "big")
        for frame in answers
    }
    assert told == {room}
    assert counters.members["web/m1"].packets == 2


def tells_a_size(frame: bytes) -> bool:
    """ICMP "fragmentation needed" or ICMPv6 "packet too big"."""
    if frame[12:14] == b"\x08\x00":
        return frame[23] == 1 and frame[34:36] == b"\3\4"
    return frame[12:14] == b"\x86\xdd" and frame[20] == 58 and frame[54] == 2


@pytest.mark.parametrize("delivery", TUNNELS, ids=str)
def test_identifications_are_not_repeated(bench: Rig, delivery: Delivery) -> None:
    """Where DF is cleared on purpose, outer packets of batches, of single frames and of the slow path are all known by
    different numbers (RFC 6864)."""
    clear = replace(delivery, outer_df=DfPolicy.CLEAR, outer_ttl=33)
    frames = [udp(port, flags=flags) for port in range(2000, 2300) for flags in (0x4000, 0)]
    odd = [with_option(udp(port)) for port in range(3000, 3020)]
    with bench.plane() as plane:
        plane.set(tables(member(bench, 1, clear), protocol=Protocol.UDP))
        bench.far.receive(0)
        bench.near.send(*frames[:400])
        for one, other in zip(frames[400:], odd * 10, strict=True):
            bench.near.send(one, other)
        total = len(frames) + 200
        got = bench.far.receive(total, keep=lambda frame: frame[6:12] == mac("d1") and frame[12:14] == b"\x08\x00")
    assert len(got) == total
    assert {(frame[20], frame[22]) for frame in got} == {(0, 33)}
    assert len({frame[18:20] for frame in got}) == total


PREFIX = {4: ip_network("198.51.100.64/26"), 6: ip_network("2001:db8:d::/64")}


@pytest.mark.parametrize("outer", [4, 6], ids=["over-ipv4", "over-ipv6"])
@pytest.mark.parametrize("delivery", TUNNELS, ids=str)
def test_each_flow_has_a_source_of_the_prefix(bench: Rig, delivery: Delivery, outer: int) -> None:
    """All packets of a flow come from one address of the prefix, in batches, as single frames and by the slow path,
    with and without DF; and flows come from all addresses that there are."""
    wish = replace(delivery, outer_source=OuterSource.PREFIX)
    way = replace(member(bench, 1, wish, ADDRESS[outer]), outer_prefix=PREFIX[outer])
    many = [udp(port, flags=flags) for port in range(2000, 2256) for flags in (0x4000, 0)]
    many += [udp(port, vip=str(VIP6)) for port in range(2000, 2256)]
    ends = mac("s0") + mac("d1")
    with bench.plane() as plane:
        plane.set(tables(way, protocol=Protocol.UDP))
        bench.far.receive(0)
        bench.near.send(*many)
        for frame in many[:200:2]:
            bench.near.send(frame)
            bench.near.send(with_option(frame))
        total = len(many) + 200
        got = bench.far.receive(total, keep=lambda frame: frame[:12] == ends and not of_the_kernel(frame))
        explained = plane.explain(many[0]).frame
    assert len(got) == total
    sources: dict[tuple[int, bytes], set[IPAddress]] = {}
    for frame in got:
        flow, source = flow_and_source(frame, delivery)
        sources.setdefault(flow, set()).add(source)
    met = frozenset[IPAddress]().union(*sources.values())
    assert len(sources) == 512
    assert {len(found) for found in sources.values()} == {1}
    assert all(one in PREFIX[outer] for one in met)
    assert len(met) == (32 if outer == 4 else 512)
    assert explained is not None
    flow, source = flow_and_source(explained, delivery)
    assert sources[flow] == {source}


def flow_and_source(frame: bytes, delivery: Delivery) -> tuple[tuple[int, bytes], IPAddress]:
    """IP version and source port of what is inside, and the outer source, of a frame whose outer header is sound."""
    outer = 4 if frame[12:14] == b"\x08\x00" else 6
    assert outer == 6 or checksum(frame[14:34]) == 0
    packet = frame[14 + delivery.overhead(outer) :]
    l4 = (packet[0] & 15) * 4 if packet[0] >> 4 == 4 else 40
    return (packet[0] >> 4, packet[l4 : l4 + 2]), ip_address(frame[26:30] if outer == 4 else frame[22:38])


def with_option(frame: bytes) -> bytes:
    """The frame with four bytes of padding as options, which send it the slow way."""
    length = int.from_bytes(frame[16:18], "big") + 4
    head = bytearray(b"\x46" + frame[15:16] + length.to_bytes(2, "big") + frame[18:34] + b"\1\1\1\0")
    head[10:12] = bytes(2)
    total = sum(struct.unpack("!12H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head[10:12] = (~((total & 0xFFFF) + (total >> 16)) & 0xFFFF).to_bytes(2, "big")
    return frame[:14] + bytes(head) + frame[34:]
