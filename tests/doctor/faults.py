"""What is broken, one thing at a time, and what the doctor has to call it.

The numbers are those of the catalogue of troubles that DSR deployments have. Those that are not here are in LEFT_OUT.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from appliance.doctor.side import HEARD_S
from appliance.passive import PATIENCE_NS
from tests.doctor.lab import ECHO, FLAT, NEAR, ROUTER, SYSCTLS, VIPS, WEB, WEB6, Lab, listens, on_loopback
from tests.netns import Namespace, until

Named = frozenset[tuple[str, str]]
"""Check, and member; empty: the director."""


@dataclass(frozen=True)
class Fault:
    number: str
    what: str
    breaks: Callable[[Lab], AbstractContextManager[None]]
    named: Named
    """All that the doctor is to name, and nothing else."""

    short: bool = False
    """Whether it is among those of the short run."""
    other: bool = False
    """Whether it takes the second director."""
    planes: tuple[str, ...] = ("raw", "xdp")
    """On which it is one."""


def named(*pairs: str) -> Named:
    """`check member` each; without a member it is about the director."""
    return frozenset((pair.partition(" ")[0], pair.partition(" ")[2]) for pair in pairs)


def nft(space: Namespace, rules: str) -> None:
    space.run("nft", "--", rules)


@contextmanager
def filtered(space: Namespace, hook: str, *rules: str) -> Iterator[None]:
    """A table with these rules in one chain."""
    nft(space, f"add table inet broken; add chain inet broken it {{ type filter hook {hook} priority 0; }}")
    try:
        for rule in rules:
            nft(space, f"add rule inet broken it {rule}")
        yield
    finally:
        nft(space, "delete table inet broken")


@contextmanager
def without_vip(made: Lab, space: Namespace, *vips: str) -> Iterator[None]:
    for vip in vips:
        on_loopback(space, vip, "del")
    try:
        yield
    finally:
        for vip in vips:
            on_loopback(space, vip)


@contextmanager
def vip_missing(made: Lab) -> Iterator[None]:
    with without_vip(made, made.near, WEB, WEB6):
        yield


@contextmanager
def no_decapsulation(made: Lab) -> Iterator[None]:
    made.stop("near-decap")
    try:
        yield
    finally:
        made.decapsulate("near")


@contextmanager
def device(made: Lab, *words: str, rp_filter: int = 0) -> Iterator[None]:
    """A tunnel device that anybody may use, as a kernel's, instead of our decapsulator."""
    made.stop("near-decap")
    made.start("device", made.near, "tests.doctor.detunnel", "tun9", NEAR, *words)
    try:
        made.said("device", "ready")
        made.near.sysctl(net__ipv4__conf__tun9__rp_filter=rp_filter)
        yield
    finally:
        made.stop("device")
        (made.folder / "device.log").unlink()
        made.decapsulate("near")


def only_directors(made: Lab) -> AbstractContextManager[None]:
    return filtered(made.near, "prerouting", "meta l4proto { 4, 41 } ip saddr != { 203.0.113.1, 203.0.113.3 } drop")


@contextmanager
def reverse_path(made: Lab) -> Iterator[None]:
    with only_directors(made), device(made, rp_filter=1):
        yield


@contextmanager
def black_hole(made: Lab) -> Iterator[None]:
    with filtered(made.router, "output", "icmp type destination-unreachable drop"):
        for space, name in ((made.router, "r1"), (made.far, "f0")):
            space.ip(f"link set {name} mtu 1400")
        try:
            yield
        finally:
            for space, name in ((made.router, "r1"), (made.far, "f0")):
                space.ip(f"link set {name} mtu 1500")


@contextmanager
def rewritten(made: Lab, file: str, text: str) -> Iterator[None]:
    """A file of the near member's /etc that says something else."""
    path = made.root("near") / "etc" / file
    before = path.read_text() if path.exists() else None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    try:
        yield
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_text(before)


@contextmanager
def not_persisted(made: Lab) -> Iterator[None]:
    others = ", ".join(f'"{vip}"' for vip in VIPS if vip != WEB)
    with rewritten(made, "netplan/90-onward.yaml", f"network: {{ethernets: {{lo: {{addresses: [{others}]}}}}}}\n"):
        yield


@contextmanager
def overruled(made: Lab) -> Iterator[None]:
    """A later file has the last word, and nobody has rebooted yet."""
    with rewritten(
        made, "sysctl.d/99-hardening.conf", "net.ipv4.conf.*.arp_ignore = 0\nnet.ipv4.conf.all.arp_ignore = 0\n"
    ):
        yield


@contextmanager
def answers_arp(made: Lab) -> Iterator[None]:
    made.near.sysctl(net__ipv4__conf__all__arp_ignore=0)
    try:
        with rewritten(made, "sysctl.d/90-onward.conf", SYSCTLS.replace("arp_ignore = 1", "arp_ignore = 0")):
            yield
    finally:
        made.near.sysctl(net__ipv4__conf__all__arp_ignore=1)


@contextmanager
def instead(made: Lab, *words: str) -> Iterator[None]:
    """Another service than the usual one on the near member."""
    made.stop("near-responder")
    made.start("instead", made.near, *words)
    try:
        until(lambda: listens(made.near, 80), f"{words} listens", 20)
        yield
    finally:
        made.stop("instead")
        made.serve("near")


def own_address_only(made: Lab) -> AbstractContextManager[None]:
    return instead(made, "http.server", "80", "--bind", NEAR)


@contextmanager
def wildcard(made: Lab) -> Iterator[None]:
    with instead(made, "tests.doctor.wildcard"):
        made.said("instead", "ready")
        yield


def urpf(made: Lab) -> AbstractContextManager[None]:
    """A router that knows no way back to the VIP, and drops what comes from there."""
    return filtered(made.router, "forward", f"ip saddr {WEB} drop", f"ip6 saddr {WEB6} drop")


@contextmanager
def anti_spoof(made: Lab) -> Iterator[None]:
    """The switch's port lets nothing in but the member's own addresses."""
    nft(made.switch, "add table netdev broken")
    nft(made.switch, "add chain netdev broken it { type filter hook ingress device ps priority 0; }")
    try:
        nft(made.switch, f"add rule netdev broken it ip saddr {{ {WEB}, {ECHO}, {FLAT} }} drop")
        nft(made.switch, f"add rule netdev broken it ip6 saddr {WEB6} drop")
        yield
    finally:
        nft(made.switch, "delete table netdev broken")


def invalid(made: Lab) -> AbstractContextManager[None]:
    return filtered(made.near, "input", "ct state invalid drop")


@contextmanager
def merged(made: Lab) -> Iterator[None]:
    made.director.run("ethtool", "-K", "d0", "gro", "on")
    try:
        yield
    finally:
        made.director.run("ethtool", "-K", "d0", "gro", "off")


@contextmanager
def wrong_checksums(made: Lab) -> Iterator[None]:
    with only_directors(made), device(made, "--corrupt"):
        yield


def tunnel_filtered(made: Lab) -> AbstractContextManager[None]:
    return filtered(made.router, "forward", "meta l4proto { 4, 41 } drop")


def tunnel_refused(made: Lab) -> AbstractContextManager[None]:
    return filtered(made.router, "forward", "meta l4proto { 4, 41 } reject with icmp type admin-prohibited")


@contextmanager
def vip_on_director(made: Lab) -> Iterator[None]:
    on_loopback(made.director, WEB)
    try:
        yield
    finally:
        on_loopback(made.director, WEB, "del")


@contextmanager
def loop(made: Lab) -> Iterator[None]:
    made.near.sysctl(net__ipv4__ip_forward=1)
    try:
        with without_vip(made, made.near, WEB):
            yield
    finally:
        made.near.sysctl(net__ipv4__ip_forward=0)


@contextmanager
def stale_next_hop(made: Lab) -> Iterator[None]:
    made.director.ip(f"neigh replace {ROUTER} lladdr 02:00:00:00:00:99 dev d1 nud permanent")
    try:
        yield
    finally:
        made.director.ip(f"neigh del {ROUTER} dev d1")


@contextmanager
def tentative(made: Lab) -> Iterator[None]:
    """An IPv6 VIP for which duplicate address detection goes on for minutes."""
    on_loopback(made.near, WEB6, "del")
    made.near.sysctl(net__ipv6__conf__s0__accept_dad=1, net__ipv6__conf__s0__dad_transmits=500)
    made.near.ip(f"-6 addr add {WEB6}/128 dev s0")
    try:
        yield
    finally:
        made.near.ip(f"-6 addr del {WEB6}/128 dev s0")
        made.near.sysctl(net__ipv6__conf__s0__accept_dad=0, net__ipv6__conf__s0__dad_transmits=1)
        on_loopback(made.near, WEB6)


def firewalld(made: Lab) -> AbstractContextManager[None]:
    return rewritten(made, "firewalld/firewalld.conf", "DefaultZone=public\nIPv6_rpfilter=strict\n")


@contextmanager
def duplicate(made: Lab) -> Iterator[None]:
    made.guest.ip(f"addr add {WEB}/32 dev x0")
    try:
        yield
    finally:
        made.guest.ip(f"addr del {WEB}/32 dev x0")


@contextmanager
def other_tables(made: Lab) -> Iterator[None]:
    """A second director joins that has another weight for a member, for longer than a reload of all of them takes."""
    made.start("d2", made.other, "appliance", "run", str(made.write("d2", ratio=3)))
    log = made.folder / "d1.log"
    try:
        until(lambda: "fleet.tables_differ" in log.read_text(), "tables differ", 60)
        yield
    finally:
        silent = log.read_text().count("pins.peer_silent")
        made.stop("d2")
        until(lambda: log.read_text().count("pins.peer_silent") > silent, "the other director is gone", 30)
        time.sleep(HEARD_S)  # from then on what it said does not count


@contextmanager
def own_client(made: Lab) -> Iterator[None]:
    """A program on the member that uses the VIP."""
    text = (
        f"import socket, time; s = socket.create_connection(('{WEB}', 80)); print('ready', flush=True); time.sleep(600)"
    )
    with (made.folder / "own-client.log").open("wb") as log:
        process = subprocess.Popen(made.near.command(sys.executable, "-c", text), stdout=log)
        try:
            until(lambda: "ready" in (made.folder / "own-client.log").read_text(), "connected", 10)
            yield
        finally:
            process.terminate()
            process.wait(10)


@contextmanager
def open_tunnel(made: Lab) -> Iterator[None]:
    with device(made):
        yield


@contextmanager
def lone_fragments(made: Lab) -> Iterator[None]:
    """Later fragments of datagrams whose first ones have gone to another director."""
    text = (
        "import socket, struct\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)\n"
        "for n in range(5):\n"
        "    head = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 60, 1000 + n, 185, 64, 17, 0,\n"
        f"        socket.inet_aton('192.0.2.2'), socket.inet_aton('{ECHO}'))\n"
        f"    s.sendto(head + bytes(40), ('{ECHO}', 0))\n"
    )
    made.client.run(sys.executable, "-c", text)
    yield


def connections(made: Lab, count: int) -> None:
    """Of the client's, to the web service; each is closed at once."""
    text = f"import socket\nfor n in range({count}):\n    socket.create_connection(('{WEB}', 80), 5).close()\n"
    made.client.run(sys.executable, "-c", text)


@contextmanager
def one_way_firewall(made: Lab) -> Iterator[None]:
    """What a stateful device does that has not seen the SYN-ACK: it lets nothing through behind the SYN."""
    with filtered(made.client, "output", f"ip daddr {WEB} tcp flags & syn == 0 drop"):
        connections(made, 80)
        time.sleep(PATIENCE_NS / 1e9 + 3)  # so long a client could repeat its SYN
        yield
    connections(made, 240)
    time.sleep(2)  # the director looks once a second


FAULTS = (
    Fault("T1", "a VIP is missing on a member", vip_missing, named("vip_present web/near"), short=True),
    Fault(
        "T2",
        "a member does not take packets out of the tunnel",
        no_decapsulation,
        named("decapsulation web/near", "decapsulation echo/near"),
        short=True,
    ),
    Fault("T3", "strict rp_filter on the tunnel device", reverse_path, named("reverse_path web/near")),
    Fault(
        "T4", "a smaller MTU on the way, and its ICMP filtered", black_hole, named("segment_size web/far"), short=True
    ),
    Fault("T5", "a VIP is in no file of the member's", not_persisted, named("persisted web/near")),
    Fault(
        "T5",
        "a later sysctl file says something else",
        overruled,
        named("persisted web/near", "persisted echo/near", "persisted flat/near"),
    ),
    Fault(
        "T6",
        "a member answers ARP for VIPs",
        answers_arp,
        named("arp_quiet web/near", "arp_quiet echo/near", "arp_quiet flat/near"),
        short=True,
    ),
    Fault(
        "T7",
        "the service listens on the member's own address only",
        own_address_only,
        named("listener web/near", "listener echo/near", "listener flat/near"),
    ),
    Fault("T8", "a router drops replies from the VIP", urpf, named("replies_arrive web/far"), short=True),
    Fault(
        "T9",
        "the member's port lets no VIP through as source",
        anti_spoof,
        named("replies_arrive web/near", "replies_arrive flat/near"),
    ),
    Fault(
        "T10",
        "a device on the clients' way lets nothing but SYNs through",
        one_way_firewall,
        named("handshakes web/near", "handshakes web/far"),
    ),
    Fault(
        "T11",
        "the member's firewall drops what is `invalid`",
        invalid,
        named("conntrack web/near", "conntrack echo/near", "conntrack flat/near"),
    ),
    Fault(  # a program in the driver sees packets before the kernel merges them
        "T12", "receive offloads merge packets on the director", merged, named("offloads"), planes=("raw",)
    ),
    Fault("T13", "checksums are wrong behind the tunnel", wrong_checksums, named("checksums web/near")),
    Fault("T15", "the tunnel's protocol gets lost on the way", tunnel_filtered, named("outer_path web/far")),
    Fault("T15", "a router refuses the tunnel's protocol", tunnel_refused, named("outer_path web/far")),
    Fault("T16", "a UDP service answers from the member's own address", wildcard, named("udp_source echo/near")),
    Fault("T17", "a VIP is an address of the director", vip_on_director, named("vip_not_local")),
    Fault("T18", "a member sends packets for a VIP on", loop, named("vip_present web/near", "no_loop web/near")),
    Fault(
        "T19", "the router's MAC address is not what the director believes", stale_next_hop, named("next_hop web/far")
    ),
    Fault("T20", "duplicate address detection on an IPv6 VIP", tentative, named("ipv6 web/near")),
    Fault("T20", "firewalld filters IPv6 by reverse path", firewalld, named("ipv6 web/near")),
    Fault("T21", "somebody else has a VIP", duplicate, named("duplicate_vip")),
    Fault("T22", "a director has other tables", other_tables, named("tables_agree"), other=True),
    Fault("T24", "a member is its own client", own_client, named("hairpin web/near")),
    Fault("T25", "a tunnel that takes packets from anybody", open_tunnel, named("closed_decapsulator web/near")),
    Fault("T26", "fragments whose first one came by another director", lone_fragments, named("fragments")),
)

LEFT_OUT = {
    "T14": "(one receive queue) a veth has no receive side scaling; judged in tests/unit/doctor",
    "T23": "(BGP and BFD kept waiting) it takes a load that starves the machine which others measure on; judged in "
    "tests/unit/doctor",
}
