"""Ping and half-open TCP between network namespaces, where every packet can be seen."""

import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from health.checks.half_open import _result, _syn
from health.checks.raw import checksum
from health.spec import Code
from tests.netns import Namespace, namespaces, until, veth
from tests.unit.health.probing import Question, asked
from tests.unit.health.serving import target

pytestmark = pytest.mark.root

BOTH = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
FAMILIES = pytest.mark.parametrize("address", ["192.0.2.2", "2001:db8::2"])


@dataclass
class Pair:
    """A director and a member with a cable between them."""

    director: Namespace
    member: Namespace

    @contextmanager
    def running(self, program: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
        """A Python program in the member's namespace; it has begun when it has printed a line."""
        command = self.member.command(sys.executable, "-c", program, *arguments)
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            yield process
        finally:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with namespaces("d", "m", prefix="owraw") as (director, member):
        veth(director, "eth0", member, "eth0")
        for space, number in ((director, 1), (member, 2)):
            space.ip(f"addr add 192.0.2.{number}/24 dev eth0")
            space.ip(f"addr add 2001:db8::{number}/64 dev eth0 nodad")
        yield Pair(director, member)


def half_open(address: str, port: int = 80, **settings: object) -> Question:
    return "tcp", address, port, {"half_open": True} | settings


def ping(address: str, **settings: object) -> Question:
    return "ping", address, 0, dict(settings)


LISTEN = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
listener = socket.socket(family)
listener.bind((sys.argv[1], 80))
listener.listen(1)
print("listening", flush=True)
sys.stdin.readline()
listener.setblocking(False)
try:
    listener.accept()
    print("accepted", flush=True)
except BlockingIOError:
    print("nobody", flush=True)
"""

CAPTURE = """
import socket, struct, sys
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
sock.bind(("eth0", 0))
print("listening", flush=True)
while True:
    frame = sock.recv(2048)
    ip = frame[14:]
    proto, segment = (ip[6], ip[40:]) if ip[0] >> 4 == 6 else (ip[9], ip[20:])
    if proto == 6 and frame[12:14] in (b"\\x08\\x00", b"\\x86\\xdd"):
        print(*struct.unpack("!HH", segment[:4]), segment[13] & 0x17, flush=True)
"""

SYN, SYN_ACK, RST, RST_ACK = 0x02, 0x12, 0x04, 0x14


@BOTH
@FAMILIES
def test_half_open(pair: Pair, loop: str, address: str) -> None:
    """SYN, SYN-ACK, RST and nothing else is on the wire, and the server's program never has a connection."""
    with pair.running(LISTEN, address) as server, pair.running(CAPTURE) as capture:
        ((code, detail, duration),) = asked(pair.director, loop, half_open(address))
        assert (code, detail) == (Code.OK, "half open")
        assert duration < 3
        assert capture.stdout is not None
        seen = [tuple(map(int, capture.stdout.readline().split())) for _ in range(3)]
        port = seen[0][0]
        assert seen == [(port, 80, SYN), (80, port, SYN_ACK), (port, 80, RST)]
        said, _ = server.communicate("now\n", timeout=10)
        assert said.strip() == "nobody"
        with pytest.raises(AssertionError, match="not within"):
            until(lambda: pair.member.run("ss", "-Hnt", "state", "syn-recv"), "a connection left behind", 0.3)


@BOTH
@FAMILIES
def test_half_open_to_a_closed_port(pair: Pair, loop: str, address: str) -> None:
    """An RST is a refusal at once."""
    ((code, detail, duration),) = asked(pair.director, loop, half_open(address, 81))
    assert (code, detail) == (Code.CONNECTION_REFUSED, "SYN: connection refused")
    assert duration < 1


@contextmanager
def dropping(pair: Pair, rule: str) -> Iterator[None]:
    """The member's firewall with one rule for what comes in."""
    nft = pair.member.command("nft")
    try:
        table = "table inet t { chain c { type filter hook input priority 0; " + rule + "; }; }"
        subprocess.run([*nft, table], check=True)
        yield
    finally:
        subprocess.run([*nft, "delete table inet t"], check=True)


@FAMILIES
def test_half_open_without_an_answer(pair: Pair, address: str) -> None:
    """A SYN that is dropped is a time-out; ICMP about this SYN is bad at once, and about another port it is not."""
    with dropping(pair, "tcp dport 80 drop"):
        ((code, detail, _),) = asked(pair.director, "uvloop", half_open(address, timeout_s=0.4))
    assert (code, detail) == (Code.CONNECTION_TIMEOUT, "connect: nothing within 0.4 s")
    with dropping(pair, "tcp dport 80 reject with icmpx admin-prohibited"):
        ((code, _, duration),) = asked(pair.director, "uvloop", half_open(address))
    assert code == Code.SERVER_UNREACHABLE
    assert duration < 1


def test_half_open_again_after_a_loss(pair: Pair) -> None:
    """A SYN that was lost is sent again after a second, as TCP does."""
    with (
        pair.running(LISTEN, "192.0.2.2"),
        dropping(pair, "tcp dport 80 limit rate over 1/hour burst 1 packets accept; tcp dport 80 drop"),
    ):
        ((code, detail, duration),) = asked(pair.director, "uvloop", half_open("192.0.2.2", timeout_s=4.0))
    assert (code, detail) == (Code.OK, "half open")
    assert 0.9 < duration < 3


NOISE = """
import socket, time
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
echo = bytes.fromhex("0800f7f800070000")
while True:
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.connect_ex(("192.0.2.2", 7))
        raw.sendto(echo, ("192.0.2.2", 0))
        time.sleep(0.002)
"""


def test_errors_about_others_are_not_taken(pair: Pair) -> None:
    """ICMP errors about another port of the machine, and about somebody else's ping, say nothing about a probe."""
    pair.member.sysctl(net__ipv4__icmp_ratelimit=0)
    reject = "reject with icmp type host-unreachable"
    rules = f"tcp dport 7 {reject}; icmp id 7 {reject}; tcp dport 80 drop; icmp type echo-request drop"
    with dropping(pair, rules):
        noise = subprocess.Popen(pair.director.command(sys.executable, "-c", NOISE))
        try:
            until(lambda: _unreachables(pair.director) > 50, "noise")
            before = _unreachables(pair.director)
            questions = half_open("192.0.2.2", timeout_s=0.5), ping("192.0.2.2", timeout_s=0.5)
            results = asked(pair.director, "uvloop", *questions)
            assert _unreachables(pair.director) > before + 50
        finally:
            noise.kill()
            noise.wait()
    assert [code for code, *_ in results] == [Code.CONNECTION_TIMEOUT, Code.NO_RESPONSE]


def _unreachables(space: Namespace) -> int:
    """ICMP "destination unreachable" messages that have come in."""
    names, values = (
        line.split() for line in space.run("cat", "/proc/net/snmp").splitlines() if line.startswith("Icmp:")
    )
    return int(values[names.index("InDestUnreachs")])


def test_many_half_open_probes_and_a_connection_at_once(pair: Pair) -> None:
    """Probes take each their own answer, and a real connection to the same port goes on undisturbed."""
    echo = LISTEN.split("print(")[0] + (
        'print("listening", flush=True)\nconnection, _ = listener.accept()\n'
        "while data := connection.recv(100):\n    connection.sendall(data)\n"
    )
    client = (
        "import socket, sys\nsock = socket.create_connection(('192.0.2.2', 80))\n"
        "for line in sys.stdin:\n    sock.sendall(line.encode()); print(sock.recv(100).decode(), end='', flush=True)\n"
    )
    with pair.running(echo, "192.0.2.2"):
        talk = subprocess.Popen(
            pair.director.command(sys.executable, "-c", client),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert talk.stdin is not None
            assert talk.stdout is not None
            for word in ("before\n", "after\n"):
                talk.stdin.write(word)
                talk.stdin.flush()
                assert talk.stdout.readline() == word
                results = asked(pair.director, "uvloop", *[half_open("192.0.2.2")] * 30, half_open("192.0.2.2", 81))
                assert [code for code, *_ in results] == [Code.OK] * 30 + [Code.CONNECTION_REFUSED]
        finally:
            talk.kill()
            talk.communicate()


@BOTH
@FAMILIES
def test_ping(pair: Pair, loop: str, address: str) -> None:
    """Twenty at once get each their own reply."""
    results = asked(pair.director, loop, *[ping(address)] * 20)
    assert [(code, detail) for code, detail, _ in results] == [(Code.OK, "")] * 20
    assert max(duration for *_, duration in results) < 3


def test_ping_without_a_reply(pair: Pair) -> None:
    """Silence is no response; an ICMP error is told at once."""
    with dropping(pair, "icmp type echo-request drop"):
        ((code, detail, _),) = asked(pair.director, "asyncio", ping("192.0.2.2", timeout_s=0.3))
    assert (code, detail) == (Code.NO_RESPONSE, "ask: nothing within 0.3 s")
    with dropping(pair, "icmp type echo-request reject with icmp type admin-prohibited"):
        ((code, _, duration),) = asked(pair.director, "asyncio", ping("192.0.2.2"))
    assert code == Code.SERVER_UNREACHABLE
    assert duration < 1


LIAR = """
import socket, struct
sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
sock.bind(("192.0.2.2", 0))
print("listening", flush=True)
def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
while True:
    packet, peer = sock.recvfrom(2048)
    echo = packet[(packet[0] & 15) * 4:]
    if echo[0] == 8:
        head = bytes(4) + MARK + echo[8:12] + b"other bytes than those of the request..."
        answer = head[:2] + struct.pack("!H", checksum(head)) + head[4:]
        for _ in range(TIMES):
            sock.sendto(answer, peer)
"""


def test_replies_that_lie(pair: Pair) -> None:
    """Other bytes are a mismatch; a flood of replies to other pings costs nothing and changes nothing."""
    pair.member.sysctl(net__ipv4__icmp_echo_ignore_all=1)
    try:
        with pair.running(LIAR.replace("MARK", "echo[4:8]").replace("TIMES", "1")):
            ((code, detail, _),) = asked(pair.director, "uvloop", ping("192.0.2.2"))
        assert (code, detail) == (Code.PAYLOAD_CONTENT_MISMATCH, "the reply has other bytes than the request")
        with pair.running(LIAR.replace("MARK", "bytes(4)").replace("TIMES", "20000")):
            ((code, detail, duration),) = asked(pair.director, "uvloop", ping("192.0.2.2", timeout_s=0.5))
        assert (code, detail) == (Code.NO_RESPONSE, "ask: nothing within 0.5 s")
        assert duration < 1.5
    finally:
        pair.member.sysctl(net__ipv4__icmp_echo_ignore_all=0)


def test_without_the_capability(pair: Pair) -> None:
    """A director that may not open raw sockets says so instead of taking members out."""
    program = (
        "import asyncio; from tests.unit.health.probing import answers;"
        "asyncio.run(answers([('ping', '192.0.2.2', 0, {})]))"
    )
    done = subprocess.run(
        pair.director.command("setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", program),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == "PermissionError: raw sockets for health checks take CAP_NET_RAW"


@given(st.binary(max_size=60), st.integers(0, 0xFFFFFFFF))
def test_no_segment_breaks_the_reader(segment: bytes, number: int) -> None:
    """Whatever comes from the right port is an answer to the SYN, or nothing."""
    result = _result(segment, number)
    assert result is None or result.code in (Code.OK, Code.CONNECTION_REFUSED)


@pytest.mark.parametrize(
    ("acknowledged", "flags", "code"),
    [
        (8, SYN_ACK, Code.OK),
        (8, RST_ACK, Code.CONNECTION_REFUSED),
        (7, SYN_ACK, None),
        (9, RST_ACK, None),
        (8, SYN, None),
        (8, RST, None),
        (8, 0x10, None),
    ],
)
def test_only_what_acknowledges_the_syn_answers_it(acknowledged: int, flags: int, code: Code | None) -> None:
    """Whoever does not know the SYN's number, 7, can make no member well and none bad (RFC 9293, section 3.10.7.3)."""
    segment = struct.pack("!HHIIBBHHH", 80, 40000, 1, acknowledged, 5 << 4, flags, 65535, 0, 0)
    result = _result(segment, 7)
    assert (result and result.code) == code


@pytest.mark.parametrize(("source", "address"), [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")])
def test_the_checksum_of_a_syn(source: str, address: str) -> None:
    """With its pseudo header the segment sums to nothing, as RFC 9293 wants it."""
    segment = _syn(source, target(80, address), 40000, 7)
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    pseudo = socket.inet_pton(family, source) + socket.inet_pton(family, address) + struct.pack("!II", len(segment), 6)
    assert checksum(pseudo + segment) == 0
