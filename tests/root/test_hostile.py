"""A corpus of hostile frames at full speed into whole data planes: nothing comes out but what the reference allows,
memory does not grow, and flows that were there before go on."""

import random
import struct
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from appliance.forwarding import NO_MEMBER, ForwardingTables, QuicServers, TableService
from appliance.model import HashMode, PortRange, Protocol, QuicConfig
from appliance.packet.action import Action, Datagram, Verdict
from appliance.packet.forward import Ingress, PacketPath
from appliance.packet.fragments import Fragments, datagram_of
from appliance.packet.headers import IpHeader, Part, parse_ethernet, parse_ip
from appliance.ring.slots import pack
from tests.fuzz.frames import Frames
from tests.root.plane_rig import Plane, Rig, mac, of_the_kernel, rig
from tests.root.test_planes import SECRET, VIP4, VIP6, member
from tests.root.test_tunnels import GRE, GUE, IPIP
from tests.unit.dataplane.frames import L2, cycle
from tests.vectors_io import canonical

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

CHUNK = 5_000
WINDOW_PORT = 81
FLOWS = 300
"""That are established before, in slots that change hands."""
MIB = 1 << 20


@dataclass
class Site:
    bench: Rig
    tables: ForwardingTables
    """In force: one service is in a window."""
    meanings: tuple[ForwardingTables, ForwardingTables]
    """The same without a window: its new owners, and its old ones."""


def make_tables(bench: Rig, owners: int | None) -> ForwardingTables:
    """Every delivery and family, QUIC, and a service in a window; *owners*: or with one side of the window only."""
    ways = [(L2, "203.0.113.2")] + [
        (tunnel, address) for tunnel in (IPIP, GRE, GUE) for address in ("203.0.113.2", "2001:db8:2::2")
    ]
    members = [member(bench, number, delivery, address) for number, (delivery, address) in enumerate(ways)]
    indices = [one.index for one in members]
    steady = cycle(*indices)
    new, old = cycle(*indices), cycle(*indices[1:], indices[0])
    sides = (new & 0xFFFF, old & 0xFFFF)
    changing = pack(*sides) if owners is None else pack(sides[owners], sides[owners])
    quic = (QuicServers(QuicConfig(0, 2, 5), {bytes((7, index)): index for index in indices}),)
    services = []
    for vip in (VIP4, VIP6):
        for protocol, ports, slots, known in (
            (Protocol.TCP, PortRange(80, 80), steady, ()),
            (Protocol.UDP, PortRange(80, 90), steady, ()),
            (Protocol.UDP, PortRange(443, 443), steady, quic),
            (Protocol.TCP, PortRange(WINDOW_PORT, WINDOW_PORT), changing, ()),
        ):
            services.append(
                TableService(
                    len(services),
                    f"s{len(services)}",
                    vip,
                    protocol,
                    (ports,),
                    HashMode.FIVE_TUPLE,
                    slots,
                    3600,
                    quic=known,
                )
            )
    return ForwardingTables(SECRET, tuple(services), {one.index: one for one in members})


@pytest.fixture(scope="module", params=["raw", "xdp"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with rig(request.param) as bench:
        # What is none of the plane's business must not get to members by other ways.
        bench.director.sysctl(net__ipv4__ip_forward=0, net__ipv6__conf__all__forwarding=0)
        yield Site(bench, make_tables(bench, None), (make_tables(bench, 0), make_tables(bench, 1)))


def crafted(rnd: random.Random, whole: list[bytes]) -> Iterator[bytes]:
    """What attackers send: tiny fragments, floods of headers, truncated tunnels."""
    while True:
        frame = rnd.choice(whole)
        head, packet = frame[:14], frame[14:]
        kind = rnd.randrange(5)
        if frame[12:14] == b"\x08\x00" and len(packet) >= 28:
            if kind == 0:  # tiny and overlapping fragments
                size = rnd.choice((1, 4, 7, 8, 16))
                offset = rnd.choice((0, 0, 1, 2, 0x1FFF))
                body = packet[20 : 20 + size]
                words = struct.pack("!BBHHHBB", 0x45, 0, 20 + size, rnd.randrange(64), 0x2000 | offset, 64, packet[9])
                yield head + _summed(words + b"\0\0" + packet[12:20]) + body
            elif kind == 1:  # options to the brim, and beyond
                options = rnd.randbytes(40)
                words = bytes((0x4F, 0)) + struct.pack("!H", min(60 + len(packet) - 20, 1500)) + packet[4:10]
                yield (head + _summed(words + b"\0\0" + packet[12:20] + options) + packet[20:])[:1514]
            else:  # a tunnel to the VIP, cut anywhere
                inner = rnd.choice((packet, struct.pack("!HH", 0, 0x800) + packet, rnd.randbytes(4) + packet))
                words = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(inner), 1, 0, 64, rnd.choice((4, 41, 47, 17)))
                outer = _summed(words + b"\0\0" + packet[12:20]) + inner
                yield (head + outer)[: rnd.choice((len(outer) + 14, rnd.randrange(14, len(outer) + 14)))][:1514]
        elif frame[12:14] == b"\x86\xdd" and len(packet) >= 48:
            following, chain = packet[6], b""
            for _ in range(rnd.choice((1, 2, 8, 9, 40))):  # chains of headers, with fragments in between
                header = rnd.choice((0, 43, 44, 60, 60, 51, 135))
                chain = bytes((following, 0)) + rnd.randbytes(6) + chain
                following = header
            body = (chain + packet[40:])[:1400]
            said = len(body) if kind else rnd.randrange(1500)
            yield head + packet[:4] + struct.pack("!HB", said, following) + packet[7:40] + body[: rnd.choice((1400, 9))]


def _summed(header: bytes) -> bytes:
    total = sum(struct.unpack(f"!{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return header[:10] + struct.pack("!H", ~total & 0xFFFF) + header[12:]


class Allowed:
    """What may arrive at members because of frames that were sent: how often, by canonical form."""

    def __init__(self, meanings: tuple[ForwardingTables, ...], ingress: Ingress) -> None:
        self._meanings, self._ingress = meanings, ingress
        self._paths = [PacketPath(one) for one in meanings]
        self._firsts: defaultdict[Datagram, dict[bytes, None]] = defaultdict(dict)
        self._later: list[tuple[bytes, IpHeader]] = []
        self.frames: Counter[bytes] = Counter()

    def add(self, frames: list[bytes]) -> None:
        """These are sent now. What becomes of their later fragments is known with the next ones only: they wait for the
        first one for a moment, and a plane that is busy may find it among those."""
        pieces = [(frame, ip) for frame in frames if (ip := _fragment(frame, self._ingress)) is not None]
        for frame, ip in pieces:
            if ip.part is Part.FIRST:
                self._firsts[datagram_of(ip)][frame] = None
        for frame in frames:
            self._take(path.forward(frame, self._ingress, waited=True) for path in self._paths)
        waiting, self._later = self._later, [(frame, ip) for frame, ip in pieces if ip.part is Part.LATER]
        for frame, ip in waiting:
            self._take(self._follow(frame, list(self._firsts.get(datagram_of(ip), ()))))

    def _follow(self, frame: bytes, firsts: list[bytes]) -> Iterator[Action]:
        """What becomes of a later fragment behind each first one of its datagram that there was."""
        for tables in self._meanings:
            for first in firsts:
                path = PacketPath(tables, fragments=Fragments(lambda: 0))
                path.forward(first, self._ingress)
                yield path.forward(frame, self._ingress, waited=True)

    def _take(self, actions: Iterator[Action]) -> None:
        """Any of these may be done, once."""
        for made in {action.frame: action for action in actions if action.verdict is Verdict.TRANSMIT}.values():
            for frame in (made.frame, *made.further):
                self.frames[canonical(frame)] += 1


def _fragment(frame: bytes, ingress: Ingress) -> IpHeader | None:
    link = parse_ethernet(frame)
    if frame[:6] != ingress.mac or not hasattr(link, "length"):
        return None
    ip = parse_ip(frame[link.length :], link.version)
    return ip if isinstance(ip, IpHeader) and ip.part is not Part.WHOLE else None


@dataclass
class Member:
    """All that arrives from the director."""

    got: Counter[bytes] = field(default_factory=Counter)


def listen(site: Site, member: Member, stop: threading.Event) -> None:
    wire, ours = site.bench.far.socket, mac("d1")
    while not stop.is_set():
        try:
            frame = wire.recv(70000)
        except TimeoutError:
            continue
        if frame[6:12] == ours and frame[12:14] in (b"\x08\x00", b"\x86\xdd") and not of_the_kernel(frame):
            member.got[canonical(frame)] += 1


def established(number: int, flags: int) -> bytes:
    """A segment of a flow that was there before."""
    segment = struct.pack("!HHIIBBHHH", 1024 + number, WINDOW_PORT, 1, 1, 0x50, flags, 1000, 0, 0)
    addresses = bytes((192, 0, 2, 2)) + VIP4.packed
    head = _summed(struct.pack("!BBHHHBB", 0x45, 0, 40, number, 0x4000, 64, 6) + b"\0\0" + addresses)
    return mac("d0") + mac("c0") + b"\x08\x00" + head + segment


def rss(plane: Plane) -> int:
    """Bytes that the plane's process has in memory."""
    status = Path(f"/proc/{plane.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) * 1024


def places(site: Site, member: Member) -> dict[int, set[bytes]]:
    """Where packets of established flows arrive, asked until all have: outer frames by flow."""
    found: dict[int, set[bytes]] = {}
    by = {}
    for tables in site.meanings:
        path = PacketPath(tables)
        for number in range(FLOWS):
            action = path.forward(established(number, 0x10), Ingress(0, mac("d0"), 1500))
            by[canonical(action.frame)] = number
    for _ in range(50):
        missing = [number for number in range(FLOWS) if number not in found]
        if not missing:
            return found
        before = Counter(member.got)
        site.bench.near.send(*(established(number, 0x10) for number in missing), pause_every=50)
        time.sleep(0.2)
        for frame in list(member.got):
            if frame in by and member.got[frame] > before[frame]:
                found.setdefault(by[frame], set()).add(frame)
    raise AssertionError(f"{len(missing)} flows do not arrive")


def quiet(member: Member) -> Counter[bytes]:
    """What has arrived, once nothing comes any more."""
    before = -1
    while (now := sum(list(member.got.values()))) != before:
        before = now
        time.sleep(0.5)
    return member.got.copy()


def test_nothing_comes_of_it(site: Site, request: pytest.FixtureRequest) -> None:
    """40,000 frames (with --long a million): random, mutated, tiny fragments, chains of headers, cut tunnels. What
    members get is allowed by the reference, frame by frame; the plane proves itself afterwards, its memory has not
    grown, and flows that were remembered before are where they were."""
    total = 1_000_000 if request.config.getoption("--long") else 40_000
    ingress = Ingress(site.bench.ifindex("d0"), mac("d0"), 1500)
    allowed, got, stop = Allowed(site.meanings, ingress), Member(), threading.Event()
    rnd = random.Random(20)
    source = Frames(rnd, site.tables, ingress, flows=40)
    whole = [frame for frame in source.take(400) if len(frame) > 60]
    attacks = crafted(rnd, whole)
    thread = threading.Thread(target=listen, args=(site, got, stop))
    with site.bench.plane() as plane:
        plane.set(site.tables)
        thread.start()
        try:
            # Flows that were there before a change stay with the old owners, and are remembered as open.
            home = places(site, got)
            assert places(site, got) == home
            old = PacketPath(site.meanings[1])
            for number, frames in home.items():
                action = old.forward(established(number, 0x10), ingress)
                assert action.member != NO_MEMBER
                assert frames == {canonical(action.frame)}
            got.got.clear()
            seconds, sizes = 0.0, []
            for begin in range(0, total, CHUNK):
                frames = [frame for frame in source.take(CHUNK // 2) if len(frame) <= 1514]
                frames += [frame for frame, _ in zip(attacks, range(CHUNK - len(frames)), strict=False)]
                rnd.shuffle(frames)
                frames = [frame for frame in frames if len(frame) >= 14]
                allowed.add(frames)
                started = time.perf_counter()
                for frame in frames:
                    site.bench.near.socket.send(frame)
                seconds += time.perf_counter() - started
                if begin // CHUNK in (3, total // CHUNK - 1):
                    sizes.append(rss(plane))
            allowed.add([])
            arrived = quiet(got)
            wrong = {frame: n for frame, n in arrived.items() if n > allowed.frames[frame]}
            assert not wrong, f"{len(wrong)} frames that must not be, one of them {next(iter(wrong)).hex()}"
            assert sum(arrived.values()) > total // 100
            plane.check()
            assert sizes[-1] - sizes[0] < 24 * MIB
            assert places(site, got) == home
        finally:
            stop.set()
            thread.join()
        print(f"{total} frames at {total / seconds:,.0f}/s; {sum(arrived.values())} arrived; RSS {sizes}")
