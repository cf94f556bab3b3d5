"""`onward explain`: what becomes of a packet, and why; asked of a running director, or of a configuration."""

import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from appliance.capture.pcap import PcapError
from appliance.cli.orders import OrderError, SocketOption, ask, refused, where
from appliance.cli.output import Exit, complain, facts, print_json, print_problems, table
from appliance.config.load import load
from appliance.config.problems import ConfigError, did_you_mean
from appliance.explain.model import Model
from appliance.explain.question import IP_HEADER, L4_HEADER, Endpoint, Tcp, endpoint, frame_of, frames_of, packet_of
from appliance.model import Config, Protocol
from appliance.ring.hash import FlowKey

Document = Mapping[str, Any]

_OUTER_PROTOCOLS = {4: "4 (IPv4 in IP)", 41: "41 (IPv6 in IP)", 47: "47 (GRE)", 17: "17 (UDP)"}
_FRAGMENTS = {
    "by_first": "follow the first one of their datagram, which has the ports and has to come by the same director",
    "by_slot": "each goes by its slot, since that depends on the client's address alone",
}
_MIN_MTU, _MAX_MTU = 576, 65535
_AT_A_TIME, _PATIENCE_S = 32, 30.0
"""Frames in one question, each a few milliseconds' work, and how long a busy director may take for them."""
_RUNNING = "known only to a running director"
_HINT = "write: onward explain tcp 192.0.2.7:40000 198.51.100.7:443"


class _UsageError(Exception):
    """An argument is not what it should be."""


class _NotFoundError(Exception):
    """An argument names something that the configuration does not have."""


def explain(
    protocol: Literal["tcp", "udp"] | None = None,
    client: str | None = None,
    to: str | None = None,
    /,
    *,
    pcap: Path | None = None,
    config: Path | None = None,
    socket: SocketOption = None,
    interface: str | None = None,
    kind: Literal["syn", "data", "fin", "rst"] = "syn",
    size: Annotated[int, Parameter(show_default=False)] = 0,
    down: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    mtu: int | None = None,
    output: Annotated[Literal["table", "json"], Parameter(name=["--output", "-o"])] = "table",
) -> int:
    """Say what becomes of a packet: its virtual service, slot, member and headers, and why no other member has it.

    Asks a running director, whose data plane and whose model both answer; they must agree. Nothing is sent, counted or
    remembered. With --config it is the configuration alone that answers, needing neither root nor a director: members
    count as healthy and reachable, and nothing is in transition; MAC addresses, the interface and the director's own
    address are not known then, and null in JSON.

    Exit codes: 0 forwarded (with --pcap: answered); 1 not forwarded, or refused; 2 wrong usage; 3 no director answers;
    4 the configuration is invalid; 5 not found; 7 data plane and model differ, which is an error to be reported.

    Parameters
    ----------
    protocol:
        Of the flow.
    client:
        Where it comes from, such as 192.0.2.7:40000 or [2001:db8::7]:40000.
    to:
        VIP and port, written alike.
    pcap:
        Explain every packet of this file (pcap or pcapng) as if it had arrived here; its destination MAC address does
        not count.
    config:
        Ask this configuration file, not a running director.
    interface:
        Where the packet arrives; by default the first of director.interfaces.
    kind:
        What a TCP packet says: that a connection begins (syn), goes on (data) or ends.
    size:
        Size of the packet in bytes of IP; the smallest possible by default.
    down:
        With --config: a pool/member that counts as down; may be repeated.
    mtu:
        With --config: MTU of the way to the members, in bytes; 1500 by default.
    output:
        A table, or JSON.
    """
    try:
        frames, key = _frames(pcap, protocol, client, to, size, Tcp(kind))
        if config is None:
            if down or mtu is not None:
                raise _UsageError("--down and --mtu are for --config; a running director knows better")
            documents = _asked(where(socket, None), frames, interface)
        else:
            if socket is not None or interface is not None:
                raise _UsageError("--socket and --interface are for a running director, --config asks none")
            documents = _modelled(load(config), frames, key, down, 1500 if mtu is None else mtu)
        found = list(documents)
    except ConfigError as error:
        print_problems(error.problems)
        return Exit.CONFIG
    except _UsageError as error:
        complain(str(error))
        return Exit.USAGE
    except _NotFoundError as error:
        complain(str(error))
        return Exit.NOT_FOUND
    except OrderError as error:
        return refused(error)
    except PcapError as error:
        complain(f"{pcap}: {error}")
        return Exit.FAILED
    except OSError as error:
        complain(f"{pcap}: {error.strerror or error}")
        return Exit.FAILED
    if output == "json":
        print_json({"packets": found} if pcap is not None else found[0])
    elif pcap is not None:
        print(_table(found))
    else:
        assumed = "" if config is None else "members are reachable, and healthy but for --down; no change is under way"
        print(facts([*_lines(found[0]), *([("assumed", assumed)] if assumed else [])]))
        if found[0]["others"]:
            print(f"\n{_others(found[0])}")
    return _judged(found, several=pcap is not None)


def _judged(found: Sequence[Document], *, several: bool) -> int:
    different = [(number, one) for number, one in enumerate(found, 1) if one["differences"]]
    for number, one in different:
        which = f"packet {number}: " if several else ""
        complain(f"{which}DATA PLANE AND MODEL DIFFER: {'; '.join(one['differences'])}; please report it")
    if different:
        return Exit.DIFFERENT
    return Exit.OK if several or found[0]["forwarded"] else Exit.FAILED


# ---------------------------------------------------------------------------------------------------------------------
# The question


def _frames(
    pcap: Path | None, protocol: str | None, client: str | None, to: str | None, size: int, tcp: Tcp
) -> tuple[list[bytes], FlowKey | None]:
    """Frames to ask about, and their flow if they are of one that was named."""
    if pcap is not None:
        if protocol is not None:
            raise _UsageError("either a flow or --pcap")
        return list(_from_file(pcap)), None
    if protocol is None or client is None or to is None:
        raise _UsageError(f"a flow takes three words; {_HINT}; or --pcap FILE")
    key = _flow_key(client, to, protocol)
    least = IP_HEADER[key.destination.version] + L4_HEADER[Protocol(key.protocol)]
    if size and not least <= size <= _MAX_MTU:
        raise _UsageError(f"--size {size} is out of range; use {least}..{_MAX_MTU}")
    return [frame_of(packet_of(key, size, tcp))], key


def _from_file(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from frames_of(file.read)


def _flow_key(source: str, destination: str, protocol: str) -> FlowKey:
    ends = []
    for text in (source, destination):
        try:
            ends.append(endpoint(text))
        except ValueError as error:
            raise _UsageError(f"{text}: {error}; write 192.0.2.7:40000 or [2001:db8::7]:40000") from None
    client, service = ends
    if client.address.version != service.address.version:
        raise _UsageError(f"{source} and {destination} are of different families; use two of one")
    return FlowKey(client.address, service.address, Protocol[protocol.upper()], client.port, service.port)


def _asked(path: Path, frames: Sequence[bytes], interface: str | None) -> Iterator[Document]:
    for at in range(0, len(frames), _AT_A_TIME):
        some = frames[at : at + _AT_A_TIME]
        question = {"interface": interface, "frames": [b64encode(frame).decode() for frame in some]}
        yield from ask(path, "POST", "/v1/explain", question, timeout_s=_PATIENCE_S)["packets"]


def _modelled(
    config: Config, frames: Sequence[bytes], key: FlowKey | None, down: Sequence[str], mtu: int
) -> Iterator[Document]:
    if not _MIN_MTU <= mtu <= _MAX_MTU:
        raise _UsageError(f"--mtu {mtu} is out of range; use {_MIN_MTU}..{_MAX_MTU}")
    known = [f"{pool.name}/{member.name}" for pool in config.pools for member in pool.members]
    for member in down:
        if member not in known:
            raise _NotFoundError(
                f"--down {member}: no virtual service uses such a pool/member; "
                f"{did_you_mean(member, known)}there are: {', '.join(known)}"
            )
    model = Model(config, down, mtu)
    for frame in frames:
        yield model.explain(frame, key)


# ---------------------------------------------------------------------------------------------------------------------
# The answer, for people


def _table(found: Sequence[Document]) -> str:
    """A line a packet."""
    rows = [
        (
            number,
            _flow(one["flow"]) if one["flow"] else "-",
            one["verdict"] if one["forwarded"] else f"{one['verdict']} {one['reason']}",
            one["virtual_service"] or "-",
            one.get("slot") if one.get("slot") is not None else "-",
            one["by"] or "-",
            one["member"]["id"] if one["member"] else "-",
            "DIFFERS" if one["differences"] else "yes" if one["compared"] else "-",
        )
        for number, one in enumerate(found, 1)
    ]
    return table(("PACKET", "FLOW", "VERDICT", "SERVICE", "SLOT", "BY", "MEMBER", "AGREED"), rows, ("PACKET", "SLOT"))


def _flow(flow: Document) -> str:
    ends = []
    for end in ("source", "destination"):
        address, port = ip_address(flow[end]), flow[f"{end}_port"]
        ends.append(str(address) if port is None else str(Endpoint(address, port)))
    return f"{ends[0]} > {ends[1]} {flow['protocol']}"


def _lines(found: Document) -> Iterator[tuple[str, str]]:
    if found["flow"]:
        yield "flow", _flow(found["flow"])
    member = found["member"]
    if found["virtual_service"]:
        ports = ",".join(found["ports"])
        yield "virtual service", f"{found['virtual_service']} ({found['vip']} {found['protocol']} {ports})"
    if "hash" in found:
        yield "hash", f"{found['hash_mode']} = 0x{found['hash']:08x}"
        yield "slot", f"{found['slot']} of {found['slots']}, in the table of pool {found['pool']}: {_owners(found)}"
        yield "base owner", f"{found['base_owner']}{_why_not_base_owner(found)}"
        if found["pin"]:
            yield "remembered", _pin(found["pin"])
    if member:
        yield "member", f"{member['id']} at {member['address']}, by {_BY.get(found['by'], found['by'])}"
        yield "delivery", _delivery(member)
    if found["forwarded"] and member:
        for number, frame in enumerate(found["out"]):
            yield "frame out" if not number else "and", _frame_out(frame, member, found["packet"])
    else:
        yield "not forwarded", f"{found['reason']}: {found['why']}"
    if found["answer"]:
        yield "answer", f"{found['answer']} to {found['flow']['source']}"
    if "mtu" in found:
        yield from _sizes(found)
    if "fragments" in found:
        yield "fragments", _FRAGMENTS[found["fragments"]]
    if found["not_announced"] is not None:
        yield "announced", f"{found['flow']['destination']}: no, {found['not_announced']}"
    elif found["announced"]:
        yield "announced", f"{found['flow']['destination']}: yes, while the data plane works"


_BY = {
    "slot": "its slot",
    "previous": "its slot's previous owner, who keeps flows from before a change",
    "pin": "what is remembered of the flow",
    "choice": "the pool's algorithm",
    "first": "the first fragment of its datagram",
}


def _owners(found: Document) -> str:
    if found["phase"] == "steady":
        return f"steady, {found['primary'] or 'nobody'}"
    if found["phase"] == "tail":
        return f"tail, {found['primary']}, but for flows that are remembered elsewhere"
    ends = "" if found["window_ends"] is None else f" until {_clock(found['window_ends'])}"
    return f"window{ends}, new flows to {found['primary'] or 'nobody'}, others to {found['previous']}"


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))


def _pin(pin: Document) -> str:
    counts = "" if pin["counts"] else ", which does not count any more"
    return f"at {pin['member'] or 'a member that is gone'}, {pin['state']}, idle for {pin['idle_s']:.0f} s{counts}"


def _why_not_base_owner(found: Document) -> str:
    no = next((one["why"] for one in found["others"] if one["member"] == found["base_owner"]), None)
    state = next((one["state"] for one in found["others"] if one["member"] == found["base_owner"]), "in_rotation")
    return f", which is out of rotation ({no})" if no and state != "in_rotation" else ""


def _delivery(member: Document) -> str:
    if member["encapsulation"] is None:
        return "L2 DSR: the member must be on a segment of the director"
    return f"L3 DSR, {member['encapsulation']}: {member['overhead']} bytes more"


def _frame_out(frame: Sequence[Document], member: Document, arrived: Sequence[Document]) -> str:
    """Ethernet, outer and inner headers, as far as they are other than those that came in."""
    if [one["header"] for one in frame[:2]] not in (["ethernet", "ipv4"], ["ethernet", "ipv6"]):
        return "no IP packet"
    ethernet, *rest = frame
    to = f"to {ethernet['destination']} on {member['interface']}"
    if ethernet["destination"] is None:
        to = f"MAC addresses and interface are {_RUNNING}"
    if member["encapsulation"] is None:
        return f"the same IP packet, with the member's MAC address as Ethernet destination: {to}"
    outer, version = rest[0], 4 if rest[0]["header"] == "ipv4" else 6
    if version == 4:
        df = "set" if outer["dont_fragment"] else "clear"
        protocol, more = outer["protocol"], f"TTL {outer['ttl']}, DF {df}"
    else:
        protocol = outer["next_header"]
        more = f"hop limit {outer['hop_limit']}, flow label 0x{outer['flow_label']:05x}"
    name = "protocol" if version == 4 else "next header"
    between = "".join(_BETWEEN[one["header"]](one) for one in rest[1:3] if one["header"] in _BETWEEN)
    inner = "inner packet unchanged"
    if member["router"]:
        what = "TTL" if any(one["header"] == "ipv4" for one in arrived) else "hop limit"
        inner += f" but for its {what}, which is one less"
    return (
        f"IPv{version} from {outer['source'] or f'an address that is {_RUNNING}'} to {outer['destination']}, {name} "
        f"{_OUTER_PROTOCOLS[protocol]}, {more}, {outer['length']} bytes; {between}{inner}; {to}"
    )


def _checksum(value: int | None) -> str:
    if value is None:
        return f"with a checksum that is {_RUNNING}; "
    return f"with checksum 0x{value:04x}; " if value else "without a checksum; "


_BETWEEN: Mapping[str, Callable[[Document], str]] = {
    "gre": lambda gre: f"GRE of type 0x{gre['type']:04x}, flags and version {gre['flags_and_version']}; ",
    "udp": lambda udp: (
        f"UDP from port {udp['source_port']} to {udp['destination_port']}, {udp['length']} bytes, "
        + _checksum(udp["checksum"])
    ),
    "gue": lambda gue: f"GUE variant {gue['variant']} of protocol {gue['protocol']}; ",
}


def _sizes(found: Document) -> Iterator[tuple[str, str]]:
    member, mtu = found["member"], found["mtu"]
    way = member["link_mtu"] if member["path_mtu"] is None else min(member["link_mtu"], member["path_mtu"])
    assumed = ", see --mtu" if member["interface"] is None else ""
    yield "size", f"{mtu['length']} bytes: {mtu['verdict']}"
    yield "largest packet", f"{mtu['largest']} bytes (MTU of the way {way}{assumed})"
    if found["flow"]["protocol"] == "tcp":
        yield "MSS", f"members must advertise {mtu['room']} or less"
    else:
        yield "largest datagram", f"{mtu['room']} bytes of payload"


def _others(found: Document) -> str:
    """Why each other member was not chosen."""
    rows = [(one["member"], one["state"], one["why"]) for one in found["others"]]
    return table(("NOT CHOSEN", "STATE", "WHY"), rows)
