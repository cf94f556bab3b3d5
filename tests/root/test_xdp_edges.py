"""What the XDP plane does where things are missing, in the way, or change: a clear event, a defined behaviour."""

import ctypes
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.bpf.libbpf import Attach, BpfError, Link, Object, XdpMode, attach
from appliance.dataplane.base import DataPlaneError
from appliance.dataplane.raw.kernel import Interface
from appliance.dataplane.xdp.directory import build
from appliance.dataplane.xdp.program import Program
from appliance.dataplane.xdp.tables import Capacity, Egress, needs_of
from appliance.forwarding import ForwardingTables
from appliance.model import PortRange, Protocol
from appliance.packet.action import Reason, Verdict
from appliance.packet.checksum import checksum
from appliance.packet.forward import Ingress, PacketPath
from tests.netns import PATIENCE, namespaces, until
from tests.root.plane_rig import Plane, Rig, Wire, inside, mac, receptive, rig, traffic_object
from tests.root.test_planes import INGRESS, SOMEBODY, VIP4, member, serve_tcp, tables, udp, upload, vips_at
from tests.unit.dataplane.frames import L2, L3

pytestmark = pytest.mark.root

_PIDFD_OPEN, _PIDFD_GETFD = 434, 438
libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def bench() -> Iterator[Rig]:
    with rig("xdp") as made:
        yield made


@pytest.fixture
def plain() -> Iterator[Rig]:
    """Cables whose other ends take no XDP frames."""
    with rig("raw") as made:
        yield made


@contextmanager
def running(bench: Rig, kind: str, log: Path | None = None, **settings: int) -> Iterator[Plane]:
    plane = Plane(bench.director, "d0", kind, log=log, **settings)
    try:
        plane.start()
        yield plane
    finally:
        plane.end()


def events(log: Path) -> list[str]:
    """Names of events, in their order."""
    return re.findall(r"\] ([a-z]+\.[a-z_]+)", re.sub(r"\x1b\[[0-9;]*m", "", log.read_text()))


def checked(plane: Plane) -> bool:
    """Ask for proof, as a director does four times a second."""
    try:
        plane.check()
    except DataPlaneError:
        return False
    return True


def mode(plane: Plane) -> str:
    checked(plane)
    return plane.describe()["mode_d0"]


def forwards(bench: Rig, plane: Plane) -> None:
    """Frames for the VIP are forwarded, by whatever path."""
    before = plane.counters().members["web/m1"].packets
    bench.near.send(*(udp(port) for port in range(3000, 3010)))
    until(lambda: plane.counters().members["web/m1"].packets >= before + 10, "frames are forwarded")


def one(bench: Rig, **changes: object) -> ForwardingTables:
    return tables(member(bench, 1, **changes), protocol=Protocol.UDP)  # type: ignore[arg-type]


@contextmanager
def foreign_program(bench: Rig) -> Iterator[None]:
    """Somebody else's program is on d0."""

    def work() -> Link:
        with Object(traffic_object()) as other:
            other.load()
            ifindex = socket.if_nametoindex("d0")
            return attach(other.program("leave_alone"), ifindex, Attach.XDP, XdpMode.NATIVE)

    link = inside(bench.director, work)
    try:
        yield
    finally:
        link.close()


def test_another_program_is_left_where_it_is(bench: Rig, tmp_path: Path) -> None:
    """The one who asked for XDP is told whose place it is and how to free it; auto goes on with raw sockets."""
    with foreign_program(bench):
        plane = Plane(bench.director, "d0", "xdp")
        try:
            with pytest.raises(DataPlaneError, match=r"d0 has another XDP program already \(id \d+, native\).*xdp off"):
                plane.start()
        finally:
            plane.end()
        assert bench.ruleset() == ""
        with running(bench, "auto", tmp_path / "log") as plane:
            plane.set(one(bench))
            plane.check()
            facts = plane.describe()
            assert facts["kind"] == "raw"
            assert "another XDP program" in facts["why_not_xdp"]
            assert "plane.fallback" in events(tmp_path / "log")
            forwards(bench, plane)


def under(capabilities: str) -> tuple[str, ...]:
    caps = f"-all,{capabilities}"
    return ("setpriv", *SOMEBODY, f"--inh-caps={caps}", f"--ambient-caps={caps}", f"--bounding-set={caps}")


def test_four_capabilities_are_enough(bench: Rig) -> None:
    """An ordinary user with these forwards by XDP."""
    plane = Plane(bench.director, "d0", "xdp", under=under("+net_admin,+net_raw,+bpf,+perfmon"))
    try:
        plane.start()
        plane.set(one(bench))
        plane.check()
        assert plane.describe()["mode_d0"] == "native"
        forwards(bench, plane)
    finally:
        plane.end()


@pytest.mark.parametrize(
    ("left", "named"), [("+net_admin,+net_raw", "CAP_BPF"), ("+net_admin,+net_raw,+bpf", "CAP_PERFMON")]
)
def test_a_missing_capability_is_named(bench: Rig, left: str, named: str) -> None:
    """And nothing stays behind."""
    plane = Plane(bench.director, "d0", "xdp", under=under(left))
    try:
        with pytest.raises(DataPlaneError, match=named):
            plane.start()
    finally:
        plane.end()
    assert bench.ruleset() == ""


def test_a_veth_whose_peer_takes_no_frames(plain: Rig) -> None:
    """Native XDP would lose every frame, so it is refused with the remedy; auto goes generic, and says why."""
    plane = Plane(plain.director, "d0", "xdp")
    try:
        with pytest.raises(
            DataPlaneError, match=r"d0 cannot have native XDP: its peer does not take XDP frames.*gro on"
        ):
            plane.start()
    finally:
        plane.end()
    with running(plain, "xdp-auto") as plane:
        plane.set(one(plain))
        assert mode(plane) == "generic"
        assert "gro on" in plane.describe()["why_d0"]
        forwards(plain, plane)


def test_going_native_and_back_while_a_connection_goes_on(plain: Rig, tmp_path: Path) -> None:
    """When the other ends begin to take XDP frames, auto goes native; when they cease, generic. TCP notices nothing."""
    with running(plain, "xdp-auto", tmp_path / "log") as plane, vips_at(plain.member):
        plane.set(tables(member(plain, 1)))
        end = serve_tcp(plain.member, str(VIP4))
        sizes: list[int] = []
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                sizes.append(upload(plain.client, str(VIP4), 300_000))

        thread = threading.Thread(target=work)
        try:
            assert mode(plane) == "generic"
            thread.start()
            plain.client.run("ethtool", "-K", "c0", "gro", "on")
            plain.member.run("ethtool", "-K", "s0", "gro", "on")
            until(lambda: mode(plane) == "native", "native XDP")
            many = len(sizes) + 3
            until(lambda: len(sizes) > many, "uploads by native XDP")
            plain.client.run("ethtool", "-K", "c0", "gro", "off")
            until(lambda: mode(plane) == "generic", "generic XDP")
            many = len(sizes) + 3
            until(lambda: len(sizes) > many, "uploads by generic XDP")
        finally:
            stop.set()
            thread.join()
            end()
        assert set(sizes) == {300_000}
        assert events(tmp_path / "log").count("plane.xdp_attached") == 2


def test_an_egress_that_takes_no_frames_any_more(bench: Rig, tmp_path: Path) -> None:
    """Members behind it get their packets by the slow path, until it takes frames again."""
    with running(bench, "xdp", tmp_path / "log") as plane:
        plane.set(one(bench))
        forwards(bench, plane)
        bench.ends["s0"].close()

        def slow() -> bool:
            checked(plane)
            return "egress_d1" in plane.describe()

        until(slow, "the egress is known to be slow")
        assert "plane.xdp_egress_slow" in events(tmp_path / "log")
        bench.far.receive(0, 0.1)
        bench.near.send(*(udp(port) for port in range(4000, 4020)))
        got = bench.far.receive(20, keep=lambda frame: frame[6:12] == mac("d1") and frame[23] == 17)
        assert len(got) == 20
        assert plane.counters().details["xdp_slow_egress"] >= 20
        bench.ends["s0"] = receptive(bench.member, "s0")
        until(lambda: not slow(), "the egress is quick again")
        before = plane.counters().details["xdp_slow_egress"]
        forwards(bench, plane)
        assert plane.counters().details["xdp_slow_egress"] == before


def test_an_egress_that_was_away_for_a_moment(bench: Rig) -> None:
    """The kernel takes an interface that goes out of the program's reach, and it comes back with the same number."""
    with namespaces("p", prefix="owx") as (elsewhere,), running(bench, "xdp") as plane:
        plane.set(one(bench))
        forwards(bench, plane)
        before = bench.ifindex("d1")
        bench.director.ip(f"link set d1 netns {elsewhere.name}")
        elsewhere.ip(f"link set d1 netns {bench.director.name}")
        assert bench.ifindex("d1") == before
        bench.director.ip("link set d1 up")
        bench.ends["s0"].close()
        bench.ends["s0"] = receptive(bench.member, "s0")

        def arrives() -> bool:
            checked(plane)
            bench.near.send(udp(5000))
            return bool(bench.far.receive(1, 0.2, keep=lambda frame: frame[6:12] == mac("d1") and frame[23] == 17))

        until(arrives, "frames arrive again")


def test_an_interface_with_a_number_like_the_loopback_interface_s(tmp_path: Path) -> None:
    """Numbers are told apart also where their lower bytes are the same."""
    with rig("xdp") as bench:
        numbers = {"d0": 257, "d3": 513}
        bench.director.ip("link del d0")
        for name, peer in (("d0", "c0"), ("d3", "c3")):
            bench.director.ip(
                f"link add {name} index {numbers[name]} type veth peer name {peer} netns {bench.client.name}"
            )
            bench.director.ip(f"link set {name} up")
            bench.client.ip(f"link set {peer} up")
            bench.client.run("ethtool", "-K", peer, "gro", "on")
        bench.director.ip(f"link set d0 address {mac('d0').hex(':')}")
        plane = Plane(bench.director, "d0,d3", "xdp", log=tmp_path / "log")
        try:
            plane.start()
            plane.set(one(bench))
            plane.check()
            plane.check()
            wire = Wire(bench.client, "c0")
            wire.send(udp(3000))
            until(lambda: plane.counters().members["web/m1"].packets == 1, "a frame is forwarded")
            assert plane.explain(udp(3000)).verdict is Verdict.TRANSMIT
            wire.close()
        finally:
            plane.end()


def test_checksums_left_to_a_device_are_no_odd_packets(bench: Rig) -> None:
    """They take the slow path, but as plain packets: no budget cuts them off."""
    with running(bench, "xdp") as plane:
        plane.set(one(bench))
        frame = bytearray(udp(3000))
        pseudo = frame[26:34] + struct.pack("!HH", 17, len(frame) - 34)
        frame[40:42] = (checksum(bytes(pseudo)) ^ 0xFFFF).to_bytes(2, "big")
        for _ in range(4):
            bench.near.send(*[bytes(frame)] * 2500, pause_every=500)
        until(lambda: plane.counters().details["xdp_slow_partial_checksum"] >= 10_000, "all were seen")
        assert plane.counters().reasons.get("slow_path_full", 0) == 0


def test_an_interface_without_xdp(bench: Rig) -> None:
    """A tunnel device's driver has none for us: generic, with the reason."""
    bench.director.ip("link add br0 type bridge")
    bench.director.ip("link set br0 up")
    bench.director.ip("link set d2 master br0")
    plane = Plane(bench.director, "br0", "xdp-auto")
    try:
        plane.start()
        facts = plane.describe()
        assert facts["mode_br0"] == "generic"
        assert "bridge" in facts["why_br0"]
    finally:
        plane.end()


def test_a_program_that_somebody_detaches_comes_back(bench: Rig, tmp_path: Path) -> None:
    """Until then its packets take the slow path."""
    with running(bench, "xdp", tmp_path / "log") as plane:
        plane.set(one(bench))
        forwards(bench, plane)
        fd = borrowed(plane)
        detach = ctypes.CDLL("libbpf.so.1").bpf_link_detach
        assert detach(inside(bench.director, lambda: fd)) == 0
        os.close(fd)
        until(lambda: mode(plane) == "none", "the loss is noticed")
        assert "plane.xdp_lost" in events(tmp_path / "log")
        forwards(bench, plane)
        until(lambda: mode(plane) == "native", "the program is back", 15)
        forwards(bench, plane)
        assert "plane.xdp_attached" in events(tmp_path / "log")


def borrowed(plane: Plane) -> int:
    """A copy of the plane's link on d0."""
    theirs = plane.ask("facts")["link_d0"]
    pidfd = libc.syscall(_PIDFD_OPEN, plane.process.pid, 0)
    assert pidfd >= 0
    try:
        fd = libc.syscall(_PIDFD_GETFD, pidfd, theirs, 0)
    finally:
        os.close(pidfd)
    assert fd >= 0
    return int(fd)


SENDER = """
import socket, sys, time
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("c0", 0))
frame, seconds = bytes.fromhex(sys.argv[1]), float(sys.argv[2])
print("ready", flush=True)
end, sent = time.monotonic() + seconds, 0
while time.monotonic() < end:
    for _ in range(20):
        port = (1024 + sent % 60000).to_bytes(2, "big")
        s.send(frame[:34] + port + frame[36:42] + sent.to_bytes(8, "big") + frame[50:])
        sent += 1
    time.sleep(0.002)
print(sent)
"""


def test_a_killed_plane_leaves_its_program_to_the_next(bench: Rig, tmp_path: Path) -> None:
    """Whoever holds the link keeps the program forwarding; the next process adopts it, and not one packet is lost."""
    first = Plane(bench.director, "d0", "xdp")
    second = None
    fd = -1
    try:
        first.start()
        first.set(one(bench))
        fd = borrowed(first)
        command = bench.client.command(sys.executable, "-c", SENDER, udp(0, size=40).hex(), str(6 * PATIENCE))
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sender:
            assert sender.stdout is not None
            assert sender.stdout.readline() == "ready\n"
            seen: set[int] = set()
            stop = threading.Event()

            def listen() -> None:
                while not stop.is_set():
                    for frame in bench.far.receive(1, 0.2):
                        if frame[6:12] == mac("d1") and frame[23:24] == b"\x11":
                            seen.add(int.from_bytes(frame[42:50], "big"))

            listener = threading.Thread(target=listen)
            listener.start()
            time.sleep(0.5)
            first.kill()
            at_death = len(seen)
            until(lambda: len(seen) > at_death + 500, "packets go on without any process")
            second = Plane(bench.director, "d0", "xdp", inherit=(fd,), log=tmp_path / "log", link_d0=fd)
            second.start()
            assert second.describe()["mode_d0"] == "native"
            time.sleep(0.3)
            second.set(one(bench))
            second.check()
            sent = int(sender.stdout.read())
        until(lambda: len(seen) >= sent, f"all {sent} packets are there", 5)
        stop.set()
        listener.join()
        assert seen == set(range(sent))
        assert "plane.xdp_adopted" in events(tmp_path / "log")
        assert second.counters().members["web/m1"].packets > 100, "the second one's own tables count"
    finally:
        if second is not None:
            second.end()
        if first.process.poll() is None:
            first.kill()
        if fd >= 0:
            os.close(fd)
    assert "prog/xdp" not in bench.director.ip("link show d0"), "nothing stays attached"


def test_another_mtu_and_address_are_followed(bench: Rig) -> None:
    """What is explained agrees with the reference, whatever becomes of the interface."""
    with running(bench, "xdp") as plane:
        wanted = one(bench, mtu=1400)
        for change in ("mtu 1400", "mtu 1500", "address 02:71:00:00:00:22", "address 02:71:00:00:00:02"):
            bench.director.ip(f"link set d0 {change}")
            plane.set(wanted)
            plane.check()
            ours = mac("d0")[:5] + b"\x22" if change.endswith("22") else mac("d0")
            mtu = 1400 if change == "mtu 1400" else 1500
            path, ingress = PacketPath(wanted), Ingress(0, ours, mtu)
            for size in (20, 1372, 1373, 1472):
                frame = ours + udp(5000, size=size)[6:]
                expected, got = path.forward(frame, ingress), plane.explain(frame)
                assert (got.verdict, got.reason) == (expected.verdict, expected.reason), (change, size)


def test_an_object_that_is_not_there_or_broken_is_named(tmp_path: Path) -> None:
    """In a checkout the remedy is to compile it."""
    with pytest.raises(BpfError, match=r"none.bpf.o is missing.*build_bpf.py"):
        Program(path=tmp_path / "none.bpf.o")
    broken = tmp_path / "broken.bpf.o"
    broken.write_bytes(b"no object")
    with pytest.raises(BpfError, match=r"broken.bpf.o"):
        Program(path=broken)
    with pytest.raises(BpfError, match="map controls"):
        Program(path=traffic_object(), names=("leave_alone",))


def test_samples_tell_what_became_of_packets(bench: Rig) -> None:
    """New flows, drops and odd packets are seen, and a flood of drops costs some samples a second only."""
    with running(bench, "xdp") as plane:
        plane.set(tables(member(bench, 1)))
        bench.near.send(*[udp(3000)] * 3000)
        bench.near.send(tcp_syn(4000), with_options(4001))

        def kinds() -> set[tuple[str, str]]:
            return {(event.what, event.reason) for event in plane.ask("samples")}

        wanted = {("new_flow", ""), ("drop", "no_service"), ("slow_path", "options")}
        until(lambda: wanted <= kinds(), "all are seen")
        counters = plane.counters()
        assert counters.reasons[Reason.NO_SERVICE] == 3001
        assert counters.services["web", str(VIP4)].new_flows == 1
        assert counters.details["samples"] < 200
        (seen,) = [event for event in plane.ask("samples") if event.what == "new_flow"]
        assert (seen.source, seen.destination, seen.interface) == ("192.0.2.2:4000", f"{VIP4}:80", "d0")


def tcp_syn(port: int) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 40, 1, 0x4000, 64, 6, 0) + bytes((192, 0, 2, 2)) + VIP4.packed
    head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    return (
        mac("d0") + mac("c0") + b"\x08\x00" + head + struct.pack("!HHIIBBHHH", port, 80, 1, 0, 0x50, 2, 1000, 0x1234, 0)
    )


def test_counters_never_shrink(bench: Rig) -> None:
    """Whatever happens to members, services, maps and interfaces meanwhile, and slow packets are among them."""
    with running(bench, "xdp") as plane:
        both = tables(member(bench, 1), member(bench, 2), protocol=Protocol.UDP)
        alone = tables(member(bench, 1), protocol=Protocol.UDP)
        many = replace(
            both,
            services=both.services
            + tuple(
                replace(both.services[0], index=2 + i, name=f"x{i}", ports=(PortRange(1000 + i, 1000 + i),))
                for i in range(600)
            ),
        )
        total = 0
        for wanted in (both, alone, ForwardingTables(), both, many, alone):
            plane.set(wanted)
            if wanted.services:
                frames = [udp(port) for port in range(2000, 2100)]
                bench.near.send(*frames, with_options(2200), with_options(2201))
                total += len(frames) + 2
                until(lambda total=total: packets(plane) == total, f"{total} packets are counted")
            else:
                assert packets(plane) == total
        bench.director.ip("link set d0 down")
        bench.director.ip("link set d0 up")
        until(lambda: checked(plane), "the interface is back")
        assert packets(plane) == total
        services = plane.counters().services["web", str(VIP4)]
        assert services.packets == total


def with_options(port: int) -> bytes:
    """An odd packet: the slow path forwards it."""
    frame = udp(port)
    head = b"\x46" + frame[15:16] + (len(frame) - 14 + 4).to_bytes(2, "big") + frame[18:24] + bytes(2) + frame[26:34]
    head += b"\x01\x01\x01\x00"
    return frame[:14] + head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + frame[34:]


def packets(plane: Plane) -> int:
    return sum(traffic.packets for traffic in plane.counters().members.values())


@pytest.mark.parametrize("delivery", [L2, L3], ids=["l2", "ipip"])
def test_members_behind_a_vlan_get_its_tag(bench: Rig, delivery: object) -> None:
    """The driver below a VLAN device knows nothing of it: the program writes the tag, whatever tags there were."""
    wanted = tables(member(bench, 1, delivery), protocol=Protocol.UDP)  # type: ignore[arg-type]
    program = Program(Capacity().holding(needs_of(wanted, build(wanted.services, wanted.secret))))
    tag = b"\x81\x00\x00\x05"
    try:
        program.tables.stage(wanted, lambda _: Egress(7, tag))
        program.tables.publish()
        for tags in (b"", b"\x81\x00\x00\x09", b"\x88\xa8\x00\x01\x81\x00\x00\x02"):
            frame = udp(3000)
            frame = frame[:12] + tags + frame[12:]
            expected = PacketPath(wanted).forward(frame, INGRESS)
            outcome, out = program.run(frame, Interface("lo", 0, INGRESS.mac, 1500, True, True))
            assert outcome.exit == "transmit"
            assert expected.verdict is Verdict.TRANSMIT
            assert out == expected.frame[:12] + tag + expected.frame[12:]
    finally:
        program.close()


def test_several_interfaces_have_a_program_each(bench: Rig) -> None:
    """One without, and the others are none the worse."""
    with ExitStack() as stack:
        plane = Plane(bench.director, "d0,d1,d2", "xdp")
        stack.callback(plane.end)
        plane.start()
        plane.set(one(bench))
        facts = plane.describe()
        assert [facts[f"mode_{name}"] for name in ("d0", "d1", "d2")] == ["native"] * 3
        forwards(bench, plane)
