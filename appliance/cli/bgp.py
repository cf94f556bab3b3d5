"""`onward bgp`: who is told of which VIPs, with which attributes, and why not."""

from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address
from typing import Annotated, Any

from cyclopts import App, Parameter

from appliance.cli.help import HelpFormatter
from appliance.cli.output import Exit, complain, print_json, table
from appliance.cli.status import DEFAULT_URL, AnswerError, UnreachableError, ask, unanswered

app = App(
    name="bgp",
    help="Show who is told of which VIPs, with which attributes, and why not.",
    help_formatter=HelpFormatter(),
    help_format="plaintext",
)

Document = Mapping[str, Any]
Url = Annotated[str, Parameter(name="--url", env_var="ONWARD_URL", help="Where the director's API listens.")]
AsJson = Annotated[bool, Parameter(name=["--json"], negative="", help="Print JSON.")]


@app.command
def peers(*, url: Url = DEFAULT_URL, as_json: AsJson = False) -> int:
    """Show the peers: their sessions, and how many VIPs each is told of."""
    return _show(url, as_json, _peers, lambda document: {"bgp": document["bgp"]})


@app.command
def routes(*, url: Url = DEFAULT_URL, as_json: AsJson = False) -> int:
    """Show each VIP as each peer is told of it, or why it is not."""
    return _show(url, as_json, _routes, lambda document: {"vips": document["vips"]})


@app.command
def why(vip: str, /, *, url: Url = DEFAULT_URL, as_json: AsJson = False) -> int:
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

    def only(document: Document) -> Document:
        found = [each for each in document["vips"] if each["vip"] == address]
        if not found:
            there = ", ".join(each["vip"] for each in document["vips"]) or "none, without [bgp]"
            raise _NotFoundError(f"{document['director']} has no VIP {address}; VIPs: {there}")
        return {"vips": found}

    return _show(url, as_json, lambda document: _why(only(document)["vips"][0]), only)


class _NotFoundError(Exception):
    pass


def _show(
    url: str, as_json: bool, text: Callable[[Document], Iterator[str]], part: Callable[[Document], Document]
) -> int:
    try:
        status, document = ask(url, "/api/v1/bgp")
        if status != 200 or not isinstance(document, dict) or document.get("apiVersion") != "v1":
            raise AnswerError(f"{url} answers with HTTP status {status}; is it a director, and as old as this command?")
        if as_json:
            print_json(part(document))
        else:
            print("\n".join(text(document)))
    except (UnreachableError, AnswerError) as error:
        return unanswered(error)
    except _NotFoundError as error:
        complain(str(error))
        return Exit.NOT_FOUND
    return Exit.OK


def _peers(document: Document) -> Iterator[str]:
    bgp = document["bgp"]
    if bgp is None:
        yield "Nothing is announced: there is no [bgp]."
        return
    yield f"AS {bgp['local_as']}, router id {bgp['router_id']}" + (f", {bgp['detail']}" if bgp["detail"] else "")
    yield ""
    rows = [
        (
            peer["address"],
            peer["remote_as"],
            "inside" if peer["remote_as"] == bgp["local_as"] else "outside",
            peer["session"],
            peer["bfd"]["state"] if peer["bfd"] else "-",
            ",".join(peer["labels"]) or "-",
            len(peer["routes_sent"]),
            peer["detail"],
        )
        for peer in bgp["peers"]
    ]
    yield table(("PEER", "AS", "KIND", "SESSION", "BFD", "LABELS", "ROUTES", "DETAIL"), rows, right=("AS", "ROUTES"))


def _routes(document: Document) -> Iterator[str]:
    if not document["vips"]:
        yield "Nothing is announced: there is no [bgp]."
        return
    rows = [
        (
            vip["vip"],
            told["peer"],
            "told" if told["told"] else f"not told: {told['reason']}",
            told["next_hop"] or "-",
            *_cells(told["attributes"]),
        )
        for vip in document["vips"]
        for told in vip["peers"]
    ]
    header = ("VIP", "PEER", "STATE", "NEXT HOP", "MED", "PREFERENCE", "PATH", "COMMUNITIES")
    yield table(header, rows, right=("MED", "PREFERENCE"))


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
