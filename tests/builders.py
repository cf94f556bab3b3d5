"""Small values for tests: a configuration with one service, next hops, snapshots."""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import PurePosixPath

from appliance.forwarding import NextHop
from appliance.model import (
    Algorithm,
    ApiConfig,
    BgpConfig,
    BgpPeer,
    Config,
    Delivery,
    Director,
    DsrType,
    Encapsulation,
    HashMode,
    Health,
    IPAddress,
    Member,
    MonitorSpec,
    NetworkProfile,
    PlaneKind,
    Pool,
    PortRange,
    ProfileType,
    VirtualService,
)
from appliance.state import IndexAllocator, Snapshot, ways

L2 = Delivery(DsrType.L2, None)
L3 = Delivery(DsrType.L3, Encapsulation.IPIP)
MONITOR = MonitorSpec("ping80", "tcp", 1.0, 1.0, 2, 2, None)
SECRET = b"sixteen byte key"


@dataclass(frozen=True)
class To:
    """A way that leads nowhere: equal where members and deliveries are."""

    member: IPAddress
    delivery: Delivery

    @property
    def name(self) -> str:
        return str(self.delivery)

    @property
    def machine(self):
        return self.member

    def prepare(self, sock, address):
        raise NotImplementedError

    def carrying(self, sock, address, protocol, word, *, half_open=False):
        raise NotImplementedError

    def judge(self, result, target):
        return result


def member(number: int, **changes: object) -> Member:
    values: dict[str, object] = {"name": f"web{number}", "address": ip_address(f"203.0.113.{number}")} | changes
    return Member(**values)  # type: ignore[arg-type]


def pool(*members: Member, name: str = "web", monitors: tuple[MonitorSpec, ...] = (MONITOR,)) -> Pool:
    return Pool(
        name, Algorithm.CONSISTENT_HASH, HashMode.FIVE_TUPLE, members or tuple(map(member, (1, 2, 3))), monitors
    )


def service(**changes: object) -> VirtualService:
    values: dict[str, object] = {
        "name": "web",
        "vips": (ip_address("198.51.100.7"),),
        "ports": (PortRange(80, 80),),
        "profile": NetworkProfile("tcp-l3", ProfileType.TCP_FAST_PATH, L3, 300),
        "pool": pool(),
    } | changes
    return VirtualService(**values)  # type: ignore[arg-type]


def config(*services: VirtualService, bgp: bool = True) -> Config:
    peers = (BgpPeer(ip_address("192.0.2.1"), 65000, 9),)
    return Config(
        director=Director(
            "d1", ("eth1",), PlaneKind.RAW, PurePosixPath("/run/onward"), ApiConfig(ip_address("127.0.0.1"), 0)
        ),
        secret=SECRET,
        bgp=BgpConfig(65010, IPv4Address("192.0.2.11"), peers, next_hop_v6=IPv6Address("2001:db8:1::11"))
        if bgp
        else None,
        services=services or (service(),),
    )


def hop(number: int = 1, **changes: object) -> NextHop:
    values: dict[str, object] = {
        "ifindex": 2,
        "interface": "eth1",
        "source_mac": bytes.fromhex("020000000001"),
        "mac": bytes([2, 0, 0, 0, 1, number]),
        "mtu": 1500,
        "source": ip_address("192.0.2.11"),
        "direct": False,
    } | changes
    return NextHop(**values)  # type: ignore[arg-type]


def snapshot(given: Config | None = None, health: Mapping[str, Health] | None = None, **changes: object) -> Snapshot:
    """Everything well: members up and resolved, the plane forwarding."""
    given = given or config()
    members = [(p.name, m) for p in given.pools for m in p.members]
    values: dict[str, object] = {
        "config": given,
        "health": {f"{p}/{m.name}": Health.UP for p, m in members} | dict(health or {}),
        "next_hops": {m.address: hop(i % 256) for i, (_, m) in enumerate(members)},
        "indices": IndexAllocator().update(ways(given)),
    } | changes
    return Snapshot(**values)  # type: ignore[arg-type]
