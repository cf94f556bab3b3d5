"""The shape of the configuration file. Everything that can be judged by looking at one table is judged here; what takes
two is in `rules`.

`python -m appliance.config.schema` prints the JSON Schema for editors (onward.schema.json).
"""

import json
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from appliance.config import monitors, values
from appliance.model import (
    Algorithm,
    ApiRole,
    Decapsulator,
    DfPolicy,
    DsrType,
    Encapsulation,
    FleetStore,
    HaMode,
    HashMode,
    IPAddress,
    IPNetwork,
    OuterSource,
    PlaneKind,
    PortRange,
    ProfileType,
    Role,
    Step,
    TtlPolicy,
    Vantage,
)
from appliance.passwords import Scrypt


class Parsed:
    """Tells pydantic to read a value with one of the functions of `values`, and editors what it looks like."""

    def __init__(self, parse: Callable[[object], object], schema: Mapping[str, Any]) -> None:
        self.parse = parse
        self.schema = dict(schema)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.parse, serialization=core_schema.to_string_ser_schema(when_used="json")
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        spellings = getattr(self.parse, "spellings", None)
        return self.schema | ({_SPELLINGS: spellings} if spellings is not None else {})


_SPELLINGS = "x-spellings"
"""Where a schema has the pattern of all spellings of a word, until it is known who reads it."""


def _words(*words: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(words)}


_STRING: dict[str, Any] = {"type": "string", "minLength": 1}
_V4: dict[str, Any] = {"type": "string", "format": "ipv4"}
_V6: dict[str, Any] = {"type": "string", "format": "ipv6"}
_IP: dict[str, Any] = {"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}


def _whole(first: int, last: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": first, "maximum": last}


def _number(first: float, last: float) -> dict[str, Any]:
    return {"type": "number", "minimum": first, "maximum": last}


Name = Annotated[str, Parsed(values.name, {"type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}$"})]
Interface = Annotated[
    str, Parsed(values.interface, {"type": "string", "pattern": "^[^\\s/:]{1,15}$", "not": {"const": "lo"}})
]
Text = Annotated[str, Parsed(values.text, _STRING)]
Boolean = Annotated[bool, Parsed(values.boolean, {"type": "boolean"})]
Port = Annotated[int, Parsed(values.port, _whole(1, 65535))]
AnyAddress = Annotated[IPAddress, Parsed(values.any_address, _IP)]
Prefix = Annotated[IPNetwork, Parsed(values.prefix, {"type": "string", "pattern": "^[0-9a-fA-F.:]+(/[0-9]{1,3})?$"})]
SourcePrefix = Annotated[
    IPNetwork, Parsed(values.source_prefix, {"type": "string", "pattern": "^[0-9a-fA-F.:]+/[0-9]{1,3}$"})
]
Unicast = Annotated[IPAddress, Parsed(values.unicast_address, _IP)]
UnicastV4 = Annotated[IPv4Address, Parsed(values.ipv4_address, _V4)]
UnicastV6 = Annotated[IPv6Address, Parsed(values.ipv6_address, _V6)]
AsNumber = Annotated[int, Parsed(values.as_number, _whole(1, 4294967294))]
PortSpec = Annotated[
    PortRange,
    Parsed(
        values.port_range,
        {"anyOf": [_whole(1, 65535), {"type": "string", "pattern": "^(\\*|[0-9]{1,5}\\s*-\\s*[0-9]{1,5})$"}]},
    ),
]
Seconds = Annotated[int, Parsed(values.integer(5, 86400, "a number of seconds"), _whole(5, 86400))]
Tunnel = Annotated[Encapsulation, Parsed(values.encapsulation, _words(*Encapsulation))]
OuterTtl = Annotated[int, Parsed(values.integer(1, 255, "a TTL"), _whole(1, 255))]
Checks = Annotated[int, Parsed(values.integer(1, 50, "a number of checks"), _whole(1, 50))]


class Table(BaseModel):
    """One table of the file: unknown keys are mistakes, values are never bent into shape, and nothing changes later."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class DirectorTable(Table):
    """This instance."""

    name: Name = Field(description="Name of this director in logs, metrics and status.", examples=["d1"])
    interfaces: list[Interface] = Field(
        description="Interfaces on which packets for VIPs arrive.", min_length=1, examples=[["eth1"]]
    )
    role: Annotated[Role, Parsed(values.role, _words(*Role))] = Field(
        default=Role.DIRECTOR,
        description="director: forwards packets of virtual services. tier2: a node of the second tier, which runs the "
        "full proxy of those with traffic = false.",
    )
    plane: Annotated[PlaneKind, Parsed(values.plane, _words(*PlaneKind))] = Field(
        default=PlaneKind.AUTO,
        description="The data plane: xdp, raw, or auto, which is xdp where that works and raw where it does not.",
    )
    pins: Annotated[int, Parsed(values.integer(0, 1 << 22, "a number of flows"), _whole(0, 1 << 22))] = Field(
        default=1 << 17,
        description="Flows that are remembered at once, at most: those of members whose share is changing, and all of "
        "pools whose algorithm decides flow by flow. 0 remembers none, and every change breaks flows.",
    )
    drain_on_stop: Annotated[int, Parsed(values.integer(0, 3600, "a number of seconds"), _whole(0, 3600))] = Field(
        default=0,
        description="Seconds that a director which is to stop (SIGTERM) waits at most until routers have taken other "
        "ways; 0 withdraws its routes at once.",
    )
    least_path_mtu: Annotated[int, Parsed(values.integer(68, 9216, "a number of bytes"), _whole(68, 9216))] = Field(
        default=552,
        description="Routers that say of an IPv4 way to a member that it takes less than so many bytes are not "
        "believed. Where you know your network, the least MTU in it keeps forged ICMP errors from having an effect.",
    )
    outer_source_prefixes: list[SourcePrefix] = Field(
        default=[],
        description="Prefixes for profiles with outer_source = prefix, one of each family at most: /20../30, or IPv6 "
        "/32../120. Routers must route them to this director, and to no other, or errors about its packets get lost.",
        examples=[["198.51.100.64/26", "2001:db8:d::/64"]],
        max_length=2,
    )
    restart_grace: Annotated[int, Parsed(values.integer(0, 300, "a number of seconds"), _whole(0, 300))] = Field(
        default=30,
        description="Seconds that routes stay when the process ends and is to be started again, while its XDP program "
        "forwards on; 0 withdraws them at once. Only under systemd, and only where every interface has the program.",
    )
    runtime_dir: Annotated[PurePosixPath, Parsed(values.runtime_dir, {"type": "string", "pattern": "^/"})] = Field(
        default=PurePosixPath("/run/onward"), description="Folder for sockets and generated files, absolute."
    )
    state_dir: Annotated[PurePosixPath, Parsed(values.state_dir, {"type": "string", "pattern": "^/"})] | None = Field(
        default=None,
        description="Folder for what outlives a restart of the machine (operators' orders, revisions of the "
        "configuration), absolute; /var/lib/onward by default, or a runtime_dir that is another one than the default.",
    )


AbsolutePath = Annotated[str, Parsed(monitors.absolute_path, {"type": "string", "pattern": "^/"})]
ApiRoleName = Annotated[ApiRole, Parsed(values.api_role, _words(*ApiRole))]


class Tier2Table(Table):
    """A node of the second tier."""

    addresses: list[Unicast] = Field(
        description="The node's own addresses, where directors send to: one, or one of each family.",
        min_length=1,
        max_length=2,
        examples=[["203.0.113.31"]],
    )
    sources: list[Prefix] = Field(
        default=[],
        description="Where directors' encapsulated packets come from; the addresses of [[fleet.director]] by default.",
        examples=[["203.0.113.0/28"]],
    )
    decapsulator: Annotated[Decapsulator, Parsed(values.decapsulator, _words(*Decapsulator))] = Field(
        default=Decapsulator.KERNEL,
        description="Who opens tunnels: the kernel's devices, or `onward decap` where the kernel has none.",
    )
    mtu: Annotated[int, Parsed(values.integer(1280, 65535, "an MTU"), _whole(1280, 65535))] = Field(
        default=1500, description="Largest packet on the way from directors to the node, bytes."
    )
    drain_timeout: Annotated[int, Parsed(values.integer(0, 86400, "a number of seconds"), _whole(0, 86400))] = Field(
        default=300, description="Seconds that a node which is to end waits for its connections at most."
    )
    haproxy: Text = Field(default="haproxy", description="The program of the full proxy.")


class ApiUserTable(Table):
    """Somebody who can log in."""

    name: Name = Field(
        description="Name to log in with; with client_ca_file, the common name of a certificate.", examples=["alice"]
    )
    role: ApiRoleName = Field(
        description="viewer: looks; operator: drains, weighs and reloads, too; admin: changes the configuration, too.",
        examples=["viewer"],
    )
    password_hash: (
        Annotated[Scrypt, Parsed(values.password_hash, {"type": "string", "pattern": "^[$]scrypt[$]"})] | None
    ) = Field(default=None, description="From `onward api hash-password`; without it only a certificate will do.")


class ApiTokenTable(Table):
    """A program that may ask, by a bearer token."""

    name: Name = Field(description="What the log calls it.", examples=["prometheus"])
    role: ApiRoleName = Field(description="As for users.", examples=["viewer"])
    token_hash: (
        Annotated[str, Parsed(values.token_hash, {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"})] | None
    ) = Field(default=None, description="From `onward api new-token`.")
    token_file: Annotated[str, Parsed(values.path, _STRING)] | None = Field(
        default=None, description="File with the token, instead. Relative to the configuration file."
    )


class ApiTable(Table):
    """Where the HTTP API, the page and the metrics listen, and who may do what there. Without anybody, all on this
    machine may look."""

    address: AnyAddress = Field(
        default=IPv4Address("127.0.0.1"),
        description="Address to listen on; one off loopback takes TLS and somebody who can log in.",
    )
    port: Port = Field(default=8080, description="TCP port to listen on.")
    tls_cert_file: AbsolutePath | None = Field(default=None, description="Our own certificate: HTTPS.")
    tls_key_file: AbsolutePath | None = Field(default=None, description="Its key, where tls_cert_file has it not.")
    client_ca_file: AbsolutePath | None = Field(
        default=None,
        description="Certificates that clients' certificates come from: who has one is the user of its common name.",
    )
    user: list[ApiUserTable] = Field(default=[], description="Who can log in.", max_length=256)
    token: list[ApiTokenTable] = Field(default=[], description="Programs that may ask.", max_length=256)


class DoctorTable(Table):
    """When the doctor looks at members by itself, and how it asks them."""

    interval: Annotated[int, Parsed(values.doctor_interval, _whole(0, 86400))] = Field(
        default=600, description="Seconds between two runs by schedule, from 30; 0 is never."
    )
    on_change: Boolean = Field(default=True, description="Whether members that are added or turn are looked at.")
    agent_port: Port = Field(default=7118, description="TCP port where `onward agent` listens on members.")
    agent_secret_file: Annotated[str, Parsed(values.path, _STRING)] | None = Field(
        default=None,
        description="File with the secret that agents know, at least 16 bytes; without, members are not asked. "
        "Relative to the configuration file.",
    )


class FleetDirectorTable(Table):
    """A director of the fleet."""

    name: Name = Field(description="Its director.name.", examples=["d1"])
    address: Unicast = Field(
        description="Its address for other directors, best on a network of their own.", examples=["192.0.2.11"]
    )
    port: Port = Field(default=7117, description="UDP port on which it hears of remembered flows.")


class ConnectionLogTable(Table):
    """Flows that are written down when they are over: a sample of all, by their hash, the same on every director."""

    one_of: Annotated[int, Parsed(values.integer(0, 1_000_000_000, "a number of flows"), _whole(0, 1_000_000_000))] = (
        Field(default=0, description="One of so many flows is logged; 1 logs all, as far as there is room; 0 none.")
    )
    file: AbsolutePath | None = Field(
        default=None, description="File to append JSON lines to; events in the director's own log by default."
    )


class EtcdTable(Table):
    """An etcd cluster that the fleet agrees by."""

    endpoints: list[Annotated[str, Parsed(values.http_url, {"type": "string", "pattern": "^https?://"})]] = Field(
        description="Client addresses of its nodes.", min_length=1, examples=[["http://192.0.2.21:2379"]]
    )
    prefix: Annotated[str, Parsed(values.path, _STRING)] = Field(
        default="/onward/", description="What all keys of this fleet begin with."
    )
    user: Text | None = Field(default=None, description="User name; none without one.")
    password_file: Annotated[str, Parsed(values.path, _STRING)] | None = Field(
        default=None, description="File with the password. Relative to the configuration file."
    )
    ca_file: AbsolutePath | None = Field(
        default=None, description="Certificates that the nodes' certificates must come from; the system's by default."
    )
    cert_file: AbsolutePath | None = Field(default=None, description="Our own certificate.")
    key_file: AbsolutePath | None = Field(default=None, description="The key of our own certificate.")


class FleetTable(Table):
    """What all directors that share VIPs have in common."""

    director: list[FleetDirectorTable] = Field(
        default=[], description="All directors of the fleet, this one included: they tell each other of flows."
    )
    store: Annotated[FleetStore, Parsed(values.fleet_store, _words("none", "etcd"))] = Field(
        default=FleetStore.NONE,
        description="etcd: directors agree on the health of members; none: each judges for itself.",
    )
    etcd: EtcdTable | None = Field(default=None, description='The cluster of store = "etcd".')
    secret_file: Annotated[str, Parsed(values.path, _STRING)] = Field(
        description="File with the key of the flow hash, at least 16 bytes, the same on every director. "
        "Relative to the configuration file.",
        examples=["/etc/onward/fleet.key"],
    )


class BfdTable(Table):
    """Bidirectional forwarding detection with a router: both sides know at once when the other one is gone."""

    interval: Annotated[float, Parsed(values.bfd_interval, _number(0.05, 10))] = Field(
        default=values.BFD_INTERVAL_S,
        description="Seconds between two packets, in each direction, unless the router wants more.",
    )
    multiplier: Annotated[int, Parsed(values.bfd_multiplier, _whole(1, 255))] = Field(
        default=values.BFD_MULTIPLIER, description="Intervals without a packet after which the other side is gone."
    )
    multihop: Boolean = Field(
        default=False, description="The router is not on a segment of the director (RFC 5883, UDP port 4784)."
    )
    passive: Boolean = Field(default=False, description="Say nothing before the router has.")


class PeerTable(Table):
    """One BGP neighbour."""

    address: Unicast = Field(description="Address of the router.", examples=["192.0.2.1"])
    remote_as: AsNumber = Field(description="AS number of the router.", examples=[65000])
    hold_time: Annotated[int, Parsed(values.hold_time, {"anyOf": [{"const": 0}, _whole(3, 65535)]})] = Field(
        default=values.HOLD_TIME_S,
        description="Seconds without a message until the session counts as lost; 0 is never.",
    )
    local_address: Unicast | None = Field(default=None, description="Our address for the session.")
    password: Annotated[str, Parsed(values.password, _STRING)] | None = Field(
        default=None, description="TCP MD5 key of the session (RFC 2385)."
    )
    password_file: Annotated[str, Parsed(values.path, _STRING)] | None = Field(
        default=None, description="File with that key, instead. Relative to the configuration file."
    )
    labels: list[Name] = Field(
        default=[], description="What virtual services choose peers by.", examples=[["edge"]], max_length=128
    )
    port: Port = Field(
        default=179, description="TCP port where the router listens; of a passive session, where the director does."
    )
    passive: Boolean = Field(
        default=False, description="Have the router connect; needs local_address, excludes ttl_security."
    )
    multihop: Annotated[int, Parsed(values.hops, _whole(1, 255))] | None = Field(
        default=None, description="TTL of our packets: the router may be so many hops away."
    )
    ttl_security: Annotated[int, Parsed(values.hops, _whole(1, 255))] | None = Field(
        default=None,
        description="Refuse packets from farther than so many hops away (GTSM, RFC 5082); the router needs the same.",
    )
    next_hop_v4: UnicastV4 | None = Field(
        default=None, description="Next hop of IPv4 VIPs for this router; that of [bgp] by default."
    )
    next_hop_v6: UnicastV6 | None = Field(
        default=None, description="Next hop of IPv6 VIPs for this router; that of [bgp] by default."
    )
    next_hop_self: Boolean = Field(
        default=False, description="Take the session's own address as the next hop, whatever [bgp] says."
    )
    bfd: BfdTable | None = Field(
        default=None, description="Have BFD tell when the router is gone; the router needs it for its own part."
    )


class BgpTable(Table):
    """How VIPs are announced. Without this table nothing is announced."""

    local_as: AsNumber = Field(description="Our AS number.", examples=[65010])
    router_id: UnicastV4 = Field(
        description="Our BGP identifier: an IPv4 address that no other router uses.", examples=["192.0.2.11"]
    )
    next_hop_v4: UnicastV4 | None = Field(
        default=None, description="Next hop of IPv4 VIPs; the session's own address by default."
    )
    next_hop_v6: UnicastV6 | None = Field(
        default=None, description="Next hop of IPv6 VIPs; the session's own address by default."
    )
    hold_down: Annotated[int, Parsed(values.integer(0, 3600, "a number of seconds"), _whole(0, 3600))] = Field(
        default=10,
        description="Seconds that a VIP which was withdrawn 3 times in a minute must be well before it is announced "
        "again; 0 announces it at once.",
    )
    peer: list[PeerTable] = Field(
        description="The routers.", min_length=1, examples=[[{"address": "192.0.2.1", "remote_as": 65000}]]
    )


class DsrTable(Table):
    """How a packet gets to a member unchanged."""

    type: Annotated[DsrType, Parsed(values.dsr_type, _words("l3", "l2"))] = Field(
        default=DsrType.L3,
        validation_alias=AliasChoices("type", "dsr_type"),
        description="l3: inside another IP packet; l2: by MAC address, members on a segment of the director.",
    )
    encapsulation: Tunnel | None = Field(
        default=None,
        validation_alias=AliasChoices("encapsulation", "dsr_encap_type"),
        description="The tunnel of l3; ipip by default. gre takes 4 bytes more; gue takes 12 more and is UDP, so that "
        "routers and network cards that go by ports spread flows.",
    )
    outer_df: Annotated[DfPolicy, Parsed(values.outer_df, _words(*DfPolicy))] | None = Field(
        default=None,
        description="l3 only: whether an outer IPv4 header has the inner packet's DF, or never, so that routers on the "
        "way may fragment. copy_inner by default.",
    )
    outer_ttl: OuterTtl | None = Field(
        default=None, description="l3 only: TTL or hop limit of the outer header; 64 by default."
    )
    outer_source: Annotated[OuterSource, Parsed(values.outer_source, _words(*OuterSource))] | None = Field(
        default=None,
        description="l3 only: the outer header's source. interface, the default: the address of the interface; prefix: "
        "an address of director.outer_source_prefixes for each flow, so that members' receive queues share flows.",
    )


class ProfileTable(Table):
    """What is balanced, and how it is delivered."""

    name: Name = Field(description="What virtual services call it.", examples=["tcp-l3"])
    type: Annotated[ProfileType, Parsed(values.profile_type, _words(*ProfileType))] = Field(
        description="TCP or UDP; or a full proxy, on nodes of the second tier.", examples=["tcp_fast_path"]
    )
    session_idle_timeout: (
        Annotated[int, Parsed(values.integer(0, 14400, "a number of seconds"), _whole(0, 14400))] | None
    ) = Field(
        default=None,
        description="Seconds without a packet until a flow counts as over. TCP: 5..14400, or 0 for never; 300 by "
        "default. UDP: 2..3600; 10 by default.",
    )
    per_packet: Boolean = Field(
        default=False,
        validation_alias=AliasChoices("per_packet", "per_pkt_loadbalance"),
        description="udp_fast_path only: every datagram is a new decision.",
    )
    ttl: Annotated[TtlPolicy, Parsed(values.ttl, _words("router", "transparent"))] | None = Field(
        default=None,
        description="l3 only: router takes one off the inner packet's TTL, transparent leaves it. router by default.",
    )
    http: Boolean = Field(default=False, description="tcp_proxy only: the proxy reads HTTP, and not just bytes.")
    dsr: DsrTable = Field(default=DsrTable(), description="Type and encapsulation of direct server return.")


HttpCode = Annotated[
    tuple[int, int],
    Parsed(
        monitors.http_codes,
        {"anyOf": [_whole(100, 599), {"type": "string", "pattern": "^([1-5][xX]{2}|[0-9]{3}\\s*-\\s*[0-9]{3}|any)$"}]},
    ),
]


class MonitorTable(Table):
    """One kind of question asked of members. Keys that only some kinds have say which."""

    name: Name = Field(description="What pools call it.", examples=["web"])
    type: Annotated[monitors.Kind, Parsed(monitors.kind, _words(*monitors.Kind))] = Field(
        description="tcp: a connection, and what it answers; udp: a datagram, and what it answers; ping: an ICMP echo; "
        "http, https: a request, its status and body; dns: a question and its answer; tls: a handshake, and how long "
        "the certificate lasts; grpc: the standard health service; external: a command's exit status.",
        examples=["tcp"],
    )
    send_interval: Annotated[float, Parsed(values.seconds(0.1, 3600), _number(0.1, 3600))] = Field(
        default=10.0, description="Seconds between two checks."
    )
    receive_timeout: Annotated[float, Parsed(values.seconds(0.05, 2400), _number(0.05, 2400))] | None = Field(
        default=None,
        description="Seconds until a check has failed; less than send_interval. 4 by default, or 0.8 of send_interval "
        "where that is less.",
    )
    successful_checks: Checks = Field(default=2, description="Good checks in a row until a member is up.")
    failed_checks: Checks = Field(default=2, description="Bad checks in a row until a member is down.")
    monitor_port: Port | None = Field(
        default=None, description="Port to ask; the first one of the virtual service by default. Not for ping."
    )
    vantage: Annotated[Vantage, Parsed(monitors.vantage, _words(*Vantage))] | None = Field(
        default=None,
        description="Not for external. path: ask the VIP through the member's own DSR mode, as clients' packets go, on "
        "all ports of the virtual service; direct: ask the member's own address; both: the path decides, and the own "
        "address helps to tell why. By default path, and direct where the virtual service has not the monitor_port.",
    )
    quick_start: Boolean = Field(
        default=True,
        description="Whether the first checks of a member follow each other quickly, until there is a verdict.",
    )
    request: Text | None = Field(default=None, description="tcp, udp: what to send.")
    response: Text | None = Field(
        default=None,
        description="tcp, udp, http, https, external: what the answer (the body, the output) must contain; dns: what "
        "one of the records must contain.",
    )
    maintenance_response: Text | None = Field(
        default=None,
        description="tcp, udp, http, https, external: an answer with this says that the member is worked on.",
    )
    half_open: Boolean = Field(
        default=False, description="tcp: a SYN and its answer are enough, and the server never hears of it."
    )
    method: Annotated[str, Parsed(monitors.method, _words("GET", "HEAD", "OPTIONS"))] | None = Field(
        default=None, description="http, https: the request's method; GET by default."
    )
    path: Annotated[str, Parsed(monitors.http_path, {"type": "string", "pattern": "^/"})] | None = Field(
        default=None, description="http, https: path and query; / by default."
    )
    host: Annotated[str, Parsed(monitors.host, _STRING)] | None = Field(
        default=None, description="http, https: the Host header; the member's address by default."
    )
    response_codes: list[HttpCode] | None = Field(
        default=None,
        min_length=1,
        description='http, https: status codes that are good: 200, "2xx", "200-204", "any". "2xx" by default.',
        examples=[["2xx"]],
    )
    response_size: Annotated[int, Parsed(monitors.response_size, _whole(*monitors.RESPONSE_SIZES))] | None = Field(
        default=None, description="http, https: bytes of the body that are searched; 2048 by default."
    )
    maintenance_codes: list[HttpCode] | None = Field(
        default=None,
        min_length=1,
        max_length=4,
        description="http, https: status codes which say that the member is worked on; 4 at most.",
        examples=[[503]],
    )
    tls: Boolean = Field(default=False, description="grpc: whether to ask within TLS.")
    tls_verify: Boolean = Field(
        default=True, description="https, tls, grpc: whether the member's certificate must be one that we trust."
    )
    ca_file: AbsolutePath | None = Field(
        default=None,
        description="https, tls, grpc: certificates that the member's must come from; the system's by default.",
    )
    server_name: Annotated[str, Parsed(monitors.server_name, _STRING)] | None = Field(
        default=None,
        description="https, tls, grpc: the name that the member is told (SNI) and that its certificate must have; with "
        "https the host's by default, else the member's address.",
    )
    cert_file: AbsolutePath | None = Field(default=None, description="https, tls, grpc: our own certificate.")
    key_file: AbsolutePath | None = Field(
        default=None, description="https, tls, grpc: the key of our own certificate, where cert_file has it not."
    )
    expiry_warning_days: Annotated[int, Parsed(values.integer(0, 3650, "a number of days"), _whole(0, 3650))] | None = (
        Field(
            default=None,
            description="tls: so many days before a certificate ends the status says so; 30 by default. An ended one "
            "is bad.",
        )
    )
    service: Annotated[str, Parsed(monitors.service_name, _STRING)] | None = Field(
        default=None, description="grpc: the service asked about; the server as a whole by default."
    )
    query_name: Annotated[str, Parsed(monitors.dns_name, _STRING)] | None = Field(
        default=None, description="dns, required: the name asked for."
    )
    record_type: Annotated[str, Parsed(monitors.record_type, _words(*monitors.RECORD_TYPES))] | None = Field(
        default=None, description="dns: the type of record asked for; A by default."
    )
    transport: Annotated[monitors.Transport, Parsed(monitors.transport, _words(*monitors.Transport))] | None = Field(
        default=None, description="dns: udp or tcp; udp by default."
    )
    rcode: Annotated[str, Parsed(monitors.rcode, _words(*monitors.RCODES))] | None = Field(
        default=None, description="dns: the expected result; NOERROR by default."
    )
    qtype: Annotated[monitors.Wanted, Parsed(monitors.wanted, _words(*monitors.Wanted))] | None = Field(
        default=None,
        description="dns: what an answer must have: query_type, a record of the type asked for; any_type, any record; "
        "any_thing, nothing. query_type by default.",
    )
    command: (
        Annotated[
            tuple[str, ...], Parsed(monitors.command, {"type": "array", "items": {"type": "string"}, "minItems": 1})
        ]
        | None
    ) = Field(
        default=None,
        description="external, required: a program's absolute path, and its arguments. No shell, no PATH.",
    )
    environment: (
        Annotated[
            tuple[tuple[str, str], ...],
            Parsed(monitors.environment, {"type": "object", "additionalProperties": {"type": "string"}}),
        ]
        | None
    ) = Field(
        default=None,
        description="external: variables for the command. IP, PORT and MEMBER are set for it, and nothing else.",
    )
    exit_status: Annotated[int, Parsed(values.integer(0, 255, "an exit status"), _whole(0, 255))] | None = Field(
        default=None, description="external: the exit status of a member that is well; 0 by default."
    )


class MemberTable(Table):
    """One address in a pool."""

    name: Name | None = Field(default=None, description="Name of the member; its address by default.")
    address: Unicast = Field(
        description="The member's own address, where packets are delivered.", examples=["203.0.113.21"]
    )
    ratio: Annotated[int, Parsed(values.integer(0, 1000, "a ratio"), _whole(0, 1000))] = Field(
        default=1, description="Share of the flows relative to the other members; 0 takes none."
    )
    enabled: Boolean = Field(
        default=True, description="Whether the member takes new flows; without, it keeps those that it has."
    )
    max_connections: Annotated[
        int, Parsed(values.integer(0, 1 << 24, "a number of connections"), _whole(0, 1 << 24))
    ] = Field(
        default=0,
        description="Flows that it can take at once, for least_connections and fewest_servers; 0 is no limit.",
    )
    load_port: Port | None = Field(
        default=None, description="TCP port where an agent tells how much of it is free, for least_load."
    )
    server_id: (
        Annotated[bytes, Parsed(values.server_id, {"type": "string", "pattern": "^([0-9A-Fa-f]{2}:?){1,15}$"})] | None
    ) = Field(
        default=None,
        description="Its name in QUIC's connection IDs, hexadecimal. By default it follows from the member's name.",
        examples=["0a1b2c3d"],
    )


class QuicTable(Table):
    """How members name themselves in QUIC's connection IDs (draft-ietf-quic-load-balancers): they make new ones by the
    first of these, and all are understood."""

    config_id: Annotated[int, Parsed(values.integer(0, 6, "a config ID"), _whole(0, 6))] = Field(
        description="What connection IDs by this configuration begin with: its name.", examples=[0]
    )
    server_id_length: Annotated[int, Parsed(values.integer(1, 15, "a number of bytes"), _whole(1, 15))] = Field(
        default=4, description="Bytes of a server ID."
    )
    nonce_length: Annotated[int, Parsed(values.integer(4, 18, "a number of bytes"), _whole(4, 18))] = Field(
        default=12,
        description="Bytes that are never the same twice. Both together are at most 19; 16 are encrypted best.",
    )
    key_file: Text | None = Field(
        default=None,
        description="File with the key: 16 bytes as 32 hexadecimal digits. Without it, everybody can read the server "
        "ID, and so tell that connections from two addresses may be one.",
        examples=["quic0.key"],
    )
    encode_length: Boolean = Field(
        default=False,
        description="Whether connection IDs begin with their own length beside the config ID, for devices in front of "
        "members. Those that tell another length name nobody.",
    )


class FollowTable(Table):
    """Where members come from that come and go by themselves."""

    folder: Text | None = Field(
        default=None,
        description="Folder with a file for each member, which nodes of the second tier write and remove.",
        examples=["/var/lib/onward/nodes"],
    )
    dns: Text | None = Field(
        default=None, description="Name whose addresses are the members'.", examples=["nodes.example.com"]
    )
    store: Boolean = Field(
        default=False, description="The fleet's store has them, where nodes of the second tier keep themselves."
    )
    version: Annotated[int, Parsed(values.ip_version, {"enum": [4, 6]})] = Field(
        default=4, description="Which of a member's addresses counts: IPv4 or IPv6."
    )
    interval: Annotated[float, Parsed(values.seconds(0.1, 3600), {"type": "number"})] = Field(
        default=1.0, description="Seconds between two looks."
    )


class PoolTable(Table):
    """Members that do the same work."""

    name: Name = Field(description="What virtual services call it.", examples=["web"])
    algorithm: Annotated[Algorithm, Parsed(values.algorithm, _words(*Algorithm))] = Field(
        validation_alias=AliasChoices("algorithm", "lb_algorithm"),
        default=Algorithm.CONSISTENT_HASH,
        description="How a flow finds its member. All but consistent_hash decide flow by flow: every flow is "
        "remembered, and directors agree on it only as long as they hear each other.",
    )
    hash: Annotated[HashMode, Parsed(values.hash_mode, _words("source_ip", "source_ip_port", "five_tuple"))] | None = (
        Field(
            default=None,
            validation_alias=AliasChoices("hash", "lb_algorithm_hash"),
            description="What of a flow chooses the member. five_tuple by default, with l2 DSR source_ip. A reload "
            "that changes it sends most flows to other members, at once.",
        )
    )
    health_monitors: list[Text] = Field(
        default=[], description="Names of health monitors; all must be content. None at all: members count as up."
    )
    transition_window: Seconds = Field(
        default=900,
        description="Seconds that a TCP flow from before a change of members may be silent and is still found.",
    )
    transition_quiet: Seconds = Field(
        default=300,
        description="Seconds without a packet for the members from before a change after which the window closes; "
        "not in a fleet, whose windows all end with transition_window.",
    )
    drain_timeout: Annotated[int, Parsed(values.integer(0, 432000, "a number of seconds"), _whole(0, 432000))] = Field(
        default=0,
        description="Seconds until what is left of a draining member's flows is cut; 0 is never.",
    )
    slow_start: Annotated[int, Parsed(values.integer(0, 18000, "a number of seconds"), _whole(0, 18000))] = Field(
        default=0,
        description="Seconds that a member which comes into rotation takes to get its whole share; 0 is at once.",
    )
    panic_percent: Annotated[int, Parsed(values.integer(0, 100, "a percentage"), _whole(0, 100))] = Field(
        default=0,
        description="With more than so many percent of its members down at once, the pool stays as it was and says so: "
        "mostly the monitor is what broke. 0 is never.",
    )
    passive: Boolean = Field(
        default=False,
        description="Whether clients' handshakes are watched, so that the doctor finds members that are not like the "
        "others; of TCP.",
    )
    passive_share: Annotated[float, Parsed(values.share, _number(0.0001, 1))] = Field(
        default=values.PASSIVE_SHARE, description="What part of the flows is remembered for that."
    )
    passive_weight: Annotated[float, Parsed(values.kept_share, _number(0.05, 1))] = Field(
        default=1,
        description="What part of its share such a member keeps, until five minutes after it was one last; 1 is all of "
        "it: the doctor says so, and that is all. Not in a fleet, whose directors see different clients.",
    )
    min_monitors_up: Annotated[int, Parsed(values.integer(0, 50, "a number of monitors"), _whole(0, 50))] = Field(
        validation_alias=AliasChoices("min_monitors_up", "min_health_monitors_up"),
        default=0,
        description="So many health monitors that say a member is up are enough; 0 is all of them. All ports of the "
        "virtual service must be open in any case, where they are asked.",
    )
    flap_half_life: Annotated[int, Parsed(values.integer(0, 86400, "a number of seconds"), _whole(0, 86400))] = Field(
        default=300,
        description="A member that goes down gets a penalty of 1000, which halves in so many seconds. 0: members that "
        "come and go are taken as they are.",
    )
    flap_suppress: Annotated[int, Parsed(values.integer(1, 100000, "a penalty"), _whole(1, 100000))] = Field(
        default=2500,
        description="A member with a higher penalty takes no new flows, and keeps those that it has. 2500 is reached "
        "by going down three times within a minute or so, and not by a restart.",
    )
    flap_reuse: Annotated[int, Parsed(values.integer(1, 100000, "a penalty"), _whole(1, 100000))] = Field(
        default=1000, description="It takes new flows again when its penalty has fallen below this."
    )
    quic: list[QuicTable] = Field(
        default=[],
        description="UDP services of the pool carry QUIC, whose connection IDs name the member.",
        max_length=7,
    )
    follow: FollowTable | None = Field(
        default=None,
        description="Members come and go by themselves. Those that are written down are where it begins: the director "
        "writes down who is there now, and never takes the last one out.",
    )
    member: list[MemberTable] = Field(
        description="The members.", min_length=1, examples=[[{"address": "203.0.113.21"}]]
    )


Community = Annotated[
    str,
    Parsed(
        values.community,
        {
            "type": "string",
            "pattern": "^([0-9]{1,5}:[0-9]{1,5}|no-export|no-advertise|no-export-subconfed|blackhole)$",
        },
    ),
]
_ATTRIBUTE = values.integer(0, 4294967295, "a number of 32 bits")


class StepTable(Table):
    """By how much routes get worse with each rank."""

    med: Annotated[int, Parsed(_ATTRIBUTE, _whole(0, 4294967295))] = Field(
        default=Step().med, description="More MED; routers compare it among directors of one AS."
    )
    local_preference: Annotated[int, Parsed(_ATTRIBUTE, _whole(0, 4294967295))] = Field(
        default=Step().local_preference, description="Less local preference, for peers of our own AS."
    )
    prepend: Annotated[int, Parsed(values.integer(0, 10, "a number of prepends"), _whole(0, 10))] = Field(
        default=Step().prepend,
        description="So many times more our AS in the path, for peers of other ASes: for routers that ignore MED.",
    )


class AnnouncingTable(Table):
    """How routers are told of a virtual service's VIPs; the same for all virtual services of a VIP."""

    peer_labels: list[Name] = Field(
        default=[],
        description="Only peers with one of these labels are told; all are by default.",
        examples=[["edge"]],
        max_length=128,
    )
    med: Annotated[int, Parsed(_ATTRIBUTE, _whole(0, 4294967295))] | None = Field(
        default=None,
        description="Multi-exit discriminator: the less the better, among ways of one neighbouring AS.",
    )
    local_preference: Annotated[int, Parsed(_ATTRIBUTE, _whole(0, 4294967295))] | None = Field(
        default=None,
        description="For peers of our own AS: the more the better. They take 100 by default.",
    )
    prepend: Annotated[int, Parsed(values.integer(0, 10, "a number of prepends"), _whole(0, 10))] = Field(
        default=0,
        description="For peers of other ASes: how many times more our AS stands in the path, to make it longer.",
    )
    communities: list[Community] = Field(
        default=[], description="Communities (RFC 1997).", examples=[["65010:7"]], max_length=16
    )
    standby_communities: list[Community] = Field(
        default=[],
        description="Communities besides, from directors that others come before.",
        examples=[["65010:8"]],
        max_length=16,
    )
    step: StepTable = Field(
        default=StepTable(), description="active_standby, n_plus_m: by how much routes get worse with each rank."
    )
    large_communities: list[
        Annotated[str, Parsed(values.large_community, {"type": "string", "pattern": "^[0-9]+:[0-9]+:[0-9]+$"})]
    ] = Field(default=[], description="Large communities (RFC 8092).", examples=[["4200000010:1:7"]], max_length=16)


Connections = Annotated[int, Parsed(values.integer(1, 1000000, "a number of connections"), _whole(1, 1000000))]


class RateTable(Table):
    """So many new connections a second."""

    rate: Connections = Field(description="New connections a second.", examples=[100])
    burst: Connections | None = Field(
        default=None, description="So many at once, after a while without any; as many as rate by default."
    )


class ProtectionTable(Table):
    """Whose packets a virtual service does not take, and how many new connections. Each director counts for itself."""

    deny: list[Prefix] = Field(
        default=[], description="Clients whose packets are dropped.", examples=[["192.0.2.0/24"]], max_length=65536
    )
    allow: list[Prefix] = Field(
        default=[],
        description="Exceptions from deny: of all prefixes that hold an address, the longest one decides.",
        examples=[["192.0.2.7/32"]],
        max_length=65536,
    )
    per_source: RateTable | None = Field(
        default=None, description="TCP: new connections of one client (an IPv4 address, an IPv6 /64)."
    )
    per_vip: RateTable | None = Field(default=None, description="TCP: new connections to each VIP.")
    per_service: RateTable | None = Field(
        default=None, description="TCP: new connections to all VIPs of the virtual service together."
    )


class ServiceTable(Table):
    """VIPs, a protocol and ports, with a pool."""

    name: Name = Field(description="Name of the virtual service.", examples=["web"])
    vips: list[Unicast] = Field(description="Addresses that clients use.", min_length=1, examples=[["198.51.100.7"]])
    ports: list[PortSpec] = Field(
        description='Ports: numbers, "first-last", or "*" for all. An exact port beats a range, the narrower range '
        "beats the wider.",
        min_length=1,
        examples=[[80, 443]],
    )
    network_profile: Text = Field(description="Name of a network profile.", examples=["tcp-l3"])
    pool: Text = Field(description="Name of a pool.", examples=["web"])
    enabled: Boolean = Field(default=True, description="Whether the virtual service exists on the network.")
    traffic: Boolean = Field(
        default=True,
        validation_alias=AliasChoices("traffic", "traffic_enabled"),
        description="false: the full proxy of the second tier for a virtual service with the same VIPs and ports, "
        "which attracts the traffic. Takes a network profile of type tcp_proxy.",
    )
    server_port: Port | None = Field(
        default=None,
        description="tcp_proxy only: where back ends listen; the port that the client asked for by default.",
    )
    certificate: Text | None = Field(
        default=None,
        description="tcp_proxy only: file with a certificate and its key (PEM). Clients speak TLS then.",
        examples=["/etc/onward/www.pem"],
    )
    ha: Annotated[HaMode, Parsed(values.ha_mode, _words(*HaMode))] = Field(
        default=HaMode.ACTIVE_ACTIVE,
        validation_alias=AliasChoices("ha", "ha_mode"),
        description="How directors share the VIPs. All announce them; routers are to spread flows over all of them "
        "(active_active), to take one and the others in turn when it is gone (active_standby), or to spread them over "
        "some, chosen anew for each VIP, and the others behind them (n_plus_m).",
    )
    prefer: list[Name] = Field(
        default=[],
        description="active_standby: directors that come first, in this order; the others follow as [[fleet.director]] "
        "lists them.",
        examples=[["d2"]],
    )
    primaries: Annotated[int, Parsed(values.primaries, _whole(1, 64))] | None = Field(
        default=None, description="n_plus_m: how many directors take flows, fewer than the fleet has."
    )
    min_members: Annotated[int, Parsed(values.integer(1, 65535, "a number of members"), _whole(1, 65535))] = Field(
        default=1, description="Members in rotation that it takes for the VIPs to be announced."
    )
    advertise_down: Boolean = Field(
        default=False,
        validation_alias=AliasChoices("advertise_down", "advertise_down_vs"),
        description="Announce the VIPs even when too few members are in rotation.",
    )
    needs_all: Boolean = Field(
        default=False,
        description="Announce a VIP only while all its enabled virtual services serve; else while any of them does.",
    )
    bgp: AnnouncingTable = Field(
        default=AnnouncingTable(), description="Whom routers are told of the VIPs, and with which attributes."
    )
    reject_other_ports: Boolean = Field(
        default=False,
        description="Answer packets for ports of the VIPs that no virtual service has (TCP reset, port unreachable), "
        "up to a limit, instead of dropping them in silence. The same in all virtual services of a VIP.",
    )
    arp: Boolean = Field(
        default=False,
        description="Whether a director answers ARP and neighbour solicitations for the VIPs on its interfaces: for a "
        "segment without BGP. In a fleet, with active_standby.",
    )
    protection: ProtectionTable | None = Field(
        default=None, description="Whose packets are not taken, and how many new connections; all are by default."
    )


class File(Table):
    """The whole configuration file of an Onward director."""

    schema_version: Annotated[int, Parsed(values.schema_version, {"const": 1})] = Field(
        description="Version of this format.", examples=[1]
    )
    director: DirectorTable
    api: ApiTable = ApiTable()
    connection_log: ConnectionLogTable = ConnectionLogTable()
    doctor: DoctorTable = DoctorTable()
    tier2: Tier2Table | None = None
    fleet: FleetTable
    bgp: BgpTable | None = None
    network_profile: list[ProfileTable] = []
    health_monitor: list[MonitorTable] = []
    pool: list[PoolTable] = []
    virtual_service: list[ServiceTable] = []


def spellings_of(table: type[BaseModel], name: str) -> list[str]:
    """How a key may be written, the recommended way first."""
    alias = table.model_fields[name].validation_alias
    return [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else [name]


def canonical_schema() -> dict[str, Any]:
    """The JSON Schema of the file in its canonical form; references are names of tables."""
    schema: dict[str, Any] = _without_spellings(File.model_json_schema(ref_template="{model}"))
    return schema


def json_schema() -> str:
    """The JSON Schema of the file, for editors: JSON text with a final line end. The seed system's spellings are in it,
    beside the recommended ones."""
    made = _with_spellings(File.model_json_schema(by_alias=True))
    for table in Table.__subclasses__():
        properties = made["$defs"].get(table.__name__, {}).get("properties", {})
        for name in table.model_fields:
            for other in spellings_of(table, name)[1:]:
                same = {key: value for key, value in properties[name].items() if key not in ("default", "title")}
                properties[other] = same | {"description": f"The same as {name}.", "deprecated": True}
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", **made}
    schema["title"] = "Onward configuration"
    return json.dumps(schema, indent=2) + "\n"


def _without_spellings(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {key: _without_spellings(value) for key, value in schema.items() if key != _SPELLINGS}
    return [_without_spellings(value) for value in schema] if isinstance(schema, list) else schema


def _with_spellings(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_with_spellings(value) for value in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _with_spellings(value) for key, value in schema.items() if key != _SPELLINGS}
    if _SPELLINGS not in schema:
        return made
    recommended = {key: made.pop(key) for key in ("type", "enum")}
    others = {"type": "string", "pattern": schema[_SPELLINGS], "deprecated": True}
    return made | {"anyOf": [recommended, others]}


if __name__ == "__main__":
    print(json_schema(), end="")
