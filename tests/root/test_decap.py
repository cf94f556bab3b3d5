"""Decapsulation on a member: single packets through the program, and real connections through a network."""

import hashlib
import json
import os
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from appliance.bpf import libbpf
from appliance.bpf.libbpf import BpfError, Object, TestRunner
from appliance.decap.decap import Address, Counters, loaded
from appliance.lab.node import Node, Process
from appliance.lab.responder import pattern
from appliance.lab.runner import Lab
from tests.netns import until

pytestmark = pytest.mark.root

BPF_HEADERS = Path(libbpf.__file__).parent

D4, R4, V4, C4 = map(ip_address, ("203.0.113.1", "203.0.113.2", "198.51.100.7", "192.0.2.2"))
D6, R6, V6, C6 = map(ip_address, ("2001:db8:2::1", "2001:db8:2::2", "2001:db8:f::7", "2001:db8:1::2"))

XDP_DROP, XDP_PASS = 1, 2
TCX_NEXT, TCX_DROP = -1, 2

MACS = bytes.fromhex("020000000002 020000000001")


def ip(
    source: Address, destination: Address, protocol: int, payload: bytes, *, tos: int = 0, fragment: int = 0
) -> bytes:
    """An IP packet with a correct header."""
    if source.version == 6:
        first = 6 << 28 | tos << 20 | 0x12345
        return struct.pack("!IHBB", first, len(payload), protocol, 64) + source.packed + destination.packed + payload
    head = struct.pack("!BBHHHBBH", 0x45, tos, 20 + len(payload), 7, fragment, 64, protocol, 0)
    head += source.packed + destination.packed
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    check = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return head[:10] + struct.pack("!H", check) + head[12:] + payload


def ethernet(packet: bytes, tags: bytes = b"") -> bytes:
    return MACS + tags + (b"\x86\xdd" if packet[0] >> 4 == 6 else b"\x08\x00") + packet


def gre(inner: bytes, flags: int = 0, ethertype: int | None = None) -> tuple[int, bytes]:
    """Protocol and payload."""
    known = 0x0800 if inner[0] >> 4 == 4 else 0x86DD
    return 47, struct.pack("!HH", flags, known if ethertype is None else ethertype) + inner


def gue(inner: bytes, head: str = "", *, check: int = 0, more: int = 0, port: int = 6080) -> tuple[int, bytes]:
    """Protocol and payload; *head* is another GUE header, *more* is added to the UDP length."""
    header = bytes.fromhex(head) if head else bytes((0, 4 if inner[0] >> 4 == 4 else 41, 0, 0))
    payload = header + inner
    return 17, struct.pack("!HHHH", 50000, port, 8 + len(payload) + more, check) + payload


def ipip(inner: bytes) -> tuple[int, bytes]:
    """Protocol and payload."""
    return 4 if inner[0] >> 4 == 4 else 41, inner


Carried = Callable[[bytes], tuple[int, bytes]]
HOW = {"ipip": ipip, "gre": gre, "gue": gue}


def tunnel(inner: bytes, outer: int = 4, source: Address | None = None, *, how: Carried = ipip, **fields: int) -> bytes:
    """*inner* in an outer packet from director to member."""
    addresses = (source or D4, R4) if outer == 4 else (source or D6, R6)
    return ip(*addresses, *how(inner), **fields)


INNER4 = ip(C4, V4, 17, bytes(range(100)))
INNER6 = ip(C6, V6, 17, bytes(range(100)))


class Program:
    def __init__(self, name: str) -> None:
        networks = [ip_network("203.0.113.0/30"), ip_network("2001:db8:2::/126")]
        self.object = loaded(name, networks, [R4, R6], [V4, V6])
        self.fd = self.object.program(name)
        self.counters = Counters(self.object)
        self.passes, self.drops = (XDP_PASS, XDP_DROP) if name == "decap_xdp" else (TCX_NEXT, TCX_DROP)

    def run(self, frame: bytes) -> tuple[str, bytes, str]:
        """Verdict, frame afterwards, and the counter that grew."""
        before = self.counters.read()
        done = TestRunner(self.fd).run(frame)
        verdict, out = done.verdict, done.frame
        after = self.counters.read()
        (grown,) = [name for name in after if after[name] != before[name]]
        assert after[grown] == before[grown] + 1
        return {self.passes: "pass", self.drops: "drop"}[verdict], out, grown


@pytest.fixture(scope="module", params=["decap_xdp", "decap_tc"])
def program(request: pytest.FixtureRequest) -> Iterator[Program]:
    program = Program(request.param)
    yield program
    program.object.close()


@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("inner", [INNER4, INNER6], ids=["inner4", "inner6"])
def test_takes_the_outer_header_off(program: Program, inner: bytes, outer: int, how: Carried) -> None:
    """Each of the four mixes comes out byte for byte, behind the same MAC addresses with the inner type."""
    family = "ipv4" if inner is INNER4 else "ipv6"
    assert program.run(ethernet(tunnel(inner, outer, how=how))) == ("pass", ethernet(inner), f"decapsulated_{family}")


@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize(
    "inner",
    [
        ip(C4, V4, 17, bytes(range(104)), fragment=0x2000),
        ip(C4, V4, 17, bytes(range(100)), fragment=0x000D),
        ip(C6, V6, 44, bytes.fromhex("1100000100000007") + bytes(range(104))),
        ip(C6, V6, 44, bytes.fromhex("1100006800000007") + bytes(range(100))),
    ],
    ids=["first4", "later4", "first6", "later6"],
)
def test_fragments_inside_are_packets(program: Program, inner: bytes, outer: int, how: Carried) -> None:
    """A client's fragments come out one by one, for the kernel to put together."""
    family = f"ipv{inner[0] >> 4}"
    assert program.run(ethernet(tunnel(inner, outer, how=how))) == ("pass", ethernet(inner), f"decapsulated_{family}")


@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
@pytest.mark.parametrize("tags", ["8100000a", "88a80064 8100000a"], ids=["802.1Q", "QinQ"])
@pytest.mark.parametrize("outer", [4, 6])
def test_vlan_tags_stay(outer: int, tags: str, how: Carried) -> None:
    """One or two VLAN tags in front stay as they are."""
    program = Program("decap_xdp")
    tag = bytes.fromhex(tags)
    frame = ethernet(tunnel(INNER4, outer, how=how), tag)
    assert program.run(frame) == ("pass", ethernet(INNER4, tag), "decapsulated_ipv4")
    program.object.close()


@pytest.mark.parametrize(
    ("frame", "counter"),
    [
        (ethernet(ip(C4, R4, 17, bytes(40))), "not_encapsulated"),
        (MACS + b"\x08\x06" + bytes(46), "not_encapsulated"),
        (ethernet(ip(D4, ip_address("203.0.113.3"), 4, INNER4)), "not_our_address"),
        (ethernet(ip(D6, ip_address("2001:db8:2::3"), 41, INNER6)), "not_our_address"),
        (ethernet(tunnel(INNER4, 4, ip_address("203.0.113.4"))), "foreign_source"),
        (ethernet(tunnel(INNER6, 6, ip_address("2001:db8:2::4"))), "foreign_source"),
        (ethernet(tunnel(INNER4, fragment=0x2000)), "fragment"),
        (ethernet(tunnel(INNER4, fragment=0x0010)), "fragment"),
        (ethernet(tunnel(INNER4, how=gre, fragment=0x0010)), "fragment"),
        (ethernet(tunnel(INNER4, how=gue, fragment=0x2000)), "fragment"),
        (ethernet(tunnel(INNER4, how=partial(gue, port=6081))), "not_encapsulated"),
        (ethernet(tunnel(INNER6, 6, how=partial(gue, port=53))), "not_encapsulated"),
        (ethernet(ip(D6, R6, 17, bytes(4))), "not_encapsulated"),
        (ethernet(tunnel(INNER4, 4, ip_address("203.0.113.4"), how=gre)), "foreign_source"),
        (ethernet(tunnel(INNER6, 6, ip_address("2001:db8:2::4"), how=gue)), "foreign_source"),
        (ethernet(ip(D6, ip_address("2001:db8:2::3"), *gue(INNER6))), "not_our_address"),
        (ethernet(tunnel(INNER4, how=partial(gre, flags=0x8000))), "options"),  # a checksum
        (ethernet(tunnel(INNER4, 6, how=partial(gre, flags=0x2000))), "options"),  # a key
        (ethernet(tunnel(INNER4, how=partial(gre, flags=0x0001))), "options"),  # version 1
        (ethernet(tunnel(INNER4, how=partial(gre, ethertype=0x6558))), "options"),  # Ethernet inside
        (ethernet(tunnel(INNER4, how=partial(gue, check=0x1234))), "options"),
        (ethernet(tunnel(INNER6, 6, how=partial(gue, check=0xFFFF))), "options"),
        (ethernet(tunnel(INNER4, how=partial(gue, head="40040000"))), "options"),  # variant 1
        (ethernet(tunnel(INNER4, how=partial(gue, head="20040000"))), "options"),  # control
        (ethernet(tunnel(INNER4, how=partial(gue, head="01040000"))), "options"),  # a longer header
        (ethernet(tunnel(INNER4, how=partial(gue, head="00040001"))), "options"),  # a flag
        (ethernet(tunnel(INNER4, how=partial(gue, head="002f0000"))), "options"),  # GRE inside
    ],
)
def test_leaves_to_the_kernel_what_is_not_ours(program: Program, frame: bytes, counter: str) -> None:
    """Other traffic, addresses, senders and options, and fragments go on unchanged, each under its own counter."""
    assert program.run(frame) == ("pass", frame, f"passed_{counter}")


def _broken(packet: bytes, at: int, value: int) -> bytes:
    return packet[:at] + bytes([value]) + packet[at + 1 :]


@pytest.mark.parametrize(
    ("frame", "counter"),
    [
        (ethernet(tunnel(ip(C4, ip_address("198.51.100.8"), 17, bytes(20)))), "not_a_vip"),
        (ethernet(tunnel(ip(C6, ip_address("2001:db8:f::8"), 17, bytes(20)), 6)), "not_a_vip"),
        (ethernet(tunnel(INNER4))[:-1], "malformed"),
        (ethernet(tunnel(INNER4, 6))[:-1], "malformed"),
        (ethernet(_broken(tunnel(INNER4), 8, 63)), "malformed"),  # the outer checksum does not fit
        (ethernet(tunnel(_broken(INNER4, 0, 0x44))), "malformed"),  # inner header of 16 bytes
        (ethernet(tunnel(_broken(INNER4, 3, 0xFF))), "malformed"),  # inner length beyond the outer one
        (ethernet(tunnel(_broken(INNER6, 5, 0xFF), 6)), "malformed"),
        (ethernet(ip(D4, R4, 41, INNER4)), "malformed"),  # the protocol says IPv6
        (ethernet(ip(D4, R4, 4, b"")), "malformed"),
        (ethernet(tunnel(INNER4, how=gre))[:-1], "malformed"),
        (ethernet(tunnel(INNER6, 6, how=gue))[:-1], "malformed"),
        (ethernet(ip(D4, R4, 47, bytes(3))), "malformed"),  # half a GRE header
        (ethernet(ip(D6, R6, 47, b"")), "malformed"),
        (ethernet(ip(D4, R4, 47, bytes.fromhex("00000800"))), "malformed"),  # nothing inside
        (ethernet(ip(D4, R4, 17, bytes.fromhex("c00017c0000c0000 00040000"))), "malformed"),
        (ethernet(ip(D4, R4, 17, bytes.fromhex("c00017c000080000"))), "malformed"),  # half of both headers
        (ethernet(tunnel(INNER4, how=partial(gue, more=1))), "malformed"),  # beyond the outer packet
        (ethernet(tunnel(INNER4, how=partial(gue, more=-1))), "malformed"),  # the inner packet is longer
        (ethernet(tunnel(INNER6, how=partial(gue, more=-105))), "malformed"),  # less than both headers
        (ethernet(tunnel(INNER6, how=partial(gre, ethertype=0x0800))), "malformed"),
        (ethernet(tunnel(INNER4, 6, how=partial(gue, head="00290000"))), "malformed"),
        (ethernet(tunnel(ip(C4, ip_address("198.51.100.8"), 17, bytes(20)), how=gre)), "not_a_vip"),
        (ethernet(tunnel(ip(C6, ip_address("2001:db8:f::8"), 17, bytes(20)), 6, how=gue)), "not_a_vip"),
        (ethernet(tunnel(INNER4, tos=3)), "congestion"),
        (ethernet(tunnel(INNER4, tos=3, how=gue)), "congestion"),
        (ethernet(tunnel(INNER6, 6, tos=3)), "congestion"),
    ],
)
def test_drops_what_is_ours_and_wrong(program: Program, frame: bytes, counter: str) -> None:
    """From a director to us, but for no VIP, cut, inconsistent, or with congestion that cannot be told (RFC 6040)."""
    verdict, _, grown = program.run(frame)
    assert (verdict, grown) == ("drop", f"dropped_{counter}")


@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
@pytest.mark.parametrize(
    ("outer", "inner", "wanted"), [(0, 1, 1), (1, 2, 1), (2, 1, 1), (3, 1, 3), (3, 2, 3), (2, 0, 0)]
)
def test_congestion_marks_reach_the_inner_header(
    program: Program, outer: int, inner: int, wanted: int, how: Carried
) -> None:
    """ECN of outer and inner header are combined by RFC 6040, figure 4; DSCP stays, and the inner checksum is right."""
    for packet in (lambda tos: ip(C4, V4, 17, b"x" * 30, tos=tos), lambda tos: ip(C6, V6, 17, b"x" * 30, tos=tos)):
        frame = ethernet(tunnel(packet(0xB8 | inner), tos=0xB8 | outer, how=how))
        verdict, out, _ = program.run(frame)
        assert (verdict, out) == ("pass", ethernet(packet(0xB8 | wanted)))


def test_padding_of_short_frames_is_harmless(program: Program) -> None:
    """Ethernet padding behind the outer packet stays behind the inner one, for the kernel to cut."""
    frame = ethernet(tunnel(ip(C4, V4, 17, b"x")))
    verdict, out, _ = program.run(frame + bytes(60 - len(frame)))
    assert (verdict, out[: 14 + 21]) == ("pass", ethernet(ip(C4, V4, 17, b"x")))


UNSAFE = """
#include "bpf.h"
SEC("xdp") int unsafe(struct xdp_md *ctx) { return *(u8 *)(u64)ctx->data; }
char licence[] SEC("license") = "GPL";
"""


def test_refusals_are_told(tmp_path: Path) -> None:
    """A program that the verifier refuses, an object that is none and a missing one: each error has the reason."""
    source, target = tmp_path / "unsafe.bpf.c", tmp_path / "unsafe.bpf.o"
    source.write_text(UNSAFE)
    compiler = [
        sys.executable,
        "-m",
        "ziglang",
        "clang",
        "-target",
        "bpfel",
        "-O2",
        "-g",
        "-nostdinc",
        f"-I{BPF_HEADERS}",
    ]
    subprocess.run([*compiler, "-c", str(source), "-o", str(target)], check=True)
    with Object(target) as unsafe, pytest.raises(BpfError, match=r"(?s)load unsafe.bpf.o: .*invalid access to packet"):
        unsafe.load()
    (tmp_path / "none.o").write_bytes(b"no ELF")
    with pytest.raises(BpfError, match=r"open .*none.o"):
        Object(tmp_path / "none.o")
    with pytest.raises(BpfError, match=r"absent.o is missing; in a checkout `python systemd/build_bpf.py` compiles it"):
        Object(tmp_path / "absent.o")


# ---- through a network

TOPOLOGY = """
name: "@NAME"
prefix: "@NAME"
topology:
  nodes:
    client:
      exec: [ip route add default via 192.0.2.1, "ip -6 route add default via 2001:db8:1::1"]
    director:
      sysctls: {net.ipv4.ip_forward: 1, net.ipv6.conf.all.forwarding: 1}
      exec:
        - ip address add 203.0.113.5/29 dev eth2
    member:
      image: onward
      cmd: lab responder
      sysctls: {net.ipv4.conf.all.rp_filter: 1}
      exec:
        - ip address add 198.51.100.7/32 dev lo
        - ip address add 198.51.100.8/32 dev lo
        - ip address add 2001:db8:f::7/128 dev lo nodad
        - ip route add default via 203.0.113.1 advmss 1400
        - ip -6 route add default via 2001:db8:2::1 advmss 1380
      labels: {onward.ready: "bash -c '</dev/tcp/127.0.0.1/80'"}
  links:
    - endpoints: ["client:eth1", "director:eth1"]
      ipv4: [192.0.2.2/24, 192.0.2.1/24]
      ipv6: ["2001:db8:1::2/64", "2001:db8:1::1/64"]
    - endpoints: ["director:eth2", "member:eth1"]
      ipv4: [203.0.113.1/29, 203.0.113.2/29]
      ipv6: ["2001:db8:2::1/64", "2001:db8:2::2/64"]
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    file = tmp_path_factory.mktemp("decap") / "decap.clab.yml"
    file.write_text(TOPOLOGY.replace("@NAME", f"owl{os.getpid()}"))
    with Lab.up(file) as lab:
        lab.wait()
        yield lab


class Running:
    """A program in a node that says when it is ready, and ends with the block."""

    def __init__(self, node: Node, *command: str | Path) -> None:
        self._node = node
        self._command = command

    def __enter__(self) -> Process:
        self._process = self._node.popen(self._command)
        assert self._process.stdout is not None
        first = self._process.stdout.readline()
        assert first, self._process.communicate()[1]
        self._process.first = first  # type: ignore[attr-defined]
        return self._process

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate()


RUN = ["onward", "decap", "run", "--interface"]


def decap(lab: Lab, mode: str) -> Running:
    directors = ["--from", "203.0.113.0/30", "--from", "2001:db8:2::1/128"]
    vips = ["--vip", "198.51.100.7", "--vip", "2001:db8:f::7"]
    return Running(lab.node("member"), *RUN, "eth1", *directors, *vips, "--mode", mode)


def encapsulator(lab: Lab, source: str, destination: str, how: str = "ipip") -> Running:
    script = Path(__file__).with_name("encapsulator.py")
    return Running(lab.node("director"), "python3", script, "tun0", source, destination, how)


def route_vips(lab: Lab) -> None:
    for vip in ("198.51.100.7", "198.51.100.8", "2001:db8:f::7"):
        lab.node("director").run(["ip", "route", "replace", vip, "dev", "tun0"])


def read_counters(process: Process) -> dict[str, int]:
    """Ask the running program, as an operator would."""
    assert process.stdout is not None
    process.send_signal(signal.SIGUSR1)
    lines: list[str] = []
    while not (lines and lines[-1].startswith("dropped_no_room")):
        lines.append(process.stdout.readline())
    return {name: int(value) for name, value in map(str.split, lines)}


FETCH = """
import hashlib, sys, urllib.request
vip = sys.argv[1]
def get(path, data=None):
    with urllib.request.urlopen(f"http://{vip}{path}", data, timeout=10) as answer:
        return answer.read()
print(get("/").decode().split()[0])
print(hashlib.sha256(get("/blob?size=200000")).hexdigest())
print(get("/sink", b"onward" * 50000).decode().strip())
"""


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("mode", ["native", "generic", "tc"])
@pytest.mark.parametrize(
    ("source", "destination"), [("203.0.113.1", "203.0.113.2"), ("2001:db8:2::1", "2001:db8:2::2")]
)
def test_connections(lab: Lab, mode: str, source: str, destination: str, how: str) -> None:
    """TCP in both directions, IPv4 and IPv6, over IPv4 and IPv6, with a strict reverse-path filter on the member."""
    blob, sink = hashlib.sha256(), hashlib.sha256(b"onward" * 50000)
    for piece in pattern(200000):
        blob.update(piece)
    with decap(lab, mode) as running, encapsulator(lab, source, destination, how):
        assert f"decapsulating in {mode} mode, to 203.0.113.2, 2001:db8:2::2" in running.first  # type: ignore[attr-defined]
        route_vips(lab)
        for vip in ("198.51.100.7", "[2001:db8:f::7]"):
            result = lab.node("client").run(["python3", "-c", FETCH, vip])
            assert result.stdout.split("\n")[:3] == ["member", blob.hexdigest(), f"{sink.hexdigest()} 300000"]
        counters = read_counters(running)
        assert counters["decapsulated_ipv4"] > 50
        assert counters["decapsulated_ipv6"] > 50
        assert sum(value for name, value in counters.items() if name.startswith("dropped")) == 0


def test_foreign_sources_and_other_inner_addresses_are_refused(lab: Lab) -> None:
    """Not from a director: not decapsulated. From a director for another address of the member: dropped."""
    probe = ["bash", "-c", "timeout 1 bash -c '</dev/tcp/198.51.100.7/80'"]
    with decap(lab, "auto") as running:
        with encapsulator(lab, "203.0.113.5", "203.0.113.2"):
            route_vips(lab)
            assert lab.node("client").run(probe, check=False).returncode != 0
            counters = read_counters(running)
            assert counters["passed_foreign_source"] > 0
            assert counters["decapsulated_ipv4"] == 0
        with encapsulator(lab, "203.0.113.1", "203.0.113.2"):
            route_vips(lab)
            assert lab.node("client").run(probe, check=False).returncode == 0
            probe[2] = probe[2].replace("100.7", "100.8")
            assert lab.node("client").run(probe, check=False).returncode != 0
            assert read_counters(running)["dropped_not_a_vip"] > 0


def test_it_detaches_however_it_ends(lab: Lab) -> None:
    """After SIGTERM it prints its counters and is gone; SIGKILL leaves nothing attached either."""
    member = lab.node("member")

    def attached() -> bool:
        return "xdp" in member.run(["ip", "link", "show", "eth1"]).stdout

    with decap(lab, "auto") as running:
        assert attached()
        with pytest.raises(AssertionError, match=r"eth1 has an XDP program already; take it off .* or use --mode tc"):
            decap(lab, "native").__enter__()
        running.terminate()
        assert "decapsulated_ipv4" in running.communicate(timeout=5)[0]
        assert running.returncode == 0
    assert not attached()
    with decap(lab, "auto") as running:
        running.kill()
    until(lambda: not attached(), "the program is detached")


def test_it_tells_what_it_does_and_ends_when_told(lab: Lab) -> None:
    """`status` has settings and counters, for root; there is one program an interface; `stop` ends it."""
    member = lab.node("member")
    status = ["onward", "decap", "status", "--interface", "eth1"]
    none = member.run(status, check=False)
    assert (none.returncode, none.stderr) == (5, "onward: no `onward decap` runs on eth1\n")
    with decap(lab, "auto") as running, encapsulator(lab, "203.0.113.1", "203.0.113.2"):
        route_vips(lab)
        lab.node("client").run(["bash", "-c", "</dev/tcp/198.51.100.7/80"])
        document = json.loads(member.run([*status, "--json"]).stdout)
        assert document["from"] == ["203.0.113.0/30", "2001:db8:2::1/128"]
        assert document["vips"] == ["198.51.100.7", "2001:db8:f::7"]
        assert document["addresses"] == ["203.0.113.2", "2001:db8:2::2"]
        assert document["counters"]["decapsulated_ipv4"] > 0
        assert document["counters"].keys() == read_counters(running).keys()
        shown = member.run(status).stdout
        assert re.search(r"(?m)^decapsulated_ipv4 +[1-9]", shown)
        assert re.search(r"(?m)^vips +198.51.100.7, 2001:db8:f::7$", shown)
        nobody = member.run(["setpriv", "--reuid=65534", "--clear-groups", *status], check=False)
        assert nobody.returncode == 5
        assert "does not answer; are you root?" in nobody.stderr
        with pytest.raises(AssertionError, match=r"runs on eth1 already; `onward decap stop --interface eth1` ends it"):
            decap(lab, "tc").__enter__()
        assert member.run(["onward", "decap", "stop", "--interface", "eth1"]).returncode == 0
        assert running.wait(5) == 0
    assert member.run(["onward", "decap", "stop", "--interface", "eth1"], check=False).returncode == 5


def test_wrong_arguments_are_told(lab: Lab) -> None:
    """Every wrong argument has its line, and an interface that is not there a remedy."""
    member = lab.node("member")
    wrong = member.run([*RUN, "eth1", "--from", "203.0.113.1/30", "--vip", "x"], check=False)
    assert wrong.returncode == 2
    assert "--from 203.0.113.1/30: 203.0.113.1/30 has host bits set; give a prefix like" in wrong.stderr
    assert "--vip x: 'x' does not appear to be an IPv4 or IPv6 address; give an address" in wrong.stderr
    absent = member.run([*RUN, "eth9", "--from", "::/0", "--vip", "198.51.100.7"], check=False)
    assert absent.returncode == 1
    assert "--from ::/0 lets everybody in" in absent.stderr
    assert "onward: there is no interface eth9; see `ip link`" in absent.stderr


def test_falls_back_to_generic_mode(lab: Lab) -> None:
    """Where the driver has no XDP (as loopback), mode auto takes generic XDP and says why; native is refused."""
    member = lab.node("member")
    arguments = [*RUN, "lo", "--from", "203.0.113.0/30", "--vip", "198.51.100.7", "--address", "203.0.113.2"]
    with Running(member, *arguments) as running:
        first = running.first  # type: ignore[attr-defined]
        assert first == "lo: decapsulating in generic mode (native: Operation not supported), to 203.0.113.2\n"
    refused = member.run([*arguments, "--mode", "native"], check=False)
    assert refused.returncode == 1
    assert "Operation not supported" in refused.stderr


def test_missing_privilege_is_told(lab: Lab) -> None:
    """Without the capabilities the error names them."""
    arguments = [*RUN, "eth1", "--from", "203.0.113.0/30", "--vip", "198.51.100.7"]
    refused = lab.node("member").run(["setpriv", "--bounding-set=-all", "--inh-caps=-all", *arguments], check=False)
    assert refused.returncode == 1
    assert "this needs root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON" in refused.stderr
