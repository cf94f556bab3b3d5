"""Taking a director out of service: worse routes, a proof that traffic has moved, then no routes."""

from dataclasses import replace
from ipaddress import ip_address

import pytest
from structlog.testing import capture_logs

from appliance import drain
from appliance.announce import HIGHEST
from appliance.decide import No, Why, decide
from appliance.drain import QUIET_S, Seen, advance, look
from appliance.model import Announcing, BgpPeer, Drain
from bgp.route import Attributes
from tests.builders import config, service, snapshot

GOING = Drain(100.0, 160.0)


def test_routes_are_worse_than_any_others_and_say_why():
    """To peers within our AS and outside; what was wished besides stays."""
    given = config(service(announcing=Announcing(communities=("65010:7",), prepend=1)))
    assert given.bgp is not None
    peers = (*given.bgp.peers, BgpPeer(ip_address("192.0.2.2"), 65010, 9))
    given = replace(given, bgp=replace(given.bgp, peers=peers))
    told = {
        str(peer): route.attributes
        for route in decide(snapshot(given, drain=GOING)).routes
        for peer in route.peers or ()
    }
    common = Attributes(med=HIGHEST, communities=("65010:7", "65535:0"))
    assert told == {
        "192.0.2.1": replace(common, as_path=(65010,) * 5),
        "192.0.2.2": replace(common, local_preference=0),
    }


def test_nothing_is_announced_when_it_is_over():
    """But everything is forwarded as before, and only pings of the VIP are not answered; and no other reason hides that
    it was ordered."""
    over = replace(GOING, over="no packet for 2 s", moved=True)
    desired = decide(snapshot(drain=over))
    assert desired.routes == frozenset()
    assert desired.vips[0].no == No(Why.DRAINED, "no packet for 2 s")
    assert desired.tables.answering == frozenset()
    up = decide(snapshot()).tables
    assert replace(desired.tables, answering=up.answering) == up
    assert decide(snapshot(drain=over, joining="not heard")).vips[0].no == desired.vips[0].no


def test_it_is_over_when_no_packets_come():
    """Silence is counted from the order on, and begins anew with each packet."""
    seen = look(None, 7, 101.0)
    assert advance(GOING, seen, 101.0 + QUIET_S - 0.1) == GOING
    seen = look(seen, 8, 102.0)
    assert look(seen, 8, 103.0) == seen
    assert advance(GOING, seen, 102.0 + QUIET_S - 0.1) == GOING
    over = advance(GOING, seen, 102.0 + QUIET_S)
    assert (over.over, over.moved) == ("no packet for 2 s", True)
    assert advance(over, look(seen, 9, 200.0), 200.0) == over
    assert advance(GOING, Seen(7, 0.0), 100.1) == GOING


def test_it_is_over_when_its_time_is():
    """Whatever still comes; and that is said."""
    over = advance(GOING, Seen(9, 159.9), 160.0)
    assert (over.over, over.moved) == ("packets still come after 60 s", False)


def test_it_is_kept_over_a_restart(tmp_path):
    """A director in the middle of maintenance must not announce for a moment; what is taken back is gone."""
    path = tmp_path / "drain.json"
    assert drain.load(path, 200.0) is None
    over = replace(GOING, over="no packet for 2 s", moved=True)
    drain.save(path, over)
    assert drain.load(path, 200.0) == over
    drain.save(path, GOING)
    assert drain.load(path, 200.0) == replace(GOING, over="the director has started anew meanwhile")
    drain.save(path, None)
    drain.save(path, None)
    assert drain.load(path, 200.0) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"format": 9}',
        '{"format": 1}',
        '{"format": 1, "since": "x"}',
        '{"format": 1, "since": 1, "until": Infinity, "over": "", "moved": false}',
        "[" * 100_000,
    ],
)
def test_what_cannot_be_read_keeps_the_director_out_of_service(tmp_path, text):
    """It starts and announces nothing, at the next start either, until that is ordered; the file is put aside."""
    path = tmp_path / "drain.json"
    path.write_text(text)
    with capture_logs() as logs:
        for _ in range(2):
            assert drain.load(path, 200.0) == Drain(200.0, 200.0, drain.UNREADABLE)
    assert [one["event"] for one in logs] == ["drain.unreadable"]
    assert (tmp_path / "drain.damaged").read_text() == text
    drain.save(path, None)
    assert drain.load(path, 200.0) is None


def test_what_is_taken_back_is_nowhere(tmp_path):
    """Nor where an earlier version kept it, though nothing can be written where it belongs."""
    earlier, path = tmp_path / "drain.json", tmp_path / "no folder/drain.json"
    drain.save(earlier, GOING)
    path.parent.touch()
    drain.save(path, None, earlier)
    assert not earlier.exists()
