"""How the parts of a director fit together, as far as it can be said without running any of them. Pure."""

from collections.abc import Iterable, Set

from appliance.model import Config, Health, Pool
from health.load import Agent
from health.monitor import Probe
from health.spec import Target, Verdict


def probes(config: Config) -> Iterable[Probe]:
    """One probe for every monitor of every enabled member of a pool in use."""
    ports = {service.pool.name: service.ports[0].first for service in reversed(config.services)}
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


def needs_restart(old: Config, new: Config) -> Iterable[str]:
    """What cannot change under a running director, as sentences."""
    for section, before, after, why in (
        ("director", old.director, new.director, ""),
        ("bgp", old.bgp, new.bgp, ""),
        ("fleet", old.secret, new.secret, ": with another secret than the fleet's, flows would change members"),
        ("fleet", old.fleet, new.fleet, ""),
    ):
        if before != after:
            yield f"{new.source}: [{section}] changed{why}; that takes a restart of the director (nothing was applied)"
