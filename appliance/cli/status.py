"""`onward status`: what a running director does, and why not more."""

import http.client
import json
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import App, Parameter

from appliance.cli.connect import CA_FILE, TOKEN, connection_to
from appliance.cli.orders import (
    RUNTIME_DIR,
    SOCKET,
    SOCKET_VARIABLE,
    ConfigOption,
    OrderError,
    SocketOption,
    where,
)
from appliance.cli.output import Exit, Output, colour_wanted, complain, structured

app = App()

DEFAULT_URL = "http://127.0.0.1:8080"
URL_VARIABLE = "ONWARD_URL"
"""In the environment: the director to ask where no option says another one."""

TIMEOUT_S = 5.0
WATCH_S = 1.0
ENDLESS = sys.maxsize
"""A width that cuts nothing."""

MEANT = ("disabled", "ratio_zero", "removed", "drain", "drain_over", "maint", "maintenance_response")
"""Reasons of a member to be out that somebody has wanted."""

_EXIT_CODES = {"healthy": 0, "degraded": 10, "down": 11}

Document = Mapping[str, Any]


class UnreachableError(Exception):
    """No director answers; the text says what to do."""


class AnswerError(Exception):
    """Something answers, but not a director that we understand."""


@Parameter(name="*")
@dataclass(frozen=True)
class Reach:
    """Which director is asked, and by which way."""

    url: Annotated[
        str | None,
        Parameter(
            name="--url",
            help="The director's API: http://HOST:PORT, https://HOST:PORT or unix:PATH. By default what ONWARD_URL "
            f"says, else the control socket in {RUNTIME_DIR} where it is there and we may open it, else {DEFAULT_URL}.",
        ),
    ] = None
    socket: SocketOption = None
    config: ConfigOption = None

    @property
    def address(self) -> str:
        """For `connect.connection_to`. Whatever an option says counts before all that the environment says.

        Raises:
            AnswerError: the configuration cannot be read.
        """
        if self.url is not None:
            return self.url
        if self.socket is None and self.config is None:
            if url := os.environ.get(URL_VARIABLE):
                return url
            if not os.environ.get(SOCKET_VARIABLE) and not os.access(RUNTIME_DIR / SOCKET, os.W_OK):
                return DEFAULT_URL
        try:
            return f"unix:{where(self.socket, self.config)}"
        except OrderError as error:
            raise AnswerError(str(error)) from error


HERE = Reach()

OutputOption = Annotated[
    Output,
    Parameter(
        name=["--output", "-o"],
        help="As text, as wide text that nothing is cut of, as JSON or YAML, or the names of virtual services alone.",
    ),
]
JsonOption = Annotated[bool, Parameter(name="--json", negative="", show_default=False, help="The same as -o json.")]
NoHeader = Annotated[
    bool, Parameter(name="--no-header", negative="", show_default=False, help="Without what stands above.")
]
WatchOption = Annotated[
    list[float] | None,
    Parameter(
        name=["--watch", "-w"],
        consume_multiple=(0, 1),
        negative="",
        help="Show again every so many seconds (1 when none are given), until Ctrl-C; as JSON, a document a line.",
    ),
]


@app.default
def status(
    *,
    reach: Reach = HERE,
    output: OutputOption = "table",
    as_json: JsonOption = False,
    no_header: NoHeader = False,
    watch: WatchOption = None,
    exit_code: Annotated[bool, Parameter(name=["--exit-code"], negative="")] = False,
) -> int:
    """Show what a running director does: virtual services, VIPs, members, BGP sessions, drops.

    Packets and flows count client to member; replies never pass a director, so nothing is said about them.

    Exit codes: 0 done; 1 what answers is no director; 3 nobody answers. With --exit-code also 10 degraded (a member
    is out, a BGP session is down, a reload was rejected) and 11 down (a virtual service has too few members, or a VIP
    is not announced though it should be).

    Parameters
    ----------
    exit_code
        Tell the director's health by the exit code: 0 healthy, 10 degraded, 11 down.
    """
    form: Output = "json" if as_json else output
    try:
        document = show(lambda: fetch(reach.address), render, form, watch, header=not no_header)
    except (UnreachableError, AnswerError) as error:
        return unanswered(error)
    if document is None:
        return Exit.USAGE
    return _EXIT_CODES[document["health"]["state"]] if exit_code and watch is None else Exit.OK


def show(
    fetch: Callable[[], Document],
    as_text: "Callable[[Document, Look], str]",
    form: Output,
    watch: Sequence[float] | None,
    *,
    header: bool,
) -> Document | None:
    """Print a document with virtual services once, or again and again until Ctrl-C.

    Args:
        fetch: asks for it.
        as_text: the document as text, as wide as it is looked at.
        form: how it is wanted; by name, these are its virtual services.
        watch: seconds in between; an empty list for the usual ones, None for once only.
        header: print what stands above.

    Returns:
        The document that was printed last; None when *watch* makes no sense, which is said.

    Raises:
        UnreachableError, AnswerError: as *fetch*. Once a director has answered, its absence is news and no reason to
            leave: it may be starting again.
    """
    pause_s = None if watch is None else watch[0] if watch else WATCH_S
    if pause_s is not None and not 0.1 <= pause_s <= 3600:
        complain("--watch takes 0.1 to 3600 seconds")
        return None
    clear = "\x1b[H\x1b[J" if sys.stdout.isatty() and form in ("table", "wide") and pause_s is not None else ""

    def text(document: Document) -> str:
        if form == "json" or form == "yaml":
            return structured(document, form, on_a_line=pause_s is not None)
        if form == "name":
            return "\n".join(service["name"] for service in document["services"])
        return as_text(document, _look(wide=form == "wide", header=header))

    latest = fetch()
    document: Document | None = latest
    if pause_s is None:
        print(text(latest))
        return latest
    try:
        while True:
            if document is not None:
                latest = document
                print(clear + text(document), flush=True)
            time.sleep(pause_s)
            try:
                document = fetch()
            except UnreachableError as error:
                document = None
                complain(str(error))
    except KeyboardInterrupt:
        return latest


# ---------------------------------------------------------------------------------------------------------------------
# Asking


def unanswered(error: UnreachableError | AnswerError) -> int:
    """Say why there is nothing to show; the exit code."""
    complain(str(error))
    return Exit.UNREACHABLE if isinstance(error, UnreachableError) else Exit.FAILED


def fetch(url: str) -> Document:
    """The status document of the director at *url*.

    Raises:
        UnreachableError: nobody answers there.
        AnswerError: the answer is no status document, or *url* is no address of an API.
    """
    status, document = ask(url, "/api/v1/status")
    if status != 200 or not isinstance(document, dict) or document.get("apiVersion") != "v1":
        raise AnswerError(
            f"{url} answers with HTTP status {status} and no status document of version v1; "
            "is it a director, and as old as this command?"
        )
    return document


def ask(url: str, path: str) -> tuple[int, Any]:
    """What the director at *url* has at *path*: HTTP status and JSON value, None when it is none.

    Args:
        url: see `connect.connection_to`.
        path: below `/api`, such as `/api/v1/status`.

    Raises:
        UnreachableError: nobody answers there.
        AnswerError: *url* is no address of an API, or it wants to know who we are.
    """
    try:
        connection, front, headers = connection_to(url, TIMEOUT_S)
    except ValueError:
        remedy = f"give one like {DEFAULT_URL}, https://HOST:PORT, or unix:/run/onward/control.sock"
        raise AnswerError(f"{url} is not the URL of a director; {remedy}") from None
    except OSError as error:
        raise AnswerError(f"{CA_FILE}: {error}") from error
    try:
        connection.request("GET", front + path.removeprefix("/api"), headers=headers)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise UnreachableError(
            f"no director answers at {url} ({_reason(error)}); is it running"
            f"{'' if url.startswith('unix:') else ', and does [api] say this address'}? "
            "Start it with `onward run`, or give --url, --socket or --config"
        ) from error
    finally:
        connection.close()
    if response.status in (401, 403):
        raise AnswerError(
            f"{url} wants to know who asks (HTTP status {response.status}); set {TOKEN} to a token of its "
            "[[api.token]], or ask its control socket: --url unix:/run/onward/control.sock"
        )
    try:
        return response.status, json.loads(body)
    except ValueError:
        return response.status, None


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing within {TIMEOUT_S:g} s"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


# ---------------------------------------------------------------------------------------------------------------------
# Showing


@dataclass(frozen=True)
class Look:
    """How to print."""

    width: int = 80
    colour: bool = False
    header: bool = True
    """With what stands above: the director, and the titles of columns."""


def _look(*, wide: bool, header: bool) -> Look:
    """Whoever reads through a pipe can cut lines, but not put back what was cut."""
    width = max(shutil.get_terminal_size().columns, 60) if sys.stdout.isatty() and not wide else ENDLESS
    return Look(width, colour_wanted(sys.stdout), header)


_COLOURS = {"good": "32", "warn": "33", "bad": "31", "faint": "2", "bold": "1"}
_TONES = {
    "healthy": "good",
    "degraded": "warn",
    "down": "bad",
    "up": "good",
    "connected": "warn",
    "disabled": "faint",
    "in_rotation": "good",
    "draining": "warn",
    "out": "bad",
}


Cell = tuple[str, str]
"""Text and tone."""


def render(document: Document, look: Look) -> str:
    """The document as text: aligned columns, no line wider than *look* asks for."""
    return "\n".join(_lines(document, look))


def _lines(document: Document, look: Look) -> Iterator[str]:
    if look.header:
        yield from _director(document, look)
        if document["services"]:
            yield ""
    yield from services(document, look)
    yield from _fleet(document["fleet"], look)
    yield from _bgp(document["bgp"], look)
    yield from _drops(document, look)


def _director(document: Document, look: Look) -> Iterator[str]:
    director, health = document["director"], document["health"]
    state = painted(health["state"], _TONES[health["state"]], look)
    uptime = f"up {duration(director['uptime_s'])}, "
    used = len(director["name"]) + len(health["state"]) + len(uptime) + 4
    yield f"{painted(director['name'], 'bold', look)}  {state}  {uptime}" + fit(
        f"{document['plane']['name']}, hash key {director['hash_key']}, version {director['version']}",
        look.width - used,
    )
    for problem in health["problems"]:
        for line in textwrap.wrap(problem, look.width, initial_indent="  ! ", subsequent_indent="    "):
            yield painted(line, "bad" if health["state"] == "down" else "warn", look)
    for note in document["plane"]["notes"]:
        for line in textwrap.wrap(note, look.width, initial_indent="  ", subsequent_indent="    "):
            yield painted(line, "faint", look)


def services(document: Document, look: Look) -> Iterator[str]:
    """Virtual services with their VIPs and members, then pools that several of them use."""
    for number, service in enumerate(document["services"]):
        if number:
            yield ""
        yield from _service(service, document["pools"][service["pool_key"]], look)
    disabled = {service["name"] for service in document["services"] if service["state"] == "disabled"}
    for pool in document["pools"].values():
        if _is_shared(pool):
            yield ""
            yield from _pool(pool, disabled, look)


def _bgp(bgp: Document | None, look: Look) -> Iterator[str]:
    if bgp is not None:
        yield ""
        yield fit(f"BGP  AS {bgp['local_as']}  router id {bgp['router_id']}", look.width)
        yield from columns(
            [
                (
                    ("  " + peer["address"], ""),
                    (peer["session"], _TONES[peer["session"]]),
                    *((_bfd(peer["bfd"]),) if any(each["bfd"] for each in bgp["peers"]) else ()),
                    (f"AS {peer['remote_as']}", ""),
                    (f"{len(peer['routes_sent'])} routes", ""),
                    (peer["detail"], "faint"),
                )
                for peer in bgp["peers"]
            ],
            look,
        )


def _bfd(bfd: Document | None) -> Cell:
    return ("", "") if bfd is None else (f"BFD {bfd['state']}", "good" if bfd["state"] == "up" else "warn")


def _fleet(fleet: Document | None, look: Look) -> Iterator[str]:
    if fleet is None:
        return
    store = fleet["store"]
    kept = "no store" if store is None else f"store {store['endpoint'] or 'not reached'}, {store['source']} verdicts"
    yield ""
    yield fit(f"Fleet  {kept}", look.width)
    yield from columns(
        [
            (
                ("  " + peer["name"], ""),
                (peer["state"], "good" if peer["state"] == "joined" else "warn"),
                (peer["address"], ""),
                (f"flows told {number(peer['sent'])}, heard {number(peer['received'])}", ""),
                (f"other tables: {', '.join(peer['tables_differ'])}" if peer["tables_differ"] else "", "bad"),
            )
            for peer in fleet["peers"]
        ],
        look,
    )


def _service(service: Document, pool: Document, look: Look) -> Iterator[str]:
    """In the manner of `ipvsadm -L`: the virtual service, then `->` and a member a line."""
    ports = ",".join(service["ports"])
    facts = f"{service['protocol'].upper()} {ports}  {service['delivery']}  {service['hash_mode']}"
    state = painted(service["state"], _TONES[service["state"]], look)
    name = painted(service["name"], "bold", look)
    room = look.width - len(service["name"]) - len(service["state"]) - 4
    yield f"{name}  {state}  " + fit(facts + (f"  {_because(service)}" if service["reason"] else ""), room)
    yield from columns(
        [
            (
                ("  " + vip["vip"], ""),
                ("announced", "good")
                if vip["announced"]
                else ("not announced", "faint" if vip["reason"] in ("no_bgp", "service_disabled") else "bad"),
                (_because(vip) if vip["reason"] else _to(vip["sent_to"]), "faint"),
            )
            for vip in service["vips"]
        ],
        look,
    )
    yield from columns(
        [
            (
                ("  " + vip["vip"], ""),
                (f"ARP: {arp['phase']}", {"answering": "good", "conflict": "bad"}.get(arp["phase"], "faint")),
                (arp["why"], "faint"),
            )
            for vip in service["vips"]
            if (arp := vip["arp"]) is not None
        ],
        look,
    )
    moving = service["transition"]
    if moving["window"] or moving["tail"]:
        text = f"{moving['window']} slots in a window, {moving['tail']} in the tail: flows are remembered there"
        yield painted(fit(f"  changing hands: {text}", look.width), "faint", look)
    if _is_shared(pool):
        text = f"{service['in_rotation']} of {len(pool['members'])} in rotation, see below"
        yield fit(f"  -> pool {pool['name']}  {pool['delivery']}  {text}", look.width)
    else:
        yield from _members(pool, service["state"] == "disabled", look)


def _is_shared(pool: Document) -> bool:
    """Several virtual services use it: its members stand once, and their counters are of no single service."""
    return len(pool["traffic_of"]) > 1


def _pool(pool: Document, disabled: Set[str], look: Look) -> Iterator[str]:
    facts = f"{pool['delivery']}  {pool['in_rotation']} of {len(pool['members'])} in rotation"
    users = f"{len(pool['services'])} virtual service{'s' if len(pool['services']) != 1 else ''}"
    name = f"pool {pool['name']}"
    room = look.width - len(name) - 2
    yield f"{painted(name, 'bold', look)}  " + fit(f"{facts}  for {users}: {', '.join(pool['services'])}", room)
    note = f"packets and flows are the pool's, of all {len(pool['traffic_of'])} virtual services together"
    yield painted(fit(f"  {note}", look.width), "faint", look)
    yield from _members(pool, disabled >= set(pool["services"]), look)


def _members(pool: Document, off: bool, look: Look) -> Iterator[str]:
    rows: list[tuple[Cell, ...]] = [
        (
            ("  -> " + member["name"], ""),
            (member["address"], ""),
            (f"{member['share']:.1%}", ""),
            (number(member["traffic"]["packets"]), ""),
            (number(member["traffic"]["new_flows"]), ""),
            (member["state"].replace("_", " "), _member_tone(off, member)),
            # Where it would be cut, the list of problems above has the rest.
            (_why(member, look), "faint"),
        )
        for member in pool["members"]
    ]
    header = tuple((text, "faint") for text in ("     MEMBER", "ADDRESS", "SHARE", "PACKETS", "FLOWS", "STATE", ""))
    yield from columns([header, *rows] if look.header else rows, look, right={2, 3, 4})


def _why(member: Document, look: Look) -> str:
    if not member["reason"]:
        return "; ".join(filter(None, (member["remark"], _incapable(member, look))))
    return _because(member) if look.width >= 100 else str(member["reason"])


def _incapable(member: Document, look: Look) -> str:
    """For which virtual services the doctor says that a member cannot serve by DSR, with the first reason."""
    found = [one for one in member["dsr"] if one["dsr_capable"] == "no"]
    if look.width < 100:
        return "not DSR-capable" if found else ""
    return "; ".join(f"not DSR-capable for {one['service']}: {one['reasons'][0]}" for one in found)


def _member_tone(off: bool, member: Document) -> str:
    if member["state"] == "out" and (off or member["reason"] in MEANT):
        return "faint"
    return _TONES[member["state"]]


def _drops(document: Document, look: Look) -> Iterator[str]:
    counters = document["counters"]
    if counters is None:
        return
    drops = sorted(((count, reason) for reason, count in counters["drops"].items() if count), reverse=True)
    yield ""
    text = "  ".join(f"{reason} {number(count)}" for count, reason in drops)
    yield fit(f"Drops  {text or 'none'}", look.width)
    yield painted(fit(f"Numbers count client to member. Replies: {document['replies']}.", look.width), "faint", look)


def _to(peers: list[str]) -> str:
    return f"to {', '.join(peers)}" if peers else ""


def _because(item: Document) -> str:
    detail = item["detail"]
    if not detail and item["reason"] == "health_down":
        bad = [check["last"] for check in item.get("checks", ()) if check["verdict"] == "down" and check["last"]]
        detail = item.get("finding") or "; ".join(last["detail"] or last["code"] for last in bad)
    return f"{item['reason']} ({detail})" if detail else str(item["reason"])


def columns(rows: list[tuple[Cell, ...]], look: Look, right: set[int] | None = None) -> Iterator[str]:
    """Aligned; the last column gets what room is left, and is cut there."""
    if not rows:
        return
    widths = [max(len(row[column][0]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        line, used = "", 0
        for column, (text, tone) in enumerate(row):
            gap = "  " if column else ""
            room = look.width - used - len(gap)
            if room <= 0:
                break
            width = min(widths[column], room)
            text = fit(text, width)
            last = column == len(row) - 1
            padding = "" if last else " " * (width - len(text))
            shown = painted(text, tone, look)
            line += gap + (padding + shown if right and column in right else shown + padding)
            used += len(gap) + width
        yield line.rstrip()


def fit(text: str, width: int) -> str:
    """*text*, cut where it is too long."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def tone_of(state: str) -> str:
    """How a state is painted; plain for those that are unknown."""
    return _TONES.get(state, "")


def painted(text: str, tone: str, look: Look) -> str:
    """*text* in the colour of a tone."""
    return f"\x1b[{_COLOURS[tone]}m{text}\x1b[0m" if look.colour and tone and text else text


def number(value: int | None) -> str:
    """At most five digits."""
    if value is None:
        return "-"
    for factor, unit in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= 100_000 and value >= factor:
            return f"{value / factor:.1f}{unit}"
    return str(value)


def duration(seconds: float) -> str:
    """Such as `3 min 4 s`."""
    seconds = max(0, int(seconds))
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"
