"""`onward mtu`: how large packets to each member may be."""

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from cyclopts import Parameter

from appliance.cli.output import Exit, table
from appliance.cli.status import DEFAULT_URL, AnswerError, UnreachableError, ask, unanswered

HEADER = (
    "MEMBER",
    "ADDRESS",
    "DELIVERY",
    "LINK",
    "PATH",
    "AGE",
    "OVERHEAD",
    "LARGEST",
    "MSS4",
    "MSS6",
    "SENT",
    "HEARD",
)
_NUMBERS = HEADER[3:]


def mtu(
    *,
    url: Annotated[str, Parameter(env_var="ONWARD_URL")] = DEFAULT_URL,
    as_json: Annotated[bool, Parameter(name=["--json"], negative="")] = False,
) -> int:
    """Show how large packets to each member of a running director may be, and what members must advertise as MSS.

    LINK is the MTU of the first link, PATH what a router further on has said it takes, and AGE how long ago (after ten
    minutes it is tried anew). LARGEST is what a client's packet may have. SENT counts errors to clients whose packets
    did not fit, HEARD errors of routers about our packets.

    Exit codes: 0 done; 1 what answers is no director; 3 nobody answers.

    Parameters
    ----------
    url
        Where the director's API listens.
    as_json
        Print the document as it is.
    """
    try:
        document = fetch(url)
    except (UnreachableError, AnswerError) as error:
        return unanswered(error)
    print(json.dumps(document, indent=2) if as_json else render(document))
    return Exit.OK


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


def render(document: Mapping[str, Any]) -> str:
    """A table of members, and below it what is worth a sentence."""
    rows = [
        (
            member["member"],
            member["address"],
            member["delivery"],
            member["link_mtu"],
            "-" if member["path_mtu"] is None else member["path_mtu"],
            "-" if member["path_mtu_age_s"] is None else f"{member['path_mtu_age_s']:.0f}s",
            member["overhead"],
            member["largest_packet"],
            member["mss"]["ipv4"],
            member["mss"]["ipv6"],
            member["errors_sent"],
            member["errors_heard"],
        )
        for member in document["members"]
    ]
    shown = table(HEADER, rows, _NUMBERS) if rows else "No member has a next hop."
    return "\n".join([shown, *_sentences(document)])


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
