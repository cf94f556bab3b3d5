"""What a probe that went through the DSR path says about the path, and what ICMP errors add to it. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from ipaddress import ip_address

from appliance.model import Delivery, Encapsulation, IPAddress
from appliance.packet.encap import GUE_PORT, TUNNELS
from health.spec import Code, Result, Status, Target, Verdict

_PROTOCOLS = {number for tunnel in TUNNELS.values() for number in tunnel.protocols.values()} - {17}
"""Of outer headers; that of GUE is UDP, so its port decides."""

_UDP = 17
_ICMP_HEADER = 8


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

    flow: tuple[bytes, bytes, int, bytes] | None = None
    """Source, destination, protocol and first word of the inner packet."""

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
    if version == 4:
        length = (quote[0] & 15) * 4 if quote else 0
        protocol, source, destination = quote[9:10], quote[12:16], quote[16:20]
    else:
        length, protocol, source, destination = 40, quote[6:7], quote[8:24], quote[24:40]
    word = quote[length : length + 4]
    if len(word) < 4:
        return None
    if protocol[0] in _PROTOCOLS or (protocol[0] == _UDP and int.from_bytes(word[2:], "big") == GUE_PORT):
        refused = kind == _NO_SUCH_PROTOCOL[version] or kind[0] == _UNREACHABLE[version]
        if not refused or (version == 4 and kind == _FRAGMENTATION_NEEDED):
            return None
        member = ip_address(destination)
        trouble = Trouble.NO_DECAPSULATION if sender == member else Trouble.FILTERED
        return Heard(trouble, sender, member, protocol[0], kind=(message[0], message[1]))
    if kind == _TIME_EXCEEDED[version]:
        flow = source, destination, protocol[0], word
        return Heard(Trouble.ROUTED_ON, sender, flow=flow, kind=(message[0], message[1]))
    return None


_SILENT = {Code.CONNECTION_TIMEOUT, Code.NO_RESPONSE}
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
    if code in _SILENT:
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
