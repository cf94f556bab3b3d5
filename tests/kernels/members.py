"""Members with the kernel's own tunnel devices, set up by `onward server-setup` alone, behind a real director.

Run inside by `tests/run members`: it takes a kernel with the modules ipip, sit, ip6_tunnel, ip_gre, ip6_gre and fou.
Not part of the usual tests, since the machine that runs them may have none of these.
"""

import itertools
import json
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.netns import PATIENCE, Namespace, namespaces, until, veth
from tests.root.plane_rig import REPOSITORY, inside
from tests.root.test_server_setup import CONFIG, FETCH, MEMBER, ROOM, SERVICE, SERVICES, VIPS

pytestmark = [pytest.mark.root, pytest.mark.timeout(int(120 * PATIENCE))]

ONWARD = (sys.executable, "-m", "appliance")
SOURCES = ("--from", "203.0.113.1/32", "--from", "2001:db8:2::1/128")
VIP = VIPS["ipip4"][0]


@dataclass
class Network:
    """client -- director -- member, with a director that runs and a server on the member."""

    client: Namespace
    director: Namespace
    member: Namespace
    folder: Path
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def start(self, name: str, space: Namespace, *words: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes.append(
                subprocess.Popen(space.command(*ONWARD, *words), cwd=REPOSITORY, stdout=log, stderr=log)
            )

    def setup(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """`onward server-setup` on the member."""
        record = ("--record", str(self.folder / "record.json"))
        whose = (
            () if words == ("--undo",) else ("--config", str(self.folder / "onward.toml"), "--member", "m1", *SOURCES)
        )
        command = self.member.command(*ONWARD, "server-setup", *whose, "--interface", "s0", *record, *words)
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)

    def fetch(self, *vips: str) -> dict[str, object]:
        """Both directions over each VIP, and the segments that fit."""
        return dict(json.loads(self.client.run(sys.executable, "-c", FETCH, *vips)))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    folder = tmp_path_factory.mktemp("members")
    text = CONFIG.replace('"eth1"', '"d0"').replace("[fleet]", f'runtime_dir = "{folder}/run"\n[fleet]')
    for number, (name, (kind, outer)) in enumerate(SERVICES.items(), 11):
        dsr = f'type = "l3", encapsulation = "{kind}"' if kind else 'type = "l2"'
        text += SERVICE.format(name=name, number=number, dsr=dsr, address=MEMBER[outer])
    (folder / "onward.toml").write_text(text)
    (folder / "fleet.key").write_text("0123456789abcdef")
    with namespaces("c", "d", "s", prefix="owmem") as (client, director, member), ExitStack() as stack:
        made = Network(client, director, member, folder)
        veth(client, "c0", director, "d0")
        veth(director, "d1", member, "s0")
        for space, name, four, six in (
            (client, "c0", "192.0.2.2/24", "2001:db8:1::2/64"),
            (director, "d0", "192.0.2.1/24", "2001:db8:1::1/64"),
            (director, "d1", "203.0.113.1/24", "2001:db8:2::1/64"),
            (member, "s0", "203.0.113.2/24", "2001:db8:2::2/64"),
        ):
            space.ip(f"addr add {four} dev {name}")
            space.ip(f"addr add {six} dev {name} nodad")
        for space, four, six in ((client, "192.0.2.1", "2001:db8:1::1"), (member, "203.0.113.1", "2001:db8:2::1")):
            space.ip(f"route add default via {four}")
            space.ip(f"-6 route add default via {six}")
        director.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
        client.run("ethtool", "-K", "c0", "gro", "on")
        member.run("ethtool", "-K", "s0", "gro", "on")
        stack.callback(lambda: [(one.terminate(), one.wait(30)) for one in made.processes])
        made.start("server", member, "lab", "responder", "--name", "m1")
        made.start("director", director, "run", str(folder / "onward.toml"))

        def ready() -> bool:
            assert all(one.poll() is None for one in made.processes), (folder / "director.log").read_text()
            asked = director.command("curl", "-sf", "-o", "/dev/null", "http://127.0.0.1:8080/healthz")
            return subprocess.run(asked, check=False).returncode == 0

        until(ready, "the director runs", 30)
        yield made


def test_kernel_tunnels_from_the_generated_configuration(network: Network) -> None:
    """ipip, sit, ip6tnl, GRE and GUE of both families: traffic, MSS, a green check, and nothing left afterwards."""
    network.member.sysctl(net__ipv4__conf__all__rp_filter=1)
    before = traces(network)
    done = network.setup("--apply")
    assert done.returncode == 0, done.stderr
    checked = network.setup("--check", "--json")
    points = json.loads(checked.stdout)["points"]
    assert {point["verdict"] for point in points} == {"pass"}, points
    got = network.fetch(*(vip for pair in VIPS.values() for vip in pair))
    wrong = {vip: told for vip, told in got.items() if not isinstance(told, list)}
    assert not wrong, (wrong, network.member.ip("-s link"))
    sizes = {vip: told[2] for vip, told in got.items() if isinstance(told, list)}
    assert sizes == {vip: mss for name in SERVICES for vip, mss in zip(VIPS[name], ROOM[name], strict=True)}
    taken = {name: received(network.member, name) for name in devices(network.member) if name.startswith("onward-")}
    print(f"\npackets by device: {taken}; {len(points)} points pass")
    assert set(taken) == {"onward-ipip", "onward-sit", "onward-ip6tnl", "onward-gre", "onward-ip6gre"}
    assert min(taken.values()) > 10
    assert network.setup("--apply").stdout == "everything was there\n"
    undone = network.setup("--undo")
    assert undone.returncode == 0, undone.stderr
    assert traces(network) == before


def test_devices_that_modules_bring_along(network: Network) -> None:
    """tunl0 and ip6tnl0 carry the same traffic, and --check is green with them as well."""
    member = network.member
    member.sysctl(net__ipv4__conf__all__rp_filter=1)
    services = ("--service", "ipip4", "--service", "ipip6")
    assert network.setup(*services, "--apply").returncode == 0
    try:
        for ours, theirs in (("onward-ipip", "tunl0"), ("onward-ip6tnl", "ip6tnl0")):
            member.ip(f"link del {ours}")
            member.ip(f"addr add 127.0.0.42/32 dev {theirs}")
            member.ip(f"link set {theirs} up")
            member.sysctl(**{f"net__ipv4__conf__{theirs}__rp_filter": 2})
        # It opens IPv6 in IPv6 only, and netlink refuses to change that; the older way does.
        checked = network.setup(*services, "--check", "--json")
        (failed,) = [point for point in json.loads(checked.stdout)["points"] if point["verdict"] == "fail"]
        assert (failed["name"], failed["subject"]) == ("tunnel", "ip6tnl0"), failed
        member.run(*failed["fix"].split())
        # Our rule for what comes out of tunnels names our devices; the one for who may send does not.
        checked = network.setup(*services, "--check", "--json")
        assert {point["verdict"] for point in json.loads(checked.stdout)["points"]} == {"pass"}, checked.stdout
        got = network.fetch(VIP, *VIPS["ipip6"])
        assert all(isinstance(told, list) for told in got.values()), got
        taken = {name: received(member, name) for name in ("tunl0", "ip6tnl0")}
        print(f"\npackets by device: {taken}")
        assert min(taken.values()) > 10
    finally:
        for theirs in ("tunl0", "ip6tnl0"):
            member.ip(f"link set {theirs} down")
            member.ip(f"addr flush dev {theirs}")
        network.setup("--undo")


def test_only_directors_get_in(network: Network) -> None:
    """A tunnelled packet from another address is dropped by our rules, and one for an address that is no VIP, too."""
    member = network.member
    assert network.setup("--service", "ipip4", "--apply").returncode == 0
    try:
        with heard(member, "0.0.0.0") as count:
            for source, inner, wanted in (
                ("203.0.113.1", VIP, 1),
                ("203.0.113.9", VIP, 1),
                ("203.0.113.1", MEMBER[4], 1),
                ("203.0.113.1", VIP, 2),
            ):
                tunnelled(network.director, source, inner)
                assert count(wanted) == wanted, (source, inner)
        network.director.ip("route flush cache")
    finally:
        network.setup("--undo")


MATRIX = list(itertools.product((0, 1, 2), (0, 1, 2), (False, True)))
"""rp_filter of `all` and of the device, and whether the device has an IPv4 address."""


def test_reverse_path_filter_of_a_tunnel_device(network: Network) -> None:
    """The larger value counts; 1 drops; 2 drops as long as the device has no IPv4 address. Clients are elsewhere."""
    member = network.member
    member.run("modprobe", "ipip")
    member.ip(f"addr add {VIP}/32 dev lo")
    member.ip("link set tunl0 up")
    found = {}
    try:
        for everywhere, own, address in MATRIX:
            member.sysctl(net__ipv4__conf__all__rp_filter=everywhere, net__ipv4__conf__tunl0__rp_filter=own)
            member.ip(f"addr {'replace' if address else 'flush'} {'127.0.0.42/32 ' if address else ''}dev tunl0")
            before = dropped(member)
            with heard(member, VIP) as count:
                tunnelled(network.director, "203.0.113.1", VIP)
                until(lambda: count(1, 0.1) or dropped(member) > before, "it is delivered or dropped")  # noqa: B023
                found[everywhere, own, address] = bool(count(1, 0))
        print("\nall  device  delivered without address, with")
        for everywhere, own in itertools.product((0, 1, 2), (0, 1, 2)):
            print(f"{everywhere:3}  {own:6}  {found[everywhere, own, False]!s:26}{found[everywhere, own, True]}")
    finally:
        member.ip("link set tunl0 down")
        member.ip("addr flush dev tunl0")
        member.ip(f"addr del {VIP}/32 dev lo")
        member.sysctl(net__ipv4__conf__all__rp_filter=0)
    assert found == {
        (everywhere, own, address): max(everywhere, own) == 0 or (max(everywhere, own) == 2 and address)
        for everywhere, own, address in MATRIX
    }


@pytest.mark.parametrize(
    ("where", "ignore", "answers"), [("all", 0, True), ("lo", 1, True), ("all", 1, False), ("s0", 1, False)]
)
def test_who_answers_arp_for_a_vip(network: Network, where: str, ignore: int, answers: bool) -> None:
    """By default it is answered for a VIP on `lo`. arp_ignore of `all` or the interface ends that, that of `lo` not."""
    member = network.member
    member.ip("addr add 203.0.113.77/32 dev lo")
    member.sysctl(**{f"net__ipv4__conf__{where}__arp_ignore": ignore})
    try:
        asked = network.director.command("ping", "-c1", "-W2", "203.0.113.77")
        network.director.ip("neigh flush dev d1")
        assert (subprocess.run(asked, capture_output=True, check=False).returncode == 0) is answers
    finally:
        member.sysctl(**{f"net__ipv4__conf__{where}__arp_ignore": 0})
        member.ip("addr del 203.0.113.77/32 dev lo")


@pytest.mark.parametrize(("announce", "leaks"), [(0, True), (1, True), (2, False)])
def test_in_whose_name_arp_asks(network: Network, announce: int, leaks: bool) -> None:
    """What a VIP of the network sends makes the kernel ask in the VIP's name, unless arp_announce is 2."""
    member = network.member
    member.ip("addr add 203.0.113.77/32 dev lo")
    member.sysctl(net__ipv4__conf__all__arp_announce=announce)
    try:
        with arp_requests(network.director) as senders:
            member.ip("neigh flush dev s0")

            def send() -> None:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                    sock.bind(("203.0.113.77", 0))
                    sock.sendto(b"x", ("203.0.113.200", 9))

            inside(member, send)
            assert senders() == ("203.0.113.77" if leaks else "203.0.113.2")
    finally:
        member.sysctl(net__ipv4__conf__all__arp_announce=0)
        member.ip("addr del 203.0.113.77/32 dev lo")


def test_what_a_member_says_without_a_tunnel(network: Network) -> None:
    """ICMP says why: protocol unreachable without the module, port unreachable without a device that is up."""
    member = network.member
    subprocess.run(["modprobe", "-r", "ipip"], check=False)
    said = {}
    for module, word in ((False, "none"), (True, "down")):
        if module:
            member.run("modprobe", "ipip")
        with icmp_errors(network.director) as errors:
            tunnelled(network.director, "203.0.113.1", VIP)
            said[word] = errors()
    print(f"\nICMP type and code: {said}")
    assert said == {"none": (3, 2), "down": (3, 3)}


def test_a_second_device_for_anybody_is_refused(network: Network) -> None:
    """tunl0 is the device for any address already, which is why ours have the member's own."""
    network.member.run("modprobe", "ipip")
    again = network.member.command("ip", "link", "add", "second", "type", "ipip", "local", "any", "remote", "any")
    refused = subprocess.run(again, capture_output=True, text=True, check=False)
    assert "File exists" in refused.stderr


# ---------------------------------------------------------------------------------------------------------------------


def traces(network: Network) -> dict[str, str]:
    """What set-up could have changed on the member."""
    commands = (
        "ip -d -o address | sed 's/valid_lft.*//'",
        "ip -4 rule; ip -6 rule",
        "ip -4 route show table all; ip -6 route show table all",
        "grep -rH . /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf",
        "nft list ruleset",
        "ip fou show 2>/dev/null; ip -6 fou show 2>/dev/null",
        "lsmod | cut -d' ' -f1 | grep -E '^(ipip|sit|ip6_tunnel|ip_gre|ip6_gre|gre|fou6?)$'",
    )
    return {
        command: "\n".join(
            sorted(
                subprocess.run(
                    network.member.command("sh", "-c", command), capture_output=True, text=True, check=False
                ).stdout.splitlines()
            )
        )
        for command in commands
    }


def devices(space: Namespace) -> list[str]:
    return [link["ifname"] for link in json.loads(space.ip("-json link"))]


def received(space: Namespace, device: str) -> int:
    return int(json.loads(space.ip(f"-json -s link show {device}"))[0]["stats64"]["rx"]["packets"])


def dropped(space: Namespace) -> int:
    """Packets that the reverse-path filter has dropped."""
    lines = [line.split() for line in space.run("cat", "/proc/net/netstat").splitlines() if line.startswith("TcpExt")]
    return int(dict(zip(*lines, strict=False))["IPReversePathFilter"])


@contextmanager
def heard(space: Namespace, address: str) -> Iterator[Callable[..., int]]:
    """A UDP socket on port 9; gives a function that waits for so many datagrams in all, and tells how many came."""
    sock = inside(space, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    got = 0

    def count(wanted: int, wait_s: float = 1.0) -> int:
        nonlocal got
        end = time.monotonic() + wait_s
        while got < wanted and (left := end - time.monotonic()) > 0:
            sock.settimeout(left)
            try:
                sock.recv(100)
                got += 1
            except TimeoutError:
                break
        return got

    with sock:
        sock.bind((address, 9))
        yield count


def tunnelled(space: Namespace, source: str, vip: str) -> None:
    """A datagram from a client in an IPv4 packet to the member."""

    def packet(protocol: int, a: str, b: str, payload: bytes) -> bytes:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0)
        head += socket.inet_aton(a) + socket.inet_aton(b)
        total = sum(struct.unpack("!10H", head))
        total = (total & 0xFFFF) + (total >> 16)
        return head[:10] + struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF) + head[12:] + payload

    inner = packet(17, "192.0.2.2", vip, struct.pack("!HHHH", 5000, 9, 9, 0) + b"x")

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
            sock.sendto(packet(4, source, MEMBER[4], inner), (MEMBER[4], 0))

    inside(space, send)


@contextmanager
def arp_requests(space: Namespace) -> Iterator[Callable[[], str]]:
    """Gives a function that waits for the next ARP request on d1 for 203.0.113.200, and tells in whose name it is."""

    def make() -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
        sock.bind(("d1", 0x0806))
        return sock

    with inside(space, make) as sock:

        def sender() -> str:
            sock.settimeout(5 * PATIENCE)
            while True:
                frame = sock.recv(100)
                if frame[20:22] == b"\0\1" and socket.inet_ntoa(frame[38:42]) == "203.0.113.200":
                    return socket.inet_ntoa(frame[28:32])

        yield sender


@contextmanager
def icmp_errors(space: Namespace) -> Iterator[Callable[[], tuple[int, int]]]:
    """Gives a function that waits for an ICMP error about a packet of protocol 4, and tells type and code."""
    with inside(space, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)) as sock:

        def error() -> tuple[int, int]:
            sock.settimeout(5 * PATIENCE)
            while True:
                message = sock.recv(2000)[20:]
                if message[0] == 3 and message[8 + 9] == 4:
                    return message[0], message[1]

        yield error
