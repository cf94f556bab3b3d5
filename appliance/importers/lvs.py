"""What keepalived and ipvsadm have in common: virtual services of the kernel's IPVS. Pure.

Names of schedulers and flags are those of ipvsadm(8).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from appliance.config.problems import BadValueError
from appliance.importers.base import Grade, Node, Report
from appliance.importers.document import Draft, Table, Value
from appliance.model import IPAddress

MAX_RATIO = 1000
MAX_CONNECTIONS = 1 << 24
COUNTING = ("least_connections", "fewest_servers")
"""Algorithms that keep max_connections."""

IDLE_TIMEOUT_S = {"tcp": 900, "udp": 300}
"""IPVS's own (net/netfilter/ipvs/ip_vs_proto_tcp.c, ip_vs_proto_udp.c), where nothing else is set."""

IDLE_LIMITS_S = {"tcp": (5, 14400), "udp": (2, 3600)}


class Method(Enum):
    """How IPVS gets packets to a real server; the value is our DSR type and encapsulation."""

    NAT = "nat"
    ROUTE = "l2"
    IPIP = "ipip"
    GRE = "gre"
    GUE = "gue"


@dataclass(frozen=True)
class Scheduler:
    """What an IPVS scheduler is here."""

    algorithm: str
    weighted: bool = True
    difference: str = ""
    """What is not the same; empty: it is the same."""


_HASH = "consistent_hash"
SCHEDULERS: Mapping[str, Scheduler] = {
    "rr": Scheduler("round_robin", weighted=False),
    "wrr": Scheduler("round_robin"),
    "lc": Scheduler("least_connections", weighted=False),
    "wlc": Scheduler("least_connections"),
    "sed": Scheduler("least_connections", difference="connections are divided by weights, without the one that comes"),
    "nq": Scheduler("least_connections", difference="idle members do not come first"),
    "twos": Scheduler("least_connections", difference="of all members the one with the fewest connections, not of two"),
    "sh": Scheduler(_HASH),
    "mh": Scheduler(_HASH),
    "dh": Scheduler(_HASH, difference="flows are spread by the client's address, not by the destination's"),
    "lblc": Scheduler(_HASH, difference="flows are spread by the client's address, not by the destination's"),
    "lblcr": Scheduler(_HASH, difference="flows are spread by the client's address, not by the destination's"),
    "fo": Scheduler("fewest_servers", difference="more members are used when the first ones are full"),
    "ovf": Scheduler("fewest_servers", difference="members have their weights as max_connections"),
}


FLAGS_BY_NUMBER = {"flag-1": "fallback", "flag-2": "port"}


def lost_real(report: Report, node: Node, error: BadValueError) -> None:
    """Tell of a real server whose address nothing can be sent to, and do without it."""
    report.left_out(
        node,
        f"{error.message}; this member is left out",
        "write a [[pool.member]] with the address at which the network reaches the server; a server on the director "
        "itself has to move to another machine",
    )


@dataclass
class Real:
    """A real server."""

    node: Node
    address: IPAddress
    port: int | None
    method: Method
    weight: int = 1
    weight_node: Node | None = None
    most: int = 0
    """Connections that it takes at once; 0 is no limit."""

    most_node: Node | None = None


@dataclass
class Virtual:
    """A virtual service: addresses that have the same ports, and real servers."""

    node: Node
    name: str
    where: str
    """For the comment above the tables."""

    listens: Sequence[tuple[Sequence[IPAddress], Sequence[int]]]
    """VIPs and their ports; port 0 is every port."""

    protocol: str
    """`tcp` or `udp`."""

    method: Method | None = None
    """What real servers have that say nothing else; None: they all say it."""

    scheduler: str = "wlc"
    scheduler_node: Node | None = None
    flags: list[tuple[str, Node]] = field(default_factory=list)
    persistent: Node | None = None
    per_packet: Node | None = None
    reals: list[Real] = field(default_factory=list)
    monitors: Sequence[str] = ()
    quorum: int = 1
    """The weight of members that it takes."""

    quorum_node: Node | None = None
    idle_timeout_s: int | None = None


def add(draft: Draft, report: Report, virtual: Virtual) -> None:
    """Put a virtual service with its pool into the draft, and tell what becomes different."""
    reals = _one_for_each_address(report, virtual)
    if not reals:
        report.left_out(
            virtual.node,
            "it has no real servers that could be imported, and a pool without members cannot be",
            "write it with its members",
        )
        return
    method = _method(virtual, reals)
    enabled = method is not Method.NAT
    if not enabled:
        method = Method.IPIP
        report.about(
            Grade.CHANGED,
            virtual.node,
            "NAT has no equivalent: packets reach members unchanged, and replies do not come back; imported as L3 DSR, "
            "IP in IP, and not enabled",
            "give the members the VIP on their loopback and take packets out of the tunnel there, then set "
            'enabled = true; members on a segment of the director can have dsr.type = "l2"',
        )
    settings = _pool_settings(report, virtual)
    ports = {port for _, group in virtual.listens for port in group}
    _tell_ports(report, reals, ports)
    members = _members(report, virtual, reals, method if enabled else Method.NAT, settings)
    pool = draft.pool(virtual.name, settings, members, [f"From {virtual.where}."])
    profile = _profile(draft, report, virtual, method)
    usual = (method,) if enabled else (Method.NAT,)
    for i, (vips, group) in enumerate(virtual.listens):
        values: dict[str, Value] = {
            "vips": [str(vip) for vip in vips],
            "ports": ["*"] if 0 in group else list(group),
            "network_profile": profile,
            "pool": pool,
        }
        if not enabled:
            values["enabled"] = False
        wanted = _min_members(report if i == 0 else None, virtual, [real for real in reals if real.method in usual])
        if wanted > 1:
            values["min_members"] = wanted
        draft.service(virtual.name, values, [f"From {virtual.where}."])


def _one_for_each_address(report: Report, virtual: Virtual) -> list[Real]:
    found: dict[IPAddress, Real] = {}
    vips = {vip for group, _ in virtual.listens for vip in group}
    for real in virtual.reals:
        if real.address in vips:
            report.left_out(
                real.node,
                f"{real.address} is the VIP itself, which is the director's own in IPVS; this member is left out",
                "have the server on another machine, and write a [[pool.member]] with its own address",
            )
            continue
        if (first := found.get(real.address)) is None:
            found[real.address] = real
            continue
        report.left_out(
            real.node,
            f"{real.address} is a member already ({first.node.place}), and there is no port translation to tell two "
            "of one address apart",
            "give the second server an address of its own",
        )
    return list(found.values())


def _method(virtual: Virtual, reals: Sequence[Real]) -> Method:
    """The method of most real servers, of several that of the virtual service; NAT only where all have it."""
    counted = Counter(real.method for real in reals if real.method is not Method.NAT)
    if not counted:
        return Method.NAT
    return max(counted, key=lambda method: (counted[method], method is virtual.method))


def _pool_settings(report: Report, virtual: Virtual) -> dict[str, Value]:
    scheduler = SCHEDULERS.get(virtual.scheduler)
    node = virtual.scheduler_node or virtual.node
    if scheduler is None:
        report.about(
            Grade.CHANGED,
            node,
            f"there is no scheduler like {virtual.scheduler}; imported as consistent_hash",
            "choose an algorithm",
        )
        scheduler = Scheduler(_HASH)
    elif scheduler.difference:
        report.about(Grade.CHANGED, node, f"imported as {scheduler.algorithm}: {scheduler.difference}")
    by_port = False
    for name, flag in virtual.flags:
        full = f"{virtual.scheduler}-{FLAGS_BY_NUMBER[name]}" if name in FLAGS_BY_NUMBER else name
        hashes = virtual.scheduler in ("sh", "mh")
        if hashes and full == f"{virtual.scheduler}-fallback":
            report.ignored(flag, "consistent_hash always takes another member when one is down")
        elif not hashes or full != f"{virtual.scheduler}-port":
            report.lost(flag, f"the flag {name} of {virtual.scheduler} has no equivalent")
        elif virtual.persistent is not None:
            report.ignored(flag, "persistence goes by the client's address alone")
        else:
            flag.use()
            by_port = True
    if virtual.persistent is not None:
        if scheduler.algorithm != _HASH:
            report.changed(
                virtual.persistent,
                f"clients stay with their member by consistent_hash of their address, instead of {virtual.scheduler} "
                "and a table; there is no time-out",
            )
        else:
            report.changed(virtual.persistent, "clients stay with their member by their address; there is no time-out")
    settings: dict[str, Value] = {}
    if scheduler.algorithm == _HASH or virtual.persistent is not None:
        settings["algorithm"] = _HASH
        settings["hash"] = "source_ip_port" if by_port else "source_ip"
    else:
        settings["algorithm"] = scheduler.algorithm
    if virtual.monitors:
        settings["health_monitors"] = list(virtual.monitors)
    return settings


def _tell_ports(report: Report, reals: Sequence[Real], ports: set[int]) -> None:
    for real in reals:
        if real.port is not None and real.port not in ports and 0 not in ports:
            there = ", ".join(map(str, sorted(ports)))
            report.about(
                Grade.LOST,
                real.node,
                f"it listens on port {real.port}, and packets come to port {there}: ports are not translated",
                f"have the server listen on {there}",
            )


def _members(
    report: Report, virtual: Virtual, reals: Sequence[Real], method: Method, settings: Mapping[str, Value]
) -> list[Table]:
    scheduler = SCHEDULERS.get(virtual.scheduler, Scheduler(_HASH))
    counts = settings["algorithm"] in COUNTING
    heaviest = max(real.weight for real in reals)
    members = []
    for real in reals:
        values: dict[str, Value] = {"address": str(real.address)}
        ratio, weight = real.weight, real.weight_node or real.node
        if heaviest > MAX_RATIO and ratio:
            ratio = max(1, round(ratio * MAX_RATIO / heaviest))
            report.about(
                Grade.CHANGED, weight, f"weights go up to {MAX_RATIO}: ratio {ratio}, in proportion to the others"
            )
        if not scheduler.weighted and ratio > 1:
            report.about(Grade.IGNORED, weight, f"{virtual.scheduler} does not look at weights")
            ratio = 1
        if heaviest == 0:  # a pool in which nobody has a share is refused
            values["enabled"] = False
            report.about(Grade.CHANGED, weight, "all weights are 0: its ratio is 1, and it is not enabled")
        elif ratio != 1:
            values["ratio"] = ratio
        if real.method is not method and method is not Method.NAT:
            values["enabled"] = False
            report.about(
                Grade.CHANGED,
                real.node,
                f"its method is {real.method.value}, that of the virtual service {method.value}, and all members of a "
                "virtual service get packets in the same way: it is not enabled",
                "prepare the server for that way and set enabled = true, or give it a virtual service of its own",
            )
        most = real.weight if virtual.scheduler == "ovf" else real.most
        if real.most and real.most_node is not None and not counts:
            algorithm = settings["algorithm"]
            report.lost(real.most_node, f"{algorithm} counts no connections", "use least_connections")
        elif most:
            values["max_connections"] = min(most, MAX_CONNECTIONS)
        members.append(Table("pool.member", values, [f"From {real.node.place}: {real.node.text}"]))
    return members


def _profile(draft: Draft, report: Report, virtual: Virtual, method: Method) -> str:
    timeout = virtual.idle_timeout_s
    first, last = IDLE_LIMITS_S[virtual.protocol]
    timeout = IDLE_TIMEOUT_S[virtual.protocol] if timeout is None else min(max(timeout, first), last)
    values: dict[str, Value] = {"type": f"{virtual.protocol}_fast_path", "session_idle_timeout": timeout}
    wanted = f"{virtual.protocol}-{method.value}"
    if virtual.per_packet is not None:
        if virtual.protocol == "udp":
            virtual.per_packet.use()
            values["per_packet"] = True
            wanted += "-per-packet"
        else:
            report.lost(virtual.per_packet, "connections of TCP cannot be spread packet by packet", "leave it")
    if method is Method.ROUTE:
        values["dsr"] = {"type": "l2"}
    else:
        values["dsr"] = {"type": "l3", "encapsulation": method.value}
    return draft.profile(wanted, values, f"For {virtual.where}, and others like it.")


def _min_members(report: Report | None, virtual: Virtual, reals: Sequence[Real]) -> int:
    """How many members it takes, whichever they are, for their weights to reach the quorum."""
    weights = sorted(real.weight for real in reals if real.weight)  # without a weight, none is ever in rotation
    total = count = 0
    for weight in weights:
        if total >= virtual.quorum:
            break
        total += weight
        count += 1
    node = virtual.quorum_node
    if report is not None and node is not None:
        if total < virtual.quorum:
            report.changed(node, f"all weights together are {total}; min_members is all {count} members that have one")
        elif set(weights) != {1} and virtual.quorum > 1:
            report.changed(
                node,
                f"a quorum counts weights, min_members counts members: {count}, of which any have a weight of "
                f"{virtual.quorum} together",
            )
        else:
            node.use()
    return max(1, count) if virtual.quorum > 1 else 1
