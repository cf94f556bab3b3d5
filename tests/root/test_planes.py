"""The data planes between network namespaces: the same tests for each of them."""

import fcntl
import os
import random
import select
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from appliance.dataplane.base import Counters, DataPlaneError, Traffic
from appliance.forwarding import ForwardingTables, NextHop, TableMember, TableService
from appliance.model import Delivery, HashMode, PortRange, Protocol
from appliance.packet.action import Reason, Verdict
from appliance.packet.checksum import checksum
from appliance.packet.forward import Ingress, PacketPath
from tests.netns import Namespace, until, veth
from tests.root.plane_child import KINDS
from tests.root.plane_rig import Plane, Rig, Wire, inside, mac, rig
from tests.unit.dataplane.frames import L2, L3, cycle, random_frame, random_tables
from tests.vectors_io import canonical

SOMEBODY = (f"--reuid={Path(__file__).stat().st_uid}", "--clear-groups")
"""Whoever the checkout belongs to: it may be where nobody else can read. Without capabilities root is a user, too."""

pytestmark = pytest.mark.root

VIP4, VIP6 = ip_address("198.51.100.7"), ip_address("2001:db8:f::7")
SECRET = bytes(range(16))
INGRESS = Ingress(0, mac("d0"), 1500)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def bench(kind: str) -> Iterator[Rig]:
    with rig(kind) as made:
        yield made


def hop(bench: Rig, **changes: object) -> NextHop:
    values = {
        "ifindex": bench.ifindex("d1"),
        "interface": "d1",
        "source_mac": mac("d1"),
        "mac": mac("s0"),
        "mtu": 1500,
        "source": ip_address("203.0.113.1"),
        "direct": True,
    } | changes
    return NextHop(**values)  # type: ignore[arg-type]


def member(
    bench: Rig, index: int, delivery: Delivery = L2, address: str = "203.0.113.2", **changes: object
) -> TableMember:
    source = "2001:db8:2::1" if ":" in address else "203.0.113.1"
    return TableMember(
        index, f"web/m{index}", ip_address(address), delivery, hop(bench, source=ip_address(source), **changes)
    )


def tables(
    *members: TableMember,
    protocol: Protocol = Protocol.TCP,
    port: int = 80,
    vips: tuple = (VIP4, VIP6),
) -> ForwardingTables:
    slots = cycle(*(one.index for one in members))
    services = tuple(
        TableService(number, "web", vip, protocol, (PortRange(port, port),), HashMode.FIVE_TUPLE, slots)
        for number, vip in enumerate(vips)
    )
    return ForwardingTables(SECRET, services, {one.index: one for one in members})


def udp(source_port: int, size: int = 18, vip: str = str(VIP4), **header: int) -> bytes:
    segment = struct.pack("!HHHH", source_port, 80, 8 + size, 0) + source_port.to_bytes(2, "big") * (size // 2)
    address = ip_address(vip)
    if address.version == 6:
        packet = struct.pack("!IHBB", 6 << 28, len(segment), 17, header.get("ttl", 64))
        return (
            mac("d0") + mac("c0") + b"\x86\xdd" + packet + ip_address("2001:db8:1::2").packed + address.packed + segment
        )
    head = struct.pack(
        "!BBHHHBBH", 0x45, 0, 20 + len(segment), 1, header.get("flags", 0x4000), header.get("ttl", 64), 17, 0
    )
    head += ip_address("192.0.2.2").packed + address.packed
    head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    return mac("d0") + mac("c0") + b"\x08\x00" + head + segment


@pytest.mark.parametrize("use_xsk", [1, 0], ids=["af_xdp", "sendmmsg"])
@pytest.mark.parametrize("seed", range(3))
def test_random_frames_come_out_as_the_reference_says(bench: Rig, use_xsk: int, seed: int) -> None:
    """Frames of every kind come through real rings, filters and senders as packet.forward would send them."""
    rnd = random.Random(seed)
    # Of one batch, no more than 32 frames are fragmented or answered. Whoever is woken late must not find more at once,
    # and of an XDP program's slow path those may be all.
    with bench.plane(use_xsk=use_xsk, batch=32) as plane:
        plane_tables = random_tables(rnd, ifindexes=(bench.ifindex("d1"),))
        path = PacketPath(plane_tables)
        plane.set(plane_tables)
        plane.check()
        assert sender_of(plane) == ("af_xdp" if use_xsk else "sendmmsg")
        frames = [random_frame(rnd, plane_tables, wrong=0.01) for _ in range(1500)]
        frames = [frame for frame in frames if len(frame) <= 1514]
        actions = [path.forward(frame, INGRESS) for frame in frames]
        sent = [action for action in actions if action.verdict is Verdict.TRANSMIT]
        wanted = sorted(canonical(frame) for action in sent for frame in (action.frame, *action.further))
        assert len(wanted) >= len(sent) > 300
        bench.far.receive(0)
        bench.near.send(*frames)
        got = sorted(
            map(canonical, bench.far.receive(len(wanted), keep=lambda frame: frame[6:11] == bytes((2, 0, 0, 0, 2))))
        )
        assert got == wanted
        counters = plane.counters()
        assert sum(traffic.packets for traffic in counters.services.values()) == len(sent)
        assert sum(traffic.packets for traffic in counters.members.values()) == len(sent)
        assert sum(traffic.bytes for traffic in counters.members.values()) == sum(
            action_length(frame)
            for frame, action in zip(frames, actions, strict=True)
            if action.verdict is Verdict.TRANSMIT
        )
        drops = [str(action.reason) for action in actions if action.verdict is Verdict.DROP]
        passes = {Reason.NOT_IP, Reason.NOT_VIP}
        assert {
            str(reason): number for reason, number in counters.reasons.items() if number and reason not in passes
        } == {reason: drops.count(reason) for reason in set(drops)}


def drops_of(counters: Counters) -> dict[str, int]:
    """Reasons that are drops; not every plane sees what it passes."""
    passes = {Reason.NOT_IP, Reason.NOT_VIP}
    return {str(reason): number for reason, number in counters.reasons.items() if number and reason not in passes}


def slow_fact(plane: Plane, name: str) -> str:
    """What the raw plane says of itself, which is the slow path of others."""
    facts = plane.describe()
    return facts.get(name) or facts[f"slow_path_{name}"]


def sender_of(plane: Plane, interface: str = "d1") -> str:
    """How the raw plane sends."""
    return slow_fact(plane, f"transmit_{interface}")


def action_length(frame: bytes) -> int:
    offset = 12
    while frame[offset : offset + 2] in (b"\x81\x00", b"\x88\xa8"):
        offset += 4
    packet = frame[offset + 2 :]
    return int.from_bytes(packet[2:4], "big") if packet[0] >> 4 == 4 else 40 + int.from_bytes(packet[4:6], "big")


def serve_tcp(space: Namespace, address: str) -> Callable[[], None]:
    """A server in the namespace that answers with the number of bytes it was sent; call the result to end it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def make() -> socket.socket:
        return socket.create_server((address, 80), family=family)

    listener = inside(space, make)
    listener.settimeout(0.05)
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(30)  # a test that fails leaves its connections open
                size = 0
                try:
                    while data := connection.recv(65536):
                        size += len(data)
                    connection.sendall(str(size).encode())
                except (ConnectionResetError, TimeoutError):
                    pass  # the client has lost patience

    thread = threading.Thread(target=serve)
    thread.start()

    def end() -> None:
        stop.set()
        thread.join()
        listener.close()

    return end


def upload(space: Namespace, address: str, size: int, timeout_s: float = 5) -> int:
    """Send so many bytes from the namespace; what the server says it got."""

    def connect() -> socket.socket:
        return socket.create_connection((address, 80), timeout=timeout_s)

    with inside(space, connect) as connection:
        connection.sendall(b"x" * size)
        connection.shutdown(socket.SHUT_WR)
        return int(connection.recv(100))


@contextmanager
def vips_at(space: Namespace) -> Iterator[None]:
    """The member has the VIPs, as DSR wants it."""
    space.ip(f"addr add {VIP4}/32 dev lo")
    space.ip(f"addr add {VIP6}/128 dev lo nodad")
    try:
        yield
    finally:
        space.ip(f"addr del {VIP4}/32 dev lo")
        space.ip(f"addr del {VIP6}/128 dev lo")


@pytest.mark.parametrize("vip", [str(VIP4), str(VIP6)])
@pytest.mark.parametrize("use_xsk", [1, 0], ids=["af_xdp", "sendmmsg"])
def test_tcp_by_l2(bench: Rig, vip: str, use_xsk: int) -> None:
    """A client's upload reaches the member's own stack unharmed, and the answer comes back past the director."""
    with bench.plane(use_xsk=use_xsk) as plane, vips_at(bench.member):
        plane.set(tables(member(bench, 1)))
        end = serve_tcp(bench.member, vip)
        try:
            assert [upload(bench.client, vip, 1_000_000) for _ in range(3)] == [1_000_000] * 3
        finally:
            end()
        counters = plane.counters()
        assert counters.services["web", vip].new_flows == 3
        assert counters.members["web/m1"].bytes > 3_000_000
        assert not drops_of(counters)


@contextmanager
def decapsulator(space: Namespace) -> Iterator[None]:
    """Packets of protocols 4 and 41 are unpacked into a TUN interface: what `ipip` and `sit` do where they exist."""

    def make() -> tuple[int, list[socket.socket]]:
        tun = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH14x", b"tun0", 0x1001))  # TUNSETIFF: IFF_TUN | IFF_NO_PI
        return tun, [socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol) for protocol in (4, 41)]

    tun, taps = inside(space, make)
    space.ip("link set tun0 up")
    space.sysctl(net__ipv4__conf__tun0__rp_filter=0, net__ipv4__conf__all__rp_filter=0)
    stop = threading.Event()

    def pump() -> None:
        poll = select.poll()
        for tap in taps:
            poll.register(tap, select.POLLIN)
        by_fd = {tap.fileno(): tap for tap in taps}
        while not stop.is_set():
            for fd, _ in poll.poll(50):
                os.write(tun, by_fd[fd].recv(65536)[20:])

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


@pytest.mark.parametrize("vip", [str(VIP4), str(VIP6)])
def test_tcp_by_ipip(bench: Rig, vip: str) -> None:
    """The same inside IPv4, unpacked at the member, which advertises the MSS that leaves room for the outer header."""
    with bench.plane() as plane, vips_at(bench.member), decapsulator(bench.member):
        bench.member.ip("route change default via 203.0.113.1 advmss 1400")
        bench.member.ip("-6 route change default via 2001:db8:2::1 advmss 1400")
        plane.set(tables(member(bench, 1, L3)))
        end = serve_tcp(bench.member, vip)
        try:
            assert [upload(bench.client, vip, 300_000) for _ in range(2)] == [300_000] * 2
        finally:
            end()
        assert not drops_of(plane.counters())


def test_swap_under_traffic_loses_nothing_and_shows_no_half_table(bench: Rig) -> None:
    """While tables change between two members, every frame leaves exactly once, to one of the two."""
    other = bytes.fromhex("0271000000ff")
    first = tables(member(bench, 1), protocol=Protocol.UDP)
    second = tables(member(bench, 2, mac=other), protocol=Protocol.UDP)
    frames = [udp(port) for port in range(1024, 9024)]
    with bench.plane() as plane:
        plane.set(first)
        bench.far.receive(0)
        sender = threading.Thread(target=bench.near.send, args=frames)
        sender.start()
        swaps = 0
        while sender.is_alive():
            plane.set((second, first)[swaps % 2])
            swaps += 1
        sender.join()
        got = bench.far.receive(len(frames), keep=lambda frame: frame[6:12] == mac("d1") and frame[23] == 17)
        counters = plane.counters()
    assert swaps > 5
    assert sorted(frame[12:] for frame in got) == sorted(frame[12:] for frame in frames)
    by_mac = Counter(frame[:6] for frame in got)
    assert set(by_mac) == {mac("s0"), other}
    assert counters.members["web/m1"].packets == by_mac[mac("s0")]
    assert counters.members["web/m2"].packets == by_mac[other]
    assert counters.services["web", str(VIP4)].packets == len(frames)


def test_counters_survive_their_services(bench: Rig) -> None:
    """What was counted stays counted when services and members go, also when an index gets a new owner."""
    with bench.plane() as plane:
        plane.set(tables(member(bench, 1), protocol=Protocol.UDP))
        bench.near.send(*(udp(port) for port in range(2000, 2100)))
        until(lambda: plane.counters().members["web/m1"].packets == 100, "100 frames are counted")
        plane.set(ForwardingTables())
        before = plane.counters()
        assert before.members["web/m1"] == Traffic(100, 46 * 100, 0)
        renamed = replace(member(bench, 1), id="other/x")
        plane.set(tables(renamed, protocol=Protocol.UDP))
        bench.near.send(*(udp(port) for port in range(2000, 2050)))
        until(lambda: plane.counters().members["other/x"].packets == 50, "50 more frames are counted")
        after = plane.counters()
        assert after.members["web/m1"] == before.members["web/m1"]
        assert after.services["web", str(VIP4)].packets == 150


def test_the_kernel_never_answers_for_a_vip(bench: Rig) -> None:
    """A SYN to a port without a service gets no RST and no ICMP error, and is counted."""
    with bench.plane() as plane:
        plane.set(tables(member(bench, 1)))
        bench.near.receive(0)

        def connect() -> socket.socket:
            made = socket.socket()
            made.setblocking(False)
            made.connect_ex((str(VIP4), 81))
            return made

        with inside(bench.client, connect):
            until(lambda: plane.counters().reasons.get(Reason.NO_SERVICE), "the SYN is counted")
            answers = bench.near.receive(0, 0.3, keep=lambda frame: frame[12:14] == b"\x08\x00")
        assert answers == []
        assert "198.51.100.7" in bench.ruleset()


def test_close_leaves_nothing_behind(bench: Rig) -> None:
    """After close there are no rules and no packet sockets, and the offloads are as they were."""
    bench.director.run("ethtool", "-K", "d0", "gro", "on")
    try:
        with bench.plane() as plane:
            plane.set(tables(member(bench, 1)))
            assert "generic-receive-offload: off" in bench.director.run("ethtool", "-k", "d0")
            assert "onward_" in bench.ruleset()
        assert "generic-receive-offload: on" in bench.director.run("ethtool", "-k", "d0")
        assert bench.ruleset() == ""
        assert len(bench.director.run("cat", "/proc/net/packet").splitlines()) == 1
    finally:
        bench.director.run("ethtool", "-K", "d0", "gro", "off")


def test_a_killed_run_is_cleaned_up_by_the_next(bench: Rig) -> None:
    """After SIGKILL the rules stay; the next start replaces them and forwards."""
    dead = Plane(bench.director, "d0")
    dead.start()
    dead.set(tables(member(bench, 1)))
    dead.kill()
    assert "198.51.100.7" in bench.ruleset()
    with bench.plane() as plane:
        assert "198.51.100.7" not in bench.ruleset()
        plane.set(tables(member(bench, 1), protocol=Protocol.UDP))
        plane.check()
        bench.near.send(udp(3000))
        until(lambda: plane.counters().members["web/m1"].packets == 1, "a frame is forwarded")
    assert bench.ruleset() == ""


def test_errors_of_start_name_place_and_remedy(bench: Rig) -> None:
    """A missing interface is named together with those that exist; one that is down comes with the command."""
    plane = Plane(bench.director, "nope0")
    try:
        with pytest.raises(DataPlaneError, match=r"no interface nope0 .*d0, d1, d2, lo"):
            plane.start()
    finally:
        plane.end()
    bench.director.ip("link add b0 type bridge")
    plane = Plane(bench.director, "b0")
    try:
        with pytest.raises(DataPlaneError, match=r"b0 is down.*ip link set b0 up"):
            plane.start()
    finally:
        plane.end()
        bench.director.ip("link del b0")


def test_without_privileges_the_capability_is_named(bench: Rig) -> None:
    """An ordinary user is told which capabilities it takes."""
    plane = Plane(bench.director, "d0", under=("setpriv", *SOMEBODY, "--bounding-set=-all"))
    try:
        with pytest.raises(DataPlaneError, match="CAP_NET_ADMIN"):
            plane.start()
    finally:
        plane.end()


def test_two_capabilities_are_enough(bench: Rig) -> None:
    """CAP_NET_RAW and CAP_NET_ADMIN let an ordinary user start, forward by AF_XDP and clean up."""
    both = "-all,+net_admin,+net_raw"
    wrapper = ("setpriv", *SOMEBODY, f"--inh-caps={both}", f"--ambient-caps={both}")
    plane = Plane(bench.director, "d0", under=(*wrapper, f"--bounding-set={both}"))
    try:
        plane.start()
        plane.set(tables(member(bench, 1), protocol=Protocol.UDP))
        plane.check()
        assert sender_of(plane) == "af_xdp"
        bench.near.send(udp(3000))
        until(lambda: plane.counters().members["web/m1"].packets == 1, "a frame is forwarded")
    finally:
        plane.end()
    assert bench.ruleset() == ""


def test_rules_that_vanish_fail_the_check_and_come_back_by_set(bench: Rig) -> None:
    """Somebody flushes nftables: check says so, and the next set, even of the same tables, makes it good."""
    with bench.plane() as plane:
        wanted = tables(member(bench, 1))
        plane.set(wanted)
        plane.check()
        bench.director.run("nft", "flush", "ruleset")
        with pytest.raises(DataPlaneError, match="deleted by someone else"):
            plane.check()
        plane.set(wanted)
        plane.check()
        assert "198.51.100.7" in bench.ruleset()


def test_other_peoples_rules_are_none_of_our_business(bench: Rig) -> None:
    """A change of other nftables rules does not fail the check."""
    with bench.plane() as plane:
        plane.set(tables(member(bench, 1)))
        bench.director.run("nft", "add", "table", "inet", "other")
        plane.check()
        bench.director.run("nft", "delete", "table", "inet", "other")
        plane.check()


def test_interface_down_and_up_again(kind: str) -> None:
    """An interface that is down fails the check; up again, it forwards without anybody's help."""
    with rig(kind) as bench, bench.plane() as plane:
        plane.set(tables(member(bench, 1), protocol=Protocol.UDP))
        bench.director.ip("link set d0 down")
        try:
            with pytest.raises(DataPlaneError, match="d0 is down"):
                plane.check()
        finally:
            bench.director.ip("link set d0 up")
        until(lambda: _passes(plane), "the check passes again")
        bench.near.send(udp(3000))
        until(lambda: plane.counters().members["web/m1"].packets == 1, "a frame is forwarded")


def _passes(plane: Plane) -> bool:
    try:
        plane.check()
    except DataPlaneError:
        return False
    return True


def test_one_of_two_interfaces_may_be_lost(kind: str) -> None:
    """What comes by the other one is forwarded, by old and new tables; only without both the check fails."""
    with rig(kind) as bench, bench.plane("d2,d0") as plane:
        plane.set(tables(member(bench, 1), protocol=Protocol.UDP))
        bench.director.ip("link set d2 down")
        try:
            plane.check()
            (lost,) = [why for name, why in plane.describe().items() if name.removeprefix("slow_path_") == "lost_d2"]
            assert "d2 is down" in lost
            bench.near.send(udp(3000))
            until(lambda: plane.counters().members["web/m1"].packets == 1, "a frame is forwarded")
            plane.set(tables(member(bench, 2), protocol=Protocol.UDP))
            plane.check()
            bench.near.send(udp(3000))
            until(lambda: plane.counters().members["web/m2"].packets == 1, "a frame is forwarded")
            bench.director.ip("link set d0 down")
            with pytest.raises(DataPlaneError, match=r"d2 is down.*; interface d0 is down"):
                plane.check()
        finally:
            for name in ("d0", "d2"):
                bench.director.ip(f"link set {name} up")
        until(lambda: _passes(plane), "the check passes again")


def test_interface_that_vanishes_and_returns(kind: str) -> None:
    """Rings die with their interface: check and set fail while it is away; set opens new ones when it is back."""
    with rig(kind) as bench, bench.plane() as plane:
        wanted = tables(member(bench, 1), protocol=Protocol.UDP)
        plane.set(wanted)
        bench.near.send(udp(3000))
        until(lambda: plane.counters().members["web/m1"].packets == 1, "a frame is forwarded")
        bench.director.ip("link del d0")
        with pytest.raises(DataPlaneError, match="d0 is gone"):
            plane.check()
        with pytest.raises(DataPlaneError, match="no interface d0"):
            plane.set(wanted)
        with pytest.raises(DataPlaneError):
            plane.check()
        veth(bench.client, "c0", bench.director, "d0")
        bench.director.ip("link set d0 address 02:71:00:00:00:02")
        plane.set(wanted)
        plane.check()
        assert sender_of(plane) == "af_xdp"
        wire = Wire(bench.client, "c0")
        wire.send(udp(3000))
        until(lambda: plane.counters().members["web/m1"].packets == 2, "a frame is forwarded by the new ring")
        wire.close()


def test_another_mtu_takes_new_rings(kind: str) -> None:
    """Slots are made for an MTU: when it changes, check says so and set makes new ones."""
    with rig(kind) as bench, bench.plane() as plane:
        for space, name in ((bench.client, "c0"), (bench.director, "d1"), (bench.member, "s0")):
            space.ip(f"link set {name} mtu 3000")
        wanted = tables(member(bench, 1, mtu=3000), protocol=Protocol.UDP)
        plane.set(wanted)
        bench.director.ip("link set d0 mtu 3000")
        with pytest.raises(DataPlaneError, match="another MTU"):
            plane.check()
        plane.set(wanted)
        plane.check()
        bench.near.send(udp(3000, size=2500))
        until(lambda: plane.counters().members["web/m1"].packets == 1, "a larger frame is forwarded")


@pytest.mark.parametrize("use_xsk", [1, 0], ids=["af_xdp", "sendmmsg"])
def test_an_egress_that_vanishes_takes_nobody_along(kind: str, use_xsk: int) -> None:
    """Frames for it are counted as failed, all others go their way; a table that names it is taken all the same."""
    with rig(kind) as bench, bench.plane(use_xsk=use_xsk) as plane:
        gone = bench.ifindex("d2")
        aside = member(bench, 2, ifindex=gone, interface="d2", source_mac=mac("d2"), mac=mac("t0"))
        both = tables(member(bench, 1), aside, protocol=Protocol.UDP)
        plane.set(both)
        frames = [udp(port) for port in range(1000, 1800)]
        bench.near.send(*frames)
        until(lambda: plane.counters().members["web/m2"].packets > 300, "both members get frames")
        bench.director.ip("link del d2")
        bench.near.send(*frames)
        until(lambda: plane.counters().reasons.get(Reason.TX_FAILED), "failures are counted")
        plane.check()
        plane.set(tables(aside, protocol=Protocol.UDP))
        plane.set(both)
        bench.far.receive(0)
        bench.near.send(*frames)
        far = bench.far.receive(300, keep=lambda frame: frame[6:12] == mac("d1") and is_ours(frame))
        assert len(far) > 300
        plane.check()


def test_too_big_and_expired_packets_are_answered(bench: Rig) -> None:
    """Senders get ICMP errors from the VIP, at a limited rate."""
    with bench.plane() as plane:
        plane.set(tables(member(bench, 1, L3), protocol=Protocol.UDP))
        bench.near.receive(0)
        bench.near.send(*(udp(port, size=1472) for port in range(4000, 4050)), udp(5000, ttl=1))
        until(lambda: sum(plane.counters().reasons.values()) >= 51, "all of them are counted")
        counters = plane.counters()
        assert counters.reasons[Reason.TOO_BIG] == 50
        assert counters.reasons[Reason.TTL_EXPIRED] == 1
        answers = bench.near.receive(1, keep=lambda frame: frame[23] == 1 and frame[26:30] == VIP4.packed)
        assert 1 <= len(answers) == sum(counters.replies.values()) <= 25
        assert answers[0][34:36] == b"\x03\x04"
        assert int.from_bytes(answers[0][40:42], "big") == 1480


def test_answers_carry_the_vlan_tag_of_the_question(bench: Rig) -> None:
    """The kernel hands us tags beside the frame; the answer goes back to the segment that the packet came from."""
    bench.near.receive(0)
    question = udp(4000, size=1472)
    tags: list[int] = []
    bench.near.socket.setsockopt(263, 8, 1)  # PACKET_AUXDATA
    try:
        with bench.plane() as plane:
            plane.set(tables(member(bench, 1, L3), protocol=Protocol.UDP))
            bench.near.send(question[:12] + b"\x81\x00\x00\x05" + question[12:])
            until(lambda: plane.counters().replies, "the answer was sent")
            while not tags:
                frame, extra, _, address = bench.near.socket.recvmsg(2000, 100)
                if frame[23:24] == b"\x01" and address[2] != 4:
                    tags = [struct.unpack_from("16xH", data)[0] for _, _, data in extra]
    finally:
        bench.near.socket.setsockopt(263, 8, 0)
    assert tags == [5]


def test_jumbo_frames(kind: str) -> None:
    """Slots follow the link's MTU; frames longer than a page leave by sendmmsg."""
    with rig(kind) as bench:
        for space, name in ((bench.client, "c0"), (bench.director, "d0"), (bench.director, "d1"), (bench.member, "s0")):
            space.ip(f"link set {name} mtu 9000")
        with bench.plane() as plane:
            plane.set(tables(member(bench, 1, L3, mtu=9000), protocol=Protocol.UDP))
            plane.check()
            assert sender_of(plane) == "sendmmsg"
            frames = [udp(port, size=size) for port in range(3000, 3010) for size in (20, 1472, 8952)]
            bench.near.send(*frames)
            got = bench.far.receive(30, keep=lambda frame: frame[23] == 4)
            assert sorted(map(len, got)) == sorted(len(frame) + 20 for frame in frames)


def test_partial_checksums_are_completed(bench: Rig) -> None:
    """A sender on the same machine leaves checksums to its device; members get whole ones all the same."""
    bench.client.run("ethtool", "-K", "c0", "tx", "on", "tso", "off", "gso", "off")
    try:
        with bench.plane() as plane, vips_at(bench.member):
            plane.set(tables(member(bench, 1)))
            for vip in (str(VIP4), str(VIP6)):
                end = serve_tcp(bench.member, vip)
                try:
                    assert upload(bench.client, vip, 200_001) == 200_001
                finally:
                    end()
            assert plane.counters().details["completed_checksums"] > 200
    finally:
        bench.client.run("ethtool", "-K", "c0", "tx", "off")


def test_super_frames_are_dropped_and_counted(bench: Rig) -> None:
    """What a sender's segmentation offload leaves to a device is larger than any wire carries, and goes nowhere."""
    with bench.plane() as plane, vips_at(bench.member):
        plane.set(tables(member(bench, 1)))
        end = serve_tcp(bench.member, str(VIP4))
        bench.client.run("ethtool", "-K", "c0", "tx", "on", "tso", "on", "gso", "on")
        try:

            def connect() -> socket.socket:
                return socket.create_connection((str(VIP4), 80), timeout=5)

            with inside(bench.client, connect) as connection:
                connection.setblocking(False)
                connection.send(bytes(60_000))
                if bench.kind == "xdp":
                    # The kernel takes segmentation away from a veth whose peer has a program: whole frames arrive.
                    until(lambda: plane.counters().members["web/m1"].bytes > 60_000, "segments are forwarded")
                else:
                    until(lambda: plane.counters().reasons.get(Reason.OVERSIZED_FRAME), "a super-frame is counted")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        finally:
            bench.client.run("ethtool", "-K", "c0", "tx", "off")
            end()


@pytest.mark.parametrize("use_xsk", [1, 0], ids=["af_xdp", "sendmmsg"])
def test_several_interfaces(bench: Rig, use_xsk: int) -> None:
    """One batch has frames of both families for members on two interfaces, plain and encapsulated."""
    with bench.plane("d0,d1", use_xsk=use_xsk) as plane:
        aside = member(bench, 2, ifindex=bench.ifindex("d2"), interface="d2", source_mac=mac("d2"), mac=mac("t0"))
        members = member(bench, 1), aside, member(bench, 3, L3, "2001:db8:2::2")
        plane.set(tables(*members, protocol=Protocol.UDP))
        plane.check()
        assert {sender_of(plane, "d1"), sender_of(plane, "d2")} == {"af_xdp" if use_xsk else "sendmmsg"}
        bench.far.receive(0)
        bench.side.receive(0)
        bench.near.send(*(udp(port, vip=vip) for port in range(1000, 1900) for vip in (str(VIP4), str(VIP6))))
        far = bench.far.receive(900, keep=lambda frame: frame[6:12] == mac("d1") and is_ours(frame))
        side = bench.side.receive(400, keep=lambda frame: frame[6:12] == mac("d2") and is_ours(frame))
        packets = {name: traffic.packets for name, traffic in plane.counters().members.items()}
        assert sum(packets.values()) == 1800
        assert min(packets.values()) > 300
        assert packets == {
            "web/m1": sum(is_plain(frame) for frame in far),
            "web/m2": sum(is_plain(frame) for frame in side),
            "web/m3": sum(not is_plain(frame) for frame in far),
        }
        # What arrives by the other interface goes the same way.
        bench.far.send(*[udp(1000).replace(mac("d0"), mac("d1"), 1)] * 100)
        until(lambda: sum(t.packets for t in plane.counters().members.values()) == 1900, "the second ring works")


def is_ours(frame: bytes) -> bool:
    """Not the neighbours' chat."""
    return frame[12:14] == b"\x08\x00" or (frame[12:14] == b"\x86\xdd" and frame[20] not in (0, 58))


def is_plain(frame: bytes) -> bool:
    """UDP as the client sent it, not in another IP packet."""
    return frame[23] == 17 if frame[12:14] == b"\x08\x00" else frame[20] == 17


def test_set_is_idempotent_and_explains(bench: Rig) -> None:
    """Equal tables change nothing, and explanations use the very filter and passes of real frames."""
    with bench.plane() as plane:
        wanted = tables(member(bench, 1), protocol=Protocol.UDP)
        plane.set(wanted)
        rules = bench.ruleset()
        plane.set(tables(member(bench, 1), protocol=Protocol.UDP))
        assert bench.ruleset() == rules
        action = plane.explain(udp(4000))
        assert (action.verdict, action.member, action.ifindex) == (Verdict.TRANSMIT, 1, bench.ifindex("d1"))
        assert action.frame[:6] == mac("s0")
        assert plane.explain(udp(4000)[:-4]).reason is Reason.MALFORMED
        with pytest.raises(DataPlaneError, match="eth9 is not one"):
            plane.explain(udp(4000), "eth9")
        assert not plane.counters().members["web/m1"].packets


def test_short_secret_is_refused_and_the_old_tables_stay(bench: Rig) -> None:
    """Tables that cannot be followed change nothing."""
    with bench.plane() as plane:
        wanted = tables(member(bench, 1), protocol=Protocol.UDP)
        plane.set(wanted)
        with pytest.raises(DataPlaneError, match="at least 16 bytes"):
            plane.set(replace(wanted, secret=b"short"))
        plane.check()
        bench.near.send(udp(3000))
        until(lambda: plane.counters().members["web/m1"].packets == 1, "a frame is forwarded by the old tables")


def test_a_thread_that_dies_is_reported_and_replaced(bench: Rig) -> None:
    """The error comes out of check; the next set, even of the same tables, starts anew, and counters go on."""
    with bench.plane() as plane:
        wanted = tables(member(bench, 1), protocol=Protocol.UDP)
        plane.set(wanted)
        bench.near.send(udp(3000))
        until(lambda: plane.counters().members["web/m1"].packets == 1, "a frame is forwarded")
        plane.injure()
        until(lambda: not _passes(plane), "the death is noticed")
        with pytest.raises(DataPlaneError, match=r"has died: .*a bug in the forwarding thread"):
            plane.check()
        plane.set(wanted)
        plane.check()
        assert sender_of(plane) == "af_xdp"
        bench.near.send(udp(3000))
        until(lambda: plane.counters().members["web/m1"].packets == 2, "a frame is forwarded by the new thread")


def test_a_thread_that_is_stuck_is_reported(bench: Rig) -> None:
    """A check does not pass while the thread makes no rounds, and does again afterwards."""
    with bench.plane() as plane:
        plane.set(tables(member(bench, 1), protocol=Protocol.UDP))
        plane.injure(1.5)
        until(lambda: not _passes(plane), "the stall is noticed")
        until(lambda: _passes(plane), "the check passes again")


@pytest.mark.parametrize(("number", "known"), [(500, "exact"), (4000, "coarse")])
def test_many_vips(bench: Rig, number: int, known: str) -> None:
    """Hundreds of VIPs are known to the filter; thousands are told apart behind it, and others stay the kernel's."""
    vips = [ip_address(int(ip_address("198.18.0.0")) + 7 * i) for i in range(number)]
    with bench.plane() as plane:
        plane.set(tables(member(bench, 1), protocol=Protocol.UDP, vips=tuple(vips)))
        plane.check()
        assert slow_fact(plane, "filter").startswith(known)
        chosen = random.Random(number).sample(vips, 100)
        bench.near.send(
            *(udp(3000, vip=str(vip)) for vip in chosen), udp(3000, vip="198.18.0.1"), udp(3000, vip="192.0.2.1")
        )
        until(lambda: plane.counters().members["web/m1"].packets == 100, "frames for VIPs are forwarded")
        assert not drops_of(plane.counters())
