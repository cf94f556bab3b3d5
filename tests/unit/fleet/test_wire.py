"""Datagrams of the pin channel: what is written can be read, and nothing else can."""

import socket
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from appliance.dataplane.raw.kernel import attach_filter
from appliance.fleet.wire import (
    ALL_PARTS,
    DIGEST,
    DIGESTS,
    END,
    ENTRY,
    LONGEST,
    NAME,
    NAMES,
    PER_DATAGRAM,
    SHORTEST,
    Ask,
    Datagram,
    Keys,
    Kind,
    Part,
    Refusal,
    Route,
    ask_body,
    dump_body,
    hello_body,
    pack,
    socket_filter,
    unpack,
)
from appliance.model import Delivery, DsrType
from tests.unit.fleet.ends import SECRET, members

KEYS = Keys.derive(SECRET)
A, B = KEYS.director("a"), KEYS.director("b")
ROUTE = Route(A, B, life=11, to_life=22)
NAMED = np.array([3, 1 << 63], NAME)


def entries(count: int):
    rng = np.random.default_rng(count)
    return np.frombuffer(rng.bytes(count * ENTRY.itemsize), ENTRY)


def digests(count: int):
    return np.frombuffer(np.random.default_rng(count).bytes(count * DIGEST.itemsize), DIGEST)


def samples() -> dict[Kind, bytes]:
    return {
        Kind.HELLO: pack(KEYS, Kind.HELLO, ROUTE, 1, 5, hello_body(7, digests(3)), 3),
        Kind.ANSWER: pack(KEYS, Kind.ANSWER, ROUTE, 2, 5, hello_body(8, digests(0)), 0),
        Kind.PINS: pack(KEYS, Kind.PINS, ROUTE, 3, 5, entries(5).tobytes(), 5),
        Kind.ASK: pack(KEYS, Kind.ASK, ROUTE, 4, 5, ask_body(Ask(1, 2, ALL_PARTS))),
        Kind.DUMP: pack(KEYS, Kind.DUMP, ROUTE, 5, 5, dump_body(Part(1, 2, END, 3, 4), entries(2).tobytes()), 2),
        Kind.ABSENT: pack(KEYS, Kind.ABSENT, ROUTE, 6, 5, NAMED.tobytes(), len(NAMED)),
    }


def read(data: bytes, keys: Keys = KEYS, sender: int = A, recipient: int = B) -> Datagram | Refusal:
    return unpack(keys, memoryview(data), sender, recipient)


@pytest.mark.parametrize("share", [0.0, 1e-6, 0.02, 0.5, 1.0])
def test_what_is_missing_is_told(share):
    """As a share in 16 bits, never too small."""
    datagram = read(pack(KEYS, Kind.ASK, ROUTE, 4, 5, ask_body(Ask(1, 2, ALL_PARTS)), missing=share))
    assert isinstance(datagram, Datagram)
    assert share <= datagram.missing <= min(1.0, share + 1 / 0xFFFF)


@pytest.mark.parametrize("kind", Kind)
def test_what_is_written_can_be_read(kind):
    """Every kind of datagram comes out as it went in."""
    datagram = read(samples()[kind])
    assert isinstance(datagram, Datagram)
    assert (datagram.kind, datagram.life, datagram.to_life, datagram.clock) == (kind, 11, 22, 5)
    assert datagram.sequence == list(Kind).index(kind) + 1
    if kind in (Kind.HELLO, Kind.ANSWER):
        assert datagram.nonce == (7 if kind is Kind.HELLO else 8)
        assert datagram.digests.tobytes() == digests(3 if kind is Kind.HELLO else 0).tobytes()
    elif kind is Kind.ASK:
        assert datagram.ask == Ask(1, 2, ALL_PARTS)
    elif kind is Kind.ABSENT:
        assert datagram.names.tolist() == NAMED.tolist()
    else:
        assert bytes(datagram.entries) == entries(5 if kind is Kind.PINS else 2).tobytes()
    if kind is Kind.DUMP:
        assert datagram.part == Part(1, 2, END, 3, 4)


def test_no_datagram_is_too_long_for_any_path():
    """The longest of each kind fits the smallest MTU of IPv6 (1,280 bytes) with its headers."""
    longest = [
        pack(KEYS, Kind.HELLO, ROUTE, 1, 0, hello_body(0, digests(DIGESTS)), DIGESTS),
        pack(KEYS, Kind.PINS, ROUTE, 1, 0, entries(PER_DATAGRAM).tobytes(), PER_DATAGRAM),
        pack(
            KEYS,
            Kind.DUMP,
            ROUTE,
            1,
            0,
            dump_body(Part(0, 0, END, 0, 1), entries(PER_DATAGRAM).tobytes()),
            PER_DATAGRAM,
        ),
        pack(KEYS, Kind.ABSENT, ROUTE, 1, 0, bytes(NAMES * NAME.itemsize), NAMES),
    ]
    assert all(isinstance(read(data), Datagram) for data in longest)
    assert max(map(len, longest)) == LONGEST <= 1280 - 40 - 8


@given(st.sampled_from(Kind), st.data())
def test_a_datagram_with_any_change_is_refused(kind, data):
    """Whatever bits are turned, cut off or put behind: it is not taken."""
    whole = samples()[kind]
    how = data.draw(st.sampled_from(["turn", "cut", "grow", "swap"]))
    if how == "turn":
        at = data.draw(st.integers(0, len(whole) * 8 - 1))
        changed = bytearray(whole)
        changed[at // 8] ^= 1 << at % 8
    elif how == "cut":
        changed = whole[: data.draw(st.integers(0, len(whole) - 1))]
    elif how == "grow":
        changed = whole + data.draw(st.binary(min_size=1, max_size=1200))
    else:
        other = samples()[data.draw(st.sampled_from([other for other in Kind if other is not kind]))]
        at = data.draw(st.integers(1, min(len(whole), len(other)) - 1))
        changed = whole[:at] + other[at:]
    assume(bytes(changed) not in samples().values())
    assert isinstance(read(bytes(changed)), Refusal)


@given(st.binary(max_size=1500))
def test_noise_is_refused(data):
    """Nothing that somebody makes up can be read, and nothing makes the reader fail."""
    assert isinstance(read(data), Refusal)
    assert isinstance(read(samples()[Kind.PINS][:64] + data), Refusal)


def test_refusals_have_the_right_names():
    """Each way to be wrong has its own word, since each has another remedy."""
    whole = samples()[Kind.PINS]
    other = Keys.derive(b"another secret, of others")
    assert read(whole[: SHORTEST - 1]) is Refusal.TRUNCATED
    assert read(whole[:-1]) is Refusal.TRUNCATED
    assert read(whole + bytes(1200)) is Refusal.TRUNCATED
    assert read(whole, keys=other) is Refusal.FOREIGN
    assert read(b"OWP\x03" + whole[4:]) is Refusal.FOREIGN
    assert read(whole, sender=KEYS.director("c")) is Refusal.UNKNOWN_SENDER
    assert read(whole, recipient=KEYS.director("c")) is Refusal.MISDIRECTED
    assert read(whole[:-1] + bytes([whole[-1] ^ 1])) is Refusal.FORGED


def test_counts_are_not_believed():
    """A correct tag does not make a wrong count or an unknown kind harmless, so these are looked at first."""
    for kind, body, count in (
        (Kind.PINS, entries(5).tobytes(), 4),
        (Kind.PINS, entries(5).tobytes(), 6),
        (Kind.PINS, entries(PER_DATAGRAM + 1).tobytes(), PER_DATAGRAM + 1),
        (Kind.ASK, b"", 0),
        (Kind.DUMP, b"", 0),
        (Kind.HELLO, hello_body(1, digests(1)), 0),
        (99, b"", 0),
    ):
        assert read(pack(KEYS, kind, ROUTE, 1, 0, body, count)) is Refusal.TRUNCATED


def test_digests_of_members_say_which_machine_and_how():
    """Directors mean the same member only if its name, its address and the way to it are the same."""
    member = members()[0]
    same = replace(member, index=17)
    assert KEYS.member(member) == KEYS.member(same)
    others = [
        replace(member, id="web/w9"),
        replace(member, address=members()[1].address),
        replace(member, delivery=Delivery(DsrType.L2, None)),
    ]
    digests_of = {KEYS.member(other) for other in [member, *others]}
    assert len(digests_of) == 4
    assert KEYS.member(member) != Keys.derive(b"another secret, of others").member(member)


def test_a_short_secret_is_refused():
    """Less than 128 bits would be no secret."""
    with pytest.raises(ValueError, match="at least 16 bytes"):
        Keys.derive(b"short")


def test_the_kernel_lets_through_what_is_ours():
    """The socket's filter drops what is of another fleet, sender, recipient or life, but for greetings' lives."""
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    into = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    with out, into:
        attach_filter(into, socket_filter(KEYS, A, B, life=22))
        into.bind(("127.0.0.1", 0))
        out.connect(into.getsockname())

        def passes(data: bytes) -> bool:
            out.send(data)
            try:
                return into.recv(2048) == data
            except BlockingIOError:
                return False

        good = samples()
        assert all(passes(data) for data in good.values())
        others = [
            Route(KEYS.director("c"), B, 11, 22),
            Route(A, KEYS.director("c"), 11, 22),
            Route(A, B, 11, 21),
            Route(A, B, 11, 22 << 32),
        ]
        for route in others:
            assert not passes(pack(KEYS, Kind.PINS, route, 1, 0, b""))
        assert passes(pack(KEYS, Kind.HELLO, others[2], 1, 0, hello_body(1, digests(0))))
        assert not passes(pack(KEYS, Kind.ANSWER, others[2], 1, 0, hello_body(1, digests(0))))
        assert not passes(pack(Keys.derive(b"another secret, of others"), Kind.PINS, ROUTE, 1, 0, b""))
        assert not passes(good[Kind.PINS][: SHORTEST - 1])
        assert not passes(good[Kind.PINS] + bytes(1200))
        assert not passes(b"OWP\x03" + good[Kind.PINS][4:])
        assert not passes(b"")
