"""`onward drain` and `onward undrain`: take the director itself out of service, and put it back."""

import sys
import time
from typing import Annotated

from cyclopts import Parameter

from appliance.cli.orders import ConfigOption, Document, OrderError, ReasonOption, SocketOption, ask, refused, where
from appliance.cli.output import Exit, complain, warn

LOOK_S = 0.2
DRAIN_S = 60.0


def drain(
    *,
    timeout: Annotated[float, Parameter(name="--timeout")] = DRAIN_S,
    wait: Annotated[bool, Parameter(name="--wait", negative="")] = False,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    socket: SocketOption = None,
) -> int:
    """Take this director out of service: ask routers to take other ways, and withdraw its routes when they do.

    Routes get the graceful-shutdown community (RFC 8326), the least local preference, the highest MED and a longer
    path. They are withdrawn when no packet has come for 2 seconds, or after the time-out. That stays so over
    restarts, stops and reboots, until `onward undrain`.

    Parameters
    ----------
    timeout
        Seconds until routes are withdrawn whatever still comes.
    wait
        Wait until the routes are withdrawn; exit code 1 when packets were still coming.
    """
    try:
        path = where(socket, config)
        document = ask(path, "POST", "/v1/director/drain", {"timeout_s": timeout, "reason": reason})
        if document["alone"]:
            warn(f"nobody takes over from {document['name']}: {document['alone']}; its VIPs go with it")
        if wait:
            while document["state"] == "draining":
                time.sleep(LOOK_S)
                document = ask(path, "GET", "/v1/director")
    except OrderError as error:
        return refused(error)
    print(_said(document), file=sys.stderr)
    if wait and document["state"] != "drained":
        complain("somebody has taken the drain back")
    return Exit.OK if not wait or document["moved"] else Exit.FAILED


def undrain(*, reason: ReasonOption = "", config: ConfigOption = None, socket: SocketOption = None) -> int:
    """Put this director back into service: it announces again what it can serve."""
    try:
        document = ask(where(socket, config), "POST", "/v1/director/undrain", {"reason": reason})
    except OrderError as error:
        return refused(error)
    print(_said(document), file=sys.stderr)
    return Exit.OK


def _said(document: Document) -> str:
    if document["state"] == "drained":
        return f"{document['name']} is drained: {document['detail']}"
    if document["state"] == "draining":
        seconds = max(0.0, document["until"] - document["now"])
        return f"{document['name']} is draining: routes are withdrawn when no packets come, in {seconds:.0f} s at most"
    return f"{document['name']} is in service"
