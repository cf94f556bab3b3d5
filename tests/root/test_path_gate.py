"""The way of health checks alone: what leaves the director, what a server hears of it, and what strangers can do.

director d1 -- s0 member, who has the VIPs; frames are looked at on the member's end of the cable.
"""

import asyncio
import errno
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from appliance.forwarding import SLOTS, ForwardingTables, NextHop, TableMember, TableService
from appliance.model import (
    Delivery,
    DsrType,
    Encapsulation,
    HashMode,
    IPAddress,
    OuterSource,
    PortRange,
    Protocol,
    TtlPolicy,
)
from appliance.packet.action import Verdict
from appliance.packet.checksum import checksum
from appliance.packet.forward import Ingress, forward
from appliance.packet.headers import ETH_IPV4, ETH_IPV6
from appliance.path.causes import heard
from appliance.path.gate import Gate
from appliance.path.steer import Steering
from appliance.state import NEIGHBOUR_UNRESOLVED, Unresolved
from health.checks import CHECKS
from health.checks.errors import SHORT_OF
from health.spec import Code, Result, Target
from tests.netns import Namespace, namespaces, veth
from tests.root.plane_rig import REPOSITORY, Wire, inside

pytestmark = pytest.mark.root

SECRET = b"sixteen byte key"
VIP4, VIP6 = ip_address("198.51.100.7"), ip_address("2001:db8:f::7")
MEMBER4, MEMBER6 = ip_address("203.0.113.2"), ip_address("2001:db8:2::2")
OURS = {4: "203.0.113.1", 6: "2001:db8:2::1"}
PREFIX = {4: ip_network("198.51.100.64/26"), 6: ip_network("2001:db8:d::/64")}
L2 = Delivery(DsrType.L2, None, TtlPolicy.TRANSPARENT)
DELIVERIES = [
    L2,
    *(Delivery(DsrType.L3, encapsulation) for encapsulation in Encapsulation),
    Delivery(DsrType.L3, Encapsulation.IPIP, TtlPolicy.TRANSPARENT),
]

T = TypeVar("T")


@dataclass
class Cable:
    director: Namespace
    member: Namespace
    wire: Wire
    hops: dict[IPAddress, NextHop | Unresolved]

    def ask(self, work: Callable[[Gate], Awaitable[T]]) -> T:
        """Do something with an open gate, within the director's namespace."""

        async def asking() -> T:
            gate = Gate(("d1",), SECRET, lambda: self.hops, tuple(PREFIX.values()))
            await gate.open()
            try:
                return await work(gate)
            finally:
                await gate.close()

        return inside(self.director, lambda: asyncio.run(asking()))

    def probe(self, kind: str, target: Callable[[Gate], Target], **settings: object) -> Result:
        async def asking(gate: Gate) -> Result:
            asked = target(gate)
            assert asked.way is not None
            return asked.way.judge(await CHECKS[kind](timeout_s=0.5, **settings).probe(asked), asked)

        return self.ask(asking)


@pytest.fixture(scope="module")
def cable() -> Iterator[Cable]:
    with namespaces("d", "s", prefix="owgate") as (director, member):
        veth(director, "d1", member, "s0")
        for space, name, number in ((director, "d1", 1), (member, "s0", 2)):
            space.ip(f"addr add 203.0.113.{number}/24 dev {name}")
            space.ip(f"addr add 2001:db8:2::{number}/64 dev {name} nodad")
        member.ip(f"addr add {VIP4}/32 dev lo")
        member.ip(f"addr add {VIP6}/128 dev lo nodad")
        # Mixed families: towards a VIP of the other one the kernel chooses the source.
        director.ip("route add default via 203.0.113.2")
        director.ip("-6 route add default via 2001:db8:2::2")
        macs = {
            space.name: bytes.fromhex(space.run("cat", f"/sys/class/net/{name}/address").strip().replace(":", ""))
            for space, name in ((director, "d1"), (member, "s0"))
        }
        ifindex = inside(director, lambda: socket.if_nametoindex("d1"))
        ends = ifindex, "d1", macs[director.name], macs[member.name], 1500
        hops: dict[IPAddress, NextHop | Unresolved] = {
            address: NextHop(*ends, ip_address(OURS[address.version]), direct=True) for address in (MEMBER4, MEMBER6)
        }
        wire = Wire(member, "s0")
        try:
            yield Cable(director, member, wire, hops)
        finally:
            wire.close()


def tables(cable: Cable, member: IPAddress, delivery: Delivery, vip: IPAddress) -> ForwardingTables:
    hop = cable.hops[member]
    assert isinstance(hop, NextHop)
    slots = np.zeros(SLOTS, np.uint32)
    ports = (PortRange(5000, 5000),)
    service = TableService(0, "web", vip, Protocol.UDP, ports, HashMode.FIVE_TUPLE, slots)
    return ForwardingTables(SECRET, (service,), {0: TableMember(0, "web/m", member, delivery, hop)})


@pytest.mark.parametrize("vip", [VIP4, VIP6], ids=["vip4", "vip6"])
@pytest.mark.parametrize("member", [MEMBER4, MEMBER6], ids=["member4", "member6"])
@pytest.mark.parametrize("delivery", DELIVERIES, ids=lambda delivery: f"{delivery}-{delivery.ttl}")
def test_frames_are_those_of_a_client(cable: Cable, delivery: Delivery, member: IPAddress, vip: IPAddress) -> None:
    """Bit by bit what the reference makes of the same packet from a client; it arrives with a TTL of 1."""
    wanted = os.urandom(20)
    result = cable.probe(
        "udp", lambda gate: Target("web/m", vip, 5000, gate.way(member, delivery)), request=wanted.hex().encode()
    )
    (frame,) = cable.wire.receive(1, keep=lambda frame: frame.endswith(wanted.hex().encode()))
    inner = frame[len(frame) - (20 if vip.version == 4 else 40) - 8 - 40 :]
    assert inner[8 if vip.version == 4 else 7] == 1
    routed = delivery.dsr_type is DsrType.L3 and delivery.ttl is TtlPolicy.ROUTER
    sent = with_hop_limit(inner, 2 if routed else 1)
    port = Ingress(1, bytes.fromhex("020000000001"), 1500)
    ethertype = ETH_IPV4 if vip.version == 4 else ETH_IPV6
    client = port.mac + bytes.fromhex("020000000099") + ethertype.to_bytes(2, "big") + sent
    action = forward(client, tables(cable, member, delivery, vip), port)
    assert (action.verdict, action.frame) == (Verdict.TRANSMIT, frame)
    if delivery.encapsulation is Encapsulation.GUE and member.version == 6:
        assert result.good  # nobody complains: Linux drops UDP without a checksum where no socket takes it
    elif delivery.encapsulation is None:
        assert f"nothing listens on VIP {vip} port 5000" in result.detail
    else:
        assert "the member does not take packets out of" in result.detail


def with_hop_limit(packet: bytes, hops: int) -> bytes:
    if packet[0] >> 4 == 6:
        return packet[:7] + bytes((hops,)) + packet[8:]
    head = bytearray(packet[:20])
    head[8], head[10:12] = hops, bytes(2)
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return bytes(head[:10]) + struct.pack("!H", ~total & 0xFFFF) + bytes(head[12:]) + packet[20:]


@pytest.mark.parametrize("vip", [VIP4, VIP6], ids=["vip4", "vip6"])
def test_a_server_never_hears_of_half_open_connections(cable: Cable, vip: IPAddress) -> None:
    """SYN and RST are all that it gets; its MSS is known afterwards. A whole connection it does hear of."""
    family = socket.AF_INET if vip.version == 4 else socket.AF_INET6
    listener = inside(cable.member, lambda: socket.create_server((str(vip), 80), family=family))
    with listener:
        listener.settimeout(0.3)

        def target(gate: Gate) -> Target:
            return Target("web/m", vip, 80, gate.way(MEMBER4, L2))

        result = cable.probe("tcp", target, half_open=True)
        assert (result.code, result.mss) == (Code.OK, 1460 if vip.version == 4 else 1440)
        with pytest.raises(TimeoutError):
            listener.accept()
        offset = 14 + (20 if vip.version == 4 else 40) + 13
        ip = b"\x08\x00" if vip.version == 4 else b"\x86\xdd"
        frames = cable.wire.receive(2, keep=lambda frame: frame[12:14] == ip and vip.packed in frame[14:54])
        flags = [frame[offset] for frame in frames]
        assert set(flags) == {2, 4} or set(flags) == {2, 4 | 16}
        # Nothing is left: the RST has ended it.
        assert "SYN-RECV" not in cable.member.run("ss", "-Htan", "state", "syn-recv")
        assert cable.probe("tcp", target).good
        accepted, client = listener.accept()
        accepted.close()
        assert client[0] == OURS[vip.version]


def test_connections_end_at_once_where_ports_would_run_out(cable: Cable, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection ends in good order; but with an RST, which frees its port, once many have waited for their end."""

    def ended_by(port: int) -> set[int]:
        async def asking(gate: Gate) -> bool:
            result = await CHECKS["tcp"](timeout_s=0.5).probe(Target("web/m", VIP4, port, gate.way(MEMBER4, L2)))
            await asyncio.sleep(0.2)  # the last packet goes the same way
            return result.good

        listener = inside(cable.member, lambda: socket.create_server((str(VIP4), port)))
        with listener:
            assert cable.ask(asking)
            frames = cable.wire.receive(3, keep=lambda frame: frame[36:38] == port.to_bytes(2, "big"))
        return {frame[14 + 20 + 13] & (1 | 4) for frame in frames} - {0}

    assert ended_by(8001) == {1}
    monkeypatch.setattr("appliance.path.gate.MOST_LINGERING", 0)
    assert ended_by(8002) == {4}


def test_what_nobody_has_asked_to_carry_goes_nowhere(cable: Cable) -> None:
    """A marked packet of a flow that no check has named is dropped, and so is what is no IP packet at all."""

    async def stray(gate: Gate) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, gate.mark)
            sock.bind((OURS[4], 0))
            sock.sendto(b"astray", (str(VIP4), 5000))
        await asyncio.sleep(0.2)

    cable.ask(stray)
    assert cable.wire.receive(1, 0.5, keep=lambda frame: b"astray" in frame) == []


def test_a_flood_of_icmp_errors_does_not_stop_the_loop(cable: Cable) -> None:
    """Errors are read so many at a time, with a pause, so that everything else gets its turn."""

    async def flooded(gate: Gate) -> tuple[int, int]:
        way = gate.way(MEMBER4, Delivery(DsrType.L3, Encapsulation.IPIP))
        quote = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 60, 0, 0, 64, 4, 0, ip_address(OURS[4]).packed, MEMBER4.packed)
        error = struct.pack("!BBHI", 3, 2, 0, 0) + quote + bytes(40)
        folded = sum(struct.unpack(f"!{len(error) // 2}H", error))
        folded = (folded & 0xFFFF) + (folded >> 16)
        error = error[:2] + struct.pack("!H", ~(folded + (folded >> 16)) & 0xFFFF) + error[4:]
        noted = []
        gate._note = noted.append  # type: ignore[method-assign]
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
            for _ in range(200):
                sock.sendto(error, (OURS[4], 0))
        assert way.member == MEMBER4
        for _ in range(20):
            await asyncio.sleep(0)
        at_once = len(noted)
        await asyncio.sleep(0.6)
        return at_once, len(noted)

    at_once, later = cable.ask(flooded)
    assert 0 < at_once <= 64
    assert later == 200


@pytest.mark.parametrize("outer", [MEMBER4, MEMBER6], ids=["ipv4", "ipv6"])
def test_checks_come_from_the_prefix_and_hear_what_is_told_to_it(cable: Cable, outer: IPAddress) -> None:
    """A check's outer headers have sources of the director's prefix as those of clients' packets have, and the member's
    complaint, which goes to an address that nobody has, explains the result."""
    prefix, vip = PREFIX[outer.version], VIP4 if outer.version == 4 else VIP6
    six = "-6 " if outer.version == 6 else ""
    cable.member.ip(f"{six}route add {prefix} via {OURS[outer.version]}")
    delivery = Delivery(DsrType.L3, Encapsulation.IPIP, outer_source=OuterSource.PREFIX)
    cable.wire.receive(0)
    try:
        result = cable.probe("tcp", lambda gate: Target("web/m", vip, 5000, gate.way(outer, delivery)))
    finally:
        cable.member.ip(f"{six}route del {prefix}")
    assert not result.good
    assert result.detail.startswith("the member does not take packets out of IP in IP")
    source, end = (26, 30) if outer.version == 4 else (22, 38)
    frames = cable.wire.receive(1, keep=lambda frame: frame[end : end + len(outer.packed)] == outer.packed)
    assert frames
    assert all(ip_address(frame[source:end]) in prefix for frame in frames)


FORGERIES: dict[str, Callable[[bytes], bytes]] = {
    "no more than the outer header": lambda inner: bytes(8),
    "another port": lambda inner: inner[:20] + bytes([inner[20] ^ 1]) + inner[21:],
    "another identification": lambda inner: inner[:4] + bytes([inner[4] ^ 1]) + inner[5:],
    "a part of the header": lambda inner: inner[:24],
}


@pytest.mark.parametrize("how", [*FORGERIES, "what was sent"])
def test_errors_that_do_not_quote_what_was_sent_say_nothing(cable: Cable, how: str) -> None:
    """A member that is silent, as it may be, stays well whatever strangers say of packets that they have not seen; who
    quotes the check's own packet is believed, of that member and tunnel."""
    silent = ip_address("203.0.113.66")
    cable.hops[silent] = cable.hops[MEMBER4]  # takes frames, and is none of the member's addresses

    async def asking(gate: Gate) -> tuple[Result, bool]:
        target = Target("web/m", VIP4, 5000, gate.way(silent, Delivery(DsrType.L3, Encapsulation.IPIP)))
        assert target.way is not None

        def complain() -> None:
            (carried,) = gate._carried.values()
            inner = FORGERIES[how](carried.sent) if how in FORGERIES else carried.sent
            outer = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 48, 0, 0, 64, 4, 0, ip_address(OURS[4]).packed, silent.packed)
            error = struct.pack("!BBHI", 3, 2, 0, 0) + outer + inner
            with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
                sock.sendto(error[:2] + struct.pack("!H", checksum(error)) + error[4:], (OURS[4], 0))

        asyncio.get_running_loop().call_later(0.2, complain)
        result = target.way.judge(await CHECKS["udp"](timeout_s=0.5).probe(target), target)
        other = gate.way(silent, Delivery(DsrType.L3, Encapsulation.GRE))
        # The same member may well take packets out of another tunnel, and IPv6 out of this one.
        elsewhere = gate.known(other, VIP4), gate.known(target.way, VIP6)  # type: ignore[arg-type]
        there = gate.known(target.way, VIP4) is not None
        target.way.judge(Result(Code.OK), target)  # an answer takes it back
        return result, (there, *elsewhere, gate.known(target.way, VIP4)) == (how not in FORGERIES, None, None, None)

    try:
        result, known_as_it_should = cable.ask(asking)
    finally:
        del cable.hops[silent]
    assert known_as_it_should
    if how in FORGERIES:
        assert result.good
    else:
        assert result.code is Code.SERVER_UNREACHABLE
        assert result.detail.startswith(f"{OURS[4]} does not let IP in IP through to the member")


def test_errors_are_looked_up_and_not_searched_for(cable: Cable) -> None:
    """Each of thousands of members without a decapsulator sends errors; one costs no more than where there is one."""

    async def crowded(gate: Gate) -> float:
        quoted = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 60, 0, 0, 64, 4, 0, ip_address(OURS[4]).packed, MEMBER4.packed)
        inner = struct.pack("!BBHHHBBH4s4sHH", 0x45, 0, 40, 0, 0, 1, 6, 0, bytes(4), VIP4.packed, 1, 80) + bytes(16)
        found = heard(4, struct.pack("!BBHI", 3, 2, 0, 0) + quoted + inner, MEMBER4)
        assert found is not None

        def spent() -> float:
            began = time.process_time()
            for _ in range(500):
                gate._note(found)
            return time.process_time() - began

        costs = []
        with ExitStack() as stack:
            for number in range(4000):
                flow = ip_address(OURS[4]).packed, VIP4.packed, 6, struct.pack("!HH", number, 80)
                way = gate.way(ip_address(0x0A000000 + number), Delivery(DsrType.L3, Encapsulation.IPIP))
                stack.enter_context(gate.carrying(flow, way, half_open=True))
                if number in (0, 3999):
                    costs.append(min(spent() for _ in range(3)))
        return costs[1] / costs[0]

    assert cable.ask(crowded) < 20  # a walk over all of them: some 1,000


def test_a_director_without_an_address_of_the_vips_family(cable: Cable) -> None:
    """The result names what is missing and what to do, and so it does for members that nobody can reach."""
    lonely = ip_address("2001:db8:ffff::7")
    cable.director.ip("-6 route del default")
    try:
        result = cable.probe("tcp", lambda gate: Target("web/m", lonely, 80, gate.way(MEMBER4, L2)))
        assert result.code is Code.SERVER_UNREACHABLE
        assert "this director has no IPv6 address" in result.detail
        assert 'vantage = "direct"' in result.detail
    finally:
        cable.director.ip("-6 route add default via 2001:db8:2::2")
    gone = ip_address("203.0.113.77")
    result = cable.probe("tcp", lambda gate: Target("web/m", VIP4, 80, gate.way(gone, L2)))
    assert "no way to 203.0.113.77" in result.detail
    cable.hops[gone] = Unresolved(NEIGHBOUR_UNRESOLVED, "203.0.113.77 does not answer on d1")
    try:
        result = cable.probe("tcp", lambda gate: Target("web/m", VIP4, 80, gate.way(gone, L2)))
    finally:
        del cable.hops[gone]
    assert (result.code, result.detail) == (
        Code.ARP_UNRESOLVED, "neighbour_unresolved: 203.0.113.77 does not answer on d1",
    )  # fmt: skip


@pytest.mark.parametrize("filters", [0, 1, 2])
def test_replies_that_this_director_would_drop(cable: Cable, filters: int) -> None:
    """Without a route to the VIP, which DSR does not need, rp_filter drops members' answers, and the cause is ours."""
    cable.director.ip("route del default")
    cable.director.sysctl(net__ipv4__conf__d1__rp_filter=filters)
    listener = inside(cable.member, lambda: socket.create_server((str(VIP4), 80)))
    try:
        with listener:
            result = cable.probe("tcp", lambda gate: Target("web/m", VIP4, 80, gate.way(MEMBER4, L2)))
    finally:
        cable.director.sysctl(net__ipv4__conf__d1__rp_filter=0)
        cable.director.ip("route add default via 203.0.113.2")
    if not filters:
        assert result.good
    else:
        assert result.code is Code.CONNECTION_TIMEOUT
        assert f"this director drops replies from {VIP4}: rp_filter = {filters} on d1 wants a route" in result.detail


@pytest.mark.parametrize(("vip", "member"), [(VIP4, MEMBER4), (VIP6, MEMBER6)], ids=["v4", "v6"])
def test_a_server_that_answers_from_its_own_address(cable: Cable, vip: IPAddress, member: IPAddress) -> None:
    """A datagram service that is bound to all addresses answers from another one than it was asked at, and clients take
    no notice of it: the result says so, and nothing of the kind when the server does it right."""

    def server(address: str) -> socket.socket:
        sock = socket.socket(socket.AF_INET6 if vip.version == 6 else socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((address, 5000))
        return sock

    def echo(sock: socket.socket) -> None:
        data, peer = sock.recvfrom(100)
        sock.sendto(data, peer)

    for address, wrong in (("", True), (str(vip), False)):
        with inside(cable.member, lambda address=address: server(address)) as sock:  # type: ignore[misc]
            thread = threading.Thread(target=echo, args=(sock,))
            thread.start()
            result = cable.probe(
                "udp", lambda gate: Target("web/m", vip, 5000, gate.way(member, L2)), request=b"?", response=b"?"
            )
            thread.join(5)
        if wrong:
            assert result.code is Code.NO_RESPONSE
            assert result.detail.startswith(f"the answer comes from {member}, and not from VIP {vip}: the server must")
        else:
            assert result.good, result


def test_a_packet_waits_for_its_next_hop(cable: Cable) -> None:
    """A member whose MAC address is not known yet is no member that is down."""
    hop = cable.hops.pop(MEMBER4)

    async def asking(gate: Gate) -> Result:
        asyncio.get_running_loop().call_later(0.15, cable.hops.update, {MEMBER4: hop})
        target = Target("web/m", VIP4, 80, gate.way(MEMBER4, L2))
        return await CHECKS["tcp"](timeout_s=0.8).probe(target)

    listener = inside(cable.member, lambda: socket.create_server((str(VIP4), 80)))
    with listener:
        result = cable.ask(asking)
    assert result.good
    assert result.duration_s < 0.7  # not the kernel's second SYN, after a second


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.EAGAIN])
def test_a_packet_without_room_says_nothing_of_the_member(cable: Cable, number: int) -> None:
    """A full queue of our own is no bad result of whoever was asked; a gone interface is one, as silence is."""

    class Full:
        def sendto(self, *_: object) -> None:
            raise OSError(number, os.strerror(number))

    async def asking(gate: Gate) -> Result:
        out, gate._out = gate._out, Full()  # type: ignore[assignment]
        target = Target("web/m", VIP4, 5000, gate.way(MEMBER4, L2))
        assert target.way is not None
        try:
            found = await CHECKS["udp"](timeout_s=0.3, request=b"?", response=b"?").probe(target)
            return target.way.judge(found, target)
        finally:
            gate._out = out

    with pytest.raises(OSError, match="no room in our own queues") as caught:
        cable.ask(asking)
    assert caught.value.errno in SHORT_OF
    number = errno.ENETDOWN
    assert cable.ask(asking).code is Code.NO_RESPONSE


def test_nothing_is_left_in_the_kernel(cable: Cable) -> None:
    """Device and rules go with the gate; what a killed process has left is taken over."""
    before = cable.director.ip("rule") + cable.director.ip("-6 rule")

    async def during(gate: Gate) -> str:
        return await asyncio.to_thread(cable.director.ip, "link")

    steering = Steering(("d1",))
    assert steering.device in cable.ask(during)
    assert steering.device not in cable.director.ip("link")
    assert cable.director.ip("rule") + cable.director.ip("-6 rule") == before
    inside(cable.director, steering.open)
    os.close(steering.fd)  # as when it is killed
    assert cable.director.ip("rule") != before
    assert steering.device in cable.ask(during)
    assert cable.director.ip("rule") + cable.director.ip("-6 rule") == before


def test_a_director_without_ipv6(cable: Cable) -> None:
    """It opens its way all the same, and asks by IPv4."""
    cable.director.sysctl(net__ipv6__conf__default__disable_ipv6=1)
    try:
        result = cable.probe("udp", lambda gate: Target("web/m", VIP4, 5000, gate.way(MEMBER4, L2)), request=b"?")
        assert f"nothing listens on VIP {VIP4} port 5000" in result.detail
    finally:
        cable.director.sysctl(net__ipv6__conf__default__disable_ipv6=0)


CONFIG = """
schema_version = 1
director = {{ name = "d1", interfaces = ["d1"], plane = "raw", runtime_dir = "{folder}/run" }}
fleet = {{ secret_file = "fleet.key" }}
[[network_profile]]
name = "tcp"
type = "tcp_fast_path"
[[health_monitor]]
name = "connect"
type = "tcp"
[[pool]]
name = "web"
health_monitors = ["connect"]
[[pool.member]]
address = "203.0.113.2"
[[virtual_service]]
name = "web"
vips = ["198.51.100.7"]
ports = [80]
network_profile = "tcp"
pool = "web"
"""


def test_without_a_tun_device_a_director_says_what_it_lacks(cable: Cable, tmp_path: Path) -> None:
    """It does not start, names the file, and two ways out."""
    (tmp_path / "onward.toml").write_text(CONFIG.format(folder=tmp_path))
    (tmp_path / "fleet.key").write_text("0123456789abcdef")
    script = f"mount -t tmpfs none /dev/net && exec {sys.executable} -m appliance run {tmp_path}/onward.toml"
    command = cable.director.command("unshare", "--mount", "sh", "-c", script)
    began = time.monotonic()
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, (time.monotonic() - began, done.stderr)
    assert "/dev/net/tun: no such file or directory" in done.stderr
    assert "load the module tun" in done.stderr
    assert 'vantage = "direct"' in done.stderr
