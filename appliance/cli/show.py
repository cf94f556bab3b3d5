"""`onward show`: virtual services as they are now, a member a line."""

from appliance.cli.listing import NotFoundError
from appliance.cli.output import Exit, Output, complain
from appliance.cli.status import (
    HERE,
    AnswerError,
    Document,
    JsonOption,
    NoHeader,
    OutputOption,
    Reach,
    UnreachableError,
    WatchOption,
    fetch,
    services,
    unanswered,
)
from appliance.cli.status import show as show_services
from appliance.config.problems import did_you_mean


def show(
    service: str | None = None,
    /,
    *,
    reach: Reach = HERE,
    output: OutputOption = "table",
    as_json: JsonOption = False,
    no_header: NoHeader = False,
    watch: WatchOption = None,
) -> int:
    """Show virtual services as they are now: VIPs, and members with their share, packets, flows and state.

    It is what `onward status` shows, without all else. `onward virtualservice show` has what is configured.

    Exit codes: 0 done; 1 what answers is no director; 3 nobody answers; 5 there is no such virtual service.

    Parameters
    ----------
    service
        Only this one.
    """
    form: Output = "json" if as_json else output
    try:
        shown = show_services(
            lambda: _of(fetch(reach.address), service),
            lambda document, look: "\n".join(services(document, look)),
            form,
            watch,
            header=not no_header,
        )
    except NotFoundError as error:
        complain(str(error))
        return Exit.NOT_FOUND
    except (UnreachableError, AnswerError) as error:
        return unanswered(error)
    return Exit.USAGE if shown is None else Exit.OK


def _of(document: Document, name: str | None) -> Document:
    """One virtual service, or all, with their pools.

    Raises:
        NotFoundError: there is none of that name.
    """
    found = [one for one in document["services"] if name in (None, one["name"])]
    if name is not None and not found:
        there = [one["name"] for one in document["services"]]
        names = f"there are: {', '.join(there)}" if there else "there is none yet"
        raise NotFoundError(f"there is no virtual service {name}; {did_you_mean(name, there)}{names}")
    keys = {one["pool_key"] for one in found}
    pools = {key: pool for key, pool in document["pools"].items() if key in keys}
    return {"apiVersion": document["apiVersion"], "services": found, "pools": pools}
