"""What happens to a frame, and the name of every way out. One list for the packet path, both planes and the metrics."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Verdict(StrEnum):
    TRANSMIT = "transmit"
    PASS = "pass"  # noqa: S105 - not a password
    DROP = "drop"
    HOLD = "hold"
    """Kept for a moment, and judged again: a fragment that has come before the first of its datagram (F3)."""


class Reason(StrEnum):
    """Why a frame was not sent to a member. Counter names; they never change their meaning."""

    # pass: none of our business, the kernel has it
    NOT_IP = "not_ip"
    """Neither IPv4 nor IPv6 (ARP among them), or more VLAN tags than two."""
    NOT_VIP = "not_vip"
    """Destination is not a VIP of ours, or the frame is not for our MAC address."""

    # drop
    MALFORMED = "malformed"
    """Lengths, header checksum or header fields that contradict themselves (P2, P3, P4, P7)."""
    NO_SERVICE = "no_service"
    """A VIP, but no virtual service on this protocol and port (P10)."""
    NO_MEMBER = "no_member"
    """The service has no member in rotation."""
    TTL_EXPIRED = "ttl_expired"
    """The inner packet's TTL or hop limit ended here (encapsulating directors are routers)."""
    TOO_BIG = "too_big"
    """Larger than the way to the member allows, and must not be fragmented (M1, M2)."""
    FRAGMENT = "fragment"
    """A fragment whose member is not known: the first one of its datagram was not seen, or was dropped (F3, F5)."""
    MARTIAN = "martian"
    """A source address that no client has: multicast, loopback, "this network", reserved, or the VIP itself."""
    UNSUPPORTED_HEADER = "unsupported_header"
    """An IPv6 extension header chain that is too long or unknown (P6), or routing type 0."""
    PROTOCOL = "protocol"
    """Neither TCP nor UDP nor an ICMP error about one of them (I6)."""
    ECHO = "echo"
    """An echo request to a VIP that is up here (I5). It is answered, unless there are too many at once."""
    SPOOFED = "spoofed"
    """An ICMP error about a packet that the VIP it went to did not send (I4)."""
    LOOP = "loop"
    """A member of an L2 pool sent the packet back to the VIP (L5)."""
    DENIED = "denied"
    """The client's address is among those that the virtual service does not take packets from."""
    SOURCE_RATE = "source_rate"
    """More new connections of one client than the virtual service takes."""
    VIP_RATE = "vip_rate"
    """More new connections to the VIP than the virtual service takes."""
    SERVICE_RATE = "service_rate"
    """More new connections than the virtual service takes."""
    OVERSIZED_FRAME = "oversized_frame"
    """An offload super-frame that no wire could carry (P14)."""
    SLOW_PATH_FULL = "slow_path_full"
    """More packets at once that need a closer look (fragments, ICMP, answers, pieces) than there is time for."""
    ICMP_RATE = "icmp_rate"
    """More ICMP errors of others about a VIP's flows than are passed on (I3)."""
    TX_FAILED = "tx_failed"
    """The kernel refused to send the frame."""


class By(StrEnum):
    """What has decided on the member."""

    SLOT = "slot"
    """The flow's slot."""
    PREVIOUS = "previous"
    """The slot's owner before a change, which has the flows from then."""
    PIN = "pin"
    """What is remembered of the flow."""
    CHOICE = "choice"
    """The pool's algorithm, for this flow or packet."""
    CONNECTION_ID = "connection_id"
    """QUIC's: it names the member that has made it (C13)."""
    FIRST = "first"
    """What was decided on the first fragment of the same datagram (F2)."""


class Datagram(NamedTuple):
    """What all fragments of one datagram have alike, and no others of these days."""

    source: bytes
    destination: bytes
    ident: int
    """16 bits in IPv4, 32 in IPv6."""
    protocol: int
    """0 in IPv6."""


@dataclass(frozen=True)
class Reply:
    """A frame of our own, sent back out of the interface that the cause arrived on."""

    frame: bytes
    kind: str
    """Name for counters: `icmp_too_big`, `icmp_time_exceeded`, `icmp_port_unreachable`, `icmp_echo_reply`,
    `tcp_reset`."""

    vip: bytes = field(default=b"", compare=False)
    """Whose answer it is, 4 or 16 bytes: for limits."""


@dataclass(frozen=True)
class Action:
    """What a director does with one frame."""

    verdict: Verdict
    reason: Reason | None = None
    """None exactly when the verdict is TRANSMIT."""

    frame: bytes = b""
    """The frame out, for TRANSMIT."""

    further: tuple[bytes, ...] = ()
    """More of them, where the packet was fragmented."""

    ifindex: int = 0
    """Where they leave, for TRANSMIT."""

    service: int | None = None
    """TableService.index, as soon as a service was found."""

    member: int | None = None
    """TableMember.index, as soon as a member was chosen."""

    slot: int | None = None
    by: By | None = None
    """What has decided on the member, as soon as one was chosen."""

    reply: Reply | None = None
    datagram: Datagram | None = None
    """Of HOLD: what the frame waits for. Of TRANSMIT: the frame was the first fragment, for which others may wait."""
    relayed: str | None = field(default=None, compare=False)
    """What a transmitted ICMP error of somebody else's says, for limits: `too_big`, `unreachable`, `time_exceeded`,
    `parameter_problem`."""
