"""Connection IDs of QUIC-LB: the draft's own values, and what is none of them."""

import random
import struct
from dataclasses import replace

import numpy as np
import pytest

from appliance.dataplane.raw.connection_ids import SEEN, members_of
from appliance.forwarding import NO_MEMBER, QuicServers
from appliance.model import QuicConfig
from appliance.packet import quic

KEY = bytes.fromhex("8f95f09245765f80256934e50c66207f")

PUBLISHED = [
    (None, 0, "c4605e", "4504cc4f", "07c4605e4504cc4f"),
    (KEY, 0, "ed793a", "ee080dbf", "0720b1d07b359d3c"),
    (KEY, 1, "ed793a51d49b8f5fab65", "ee080dbf48", "2fcc381bc74cb4fbad2823a3d1f8fed2"),
    (KEY, 2, "ed793a51d49b8f5f", "ee080dbf48c0d1e5", "504dd2d05a7b0de9b2b9907afb5ecf8cc3"),
    (KEY, 3, "ed793a51d49b8f5fab", "ee080dbf48c0d1e55d", "725779c9cc86beb3a3a4a3ca96fce4bfe0cdbc"),
]
"""The draft's appendix "Load Balancer Test Vectors", but for two slips: one line without a key has a nonce of nine
digits and is left out, and the last one's first byte is printed as 12, which would be config ID 0."""


def configured(key: bytes | None, config_id: int, server_id: str, nonce: str, *, encode: bool = True) -> QuicConfig:
    return QuicConfig(config_id, len(server_id) // 2, len(nonce) // 2, key, encode_length=encode)


@pytest.mark.parametrize(("key", "config_id", "server_id", "nonce", "cid"), PUBLISHED)
def test_published_values(key: bytes | None, config_id: int, server_id: str, nonce: str, cid: str) -> None:
    """What the draft has encrypted is what we encrypt, and from it comes the server ID: without a key, in three rounds,
    in four, and in one block."""
    config = configured(key, config_id, server_id, nonce)
    made = quic.make(config, bytes.fromhex(server_id), bytes.fromhex(nonce))
    assert made.hex() == cid
    assert quic.server_id_of(made, config) == bytes.fromhex(server_id)


def test_the_example_in_the_text() -> None:
    """The draft's worked example of four rounds over an odd number of bytes."""
    config = QuicConfig(0, 3, 4, bytes.fromhex("fdf726a9893ec05c0632d3956680baf0"), encode_length=True)
    made = quic.make(config, bytes.fromhex("31441a"), bytes.fromhex("9c69c275"))
    assert made.hex() == "0767947d29be054a"


@pytest.mark.parametrize("length", range(5, 20))
@pytest.mark.parametrize("key", [None, KEY], ids=["clear", "key"])
def test_every_length_there_and_back(length: int, key: bytes | None) -> None:
    """Of every length and share, what a server has made tells its ID; and with one bit changed, another one or none."""
    rnd = random.Random(length)
    for server in range(1, min(15, length - 4) + 1):
        config = QuicConfig(5, server, length - server, key)
        name, nonce = rnd.randbytes(server), rnd.randbytes(length - server)
        cid = quic.make(config, name, nonce, rnd.randrange(32))
        assert quic.server_id_of(cid, config) == name
        assert quic.decrypted(cid[1:], config) == name + nonce
        assert len(cid) == length + 1
        if key is not None:
            assert quic.decrypted(bytes((cid[1] ^ 1,)) + cid[2:], config) != name + nonce


def test_what_a_packet_says() -> None:
    """Long and short headers, whole and cut (RFC 8999); a long one may have an ID of any length."""
    cid = bytes(range(1, 9))
    long = b"\xc0\0\0\0\1" + bytes((len(cid),)) + cid
    assert quic.connection_id(long + b"more") == (cid, True)
    assert quic.connection_id(long) == (cid, True)
    assert quic.connection_id(b"\x40" + cid) == (cid, False)
    assert quic.connection_id(b"\xc0\0\0\0\1\xff" + bytes(255)) == (bytes(255), True)
    for nothing in (b"", b"\x40", *(long[:size] for size in range(len(long))), b"\xc0\0\0\0\1\0more"):
        assert quic.connection_id(nothing) is None or nothing[0] < 0x80


def test_who_is_named() -> None:
    """The config ID says how to read; what is not configured, or nobody's, names nobody."""
    clear, secret = QuicConfig(0, 2, 4), QuicConfig(3, 2, 4, KEY)
    known = (QuicServers(clear, {b"aa": 7}), QuicServers(secret, {b"aa": 8}))
    packets = {one: b"\x40" + quic.make(one, b"aa", b"1234") + b"more" for one in (clear, secret)}
    assert [quic.member_of(packet, known) for packet in packets.values()] == [7, 8]
    assert quic.member_of(packets[clear], known[1:]) is None
    assert quic.member_of(b"\x40" + quic.make(clear, b"ab", b"1234"), known) is None
    assert quic.member_of(b"\x40" + quic.make(replace(clear, config_id=6), b"aa", b"1234"), known) is None
    assert quic.member_of(b"", known) is None


def test_many_at_once_as_one_by_one() -> None:
    """What the vectorised form makes of random datagrams is what the readable one makes of each."""
    rnd = random.Random(1)
    for _ in range(60):
        known = tuple(
            QuicServers(config, {rnd.randbytes(config.server_id_length): number for number in range(3)})
            for config_id in rnd.sample(range(7), 3)
            for length in (rnd.randrange(5, 20),)
            for server in (rnd.randrange(1, min(15, length - 4) + 1),)
            for key in (rnd.choice((None, KEY)),)
            for config in (QuicConfig(config_id, server, length - server, key, encode_length=rnd.random() < 0.5),)
        )
        payloads = []
        for _ in range(64):
            one = rnd.choice(known)
            name = rnd.choice([*one.servers, rnd.randbytes(one.config.server_id_length)])
            cid = quic.make(one.config, name, rnd.randbytes(one.config.nonce_length), rnd.randrange(32))
            cid = (cid + rnd.randbytes(3))[: rnd.choice((len(cid), len(cid) + 3, rnd.randrange(len(cid) + 1)))]
            if rnd.random() < 0.2 and cid:
                cid = bytes((rnd.randrange(256),)) + cid[1:]
            told = len(cid) if rnd.random() < 0.8 else rnd.randrange(256)
            payloads.append(b"\xc0\0\0\0\1" + bytes((told,)) + cid if rnd.random() < 0.5 else b"\x40" + cid)
        rows = np.zeros((len(payloads), SEEN), np.uint8)
        for row, payload in zip(rows, payloads, strict=True):
            datagram = struct.pack("!HHHH", 1, 443, 8 + len(payload), 0) + payload
            row[:] = np.frombuffer((datagram + rnd.randbytes(SEEN))[:SEEN], np.uint8)  # what was there before
        expected = [quic.member_of(payload, known) for payload in payloads]
        found = members_of(rows, known).tolist()
        assert [None if member == NO_MEMBER else member for member in found] == expected
        assert any(member is not None for member in expected)
