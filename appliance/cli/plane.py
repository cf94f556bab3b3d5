"""`onward plane`: what the data plane works with, and what it has counted."""

from collections.abc import Sequence
from typing import Annotated
from urllib.parse import quote

from cyclopts import App, Parameter

from appliance.cli.help import HelpFormatter
from appliance.cli.listing import DEFAULTS, Column, Document, ListOptions, View, or_dash, show
from appliance.cli.orders import ConfigOption, SocketOption, ask, where

app = App(
    name="plane",
    help="What the data plane works with, and what it has counted.",
    help_formatter=HelpFormatter(),
)

bpf = App(name="bpf", help="The same as plane.", help_formatter=HelpFormatter())
bpf.command(app, name="*")

SLOTS = View(
    columns=(
        Column("SLOT", lambda row: row["slot"], right=True),
        Column("PRIMARY", lambda row: row["primary"], or_dash),
        Column("PREVIOUS", lambda row: row["previous"], or_dash),
    ),
    rows=lambda document: [
        {"slot": slot, "primary": _member(document, primary), "previous": _member(document, previous)}
        for slot, (primary, previous) in enumerate(
            zip(document["primary"], document["previous"], strict=True), document["offset"]
        )
    ],
    name=lambda row: str(row["slot"]),
    below=lambda document: (f"{len(document['primary'])} of {document['count']} slots",),
)

NEIGHBOURS = View(
    columns=(
        Column("ADDRESS", lambda row: row["address"]),
        Column("INTERFACE", lambda row: _way(row, "interface"), or_dash),
        Column("MAC", lambda row: _way(row, "mac"), or_dash),
        Column("MTU", lambda row: _way(row, "mtu"), or_dash, right=True),
        Column("MEMBERS", lambda row: ", ".join(row["members"])),
        Column("WHY NOT", lambda row: " ".join(filter(None, (row["reason"], row["detail"])))),
    ),
    rows=lambda document: document["items"],
    name=lambda row: str(row["address"]),
    empty="There are no members.",
)


def _member(document: Document, place: int) -> object:
    return None if place < 0 else document["members"][place]


def _way(row: Document, key: str) -> object:
    return None if row["next_hop"] is None else row["next_hop"][key]


def _counted(document: Document) -> Sequence[Document]:
    rows = [
        {"what": "service", "name": f"{name} {vip}", **traffic}
        for name, vips in document["services"].items()
        for vip, traffic in vips.items()
    ]
    rows += [{"what": "member", "name": name, **traffic} for name, traffic in document["members"].items()]
    for what, key in (("drop", "reasons"), ("reply", "replies")):
        rows += [{"what": what, "name": name, "packets": count} for name, count in document[key].items() if count]
    return rows


COUNTERS = View(
    columns=(
        Column("WHAT", lambda row: row["what"]),
        Column("NAME", lambda row: row["name"]),
        Column("PACKETS", lambda row: row["packets"], right=True),
        Column("BYTES", lambda row: row.get("bytes"), or_dash, right=True),
        Column("NEW FLOWS", lambda row: row.get("new_flows"), or_dash, right=True),
    ),
    rows=_counted,
    name=lambda row: str(row["name"]),
    empty="Nothing was counted yet.",
)


MAPS = View(
    columns=(
        Column("MAP", lambda row: row["name"]),
        Column("KEY", lambda row: row["key_bytes"], right=True),
        Column("VALUE", lambda row: row["value_bytes"], right=True),
        Column("ROOM FOR", lambda row: row["entries"], right=True),
        Column("BYTES", lambda row: row["bytes"], right=True),
    ),
    rows=lambda document: document["items"],
    name=lambda row: str(row["name"]),
    above=lambda document: (f"program {document['program']}",) if document["program"] else (),
    empty="No BPF program forwards here, so there are no maps; `onward status` says why.",
)


@app.command(name="list")
def list_maps(*, config: ConfigOption = None, socket: SocketOption = None, options: ListOptions = DEFAULTS) -> int:
    """List the maps of the XDP program, as the kernel has them: bytes of keys and values, room, memory.

    What is in them: `slots`, `neighbours` and `counters`, and `onward flow list`.
    """
    return show(MAPS, options, lambda: ask(where(socket, config), "GET", "/v1/maps"))


@app.command
def slots(
    service: str,
    /,
    *,
    offset: Annotated[int, Parameter(name="--offset")] = 0,
    limit: Annotated[int, Parameter(name=["--limit", "-n"])] = 100,
    config: ConfigOption = None,
    socket: SocketOption = None,
    options: ListOptions = DEFAULTS,
) -> int:
    """Show whose the slots of a virtual service are, and whose they were while flows of the one before may be there.

    Exit codes: 0 done; 1 refused; 3 nobody answers; 5 there is no such virtual service.

    Parameters
    ----------
    service
        The virtual service's name.
    offset
        The first slot.
    limit
        How many of them.
    """

    def fetch() -> Document:
        resource = f"/v1/services/{quote(service, safe='')}/slots?offset={offset}&limit={limit}"
        return ask(where(socket, config), "GET", resource)

    return show(SLOTS, options, fetch)


@app.command
def neighbours(*, config: ConfigOption = None, socket: SocketOption = None, options: ListOptions = DEFAULTS) -> int:
    """Show next hops to members, and why there is none."""
    return show(NEIGHBOURS, options, lambda: ask(where(socket, config), "GET", "/v1/neighbours"))


@app.command
def counters(*, config: ConfigOption = None, socket: SocketOption = None, options: ListOptions = DEFAULTS) -> int:
    """Show what the data plane has counted: by virtual service and VIP, by member, drops and replies by reason."""
    return show(COUNTERS, options, lambda: ask(where(socket, config), "GET", "/v1/counters"))
