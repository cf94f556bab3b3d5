"""`onward bgp`: who is told of which VIPs, with which attributes, and why not."""

from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address
from typing import Annotated, Any

from cyclopts import App, Parameter

from appliance.cli.help import HelpFormatter, with_object
from appliance.cli.listing import DEFAULTS, Column, ListOptions, View, or_dash, show
from appliance.cli.output import Exit, complain, print_json
from appliance.cli.status import HERE, AnswerError, Reach, UnreachableError, ask, unanswered

app = App(
    name="bgp",
    help="Show who is told of which VIPs, with which attributes, and why not; change how BGP is configured.",
    help_formatter=HelpFormatter(),
    help_format="plaintext",
)
with_object(app, "bgp")

Document = Mapping[str, Any]
AsJson = Annotated[bool, Parameter(name=["--json"], negative="", help="Print JSON.")]


@app.command
def peers(*, reach: Reach = HERE, options: ListOptions = DEFAULTS) -> int:
    """Show the peers: their sessions, and how many VIPs each is told of."""
    return show(PEERS, options, lambda: _fetch(reach.address))


@app.command
def routes(*, reach: Reach = HERE, options: ListOptions = DEFAULTS) -> int:
    """Show each VIP as each peer is told of it, or why it is not."""
    return show(ROUTES, options, lambda: _fetch(reach.address))


@app.command
def why(vip: str, /, *, reach: Reach = HERE, as_json: AsJson = False) -> int:
    """Say all about one VIP: whether it is announced, whom routers are to prefer, and what each peer is told.

    Exit codes: 0 done; 1 what answers is no director; 3 nobody answers; 5 the director has no such VIP.

    Parameters
    ----------
    vip
        Its address.
    """
    try:
        address = str(ip_address(vip))
    except ValueError:
        complain(f"{vip} is not an IP address")
        return Exit.USAGE

    try:
        document = _fetch(reach.address)
    except (UnreachableError, AnswerError) as error:
        return unanswered(error)
    found = [each for each in document["vips"] if each["vip"] == address]
    if not found:
        there = ", ".join(each["vip"] for each in document["vips"]) or "none, without [bgp]"
        complain(f"{document['director']} has no VIP {address}; VIPs: {there}")
        return Exit.NOT_FOUND
    if as_json:
        print_json({"vips": found})
    else:
        print("\n".join(_why(found[0])))
    return Exit.OK


def _fetch(url: str) -> Document:
    """
    Raises:
        UnreachableError: nobody answers there.
        AnswerError: the answer is no such document, or *url* is no address of an API.
    """
    status, document = ask(url, "/api/v1/bgp")
    if status != 200 or not isinstance(document, dict) or document.get("apiVersion") != "v1":
        raise AnswerError(f"{url} answers with HTTP status {status}; is it a director, and as old as this command?")
    return document


_NOTHING = "Nothing is announced: there is no [bgp]."


def _above(document: Document) -> Iterator[str]:
    bgp = document["bgp"]
    if bgp is not None:
        yield f"AS {bgp['local_as']}, router id {bgp['router_id']}" + (f", {bgp['detail']}" if bgp["detail"] else "")
        yield ""


def _of_peer(get: Callable[[Document], object]) -> Callable[[Document], object]:
    return lambda row: get(row["peer"])


PEERS = View(
    columns=(
        Column("PEER", _of_peer(lambda peer: peer["address"])),
        Column("AS", _of_peer(lambda peer: peer["remote_as"]), right=True),
        Column("KIND", lambda row: "inside" if row["peer"]["remote_as"] == row["local_as"] else "outside"),
        Column("SESSION", _of_peer(lambda peer: peer["session"])),
        Column("BFD", _of_peer(lambda peer: peer["bfd"]["state"] if peer["bfd"] else None), or_dash),
        Column("LABELS", _of_peer(lambda peer: ",".join(peer["labels"])), or_dash),
        Column("ROUTES", _of_peer(lambda peer: len(peer["routes_sent"])), right=True),
        Column("VIPS", _of_peer(lambda peer: " ".join(sorted(peer["routes_sent"]))), or_dash, wide=True),
        Column("DETAIL", _of_peer(lambda peer: peer["detail"])),
    ),
    rows=lambda document: [
        {"peer": peer, "local_as": document["bgp"]["local_as"]} for peer in (document["bgp"] or {"peers": ()})["peers"]
    ],
    name=lambda row: str(row["peer"]["address"]),
    document=lambda document: {"bgp": document["bgp"]},
    above=_above,
    empty=_NOTHING,
)


def _of_attributes(number: int) -> Callable[[Document], object]:
    return lambda row: _cells(row["told"]["attributes"])[number]


ROUTES = View(
    columns=(
        Column("VIP", lambda row: row["vip"]),
        Column("PEER", lambda row: row["told"]["peer"]),
        Column("STATE", lambda row: "told" if row["told"]["told"] else f"not told: {row['told']['reason']}"),
        Column("NEXT HOP", lambda row: row["told"]["next_hop"], or_dash),
        Column("MED", _of_attributes(0), right=True),
        Column("PREFERENCE", _of_attributes(1), right=True),
        Column("PATH", _of_attributes(2)),
        Column("COMMUNITIES", _of_attributes(3)),
        Column("DETAIL", lambda row: row["told"]["detail"], or_dash, wide=True),
    ),
    rows=lambda document: [{"vip": vip["vip"], "told": told} for vip in document["vips"] for told in vip["peers"]],
    name=lambda row: str(row["vip"]),
    document=lambda document: {"vips": document["vips"]},
    empty=_NOTHING,
)


def _cells(attributes: Document | None) -> tuple[object, ...]:
    if attributes is None:
        return ("-",) * 4
    marks = [*attributes["communities"], *attributes["large_communities"]]
    numbers = (attributes["med"], attributes["local_preference"])
    return (
        *("-" if number is None else number for number in numbers),
        " ".join(map(str, attributes["as_path"])) or "-",
        " ".join(marks) or "-",
    )


def _why(vip: Document) -> Iterator[str]:
    told = [each["peer"] for each in vip["peers"] if each["told"]]
    if not vip["wanted"]:
        state = f"is not announced: {_because(vip)}"
    elif told:
        state = f"is announced to {', '.join(told)}"
    else:
        state = "is to be announced, and no peer has been told of it"
    yield f"{vip['vip']} {state}"
    yield f"  used by {', '.join(vip['services'])}"
    if vip["ranked"]:
        away = f"; nothing is heard of {', '.join(vip['away'])}" if vip["away"] else ""
        if absent := sorted(set(vip["absent"]) - set(vip["away"])):
            away += f"; routers do not have it from {', '.join(absent)}, or not for long"
        place = "among the best" if vip["standing"] == 0 else f"{vip['standing']} steps worse than the best"
        yield f"  {vip['ha']}: ranks {', '.join(vip['ranked'])}; this director is {place}{away}"
    else:
        yield f"  {vip['ha']}: all directors announce the same"
    for each in vip["peers"]:
        if not each["told"]:
            yield f"  {each['peer']}: not told, {_because(each)}"
        else:
            med, preference, path, marks = _cells(each["attributes"])
            yield (
                f"  {each['peer']}: next hop {each['next_hop']}, MED {med}, local preference {preference}, "
                f"AS path {path}, communities {marks}"
            )


def _because(each: Document) -> str:
    return f"{each['reason']} ({each['detail']})" if each["detail"] else str(each["reason"])
