"""What connections of a client's machine say, as the doctor was given them. Pure."""

from collections.abc import Iterator
from statistics import median

from appliance.doctor import fixes
from appliance.doctor.checks.reading import arrived
from appliance.doctor.client import Came
from appliance.doctor.evidence import MemberSeen
from appliance.doctor.finding import Fix, Judgement, Site, failed, passed, unknown


def clients(seen: MemberSeen) -> Judgement | None:
    """Do connections of real clients by way of this member come about, and do their segments fit?"""
    if not seen.visits:
        return None
    numbers = list(_numbers(seen))
    lost = [one for one in seen.visits if one.came in (Came.SILENT, Came.ERROR)]
    refused = [one for one in seen.visits if one.came is Came.REFUSED]
    who = ", ".join(dict.fromkeys(one.client for one in [*lost, *refused]))
    if (lost or refused) and not arrived(seen.paths):
        return unknown(f"{who} gets nothing, and this director does not either: what else fails comes first", *numbers)
    if lost:
        fix = Fix(
            Site.NETWORK,
            f"look at the way from {seen.member} to {who}, which leads past every director: strict RPF, anti-spoofing, "
            "a firewall that has not seen the request; and at the way from there to the VIP",
        )
        return failed(f"{seen.member} answers this director, and no answer reaches {who}", numbers, fix)
    if refused:
        fix = Fix(Site.NETWORK, f"look for who refuses {who}: a firewall of {seen.member}, or one on the way")
        return failed(f"{seen.member} answers this director, and {who} is refused", numbers, fix)
    limits = {path.vip: path.mss_limit for path in seen.paths if path.mss_limit is not None}
    for one in seen.visits:
        limit = limits.get(one.vip)
        if limit is not None and one.mss is not None and one.mss > limit:
            text = f"{one.client} sends {seen.member} segments of {one.mss} bytes, and {limit} fit the way to it"
            return failed(text, numbers, fixes.advertise(one.vip, limit))
    return passed("connections of clients come about, and their segments fit", *numbers)


def _numbers(seen: MemberSeen) -> Iterator[str]:
    for client in dict.fromkeys(one.client for one in seen.visits):
        mine = [one for one in seen.visits if one.client == client]
        answered = [one for one in mine if one.came is Came.ANSWERED]
        text = f"{client}: of {len(mine)} connections {len(answered)} came about"
        if answered:
            text += f", in {median(one.seconds for one in answered) * 1000:.1f} ms"
            sizes = sorted({one.mss for one in answered if one.mss is not None})
            text += f", segments of {', '.join(map(str, sizes))} bytes" if sizes else ""
        for came, word in ((Came.REFUSED, "were refused"), (Came.SILENT, "got no answer")):
            if count := sum(one.came is came for one in mine):
                text += f", {count} {word}"
        errors = dict.fromkeys(one.error for one in mine if one.came is Came.ERROR)
        yield text + "".join(f", {error}" for error in errors)
