"""The configuration of HAProxy, made of the same objects as a director's. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from appliance.model import Algorithm, IPAddress, Member, MonitorSpec, PortRange, Proxy

WEIGHTS = 256
"""The largest weight that HAProxy knows."""

_BALANCE = {
    Algorithm.CONSISTENT_HASH: ("balance source", "hash-type consistent"),
    Algorithm.ROUND_ROBIN: ("balance roundrobin",),
    Algorithm.RANDOM: ("balance random",),
    Algorithm.LEAST_CONNECTIONS: ("balance leastconn",),
    Algorithm.FEWEST_SERVERS: ("balance first",),
}


_SAID = {"http": frozenset({"method", "path", "host", "codes"}), "tcp": frozenset[str]()}
"""Settings of monitors, by kind, that HAProxy is told."""


class ProxyError(Exception):
    """HAProxy has no words for something; every reason is in `problems`."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


@dataclass(frozen=True)
class Paths:
    """Where HAProxy talks with us."""

    stats: str
    """Its runtime API."""
    master: str
    """That of the process that starts workers."""
    user: str = ""
    """Whom workers become once they have their sockets; empty: they stay what they are."""


def frontend(proxy: Proxy) -> str:
    return f"front-{proxy.name}"


def backend(proxy: Proxy) -> str:
    return f"back-{proxy.name}"


def weight(member: Member, largest: int) -> int:
    """A ratio as HAProxy has it: 0..256. Whoever takes anything takes something."""
    if not member.ratio:
        return 0
    return member.ratio if largest <= WEIGHTS else max(1, member.ratio * WEIGHTS // largest)


def weights(proxy: Proxy) -> Mapping[str, int]:
    """By server."""
    largest = max(member.ratio for member in proxy.pool.members)
    return {member.name: weight(member, largest) for member in proxy.pool.members}


def text(proxies: tuple[Proxy, ...], paths: Paths) -> str:
    """The file.

    Raises:
        ProxyError: a pool's algorithm or monitor has no equivalent.
    """
    problems: list[str] = []
    lines = [
        "# Made by Onward from its own configuration; whatever is changed here is lost at the next change there.",
        "global",
        f"    stats socket {paths.stats} mode 600 level admin expose-fd listeners",
        "    hard-stop-after 3600s",
        *([f"    user {paths.user}"] if paths.user else []),
        "",
        "defaults",
        "    timeout connect 5s",
        "    timeout client-fin 30s",
        "    timeout server-fin 30s",
        "    timeout http-request 10s",
        "    timeout http-keep-alive 10s",
        # A server that is gone is tried once more, and then another one.
        "    retries 2",
        "    option redispatch",
    ]
    for proxy in proxies:
        lines += ["", *_frontend(proxy), "", *_backend(proxy, problems)]
    if problems:
        raise ProxyError(tuple(problems))
    return "\n".join(lines) + "\n"


def _bind(vip: IPAddress, ports: PortRange) -> str:
    # What stands in front of the address makes it one of a family, whatever else could be read into it.
    return f"ipv{vip.version}@{vip}:{ports}"


def _frontend(proxy: Proxy) -> Iterator[str]:
    yield f"frontend {frontend(proxy)}"
    yield f"    mode {'http' if proxy.http else 'tcp'}"
    yield f"    timeout client {proxy.idle_timeout_s}s"
    tls = f" ssl crt {proxy.certificate}" + (" alpn h2,http/1.1" if proxy.http else "") if proxy.certificate else ""
    for vip in proxy.vips:
        for ports in proxy.ports:
            yield f"    bind {_bind(vip, ports)}{tls}"
    if proxy.http:
        # The client's address is the real one: it came through the tunnel unchanged.
        yield "    option forwardfor"
    else:
        # Without a back end a connection would be taken and cut; refused, it is known to be down.
        yield f"    tcp-request connection reject if {{ nbsrv({backend(proxy)}) lt 1 }}"
    yield f"    default_backend {backend(proxy)}"


def _backend(proxy: Proxy, problems: list[str]) -> Iterator[str]:
    pool = proxy.pool
    yield f"backend {backend(proxy)}"
    yield f"    mode {'http' if proxy.http else 'tcp'}"
    yield f"    timeout server {proxy.idle_timeout_s}s"
    balance = _BALANCE.get(pool.algorithm)
    if balance is None:
        known = ", ".join(_BALANCE)
        problems.append(f"pool {pool.name}: {pool.algorithm} is not for proxies; use one of {known}")
    yield from (f"    {line}" for line in balance or ())
    checks = [_check(monitor, proxy, problems) for monitor in pool.monitors]
    if len(checks) > 1:
        problems.append(f"pool {pool.name}: a proxy has one health monitor; leave {len(checks) - 1} out")
    check = checks[0] if checks else _Check()
    yield from (f"    {line}" for line in check.lines)
    given = weights(proxy)
    for member in pool.members:
        words = [f"server {member.name}", _address(member.address, proxy.server_port), f"weight {given[member.name]}"]
        words += check.words
        if member.max_connections:
            words.append(f"maxconn {member.max_connections}")
        if pool.slow_start_s:
            words.append(f"slowstart {pool.slow_start_s:.0f}s")
        if not member.enabled:
            words.append("disabled")
        yield "    " + " ".join(words)


def _address(address: IPAddress, port: int | None) -> str:
    # Without a port it is the one that the client asked for.
    return f"ipv{address.version}@{address}" + (f":{port}" if port is not None else "")


@dataclass(frozen=True)
class _Check:
    """How back ends are asked."""

    lines: tuple[str, ...] = ()
    """Of the back end."""
    words: tuple[str, ...] = ()
    """Of each server."""


def _check(monitor: MonitorSpec, proxy: Proxy, problems: list[str]) -> _Check:
    settings = dict(monitor.settings)
    lines = [f"timeout check {round(monitor.receive_timeout_s * 1000)}ms"]
    if monitor.kind == "http":
        ask = f"http-check send meth {settings.get('method', 'GET')} uri {settings.get('path', '/')}"
        host = settings.get("host")
        lines += ["option httpchk", f"{ask} ver HTTP/1.1 hdr Host {host or proxy.name}"]
        codes = settings.get("codes")
        if isinstance(codes, tuple) and codes:
            lines.append("http-check expect status " + ",".join(_code(first, last) for first, last in codes))
    elif monitor.kind != "tcp":
        problems.append(f"health monitor {monitor.name}: a proxy asks by tcp or http, not by {monitor.kind}")
    # Left out without a word, a back end that answers wrongly would be taken for well.
    more = ", ".join(key for key in settings if key not in _SAID.get(monitor.kind, settings))
    if more:
        problems.append(
            f"health monitor {monitor.name}: a proxy has no words for {more}; leave it out, or use another one"
        )
    interval = f"inter {round(monitor.send_interval_s * 1000)}ms fall {monitor.fall} rise {monitor.rise}"
    port = monitor.monitor_port or proxy.server_port or proxy.ports[0].first
    return _Check(tuple(lines), ("check", interval, f"port {port}"))


def _code(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"
