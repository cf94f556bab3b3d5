"""`onward flow`: flows that a director remembers, and where one would go."""

from typing import Annotated
from urllib.parse import urlencode

from cyclopts import App, Parameter

from appliance.cli.help import HelpFormatter
from appliance.cli.listing import DEFAULTS, Column, Document, ListOptions, View, or_dash, show
from appliance.cli.orders import ConfigOption, SocketOption, ask, where
from appliance.cli.status import duration

app = App(
    name="flow",
    help="Flows that are remembered, and where one would go.",
    help_formatter=HelpFormatter(),
)

FLOWS = View(
    columns=(
        Column("CLIENT", lambda row: _end(row["client"], row["client_port"])),
        Column("VIP", lambda row: _end(row["vip"], row["port"])),
        Column("PROTOCOL", lambda row: row["protocol"]),
        Column("MEMBER", lambda row: row["member"], or_dash),
        Column("STATE", lambda row: row["state"]),
        Column("IDLE", lambda row: row["idle_s"], duration, right=True),
        Column("AGE", lambda row: row["age_s"], duration, right=True),
        Column("VIRTUAL SERVICE", lambda row: row["service"], or_dash, wide=True),
    ),
    rows=lambda document: document["items"],
    name=lambda row: _end(row["client"], row["client_port"]),
    below=lambda document: [
        "{shown} of {matching} shown; {live} remembered, room for {capacity}".format(
            shown=len(document["items"]), **document
        )
    ],
    empty="No flow is remembered: in steady slots, the hash alone says where they go.",
)


def _end(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@app.command(name="list")
def list_(
    *,
    service: Annotated[str | None, Parameter(name="--service")] = None,
    member: Annotated[str | None, Parameter(name="--member")] = None,
    client: Annotated[str | None, Parameter(name="--client")] = None,
    limit: Annotated[int, Parameter(name=["--limit", "-n"])] = 100,
    config: ConfigOption = None,
    socket: SocketOption = None,
    options: ListOptions = DEFAULTS,
) -> int:
    """List flows that the director remembers (pins), the latest first.

    Exit codes: 0 done; 1 refused; 3 nobody answers; 5 there is no such virtual service or member.

    Parameters
    ----------
    service
        Only those of this virtual service.
    member
        Only those of this POOL/MEMBER.
    client
        Only those of this address.
    limit
        The latest so many, 10,000 at most.
    """
    wishes = {"service": service, "member": member, "client": client, "limit": limit}
    query = urlencode({key: value for key, value in wishes.items() if value is not None})

    def fetch() -> Document:
        return ask(where(socket, config), "GET", f"/v1/pins?{query}")

    return show(FLOWS, options, fetch)


app.command("appliance.cli.explain:explain", name="lookup", help="Say where a flow goes, and why: the same as explain.")
