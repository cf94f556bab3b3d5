"""`onward mtu`: how large packets to each member may be."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from appliance.cli.listing import DEFAULTS, Column, Document, ListOptions, View, or_dash, show
from appliance.cli.status import HERE, AnswerError, Reach, ask


def mtu(
    *,
    reach: Reach = HERE,
    options: ListOptions = DEFAULTS,
) -> int:
    """Show how large packets to each member of a running director may be, and what members must advertise as MSS.

    LINK is the MTU of the first link, PATH what a router further on has said it takes, and AGE how long ago (after ten
    minutes it is tried anew). LARGEST is what a client's packet may have. SENT counts errors to clients whose packets
    did not fit, HEARD errors of routers about our packets.

    Exit codes: 0 done; 1 what answers is no director; 3 nobody answers.

    """
    return show(VIEW, options, lambda: fetch(reach.address))


def fetch(url: str) -> Mapping[str, Any]:
    """The document of the director at *url*.

    Raises:
        UnreachableError: nobody answers there.
        AnswerError: the answer is no such document, or *url* is no address of an API.
    """
    status, answer = ask(url, "/api/v1/mtu")
    if status != 200 or not isinstance(answer, dict) or "members" not in answer:
        raise AnswerError(
            f"{url} answers with HTTP status {status} and no MTUs; is it a director, and as old as this command?"
        )
    return answer


def _sentences(document: Mapping[str, Any]) -> Iterator[str]:
    small = [member["member"] for member in document["members"] if not member["carries_ipv6"]]
    if small:
        yield f"Less than IPv6 needs (1280), so that IPv6 packets may get lost: {', '.join(small)}"
    ignored = {name: number for name, number in document["errors_heard"].items() if number and name in IGNORED}
    if ignored:
        yield f"Errors that were not believed: {', '.join(f'{number} {name}' for name, number in ignored.items())}"
    if document["deaf"]:
        yield f"Errors of routers cannot be heard: {document['deaf']}"


IGNORED = ("not_ours", "too_small", "too_many")


def _number(name: str, get: Callable[[Document], object], text: Callable[[Any], str] = or_dash) -> Column:
    return Column(name, get, text, right=True)


VIEW = View(
    columns=(
        Column("MEMBER", lambda row: row["member"]),
        Column("ADDRESS", lambda row: row["address"]),
        Column("DELIVERY", lambda row: row["delivery"]),
        _number("LINK", lambda row: row["link_mtu"]),
        _number("PATH", lambda row: row["path_mtu"]),
        _number("AGE", lambda row: row["path_mtu_age_s"], lambda age: "-" if age is None else f"{age:.0f}s"),
        _number("OVERHEAD", lambda row: row["overhead"]),
        _number("LARGEST", lambda row: row["largest_packet"]),
        _number("MSS4", lambda row: row["mss"]["ipv4"]),
        _number("MSS6", lambda row: row["mss"]["ipv6"]),
        _number("SENT", lambda row: row["errors_sent"]),
        _number("HEARD", lambda row: row["errors_heard"]),
    ),
    rows=lambda document: document["members"],
    name=lambda row: str(row["member"]),
    below=_sentences,
    empty="No member has a next hop.",
)
