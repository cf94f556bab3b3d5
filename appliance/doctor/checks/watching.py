"""What clients' own handshakes say, as far as one direction shows it. Pure."""

from appliance.doctor.checks.reading import arrived
from appliance.doctor.evidence import MemberSeen
from appliance.doctor.finding import Fix, Judgement, Site, failed, passed, unknown

LEAST = 10
"""Handshakes, before anything is said."""
_HALF = 0.5


def handshakes(seen: MemberSeen) -> Judgement | None:
    """Do clients' connections come about, and is the member like the others of its pool?

    A client that has got no SYN-ACK sends its SYN again. One that has got it acknowledges it at once; when that is not
    seen, and no second SYN either, something between client and director lets only the first packet through: a stateful
    device that has not seen the SYN-ACK, which went another way.
    """
    found = seen.passive
    if found is None:
        return None
    numbers = (
        f"of {found.handshakes} connections {found.completed} came about, {found.repeated} had their SYN repeated, "
        f"{found.stuck} ended after one SYN, {found.reset} were reset by their clients"
    )
    if found.handshakes < LEAST:
        return unknown("too few connections to say anything", numbers)
    well = bool(arrived(seen.paths))
    if found.stuck >= _HALF * found.handshakes:
        fix = Fix(
            Site.NETWORK,
            "a firewall between clients and directors sees requests and no replies: exempt the VIP from state checks "
            "there, or lead replies through the same device (a SYN flood looks the same; `protection` limits it)",
        )
        return failed("clients get their SYN-ACK, and their next packet does not come", [numbers], fix)
    if found.repeated >= _HALF * found.handshakes:
        about = (
            "though the member answers this director" if well else "and the member does not answer this director either"
        )
        fix = Fix(
            Site.NETWORK,
            "replies from the VIP get lost on their way to clients: strict RPF, anti-spoofing, or a firewall that has "
            "not seen the request",
        )
        return failed(f"clients repeat their SYN: no reply reaches them, {about}", [numbers], fix)
    if found.outlier:
        fix = Fix(Site.MEMBER, "look at this member's load, its service's accept queue and its way to clients")
        return failed(f"{seen.member} is not like the others of its pool: {found.outlier}", [numbers], fix)
    return passed("connections come about", numbers)
