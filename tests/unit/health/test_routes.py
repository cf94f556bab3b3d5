"""What the checks make of a network that does not reach the member: real routes in a namespace of its own."""

from typing import Any

import pytest

from health.checks import CHECKS
from tests.netns import Namespace, namespaces, veth
from tests.unit.health.probing import asked

QUESTIONS: dict[str, dict[str, Any]] = {
    "half open": {"half_open": True},
    "dns by tcp": {"query_name": "www.example.com", "transport": "tcp"},
    "dns": {"query_name": "www.example.com"},
} | {kind: {} for kind in CHECKS if kind not in ("dns", "external")}

DATAGRAMS = ("udp", "dns", "ping")


def prepare(space: Namespace, peer: Namespace) -> None:
    veth(space, "eth1", peer, "eth0")
    space.ip("addr add 192.0.2.1/24 dev eth1")
    space.ip("addr add 2001:db8::1/64 dev eth1 nodad")
    for kind, address in (("blackhole", "198.51.100.1"), ("unreachable", "198.51.100.2"), ("prohibit", "198.51.100.3")):
        space.ip(f"route add {kind} {address}")


@pytest.mark.root
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_member_that_cannot_be_reached(loop: str) -> None:
    """No route, a route to nowhere and a machine that is off are unreachable, for UDP without an answer as well."""
    gone = ("192.0.2.9", "2001:db8::9")
    routes = {
        "198.51.100.1": "invalid argument",
        "198.51.100.2": "no route to host",
        "198.51.100.3": "permission denied",
        "203.0.113.1": "network is unreachable",
    }
    questions = [
        ({"half open": "tcp", "dns by tcp": "dns"}.get(kind, kind), address, 80, {"timeout_s": 6.0} | settings)
        for kind, settings in QUESTIONS.items()
        for address in (*gone, *routes)
    ]
    with namespaces("h", "m", prefix="owh") as (space, peer):
        prepare(space, peer)
        results = asked(space, loop, *questions)
    kinds = [kind for kind in QUESTIONS for _ in (*gone, *routes)]
    assert len(results) == 6 * len(QUESTIONS)
    for kind, (_, address, *_), (code, detail, _) in zip(kinds, questions, results, strict=True):
        doing = "ask" if kind in DATAGRAMS else "connect"
        assert (code, detail) == ("server_unreachable", f"{doing}: {routes.get(address, 'no route to host')}"), (
            kind,
            address,
        )
