"""Runs inside a namespace: follow the addresses named on the command line, those behind "own" as own ones, and print
every report as one JSON line."""

import asyncio
import json
import sys
from dataclasses import asdict
from ipaddress import ip_address

import uvloop

from appliance.forwarding import NextHop
from appliance.netlink import Netlink


def report(hops):
    def plain(hop):
        kind = "hop" if isinstance(hop, NextHop) else "unresolved"
        return {"is": kind} | {k: v.hex() if isinstance(v, bytes) else str(v) for k, v in asdict(hop).items()}

    print(json.dumps({str(address): plain(hop) for address, hop in hops.items()}), flush=True)


async def main():
    netlink = Netlink(report)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(netlink.run(), name="netlink")
        targets, _, own = " ".join(sys.argv[1:]).partition(" own ")
        netlink.follow(map(ip_address, targets.split()), own=map(ip_address, own.split()))


uvloop.run(main())
