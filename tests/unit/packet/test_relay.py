"""ICMP errors about flows, for flows, quotes and damage that no vector has."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.packet.action import By, Reason, Verdict
from appliance.packet.checksum import checksum
from appliance.packet.forward import PacketPath
from appliance.packet.headers import Flow, IpHeader, Part, parse_ethernet, parse_ip
from appliance.packet.relay import ICMP, flow_of_error
from tests.vectors_io import Vector, packet_vectors

ROUTER = {4: bytes((192, 0, 2, 77)), 6: bytes.fromhex("20010db8000700000000000000000077")}
VECTORS = packet_vectors()
PATHS = {id(vector.tables): PacketPath(vector.tables) for vector in VECTORS}


def ip_packet(version: int, source: bytes, destination: bytes, protocol: int, payload: bytes) -> bytes:
    if version == 6:
        return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + source + destination + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0x4000, 64, protocol, 0) + source + destination
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + payload


def error(version: int, vip: bytes, quote: bytes, kind: int | None = None) -> bytes:
    """An ICMP error to the VIP; "too big" by default."""
    kind = kind if kind is not None else {4: 3, 6: 2}[version]
    message = struct.pack("!BBHI", kind, 4 if version == 4 else 0, 0, 1400) + quote
    pseudo = b"" if version == 4 else ROUTER[6] + vip + struct.pack("!II", len(message), ICMP[6])
    message = message[:2] + checksum(pseudo + message).to_bytes(2, "big") + message[4:]
    return ip_packet(version, ROUTER[version], vip, ICMP[version], message)


def read(packet: bytes) -> Flow | Reason:
    header = parse_ip(packet, packet[0] >> 4)
    assert isinstance(header, IpHeader)
    return flow_of_error(packet, header)


def header_of(vector: Vector) -> IpHeader | None:
    link = parse_ethernet(vector.frame)
    if isinstance(link, Reason):
        return None
    header = parse_ip(vector.frame[link.length :], link.version)
    return None if isinstance(header, Reason) else header


FLOWS = [
    (vector, header)
    for vector in VECTORS
    if vector.action.verdict is Verdict.TRANSMIT
    and vector.action.by is not By.CONNECTION_ID  # an error goes by addresses and ports
    and not vector.action.further  # where these are in pieces, an error may not fit either
    and (header := header_of(vector)) is not None
    and header.part is Part.WHOLE
    and header.protocol in (6, 17)
]


@given(st.sampled_from(FLOWS), st.integers(0, 40))
@settings(deadline=None, max_examples=300)
def test_an_error_goes_where_its_flow_goes(flow: tuple[Vector, IpHeader], more: int) -> None:
    """For every flow that is forwarded, an error that quotes its other direction has its service, slot and member."""
    vector, header = flow
    link = parse_ethernet(vector.frame)
    assert not isinstance(link, Reason)
    ports = vector.frame[link.length + header.l4 :][:4]
    answer = ip_packet(
        header.version, header.destination, header.source, header.protocol, ports[2:] + ports[:2] + bytes(more)
    )
    packet = error(header.version, header.destination, answer)
    action = PATHS[id(vector.tables)].forward(vector.frame[: link.length] + packet, vector.ingress)
    assert (action.verdict, action.service, action.slot, action.member, action.ifindex) == (
        Verdict.TRANSMIT,
        vector.action.service,
        vector.action.slot,
        vector.action.member,
        vector.action.ifindex,
    )
    message = 20 if header.version == 4 else 40
    assert action.frame.endswith(packet[message:])


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", [6, 17])
def test_a_flow_or_a_reason_wherever_the_quote_ends(version: int, protocol: int) -> None:
    """Up to the fourth byte of L4 the error is malformed; from there on it names the flow."""
    vip = bytes(range(1, 5)) if version == 4 else bytes(range(1, 17))
    client = vip[::-1]
    answer = ip_packet(version, vip, client, protocol, bytes.fromhex("0050 9c40") + bytes(20))
    enough = (20 if version == 4 else 40) + 4
    for size in range(len(answer)):
        wanted = Flow(client, vip, protocol, bytes.fromhex("9c40 0050")) if size >= enough else Reason.MALFORMED
        assert read(error(version, vip, answer[:size])) == wanted


@pytest.mark.parametrize("version", [4, 6])
def test_types(version: int) -> None:
    """Of all 256 types, those are relayed that tell a sender about its packet."""
    vip = bytes(4) if version == 4 else bytes(16)
    answer = ip_packet(version, vip, vip, 6, bytes(8))
    relayed = {kind for kind in range(256) if read(error(version, vip, answer, kind)) is not Reason.PROTOCOL}
    assert relayed == ({3, 11, 12} if version == 4 else {1, 2, 3, 4})


@given(st.sampled_from([4, 6]), st.binary(max_size=200))
@settings(deadline=None)
def test_any_quote(version: int, quote: bytes) -> None:
    """A quote of any bytes is a flow to the VIP or a reason, never an exception."""
    vip = bytes(4) if version == 4 else bytes(16)
    flow = read(error(version, vip, quote))
    assert isinstance(flow, Reason) or (flow.destination == vip and flow.ports is not None and len(flow.ports) == 4)


@given(st.sampled_from([4, 6]), st.data())
@settings(deadline=None)
def test_damage_is_noticed(version: int, data: st.DataObject) -> None:
    """One changed byte anywhere in the ICMP message keeps it from being relayed."""
    vip = bytes(range(1, 5)) if version == 4 else bytes(range(1, 17))
    packet = bytearray(error(version, vip, ip_packet(version, vip, vip, 6, bytes(8))))
    at = data.draw(st.integers(20 if version == 4 else 40, len(packet) - 1))
    packet[at] ^= data.draw(st.integers(1, 255))
    assert read(bytes(packet)) in (Reason.MALFORMED, Reason.PROTOCOL)
