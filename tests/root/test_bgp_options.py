"""Options of peers, each with a real router that would refuse the session without it. FRR by eBGP, BIRD by iBGP."""

import pytest

from tests.netns import until
from tests.root import bgp_lab
from tests.root.bgp_lab import V4, V6, Speaker, kill_exabgp, lab

pytestmark = pytest.mark.root

BOTH = (V4.partition("/")[0], V6.partition("/")[0])
OURS = "192.0.2.11"
LOOPBACK = "203.0.113.1"
"""Of the router: two hops away for BGP."""

LONG_AS = 4200000001

FRR_SECURE = bgp_lab.BGPD + f"exit\nrouter bgp 65000\n neighbor {OURS} ttl-security hops 1\n"
FRR_CONNECTS = bgp_lab.BGPD + f"exit\nrouter bgp 65000\n neighbor {OURS} port 1179\n"
FRR_FAR = (
    bgp_lab.BGPD.replace("65010", str(LONG_AS))
    + f"exit\nrouter bgp 65000\n neighbor {OURS} ebgp-multihop 2\n neighbor {OURS} update-source {LOOPBACK}\n"
)
BIRD_PORT = bgp_lab.BIRD.replace("2001:db8:1::1 as 65010", f"2001:db8:1::1 port 1790 as {LONG_AS}").replace(
    "::11 as 65010", f"::11 as {LONG_AS}"
)


@pytest.fixture
def started(tmp_path):
    """Starts speakers in a lab, and leaves nothing running."""
    speakers = []

    def start(where, neighbor, **changes):
        known = where.settings["neighbors"][0]
        speaker = Speaker(where, tmp_path / f"run{len(speakers)}", neighbors=[known | neighbor], **changes)
        speakers.append(speaker)
        return speaker

    yield start
    for number, speaker in enumerate(speakers):
        speaker.end()
        kill_exabgp(tmp_path / f"run{number}")


def carries(where, speaker):
    speaker.is_up()
    speaker.sets(*BOTH)
    where.fib_becomes(V4, V6)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "router"
    made.mkdir()
    tmp_path.chmod(0o755)
    return made


def refusing(where, what):
    """The router drops packets of ours; how often that has happened."""
    where.router.run("nft", "add table ip t")
    where.router.run("nft", "add chain ip t in { type filter hook input priority 0; }")
    where.router.run("nft", f"add rule ip t in {what} counter drop")
    return lambda: "packets 0 " not in where.router.run("nft", "list table ip t")


def test_ttl_security(folder, started):
    """A router that takes nothing from farther away: without TTL security on our side there is no session."""
    with lab("frr", folder, FRR_SECURE) as where:
        refused = refusing(where, "tcp dport 179 ip ttl != 255")
        bare = started(where, {})
        until(refused, "a packet was refused", 30.0)
        assert bare.status()["peers"][where.peer]["session"] != "up"
        bare.call("close")
        carries(where, started(where, {"ttl_security": 1}))


def test_passive_at_another_port(folder, started):
    """The router connects, with a password; not one packet of ours goes to its own port."""
    with lab("frr", folder, FRR_CONNECTS) as where:
        refused = refusing(where, "tcp dport 179")
        carries(where, started(where, {"passive": True, "port": 1179, "local_address": OURS}))
        assert not refused()


def test_multihop_and_a_long_as_number(folder, started):
    """Packets have just the hops that they are given, and our AS number may have 32 bits."""
    with lab("frr", folder, FRR_FAR) as where:
        where.router.ip(f"addr add {LOOPBACK}/32 dev lo")
        where.director.ip(f"route add {LOOPBACK} via 192.0.2.1")
        refusing(where, "tcp dport 179 ip ttl != 2")
        carries(where, started(where, {"address": LOOPBACK, "multihop": 2}, local_as=LONG_AS))


def test_a_router_that_listens_elsewhere(folder, started):
    """iBGP with 32-bit AS numbers, at another port of the router."""
    with lab("bird", folder, BIRD_PORT, port=1790) as where:
        carries(where, started(where, {"port": 1790, "remote_as": LONG_AS}, local_as=LONG_AS))
