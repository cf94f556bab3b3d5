"""The workload against members without any balancer: whatever breaks here, the program must notice and name."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.flows.fleet import compiled
from tests.flows.workload import Client, Load
from tests.netns import Namespace, namespaces, until, veth

pytestmark = pytest.mark.root

LOAD = Load(connections=60, udp_flows=40, tcp_rate=40, udp_rate=20, life_s=20, pause_s=0.4, timeout_s=3, ramp_s=0.5)
KEPT = LOAD.connections + LOAD.udp_flows


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("flows"))


class Rig:
    """A client and two members with the same addresses on one segment; the client's neighbour entries decide."""

    def __init__(self, program, client: Namespace, members: dict[int, Namespace]) -> None:
        self.program = program
        self.client = client
        self.members = members
        self._servers: dict[int, subprocess.Popen[str]] = {}

    def serve(self, number: int) -> None:
        """Start a member's servers."""
        command = self.members[number].command(str(self.program), "serve", str(number))
        server = self._servers[number] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout.readline() == f"member {number} ready\n"

    def stop(self, number: int) -> None:
        """Kill a member's servers."""
        server = self._servers.pop(number)
        server.send_signal(signal.SIGKILL)
        server.wait()
        server.stdout.close()

    def stop_all(self) -> None:
        for number in list(self._servers):
            self.stop(number)

    def send_to(self, number: int) -> None:
        """From now on the client's packets go to this member."""
        mac = json.loads(self.members[number].ip("-j link show eth1"))[0]["address"]
        for address in ("192.0.2.1", "2001:db8:1::1"):
            self.client.ip(f"neighbour replace {address} lladdr {mac} dev eth1 nud permanent")

    def popen(self, arguments, **options) -> "subprocess.Popen[str]":
        return subprocess.Popen(self.client.command(*map(str, arguments)), stdout=subprocess.PIPE, text=True, **options)

    @contextmanager
    def load(self) -> Iterator[Client]:
        """The workload, with all of its kept flows at work."""
        targets = {"192.0.2.1": 0.7, "2001:db8:1::1": 0.3}
        sources = ["192.0.2.2", "192.0.2.3", "2001:db8:1::2"]
        client = Client(self.popen, self.program, LOAD.arguments(sources, targets, hops=0))
        try:
            until(lambda: client.look().at.total() >= KEPT, "flows at work")
            yield client
        finally:
            client.kill()


@pytest.fixture
def rig(program):
    with namespaces("client", "switch", "m3", "m4", prefix="owf") as (client, switch, *members):
        switch.ip("link add br0 type bridge")
        switch.ip("link set br0 up")
        for port, (space, host) in enumerate(zip((client, *members), (2, 1, 1), strict=True)):
            veth(space, "eth1", switch, f"port{port}")
            switch.ip(f"link set port{port} master br0")
            space.ip(f"address add 192.0.2.{host}/24 dev eth1")
            space.ip(f"address add 2001:db8:1::{host}/64 dev eth1 nodad")
        client.ip("address add 192.0.2.3/24 dev eth1")
        rig = Rig(program, client, dict(zip((3, 4), members, strict=True)))
        for number, member in rig.members.items():
            member.sysctl(net__ipv4__ip_default_ttl=100 + number, net__ipv6__conf__eth1__hop_limit=100 + number)
            rig.serve(number)
        rig.send_to(3)
        yield rig
        rig.stop_all()


def test_flows_that_lose_packets_are_well_and_all_accounted_for(rig):
    """One packet in twenty is lost: both protocols go on, and every flow that began is finished in good order."""
    rig.members[3].run("nft", "add table inet loss; add chain inet loss in { type filter hook prerouting priority 0; }")
    rig.members[3].run("nft", "add rule inet loss in numgen random mod 20 == 0 drop")
    with rig.load() as client:
        time.sleep(2)  # flows begin, speak and end
        client.finish()
        assert client.broken == []
        assert client.census.begun == client.census.finished > 150
        assert client.census.at == {}


def test_a_member_that_starts_anew_has_broken_every_flow(rig):
    """The same number, address and ports, but no memory: each flow that lived is told, with the member's name."""
    with rig.load() as client:
        rig.stop(3)
        rig.serve(3)
        until(lambda: len([flow for flow in client.broken if flow.member == 3]) >= KEPT * 0.9, "broken flows")
        client.finish()
        known = {flow.why for flow in client.broken if flow.member == 3}
        assert known >= {"ended by the other side", "the member does not know the flow"}
        assert known <= {"ended by the other side", "the member does not know the flow", "Connection reset by peer"}
        assert {flow.protocol for flow in client.broken} == {"tcp", "udp"}
        # Those that came while nobody listened were turned away by the member's kernel.
        assert {flow.by for flow in client.broken if flow.member is None} <= {3}


def test_another_member_in_its_place_is_named(rig):
    """Both are told, the one that had a flow and the one that broke it: of a reset, by nothing but its TTL."""
    with rig.load() as client:
        rig.send_to(4)
        until(lambda: len(client.broken) >= KEPT * 0.9, "broken flows")
        client.finish()
        assert {(flow.member, flow.by) for flow in client.broken} == {(3, 4)}
        assert {(flow.protocol, flow.why) for flow in client.broken} == {
            ("tcp", "Connection reset by peer"),
            ("udp", "the member does not know the flow"),
        }
        assert len(client.broken) < client.census.begun  # who came later is well


def test_one_way_to_another_member_and_back_does_not_go_unnoticed(rig):
    """A flow is broken although its own member has it again at the end."""
    with rig.load() as client:
        rig.send_to(4)
        until(lambda: client.look().broken, "the first broken flow")
        rig.send_to(3)
        client.finish()
        # A member that has just closed a connection with the same ports says nothing to a stranger's packets.
        told = {(flow.member, flow.by) for flow in client.broken if flow.why != "no answer in time"}
        assert (3, 4) in told
        assert told <= {(3, 4), (4, 3)}


def test_silence_breaks_flows_when_its_time_is_up(rig):
    """The cable is out for longer than the deadline: no answer in time, for all that lived."""
    with rig.load() as client:
        rig.members[3].ip("link set eth1 down")
        until(lambda: len(client.broken) >= KEPT * 0.9, "broken flows")
        client.finish()
        assert {flow.why for flow in client.broken} == {"no answer in time"}
        assert all(flow.at - flow.cause > LOAD.timeout_s * 0.99 for flow in client.broken)
