"""Datagrams of the pin channel: what directors tell each other of single flows. Bytes only; nothing is sent here.

    header      64 bytes, `_HEADER`; in it the share of the recipient's datagrams that do not arrive, in 1/65535
    body        by kind, below
    tag         16 bytes: keyed BLAKE2b (RFC 7693) of everything before it

    HELLO       nonce, and digests of tables (16 bytes each)    wants an ANSWER
    ANSWER      the nonce of a HELLO, and digests of tables     proves that its sender is alive now
    PINS        entries                                         what is new, and what must not be forgotten
    ASK         number, cursor, wanted parts                    the next block of the whole table, please
    DUMP        number, cursor, following, part, parts; entries a part of that block
    ABSENT      digests of names of VIPs (8 bytes each)         routers have them from somebody else only, or soon

Everything is little-endian. No datagram is longer than LONGEST, which fits the smallest path that IPv6 knows (1,280
bytes), so nothing is ever fragmented. An entry says everything about a flow in terms that do not depend on the
director: members by a digest of what they are, times as ages.

Who may say what, and when, is in session.py. The key is the fleet's secret (with a purpose of its own), so every
director can speak for every other; against a director that has been taken over nothing here helps. Datagrams are not
encrypted: they show addresses and ports of flows, as the flows' own packets do on the same wires. The fleet's number
in front is a function of the secret, too: who has never seen a datagram of this fleet is told from its directors before
any cryptography, by the kernel (`socket_filter`).
"""

import hashlib
import hmac
import math
import struct
from dataclasses import dataclass
from enum import IntEnum, StrEnum

import numpy as np
import numpy.typing as npt

from appliance.forwarding import TableMember

MAGIC = b"OWP\x02"
"""The last byte is the version; directors of different versions do not share pins."""

DEFAULT_PORT = 7117

_HEADER = struct.Struct("<4sBBH7Q")
_WHOLE = 0xFFFF
_HELLO = struct.Struct("<Q")
_ASK = struct.Struct("<IIQ")
_DUMP = struct.Struct("<IIIHH")
TAG = 16

ENTRY = np.dtype(
    [
        ("source", "<u8", 2),
        ("destination", "<u8", 2),
        ("hash64", "<u8"),
        ("member", "<u8"),
        ("ports", "<u4"),
        ("hash32", "<u4"),
        ("age", "<u4"),
        ("idle", "<u2"),
        ("born", "<u2"),
        ("protocol", "u1"),
        ("state", "u1"),
    ]
)
"""
    source, destination, hash64, ports, hash32, idle, protocol    as in `pins.FLOW`
    member    `Keys.member`
    age       since last use, in units of 2^AGE_SHIFT ns, when the datagram was written. Never too small: whoever hears
              of a flow takes it for a little older than it is, so that no flow stays young by being passed round.
    born      since the SYN that gave the flow its place, in the same units; BEFORE: longer ago, or no SYN did
    state     `PinState`, and OPENED where the flow got its place by its SYN: where nothing follows that, it soon counts
              no more as a connection, wherever it began
"""

OPENED = 4

DIGEST = np.dtype([("name", "<u8"), ("digest", "<u8")])

AGE_SHIFT = 20
BEFORE = 0xFFFF

PER_DATAGRAM = 17
"""Entries."""

PARTS = 64
"""Datagrams of one block of a dump, at most: what a loop can make, and a socket take, at once."""

DIGESTS = 64
"""In one HELLO or ANSWER."""

NAME = np.dtype("<u8")
NAMES = 128
"""In one ABSENT."""

LONGEST = _HEADER.size + _DUMP.size + PER_DATAGRAM * ENTRY.itemsize + TAG
SHORTEST = _HEADER.size + TAG

END = 0xFFFFFFFF
"""Cursor behind the end of a table."""


class Kind(IntEnum):
    HELLO = 1
    ANSWER = 2
    PINS = 3
    ASK = 4
    DUMP = 5
    ABSENT = 6


_SHAPE = {
    Kind.HELLO: (_HELLO.size, DIGEST.itemsize, DIGESTS),
    Kind.ANSWER: (_HELLO.size, DIGEST.itemsize, DIGESTS),
    Kind.PINS: (0, ENTRY.itemsize, PER_DATAGRAM),
    Kind.ASK: (_ASK.size, 0, 0),
    Kind.DUMP: (_DUMP.size, ENTRY.itemsize, PER_DATAGRAM),
    Kind.ABSENT: (0, NAME.itemsize, NAMES),
}
"""Of a body: bytes in front, bytes of an element, elements at most."""


class Refusal(StrEnum):
    """Why a datagram is not taken."""

    TRUNCATED = "truncated"
    """Its length is not what its kind and count make it, or no datagram has such a length."""
    FOREIGN = "foreign"
    """Not of this fleet (another secret), or not of this version."""
    UNKNOWN_SENDER = "unknown_sender"
    """Of this fleet, but not written by the director that has this address."""
    MISDIRECTED = "misdirected"
    """Written for another director."""
    FORGED = "forged"
    """The tag is wrong."""
    UNASKED = "unasked"
    """An ANSWER to a question that we have not asked, or not lately."""
    OTHER_LIFE = "other_life"
    """Of a life of its sender, or to a life of ours, that is not known to be the present one."""
    REPLAYED = "replayed"
    """Its sequence number has been seen, or is too old to tell."""
    LATE = "late"
    """It has been under way for too long."""


@dataclass(frozen=True)
class Keys:
    """What follows from the fleet's secret."""

    tag: bytes
    fleet: int
    names: bytes

    @classmethod
    def derive(cls, secret: bytes) -> "Keys":
        """
        Raises:
            ValueError: the secret is shorter than 128 bits.
        """
        if len(secret) < 16:
            raise ValueError(f"the fleet secret needs at least 16 bytes, this one has {len(secret)}")
        material = hashlib.blake2b(secret, digest_size=64, person=b"onward-pin-wire1").digest()
        tag, names, fleet = (
            hashlib.blake2b(purpose, key=material, digest_size=32).digest() for purpose in (b"tag", b"names", b"fleet")
        )
        return cls(tag, int.from_bytes(fleet[:8], "little"), names)

    def director(self, name: str) -> int:
        """A director, in 64 bits."""
        return self._digest("director", name)

    def pool(self, name: str) -> int:
        """The name of a pool (or of whatever else directors compare), in 64 bits."""
        return self._digest("pool", name)

    def member(self, member: TableMember) -> int:
        """A way to a member, in 64 bits: its name, its address and how packets reach it. Never 0."""
        delivery = member.delivery
        return self._digest("member", member.id, str(member.address), str(delivery)) or 1

    def _digest(self, *parts: str) -> int:
        text = "\0".join(parts).encode()
        return int.from_bytes(hashlib.blake2b(text, key=self.names, digest_size=8).digest(), "little")

    def sign(self, data: bytes | memoryview) -> bytes:
        return hashlib.blake2b(data, key=self.tag, digest_size=TAG).digest()


@dataclass(frozen=True, slots=True)
class Route:
    """From whom to whom, in which of their lives."""

    sender: int
    recipient: int
    life: int
    """Of the sender; a random number for each run of its process."""

    to_life: int = 0
    """Of the recipient, as far as the sender knows; 0 when it does not."""


@dataclass(frozen=True, slots=True)
class Datagram:
    """One whose tag is right, and whose lengths agree. `body` is a view of what was received."""

    kind: Kind
    life: int
    to_life: int
    sequence: int
    clock: int
    """The sender's monotonic clock when it was written, ns."""

    body: memoryview

    missing: float = 0.0
    """The share of what we have sent to its sender in the last seconds that is not there, 0 to 1."""

    @property
    def nonce(self) -> int:
        """Of HELLO and ANSWER."""
        return int.from_bytes(self.body[: _HELLO.size], "little")

    @property
    def digests(self) -> npt.NDArray[np.void]:
        """Of HELLO and ANSWER: DIGEST."""
        return np.frombuffer(self.body, DIGEST, offset=_HELLO.size)

    @property
    def names(self) -> npt.NDArray[np.uint64]:
        """Of ABSENT: NAME."""
        return np.frombuffer(self.body, NAME)

    @property
    def ask(self) -> "Ask":
        return Ask(*_ASK.unpack(self.body))

    @property
    def part(self) -> "Part":
        """Of DUMP."""
        return Part(*_DUMP.unpack_from(self.body))

    @property
    def entries(self) -> memoryview:
        """Of PINS and DUMP: whole ENTRY elements."""
        return self.body[_DUMP.size :] if self.kind is Kind.DUMP else self.body


@dataclass(frozen=True, slots=True)
class Ask:
    """A request for a block of the table that begins at *cursor*."""

    number: int
    """Counts the asker's requests for whole tables."""
    cursor: int
    wanted: int
    """A bit for each part."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a block that was asked for."""

    number: int
    cursor: int
    following: int
    """Where the next block begins, or END."""
    part: int
    parts: int


ALL_PARTS = (1 << PARTS) - 1


def pack(
    keys: Keys,
    kind: Kind,
    route: Route,
    sequence: int,
    clock: int,
    body: bytes | memoryview,
    count: int = 0,
    missing: float = 0.0,
) -> bytes:
    """A datagram.

    Args:
        keys: of the fleet.
        kind: what it is.
        route: whose it is and for whom.
        sequence: the sender's next number for this recipient.
        clock: the sender's monotonic clock, ns.
        body: as `hello_body`, `ask_body`, `dump_body` or entries have it.
        count: elements in it (digests or entries).
        missing: the share of the recipient's datagrams that do not arrive here, 0 to 1.
    """
    share = math.ceil(missing * _WHOLE)
    header = _HEADER.pack(
        MAGIC, kind, count, share, keys.fleet, route.sender, route.recipient, route.life, route.to_life, sequence, clock
    )
    data = header + body
    return data + keys.sign(data)


def hello_body(nonce: int, digests: npt.NDArray[np.void]) -> bytes:
    """Of HELLO and ANSWER. *digests*: DIGEST, at most DIGESTS."""
    return _HELLO.pack(nonce) + digests.tobytes()


def ask_body(ask: Ask) -> bytes:
    return _ASK.pack(ask.number, ask.cursor, ask.wanted)


def dump_body(part: Part, entries: bytes | memoryview) -> bytes:
    return _DUMP.pack(part.number, part.cursor, part.following, part.part, part.parts) + entries


def unpack(keys: Keys, data: memoryview, sender: int, recipient: int) -> Datagram | Refusal:
    """Read a datagram; what is cheap to refuse is refused first.

    Args:
        keys: of the fleet.
        data: as received; the result refers to it.
        sender: the director that has the address from which it came.
        recipient: us.
    """
    size = len(data)
    if not SHORTEST <= size <= LONGEST:
        return Refusal.TRUNCATED
    magic, kind_number, count, share, fleet, of, to, life, to_life, sequence, clock = _HEADER.unpack_from(data)
    if magic != MAGIC or fleet != keys.fleet:
        return Refusal.FOREIGN
    if of != sender:
        return Refusal.UNKNOWN_SENDER
    if to != recipient:
        return Refusal.MISDIRECTED
    shape = _SHAPE.get(kind_number)
    if shape is None or count > shape[2] or size != SHORTEST + shape[0] + count * shape[1]:
        return Refusal.TRUNCATED
    if not hmac.compare_digest(keys.sign(data[:-TAG]), data[-TAG:]):
        return Refusal.FORGED
    return Datagram(Kind(kind_number), life, to_life, sequence, clock, data[_HEADER.size : -TAG], share / _WHOLE)


# Offsets for the socket's filter, which sees the UDP header in front.
_UDP = 8
_LD_W_ABS, _LD_B_ABS, _LD_LEN, _JEQ, _JGE, _JGT, _RET = 0x20, 0x30, 0x80, 0x15, 0x35, 0x25, 0x06
_KIND, _FLEET, _SENDER, _RECIPIENT, _TO_LIFE = 4, 8, 16, 24, 40


def socket_filter(keys: Keys, sender: int, recipient: int, life: int) -> bytes:
    """What the kernel lets through to the socket of one peer, as `struct sock_filter[]` (classic BPF).

    Datagrams of this fleet, from this peer to us, and to our present life unless they are greetings. Whoever does not
    know the fleet's number, which is a secret as long as nobody reads along, costs us no more than that.
    """
    tests: list[tuple[int, int, int]] = []  # (load, offset, value): all must be equal, or the datagram is dropped

    def word(offset: int, data: bytes) -> None:
        tests.append((_LD_W_ABS, _UDP + offset, int.from_bytes(data, "big")))

    def double(offset: int, value: int) -> None:
        data = value.to_bytes(8, "little")
        word(offset, data[:4])
        word(offset + 4, data[4:])

    word(0, MAGIC)
    double(_FLEET, keys.fleet)
    double(_SENDER, sender)
    double(_RECIPIENT, recipient)
    greeting = len(tests)
    double(_TO_LIFE, life)

    # (code, yes, no, k); every test is followed by its own "drop", so that jumps are short.
    code: list[tuple[int, int, int, int]] = [
        (_LD_LEN, 0, 0, 0),
        (_JGE, 0, 1, _UDP + SHORTEST),
        (_JGT, 0, 1, _UDP + LONGEST),
        (_RET, 0, 0, 0),
    ]
    for number, (load, offset, value) in enumerate(tests):
        if number == greeting:
            code += [(_LD_B_ABS, 0, 0, _UDP + _KIND), (_JEQ, 0, 1, Kind.HELLO), (_RET, 0, 0, 0xFFFF)]
        code += [(load, 0, 0, offset), (_JEQ, 1, 0, value), (_RET, 0, 0, 0)]
    code.append((_RET, 0, 0, 0xFFFF))
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)
