"""Ports of a VIP that no virtual service has: real clients are refused at once, or hear nothing."""

import errno
import socket
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from appliance.forwarding import ForwardingTables
from appliance.packet.action import Reason
from tests.netns import until
from tests.root.plane_child import KINDS
from tests.root.plane_rig import Plane, Rig, inside, rig
from tests.root.test_planes import VIP4, VIP6, member, tables
from tests.unit.dataplane.frames import L2

pytestmark = pytest.mark.root

NOBODY = 4711


@pytest.fixture(scope="module", params=KINDS)
def bench(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with rig(str(request.param)) as made:
        yield made


@pytest.fixture(scope="module")
def plane(bench: Rig) -> Iterator[Plane]:
    with bench.plane() as made:
        yield made


def by(bench: Rig, *, rejects: bool) -> ForwardingTables:
    made = tables(member(bench, 1, L2, "203.0.113.2"))
    return replace(made, services=tuple(replace(service, rejects=rejects) for service in made.services))


@pytest.mark.parametrize("vip", [VIP4, VIP6], ids=str)
def test_connections_are_refused_at_once(bench: Rig, plane: Plane, vip: object) -> None:
    """A client's kernel takes the reset for its own, and says so; where the VIP is silent, it waits."""
    plane.set(by(bench, rejects=True))

    def connect() -> None:
        socket.create_connection((str(vip), NOBODY), timeout=1.0).close()

    before = time.monotonic()
    with pytest.raises(ConnectionRefusedError):
        inside(bench.client, connect)
    assert time.monotonic() - before < 1.0
    plane.set(by(bench, rejects=False))
    with pytest.raises(TimeoutError):
        inside(bench.client, connect)
    assert plane.counters().reasons[Reason.NO_SERVICE] >= 2


@pytest.mark.parametrize("vip", [VIP4, VIP6], ids=str)
def test_datagrams_are_refused(bench: Rig, plane: Plane, vip: object) -> None:
    """The error reaches the socket that has sent it."""
    plane.set(by(bench, rejects=True))

    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET if vip is VIP4 else socket.AF_INET6, socket.SOCK_DGRAM)
        made.connect((str(vip), NOBODY))
        return made

    with inside(bench.client, make) as datagrams:

        def refused() -> bool:
            try:
                datagrams.send(b"is anybody there?")
            except ConnectionRefusedError:
                return True
            return datagrams.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED

        until(refused, "the client hears that nobody is there")


def test_a_flood_is_not_answered_for_ever(bench: Rig, plane: Plane) -> None:
    """Answers have a limit, and everything is counted under the same name, answered or not."""
    plane.set(by(bench, rejects=True))
    before = plane.counters()

    def flood() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            for _ in range(2000):
                one.sendto(b"", (str(VIP4), NOBODY))

    inside(bench.client, flood)

    def dropped() -> bool:
        now = plane.counters()
        return now.reasons[Reason.NO_SERVICE] - before.reasons.get(Reason.NO_SERVICE, 0) == 2000

    until(dropped, "all of them are counted")
    sent = plane.counters().replies["icmp_port_unreachable"] - before.replies.get("icmp_port_unreachable", 0)
    assert 0 < sent < 1000
