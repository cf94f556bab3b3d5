"""The values that everything else speaks about. Frozen, no behaviour beyond small derived facts.

Names are the field's words (ARCHITECTURE.md, "Words"); the seed system's spelling is accepted by config/schema.py only.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import PurePath, PurePosixPath

from appliance.passwords import Scrypt

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

IP_HEADER = {4: 20, 6: 40}
"""Bytes of an IP header without options and extensions, by version."""

TCP_HEADER = 20
STATE_DIR = PurePosixPath("/var/lib/onward")
MAX_RATIO = 1000
"""Of a member, in the configuration and by an operator's order."""

OUTER_TTL = 64
"""TTL or hop limit of outer headers where nothing else is configured."""


class Protocol(IntEnum):
    """IANA protocol numbers of the flows that a virtual service can carry."""

    TCP = 6
    UDP = 17

    def __str__(self) -> str:
        return self.name.lower()


class ProfileType(StrEnum):
    """What kind of traffic a network profile is for."""

    TCP_FAST_PATH = "tcp_fast_path"
    UDP_FAST_PATH = "udp_fast_path"
    TCP_PROXY = "tcp_proxy"
    """Connections end at a full proxy, on a node of the second tier."""

    @property
    def protocol(self) -> Protocol:
        return Protocol.UDP if self is ProfileType.UDP_FAST_PATH else Protocol.TCP


class DsrType(StrEnum):
    """How a packet gets to a member unchanged: by rewriting MAC addresses, or inside another IP packet."""

    L2 = "l2"
    L3 = "l3"


class Encapsulation(StrEnum):
    """The tunnel of L3 DSR."""

    IPIP = "ipip"
    """Nothing between the two IP headers."""
    GRE = "gre"
    """RFC 2784, without options; over IPv6 RFC 7676."""
    GUE = "gue"
    """Generic UDP encapsulation, variant 0 (draft-ietf-intarea-gue)."""

    @property
    def between(self) -> int:
        """Bytes between the outer IP header and the inner packet."""
        return {Encapsulation.IPIP: 0, Encapsulation.GRE: 4, Encapsulation.GUE: 12}[self]


class TtlPolicy(StrEnum):
    """Whether an encapsulating director counts as a hop for the inner packet (packets.md, section 1)."""

    ROUTER = "router"
    TRANSPARENT = "transparent"


class DfPolicy(StrEnum):
    """What becomes of "don't fragment" in an outer IPv4 header (packets.md, section 1)."""

    COPY_INNER = "copy_inner"
    """As the inner packet has it; IPv6 packets have it by nature."""
    CLEAR = "clear"
    """Routers on the way to the member may fragment."""


class OuterSource(StrEnum):
    """Where outer headers say that they come from (packets.md, section 1)."""

    INTERFACE = "interface"
    """The address of the interface by which they leave."""
    PREFIX = "prefix"
    """Each flow has an address of a prefix that is routed to the director, so that members' receive queues share
    flows."""


class Algorithm(StrEnum):
    """How flows find members."""

    CONSISTENT_HASH = "consistent_hash"
    ROUND_ROBIN = "round_robin"
    RANDOM = "random"
    LEAST_CONNECTIONS = "least_connections"
    LEAST_LOAD = "least_load"
    FASTEST_RESPONSE = "fastest_response"
    FEWEST_SERVERS = "fewest_servers"


class HashMode(StrEnum):
    """Which parts of a flow key choose the slot."""

    SOURCE_IP = "source_ip"
    SOURCE_IP_PORT = "source_ip_port"
    FIVE_TUPLE = "five_tuple"


class Health(StrEnum):
    """What is observed of a member."""

    UNKNOWN = "unknown"
    UP = "up"
    DOWN = "down"
    MAINTENANCE = "maintenance"
    """The member itself says that it is worked on: it keeps what it has, and takes nothing new."""


class AdminState(StrEnum):
    """What an operator wants of a member."""

    READY = "ready"
    DRAIN = "drain"
    """Keep what it has, take nothing new."""
    MAINT = "maint"
    """Nothing at all, from now on."""


class EffectiveState(StrEnum):
    """What the decision makes of configuration, orders, health and reachability."""

    IN_ROTATION = "in_rotation"
    DRAINING = "draining"
    """Goes on with the flows it has."""
    OUT = "out"


@dataclass(frozen=True)
class Order:
    """What an operator has ordered of a member, on top of the configuration."""

    state: AdminState
    since: float
    """Seconds since 1970."""

    until: float | None = None
    """When a drain ends and the member is out; None is never."""

    ratio: int | None = None
    """Another ratio than the configured one; None is that."""


@dataclass(frozen=True)
class Drain:
    """A director that is to be left by its traffic."""

    since: float
    """Seconds since 1970."""

    until: float
    """When its routes are withdrawn in any case."""

    over: str = ""
    """Why they are withdrawn by now; empty: routers are being asked to take other ways."""

    moved: bool = False
    """Nothing came any more."""


class HaMode(StrEnum):
    """How the directors of a fleet share a VIP. All announce it, always: the mode says whom routers prefer."""

    ACTIVE_ACTIVE = "active_active"
    """Nobody: routers spread flows over all."""
    ACTIVE_STANDBY = "active_standby"
    """One, and the others in a fixed order when it is gone."""
    N_PLUS_M = "n_plus_m"
    """So many of the fleet, chosen anew for each VIP, and the others when all of these are gone. One that is not heard
    of, or says that routers do not have the VIP from it, is replaced."""


class PlaneKind(StrEnum):
    """Which data plane a director is to use."""

    AUTO = "auto"
    """XDP where it works, else raw."""
    XDP = "xdp"
    RAW = "raw"


@dataclass(frozen=True, order=True)
class PortRange:
    """Ports first..last, both included. 1..65535 is the wildcard."""

    first: int
    last: int

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last

    @property
    def width(self) -> int:
        return self.last - self.first + 1

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(frozen=True)
class Delivery:
    """How packets of a virtual service reach its members: the part of a network profile a data plane cares for."""

    dsr_type: DsrType
    encapsulation: Encapsulation | None
    """None for L2."""

    ttl: TtlPolicy = TtlPolicy.ROUTER
    outer_df: DfPolicy = DfPolicy.COPY_INNER
    outer_ttl: int = OUTER_TTL
    """TTL or hop limit of outer headers, 1..255."""
    outer_source: OuterSource = OuterSource.INTERFACE

    def __str__(self) -> str:
        return str(self.encapsulation or self.dsr_type)

    def overhead(self, outer_version: int) -> int:
        """Bytes that encapsulation adds to the inner IP packet (packets.md, section 1).

        Args:
            outer_version: 4 or 6, the family of the member's address.
        """
        if self.encapsulation is None:
            return 0
        return IP_HEADER[outer_version] + self.encapsulation.between

    def outer_prefix(self, member: IPAddress, prefixes: Iterable[IPNetwork]) -> IPNetwork | None:
        """Of which of a director's prefixes the outer headers to a member have their sources; None: of none."""
        if self.outer_source is not OuterSource.PREFIX:
            return None
        return next((one for one in prefixes if one.version == member.version), None)

    def mss(self, inner_version: int, outer_version: int, mtu: int) -> int:
        """The largest TCP segment that fits a way, which is what members have to advertise to clients: it stands in the
        SYN-ACK, which never passes a director.

        Args:
            inner_version: 4 or 6, the family of the VIP.
            outer_version: 4 or 6, the family of the member's address.
            mtu: largest IP packet that the way to the member takes, bytes.
        """
        return mtu - self.overhead(outer_version) - IP_HEADER[inner_version] - TCP_HEADER


@dataclass(frozen=True)
class NetworkProfile:
    name: str
    type: ProfileType
    delivery: Delivery
    session_idle_timeout_s: int
    per_packet: bool = False
    """UDP only: every datagram is a new decision."""


class Vantage(StrEnum):
    """Which way a health monitor asks a member."""

    DIRECT = "direct"
    """Its own address, as the kernel routes packets."""
    PATH = "path"
    """The VIP, through the member's DSR mode and encapsulation, as clients' packets go."""
    BOTH = "both"
    """What the path says decides; what the own address says helps to tell why."""


@dataclass(frozen=True)
class MonitorSpec:
    """One configured health monitor; `settings` are those of its kind, validated by the kind itself."""

    name: str
    kind: str
    send_interval_s: float
    receive_timeout_s: float
    rise: int
    """Good results in a row before a member counts as up."""

    fall: int
    """Bad results in a row before a member counts as down."""

    monitor_port: int | None
    """The port to probe; None means the first port of the virtual service that uses the pool."""

    settings: tuple[tuple[str, object], ...] = ()
    quick_start: bool = True
    """Whether the first checks follow each other quickly."""

    vantage: Vantage | None = None
    """None: the path, for virtual services that have the monitor's port; else the member's own address."""


QUIC_KEY = 16
"""Bytes of a key for connection IDs: AES-128."""

QUIC_LENGTH = 19
"""Server ID and nonce together, bytes at most: QUIC version 1 has connection IDs of 20."""


@dataclass(frozen=True)
class QuicConfig:
    """How connection IDs of QUIC name the member that has made them (draft-ietf-quic-load-balancers)."""

    config_id: int
    """0..6: the first three bits of the connection ID. 7 says that it names nobody."""

    server_id_length: int
    """Bytes, 1..15."""

    nonce_length: int
    """Bytes, 4..18; both together at most 19."""

    key: bytes | None = field(default=None, repr=False)
    """16 bytes, for AES; None: server IDs can be read by anybody."""

    key_file: str | None = None
    """Where the key comes from, as it is written down."""

    encode_length: bool = False
    """Whether the other five bits of the first byte are the number of bytes behind it."""

    @property
    def length(self) -> int:
        """Bytes of server ID and nonce: what follows the first byte."""
        return self.server_id_length + self.nonce_length


@dataclass(frozen=True)
class Member:
    """One address in a pool."""

    name: str
    address: IPAddress
    ratio: int = 1
    """Relative share of the slots; 0 takes none."""

    enabled: bool = True
    leaving: bool = False
    """Not configured any more: goes on with the flows it has, and then it is gone."""

    max_connections: int = 0
    """How many flows it can take at once, for algorithms that ask; 0 is no limit."""

    load_port: int | None = None
    """Where it tells its load (`least_load`)."""

    server_id: bytes | None = None
    """Its name in connection IDs of QUIC; None: one that follows from its name (`server_ids`)."""


@dataclass(frozen=True)
class MemberStats:
    """What algorithms ask of a member: what a director can see of it, or is told."""

    connections: int = 0
    """Flows that are remembered and not over."""

    new_per_s: float = 0.0
    response_s: float | None = None
    """From a client's SYN to its first ACK; None without any seen."""

    load: float | None = None
    """0 is idle, 1 is full; None when it does not say."""


@dataclass(frozen=True)
class Flapping:
    """How members that come and go are held, in the words of RFC 2439: see `appliance/flapping.py`."""

    half_life_s: float = 300.0
    """In which a penalty halves."""
    suppress: float = 2500.0
    """Above it a member takes nothing new."""
    reuse: float = 1000.0
    """Below it a member does again."""


@dataclass(frozen=True)
class Follow:
    """Where a pool's members come from, while they come and go by themselves."""

    folder: str | None
    """Of files, one for each member, which members write and remove."""

    dns: str | None
    """A name whose addresses are the members'."""

    store: bool
    """The fleet's store has them, for as long as they live."""

    version: int
    """4 or 6: which of a member's addresses counts."""

    interval_s: float
    """Between two looks."""


@dataclass(frozen=True)
class Pool:
    name: str
    algorithm: Algorithm
    hash_mode: HashMode | None
    """None: the default of the service's DSR type (source_ip for L2, five_tuple for L3)."""

    members: tuple[Member, ...]
    monitors: tuple[MonitorSpec, ...]
    """Every one must be content for a member to be up. None at all: members count as up."""

    window_s: float = 900.0
    """How long TCP flows from before a change may be silent, and are still found."""

    quiet_s: float = 300.0
    """A window ends sooner when nothing has used the owners from before the change for so long."""

    drain_timeout_s: float | None = None
    """When a drain ends by itself and what is left of the member's flows is cut; None is never."""

    slow_start_s: float = 0.0
    """How long a member that has come into rotation takes to get all its slots; 0 is at once."""

    panic_percent: int = 0
    """With more than this part of its members down at once, a pool stays as it was; 0 is never."""

    min_monitors_up: int = 0
    """So many monitors that say "up" suffice for a member to be up; 0 is all."""

    flapping: "Flapping | None" = None
    """How members that come and go are held; None: not at all."""

    passive_share: float = 0.0
    """What part of its TCP flows is remembered to see how handshakes go, 0..1; 0: none."""

    passive_weight: float = 1.0
    """What part of its share a member keeps whose handshakes are not like the others'; 1: all of it."""

    quic: tuple[QuicConfig, ...] = ()
    """How its members name themselves in connection IDs of QUIC: new ones by the first of these."""

    follow: Follow | None = None
    """None: members are those that are written down."""

    @cached_property
    def member_ids(self) -> tuple[str, ...]:
        """`pool/member` of each."""
        return tuple(f"{self.name}/{member.name}" for member in self.members)


@dataclass(frozen=True)
class Step:
    """By how much routes get worse with each rank."""

    med: int = 100
    local_preference: int = 10
    prepend: int = 0


@dataclass(frozen=True)
class Announcing:
    """How routers are told of a VIP."""

    peer_labels: frozenset[str] = frozenset()
    """Peers with any of these labels are told; without any, all are."""

    med: int | None = None
    local_preference: int | None = None
    """For peers of our own AS."""

    prepend: int = 0
    """So many times more than once, our AS stands in the path. For peers of other ASes."""

    communities: tuple[str, ...] = ()
    large_communities: tuple[str, ...] = ()
    standby_communities: tuple[str, ...] = ()
    """Besides, from directors that do not have the best rank."""

    step: Step = Step()


@dataclass(frozen=True)
class Rate:
    """So many a second, and so many at once after a while without any."""

    per_s: float
    burst: int
    """At least 1."""

    @cached_property
    def interval_ns(self) -> int:
        """From one to the next."""
        return round(1e9 / self.per_s)

    @cached_property
    def tolerance_ns(self) -> int:
        """How much too early one may come."""
        return (self.burst - 1) * self.interval_ns


@dataclass(frozen=True)
class Protection:
    """Whose packets a virtual service does not take, and how many new connections."""

    deny: tuple[IPNetwork, ...] = ()
    """Clients whose packets are dropped."""

    allow: tuple[IPNetwork, ...] = ()
    """Exceptions: of prefixes that hold an address, the longest one decides."""

    per_source: Rate | None = None
    """New connections of one client: an IPv4 address, an IPv6 /64. None: no limit."""

    per_vip: Rate | None = None
    """To each VIP."""

    per_service: Rate | None = None
    """To all VIPs together."""

    @property
    def limits(self) -> bool:
        return (self.per_source, self.per_vip, self.per_service) != (None, None, None)


@dataclass(frozen=True)
class VirtualService:
    """VIPs, a protocol and ports, with a pool."""

    name: str
    vips: tuple[IPAddress, ...]
    ports: tuple[PortRange, ...]
    profile: NetworkProfile
    pool: Pool
    enabled: bool = True
    ha: HaMode = HaMode.ACTIVE_ACTIVE
    prefer: tuple[str, ...] = ()
    """ACTIVE_STANDBY: directors that come first, in this order, and then the others as the fleet lists them."""

    primaries: int = 1
    """N_PLUS_M: the N."""

    min_members: int = 1
    """Members in rotation that it takes for the VIPs to be announced."""

    advertise_down: bool = False
    """Keep announcing when too few members are in rotation."""

    needs_all: bool = False
    """Whether all enabled virtual services of a VIP have to serve for it to be announced; else any of them will do."""

    announcing: Announcing = Announcing()
    arp: bool = False
    """Whether a director answers for the VIPs on the segment."""

    reject_other_ports: bool = False
    """Whether packets for ports of the VIPs that no virtual service has are answered, or only dropped."""

    protection: Protection | None = None
    """None: everybody is welcome."""

    former: tuple[Pool, ...] = ()
    """Pools that it used before a reload, the latest first: their members go on with the flows that they have, and take
    new ones until it is known who of the new pool can."""

    @property
    def pools(self) -> tuple[Pool, ...]:
        """Its pool, and those before."""
        return self.pool, *self.former

    @property
    def protocol(self) -> Protocol:
        return self.profile.type.protocol

    @property
    def hash_mode(self) -> HashMode:
        if self.pool.hash_mode is not None:
            return self.pool.hash_mode
        return HashMode.SOURCE_IP if self.profile.delivery.dsr_type is DsrType.L2 else HashMode.FIVE_TUPLE


@dataclass(frozen=True)
class Proxy:
    """A virtual service of the second tier: nodes of it have the VIPs and a full proxy, and attract no traffic. Another
    virtual service with the same VIPs and ports does, whose pool are these nodes."""

    name: str
    vips: tuple[IPAddress, ...]
    ports: tuple[PortRange, ...]
    pool: Pool
    """Back ends."""

    http: bool
    """Whether the proxy reads HTTP, or bytes."""

    server_port: int | None
    """Where back ends listen; None: the port that the client asked for."""

    certificate: str | None
    """File with a certificate and its key, PEM: clients speak TLS."""

    idle_timeout_s: int


class Decapsulator(StrEnum):
    """Who takes packets out of their encapsulation."""

    KERNEL = "kernel"
    """Tunnel devices of the kernel: modules of the distribution."""
    ONWARD = "onward"
    """`onward decap`: for kernels without these modules, and containers."""


class Role(StrEnum):
    """What a process does with the configuration."""

    DIRECTOR = "director"
    TIER2 = "tier2"
    """Runs the full proxy of the second tier."""


@dataclass(frozen=True)
class Tier2:
    """What a node of the second tier has to know of itself."""

    addresses: tuple[IPAddress, ...]
    """Where directors send to, at most one of each family."""

    sources: tuple[IPNetwork, ...]
    """Where directors' encapsulated packets come from; [[fleet.director]] says it when empty."""

    decapsulator: Decapsulator

    mtu: int
    drain_timeout_s: float
    """How long a node that is to end waits for its connections at most."""

    haproxy: str
    """The program."""


@dataclass(frozen=True)
class Bfd:
    """How we and a router know of each other within fractions of a second (RFC 5880)."""

    interval_s: float
    """Between two packets, in each direction."""

    multiplier: int
    """So many intervals without a packet, and the other side is gone."""

    multihop: bool = False
    passive: bool = False
    """Wait for the router's first packet."""

    @property
    def detection_s(self) -> float:
        return self.interval_s * self.multiplier


@dataclass(frozen=True)
class BgpPeer:
    address: IPAddress
    remote_as: int
    hold_time_s: int
    local_address: IPAddress | None = None
    password: str | None = field(default=None, repr=False)
    bfd: Bfd | None = None
    labels: frozenset[str] = frozenset()
    """Virtual services choose by these which peers are told of them."""

    multihop: int | None = None
    """TTL of our packets; None: the kernel's usual one."""

    ttl_security: int | None = None
    """The router is so many hops away at most, and what comes from farther is refused (RFC 5082)."""

    passive: bool = False
    """The router connects."""

    port: int = 179
    """Where the router listens; with `passive`, where we do."""

    next_hop_v4: IPv4Address | None = None
    """Instead of that of BgpConfig."""

    next_hop_v6: IPv6Address | None = None
    next_hop_self: bool = False
    """The session's own address, whatever BgpConfig says."""


@dataclass(frozen=True)
class BgpConfig:
    local_as: int
    router_id: IPv4Address
    peers: tuple[BgpPeer, ...]
    next_hop_v4: IPv4Address | None = None
    """None: the session's own address."""

    next_hop_v6: IPv6Address | None = None
    hold_down_s: float = 10.0
    """How long a VIP that comes and goes must be well before it is announced again."""


class ApiRole(StrEnum):
    """What somebody may do with the API; who may do more may do the less as well."""

    VIEWER = "viewer"
    """Look."""

    OPERATOR = "operator"
    """Give orders: drain, weight, reload."""

    ADMIN = "admin"
    """Change the configuration."""


@dataclass(frozen=True)
class ApiUser:
    """Somebody who can log in, by password or by a certificate with that common name."""

    name: str
    role: ApiRole
    password: Scrypt | None = field(default=None, repr=False)


@dataclass(frozen=True)
class ApiToken:
    """A program that may ask."""

    name: str
    role: ApiRole
    digest: bytes = field(repr=False)
    """SHA-256 of what it shows."""


@dataclass(frozen=True)
class ApiTls:
    """Files of the API's own certificate; absolute paths."""

    cert_file: str
    key_file: str | None = None
    """None: it is in the certificate's file."""

    client_ca_file: str | None = None
    """Certificates that clients' certificates must come from; None: clients have none."""

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(name for name in (self.cert_file, self.key_file, self.client_ca_file) if name is not None)


@dataclass(frozen=True)
class ApiConfig:
    address: IPAddress
    port: int
    tls: ApiTls | None = None
    users: tuple[ApiUser, ...] = ()
    tokens: tuple[ApiToken, ...] = ()


@dataclass(frozen=True)
class ConnectionLog:
    """Which flows are written down when they are over, and where."""

    one_of: int = 0
    """One of so many; 0: none."""
    file: PurePath | None = None
    """None: they are events in the director's own log."""


class FleetStore(StrEnum):
    """What a fleet agrees by."""

    NONE = "none"
    """Every director judges for itself."""
    ETCD = "etcd"


@dataclass(frozen=True)
class FleetPeer:
    """A director that shares our VIPs."""

    name: str
    address: IPAddress
    port: int = 7117


@dataclass(frozen=True)
class Etcd:
    """Where a fleet keeps what it agrees on."""

    endpoints: tuple[str, ...]
    prefix: str
    user: str = ""
    password: str = field(default="", repr=False)
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


@dataclass(frozen=True)
class Fleet:
    """Directors that act as one."""

    directors: tuple[FleetPeer, ...] = ()
    """All of them, this one included, or none."""

    etcd: Etcd | None = None
    """None: every director judges for itself."""


@dataclass(frozen=True)
class Director:
    name: str
    interfaces: tuple[str, ...]
    """Where packets for VIPs arrive."""

    plane: PlaneKind
    runtime_dir: PurePath
    """Sockets and generated files of this instance."""

    api: ApiConfig
    pins: int = 1 << 17
    """Flows that are remembered at once, at most; 0: none are, and every change is at once and for all packets."""

    state_dir: PurePath = STATE_DIR
    """What outlives a restart of the machine."""

    drain_on_stop_s: float = 0.0
    """How long a director that is to end waits at most until routers have taken other ways."""

    least_path_mtu: int = 552
    """Routers that say less of an IPv4 way to a member are not believed, bytes."""
    restart_grace_s: float = 30.0
    """For how long routes stay at most while a process that has ended is followed by another one."""

    role: Role = Role.DIRECTOR
    outer_source_prefixes: tuple[IPNetwork, ...] = ()
    """For OuterSource.PREFIX; one of each family at most. They are routed to this director alone."""


@dataclass(frozen=True)
class DoctorConfig:
    """When the doctor looks at members by itself, and whom it asks for their own view."""

    interval_s: float = 600.0
    """Between two runs by schedule; 0: there are none."""

    on_change: bool = True
    """Whether members that are added or turn are looked at."""

    agent_port: int = 7118
    """Where members' agents listen."""

    agent_secret: bytes | None = field(default=None, repr=False)
    """That agents know; None: members have none."""


@dataclass(frozen=True)
class Config:
    """Everything an operator has written down, checked and resolved."""

    director: Director
    secret: bytes = field(repr=False)
    """The fleet's hash key, at least 16 bytes."""

    bgp: BgpConfig | None
    services: tuple[VirtualService, ...]
    fleet: Fleet = Fleet()
    connection_log: ConnectionLog = ConnectionLog()
    doctor: DoctorConfig = DoctorConfig()
    proxies: tuple[Proxy, ...] = ()
    tier2: Tier2 | None = None
    """None: this is no node of the second tier."""

    source: str = ""
    """Where it was read from, for people."""

    digest: str = ""
    """Hash of the text: equal means nothing to do on reload."""

    @cached_property
    def pools(self) -> tuple[Pool, ...]:
        """Pools in use, each once, in the order of first use; behind them those that were in use before."""
        used = {service.pool.name: service.pool for service in self.services}
        return tuple((used | {pool.name: used.get(pool.name, pool) for pool in self._former}).values())

    @property
    def _former(self) -> Iterator[Pool]:
        return (pool for service in self.services for pool in service.former)

    @property
    def myself(self) -> FleetPeer | None:
        """This director, as the others of the fleet know it; None without a fleet."""
        return next((peer for peer in self.fleet.directors if peer.name == self.director.name), None)
