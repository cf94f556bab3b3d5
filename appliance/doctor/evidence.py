"""What was gathered of the director, of members and of the ways to them. Values only; the checks judge them. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from appliance.doctor.client import Came
from appliance.doctor.member import MemberReport, Point
from appliance.forwarding import NextHop
from appliance.model import Delivery, DsrType, IPAddress, IPNetwork, Protocol


class Reply(StrEnum):
    """What came of a question."""

    ANSWERED = "answered"
    """A SYN-ACK, or a datagram."""
    REFUSED = "refused"
    """An RST, or ICMP port unreachable."""
    ERROR = "error"
    """Another ICMP error."""
    SILENT = "silent"


@dataclass(frozen=True)
class IcmpError:
    """An ICMP error about a question."""

    kind: int
    """Type."""
    code: int
    sender: IPAddress
    outer: bool
    """It quotes the tunnel's header, and not only what is inside."""

    def __str__(self) -> str:
        name, about = "ICMPv6" if self.sender.version == 6 else "ICMP", "outer" if self.outer else "inner"
        return f"{name} type {self.kind} code {self.code} about the {about} packet, from {self.sender}"


@dataclass(frozen=True)
class Asked:
    """One question, and what came of it."""

    reply: Reply = Reply.SILENT
    source: IPAddress | None = None
    """Who has answered."""
    mac: str = ""
    """From where the answer came on the segment."""
    mss: int | None = None
    """In a SYN-ACK, bytes."""
    errors: tuple[IcmpError, ...] = ()

    @property
    def arrived(self) -> bool:
        """Whether the VIP itself has said anything."""
        return self.reply in (Reply.ANSWERED, Reply.REFUSED)


@dataclass(frozen=True)
class Step:
    """How far an outer packet gets."""

    hops: int
    """With this TTL."""
    router: IPAddress | None
    """Who says that it has ended there; None: nobody."""


@dataclass(frozen=True)
class PathSeen:
    """One VIP and port, asked through the member's DSR path as clients' packets go."""

    vip: IPAddress
    port: int
    protocol: Protocol
    small: Asked
    """The smallest packet that opens a connection, or a datagram."""

    direct: Asked | None = None
    """The same to the member's own address, as the kernel routes it. None: not asked."""

    full: Asked | None = None
    """The largest packet that should fit; None: not asked."""
    full_length: int = 0
    """Its bytes, without outer header."""

    fits: int | None = None
    """The largest one that was answered, where `full` was not."""

    own: Asked | None = None
    """In the tunnel, and for the member's own address."""

    stranger: Asked | None = None
    """In the tunnel, from an address that is no director's."""
    stranger_source: IPAddress | None = None

    steps: tuple[Step, ...] = ()
    kernel: str | None = None
    """What the director's own kernel makes of answers that its interface has seen: empty when it takes them, else the
    error. None: not asked."""

    mss_limit: int | None = None
    """The largest segment that the way to the member takes."""


@dataclass(frozen=True)
class MemberSeen:
    """One member of one virtual service."""

    service: str
    member: str
    """`pool/member`."""
    address: IPAddress
    delivery: Delivery
    hop: NextHop | None
    outer_prefix: IPNetwork | None = None
    """Where outer headers have their sources from; None: it is the hop's source."""
    no_way: str = ""
    """Why there is no next hop."""

    gateway: IPAddress | None = None
    """The router towards it; None: it is on the segment itself."""

    hop_macs: tuple[str, ...] = ()
    """Who answers for the next hop's address on the segment; empty: nobody was heard, or nobody was asked."""

    vip_macs: Mapping[IPAddress, tuple[str, ...]] = field(default_factory=dict)
    """Who answers for VIPs on the director's segments."""

    paths: tuple[PathSeen, ...] = ()
    report: MemberReport | None = None
    no_report: str = ""
    """Why there is none."""

    points: tuple[Point, ...] = ()
    """What a check of its set-up on the member itself has found."""

    passive: "PassiveSeen | None" = None
    visits: tuple["Visit", ...] = ()
    """Connections that clients' machines have tried, and that went to this member."""

    @property
    def tunnelled(self) -> bool:
        return self.delivery.dsr_type is DsrType.L3

    @property
    def outer_source(self) -> str:
        """Where this director's packets in tunnels come from, as rules and commands have it."""
        if self.outer_prefix is not None:
            return str(self.outer_prefix)
        return str(self.hop.source) if self.hop is not None else "DIRECTORS"

    @property
    def macs(self) -> frozenset[str]:
        """The member's own addresses on segments, as far as they are known."""
        known = {device.mac for device in self.report.devices.values()} if self.report else set()
        if self.hop is not None and self.hop.direct:
            known.add(self.hop.mac.hex(":"))
        return frozenset(known - {""})


@dataclass(frozen=True)
class PassiveSeen:
    """What clients' handshakes by way of one member looked like, from the side that a director sees."""

    handshakes: int
    """Connections that began."""
    completed: int
    """Of these, those whose client has acknowledged the SYN-ACK."""
    repeated: int
    """Of the others, those whose client has sent its SYN again: no SYN-ACK has reached it."""
    stuck: int
    """Of the others, those whose client has sent it once and nothing more: it has a SYN-ACK, and its ACK gets lost."""
    reset: int
    """Connections that the client has reset."""
    response_s: float | None = None
    """From SYN to ACK, mean of the recent ones."""
    outlier: str = ""
    """In what it differs from the pool's others; empty: in nothing."""


@dataclass(frozen=True)
class Visit:
    """A connection that a client's machine has tried."""

    client: str
    """For people."""
    vip: IPAddress
    came: Came
    seconds: float = 0.0
    mss: int | None = None
    """The largest segment that the client would send."""
    error: str = ""


@dataclass(frozen=True)
class PeerSeen:
    """Another director."""

    name: str
    differs: Mapping[str, float]
    """Tables in which it differs, and for how many seconds."""


@dataclass(frozen=True)
class SessionSeen:
    """A router's sessions."""

    peer: str
    bgp_up: bool
    bfd_downs: int
    """How often BFD has lost it, since the run before."""
    detail: str = ""


@dataclass(frozen=True)
class DirectorSeen:
    """The director itself, and its segments."""

    vips: tuple[IPAddress, ...] = ()
    local: Mapping[IPAddress, str] = field(default_factory=dict)
    """VIPs that are addresses of this machine, and the interface."""

    answers: Mapping[IPAddress, tuple[str, ...]] = field(default_factory=dict)
    """By VIP: the MAC addresses that answer for it on the director's segments, members' own ones left out."""

    conflicts: Mapping[IPAddress, str] = field(default_factory=dict)
    """VIPs that the fleet answers ARP for and somebody else does as well: what is known of that."""

    asked_segments: tuple[str, ...] = ()
    """Interfaces on which VIPs were asked for."""

    merging: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Receive offloads that are on and merge packets, by interface."""

    plane: str = ""
    """`raw`, `xdp native`, `xdp generic`."""

    peers: tuple[PeerSeen, ...] = ()
    sessions: tuple[SessionSeen, ...] = ()
    late_s: float = 0.0
    """How late the event loop was lately, at most."""

    fragments_lost: int = 0
    """Later fragments that were dropped since the run before."""

    conntrack: tuple[int, int] | None = None
    """Entries, and how many there may be; None: no connection tracking here."""

    hash_by_ports: tuple[str, ...] = ()
    """Virtual services whose hash looks at ports."""
