"""What several checks read out of the same evidence. Pure."""

from collections.abc import Iterable

from appliance.doctor.evidence import Asked, IcmpError, MemberSeen, PathSeen, Reply
from appliance.doctor.member import Seen
from appliance.model import Encapsulation, Protocol

TUNNELS = {Encapsulation.IPIP: "IP in IP", Encapsulation.GRE: "GRE", Encapsulation.GUE: "GUE"}


def tunnel_name(seen: MemberSeen) -> str:
    return TUNNELS[seen.delivery.encapsulation or Encapsulation.IPIP]


def place(path: PathSeen) -> str:
    vip = f"[{path.vip}]" if path.vip.version == 6 else str(path.vip)
    return f"{path.protocol} {vip}:{path.port}"


def says(path: PathSeen, asked: Asked | None = None, what: str = "") -> str:
    """One question and its answer, for people."""
    asked = asked or path.small
    question = what or ("SYN" if path.protocol is Protocol.TCP else "datagram")
    answer = {
        Reply.ANSWERED: "SYN-ACK" if path.protocol is Protocol.TCP else "datagram",
        Reply.REFUSED: "RST" if path.protocol is Protocol.TCP else "ICMP port unreachable",
        Reply.ERROR: ", ".join(map(str, asked.errors)) or "ICMP error",
        Reply.SILENT: "nothing",
    }[asked.reply]
    origin = f" from {asked.source}" if asked.source is not None else ""
    mac = f" ({asked.mac})" if asked.mac else ""
    return f"{question} to {place(path)}: {answer}{origin}{mac}"


def packets(seen: MemberSeen, paths: Iterable[PathSeen] | None = None) -> Seen | None:
    """What the member saw of this director's packets for these VIPs, or for all, meanwhile; None: it did not look."""
    if seen.report is None or not seen.report.watched:
        return None
    return seen.report.packets(path.vip for path in (seen.paths if paths is None else paths))


def arrived(paths: Iterable[PathSeen]) -> list[PathSeen]:
    """Those whose VIP has said anything."""
    return [path for path in paths if path.small.arrived]


def silent(paths: Iterable[PathSeen]) -> list[PathSeen]:
    """Those from which nothing came that explains anything. Without an answer, a datagram may have been understood."""
    return [path for path in paths if path.small.reply is Reply.SILENT and path.protocol is Protocol.TCP]


def errors(seen: MemberSeen, *, outer: bool) -> list[IcmpError]:
    """ICMP errors about the questions by the path, each once."""
    return list(dict.fromkeys(error for path in seen.paths for error in path.small.errors if error.outer is outer))
