"""Benchmark of the XDP program: nanoseconds a packet in test runs, packets a second on veth, time to change tables.

    tests/run bench xdp [--quick] [--rounds N] [--json FILE] [--strict]

Test runs measure the program alone: front.bpf.c writes each packet's headers anew and hands over by a tail call; what
that costs with an empty program is taken off. Contenders take turns, every round gives one ratio, the median is the
result. README.md says what is compared.
"""

import argparse
import json
import os
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

import numpy as np
import numpy.typing as npt

from appliance.bpf.libbpf import Attach, Link, Object, TestRunner, XdpMode, attach
from appliance.dataplane.raw.compiled import Compiled
from appliance.dataplane.raw.kernel import Interface, read_interface
from appliance.dataplane.xdp import layout
from appliance.dataplane.xdp.attach import Attachment, Mode
from appliance.dataplane.xdp.directory import build
from appliance.dataplane.xdp.program import OBJECT, Program
from appliance.dataplane.xdp.tables import Capacity, Egress, needs_of
from appliance.forwarding import (
    NO_MEMBER,
    SLOTS,
    ForwardingTables,
    NextHop,
    Placement,
    SlotArray,
    TableMember,
    TableService,
)
from appliance.model import Delivery, DsrType, Encapsulation, HashMode, PortRange, Protocol
from tests.bench.raw import Figure, at_most, print_table, progress, read_json, write_json
from tests.bench.rig import BenchError, compiled, exclusive
from tests.netns import Namespace, namespaces, veth

ROOT = Path(__file__).parent.parent.parent
SOURCES = Path(__file__).parent / "xdp_programs"
LO = 1
OUR_MAC, MEMBER_MAC = (bytes((2, which, 0, 0, 0, 1)) for which in (1, 2))
# By the last two bytes the program sees that a sender is none of these. Over the few that agree there it takes longer.
CLIENT_MAC = bytes((2, 3, 0, 0, 0x5A, 0x77))
CLIENT_V6 = ip_address("2001:db8:1::")
VIP4, VIP6 = ip_address("198.18.128.0"), ip_address("2001:db8:f::")
STRANGER = ip_address("198.51.100.99")
FRAME = 84
ACK, SYN = 0x10, 0x02
FLOWS = (1, 1024, 65_536, 524_288)
SERVICES = (1, 100, 10_000)
OWN_POOLS = PLANE_POOLS = 1000
L2, IPIP = Delivery(DsrType.L2, None), Delivery(DsrType.L3, Encapsulation.IPIP)

SETTING = np.dtype(
    [
        ("length", "<u4"), ("v6", "<u4"), ("flows", "<u4"), ("services", "<u4"), ("sum", "<u4"),
        ("destination", "<u4"), ("turn", "<u8"), ("head", "u1", 80),
    ]
)  # fmt: skip
"""`struct setting` of front.bpf.c."""

ELSEWHERE = """\
Measured by us on machines of this kind, in other runs: net ns of an IPIP packet at 1 / 65,536 / 524,288 flows
  Katran         134-146 / 507-564 / 779
  xvs (vc5)      550 / 976 / 1187
  glb-director   138 / 173 / -
"""


@dataclass(frozen=True)
class Traffic:
    """Packets of one kind."""

    flows: int = 65_536
    services: int = 1
    v6: bool = False
    destination: object = None
    """The first destination address; a VIP when None."""

    flags: int = ACK
    """Of TCP."""

    udp: bool = False


class Front:
    """front.bpf.c, loaded: makes packets and hands them to a program."""

    def __init__(self, path: Path) -> None:
        self.object = Object(path)
        self.object.load()
        self._setting = np.frombuffer(self.object.map("settings").memory(SETTING.itemsize), SETTING)
        self._target = self.object.map("target")
        self._runner = TestRunner(self.object.program("front"))
        self._frame = bytes(FRAME)

    def aim(self, program_fd: int, traffic: Traffic) -> None:
        """Test that program with this traffic from now on."""
        self._target.update(struct.pack("=I", 0), struct.pack("=I", program_fd))
        self._frame = frame(traffic)
        setting = self._setting[0]
        setting["length"], setting["v6"] = FRAME, traffic.v6
        setting["flows"], setting["services"] = traffic.flows - 1, traffic.services
        first = traffic.destination or (VIP6 if traffic.v6 else VIP4)
        setting["destination"] = int(ip_address(str(first))) & 0xFFFFFFFF
        setting["sum"] = sum(struct.unpack("<5H", self._frame[14:24]))
        setting["head"] = np.frombuffer(self._frame[:80], np.uint8)

    def run(self, times: int) -> tuple[int, float]:
        """What the program returned last, and nanoseconds a packet."""
        done = self._runner.run(self._frame, repeat=times)
        return done.verdict, float(done.ns)

    def close(self) -> None:
        self.object.close()


def frame(traffic: Traffic) -> bytes:
    """A packet whose addresses, source port and IPv4 header checksum are still to be filled in."""
    payload = FRAME - 14 - (40 if traffic.v6 else 20)
    protocol = Protocol.UDP if traffic.udp else Protocol.TCP
    segment = struct.pack("!HHIIBBHHH", 0, 80, 1, 1, 0x50, traffic.flags, 65535, 0, 0)
    if traffic.udp:
        segment = struct.pack("!HHHH", 0, 80, payload, 0)
    segment = segment.ljust(payload, b"\0")
    if traffic.v6:
        head = struct.pack("!IHBB", 6 << 28, payload, protocol, 64) + CLIENT_V6.packed + VIP6.packed
        return OUR_MAC + CLIENT_MAC + b"\x86\xdd" + head + segment
    head = struct.pack("!BBHHHBBHII", 0x45, 0, FRAME - 14, 0, 0x4000, 64, protocol, 0, 0, 0)
    return OUR_MAC + CLIENT_MAC + b"\x08\x00" + head + segment


def tables(delivery: Delivery, v6: bool, services: int = 1, ifindex: int = LO, pools: int = 1) -> ForwardingTables:
    """Services on consecutive VIPs, with 8 members for each pool of 65,537 slots."""
    members: dict[int, TableMember] = {}
    slots: list[SlotArray] = []
    for pool in range(pools):
        for number in range(8 * pool, 8 * pool + 8):
            mac = MEMBER_MAC[:4] + number.to_bytes(2, "big")
            source = ip_address("2001:db8:2::1" if v6 else "203.0.113.1")
            hop = NextHop(ifindex, "lo", OUR_MAC, mac, 1500, source, direct=True)
            address = ip_address(int(ip_address("2001:db8:3::" if v6 else "198.18.0.0")) + number)
            members[number] = TableMember(number, f"p{pool}/m{number}", address, delivery, hop)
        owners = np.random.default_rng(pool).integers(8 * pool, 8 * pool + 8, SLOTS, dtype=np.uint32)
        array = owners | owners << np.uint32(16)
        array.flags.writeable = False
        slots.append(array)
    first = int(VIP6 if v6 else VIP4)
    return ForwardingTables(
        b"secret of the bench",
        tuple(
            TableService(
                i, f"s{i}", ip_address(first + i), Protocol.TCP, (PortRange(80, 80),), HashMode.FIVE_TUPLE,
                slots[i % pools],
            )
            for i in range(services)
        ),
        members,
    )  # fmt: skip


def direct(member: TableMember) -> Egress:
    return Egress(member.next_hop.ifindex)


def loaded(wanted: ForwardingTables, path: Path = OBJECT, names: Sequence[str] = ("balance_frags",)) -> Program:
    """The program with these tables in force; packets from the loopback interface count as any others."""
    program = Program(Capacity().holding(needs_of(wanted, build(wanted.services, wanted.secret))), path, names)
    program.tables.set_port(LO, OUR_MAC, 1500)
    program.tables.stage(wanted, direct)
    program.tables.publish()
    return program


@dataclass
class Contender:
    name: str
    fd: int
    traffic: Traffic
    verdict: int
    """What it must return, or it does not do what is to be measured."""

    times: int = 400_000
    warm: int | None = None
    """Packets before it is measured for the first time; None: enough for caches and tables of flows to fill."""

    warm_again: int = 20_000
    """Packets before it is measured once more."""

    prepare: Callable[[], None] | None = None
    """Done before each turn."""


XDP_DROP, XDP_PASS, XDP_TX = 1, 2, 3


def take_turns(front: Front, contenders: Sequence[Contender], rounds: int) -> dict[str, list[float]]:
    """Nanoseconds a packet, by contender and round. Each warms up first: caches and tables of flows fill."""
    times: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for number in range(rounds):
        for contender in contenders if number % 2 == 0 else reversed(contenders):
            front.aim(contender.fd, contender.traffic)
            first = max(20_000, 4 * contender.traffic.flows) if contender.warm is None else contender.warm
            front.run(contender.warm_again if number else first)
            if contender.prepare is not None:
                contender.prepare()
            verdict, ns = front.run(contender.times)
            if verdict != contender.verdict:
                raise BenchError(f"{contender.name}: the program returned {verdict}, not {contender.verdict}")
            times[contender.name].append(ns)
    return times


def net(times: dict[str, list[float]], name: str, empty: str) -> list[float]:
    return [a - b for a, b in zip(times[name], times[empty], strict=True)]


def over(mine: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(mine, theirs, strict=True)]


def span(values: Sequence[float], digits: int = 0) -> str:
    return f"{min(values):.{digits}f}..{max(values):.{digits}f}"


def front_of(objects: Path, stack: ExitStack) -> Front:
    front = Front(objects / "front.bpf.o")
    stack.callback(front.close)
    return front


def test_runs(objects: Path, rounds: int, stack: ExitStack) -> Iterator[Figure]:
    front = front_of(objects, stack)
    empty = front.object.program("empty")

    def program(wanted: ForwardingTables, *which: object) -> Program:
        made = loaded(wanted, *which)  # type: ignore[arg-type]
        stack.callback(made.close)
        return made

    lru = objects / "with_lru.bpf.o", ("with_lru",)
    ours = {
        "l2": program(tables(L2, v6=False)),
        "ipip": program(tables(IPIP, v6=False)),
        "ip6ip6": program(tables(IPIP, v6=True)),
    }
    contenders = []
    for flows in FLOWS:
        v4, v6 = Traffic(flows), Traffic(flows, v6=True)
        contenders += [
            Contender(f"empty.v4.{flows}", empty, v4, XDP_PASS),
            Contender(f"empty.v6.{flows}", empty, v6, XDP_PASS),
            Contender(f"l2.{flows}", ours["l2"].fd, v4, XDP_TX),
            Contender(f"ipip.{flows}", ours["ipip"].fd, v4, XDP_TX),
            Contender(f"ip6ip6.{flows}", ours["ip6ip6"].fd, v6, XDP_TX),
            Contender(f"pass.{flows}", ours["ipip"].fd, replace(v4, destination=STRANGER), XDP_PASS),
        ]
        if flows != 1024:
            fd = program(tables(IPIP, v6=False), *lru).fd
            contenders.append(Contender(f"lru.{flows}", fd, v4, XDP_TX))
    progress(f"test runs by number of flows: {len(contenders)} contenders, {rounds} rounds")
    times = take_turns(front, contenders, rounds)
    goals = {"ipip.1": 75.0, "ipip.65536": 85.0, "ipip.524288": 95.0}
    for kind in ("l2", "ipip", "ip6ip6", "pass"):
        for flows in FLOWS:
            version = "v6" if kind == "ip6ip6" else "v4"
            mine = net(times, f"{kind}.{flows}", f"empty.{version}.{flows}")
            goal = goals.get(f"{kind}.{flows}")
            yield at_most(f"xdp.{kind}.net_ns.{flows}", statistics.median(mine), "ns", goal, span(mine))
    for flows in (1, 65_536, 524_288):
        mine, theirs = (net(times, f"{name}.{flows}", f"empty.v4.{flows}") for name in ("ipip", "lru"))
        goal = 0.20 if flows == 65_536 else None
        yield ratio(f"xdp.ipip.vs_lru.{flows}", mine, theirs, "ns", goal, "LRU_HASH of 1,048,576 flows beside it")
    few, many = (net(times, f"ipip.{flows}", f"empty.v4.{flows}") for flows in (1, 524_288))
    yield ratio("xdp.flat.flows", many, few, "ns", 1.3, "IPIP at 524,288 flows / at 1")

    contenders = []
    for services in SERVICES:
        v4 = Traffic(65_536, services)
        fd = program(tables(IPIP, v6=False, services=services)).fd
        contenders += [
            Contender(f"empty.{services}", empty, v4, XDP_PASS),
            Contender(f"services.{services}", fd, v4, XDP_TX),
        ]
    fd = program(tables(IPIP, v6=False, services=OWN_POOLS, pools=OWN_POOLS)).fd
    contenders.append(Contender("empty.pools", empty, Traffic(65_536, OWN_POOLS), XDP_PASS))
    contenders.append(Contender("pools", fd, Traffic(65_536, OWN_POOLS), XDP_TX))
    for name, flags in (("syn", SYN), ("ack", ACK)):
        contenders.append(Contender(f"empty.{name}", empty, Traffic(65_536, flags=flags), XDP_PASS))
        contenders.append(Contender(name, ours["ipip"].fd, Traffic(65_536, flags=flags), XDP_TX))
    progress(f"test runs by number of services: {len(contenders)} contenders, {rounds} rounds")
    times = take_turns(front, contenders, rounds)
    for services in SERVICES:
        mine = net(times, f"services.{services}", f"empty.{services}")
        yield at_most(f"xdp.ipip.net_ns.services.{services}", statistics.median(mine), "ns", None, span(mine))
    one, most = (net(times, f"services.{services}", f"empty.{services}") for services in (1, 10_000))
    yield ratio("xdp.flat.services", most, one, "ns", 1.3, "IPIP over 10,000 virtual services / over 1")
    note = f"IPIP over {OWN_POOLS} services, each with 65,537 slots of its own"
    mine = net(times, "pools", "empty.pools")
    yield at_most(f"xdp.ipip.net_ns.pools.{OWN_POOLS}", statistics.median(mine), "ns", None, f"{span(mine)}; {note}")
    syn, ack = net(times, "syn", "empty.syn"), net(times, "ack", "empty.ack")
    yield ratio("xdp.syn_vs_ack", syn, ack, "ns", None, "IPIP; every packet opens a connection / none does")


NEW_FLOWS = 1 << 22
"""So many that a packet's flow was hardly ever there before."""

AGAIN = 4 * 65_536
"""Packets after which nearly every flow was used in this turn. What it costs to note that a flow was used, once in a
second, would otherwise be a part of the figure that depends on how often contenders change."""


def windowed(slots: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """The same slots, each on its way from the next one of eight members."""
    owners = slots & np.uint32(0xFFFF)
    return owners | (owners + np.uint32(1)) % np.uint32(8) << np.uint32(16)


def remembering(front: Front, rounds: int, stack: ExitStack) -> Iterator[Figure]:
    """What it costs when more than the slot decides: IPIP, IPv4, over the same in the steady state."""
    empty = front.object.program("empty")
    steady = tables(IPIP, v6=False)
    one = steady.services[0]
    owners = one.slots & np.uint32(0xFFFF)
    turns = np.arange(8, dtype=np.uint16)

    def program(**changes: object) -> Program:
        made = loaded(replace(steady, services=(replace(one, **changes),)))  # type: ignore[arg-type]
        stack.callback(made.close)
        return made

    def emptied(of: Program) -> Callable[[], None]:
        words = of.pin_table().words

        def work() -> None:
            words[:] = 0

        return work

    window = windowed(one.slots)
    tail = owners | np.uint32(NO_MEMBER << 16)
    per_flow = {"placement": Placement.PER_FLOW, "choices": turns}
    few, many = Traffic(65_536), Traffic(NEW_FLOWS)
    learning, opening = program(slots=window), program(slots=window)
    contenders = [
        Contender("steady", program().fd, few, XDP_TX),
        Contender("steady.new", program().fd, many, XDP_TX, warm=20_000),
        Contender("steady.syn", program().fd, replace(many, flags=SYN), XDP_TX, warm=20_000),
        Contender("window", program(slots=window).fd, few, XDP_TX, warm_again=AGAIN),
        Contender("tail", program(slots=tail).fd, few, XDP_TX, warm_again=AGAIN),
        Contender("per_flow", program(**per_flow).fd, few, XDP_TX, warm_again=AGAIN),
        Contender("learned", learning.fd, many, XDP_TX, 60_000, 20_000, prepare=emptied(learning)),
        Contender("opened", opening.fd, replace(many, flags=SYN), XDP_TX, 60_000, 20_000, prepare=emptied(opening)),
        Contender("full", program(slots=window).fd, many, XDP_TX, warm=1_000_000),
        Contender("flood", program(**per_flow).fd, replace(many, flags=SYN), XDP_TX, warm=1_000_000),
    ]
    datagrams = replace(few, udp=True)
    udp = {"protocol": Protocol.UDP}
    contenders += [
        Contender("steady.udp", program(**udp).fd, datagrams, XDP_TX),
        Contender(
            "per_packet",
            program(**udp, placement=Placement.PER_PACKET, choices=turns).fd,
            datagrams,
            XDP_TX,
        ),
    ]
    contenders += [
        Contender(f"empty.{name}", empty, traffic, XDP_PASS)
        for name, traffic in (("few", few), ("many", many), ("syn", replace(many, flags=SYN)), ("udp", datagrams))
    ]
    for contender in contenders[-4:]:
        contender.warm = 20_000
    progress(f"test runs of what is remembered: {len(contenders)} contenders, {rounds} rounds")
    times = take_turns(front, contenders, rounds)
    for name, base, traffic, goal, note in (
        ("window", "steady", "few", 2.0, "all slots in a window, 65,536 flows remembered / steady slots"),
        ("tail", "steady", "few", 2.0, "all slots in the tail, 65,536 flows remembered / steady slots"),
        ("per_flow", "steady", "few", 2.0, "65,536 flows placed one by one / steady slots"),
        (
            "learned",
            "steady.new",
            "many",
            None,
            "window, every packet of a flow that is to be remembered / steady slots",
        ),
        ("opened", "steady.syn", "syn", None, "window, every packet opens a connection / steady slots"),
        ("full", "steady.new", "many", None, "window, every packet of another flow, all places taken / steady slots"),
        ("flood", "steady.syn", "syn", None, "SYNs to a service that places flow by flow, all places taken / steady"),
        ("per_packet", "steady.udp", "udp", None, "datagrams placed one by one / steady slots"),
    ):
        mine, theirs = net(times, name, f"empty.{traffic}"), net(times, base, f"empty.{traffic}")
        yield ratio(f"xdp.remembering.{name}", mine, theirs, "ns", goal, note)


LOGGED = (1000, 10, 1)
"""One of so many flows is in the connection log."""


def logging(front: Front, rounds: int, stack: ExitStack) -> Iterator[Figure]:
    """What the connection log costs every packet: IPIP, IPv4, over the same without it in the same turns."""
    empty, traffic = front.object.program("empty"), Traffic(65_536)
    contenders = [Contender("empty", empty, traffic, XDP_PASS)]
    for one_of in (0, *LOGGED):
        program = loaded(tables(IPIP, v6=False))
        stack.callback(program.close)
        program.logged_flows().sample(one_of)
        contenders.append(Contender(f"log.{one_of}", program.fd, traffic, XDP_TX))
    progress(f"test runs of the connection log: {len(contenders)} contenders, {rounds} rounds")
    times = take_turns(front, contenders, rounds)
    theirs = net(times, "log.0", "empty")
    for one_of in LOGGED:
        note = f"65,536 flows, one of {one_of} in the connection log / no log"
        yield ratio(f"xdp.log.one_of.{one_of}", net(times, f"log.{one_of}", "empty"), theirs, "ns", None, note)


def ratio(
    name: str, mine: Sequence[float], theirs: Sequence[float], unit: str, goal: float | None, note: str
) -> Figure:
    """A ratio that is to be small."""
    pairs = over(mine, theirs)
    value = statistics.median(pairs)
    note = f"{span(pairs, 2)}; {note}" + (f"; goal <= {goal}" if goal else "")
    ok = None if goal is None else value <= goal
    return Figure(name, statistics.median(mine), unit, statistics.median(theirs), value, None, ok, note)


# Packets a second on veth


class Cable:
    """Client and director with a cable between them; frames come back to the client, which counts and drops them."""

    def __init__(self, stack: ExitStack, objects: Path, generator: Path) -> None:
        self._generator = generator
        self.client, self.director = stack.enter_context(namespaces("c", "d", prefix="owkx"))
        veth(self.client, "c0", self.director, "d0")
        for space, name, mac, address in (
            (self.client, "c0", CLIENT_MAC, "192.0.2.2/24"),
            (self.director, "d0", OUR_MAC, "192.0.2.1/24"),
        ):
            space.ip(f"link set {name} address {mac.hex(':')}")
            space.ip(f"addr add {address} dev {name}")
        self.director.sysctl(net__ipv4__ip_forward=1, net__ipv4__conf__d0__send_redirects=0)
        self.director.sysctl(net__ipv4__conf__all__rp_filter=0, net__ipv4__conf__d0__rp_filter=0)
        self.director.ip("neigh replace 192.0.2.2 lladdr " + CLIENT_MAC.hex(":") + " dev d0")
        self.front = Object(objects / "front.bpf.o")
        self.front.load()
        stack.callback(self.front.close)
        self._arrived = self.front.map("arrived")
        with entered(self.client):
            sink = attach(self.front.program("sink"), interface_of("c0").ifindex, Attach.XDP, XdpMode.NATIVE)
        stack.callback(sink.close)

    def rate(self, flows: int, secs: float) -> float:
        """Frames a second that come back while the client sends as fast as one CPU can do it all."""
        command = [self._generator, "c0", "64", str(flows), OUR_MAC.hex(":"), CLIENT_MAC.hex(":"), "192.0.2.2"]
        command += [VIP4, "tx"]
        sender = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "taskset", "-c", "0", *self.client.command(*map(str, command))],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            if not sender.stdout or sender.stdout.readline() != "ready\n":
                raise BenchError("the generator did not start")
            time.sleep(0.15)
            begin, before = time.monotonic(), self._arrived.lookup_sum(bytes(4))
            time.sleep(secs)
            end, after = time.monotonic(), self._arrived.lookup_sum(bytes(4))
        finally:
            sender.terminate()
            sender.wait()
            if sender.stdout:
                sender.stdout.close()
        return (after - before) / (end - begin)


@contextmanager
def entered(space: Namespace) -> Iterator[None]:
    """This thread is in another network namespace."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/self/ns/net").open() as home, Path(f"/run/netns/{space.name}").open() as there:
        if libc.setns(there.fileno(), 0x40000000):
            raise BenchError(f"cannot enter {space.name}")
        try:
            yield
        finally:
            libc.setns(home.fileno(), 0x40000000)


def interface_of(name: str) -> Interface:
    found = read_interface(name)
    if found is None:
        raise BenchError(f"no interface {name}")
    return found


def on_veth(objects: Path, generator: Path, rounds: int, secs: float, stack: ExitStack) -> Iterator[Figure]:
    cable = Cable(stack, objects, generator)
    with entered(cable.director):
        d0 = interface_of("d0")

        def udp(delivery: Delivery, *, in_window: bool = False) -> ForwardingTables:
            made = tables(delivery, v6=False, ifindex=d0.ifindex)
            service = replace(made.services[0], protocol=Protocol.UDP)
            if in_window:
                service = replace(service, slots=windowed(service.slots))
            members = {i: replace(m, next_hop=replace(m.next_hop, interface="d0")) for i, m in made.members.items()}
            return replace(made, services=(service,), members=members)

        def ours(delivery: Delivery, flags: int | None = None, *, in_window: bool = False) -> Callable[[], Link]:
            wanted = udp(delivery, in_window=in_window)
            program = Program(Capacity().holding(needs_of(wanted, build(wanted.services, wanted.secret))))
            stack.callback(program.close)
            program.tables.stage(wanted, direct)
            program.tables.publish()

            def start() -> Link:
                link = attach(program.fd, d0.ifindex, Attach.XDP, XdpMode.NATIVE)
                default = Attachment(d0, link, Mode.NATIVE).port_flags
                program.tables.set_port(d0.ifindex, d0.mac, d0.mtu, default if flags is None else flags)
                return link

            return start

        def plain(name: str) -> Callable[[], Link]:
            fd = cable.front.program(name)
            return lambda: attach(fd, d0.ifindex, Attach.XDP, XdpMode.NATIVE)

        cable.front.map("egress").update(struct.pack("=I", d0.ifindex), struct.pack("=I", d0.ifindex))
        contenders = {
            "l2": ours(L2),
            "ipip": ours(IPIP),
            "window": ours(IPIP, in_window=True),
            "l2_by_tx": ours(L2, layout.PORT_PARTIAL),
            "bare_tx": plain("bare_tx"),
            "bare_redirect": plain("bare_redirect"),
            "kernel": plain("empty"),
        }
    cable.director.ip(f"route add {VIP4}/32 via 192.0.2.2")
    for flows in (1, 65_536):
        progress(f"veth, {flows} flows: {', '.join(contenders)}")
        rates: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(rounds):
            for name in contenders if number % 2 == 0 else reversed(contenders):
                with entered(cable.director):
                    link = contenders[name]()
                try:
                    rates[name].append(cable.rate(flows, secs))
                finally:
                    link.close()
                    time.sleep(0.05)
        suffix = "" if flows > 1 else ".1flow"
        yield rate_ratio(f"xdp.veth.of_bare_tx{suffix}", rates, "l2", "bare_tx", 0.9 if flows > 1 else None)
        yield rate_ratio(f"xdp.veth.ipip.of_bare_tx{suffix}", rates, "ipip", "bare_tx", None)
        yield rate_ratio(f"xdp.veth.ipip.window_of_steady{suffix}", rates, "window", "ipip", 0.5)
        yield rate_ratio(f"xdp.veth.of_bare_redirect{suffix}", rates, "l2", "bare_redirect", None)
        yield rate_ratio(f"xdp.veth.by_tx.of_bare_tx{suffix}", rates, "l2_by_tx", "bare_tx", None)
        yield rate_ratio(f"xdp.veth.vs_kernel{suffix}", rates, "l2", "kernel", None)


def rate_ratio(name: str, rates: dict[str, list[float]], mine: str, base: str, goal: float | None) -> Figure:
    pairs = over(rates[mine], rates[base])
    value = statistics.median(pairs)
    kpps = [statistics.median(rates[who]) / 1e3 for who in (mine, base)]
    ok = None if goal is None else value >= goal
    return Figure(name, kpps[0], "kpps", kpps[1], value, goal, ok, f"{span(pairs, 2)} in {len(pairs)} rounds")


# Changing tables


def changes(rounds: int, stack: ExitStack) -> Iterator[Figure]:
    progress("tables: 100 services from nothing, one member of 1,000 services")
    for services in (1, 100, 1000):
        wanted = tables(IPIP, v6=False, services=services, pools=services)
        program = Program(Capacity().holding(needs_of(wanted, build(wanted.services, wanted.secret))))
        stack.callback(program.close)
        mib = program.memory() / (1 << 20)
        yield at_most(f"xdp.map_memory.{services}", mib, "MiB", None, f"{services} pools of {SLOTS} slots, with room")
        if services == 100:
            yield from_nothing(program, wanted, rounds)
        if services == 1000:
            program.tables.stage(wanted, direct)
            program.tables.publish()
            yield from one_member(program, wanted, 2 * rounds)
            begin = time.perf_counter()
            Compiled(wanted, [])
            slow = (time.perf_counter() - begin) * 1e3
            yield at_most(
                "xdp.program.1000_services.slow_path_ms", slow, "ms", None, "the raw plane's own tables, behind it"
            )


def from_nothing(program: Program, wanted: ForwardingTables, rounds: int) -> Figure:
    took = []
    nothing = ForwardingTables(wanted.secret)
    for _ in range(rounds):
        begin = time.perf_counter()
        program.tables.stage(wanted, direct)
        program.tables.publish()
        took.append((time.perf_counter() - begin) * 1e3)
        program.tables.stage(nothing, direct)
        program.tables.publish()
        program.tables.settle()
    note = f"{span(took, 1)}; 100 services with 65,537 slots each"
    return at_most("xdp.program.100_services_ms", statistics.median(took), "ms", None, note)


def one_member(program: Program, wanted: ForwardingTables, rounds: int) -> Iterator[Figure]:
    """A member leaves one of many services and comes back, again and again."""
    service = wanted.services[len(wanted.services) // 2]
    gone = int(service.slots[0]) & 0xFFFF
    other = next(int(word) & 0xFFFF for word in service.slots if int(word) & 0xFFFF != gone)
    primary = service.slots & np.uint32(0xFFFF)
    primary[primary == gone] = other
    without = primary | primary << np.uint32(16)
    without.flags.writeable = False
    services = tuple(replace(one, slots=without) if one is service else one for one in wanted.services)
    members = {index: member for index, member in wanted.members.items() if index != gone}
    both = replace(wanted, services=services, members=members), wanted
    waited, took = [], []
    for number in range(rounds):
        begin = time.perf_counter()
        program.tables.settle()  # the plane does so behind a change, and the next one need not wait for it
        settled = time.perf_counter()
        program.tables.stage(both[number % 2], direct, same_egress=True)
        program.tables.publish()
        waited.append((settled - begin) * 1e3)
        took.append((time.perf_counter() - settled) * 1e3)
    note = f"{span(took, 1)}; from new tables to all packets following them"
    yield at_most("xdp.program.one_of_1000_ms", statistics.median(took), "ms", 10.0, note)
    note = f"{span(waited[1:], 1)}; after it, until nobody reads what it has left behind"
    yield at_most("xdp.program.settle_ms", statistics.median(waited[1:]), "ms", None, note)


def whole_change(rounds: int, stack: ExitStack) -> Iterator[Figure]:
    """The same in a complete plane, from the decision on."""
    progress(f"a complete plane: one member of {PLANE_POOLS} services")
    client, director = stack.enter_context(namespaces("c", "d", prefix="owkx"))
    veth(client, "c0", director, "d0")
    client.run("ethtool", "-K", "c0", "gro", "on")  # it takes frames of programs only so
    words = director.command(sys.executable, "-m", "tests.bench.xdp_change", "d0", str(PLANE_POOLS), str(rounds))
    done = subprocess.run(
        ["setpriv", "--pdeathsig", "KILL", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise BenchError(f"tests.bench.xdp_change ended with exit code {done.returncode}")
    parts = {name: [float(ms) for ms in values] for name, values in json.loads(done.stdout).items()}
    median = {name: statistics.median(values) for name, values in parts.items()}
    note = ", ".join(f"{name} {median[name]:.1f}" for name in ("decide", "wait", "write", "rest"))
    note = f"{span(parts['in_force'], 1)}; decision to publication ({note})"
    yield at_most(f"xdp.plane.one_of_{PLANE_POOLS}_ms", median["in_force"], "ms", 10.0, note)
    note = f"{span(parts['behind'], 1)}; then: trying it out, and the slow path behind the program"
    yield at_most(f"xdp.plane.one_of_{PLANE_POOLS}.behind_ms", median["behind"], "ms", None, note)


def compile_programs(folder: Path) -> None:
    for source in SOURCES.glob("*.bpf.c"):
        target = folder / source.with_suffix(".o").name
        command = [sys.executable, ROOT / "systemd" / "build_bpf.py", "--only", source, "--to", target]
        subprocess.run(command, check=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/run bench xdp", description="Benchmark of the XDP data plane.")
    parser.add_argument("--quick", action="store_true", help="three short turns: whether it works, not how well")
    parser.add_argument("--rounds", type=int, default=9, help="turns of every contender (9)")
    parser.add_argument("--secs", type=float, default=0.7, help="seconds of a turn on veth (0.7)")
    parser.add_argument("--only", choices=("runs", "pins", "log", "veth", "tables", "plane"), help="a part of it")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--against", type=Path, metavar="FILE", help="show those of an earlier --json beside them")
    parser.add_argument("--strict", action="store_true", help="exit code 1 when a goal is missed")
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("needs root, for BPF programs and namespaces; tests/run calls sudo")
    if options.quick:
        options.rounds, options.secs = 3, 0.2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    figures: list[Figure] = []
    before: dict[str, Figure] = {}
    try:
        before = read_json(options.against) if options.against else {}
        os.setpriority(os.PRIO_PROCESS, 0, -20)
        with exclusive(), compiled() as programs, ExitStack() as stack:
            objects = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="onward-bench-")))
            compile_programs(objects)
            parts = {
                "runs": lambda: test_runs(objects, options.rounds, stack),
                "pins": lambda: remembering(front_of(objects, stack), options.rounds, stack),
                "log": lambda: logging(front_of(objects, stack), options.rounds, stack),
                "veth": lambda: on_veth(objects, programs / "gen", options.rounds, options.secs, stack),
                "tables": lambda: changes(options.rounds, stack),
                "plane": lambda: whole_change(2 * options.rounds, stack),
            }
            for name, part in parts.items():
                if options.only in (None, name):
                    for figure in part():
                        figures += [figure]
    except BenchError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 2
    finally:
        if figures:
            print_table(figures, before)
            print(f"\n{ELSEWHERE}", end="")
            if options.json:
                write_json(figures, options.json)
    return 1 if options.strict and any(figure.ok is False for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
