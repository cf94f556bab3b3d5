"""`onward explain`: what the configuration makes of one flow, by the very code that decides and forwards.

It asks the model, not a running director: next hops are made up, and members count as healthy unless --down says
otherwise. So service, slot and member are those of every director of the fleet in the same situation.
"""

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from appliance.cli.output import Exit, complain, facts, print_json, print_problems
from appliance.config.load import load
from appliance.config.problems import ConfigError, did_you_mean
from appliance.decide import Desired, ServiceView, decide
from appliance.forwarding import NextHop, TableMember, TableService
from appliance.model import Config, DsrType, Encapsulation, Health, IPAddress, MonitorSpec, Protocol, TtlPolicy
from appliance.packet.action import Action, Reason, Verdict
from appliance.packet.checksum import checksum
from appliance.packet.forward import Ingress, PacketPath
from appliance.packet.fragments import Fragments
from appliance.ring.hash import FlowKey, derive_keys, hash_flow
from appliance.ring.slots import RingMember, build_slots
from appliance.state import IndexAllocator, Snapshot, ways

_CLIENT_TTL = 64
_ROUTER_MAC, _OUR_MAC, _NEXT_MAC = (bytes((2, 0, 0, 0, 0, last)) for last in (1, 2, 3))
_SOURCES = {4: ip_address("192.0.0.8"), 6: ip_address("100::")}
"""Stand for the director's own address, which only a running director knows: the dummy addresses of RFC 7600 and
RFC 6666."""

_IP_HEADER = {4: 20, 6: 40}
_L4_HEADER = {Protocol.TCP: 20, Protocol.UDP: 8}
_OUTER_PROTOCOLS = {4: "4 (IPv4 in IP)", 41: "41 (IPv6 in IP)", 47: "47 (GRE)", 17: "17 (UDP)"}
_FRAGMENTS = {
    True: "follow the first one of their datagram, which has the ports and has to come by the same director",
    False: "each goes by its slot, since that depends on the client's address alone",
}
_MIN_MTU, _MAX_MTU = 576, 65535


@dataclass(frozen=True)
class Endpoint:
    address: IPAddress
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"


class _UsageError(Exception):
    """An argument is not what it should be."""


class _NotFoundError(Exception):
    """An argument names something that the configuration does not have."""


def endpoint(text: str) -> Endpoint:
    """`192.0.2.7:40000` or `[2001:db8::7]:40000`.

    Raises:
        ValueError: it is neither.
    """
    host, colon, port = text.rpartition(":")
    if not colon or (host.count(":") and not host.startswith("[")):
        raise ValueError("the port is missing, or the brackets of an IPv6 address")
    bracketed = host.startswith("[") and host.endswith("]")
    address = ip_address(host[1:-1] if bracketed else host)
    if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) <= 65535:
        raise ValueError(f"{port or 'nothing'} is not a port; use 1..65535")
    if isinstance(address, IPv6Address) is not bracketed:
        raise ValueError("IPv6 addresses, and only they, stand in brackets")
    return Endpoint(address, int(port))


@dataclass(frozen=True)
class Explanation:
    """What happens to one packet of a flow, and what led to it."""

    key: FlowKey
    desired: Desired
    action: Action
    service: TableService | None
    view: ServiceView | None
    hash32: int | None
    base_owner: str | None
    """`pool/member` that owns the slot while all configured members are eligible."""

    member: TableMember | None
    fragments_wait: bool
    """Whether later fragments of the flow's packets have to follow their first one; else each goes by its slot."""


def explain_flow(config: Config, key: FlowKey, down: Sequence[str] = (), mtu: int = 1500, size: int = 0) -> Explanation:
    """Send one packet of a flow through the model.

    Args:
        config: the configuration.
        key: the flow.
        down: `pool/member` ids that count as down; all others count as up, and as reachable.
        mtu: of the way to every member, bytes.
        size: of the packet, bytes of IP; 0 takes the smallest there is.
    """
    snapshot = Snapshot(
        config=_watched(config),
        health={
            f"{pool.name}/{member.name}": Health.DOWN if f"{pool.name}/{member.name}" in down else Health.UP
            for pool in config.pools
            for member in pool.members
        },
        next_hops={
            member.address: NextHop(
                ifindex=1,
                interface=config.director.interfaces[0],
                source_mac=_OUR_MAC,
                mac=_NEXT_MAC,
                mtu=mtu,
                source=_SOURCES[member.address.version],
                direct=True,
            )
            for pool in config.pools
            for member in pool.members
        },
        indices=IndexAllocator().update(ways(config)),
    )
    desired = decide(snapshot)
    packet = _packet(key, size)
    ethertype = b"\x08\x00" if key.destination.version == 4 else b"\x86\xdd"
    # The link that the packet comes from is not in question, so it carries anything.
    path = PacketPath(desired.tables, fragments=Fragments(lambda: 0))
    head, link = _OUR_MAC + _ROUTER_MAC + ethertype, Ingress(1, _OUR_MAC, 65535)
    action = path.forward(head + packet, link)
    service = None if action.service is None else desired.tables.services[action.service]
    view = next((view for view in desired.services if service and view.service.name == service.name), None)
    hash32 = hash_flow(derive_keys(config.secret), key, service.hash_mode) if service else None
    return Explanation(
        key=key,
        desired=desired,
        action=action,
        service=service,
        view=view,
        hash32=hash32,
        base_owner=_base_owner(view, action.slot) if view else None,
        member=None if action.member is None else desired.tables.members[action.member],
        fragments_wait=path.forward(head + _later_fragment(key), link).verdict is Verdict.HOLD,
    )


def _watched(config: Config) -> Config:
    """The configuration with a monitor for every pool: members of a pool without one are up whatever health says."""
    stand_in = (MonitorSpec("assumed", "tcp", 10, 4, 2, 2, None),)
    services = (replace(s, pool=replace(s.pool, monitors=s.pool.monitors or stand_in)) for s in config.services)
    return replace(config, services=tuple(services))


def _base_owner(view: ServiceView, slot: int | None) -> str | None:
    if slot is None:
        return None
    ring = tuple(RingMember(member.name, member.ratio, member.index, eligible=True) for member in view.members)
    owner = int(build_slots(ring)[slot]) & 0xFFFF
    return next((member.id for member in view.members if member.index == owner), None)


def _packet(key: FlowKey, size: int) -> bytes:
    """The first packet of a flow: a SYN, or a datagram of zeros. DF is set."""
    header, l4 = _IP_HEADER[key.destination.version], _L4_HEADER[Protocol(key.protocol)]
    payload = bytes(max(0, size - header - l4))
    ports = struct.pack("!HH", key.source_port, key.destination_port)
    if key.protocol == Protocol.TCP:
        segment = ports + struct.pack("!IIBBHHH", 0, 0, 5 << 4, 0x02, 65535, 0, 0) + payload
    else:
        segment = ports + struct.pack("!HH", min(8 + len(payload), 65535), 0) + payload
    if key.destination.version == 6:
        return _ipv6(key, key.protocol, segment)
    return _ipv4(key, 0x4000, segment)


def _later_fragment(key: FlowKey) -> bytes:
    """Eight bytes of a flow's packet, and not the first ones."""
    if key.destination.version == 6:
        return _ipv6(key, 44, struct.pack("!BBHI", key.protocol, 0, 8, 1) + bytes(8))
    return _ipv4(key, 1, bytes(8))


def _ipv6(key: FlowKey, next_header: int, payload: bytes) -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(payload), next_header, _CLIENT_TTL)
    return head + key.source.packed + key.destination.packed + payload


def _ipv4(key: FlowKey, fragmentation: int, payload: bytes) -> bytes:
    addresses = key.source.packed + key.destination.packed
    head = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(payload), 0, fragmentation, _CLIENT_TTL, key.protocol)
    return head + checksum(head + addresses).to_bytes(2, "big") + addresses + payload


# ---------------------------------------------------------------------------------------------------------------------
# The command


def explain(
    config: Path,
    /,
    *,
    from_: Annotated[str, Parameter(name="--from")],
    to: str,
    proto: Literal["tcp", "udp"] = "tcp",
    down: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    mtu: int = 1500,
    size: Annotated[int, Parameter(show_default=False)] = 0,
    json: Annotated[bool, Parameter(negative="", show_default=False)] = False,
) -> int:
    """Say which member a flow gets, and why. Asks the configuration, not a running director.

    Members count as healthy and reachable. Exits with 1 when the packet would not be forwarded.

    Parameters
    ----------
    config:
        The configuration file.
    from_:
        The client, such as 192.0.2.7:40000 or [2001:db8::7]:40000.
    to:
        VIP and port, written alike.
    proto:
        The protocol of the flow.
    down:
        A pool/member that counts as down; may be repeated.
    mtu:
        MTU of the way to the members, in bytes.
    size:
        Size of the packet in bytes of IP; the smallest possible by default.
    json:
        Print JSON.
    """
    try:
        checked = load(config)
        key = _flow_key(from_, to, proto)
        _check_sizes(key, mtu, size)
        _check_down(checked, down)
    except ConfigError as error:
        print_problems(error.problems)
        return Exit.CONFIG
    except _UsageError as error:
        complain(str(error))
        return Exit.USAGE
    except _NotFoundError as error:
        complain(str(error))
        return Exit.NOT_FOUND
    found = explain_flow(checked, key, down, mtu, size)
    if json:
        print_json(_document(found))
    else:
        print(facts(_lines(found)))
    return Exit.OK if found.action.verdict is Verdict.TRANSMIT else Exit.FAILED


def _flow_key(source: str, destination: str, protocol: str) -> FlowKey:
    ends = []
    for option, text in (("--from", source), ("--to", destination)):
        try:
            ends.append(endpoint(text))
        except ValueError as error:
            raise _UsageError(f"{option} {text}: {error}; write 192.0.2.7:40000 or [2001:db8::7]:40000") from None
    client, service = ends
    if client.address.version != service.address.version:
        raise _UsageError(f"--from {source} and --to {destination} are of different families; use two of one")
    return FlowKey(client.address, service.address, Protocol[protocol.upper()], client.port, service.port)


def _check_sizes(key: FlowKey, mtu: int, size: int) -> None:
    if not _MIN_MTU <= mtu <= _MAX_MTU:
        raise _UsageError(f"--mtu {mtu} is out of range; use {_MIN_MTU}..{_MAX_MTU}")
    least = _IP_HEADER[key.destination.version] + _L4_HEADER[Protocol(key.protocol)]
    if size and not least <= size <= _MAX_MTU:
        raise _UsageError(f"--size {size} is out of range; use {least}..{_MAX_MTU}")


def _check_down(config: Config, down: Sequence[str]) -> None:
    known = [f"{pool.name}/{member.name}" for pool in config.pools for member in pool.members]
    for member in down:
        if member not in known:
            raise _NotFoundError(
                f"--down {member}: no virtual service uses such a pool/member; "
                f"{did_you_mean(member, known)}there are: {', '.join(known)}"
            )


def _lines(found: Explanation) -> Iterator[tuple[str, str]]:
    key, action = found.key, found.action
    source, destination = Endpoint(key.source, key.source_port), Endpoint(key.destination, key.destination_port)
    yield "flow", f"{source} > {destination} {Protocol(key.protocol)}"
    if found.service and found.view:
        ports = ",".join(map(str, found.service.ports))
        yield "virtual service", f"{found.service.name} ({found.service.vip} {found.service.protocol} {ports})"
        yield "hash", f"{found.service.hash_mode} = 0x{found.hash32:08x}"
        if action.slot is not None:
            yield (
                "slot",
                f"{action.slot} of {len(found.service.slots)}, in the table of pool {found.view.service.pool.name}",
            )
            yield "base owner", f"{found.base_owner}{_why_not_base_owner(found)}"
    if found.member:
        how = "" if found.member.id == found.base_owner else ", which the overlay gives this slot"
        yield "member", f"{found.member.id} at {found.member.address}{how}"
        yield "delivery", _delivery(found.member)
    if action.verdict is Verdict.TRANSMIT and found.member:
        yield "frame out", _frame_out(found)
    else:
        yield "not forwarded", f"{action.reason}: {_why_not(found)}"
        if action.reply:
            yield "answer", f"{action.reply.kind} to {key.source}"
    if found.member:
        yield from _sizes(found.member, key)
        yield "fragments", _FRAGMENTS[found.fragments_wait]
    announced = _announced(found)
    if announced:
        yield "announced", announced


def _why_not_base_owner(found: Explanation) -> str:
    if found.view is None or (found.member and found.base_owner == found.member.id):
        return ""
    no = next((member.no for member in found.view.members if member.id == found.base_owner), None)
    return f", which is out of rotation ({no})" if no else ""


def _delivery(member: TableMember) -> str:
    if member.delivery.dsr_type is DsrType.L2:
        return "L2 DSR: the member must be on a segment of the director"
    return f"L3 DSR, {member.delivery.encapsulation}: {member.delivery.overhead(member.address.version)} bytes more"


def _frame_out(found: Explanation) -> str:
    member = found.member
    if member is None or member.delivery.encapsulation is None:
        return "the same IP packet, with the member's MAC address as Ethernet destination"
    outer = found.action.frame[14:]
    inner = "inner packet unchanged"
    if member.delivery.ttl is TtlPolicy.ROUTER:
        what = "TTL" if found.key.destination.version == 4 else "hop limit"
        inner += f" but for its {what}, which is one less"
    if member.address.version == 4:
        length, fragmentation = struct.unpack_from("!H2xH", outer, 2)
        more = (
            f"protocol {_OUTER_PROTOCOLS[outer[9]]}, TTL {outer[8]}, DF {'set' if fragmentation & 0x4000 else 'clear'}"
        )
    else:
        word, length = struct.unpack_from("!IH", outer)
        length += _IP_HEADER[6]
        more = f"next header {_OUTER_PROTOCOLS[outer[6]]}, hop limit {outer[7]}, flow label 0x{word & 0xFFFFF:05x}"
    between = _between(outer[_IP_HEADER[member.address.version] :], member.delivery.encapsulation)
    return (
        f"IPv{member.address.version} from the director to {member.address}, {more}, {length} bytes; {between}{inner}"
    )


def _between(payload: bytes, encapsulation: Encapsulation) -> str:
    """What stands between the two IP headers, at the beginning of the outer one's payload."""
    match encapsulation:
        case Encapsulation.IPIP:
            return ""
        case Encapsulation.GRE:
            flags, ethertype = struct.unpack_from("!HH", payload)
            return f"GRE of type 0x{ethertype:04x}, flags and version {flags}; "
        case Encapsulation.GUE:
            source, destination, length, check, first, protocol = struct.unpack_from("!HHHHBB", payload)
            summed = "without a checksum" if not check else f"with checksum 0x{check:04x}"
            return (
                f"UDP from port {source} to {destination}, {length} bytes, {summed}; "
                f"GUE variant {first >> 6} of protocol {protocol}; "
            )


def _sizes(member: TableMember, key: FlowKey) -> Iterator[tuple[str, str]]:
    yield "largest packet", f"{member.inner_mtu} bytes (MTU of the way {member.next_hop.mtu})"
    room = member.inner_mtu - _IP_HEADER[key.destination.version] - _L4_HEADER[Protocol(key.protocol)]
    if key.protocol == Protocol.TCP:
        yield "MSS", f"members must advertise {room} or less"
    else:
        yield "largest datagram", f"{room} bytes of payload"


def _why_not(found: Explanation) -> str:
    key, reason = found.key, found.action.reason
    services = [view.service for view in found.desired.services]
    on_vip = [service for service in services if key.destination in service.vips]
    protocol = Protocol(key.protocol)
    disabled = [
        service.name
        for service in on_vip
        if not service.enabled
        and service.protocol is protocol
        and any(key.destination_port in ports for ports in service.ports)
    ]
    if reason in (Reason.NOT_VIP, Reason.NO_SERVICE) and disabled:
        return f"virtual service {', '.join(disabled)} is not enabled"
    if reason is Reason.NOT_VIP:
        vips = dict.fromkeys(str(vip) for service in services if service.enabled for vip in service.vips)
        return f"{key.destination} is not a VIP; VIPs are {', '.join(vips) or 'none'}"
    if reason is Reason.NO_SERVICE:
        there = [f"{s.name} {s.protocol} {','.join(map(str, s.ports))}" for s in on_vip if s.enabled]
        return (
            f"no virtual service has {protocol} port {key.destination_port} of this VIP; there are: {'; '.join(there)}"
        )
    if reason is Reason.NO_MEMBER and found.view:
        return "; ".join(f"{member.id} {member.no}" for member in found.view.members)
    if reason is Reason.TOO_BIG and found.member:
        return f"at most {found.member.inner_mtu} bytes fit on the way to {found.member.id}"
    return "no packet like this is forwarded"


def _announced(found: Explanation) -> str:
    vip = next((vip for vip in found.desired.vips if vip.vip == found.key.destination), None)
    if vip is None:
        return ""
    return f"{vip.vip}: no, {vip.no}" if vip.no else f"{vip.vip}: yes, while the data plane works"


def _document(found: Explanation) -> dict[str, object]:
    member, key = found.member, found.key
    vip = next((vip for vip in found.desired.vips if vip.vip == key.destination), None)
    return {
        "flow": {
            "source": str(key.source),
            "source_port": key.source_port,
            "destination": str(key.destination),
            "destination_port": key.destination_port,
            "protocol": str(Protocol(key.protocol)),
        },
        "forwarded": found.action.verdict is Verdict.TRANSMIT,
        "reason": None if found.action.reason is None else str(found.action.reason),
        "why": None if found.action.verdict is Verdict.TRANSMIT else _why_not(found),
        "answer": found.action.reply.kind if found.action.reply else None,
        "virtual_service": found.service.name if found.service else None,
        "hash_mode": str(found.service.hash_mode) if found.service else None,
        "hash": found.hash32,
        "slot": found.action.slot,
        "base_owner": found.base_owner,
        "member": None
        if member is None
        else {
            "id": member.id,
            "address": str(member.address),
            "dsr_type": str(member.delivery.dsr_type),
            "encapsulation": str(member.delivery.encapsulation) if member.delivery.encapsulation else None,
            "overhead": member.delivery.overhead(member.address.version),
            "largest_packet": member.inner_mtu,
        },
        "fragments": "by_first" if found.fragments_wait else "by_slot",
        "announced": vip is not None and vip.no is None,
    }
