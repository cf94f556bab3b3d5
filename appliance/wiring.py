"""How the parts of a director fit together, as far as it can be said without running any of them. Pure."""

from collections.abc import Iterable, Set
from dataclasses import replace
from typing import Any

from appliance.model import BgpConfig, Config, Health, Pool
from bgp.bfd.messages import SessionSettings
from health.load import Agent
from health.monitor import Probe
from health.spec import Target, Verdict


def probes(config: Config) -> Iterable[Probe]:
    """One probe for every monitor of every enabled member of a pool in use."""
    ports = {pool.name: service.ports[0].first for service in config.services for pool in service.former}
    ports |= {service.pool.name: service.ports[0].first for service in reversed(config.services)}
    for pool in config.pools:
        for monitor in pool.monitors:
            for member in pool.members:
                if member.enabled:
                    yield Probe(
                        monitor=monitor.name,
                        kind=monitor.kind,
                        target=Target(
                            f"{pool.name}/{member.name}", member.address, monitor.monitor_port or ports[pool.name]
                        ),
                        interval_s=monitor.send_interval_s,
                        timeout_s=monitor.receive_timeout_s,
                        rise=monitor.rise,
                        fall=monitor.fall,
                        settings=monitor.settings,
                        quick_start=monitor.quick_start,
                    )


LOAD_INTERVAL_S, LOAD_TIMEOUT_S = 2.0, 1.0


def agents(config: Config) -> Iterable[Agent]:
    """One for every member that tells its load."""
    for pool in config.pools:
        for member in pool.members:
            if member.load_port is not None and not member.leaving:
                target = Target(f"{pool.name}/{member.name}", member.address, member.load_port)
                yield Agent(target, LOAD_INTERVAL_S, LOAD_TIMEOUT_S)


def health_of(verdicts: Set[Verdict]) -> Health | None:
    """What the verdicts of all of a member's monitors make of it; None: what it was before.

    One monitor that says "down" is enough. A monitor without a verdict beside others that have one is new, and a reload
    that adds one must not take members out.
    """
    if Verdict.DOWN in verdicts:
        return Health.DOWN
    if Verdict.UNKNOWN not in verdicts:
        return Health.UP
    return Health.UNKNOWN if verdicts == {Verdict.UNKNOWN} else None


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


def needs_restart(old: Config, new: Config) -> Iterable[str]:
    """What cannot change under a running director, as sentences. Other directors may come and go."""
    for section, before, after, why in (
        ("director", old.director, new.director, ""),
        ("bgp", _sessions(old.bgp), _sessions(new.bgp), ""),
        ("fleet", old.secret, new.secret, ": with another secret than the fleet's, flows would change members"),
        ("fleet", old.myself, new.myself, ": this director's own entry is not what it was"),
        ("fleet", old.fleet.etcd, new.fleet.etcd, ": it would agree by another store"),
    ):
        if before != after:
            yield f"{new.source}: [{section}] changed{why}; that takes a restart of the director (nothing was applied)"


def _sessions(bgp: BgpConfig | None) -> BgpConfig | None:
    """What BGP sessions depend on: not BFD, and not what single routes are made of."""
    if bgp is None:
        return None
    plain: dict[str, Any] = {"next_hop_v4": None, "next_hop_v6": None}
    fixed = plain | {"bfd": None, "labels": frozenset(), "next_hop_self": False}
    return replace(bgp, **plain, hold_down_s=0.0, peers=tuple(replace(peer, **fixed) for peer in bgp.peers))
