"""`onward check`."""

import os
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from appliance.cli.host import about_host, link_mtu, this_host
from appliance.cli.output import Exit, complain, print_json, print_problems, table, warn
from appliance.cli.progress import progress
from appliance.config.document import read_document
from appliance.config.files import decode, files_beside
from appliance.config.load import SECRET_BYTES, parse_parts
from appliance.config.merge import Part
from appliance.config.problems import ConfigError
from appliance.config.values import WILDCARD
from appliance.model import (
    Algorithm,
    BgpPeer,
    Config,
    Delivery,
    DfPolicy,
    MonitorSpec,
    Pool,
    Protocol,
    Proxy,
    VirtualService,
)
from appliance.outer import MachineError
from appliance.path.vantage import asks_path
from health.secure import Tls

_LINK_MTU = 1500
CONNECTIONS_PER_S = 400
"""Each one takes a port for a minute when we end it, and there are 28,232 by default (net.ipv4.ip_local_port_range)."""


def _no_option(_: type, config: Path) -> None:
    """A leading hyphen is let through for the sake of `-`; anything longer is a mistyped option."""
    if str(config).startswith("-") and str(config) != "-":
        raise ValueError(f"there is no option {config}; a file of that name is ./{config}")


def check(
    config: Annotated[Path, Parameter(allow_leading_hyphen=True, validator=_no_option)],
    /,
    *,
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="", show_default=False)] = False,
    json: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    host: Annotated[bool, Parameter(negative="", show_default=False)] = False,
) -> int:
    """Check a configuration: the file, and `conf.d/*.toml` beside it. Needs neither root nor a daemon.

    Parameters
    ----------
    config:
        The configuration file; - reads standard input, and files named there are looked up from the working directory.
    quiet:
        Print mistakes only.
    json:
        Print JSON.
    host:
        Check as well whether it fits this machine: interfaces, addresses, routes, kernel. Exit code 1 when it does not.
    """
    notes: list[str] = []
    try:
        with progress(f"checking {config}"):
            checked = _read(config, notes)
    except ConfigError as error:
        if json:
            fields = ("source", "line", "path", "message", "remedy")
            problems = [{field: getattr(problem, field) for field in fields} for problem in error.problems]
            print_json({"ok": False, "problems": problems})
        else:
            print_problems(error.problems)
        return Exit.CONFIG
    if not checked.services:
        notes.append("no [[virtual_service]]: this director would forward nothing")
    notes += [*_about_flows(checked), *_about_algorithms(checked), *_about_tunnels(checked), *_about_monitors(checked)]
    mtu, unfit = _LINK_MTU, []
    if host:
        try:
            here = this_host()
        except MachineError as error:
            complain(str(error))
            return Exit.FAILED
        found = list(about_host(checked, here))
        notes += [one.text for one in found if not one.fatal]
        unfit = [one.text for one in found if one.fatal]
        mtu = link_mtu(checked, here) or mtu
    code = Exit.FAILED if unfit else Exit.OK
    if json:
        print_json({"ok": not unfit, "notes": notes, "host": unfit, **_document(checked, mtu)})
        return code
    for note in notes:
        warn(note)
    for text in unfit:
        complain(text)
    if not quiet:
        print(_summary(checked, mtu))
    return code


def _read(config: Path, notes: list[str]) -> Config:
    if str(config) == "-":
        source = "(standard input)"
        parts: tuple[Part, ...] = (Part(source, decode(sys.stdin.buffer.read(), source)),)
    else:
        parts = read_document(config).parts

    def kept_from_us(name: str) -> None:
        notes.append(f"{name} cannot be read by this user, so the certificates of its health monitor were not checked")

    return parse_parts(parts, lenient_reader(files_beside(config), config.parent, notes), kept_from_us)


def lenient_reader(read: Callable[[str], bytes], folder: Path, notes: list[str]) -> Callable[[str], bytes]:
    """Reads the secret, and passes over one that is kept from whoever checks: the daemon will read it.

    Args:
        read: gives a file's content.
        folder: where the names start from.
        notes: gets what is worth saying of the secret.
    """

    def read_file(name: str) -> bytes:
        try:
            content = read(name)
        except PermissionError:
            notes.append(f"{name} cannot be read by this user, so the fleet secret was not checked")
            return b"-" * SECRET_BYTES
        if (folder / name).stat().st_mode & stat.S_IROTH:
            notes.append(f"{name} can be read by everybody on this machine; chmod o-r {name}")
        return content

    return read_file


def _about_flows(config: Config) -> Iterator[str]:
    """What directors do not agree on by themselves, and what changes break."""
    if not config.director.pins:
        yield "director.pins = 0: no flow is remembered, so every change of members breaks flows"
    alone = not config.fleet.directors
    for pool in config.pools:
        if pool.algorithm is not Algorithm.CONSISTENT_HASH:
            yield (
                f"pool {pool.name}: {pool.algorithm} decides flow by flow, so directors do not agree by themselves: "
                + (
                    "another director that gets a flow, or this one after a restart, sends it elsewhere, since there "
                    "is no [[fleet.director]] to ask"
                    if alone
                    else f"they tell each other, and remember {config.director.pins} flows at most"
                )
            )


def _about_algorithms(config: Config) -> Iterator[str]:
    """What an algorithm will not know, or not keep."""
    services: dict[str, list[VirtualService]] = {}
    for service in config.services:
        services.setdefault(service.pool.name, []).append(service)
    for pool in config.pools:
        name, algorithm = f"pool {pool.name}: {pool.algorithm}", pool.algorithm
        users = services[pool.name]
        silent = [member.name for member in pool.members if member.load_port is None]
        if algorithm is Algorithm.LEAST_LOAD and silent:
            yield f"{name}: no load_port at {', '.join(silent)}; they count as loaded as the others are"
        if algorithm is Algorithm.FASTEST_RESPONSE and any(user.protocol is Protocol.UDP for user in users):
            yield f"{name}: UDP has no handshake to measure, so weights alone decide"
        by_packet = any(user.profile.per_packet for user in users)
        if by_packet and algorithm in (Algorithm.LEAST_CONNECTIONS, Algorithm.FASTEST_RESPONSE):
            yield f"{name}: with per_packet no flows are known, so weights alone decide"
        if by_packet and algorithm is Algorithm.FEWEST_SERVERS and silent:
            yield f"{name}: with per_packet no flows are known; give {', '.join(silent)} a load_port"
        limited = [member.name for member in pool.members if member.max_connections]
        if limited and algorithm in (Algorithm.CONSISTENT_HASH, Algorithm.ROUND_ROBIN, Algorithm.RANDOM):
            yield f"{name} does not keep max_connections of {', '.join(limited)}"


def _about_monitors(config: Config) -> Iterator[str]:
    """What monitors do not see, and what they will stumble over."""
    for monitor in {monitor.name: monitor for pool in config.pools for monitor in pool.monitors}.values():
        settings = dict(monitor.settings)
        command, tls = settings.get("command"), settings.get("tls")
        if isinstance(command, tuple) and not os.access(command[0], os.X_OK):
            yield f"health monitor {monitor.name}: this user cannot start {command[0]} on this machine"
        if isinstance(tls, Tls) and not tls.verify:
            yield f"health monitor {monitor.name}: with tls_verify = false any certificate will do that has not ended"
    for pool in config.pools:
        if pool.monitors and all(monitor.kind == "ping" for monitor in pool.monitors):
            yield f"pool {pool.name}: ping alone says that a machine is there, not that it serves"
    yield from _about_vantages(config)


def _about_vantages(config: Config) -> Iterator[str]:
    """What of the DSR path no monitor sees, and when there are too many of them."""
    connections = sum(
        len(pool.members) * len(user.vips) / monitor.send_interval_s
        for pool in config.pools
        for monitor in pool.monitors
        for user in config.services
        if user.pool == pool and asks_path(monitor, user) and _connects(monitor)
    )
    if connections > CONNECTIONS_PER_S:
        yield (
            f"health monitors connect through the DSR path {connections:.0f} times a second, and ports would "
            f"last for {CONNECTIONS_PER_S}: connections end with an RST, which servers may note; use longer "
            "intervals, or half_open"
        )
    for pool in config.pools:
        users = [service for service in config.services if service.pool == pool and service.enabled]
        if not pool.monitors or not users:
            continue
        if not any(asks_path(monitor, user) for monitor in pool.monitors for user in users):
            yield (
                f"pool {pool.name}: its monitors ask members' own addresses only, so a VIP that is missing or a tunnel "
                'that is down is not noticed; give one of them vantage = "both", or the port of a virtual service'
            )
            continue
        for user in users:
            for ports in user.ports:
                if ports == WILDCARD:
                    yield f'virtual service {user.name}: of "*" no ports are tried but those of monitors'
                elif ports.width > 2:
                    yield f"virtual service {user.name}: of ports {ports} only the first and the last one are tried"


def _connects(monitor: MonitorSpec) -> bool:
    settings = dict(monitor.settings)
    if monitor.kind == "tcp":
        return not settings.get("half_open")
    return monitor.kind in ("http", "https", "tls", "grpc") or settings.get("transport") == "tcp"


def _summary(config: Config, mtu: int) -> str:
    services = table(
        ("VIRTUAL SERVICE", "VIP", "PROTOCOL", "PORTS", "DELIVERY", "HASH", "POOL"),
        (row for service in config.services for row in _service_rows(service)),
    )
    members = table(
        ("POOL", "MEMBER", "ADDRESS", "RATIO", "SHARE", ""),
        (row for pool in config.pools for row in _member_rows(pool)),
        right=("RATIO", "SHARE"),
    )
    return "\n".join(_paragraphs(config, services, members, mtu))


def _paragraphs(config: Config, services: str, members: str, mtu: int) -> Iterator[str]:
    yield f"{config.source}: ok, {_totals(config)}"
    if config.services:
        yield f"\n{services}\n\n{members}"
    if config.proxies:
        columns = ("PROXY", "VIP", "PORTS", "READS", "BACK ENDS")
        yield f"\n{table(columns, (row for proxy in config.proxies for row in _proxy_rows(proxy)))}"
    rooms = _rooms(config, mtu)
    if rooms:
        rows = (
            (
                *(room.pool, room.delivery, f"IPv{room.outer_version}", room.overhead, room.largest_packet),
                *(room.mss.get(version, "") for version in (4, 6)),
            )
            for room in rooms
        )
        header = ("POOL", "DELIVERY", "OVER", "BYTES MORE", "LARGEST PACKET", "MSS IPV4", "MSS IPV6")
        yield f"\n{table(header, rows, right=header[3:])}"
        yield (
            f"\nTunnels take room: on links of {mtu} bytes, members must advertise these MSS or less to clients "
            "(advmss of their routes)."
        )
    yield ""
    answered = list(dict.fromkeys(str(vip) for service in config.services if service.arp for vip in service.vips))
    if answered:
        where = ", ".join(config.director.interfaces)
        yield f"Questions for {', '.join(answered)} on {where} (ARP, neighbour solicitations) are answered by us."
    if config.bgp is None:
        yield "Nothing is announced: there is no [bgp]."
        return
    peers = ", ".join(f"{peer.address} (AS {peer.remote_as}{_bfd(peer)})" for peer in config.bgp.peers)
    yield f"VIPs are announced from AS {config.bgp.local_as} to {peers}."


def _proxy_rows(proxy: Proxy) -> Iterator[tuple[object, ...]]:
    reads = ("HTTP" if proxy.http else "bytes") + (" in TLS" if proxy.certificate else "")
    for i, vip in enumerate(proxy.vips):
        yield (
            (proxy.name, vip, ",".join(map(str, proxy.ports)), reads, proxy.pool.name)
            if not i
            else ("", vip, *3 * [""])
        )


def _bfd(peer: BgpPeer) -> str:
    return "" if peer.bfd is None else f", BFD within {peer.bfd.detection_s * 1000:.0f} ms"


@dataclass(frozen=True)
class _Room:
    """What a tunnel leaves of a link for the members of a pool that are of one family."""

    pool: str
    delivery: str
    outer_version: int
    overhead: int
    largest_packet: int
    mss: dict[int, int]
    """What members must advertise, by the version of the TCP services' VIPs."""


def _rooms(config: Config, mtu: int) -> list[_Room]:
    """For every way into a tunnel, on links of that MTU."""
    vips: dict[tuple[str, Delivery, int], set[int]] = {}
    for service in config.services:
        delivery = service.profile.delivery
        if delivery.encapsulation is None:
            continue
        for version in sorted({member.address.version for member in service.pool.members}):
            # What else deliveries differ in takes no room.
            tunnel = Delivery(delivery.dsr_type, delivery.encapsulation)
            inner = vips.setdefault((service.pool.name, tunnel, version), set())
            if service.protocol is Protocol.TCP:
                inner |= {vip.version for vip in service.vips}
    return [
        _Room(
            pool,
            str(delivery),
            outer,
            delivery.overhead(outer),
            mtu - delivery.overhead(outer),
            {version: delivery.mss(version, outer, mtu) for version in sorted(inner)},
        )
        for (pool, delivery, outer), inner in vips.items()
    ]


def _about_tunnels(config: Config) -> Iterator[str]:
    """What is allowed and has a price."""
    for profile in dict.fromkeys(service.profile for service in config.services):
        if profile.delivery.outer_df is DfPolicy.CLEAR:
            yield (
                f"network profile {profile.name}: outer_df = clear lets routers fragment; `onward decap` does not put "
                "fragments together, and numbers of 16 bits to know them by repeat after 65536 packets of a director"
            )


def _totals(config: Config) -> str:
    members = sum(len(pool.members) for pool in config.pools)
    vips = len({vip for service in config.services for vip in service.vips})
    return ", ".join(
        f"{count} {name}{'' if count == 1 else 's'}"
        for count, name in (
            (len(config.services), "virtual service"),
            (vips, "VIP"),
            (len(config.pools), "pool"),
            (members, "member"),
        )
    )


def _service_rows(service: VirtualService) -> Iterator[tuple[object, ...]]:
    name = service.name if service.enabled else f"{service.name} (not enabled)"
    ports = ",".join(map(str, service.ports))
    for i, vip in enumerate(service.vips):
        row = (service.protocol, ports, service.profile.delivery, service.hash_mode, service.pool.name)
        yield (name if i == 0 else "", vip, *row)


def _member_rows(pool: Pool) -> Iterator[tuple[object, ...]]:
    total = sum(member.ratio for member in pool.members if member.enabled)
    for i, member in enumerate(pool.members):
        share = member.ratio / total if member.enabled and total else 0
        name = "" if member.name == str(member.address) else member.name
        yield (
            pool.name if i == 0 else "",
            name,
            member.address,
            member.ratio,
            f"{share:.1%}",
            "" if member.enabled else "not enabled",
        )


def _document(config: Config, mtu: int) -> dict[str, object]:
    return {
        "source": config.source,
        "digest": config.digest,
        "director": config.director.name,
        "virtual_services": [
            {
                "name": service.name,
                "enabled": service.enabled,
                "vips": list(map(str, service.vips)),
                "protocol": str(service.protocol),
                "ports": list(map(str, service.ports)),
                "delivery": str(service.profile.delivery),
                "hash": str(service.hash_mode),
                "pool": service.pool.name,
                "min_members": service.min_members,
            }
            for service in config.services
        ],
        "pools": [
            {
                "name": pool.name,
                "algorithm": str(pool.algorithm),
                "health_monitors": [monitor.name for monitor in pool.monitors],
                "members": [
                    {
                        "name": member.name,
                        "address": str(member.address),
                        "ratio": member.ratio,
                        "enabled": member.enabled,
                    }
                    for member in pool.members
                ],
            }
            for pool in config.pools
        ],
        "tunnels": [
            {
                "pool": room.pool,
                "delivery": room.delivery,
                "outer_version": room.outer_version,
                "overhead": room.overhead,
                "mtu": mtu,
                "largest_packet": room.largest_packet,
                "mss": {f"ipv{version}": mss for version, mss in room.mss.items()},
            }
            for room in _rooms(config, mtu)
        ],
        "bgp": None
        if config.bgp is None
        else {
            "local_as": config.bgp.local_as,
            "peers": [{"address": str(peer.address), "remote_as": peer.remote_as} for peer in config.bgp.peers],
        },
    }
