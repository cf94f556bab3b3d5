"""Large packets through a whole director, with links too small for them on both ways: real hosts and routers."""

import errno
import json
import select
import socket
import struct
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from appliance.packet.checksum import checksum
from tests.netns import Namespace, namespaces, until, veth
from tests.root.plane_rig import REPOSITORY, inside

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

SMALL = 1400
CLIENT = {4: "192.0.2.2", 6: "2001:db8:1::2"}
DIRECTOR = {4: "203.0.113.1", 6: "2001:db8:2::1"}
PREFIX = {4: "198.51.100.128/26", 6: "2001:db8:d::/64"}
OVERHEAD = {"l2": 0, "ipip": 0, "gre": 4, "gue": 12}


@dataclass(frozen=True)
class Way:
    """A virtual service with one member of its own, so that nothing that was learned by others counts for it."""

    number: int
    delivery: str
    outer: int
    inner: int
    prefix: bool = False
    """Whether outer headers have their sources of a prefix, and routers have to tell that."""

    def __str__(self) -> str:
        return f"{self.delivery}{self.outer}-ipv{self.inner}{'-prefix' if self.prefix else ''}"

    @property
    def vip(self) -> str:
        return f"198.51.100.{10 + self.number}" if self.inner == 4 else f"2001:db8:f::{10 + self.number}"

    @property
    def member(self) -> str:
        if self.delivery == "l2":
            return f"203.0.113.{98 + self.number}" if self.outer == 4 else f"2001:db8:7::{10 + self.number}"
        return f"203.0.113.{40 + self.number}" if self.outer == 4 else f"2001:db8:3::{10 + self.number}"

    @property
    def family(self) -> int:
        """Of sockets for the VIP."""
        return socket.AF_INET if self.inner == 4 else socket.AF_INET6

    @property
    def room(self) -> int:
        """The largest packet of a client that gets to the member."""
        return SMALL - OVERHEAD[self.delivery] - (0 if self.delivery == "l2" else {4: 20, 6: 40}[self.outer])


WAYS = [
    Way(number, *rest)
    for number, rest in enumerate(
        [("l2", 4, 4), ("l2", 6, 6)]
        + [(tunnel, outer, inner) for tunnel in ("ipip", "gre", "gue") for outer in (4, 6) for inner in (4, 6)]
    )
]
WAYS += [Way(18, "ipip", 4, 4, prefix=True), Way(19, "gue", 6, 6, prefix=True), Way(20, "gre", 4, 6, prefix=True)]
EVERY_WAY = pytest.mark.parametrize("way", WAYS, ids=str)
DATAGRAMS = Way(14, "ipip", 4, 4)
SPOOFED = Way(15, "ipip", 4, 4)
DEAF = Way(16, "ipip", 4, 4)
LIED_TO = Way(17, "ipip", 4, 6)
OTHERS = [DATAGRAMS, SPOOFED, DEAF, LIED_TO]

CONFIG = """
schema_version = 1

[director]
name = "d1"
interfaces = ["d0"]
outer_source_prefixes = {prefixes}
plane = "{plane}"
runtime_dir = "{folder}/run"

[fleet]
secret_file = "fleet.key"
"""

SERVICE = """
[[network_profile]]
name = "{way}"
type = "{protocol}_fast_path"
dsr = {{ type = "{dsr}"{encapsulation} }}

[[pool]]
name = "{way}"
hash = "{hash}"
[[pool.member]]
name = "m"
address = "{way.member}"

[[virtual_service]]
name = "{way}"
vips = ["{way.vip}"]
ports = [80]
network_profile = "{way}"
pool = "{way}"
"""

DATAGRAM_SERVICE = """
[[network_profile]]
name = "{way}-udp"
type = "udp_fast_path"
dsr = {{ type = "{dsr}"{encapsulation} }}

[[virtual_service]]
name = "{way}-udp"
vips = ["{way.vip}"]
ports = [81]
network_profile = "{way}-udp"
pool = "{way}"
"""


@dataclass
class Network:
    """client c0 -- a0 router a1 -- d0 director d1 -- b0 router b1 -- s0 member s1 -- b2 router b3 -- a2 router

    Requests pass the director, replies do not. The second router sends no more than 1400 bytes by b1, towards the
    member, and by b3, towards the client. For L2 DSR the director is on a segment with the member, d2 -- s2, where its
    own link takes no more. In front of the director links take 9000 bytes.
    """

    client: Namespace
    near: Namespace
    director: Namespace
    far: Namespace
    member: Namespace

    def ask(self, path: str) -> Any:
        """The director's API; None while there is none."""

        def get() -> Any:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:8080{path}", timeout=5) as answer:
                    return json.load(answer)
            except OSError:
                return None

        return inside(self.director, get)

    def mtus(self, way: Way) -> Any:
        """What the director says of a way's member."""
        return next(one for one in self.ask("/api/v1/mtu")["members"] if one["address"] == way.member)


@contextmanager
def wired() -> Iterator[Network]:
    with namespaces("c", "a", "d", "b", "s", prefix="owp") as spaces:
        client, near, director, far, member = spaces
        cables = (
            (client, "c0", near, "a0", "192.0.2.0", 2, 1, "2001:db8:1::", 25),
            (near, "a1", director, "d0", "192.0.2.128", 1, 2, "2001:db8:4::", 25),
            (director, "d1", far, "b0", "203.0.113.0", 1, 2, "2001:db8:2::", 28),
            (far, "b1", member, "s0", "203.0.113.32", 1, 2, "2001:db8:3::", 27),
            (member, "s1", far, "b2", "203.0.113.64", 2, 1, "2001:db8:5::", 28),
            (far, "b3", near, "a2", "203.0.113.80", 1, 2, "2001:db8:6::", 28),
            (director, "d2", member, "s2", "203.0.113.96", 1, 2, "2001:db8:7::", 28),
        )
        for left, left_name, right, right_name, net, first, second, net6, length in cables:
            veth(left, left_name, right, right_name)
            base, last = net.rsplit(".", 1)
            for space, name, host in ((left, left_name, first), (right, right_name, second)):
                space.ip(f"addr add {base}.{int(last) + host}/{length} dev {name}")
                space.ip(f"addr add {net6}{host}/64 dev {name} nodad")
        for space, name, mtu in (
            *((client, "c0", 9000), (near, "a0", 9000), (near, "a1", 9000), (director, "d0", 9000)),
            *((far, "b1", SMALL), (far, "b3", SMALL), (director, "d2", SMALL)),
        ):
            space.ip(f"link set {name} mtu {mtu}")
        for space, four, six in (
            (client, "192.0.2.1", "2001:db8:1::1"),
            (director, "192.0.2.129", "2001:db8:4::1"),
            (far, "203.0.113.82", "2001:db8:6::2"),
            (member, "203.0.113.65", "2001:db8:5::1"),
        ):
            space.ip(f"route add default via {four}")
            space.ip(f"-6 route add default via {six}")
        director.ip("route add 203.0.113.32/27 via 203.0.113.2")
        director.ip("-6 route add 2001:db8:3::/64 via 2001:db8:2::2")
        near.ip("route add 198.51.100.0/24 via 192.0.2.130")
        near.ip("-6 route add 2001:db8:f::/64 via 2001:db8:4::2")
        near.ip(f"-6 route add {PREFIX[6]} via 2001:db8:4::2")  # that of IPv4 is among the VIPs'
        near.ip("route add 203.0.113.0/24 via 203.0.113.81")
        for way in (*WAYS, *OTHERS):
            size = "32" if way.inner == 4 else "128"
            member.ip(f"addr add {way.vip}/{size} dev lo{'' if way.inner == 4 else ' nodad'}")
            length, nodad = ("27" if way.delivery != "l2" else "28", "") if way.outer == 4 else ("64", " nodad")
            if way.member != "203.0.113.98":
                member.ip(f"addr add {way.member}/{length} dev {'s2' if way.delivery == 'l2' else 's0'}{nodad}")
        for space in (near, far):
            space.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
        for space in spaces:
            # Without mtu_probing, TCP has no other means to find out what fits.
            space.sysctl(net__ipv4__conf__all__rp_filter=0, net__ipv4__tcp_mtu_probing=0)
            for name in ("s0", "s1", "s2", "d0", "d1"):
                if f" {name}@" in space.ip("-o link"):
                    space.sysctl(**{f"net__ipv4__conf__{name}__rp_filter": 0})
        yield Network(client, near, director, far, member)


def configure(folder: Path, plane: str) -> Path:
    text = CONFIG.format(plane=plane, folder=folder, prefixes=json.dumps(list(PREFIX.values())))
    for way in (*WAYS, *OTHERS):
        tunnel = "" if way.delivery == "l2" else f', encapsulation = "{way.delivery}"'
        tunnel += ', outer_source = "prefix"' if way.prefix else ""
        both = SERVICE + (DATAGRAM_SERVICE if way in WAYS else "")
        text += both.format(
            way=way,
            protocol="udp" if way is DATAGRAMS else "tcp",
            dsr="l2" if way.delivery == "l2" else "l3",
            encapsulation=tunnel,
            # So that fragments, which have no ports, are forwarded.
            hash="source_ip" if way is DATAGRAMS else "five_tuple",
        ).replace(f'"{way}"', f'"{way}-{way.number}"')
    (folder / "fleet.key").write_bytes(bytes(range(32)))
    (folder / "fleet.key").chmod(0o600)
    (folder / "onward.toml").write_text(text)
    return folder / "onward.toml"


@contextmanager
def process(space: Namespace, *words: str, quiet: bool = False) -> Iterator["subprocess.Popen[str]"]:
    command = space.command(sys.executable, "-m", "appliance", *words)
    started = subprocess.Popen(command, stdout=subprocess.PIPE if quiet else None, text=True, cwd=REPOSITORY)
    try:
        yield started
    finally:
        started.terminate()
        started.communicate(timeout=20)


class Server:
    """On the member: takes uploads, sends downloads, and answers datagrams with their length and checksum.

    A connection begins with a number of eight bytes: so many will be sent, or, negative, are wanted.
    """

    def __init__(self, space: Namespace) -> None:
        def listen() -> list[socket.socket]:
            made = [socket.create_server(("", 80), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)]
            for way, port in ((DATAGRAMS, 80), *((way, 81) for way in WAYS)):
                made.append(socket.socket(way.family, socket.SOCK_DGRAM))
                made[-1].bind((way.vip, port))
            return made

        self._streams, *self._datagrams = inside(space, listen)
        self._threads = [threading.Thread(target=self._accept), threading.Thread(target=self._answer)]
        self._streams.settimeout(0.1)
        self._stop = threading.Event()
        for thread in self._threads:
            thread.start()

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                connection, _ = self._streams.accept()
            except TimeoutError:
                continue
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(10)
            try:
                (size,) = struct.unpack("!q", _exactly(connection, 8))
                if size < 0:
                    connection.sendall(bytes(-size))
                else:
                    connection.sendall(struct.pack("!q", len(_exactly(connection, size))))
            except OSError:
                pass  # the client has lost patience

    def _answer(self) -> None:
        while not self._stop.is_set():
            for ready in select.select(self._datagrams, [], [], 0.1)[0]:
                data, client = ready.recvfrom(70000)
                ready.sendto(struct.pack("!HH", len(data), checksum(data)), client)

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._streams.close()
        for one in self._datagrams:
            one.close()


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        got = connection.recv(min(1 << 16, size - len(data)))
        if not got:
            raise ConnectionError("the end came early")
        data += got
    return bytes(data)


@pytest.fixture(scope="module", params=["raw", "xdp"])
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """Everything runs, and every member is reached."""
    with ExitStack() as stack:
        made = stack.enter_context(wired())
        own = [f"{DIRECTOR[address]}/{size}" for address, size in ((4, 32), (6, 128))]
        sources = [word for prefix in (*own, *PREFIX.values()) for word in ("--from", prefix)]
        vips = [word for way in (*WAYS, *OTHERS) for word in ("--vip", way.vip)]
        decap = stack.enter_context(
            process(made.member, "decap", "run", "--interface", "s0", *sources, *vips, quiet=True)
        )
        assert decap.stdout is not None
        assert "decapsulating" in decap.stdout.readline()
        server = Server(made.member)
        stack.callback(server.close)
        stack.enter_context(
            process(made.director, "run", str(configure(tmp_path_factory.mktemp("director"), str(request.param))))
        )
        until(lambda: made.ask("/api/v1/status"), "the director runs", 30)
        until(
            lambda: len((made.ask("/api/v1/mtu") or {"members": ()})["members"]) == len(WAYS) + len(OTHERS),
            "members are reached",
        )
        until(lambda: made.ask("/api/v1/status")["health"]["state"] == "healthy", "all services serve")
        yield made


def connect(network: Network, way: Way, patience_s: float) -> socket.socket:
    made = inside(network.client, lambda: socket.create_connection((way.vip, 80), timeout=patience_s))
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing resets
    return made


def upload(network: Network, way: Way, size: int, patience_s: float = 20.0) -> int:
    """Bytes that the member got."""
    with connect(network, way, patience_s) as connection:
        connection.sendall(struct.pack("!q", size) + bytes(size))
        (got,) = struct.unpack("!q", _exactly(connection, 8))
    return int(got)


def route_mtu(space: Namespace, to: str, source: str = "") -> int:
    """What a host has learned of the way to another, or its link's."""
    six = "-6 " if ":" in to else ""
    words = space.ip(f"{six}route get {to}" + (f" from {source}" if source else "")).split()
    return int(words[words.index("mtu") + 1]) if "mtu" in words else 0


@pytest.fixture
def size(request: pytest.FixtureRequest) -> int:
    return 50_000_000 if request.config.getoption("--long") else 5_000_000


@EVERY_WAY
def test_uploads(network: Network, way: Way, size: int) -> None:
    """The client hears from the VIP how large its packets may be: first of the director's own link, then of the router
    that nobody but the director can hear; and everything arrives."""
    assert upload(network, way, size) == size
    assert route_mtu(network.client, way.vip) == way.room
    until(lambda: network.mtus(way)["errors_sent"], "the client was told")
    mtus = network.mtus(way)
    assert mtus["largest_packet"] == way.room
    if way.delivery == "l2":
        assert (mtus["path_mtu"], mtus["errors_heard"]) == (None, 0)
    else:
        assert mtus["path_mtu"] == SMALL
        assert mtus["errors_heard"] >= 1


@EVERY_WAY
def test_downloads(network: Network, way: Way, size: int) -> None:
    """The router on the way back tells the VIP; the director passes that on to the member, which sends what fits."""
    for space in (network.member, network.client):  # who knows of a small way one way asks for less the other way
        space.ip("route flush cache")
        space.ip("-6 route flush cache")
    with connect(network, way, 20.0) as connection:
        connection.sendall(struct.pack("!q", -size))
        assert len(_exactly(connection, size)) == size
    assert route_mtu(network.member, CLIENT[way.inner], way.vip) == SMALL


@EVERY_WAY
def test_datagrams_that_are_told(network: Network, way: Way) -> None:
    """A datagram with DF that is one byte too large gets an answer that is of use: one of that size arrives."""
    network.client.ip("route flush cache")
    network.client.ip("-6 route flush cache")
    level, discover, mtu = (socket.IPPROTO_IP, 10, 14) if way.inner == 4 else (socket.IPPROTO_IPV6, 23, 24)
    fits = way.room - (28 if way.inner == 4 else 48)

    def make() -> socket.socket:
        made = socket.socket(way.family, socket.SOCK_DGRAM)
        made.setsockopt(level, discover, 2)  # IP_PMTUDISC_DO
        made.settimeout(0.3)
        made.connect((way.vip, 81))
        return made

    with inside(network.client, make) as datagrams:

        def told() -> bool:
            try:
                datagrams.send(bytes(fits + 1))
            except OSError as error:  # as soon as it knows
                if error.errno != errno.EMSGSIZE:
                    raise
            return datagrams.getsockopt(level, mtu) == way.room

        def arrives() -> bool:
            try:
                datagrams.send(bytes((7,)) * fits)
                return datagrams.recv(100) == struct.pack("!HH", fits, checksum(bytes((7,)) * fits))
            except OSError:  # what was said of the larger ones comes here, too
                return False

        until(told, f"the client knows that {way.room} bytes fit", 20)
        until(arrives, "a datagram of that size arrives", 20)


@pytest.mark.parametrize(("link", "packets"), [(9000, 1), (1500, 2)], ids=["whole", "in-fragments"])
def test_datagrams_that_may_be_fragmented(network: Network, link: int, packets: int) -> None:
    """3000 bytes with DF clear arrive whole, from a client that knows nothing of smaller links and sends one packet, or
    three of which two do not fit."""

    def make(discover: int) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setsockopt(socket.IPPROTO_IP, 10, discover)  # IP_MTU_DISCOVER
        made.settimeout(2)
        made.connect((DATAGRAMS.vip, 80))
        return made

    def fragmented() -> int:
        return int(network.ask("/api/v1/status")["counters"]["details"]["fragmented_packets"])

    # Outer packets without DF a router fragments and says nothing, and `onward decap` cannot put them together. One
    # with DF gets lost, and is what the director learns from.
    with inside(network.client, lambda: make(3)) as datagrams:  # IP_PMTUDISC_PROBE: always DF
        datagrams.send(bytes(1440))
    until(lambda: network.mtus(DATAGRAMS)["path_mtu"] == SMALL, "the way is known")
    before = fragmented()
    network.client.ip("route flush cache")  # it was told as well
    network.client.ip(f"link set c0 mtu {link}")
    try:
        with inside(network.client, lambda: make(0)) as datagrams:  # IP_PMTUDISC_DONT: never DF
            for number in range(20):
                data = bytes((number,)) * 3000 + bytes(number)
                datagrams.send(data)
                assert datagrams.recv(100) == struct.pack("!HH", len(data), checksum(data))
    finally:
        network.client.ip("link set c0 mtu 9000")
    until(lambda: fragmented() == before + 20 * packets, "what does not fit is fragmented")


def test_pings(network: Network) -> None:
    """The director answers for VIPs, of any size that gets there, and for nothing else behind it."""
    for vip in (WAYS[0].vip, WAYS[1].vip):
        network.client.run("ping", "-c", "3", "-i", "0.05", "-W", "2", "-s", "1000", vip)
    stranger = subprocess.run(
        network.client.command("ping", "-c", "1", "-W", "1", "198.51.100.250"), capture_output=True, check=False
    )
    assert stranger.returncode == 1
    until(
        lambda: network.ask("/api/v1/status")["counters"]["replies_sent"].get("icmp_echo_reply") == 6,
        "six were answered",
    )


def complain(network: Network, quote: bytes, mtu: int, times: int = 1) -> None:
    """Tell the director that a packet was too big, as a router would."""
    message = struct.pack("!BBHHH", 3, 4, 0, 0, mtu) + quote
    message = message[:2] + checksum(message).to_bytes(2, "big") + message[4:]
    with inside(network.far, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)) as raw:
        for _ in range(times):
            raw.sendto(message, (DIRECTOR[4], 0))


def quote(length: int, member: str = SPOOFED.member) -> bytes:
    """The beginning of an outer packet."""
    head = struct.pack("!BBHHHBBH", 0x45, 0, length, 0, 0x4000, 60, 4, 0)
    return head + socket.inet_aton(DIRECTOR[4]) + socket.inet_aton(member) + b"\x45" + bytes(7)


def test_what_was_not_sent_by_us_is_not_believed(network: Network) -> None:
    """Errors about packets that the director cannot have sent change nothing, and are counted (M6)."""

    def heard() -> dict[str, int]:
        return dict(network.ask("/api/v1/mtu")["errors_heard"])

    before, known = heard(), network.mtus(SPOOFED)["path_mtu"]  # the doctor may have found out about the way
    complain(network, quote(1500, "203.0.113.63"), 1000)
    complain(network, quote(1000), 1000)
    complain(network, quote(1500), 500)
    until(lambda: heard()["too_small"] > before["too_small"], "all of them are heard")
    assert network.mtus(SPOOFED)["path_mtu"] == known
    assert heard()["not_ours"] == before["not_ours"] + 2
    complain(network, quote(1500), 1000)
    until(lambda: network.mtus(SPOOFED)["path_mtu"] == 1000, "what could be ours is believed")


def test_false_errors_do_not_stop_ipv6(network: Network, size: int) -> None:
    """Somebody makes the director believe in a way that IPv6 does not fit in: clients turn to the least that they may
    send, and that gets through."""
    complain(network, quote(1500, LIED_TO.member), 576)
    until(lambda: network.mtus(LIED_TO)["path_mtu"] == 576, "he is believed")
    assert upload(network, LIED_TO, size) == size
    assert route_mtu(network.client, LIED_TO.vip) == 1280


def test_a_flood_of_errors_is_not_listened_to(network: Network) -> None:
    """Most of it is lost in the socket; the director goes on, and hears what comes after (M6)."""
    before = network.ask("/api/v1/mtu")["errors_heard"]["not_ours"]
    complain(network, b"nonsense" * 4, 1000, times=50_000)
    assert upload(network, WAYS[2], 100_000) == 100_000

    def heard() -> bool:
        complain(network, quote(1500), 900)  # as a router would, with each packet
        return bool(network.mtus(SPOOFED)["path_mtu"] == 900)

    until(heard, "what comes after it is heard")
    assert 0 < network.ask("/api/v1/mtu")["errors_heard"]["not_ours"] - before < 25_000


def test_without_our_errors_uploads_hang(network: Network) -> None:
    """The control: a client that hears nothing from the VIP goes on sending what never arrives."""
    network.near.run(
        "nft",
        "add table inet silence; add chain inet silence on { type filter hook forward priority 0; }; "
        f"add rule inet silence on ip saddr {DEAF.vip} meta l4proto icmp drop",
    )
    try:
        with pytest.raises(TimeoutError):
            upload(network, DEAF, 100_000, patience_s=3.0)
    finally:
        network.near.run("nft", "delete table inet silence")
    until(lambda: network.mtus(DEAF)["errors_sent"], "the director has said it")
    assert upload(network, DEAF, 100_000) == 100_000


def test_without_any_errors_every_way_hangs(network: Network) -> None:
    """The same by every delivery and family at once, both ways: neither clients nor members learn what fits."""
    for space, hook, end in ((network.near, "forward", "saddr"), (network.far, "output", "daddr")):
        space.run(
            "nft",
            f"add table inet silence; add chain inet silence on {{ type filter hook {hook} priority 0; }}; "
            f"add rule inet silence on ip {end} 198.51.100.0/24 meta l4proto icmp drop; "
            f"add rule inet silence on ip6 {end} 2001:db8:f::/64 meta l4proto icmpv6 drop",
        )
    for space in (network.client, network.member):
        space.ip("route flush cache")
        space.ip("-6 route flush cache")

    def ends(way: Way, up: bool) -> bool:
        try:
            if up:
                return upload(network, way, 100_000, patience_s=3.0) == 100_000
            with connect(network, way, 3.0) as connection:
                connection.sendall(struct.pack("!q", -100_000))
                return len(_exactly(connection, 100_000)) == 100_000
        except TimeoutError:
            return False

    try:
        with ThreadPoolExecutor(2 * len(WAYS)) as pool:
            both = {(way, up): pool.submit(ends, way, up) for way in WAYS for up in (True, False)}
            ended = [f"{way} {'up' if up else 'down'}" for (way, up), future in both.items() if future.result()]
    finally:
        for space in (network.near, network.far):
            space.run("nft", "delete table inet silence")
    assert not ended
