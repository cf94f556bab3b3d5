"""How the parts of a director fit together, as far as it can be said without running any of them. Pure."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, fields, replace

from appliance.config.problems import Finding, Location
from appliance.forwarding import Placement
from appliance.model import (
    BgpConfig,
    Config,
    Delivery,
    Director,
    HashMode,
    Health,
    IPAddress,
    Member,
    MonitorSpec,
    Pool,
    Protocol,
    Vantage,
    VirtualService,
)
from appliance.path.vantage import asks_path, ports_asked
from appliance.ring.algorithms import ALGORITHMS
from bgp.bfd.messages import SessionSettings
from health.load import Agent
from health.monitor import Key, Probe
from health.spec import Target, Verdict
from health.ways import Way

WayTo = Callable[[IPAddress, Delivery], Way]
"""The way to a member's address by a delivery."""

PORTS = {Protocol.TCP: "tcp/port", Protocol.UDP: "udp/port"}
"""What the monitors of single ports are called: no name of a configured one has a slash."""


def probes(config: Config, way: WayTo) -> Iterable[Probe]:
    """What is asked of the enabled members of all pools in use, by all monitors, from all their vantage points.

    At the member's own address every monitor asks its port. Through the path it asks every VIP, and the same port
    there; and since nobody translates ports, every port of the virtual service is asked whether it is open: by a
    half-open connection, or by an empty datagram, to which only an ICMP error is a bad answer. Of a range that is the
    first and the last port; of "*" none.

    Args:
        config: in force.
        way: gives the ways.
    """
    users: dict[str, list[VirtualService]] = {}
    for service in config.services:
        users.setdefault(service.pool.name, []).append(service)
    for service in config.services:
        for pool in service.former:
            users.setdefault(pool.name, []).append(service)
    for pool in config.pools:
        wanted = {
            probe.key: probe
            for member in pool.members
            if member.enabled
            for probe in _probes_of(pool, member, users[pool.name], way)
        }
        yield from wanted.values()


def _probes_of(pool: Pool, member: Member, users: Sequence[VirtualService], way: WayTo) -> Iterable[Probe]:
    member_id = f"{pool.name}/{member.name}"
    asked = set()
    for monitor in pool.monitors:
        services = [service for service in users if asks_path(monitor, service)]
        if not services or monitor.vantage is Vantage.BOTH:
            target = Target(member_id, member.address, monitor.monitor_port or users[0].ports[0].first)
            yield replace(_probe(monitor, target), counts=not services)
        for service in services:
            port = monitor.monitor_port or service.ports[0].first
            ways = way(member.address, service.profile.delivery)
            for vip in service.vips:
                yield _probe(monitor, Target(member_id, vip, port, ways))
            if _opens(monitor, service.protocol):
                asked.add((service.name, port))
    pace = next((monitor for monitor in pool.monitors if any(asks_path(monitor, user) for user in users)), None)
    for service in users:
        ways = way(member.address, service.profile.delivery)
        for port in ports_asked(service.ports):
            if pace is not None and service.enabled and (service.name, port) not in asked:
                for vip in service.vips:
                    yield _port_probe(pace, service.protocol, Target(member_id, vip, port, ways))


def _opens(monitor: MonitorSpec, protocol: Protocol) -> bool:
    """Whether a monitor's own question tells all that the one for single ports would."""
    settings = dict(monitor.settings)
    if protocol is Protocol.TCP:
        return bool(settings.get("half_open"))
    return monitor.kind == "udp" or (monitor.kind == "dns" and settings.get("transport") != "tcp")


def _probe(monitor: MonitorSpec, target: Target) -> Probe:
    return Probe(
        monitor=monitor.name,
        kind=monitor.kind,
        target=target,
        interval_s=monitor.send_interval_s,
        timeout_s=monitor.receive_timeout_s,
        rise=monitor.rise,
        fall=monitor.fall,
        settings=monitor.settings,
        quick_start=monitor.quick_start,
    )


def _port_probe(monitor: MonitorSpec, protocol: Protocol, target: Target) -> Probe:
    """Whether a port is open, as often and as long as a monitor asks."""
    settings = (("half_open", True),) if protocol is Protocol.TCP else ()
    return replace(_probe(monitor, target), monitor=PORTS[protocol], kind=str(protocol), settings=settings)


def counting(wanted: Iterable[Probe]) -> Mapping[str, frozenset[Key]]:
    """The probes whose verdicts decide on a member, by `pool/member`."""
    keys: dict[str, set[Key]] = {}
    for probe in wanted:
        if probe.counts:
            keys.setdefault(probe.target.id, set()).add(probe.key)
    return {member: frozenset(found) for member, found in keys.items()}


LOAD_INTERVAL_S, LOAD_TIMEOUT_S = 2.0, 1.0


def agents(config: Config) -> Iterable[Agent]:
    """One for every member that tells its load."""
    for pool in config.pools:
        for member in pool.members:
            if member.load_port is not None and not member.leaving:
                target = Target(f"{pool.name}/{member.name}", member.address, member.load_port)
                yield Agent(target, LOAD_INTERVAL_S, LOAD_TIMEOUT_S)


def health_of(verdicts: Mapping[Key, Verdict], least: int = 0) -> Health | None:
    """What the verdicts of all of a member's monitors make of it; None: what it was before.

    A monitor without a verdict beside others that have one is new, and a reload that adds one must not take members
    out.

    Args:
        verdicts: of all probes that count.
        least: so many monitors that say "up" are enough; 0 is all of them. What asks whether ports are open is not
            among these: it always has to be content.
    """
    found: dict[str, set[Verdict]] = {}
    for (monitor, _, _), verdict in verdicts.items():
        found.setdefault(monitor, set()).add(verdict)
    ports = [_together(found.pop(name)) for name in PORTS.values() if name in found]
    monitors = [_together(each) for each in found.values()]
    needed = min(least, len(monitors)) if least else len(monitors)
    health = _enough([*ports, *monitors], needed + len(ports), fixed=ports)
    return Health.UNKNOWN if health is None and set(verdicts.values()) == {Verdict.UNKNOWN} else health


_GRAVEST_FIRST = (Verdict.DOWN, Verdict.MAINTENANCE, Verdict.UNKNOWN, Verdict.UP)


def _together(verdicts: Set[Verdict]) -> Verdict:
    """What one monitor's probes of one member say: all must be content."""
    return next(verdict for verdict in _GRAVEST_FIRST if verdict in verdicts)


def _enough(verdicts: Sequence[Verdict], needed: int, fixed: Sequence[Verdict]) -> Health | None:
    """What follows when so many verdicts must be "up", those in *fixed* among them; None: that is not known yet."""
    up, unknown, maintenance = (verdicts.count(each) for each in (Verdict.UP, Verdict.UNKNOWN, Verdict.MAINTENANCE))
    if Verdict.DOWN in fixed or up + unknown + maintenance < needed:
        return Health.DOWN
    if Verdict.MAINTENANCE in fixed or up + unknown < needed:
        return Health.MAINTENANCE
    if Verdict.UNKNOWN not in fixed and up >= needed:
        return Health.UP
    return None


def learning_limit_s(pool: Pool, longest_s: float) -> float:
    """How long to wait for all members of a pool once one of them is usable: every one had its chance by then."""
    chances = [(monitor.rise + 1) * monitor.send_interval_s + monitor.receive_timeout_s for monitor in pool.monitors]
    return min(longest_s, max(chances, default=1.0))


def bfd_sessions(config: Config) -> Iterable[SessionSettings]:
    """One for every peer that is to be watched by BFD."""
    for peer in config.bgp.peers if config.bgp is not None else ():
        if peer.bfd is not None:
            yield SessionSettings(
                peer=str(peer.address),
                interval_us=round(peer.bfd.interval_s * 1e6),
                multiplier=peer.bfd.multiplier,
                multihop=peer.bfd.multihop,
                passive=peer.bfd.passive,
                local=str(peer.local_address) if peer.local_address is not None else None,
            )


RESTART = "that takes a restart of the director (nothing was applied)"


def needs_restart(old: Config, new: Config) -> Iterable[Finding]:
    """Which keys cannot change under a running director, with what they were and are to be. Other directors may come
    and go, and who may use the API.

    Args:
        old: in force.
        new: wanted; locations are in there.
    """
    yield from _director(old.director, new.director)
    if (old.bgp is None) is not (new.bgp is None):
        yield _restart(("bgp",), *("BGP" if one is not None else "no BGP" for one in (old.bgp, new.bgp)))
    elif old.bgp is not None and new.bgp is not None:
        yield from _bgp(old.bgp, new.bgp)
    if old.secret != new.secret:
        why = "another secret than the fleet's, with which flows would change members"
        yield Finding(("fleet", "secret_file"), why, RESTART)
    if old.myself != new.myself:
        names = [peer.name for peer in new.fleet.directors]
        place = (names.index(new.director.name),) if new.director.name in names else ()
        before, after = (f"{one.address} port {one.port}" if one else None for one in (old.myself, new.myself))
        yield _restart(("fleet", "director", *place), before, after, "this director's own entry: ")
    if (old.fleet.etcd is None) is not (new.fleet.etcd is None):
        stores = ["etcd" if one.fleet.etcd is not None else "none" for one in (old, new)]
        yield _restart(("fleet", "store"), stores[0], stores[1], "another store to agree by: ")
    elif old.fleet.etcd is not None and new.fleet.etcd is not None:
        yield from _differing(("fleet", "etcd"), old.fleet.etcd, new.fleet.etcd, {"password": "password_file"})


_DIRECTOR_LIVE = ("drain_on_stop_s", "least_path_mtu", "restart_grace_s")
"""Read whenever they are needed."""

_BGP_LIVE = ("peers", "next_hop_v4", "next_hop_v6", "hold_down_s")
_PEER_LIVE = ("address", "bfd", "labels", "next_hop_v4", "next_hop_v6", "next_hop_self")
"""What single routes are made of, and BFD: no session depends on them."""


def _director(old: Director, new: Director) -> Iterator[Finding]:
    yield from _differing(("director",), old, new, {}, ("api", *_DIRECTOR_LIVE))
    yield from _differing(("api",), old.api, new.api, {}, ("tls", "users", "tokens"))
    keys = {"cert_file": "tls_cert_file", "key_file": "tls_key_file"}
    for name in ("cert_file", "key_file", "client_ca_file"):
        before, after = (getattr(api.tls, name, None) for api in (old.api, new.api))
        if before != after:
            yield _restart(("api", keys.get(name, name)), before, after)


def _bgp(old: BgpConfig, new: BgpConfig) -> Iterator[Finding]:
    yield from _differing(("bgp",), old, new, {}, _BGP_LIVE)
    before = {peer.address: peer for peer in old.peers}
    for position, peer in enumerate(new.peers):
        place = ("bgp", "peer", position)
        if (known := before.pop(peer.address, None)) is None:
            yield _restart((*place, "address"), None, peer.address)
        else:
            yield from _differing(place, known, peer, {"hold_time_s": "hold_time"}, _PEER_LIVE)
    for address in before:
        yield _restart(("bgp", "peer"), address, None)


def _differing(
    place: Location, old: object, new: object, keys: Mapping[str, str], but: Sequence[str] = ()
) -> Iterator[Finding]:
    """Fields of two values of one class that are not the same.

    Args:
        place: of both in the files.
        old, new: dataclasses.
        keys: what fields are called in the files, where that differs.
        but: fields that may differ.
    """
    for field in fields(type(new)):  # type: ignore[arg-type]
        before, after = getattr(old, field.name), getattr(new, field.name)
        if field.name not in but and before != after:
            yield _restart((*place, keys.get(field.name, field.name)), before, after, secret=not field.repr)


def _restart(place: Location, before: object, after: object, why: str = "", *, secret: bool = False) -> Finding:
    said = "another one" if secret else f"{_said(before)} -> {_said(after)}"
    return Finding(place, why + said, RESTART)


def _said(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_said, value)) or "none"
    return "none" if value is None else str(value)


@dataclass(frozen=True)
class HashChange:
    """A virtual service whose flows find their slots in another way after a reload."""

    service: str
    before: HashMode
    after: HashMode
    share: float
    """What part of its flows has other members then, 0..1: a flow gets any slot, and its own member's by chance."""

    def __str__(self) -> str:
        return (
            f"{self.service}: hash {self.before} -> {self.after} sends {self.share:.0%} of its flows to other members, "
            "at once: a window keeps flows whose slot gets another owner, and none that get another slot"
        )


def hash_changes(old: Config, new: Config) -> Iterable[HashChange]:
    """Virtual services of which a reload breaks flows by another `hash`. Where an algorithm decides flow by flow, they
    are remembered, and nothing happens to them."""
    before = {service.name: service for service in old.services}
    for service in new.services:
        was = before.get(service.name)
        if was is None or was.hash_mode is service.hash_mode or was.protocol is not service.protocol:
            continue
        if ALGORITHMS[was.pool.algorithm].placement is not Placement.HASH:
            continue
        ratios = [member.ratio for member in was.pool.members if member.enabled and not member.leaving]
        whole = sum(ratios)
        if whole:
            stay = sum((ratio / whole) ** 2 for ratio in ratios)
            yield HashChange(service.name, was.hash_mode, service.hash_mode, 1 - stay)
