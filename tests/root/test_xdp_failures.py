"""Failures of the XDP plane that come together with something else: remedies that are carried out, others' programs,
interfaces and processes that come back, larger maps with few privileges, counters that are read all the while."""

import ctypes
import fcntl
import itertools
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from appliance.dataplane.base import Counters, DataPlaneError
from appliance.dataplane.raw.kernel import Interface
from appliance.dataplane.xdp.directory import build
from appliance.dataplane.xdp.program import OBJECT, Program
from appliance.dataplane.xdp.tables import Capacity, Egress, needs_of
from appliance.forwarding import NO_MEMBER, SLOTS, ForwardingTables, Placement, SlotArray
from appliance.model import Delivery, PortRange, Protocol
from appliance.packet.action import Verdict
from appliance.packet.forward import Ingress, PacketPath
from tests.netns import until, veth
from tests.root.plane_rig import Plane, Rig, Wire, inside, mac, receptive, rig, traffic_object
from tests.root.test_planes import INGRESS, VIP4, VIP6, member, tables, udp
from tests.root.test_xdp_edges import (
    SENDER,
    borrowed,
    checked,
    events,
    foreign_program,
    forwards,
    mode,
    one,
    packets,
    running,
    under,
    with_options,
)
from tests.unit.dataplane.frames import L2, L3

pytestmark = pytest.mark.root


@pytest.fixture
def bench() -> Iterator[Rig]:
    with rig("xdp") as made:
        yield made


@pytest.fixture
def plain() -> Iterator[Rig]:
    """Cables whose other ends take no XDP frames."""
    with rig("raw") as made:
        yield made


def arrive(bench: Rig, frames: list[bytes], through: str = "d1") -> bool:
    """Whether each of these frames comes out at the member's end of a cable, exactly once."""
    wire = bench.far if through == "d1" else bench.side
    wire.receive(0, 0.1)
    bench.near.send(*frames)
    got = wire.receive(len(frames), keep=lambda frame: frame[6:12] == mac(through) and frame[23] == 17)
    return sorted(frame[12:] for frame in got) == sorted(frame[12:] for frame in frames)


def by_slow_path(plane: Plane) -> int:
    """Packets that the program has left to the slow path."""
    return sum(number for name, number in plane.counters().details.items() if name.startswith("xdp_slow_"))


def with_services(few: ForwardingTables, number: int) -> ForwardingTables:
    """The same, and so many more services on other ports."""
    more = (
        replace(few.services[0], index=len(few.services) + i, name=f"x{i}", ports=(PortRange(1000 + i, 1000 + i),))
        for i in range(number)
    )
    return replace(few, services=(*few.services, *more))


@pytest.mark.parametrize("where", ["xdpgeneric", "xdpdrv"])
def test_the_remedy_for_another_program_works(bench: Rig, where: str) -> None:
    """The command in the text takes off what `ip link` has put there, in either mode; then the plane starts."""
    bench.director.run("ip", "link", "set", "dev", "d0", where, "obj", str(traffic_object()), "program", "leave_alone")
    plane = Plane(bench.director, "d0", "xdp")
    try:
        with pytest.raises(DataPlaneError, match="d0 has another XDP program already") as caught:
            plane.start()
        (remedy,) = re.findall(r"`(ip link [^`]+)`", str(caught.value))
        bench.director.run(*remedy.split())
        plane.start()
        plane.set(one(bench))
        assert mode(plane) == "native"
        forwards(bench, plane)
    finally:
        plane.end()


def test_the_place_of_a_detached_program_may_be_taken(bench: Rig, tmp_path: Path) -> None:
    """Somebody detaches our program and attaches another one: forwarding goes on, we say whose place it is, and take it
    again when it is free."""
    with running(bench, "xdp", tmp_path / "log") as plane:
        plane.set(one(bench))
        forwards(bench, plane)
        detach(bench, plane)
        with foreign_program(bench):
            until(lambda: mode(plane) == "none", "the loss is noticed")
            until(
                lambda: checked(plane) and "another XDP program" in plane.describe()["why_d0"],
                "the other program is found",
            )
            assert arrive(bench, [udp(port) for port in range(4000, 4100)])
        until(lambda: mode(plane) == "native", "our program is back")
        before = by_slow_path(plane)
        assert arrive(bench, [udp(port) for port in range(4000, 4100)])
        assert by_slow_path(plane) == before
        names = [name for name in events(tmp_path / "log") if name in ("plane.xdp_lost", "plane.xdp_attached")]
        assert names == ["plane.xdp_lost", "plane.xdp_attached"]


def detach(bench: Rig, plane: Plane) -> None:
    """Take the plane's program off d0 behind its back."""
    fd = borrowed(plane)
    try:
        detach_link(fd)
    finally:
        os.close(fd)


def detach_link(fd: int) -> None:
    assert ctypes.CDLL("libbpf.so.1").bpf_link_detach(fd) == 0


def test_larger_maps_with_four_capabilities(bench: Rig, tmp_path: Path) -> None:
    """An ordinary user's plane replaces its program by one with larger maps; the program, and no slow path, forwards
    before and after, and nothing is lost from the counters."""
    plane = Plane(bench.director, "d0", "xdp", under=under("+net_admin,+net_raw,+bpf,+perfmon"), log=tmp_path / "log")
    frames = [udp(port) for port in range(4000, 4100)]
    try:
        plane.start()
        plane.set(one(bench))
        assert arrive(bench, frames)
        plane.set(with_services(one(bench), 600))
        assert "plane.xdp_larger_maps" in events(tmp_path / "log")
        plane.check()
        assert arrive(bench, frames)
        assert packets(plane) == 200
        assert by_slow_path(plane) == 0
    finally:
        plane.end()


@pytest.mark.parametrize("planned", [True, False], ids=["planned", "not planned"])
def test_all_pools_go_into_a_window_at_once(bench: Rig, tmp_path: Path, planned: bool) -> None:
    """A machine that is in all pools drains and comes back: maps that were made for so many pools have room for that,
    whatever comes next. Other maps are replaced."""
    pools = 41
    with running(bench, "xdp", tmp_path / "log", slot_tables=pools * planned) as plane:
        steady, drained, back = (np.full(SLOTS, 1 | previous << 16, np.uint32) for previous in (1, 2, NO_MEMBER))
        for words in (steady, drained, back, drained, steady):
            plane.set(with_words(bench, pools, words))
            plane.check()
        memory = float(plane.describe()["map_memory_mib"])
    assert ("plane.xdp_larger_maps" in events(tmp_path / "log")) == (not planned)
    assert memory < 100


def with_words(bench: Rig, pools: int, words: SlotArray) -> ForwardingTables:
    """A service for each of so many pools, each with slots of its own, all of which have the same words."""
    first = tables(member(bench, 1), member(bench, 2), protocol=Protocol.UDP, vips=(VIP4,))
    services = with_services(first, pools - 1).services
    return replace(first, services=tuple(replace(service, slots=words.copy()) for service in services))


def test_native_beside_a_peer_that_merges(plain: Rig) -> None:
    """A peer with GRO alone takes XDP frames, also those that go back where they came from."""
    plain.client.run("ethtool", "-K", "c0", "gro", "on")
    here = member(
        plain, 1, ifindex=plain.ifindex("d0"), interface="d0", source_mac=mac("d0"), mac=bytes.fromhex("0271000000aa")
    )
    with running(plain, "xdp") as plane:
        plane.set(tables(here, protocol=Protocol.UDP))
        assert mode(plane) == "native"
        plain.near.receive(0, 0.1)
        frames = [udp(port) for port in range(4000, 4100)]
        for frame in frames:
            plain.near.send(frame)
        got = plain.near.receive(100, keep=lambda frame: frame[:6] == here.next_hop.mac)
        assert sorted(frame[12:] for frame in got) == sorted(frame[12:] for frame in frames)
        assert by_slow_path(plane) == 0


def test_a_slow_egress_slows_nobody_else(bench: Rig, tmp_path: Path) -> None:
    """Members behind another interface keep the program's speed, and no member misses a packet."""
    aside = member(bench, 2, ifindex=bench.ifindex("d2"), interface="d2", source_mac=mac("d2"), mac=mac("t0"))
    with running(bench, "xdp", tmp_path / "log") as plane:
        plane.set(tables(member(bench, 1), aside, protocol=Protocol.UDP))
        bench.ends["s0"].close()
        until(lambda: checked(plane) and "egress_d1" in plane.describe(), "the egress is known to be slow", 3)
        assert "plane.xdp_egress_slow" in events(tmp_path / "log")
        before = plane.counters()
        bench.near.send(*(udp(port) for port in range(4000, 4400)))
        until(lambda: packets(plane) >= sum(t.packets for t in before.members.values()) + 400, "all are forwarded")
        after = plane.counters()
        grown = {name: after.members[name].packets - before.members[name].packets for name in after.members}
        slow = after.details["xdp_slow_egress"] - before.details["xdp_slow_egress"]
        assert sum(grown.values()) == 400
        assert slow == grown["web/m1"] > 100
        assert "egress_d2" not in plane.describe()


def test_nothing_that_may_come_later_holds_the_slow_path_up(bench: Rig) -> None:
    """Before anybody waits for packets that are under way by the tables before, program and slow path follow the new
    ones."""
    with running(bench, "xdp") as plane:
        plane.set(one(bench))
        seen = plane.ask("set_and_look", tables(member(bench, 2), protocol=Protocol.UDP), udp(4000), "d0")
        assert [(program.member, slow.member) for program, slow in seen] == [(2, 2)]


def test_an_interface_that_comes_back_gets_its_program_again(bench: Rig, tmp_path: Path) -> None:
    """With another number: check fails meanwhile, set mends it, the program is native again, and no counter shrinks."""
    frames = [udp(port) for port in range(4000, 4100)]
    with running(bench, "xdp", tmp_path / "log") as plane:
        plane.set(one(bench))
        bench.near.send(*frames, with_options(5000))
        until(lambda: packets(plane) == 101, "all are counted")
        before, number = plane.counters(), bench.ifindex("d0")
        bench.director.ip("link del d0")
        with pytest.raises(DataPlaneError, match="d0 is gone"):
            plane.check()
        with pytest.raises(DataPlaneError, match="no interface d0"):
            plane.set(one(bench))
        assert shrunk(before, plane.counters()) == []
        assert plane.describe()["why_d0"] == "interface d0 is gone"
        veth(bench.client, "c0", bench.director, "d0")
        bench.director.ip(f"link set d0 address {mac('d0').hex(':')}")
        assert bench.ifindex("d0") != number
        bench.ends["c0"].close()
        bench.ends["c0"] = receptive(bench.client, "c0")
        plane.set(one(bench))
        plane.check()
        assert plane.describe()["mode_d0"] == "native"
        wire = Wire(bench.client, "c0")
        try:
            wire.send(*frames)
            until(lambda: packets(plane) == 201, "all are counted")
        finally:
            wire.close()
        after = plane.counters()
        assert shrunk(before, after) == []
        assert by_slow_path(plane) == 1, "that one was before"
        names = events(tmp_path / "log")
        assert names.index("plane.xdp_lost") < names.index("plane.xdp_attached")


def shrunk(before: Counters, after: Counters) -> list[str]:
    """Names of counters that are smaller than they were."""
    smaller = []
    for kind in ("services", "members"):
        for name, traffic in getattr(before, kind).items():
            now = getattr(after, kind).get(name)
            if now is None or now.packets < traffic.packets or now.bytes < traffic.bytes:
                smaller.append(f"{kind} {name}: {traffic}, then {now}")
    for kind in ("reasons", "replies", "details"):
        for name, number in getattr(before, kind).items():
            if getattr(after, kind).get(name, 0) < number:
                smaller.append(f"{kind} {name}: {number}, then {getattr(after, kind).get(name)}")
    return smaller


def test_the_loopback_interface_is_refused(bench: Rig) -> None:
    """Native XDP is refused with the reason: no driver is there."""
    plane = Plane(bench.director, "lo", "xdp")
    try:
        with pytest.raises(DataPlaneError, match=r"\blo\b.*(XDP|loopback|Ethernet)"):
            plane.start()
    finally:
        plane.end()
    assert bench.ruleset() == ""


def open_tunnel(bench: Rig, name: str, flags: int) -> int:
    """A TUN or TAP interface in the director that is up, and the descriptor that frames come from."""

    def make() -> int:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH14x", name.encode(), flags | 0x1000))  # TUNSETIFF: IFF_NO_PI
        return fd

    fd = inside(bench.director, make)
    bench.director.ip(f"link set {name} up")
    return fd


def test_a_tun_interface_has_no_native_xdp(bench: Rig) -> None:
    """It carries packets without Ethernet headers: refused, with the driver's name."""
    tun = open_tunnel(bench, "tun0", 1)
    plane = Plane(bench.director, "tun0", "xdp")
    try:
        with pytest.raises(DataPlaneError, match=r"tun0 cannot have native XDP: its driver \(tun\) has no XDP"):
            plane.start()
    finally:
        plane.end()
        os.close(tun)
    assert bench.ruleset() == ""


def test_a_tap_interface_is_native(bench: Rig) -> None:
    """Frames that a virtual machine would write are forwarded by the program."""
    tap = open_tunnel(bench, "tap0", 2)
    bench.director.ip(f"link set tap0 address {mac('d0').hex(':')}")
    plane = Plane(bench.director, "tap0", "xdp")
    try:
        plane.start()
        plane.set(one(bench))
        plane.check()
        assert plane.describe()["mode_tap0"] == "native"
        frames = [udp(port) for port in range(4000, 4100)]
        bench.far.receive(0, 0.1)
        for frame in frames:
            os.write(tap, frame)
        got = bench.far.receive(100, keep=lambda frame: frame[6:12] == mac("d1") and frame[23] == 17)
        assert sorted(frame[12:] for frame in got) == sorted(frame[12:] for frame in frames)
        assert packets(plane) == 100
        assert by_slow_path(plane) == 0
    finally:
        plane.end()
        os.close(tap)


def test_another_address_fails_the_check_until_the_next_set(bench: Rig, tmp_path: Path) -> None:
    """Setting the same tables again mends it: the program judges packets by the interface's present address."""
    with running(bench, "xdp", tmp_path / "log") as plane:
        wanted = one(bench)
        plane.set(wanted)
        path = PacketPath(wanted)
        for ours in (mac("d0")[:5] + b"\x22", mac("d0")):
            bench.director.ip(f"link set d0 address {ours.hex(':')}")
            with pytest.raises(DataPlaneError, match=r"d0.*address"):
                plane.check()
            plane.set(wanted)
            plane.check()
            assert plane.describe()["mode_d0"] == "native"
            for destination in (mac("d0")[:5] + b"\x22", mac("d0")):
                frame = destination + udp(5000)[6:]
                expected, got = path.forward(frame, Ingress(0, ours, 1500)), plane.explain(frame)
                assert (got.verdict, got.reason, got.member) == (expected.verdict, expected.reason, expected.member)
        assert events(tmp_path / "log").count("plane.xdp_interface_changed") == 2


@pytest.mark.parametrize("contents", ["empty", "text", "half", "another"])
def test_a_broken_object_is_named_and_auto_does_without(bench: Rig, tmp_path: Path, contents: str) -> None:
    """The one who asked for XDP is told which file it is, and nothing stays behind; auto forwards by raw sockets."""
    broken = tmp_path / "broken.bpf.o"
    whole = OBJECT.read_bytes()
    broken.write_bytes(
        {
            "empty": b"",
            "text": b"no object",
            "half": whole[: len(whole) // 2],
            "another": traffic_object().read_bytes(),
        }[contents]
    )
    instead = ("unshare", "-m", "sh", "-c", 'mount --bind "$0" "$1"; shift; exec "$@"', str(broken), str(OBJECT))
    plane = Plane(bench.director, "d0", "xdp", under=instead)
    try:
        with pytest.raises(DataPlaneError, match=r"the XDP program cannot be loaded.*balance"):
            plane.start()
    finally:
        plane.end()
    assert bench.ruleset() == ""
    plane = Plane(bench.director, "d0", "auto", under=instead, log=tmp_path / "log")
    try:
        plane.start()
        plane.set(one(bench))
        assert "cannot be loaded" in plane.describe()["why_not_xdp"]
        assert "plane.fallback" in events(tmp_path / "log")
        forwards(bench, plane)
    finally:
        plane.end()


def test_a_link_that_is_attached_nowhere_is_not_adopted(bench: Rig, tmp_path: Path) -> None:
    """An earlier process has left one that somebody has detached since: the program is attached as ever."""
    first = Plane(bench.director, "d0", "xdp")
    try:
        first.start()
        first.set(one(bench))
        fd = borrowed(first)
    finally:
        first.kill()
    try:
        detach_link(fd)
        with running(bench, "xdp", tmp_path / "log", inherit=(fd,), link_d0=fd) as plane:  # type: ignore[arg-type]
            assert "plane.xdp_adopted" not in events(tmp_path / "log")
            plane.set(one(bench))
            assert mode(plane) == "native"
            assert arrive(bench, [udp(port) for port in range(4000, 4100)])
            assert plane.ask("descriptors", "bpf_link") == 1, "the one that is of no use is closed"
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("left", "kind", "becomes"),
    [("xdp-generic", "xdp-auto", "native"), ("xdp-generic", "xdp", "native"), ("xdp", "xdp-generic", "generic")],
)
def test_an_adopted_program_gets_the_mode_that_is_wanted_now(
    bench: Rig, tmp_path: Path, left: str, kind: str, becomes: str
) -> None:
    """An earlier process attached it in another mode; it goes on in that until the first tables are in force."""
    first = Plane(bench.director, "d0", left)
    try:
        first.start()
        first.set(one(bench))
        fd = borrowed(first)
    finally:
        first.kill()
    plane = Plane(bench.director, "d0", kind, inherit=(fd,), log=tmp_path / "log", link_d0=fd)
    os.close(fd)
    try:
        plane.start()
        assert mode(plane) != becomes
        plane.set(one(bench))
        until(lambda: mode(plane) == becomes, f"{becomes} XDP")
        before = by_slow_path(plane)
        assert arrive(bench, [udp(port) for port in range(4000, 4100)])
        assert by_slow_path(plane) == before
    finally:
        plane.end()


def test_counters_never_shrink_while_everything_changes(bench: Rig) -> None:
    """Read all the while that members and services come and go and maps are replaced, under traffic; in the end they
    are exactly what was sent."""
    few, both = one(bench), tables(member(bench, 1), member(bench, 2), protocol=Protocol.UDP)
    rounds = [both, few, with_services(both, 600), few, with_services(both, 2500), both, few, both]
    with running(bench, "xdp") as plane:
        plane.set(both)
        command = bench.client.command(sys.executable, "-c", SENDER, udp(0, size=40).hex(), "2")
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sender:
            assert sender.stdout is not None
            assert sender.stdout.readline() == "ready\n"
            readings = plane.ask("watch", rounds)
            sent = int(sender.stdout.read())
        readings.append(plane.counters())
        assert len(readings) >= len(rounds)
        for before, after in itertools.pairwise(readings):
            assert shrunk(before, after) == []
        until(lambda: packets(plane) == sent, f"all {sent} packets are counted", 3)
        assert plane.counters().services["web", str(VIP4)].packets == sent


@pytest.mark.parametrize("what", [("slots",), ("ways", "macs")], ids=["members", "addresses"])
def test_a_program_that_is_wrong_is_taken_off(bench: Rig, tmp_path: Path, what: tuple[str, ...]) -> None:
    """A check finds that it sends packets elsewhere than the reference; the slow path has them from then on, and they
    go where they should."""
    frames = [udp(port) for port in range(4000, 4100)]
    with running(bench, "xdp", tmp_path / "log") as plane:
        plane.set(one(bench))
        plane.check()
        plane.ask("corrupt", *what)
        plane.check()
        assert "plane.xdp_disproved" in events(tmp_path / "log")
        facts = plane.describe()
        assert facts["mode_d0"] == "none"
        assert "program and reference differ" in facts["why_d0"]
        assert arrive(bench, frames)
        plane.check()
        assert plane.describe()["mode_d0"] == "none"


@pytest.mark.parametrize(
    "what",
    [("choices",), ("policies", "placement"), ("member_ways",)],
    ids=lambda what: ".".join(what),
)
def test_choices_are_proved(bench: Rig, what: tuple[str, ...]) -> None:
    """A program that takes other members than the algorithm has chosen is taken off."""
    wanted = one(bench)
    placed = [
        replace(service, placement=Placement.PER_PACKET, choices=np.array([1], np.uint16))
        for service in wanted.services
    ]
    with running(bench, "xdp") as plane:
        plane.set(replace(wanted, services=tuple(placed)))
        for _ in range(3):
            plane.check()
        assert plane.describe()["mode_d0"] == "native"
        plane.ask("corrupt", *what)
        plane.check()
        facts = plane.describe()
        assert facts["mode_d0"] == "none"
        assert "program and reference differ" in facts["why_d0"]
        assert arrive(bench, [udp(port) for port in range(4000, 4100)])


def test_more_members_than_the_program_can_have(bench: Rig) -> None:
    """Such tables are refused with the number, the old ones stay in force, and the larger maps are given back."""
    first = member(bench, 1)
    crowd = [replace(first, index=1 + i, id=f"web/m{1 + i}") for i in range(0x8000)]
    many = tables(*crowd, protocol=Protocol.UDP)
    with running(bench, "xdp") as plane:
        plane.set(one(bench))
        maps = plane.ask("descriptors", "bpf-map")
        assert maps > 0
        with pytest.raises(DataPlaneError, match=r"cannot follow the new tables: 32768 ways, room for 32767"):
            plane.set(many)
        assert plane.ask("descriptors", "bpf-map") == maps
        plane.check()
        assert arrive(bench, [udp(port) for port in range(4000, 4100)])
        assert by_slow_path(plane) == 0
        assert packets(plane) == 100


@pytest.mark.parametrize("tag", [b"\x81\x00\x00\x05", b"\x88\xa8\x0f\xff"], ids=["802.1Q", "802.1ad"])
@pytest.mark.parametrize("delivery", [L2, L3], ids=["l2", "ipip"])
@pytest.mark.parametrize("address", ["203.0.113.2", "2001:db8:2::2"])
@pytest.mark.parametrize("vip", [VIP4, VIP6])
def test_tags_of_all_kinds(bench: Rig, tag: bytes, delivery: Delivery, address: str, vip: object) -> None:
    """The egress's tag is the only one, whatever the frame had and whatever it is wrapped in."""
    wanted = tables(member(bench, 1, delivery, address), protocol=Protocol.UDP)
    program = Program(Capacity().holding(needs_of(wanted, build(wanted.services, wanted.secret))))
    try:
        program.tables.stage(wanted, lambda _: Egress(7, tag))
        program.tables.publish()
        for tags in (b"", b"\x81\x00\x00\x09", b"\x88\xa8\x00\x01\x81\x00\x00\x02"):
            frame = udp(3000, vip=str(vip))
            frame = frame[:12] + tags + frame[12:]
            expected = PacketPath(wanted).forward(frame, INGRESS)
            outcome, out = program.run(frame, Interface("lo", 0, INGRESS.mac, 1500, True, True))
            assert outcome.exit == "transmit"
            assert expected.verdict is Verdict.TRANSMIT
            assert out == expected.frame[:12] + tag + expected.frame[12:]
    finally:
        program.close()
