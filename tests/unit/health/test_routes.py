"""What the checks make of a network that does not reach the member: real routes in a namespace of its own."""

import json
import sys

import pytest

from tests.netns import Namespace, namespaces, veth

PROBE = """
import asyncio, json, sys
import uvloop
from ipaddress import ip_address
from health.checks import CHECKS
from health.spec import Target

async def probe(kind, address):
    result = await CHECKS[kind](timeout_s=6.0).probe(Target("web/web1", ip_address(address), 80))
    return kind, address, result.code, result.detail

async def main():
    return await asyncio.gather(*(probe(kind, address) for kind in CHECKS for address in sys.argv[2:]))

print(json.dumps({"uvloop": uvloop.run, "asyncio": asyncio.run}[sys.argv[1]](main())))
"""


def prepare(space: Namespace, peer: Namespace) -> None:
    veth(space, "eth1", peer, "eth0")
    space.ip("addr add 192.0.2.1/24 dev eth1")
    space.ip("addr add 2001:db8::1/64 dev eth1 nodad")
    for kind, address in (("blackhole", "198.51.100.1"), ("unreachable", "198.51.100.2"), ("prohibit", "198.51.100.3")):
        space.ip(f"route add {kind} {address}")


@pytest.mark.root
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_member_that_cannot_be_reached(loop: str) -> None:
    """No route, a route to nowhere and a machine that is off are UNREACHABLE, for UDP without an answer as well."""
    gone = ("192.0.2.9", "2001:db8::9")
    routes = {
        "198.51.100.1": "invalid argument",
        "198.51.100.2": "no route to host",
        "198.51.100.3": "permission denied",
        "203.0.113.1": "network is unreachable",
    }
    with namespaces("h", "m", prefix="owh") as (space, peer):
        prepare(space, peer)
        results = json.loads(space.run(sys.executable, "-c", PROBE, loop, *gone, *routes))
    assert len(results) == 12
    for kind, address, code, detail in results:
        expected = routes.get(address, "no route to host")
        assert (code, detail) == ("unreachable", f"{'connect' if kind == 'tcp' else 'ask'}: {expected}"), address
