"""`onward client`: virtual services as a client sees them, for directors' doctors."""

import json
import socket
from typing import Annotated

from cyclopts import Parameter

from appliance.cli.output import Exit, complain
from appliance.doctor.client import ClientReport
from appliance.doctor.visit import visit
from appliance.explain.question import endpoint

MOST = 1000
"""Connections in one report."""


def client(
    *targets: Annotated[str, Parameter(name="TARGET")],
    count: int = 16,
    timeout: float = 5.0,
    name: str = "",
) -> int:
    """Try TCP connections to VIPs from this machine, and print what came back, for `onward doctor --client`.

    Call it where clients are: packets go to whichever director routers choose, and replies come straight from members.
    The doctor finds out by the ports which member each connection went to. Nothing is sent on them.

    Exit codes: 0 done; 2 wrong usage.

    Parameters
    ----------
    targets
        VIP:PORT, or [VIP]:PORT.
    count
        Connections to each, from as many ports, so that they spread over members.
    timeout
        Seconds that an answer may take.
    name
        Of this machine, for people; by default its host name.
    """
    problems = [] if targets else ["which virtual services? give VIP:PORT"]
    ends = []
    for text in targets:
        try:
            ends.append(endpoint(text))
        except ValueError as error:
            problems.append(str(error))
    if not 1 <= count * max(1, len(ends)) <= MOST:
        problems.append(f"--count {count}: give 1 to {MOST // max(1, len(ends))}")
    if not 0.1 <= timeout <= 60:
        problems.append(f"--timeout {timeout:g}: give 0.1 to 60 seconds")
    if problems:
        for problem in problems:
            complain(problem)
        return Exit.USAGE
    tries = visit([(one.address, one.port) for one in ends for _ in range(count)], timeout)
    print(json.dumps(ClientReport(name or socket.gethostname(), tuple(tries)).document(), indent=2))
    return Exit.OK
