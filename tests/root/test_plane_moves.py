"""A reload gives a virtual service another pool while real connections go on: decisions as a director makes them, on
each data plane."""

import socket
import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from appliance.decide import Desired, decide
from appliance.forwarding import NextHop
from appliance.model import Health, NetworkProfile, Pool, ProfileType
from appliance.seen import seen, services_of
from appliance.state import State
from tests.builders import config, pool, service
from tests.builders import member as configured
from tests.netns import until
from tests.root.plane_child import KINDS
from tests.root.plane_rig import Plane, Rig, inside, mac, rig
from tests.root.test_planes import VIP4, VIP6, hop, serve_tcp, vips_at
from tests.unit.dataplane.frames import L2

pytestmark = pytest.mark.root

FIRST, SECOND = ip_address("203.0.113.2"), ip_address("203.0.113.3")
"""Two machines that are the same one by two cables."""

BLUE = pool(configured(1, address=FIRST), name="blue", monitors=())
GREEN = pool(configured(2, address=SECOND), name="green")


@pytest.fixture(scope="module", params=KINDS)
def bench(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with rig(str(request.param)) as made:
        made.member.sysctl(net__ipv4__conf__all__rp_filter=0, net__ipv4__conf__t0__rp_filter=0)
        yield made


class Director:
    """The store, decisions, and a data plane, with a clock that can be turned forward."""

    def __init__(self, bench: Rig, plane: Plane) -> None:
        self._plane = plane
        self.now = time.time()
        self._decided: Desired | None = None
        self.state = State(using(BLUE), lambda: None)
        self.state.set_plane_error(None)
        second: NextHop = hop(bench, ifindex=bench.ifindex("d2"), interface="d2", source_mac=mac("d2"), mac=mac("t0"))
        self.state.set_next_hops({FIRST: hop(bench), SECOND: second})

    def decide(self) -> Desired:
        self._decided = decide(self.state.snapshot(), self._decided, self.now)
        self._plane.set(self._decided.tables)
        self.state.forget(self._decided.gone, self._decided.moved)
        return self._decided

    def look(self) -> None:
        assert self._decided is not None
        live, _, _ = self._plane.ask("remembered")
        found = seen(live, self._decided, services_of(live, self._decided), self.now)
        self.state.set_pins(found, signal=False)

    def packets(self, member: str) -> int:
        traffic = self._plane.counters().members.get(member)
        return traffic.packets if traffic is not None else 0


def using(one: Pool):
    profile = NetworkProfile("tcp-l2", ProfileType.TCP_FAST_PATH, L2, 300)
    return config(service(vips=(VIP4, VIP6), profile=profile, pool=one))


@pytest.mark.parametrize("vip", [str(VIP4), str(VIP6)])
def test_connections_live_through_a_change_of_pools(bench: Rig, vip: str) -> None:
    """They stay with the old pool's member, whether anything was remembered of them or not, until they are over; new
    ones go to the old one until it is known that the new one can take them, and then to that."""

    def connect() -> socket.socket:
        return inside(bench.client, lambda: socket.create_connection((vip, 80), timeout=5))

    def finish(connection: socket.socket, size: int) -> int:
        with connection:
            connection.sendall(b"x" * size)
            connection.shutdown(socket.SHUT_WR)
            return int(connection.recv(100))

    with bench.plane() as plane, vips_at(bench.member):
        director = Director(bench, plane)
        director.decide()
        end = serve_tcp(bench.member, vip)
        try:
            old = connect()
            old.sendall(b"x" * 100_000)
            director.state.set_config(using(GREEN), director.now)
            director.decide()
            between = connect()  # the server takes one connection after the other
            assert director.packets("green/web2") == 0
            director.state.set_health("green/web2", Health.UP, director.now)
            assert director.decide().services[0].course.windows
            for connection in (old, between):
                connection.sendall(b"x" * 100_000)
            until(lambda: len(plane.ask("remembered")[0]) == 2, "both are remembered")
            assert director.packets("green/web2") == 0
            new = connect()
            until(lambda: director.packets("green/web2"), "the new connection goes to the new pool")
            director.look()
            director.now += 901
            course = director.decide().services[0].course
            assert not course.windows
            assert course.tails
            before = director.packets("green/web2")
            assert finish(old, 100_000) == 300_000
            assert finish(between, 100_000) == 200_000
            assert director.packets("green/web2") < before + 5  # the handshake of the third may have been on its way
            assert finish(new, 100_000) == 100_000
            assert director.packets("green/web2") > before + 50
        finally:
            end()
