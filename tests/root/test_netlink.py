"""Next hops follow the kernel: addresses, routes, neighbours, links."""

import json
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

from tests.netns import namespaces, until, veth

pytestmark = pytest.mark.root


class Follower:
    def __init__(self, process):
        self.latest = {}
        self._process = process
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        for line in self._process.stdout:
            if line.endswith("}\n"):  # the last line may be cut when the follower is ended
                self.latest = json.loads(line)

    def wait(self, address, **wanted):
        def found():
            hop = self.latest.get(address, {})
            return hop if all(hop.get(key) == value for key, value in wanted.items()) else None

        try:
            return until(found, f"{address} with {wanted}")
        except AssertionError as error:
            raise AssertionError(f"{error}; have {self.latest.get(address)}") from None


@contextmanager
def following(space, *addresses):
    command = space.command(sys.executable, "-m", "tests.root.netlink_follow", *addresses)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield Follower(process)
        assert process.poll() is None, "the follower died"
    finally:
        process.terminate()
        process.wait(5)
        process.stdout.close()


@pytest.fixture
def segment():
    """A director and a neighbour on one segment, which also routes to a network behind it."""
    with namespaces("d", "n") as (director, neighbour):
        veth(director, "eth1", neighbour, "eth1")
        director.ip("addr add 192.0.2.11/24 dev eth1")
        director.ip("addr add 2001:db8:1::11/64 dev eth1 nodad")
        neighbour.ip("addr add 192.0.2.1/24 dev eth1")
        neighbour.ip("addr add 2001:db8:1::1/64 dev eth1 nodad")
        director.ip("route add 203.0.113.0/24 via 192.0.2.1")
        director.ip("route add 2001:db8:2::/64 via 2001:db8:1::1")
        yield director, neighbour


def mac_of(space):
    return json.loads(space.run("ip", "-j", "link", "show", "eth1"))[0]["address"].replace(":", "")


def test_resolves_direct_and_routed_members_of_both_families(segment):
    """A member on the segment, and one behind a router, get their MAC address and our source without traffic."""
    director, neighbour = segment
    with following(director, "192.0.2.1", "203.0.113.9", "2001:db8:1::1", "2001:db8:2::9") as follower:
        for address, direct, source in (
            ("192.0.2.1", "True", "192.0.2.11"),
            ("203.0.113.9", "False", "192.0.2.11"),
            ("2001:db8:1::1", "True", "2001:db8:1::11"),
            ("2001:db8:2::9", "False", "2001:db8:1::11"),
        ):
            hop = follower.wait(address, direct=direct)
            assert hop["mac"] == mac_of(neighbour)
            assert hop["source_mac"] == mac_of(director)
            assert (hop["source"], hop["interface"], hop["mtu"]) == (source, "eth1", "1500")


def test_follows_a_changed_mac_address(segment):
    """When the member's machine is replaced, its new MAC address is used at once."""
    director, neighbour = segment
    with following(director, "192.0.2.1") as follower:
        follower.wait("192.0.2.1", mac=mac_of(neighbour))
        neighbour.ip("link set eth1 address 02:00:5e:00:53:77")
        neighbour.run("ping", "-c1", "-W1", "192.0.2.11")
        director.ip("neigh replace 192.0.2.1 lladdr 02:00:5e:00:53:77 dev eth1 nud reachable")
        follower.wait("192.0.2.1", mac="02005e005377")


def test_keeps_entries_that_nobody_sends_by(segment):
    """The kernel forgets a neighbour that is stale for a minute; one that we need is confirmed before."""
    director, neighbour = segment
    director.sysctl(net__ipv4__neigh__eth1__delay_first_probe_time=1)
    mac = json.loads(neighbour.run("ip", "-j", "link", "show", "eth1"))[0]["address"]
    with following(director, "192.0.2.1") as follower:
        follower.wait("192.0.2.1", direct="True")
        director.ip(f"neigh replace 192.0.2.1 lladdr {mac} dev eth1 nud stale")
        until(lambda: "REACHABLE" in director.ip("neigh show 192.0.2.1"), "confirmed", 15)
        follower.wait("192.0.2.1", mac=mac_of(neighbour))


def test_says_why_there_is_no_next_hop(segment):
    """Silence, no route, an own address, a dead link: each has its name, and each heals."""
    director, _ = segment
    with following(director, "192.0.2.99", "192.0.2.11", "198.51.100.1", "192.0.2.1") as follower:
        hop = follower.wait("192.0.2.99", reason="neighbour_unresolved")
        assert "192.0.2.99 does not answer on eth1" in hop["detail"]
        follower.wait("192.0.2.11", reason="local_address")
        follower.wait("198.51.100.1", reason="no_route")
        follower.wait("192.0.2.1", direct="True")
        director.ip("link set eth1 down")
        until(lambda: follower.latest["192.0.2.1"]["is"] == "unresolved", "link down seen")
        director.ip("link set eth1 up")
        follower.wait("192.0.2.1", direct="True")


def test_says_which_own_addresses_are_lost(segment):
    """None while their interface is up; also IPv6 addresses, which the kernel takes off it; never those of others."""
    director, neighbour = segment
    own = ("192.0.2.11", "2001:db8:1::11")
    with following(director, "192.0.2.1", "own", *own, "192.0.2.77") as follower:
        follower.wait("192.0.2.1", direct="True")
        assert follower.latest.keys() == {"192.0.2.1"}
        neighbour.ip("link set eth1 down")
        for address in own:
            follower.wait(address, reason="interface_down", detail="eth1 is down")
        director.ip("link set eth1 down")
        follower.wait(own[1], reason="interface_down", detail="on no interface any more")
        assert "192.0.2.77" not in follower.latest
        for space in (director, neighbour):
            space.ip("link set eth1 up")
        director.ip("addr add 2001:db8:1::11/64 dev eth1 nodad")
        until(lambda: follower.latest.keys() == {"192.0.2.1"}, "they are back")


def test_follows_a_route_that_moves(segment):
    """A member that becomes routed elsewhere gets the new way, and the route's own MTU counts."""
    director, neighbour = segment
    neighbour.ip("addr add 192.0.2.2/24 dev eth1")
    with following(director, "203.0.113.9") as follower:
        follower.wait("203.0.113.9", mtu="1500")
        director.ip("route replace 203.0.113.0/24 via 192.0.2.2 mtu 1400")
        follower.wait("203.0.113.9", mtu="1400")
        director.ip("route del 203.0.113.0/24")
        follower.wait("203.0.113.9", reason="no_route")
