"""What the BGP speaker has to be told. Pure."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from bgp.route import IPAddress, Route

MAX_SOCKET_PATH = 107
"""Bytes that fit into sockaddr_un beside the final zero, unix(7)."""

BGP_PORT = 179

MAX_PASSWORD = 80
"""TCP_MD5SIG_MAXKEYLEN, linux/tcp.h."""


@dataclass(frozen=True)
class Neighbor:
    """A router we have a session with."""

    address: IPAddress
    remote_as: int
    hold_time_s: int = 9
    """0 (no keepalives), or at least 3 (RFC 4271, section 4.2)."""

    local_address: IPAddress | None = None
    """None: the address that the kernel uses towards the router."""

    password: str | None = field(default=None, repr=False)
    """TCP MD5 signature, RFC 2385."""

    multihop: int | None = None
    """TTL of our packets: so many hops they get. None: what the kernel sends otherwise."""

    ttl_security: int | None = None
    """The router is so many hops away at most: packets that come from farther are refused (GTSM, RFC 5082)."""

    passive: bool = False
    """Wait for the router to connect."""

    port: int = BGP_PORT
    """Where the router listens; of a passive session, where we do."""


@dataclass(frozen=True)
class BgpSpeakerConfig:
    """One speaker: who we are, whom we talk to, where files live, how long routes outlive a renewal."""

    local_as: int
    router_id: IPv4Address
    neighbors: tuple[Neighbor, ...]
    runtime_dir: Path
    """Absolute; nobody else may use the files named exabgp.* in it."""

    next_hop_v4: IPv4Address | None = None
    """For routes without a next hop of their own; None: the session's own address."""

    next_hop_v6: IPv6Address | None = None
    lease_s: float = 1.0
    """Routes are withdrawn when the lease was not renewed for this long."""

    linger_s: float = 30.0
    """How long ExaBGP and its sessions (without routes) wait for a speaker that is gone."""

    watchdog_s: float = 3.0
    """An ExaBGP that has not answered for this long is killed; routers then see the connection end."""

    @property
    def socket_path(self) -> Path:
        return self.runtime_dir / "exabgp.sock"

    @property
    def configuration_path(self) -> Path:
        return self.runtime_dir / "exabgp.conf"

    @property
    def pid_path(self) -> Path:
        return self.runtime_dir / "exabgp.pid"

    @property
    def beat_path(self) -> Path:
        """Of a socket: the guard shows there that it lives."""
        return self.runtime_dir / "exabgp.beat"

    @property
    def log_path(self) -> Path:
        """A named pipe."""
        return self.runtime_dir / "exabgp.log"

    def next_hop(self, version: int) -> IPAddress | None:
        return self.next_hop_v4 if version == 4 else self.next_hop_v6


def problems(config: BgpSpeakerConfig, routes: Collection[Route] = ()) -> list[str]:
    """Every reason why *config* cannot work, each with its remedy; empty when it can.

    Args:
        config: what to judge.
        routes: what is to be announced.
    """
    return [
        *_general(config),
        *(text for neighbor in config.neighbors for text in _neighbor(config, neighbor, routes)),
    ]


def _general(config: BgpSpeakerConfig) -> Iterator[str]:
    if not config.neighbors:
        yield "no BGP peers: name at least one"
    if len({neighbor.address for neighbor in config.neighbors}) < len(config.neighbors):
        yield "two BGP peers have the same address: remove one"
    if not 0 < config.local_as < 1 << 32:
        yield f"local AS {config.local_as}: use 1 to 4294967295"
    text = str(config.runtime_dir)
    if not config.runtime_dir.is_absolute() or not text.isprintable() or not text.isascii() or set(text) & set("\"'\\"):
        yield f"runtime directory {text!r}: use an absolute path of plain ASCII without quotes and backslashes"
    if len(str(config.socket_path)) > MAX_SOCKET_PATH:
        yield f"{config.socket_path}: longer than the {MAX_SOCKET_PATH} bytes a socket may have; use a shorter one"
    for name in ("lease_s", "linger_s", "watchdog_s"):
        if getattr(config, name) <= 0:
            yield f"{name} {getattr(config, name)}: must be more than 0 seconds"


def _neighbor(config: BgpSpeakerConfig, neighbor: Neighbor, routes: Collection[Route]) -> Iterator[str]:
    where = f"BGP peer {neighbor.address}"
    if not 0 < neighbor.remote_as < 1 << 32:
        yield f"{where}: remote AS {neighbor.remote_as}: use 1 to 4294967295"
    if neighbor.hold_time_s != 0 and not 3 <= neighbor.hold_time_s <= 65535:
        yield f"{where}: hold time {neighbor.hold_time_s} s: use 0 (never expires) or 3 to 65535"
    if neighbor.local_address is not None and neighbor.local_address.version != neighbor.address.version:
        yield f"{where}: local address {neighbor.local_address} is of the other IP version"
    if neighbor.password is not None:
        if not 0 < len(neighbor.password) <= MAX_PASSWORD:
            yield f"{where}: the password must have 1 to {MAX_PASSWORD} characters"
        if (
            not neighbor.password.isascii()
            or not neighbor.password.isprintable()
            or set(neighbor.password) & set("\"'")
        ):
            yield f"{where}: the password may only have printable ASCII characters, and no quotes"
    if neighbor.multihop is not None and neighbor.ttl_security is not None:
        yield f"{where}: multihop and TTL security exclude each other: leave one out"
    if neighbor.passive and neighbor.ttl_security is not None:
        # ExaBGP sets the TTL of an accepted connection: its SYN-ACK has the kernel's, and the router drops that.
        yield f"{where}: a passive session cannot have TTL security: leave one out"
    for name, value in (("multihop", neighbor.multihop), ("TTL security", neighbor.ttl_security)):
        if value is not None and not 1 <= value <= 255:
            yield f"{where}: {name} {value}: use 1 to 255 hops"
    if not 0 < neighbor.port < 1 << 16:
        yield f"{where}: port {neighbor.port}: use 1 to 65535"
    if neighbor.passive and neighbor.local_address is None:
        yield f"{where}: a passive session needs a local address to listen on; set local_address"
    for version in sorted({route.vip.version for route in routes if _takes_own_address(route, neighbor)}):
        if version != neighbor.address.version and config.next_hop(version) is None:
            # ExaBGP refuses IPv6 over IPv4, and takes the router id, silently, for IPv4 over IPv6.
            yield (
                f"{where}: an IPv{neighbor.address.version} session has no IPv{version} address of ours to send as the"
                f" next hop of IPv{version} routes; set next_hop_v{version}"
            )


def _takes_own_address(route: Route, neighbor: Neighbor) -> bool:
    return route.next_hop is None and route.goes_to(neighbor.address)
