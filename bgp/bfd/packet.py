"""BFD control packets (RFC 5880, section 4.1): values to bytes and back. Pure.

No authentication: a packet that has some is refused, as section 6.8.6 wants of a session without it. On one hop the
hop limit of 255 keeps strangers out (RFC 5881, section 5).
"""

import struct
from dataclasses import dataclass
from enum import IntEnum, StrEnum

_FIXED = struct.Struct("!BBBBIIIII")
LENGTH = _FIXED.size
"""Bytes of a packet without authentication."""

_LENGTH_AUTHENTICATED = LENGTH + 2
_VERSION = 1
_POLL, _FINAL, _INDEPENDENT, _AUTHENTICATED, _DEMAND, _MULTIPOINT = 0x20, 0x10, 0x08, 0x04, 0x02, 0x01


class State(IntEnum):
    ADMIN_DOWN = 0
    DOWN = 1
    INIT = 2
    UP = 3

    def __str__(self) -> str:
        return self.name.lower()


class Diag(IntEnum):
    """Why a session's state changed last."""

    NONE = 0
    TIME_EXPIRED = 1
    """Nothing was heard for the detection time."""
    ECHO_FAILED = 2
    NEIGHBOR_DOWN = 3
    """The other side says that its session is down."""
    FORWARDING_PLANE_RESET = 4
    PATH_DOWN = 5
    CONCATENATED_PATH_DOWN = 6
    ADMIN_DOWN = 7
    REVERSE_CONCATENATED_PATH_DOWN = 8


def diag_name(code: int) -> str:
    """A word for a diagnostic code, whether this version knows it or not (9 to 31 are reserved)."""
    return Diag(code).name.lower() if code <= max(Diag) else f"code_{code}"


class Refusal(StrEnum):
    """Why a packet was not taken."""

    SHORT = "short"
    VERSION = "version"
    LENGTH = "length"
    MULTIPLIER = "multiplier"
    MULTIPOINT = "multipoint"
    MY_DISCRIMINATOR = "my_discriminator"
    YOUR_DISCRIMINATOR = "your_discriminator"
    """Zero, though the sender claims to have heard us."""
    AUTHENTICATION = "authentication"
    TTL = "ttl"
    """Not 255: it has come over a router, and may be from anywhere."""
    NO_SESSION = "no_session"
    """Nobody has this discriminator, or nobody waits for this sender."""
    ADDRESS = "address"
    """The discriminator is of a session between other addresses, or of the other kind."""


class RefusedError(Exception):
    """A packet must not be taken."""

    def __init__(self, reason: Refusal) -> None:
        super().__init__(str(reason))
        self.reason = reason


@dataclass(frozen=True)
class Packet:
    """Intervals are microseconds."""

    state: State
    my_discriminator: int
    your_discriminator: int
    multiplier: int
    desired_min_tx_us: int
    required_min_rx_us: int
    diag: int = Diag.NONE
    poll: bool = False
    final: bool = False
    independent: bool = False
    """The sender's BFD shares no fate with its control plane."""
    demand: bool = False
    required_min_echo_rx_us: int = 0


def encode(packet: Packet) -> bytes:
    """The 24 bytes of *packet*.

    Raises:
        struct.error: a number does not fit into its field.
    """
    flags = packet.state << 6
    for is_set, bit in (
        (packet.poll, _POLL),
        (packet.final, _FINAL),
        (packet.independent, _INDEPENDENT),
        (packet.demand, _DEMAND),
    ):
        flags |= bit if is_set else 0
    return _FIXED.pack(
        _VERSION << 5 | packet.diag,
        flags,
        packet.multiplier,
        LENGTH,
        packet.my_discriminator,
        packet.your_discriminator,
        packet.desired_min_tx_us,
        packet.required_min_rx_us,
        packet.required_min_echo_rx_us,
    )


def decode(data: bytes) -> Packet:
    """The packet in a datagram's payload, after the checks of section 6.8.6 that need no session.

    Raises:
        RefusedError: it is not a packet that a session without authentication may take.
    """
    if len(data) < LENGTH:
        raise RefusedError(Refusal.SHORT)
    first, flags, multiplier, length, mine, yours, tx, rx, echo = _FIXED.unpack_from(data)
    authenticated = bool(flags & _AUTHENTICATED)
    state = State(flags >> 6)
    if first >> 5 != _VERSION:
        raise RefusedError(Refusal.VERSION)
    if not (_LENGTH_AUTHENTICATED if authenticated else LENGTH) <= length <= len(data):
        raise RefusedError(Refusal.LENGTH)
    if multiplier == 0:
        raise RefusedError(Refusal.MULTIPLIER)
    if flags & _MULTIPOINT:
        raise RefusedError(Refusal.MULTIPOINT)
    if mine == 0:
        raise RefusedError(Refusal.MY_DISCRIMINATOR)
    if yours == 0 and state not in (State.DOWN, State.ADMIN_DOWN):
        raise RefusedError(Refusal.YOUR_DISCRIMINATOR)
    if authenticated:
        raise RefusedError(Refusal.AUTHENTICATION)
    return Packet(
        state=state,
        my_discriminator=mine,
        your_discriminator=yours,
        multiplier=multiplier,
        desired_min_tx_us=tx,
        required_min_rx_us=rx,
        diag=first & 0x1F,
        poll=bool(flags & _POLL),
        final=bool(flags & _FINAL),
        independent=bool(flags & _INDEPENDENT),
        demand=bool(flags & _DEMAND),
        required_min_echo_rx_us=echo,
    )
