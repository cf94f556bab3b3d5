"""How much of what takes a closer look the forwarding thread does: pieces, answers, ICMP errors of others."""

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest

from appliance.dataplane.raw.compiled import Compiled
from appliance.dataplane.raw.worker import Work
from appliance.packet.checksum import checksum
from tests.unit.dataplane.frames import CLIENT_MAC, INGRESS, OUR_MAC
from tests.unit.dataplane.test_events import CLIENT, VIP, Bench, udp


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    made = Bench(monkeypatch)
    made.work = Work(
        Compiled(replace(made.work.tables.tables, answering=frozenset({VIP})), [INGRESS]), made.work.egress
    )
    yield made
    made.worker.stop()


def icmp(kind: int, code: int, rest: bytes) -> bytes:
    """A frame with an ICMP message from a router, or from the client, to the VIP."""
    message = bytes((kind, code, 0, 0)) + rest
    message = message[:2] + checksum(message).to_bytes(2, "big") + message[4:]
    head = b"\x45\0" + (20 + len(message)).to_bytes(2, "big") + b"\0\1\0\0\x40\x01\0\0" + CLIENT.packed + VIP.packed
    head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    return OUR_MAC + CLIENT_MAC + b"\x08\0" + head + message


def about(kind: int, code: int) -> bytes:
    """An ICMP error about a datagram that a member has sent to the client as the VIP."""
    quote = b"\x45\0\x05\xdc\0\1\x40\0\x40\x11\0\0" + VIP.packed + ip_address("192.0.2.9").packed
    return icmp(kind, code, bytes(4) + quote + (5000).to_bytes(2, "big") + (40000).to_bytes(2, "big") + bytes(4))


def test_pieces_are_sent_one_after_the_other_and_counted_once(bench: Bench) -> None:
    """A datagram that does not fit is one packet of its flow in two frames, whose outer packets can be told apart."""
    bench.forward(udp(5000, 1472, fragment=0))
    assert [len(frame) for frame in bench.sent] == [14 + 20 + 1476, 14 + 20 + 20 + 24]
    assert len({frame[18:20] for frame in bench.sent}) == 2
    assert bench.worker.split == 1
    assert bench.work.tables.traffic.way(0).packets == 1
    bench.forward(udp(5000, 8, fragment=0))
    assert len({frame[18:20] for frame in bench.sent}) == 3


def test_fragmenting_has_a_limit(bench: Bench) -> None:
    """After so many packets at once, others are dropped, with the reason; packets that fit are none of them."""
    for _ in range(501):
        bench.forward(udp(5000, 1472, fragment=0))
    assert bench.worker.split == 500
    assert bench.worker.reasons == {"slow_path_full": 1}
    bench.forward(udp(5000, fragment=0))
    assert len(bench.sent) == 1001
    bench.now += 0.01
    bench.forward(udp(5000, 1472, fragment=0))
    assert bench.worker.split == 501


def test_pings_are_answered_up_to_a_limit_of_their_own(bench: Bench) -> None:
    """A flood of pings leaves clients that have to be told of a smaller way their answers."""
    ping = icmp(8, 0, bytes(4) + b"ping")
    for _ in range(200):
        bench.forward(ping)
    assert bench.worker.replies == {"icmp_echo_reply": 100}
    assert bench.worker.reasons == {"echo": 200}
    bench.forward(udp(5000, 1472))
    assert bench.worker.replies["icmp_too_big"] == 1
    assert bench.worker.told_too_big == {"web/web1": 1}


def test_refusals_have_a_limit_of_their_own(bench: Bench) -> None:
    """Whoever tries ports gets some answers, and leaves those of others alone; all is counted as without (P10)."""
    tables = bench.work.tables.tables
    services = tuple(replace(service, rejects=True) for service in tables.services)
    bench.work = Work(Compiled(replace(tables, services=services), [INGRESS]), bench.work.egress)
    for port in range(1, 101):
        bench.forward(udp(port))
    assert bench.worker.replies == {"icmp_port_unreachable": 20}
    assert bench.worker.reasons == {"no_service": 100}
    bench.forward(udp(5000, 1472))
    assert bench.worker.replies["icmp_too_big"] == 1


def test_errors_of_others_have_limits(bench: Bench) -> None:
    """A flood of "unreachable" is cut off, and "too big" still gets through (I3)."""
    for _ in range(150):
        bench.forward(about(3, 1))
    assert bench.worker.relayed == {"unreachable": 100}
    assert bench.worker.reasons == {"icmp_rate": 50}
    bench.forward(about(11, 0))
    assert bench.worker.reasons == {"icmp_rate": 51}
    for _ in range(10):
        bench.forward(about(3, 4))
    assert bench.worker.relayed == {"unreachable": 100, "too_big": 10}
    bench.now += 1.0
    bench.forward(about(11, 0))
    assert bench.worker.relayed["time_exceeded"] == 1
