"""`onward agent`: a member's own view, for directors' doctors."""

import asyncio
import json
import signal
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from appliance.cli.output import Exit, complain
from appliance.config.files import MAX_NAMED_BYTES
from appliance.doctor.agent import PORT, Agent
from appliance.doctor.observe import ObserveError, observe
from appliance.doctor.proof import SHORTEST_SECRET


def agent(
    *,
    secret_file: Path | None = None,
    listen: str = "0.0.0.0",  # noqa: S104 - who knows no secret gets no answer
    port: int = PORT,
    once: Annotated[bool, Parameter(negative="")] = False,
    vip: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    root: Annotated[Path, Parameter(show=False)] = Path("/"),
) -> int:
    """Tell directors that know a secret what this member sees of itself, until SIGTERM or SIGINT.

    It reads addresses, interfaces, settings, listeners, counters and the firewall's rules, and counts packets of the
    director that asks, while it asks. It changes nothing. Takes CAP_NET_RAW, and CAP_NET_ADMIN to read firewall rules.

    Exit codes: 0 done; 1 it cannot; 2 wrong usage.

    Parameters
    ----------
    secret_file
        With the secret, at least 16 bytes: that of `[doctor] agent_secret_file`.
    listen
        Address to listen on; all of IPv4 by default, "::" is all.
    port
        TCP port.
    once
        Print what there is to say, and end: for `onward doctor --report`.
    vip
        With --once: a VIP of this member. May be repeated.
    root
        Where the files of /etc are looked for.
    """
    if once:
        try:
            vips = [ip_address(one) for one in vip]
            print(json.dumps(observe(vips, None, root).document(), indent=2))
        except ValueError as error:
            complain(f"--vip: {error}")
            return Exit.USAGE
        except ObserveError as error:
            complain(str(error))
            return Exit.FAILED
        return Exit.OK
    if secret_file is None:
        complain("--secret-file is missing: who may ask has to know a secret")
        return Exit.USAGE
    try:
        with secret_file.open("rb") as file:
            secret = file.read(MAX_NAMED_BYTES).strip()
    except OSError as error:
        complain(f"{secret_file}: {error.strerror or error}")
        return Exit.FAILED
    if len(secret) < SHORTEST_SECRET:
        complain(f"{secret_file} has {len(secret)} bytes, {SHORTEST_SECRET} are needed")
        return Exit.FAILED
    try:
        asyncio.run(_serve(Agent(secret, root), listen, port))
    except OSError as error:
        complain(f"cannot listen on {listen} port {port}: {error.strerror or error}")
        return Exit.FAILED
    return Exit.OK


async def _serve(served: Agent, listen: str, port: int) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await served.run(listen, port, stop)
