"""What a probe that went through the DSR path says about the path, and what ICMP errors add to it. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from ipaddress import ip_address

from appliance.forwarding import NextHop
from appliance.model import Delivery, Encapsulation, IPAddress
from appliance.packet.encap import GUE_PORT, TUNNELS
from appliance.state import NEIGHBOUR_UNRESOLVED, Unresolved
from health.spec import Code, Result, Status, Target, Verdict

_UDP = 17
_BETWEEN = {
    number: len(tunnel.between(4, 0, 0))
    for tunnel in TUNNELS.values()
    for number in tunnel.protocols.values()
    if number != _UDP
}
"""What stands between outer IP header and inner packet, bytes, by the outer header's protocol. That of GUE is UDP, so
its port decides."""

_GUE_LENGTH = len(TUNNELS[Encapsulation.GUE].between(4, 0, 0))
_ICMP, _ICMP_HEADER, _ECHO_WORD = (b"\1", b"\x3a"), 8, 4
"""Protocols with echoes; how long their header is; where identifier and sequence number stand in it."""

Flow = tuple[bytes, bytes, int, bytes]
"""Source, destination, protocol, and the word that `health.ways` speaks of."""


class Trouble(Enum):
    """What an ICMP error says of the path."""

    NO_DECAPSULATION = "no_decapsulation"
    """The member itself has no use for the outer packet."""
    FILTERED = "filtered"
    """Somebody on the way does not let the outer packet through."""
    ROUTED_ON = "routed_on"
    """The inner packet's last hop was the member, which would have sent it on: the VIP is not its own."""


@dataclass(frozen=True)
class Heard:
    """An ICMP error about a packet of ours."""

    trouble: Trouble
    sender: IPAddress
    member: IPAddress | None = None
    """The outer packet's destination; None when the error is about the inner packet."""

    protocol: int = 0
    """That of the outer header."""

    flow: Flow | None = None
    """Of the inner packet; None when the quote ends before it is known."""

    packet: bytes = b""
    """The inner packet, as far as it was quoted."""

    kind: tuple[int, int] = field(default=(0, 0), compare=False)
    """Type and code."""


_NO_SUCH_PROTOCOL = {4: (3, 2), 6: (4, 1)}
_UNREACHABLE = {4: 3, 6: 1}
_TIME_EXCEEDED = {4: (11, 0), 6: (3, 0)}
_FRAGMENTATION_NEEDED = (3, 4)


def heard(version: int, message: bytes, sender: IPAddress) -> Heard | None:
    """What an ICMP error means for the path; None: nothing.

    RFC 792 and RFC 4443; the quote is read as far as headers without options and extensions go, as we send them.

    Args:
        version: 4 or 6: ICMP or ICMPv6.
        message: without IP header.
        sender: whose error it is.
    """
    kind, quote = tuple(message[:2]), message[_ICMP_HEADER:]
    flow = flow_of(quote) if quote and quote[0] >> 4 == version else None
    if flow is None:
        return None
    _, destination, protocol, word = flow
    gue = protocol == _UDP and int.from_bytes(word[2:], "big") == GUE_PORT
    if protocol in _BETWEEN or gue:
        refused = kind == _NO_SUCH_PROTOCOL[version] or kind[0] == _UNREACHABLE[version]
        if not refused or (version == 4 and kind == _FRAGMENTATION_NEEDED):
            return None
        member = ip_address(destination)
        trouble = Trouble.NO_DECAPSULATION if sender == member else Trouble.FILTERED
        inner = quote[_header_length(quote) + _BETWEEN.get(protocol, _GUE_LENGTH) :]
        return Heard(trouble, sender, member, protocol, flow_of(inner), inner, (message[0], message[1]))
    if kind == _TIME_EXCEEDED[version]:
        return Heard(Trouble.ROUTED_ON, sender, flow=flow, packet=quote, kind=(message[0], message[1]))
    return None


def _header_length(packet: bytes) -> int:
    return (packet[0] & 15) * 4 if packet[0] >> 4 == 4 else 40


def flow_of(packet: bytes) -> Flow | None:
    """What tells a packet's flow from others of ours; None of what is no IP packet, or ends too soon.

    Args:
        packet: IPv4 or IPv6, or its beginning.
    """
    if not packet or packet[0] >> 4 not in (4, 6):
        return None
    length = _header_length(packet)
    source, destination, protocol = (
        (packet[12:16], packet[16:20], packet[9:10])
        if packet[0] >> 4 == 4
        else (packet[8:24], packet[24:40], packet[6:7])
    )
    at = length + (_ECHO_WORD if protocol in _ICMP else 0)
    word = packet[at : at + 4]
    return (source, destination, protocol[0], word) if len(word) == 4 else None


SENT_LENGTH = 48
"""So many bytes of a packet are kept, to know it again: an IPv6 header, and what every ICMP error quotes behind it."""


def quotes(quoted: bytes, sent: bytes) -> bool:
    """Whether somebody quotes a packet that we have sent, as far as it takes to be sure.

    Whoever has not seen the packet would have to guess its ports, and its identification or flow label. So an error
    that quotes another packet, or less than the header and eight bytes behind it, proves nothing: anybody can send it.

    Args:
        quoted: by an ICMP error.
        sent: its first SENT_LENGTH bytes, as it left; empty when nothing has.
    """
    if not quoted or not sent or quoted[0] >> 4 != sent[0] >> 4:
        return False
    length = _header_length(sent) + 8
    return len(quoted) >= length and _lasting(quoted[:length]) == _lasting(sent[:length])


def _lasting(packet: bytes) -> bytes:
    """Without what routers may change: traffic class, TTL or hop limit, and the checksum of the header."""
    if packet[0] >> 4 == 4:
        return packet[2:8] + packet[9:10] + packet[12:]
    return bytes([packet[1] & 15]) + packet[2:7] + packet[8:]


SILENT = {Code.CONNECTION_TIMEOUT, Code.NO_RESPONSE}
"""Nothing has come back."""

_REFUSED = {Code.CONNECTION_REFUSED, Code.PORT_UNREACHABLE}


def explained(result: Result, target: Target, delivery: Delivery, known: Heard | None) -> Result:
    """A result of a check that asked the VIP through the path, with its cause.

    Good and without an answer is not good when ICMP says that the question did not arrive.

    Args:
        result: what the check found.
        target: the VIP and port that it asked.
        delivery: how the question went to the member.
        known: an ICMP error about it.
    """
    if result.maintenance or (result.good and (result.answered or known is None)):
        return result
    cause = _cause(result.code, target, delivery, known)
    if cause is None:
        return result
    code = Code.SERVER_UNREACHABLE if result.good else result.code
    return replace(result, code=code, detail=f"{cause} ({result.detail})" if result.detail else cause)


_UNREACHED = SILENT | {Code.SERVER_UNREACHABLE}


def unresolved(result: Result, hop: NextHop | Unresolved | None) -> Result:
    """A result of a check that asked a member's own address, with its cause where that is a MAC address that nobody
    tells us. The kernel has one word for that and for what routers say.

    Args:
        result: what the check found.
        hop: what is known of the way to the member.
    """
    if not isinstance(hop, Unresolved) or hop.reason != NEIGHBOUR_UNRESOLVED or result.code not in _UNREACHED:
        return result
    return replace(result, code=Code.ARP_UNRESOLVED, detail=f"{hop.reason}: {hop.detail}")


def _cause(code: Code, target: Target, delivery: Delivery, known: Heard | None) -> str | None:
    if known is not None:
        match known.trouble:
            case Trouble.NO_DECAPSULATION:
                return f"the member does not take packets out of {_tunnel(delivery)}"
            case Trouble.FILTERED:
                return f"{known.sender} does not let {_tunnel(delivery)} through to the member"
            case Trouble.ROUTED_ON:
                return f"VIP {target.address} not on loopback: {known.sender} would route the packet on"
    if code in _REFUSED:
        return f"nothing listens on VIP {target.address} port {target.port}"
    if code in SILENT:
        tunnel = f" not taken out of {_tunnel(delivery)}," if delivery.encapsulation is not None else ""
        return f"no answer from VIP {target.address}: not on loopback,{tunnel} or replies do not come back"
    return None


def _tunnel(delivery: Delivery) -> str:
    return {Encapsulation.IPIP: "IP in IP", Encapsulation.GRE: "GRE", Encapsulation.GUE: "GUE"}.get(
        delivery.encapsulation or Encapsulation.IPIP, "tunnels"
    )


def finding(statuses: Iterable[Status]) -> str:
    """What the probes of one member say together, when the path says that it is down; else nothing.

    Args:
        statuses: of all monitors and vantage points.
    """
    known = list(statuses)
    direct = {status.verdict for status in known if status.target.way is None}
    broken = dict.fromkeys(
        _latest_cause(status) for status in known if status.target.way is not None and status.verdict is Verdict.DOWN
    )
    if not broken:
        return ""
    causes = "; ".join(broken)
    if Verdict.DOWN in direct:
        return f"service down: {causes}"
    return f"service up, DSR path broken: {causes}" if direct == {Verdict.UP} else f"through the DSR path: {causes}"


def _latest_cause(status: Status) -> str:
    """Of the last bad result: the very last one may be good while the verdict is not yet."""
    bad = status.last if status.last is not None and not status.last.good else None
    result = bad or (status.turns[0].cause if status.turns else None)
    return "" if result is None else result.detail or str(result.code)
