"""`onward bgp`, against a small HTTP server that tells what a director would."""

import json

import pytest

from appliance.api.announced import announced_document
from appliance.cli.root import call
from tests.unit.api.samples import observed
from tests.unit.cli.directors import director

PATH = "/api/v1/bgp"


@pytest.fixture
def url():
    with director(PATH, json.dumps(announced_document(observed()))) as made:
        yield made


def test_peers(url, capsys):
    """A line each, with session, BFD and how many routes it has."""
    assert call(["bgp", "peers", "--url", url]) == 0
    head, _, _, first, second = capsys.readouterr().out.splitlines()
    assert head == "AS 65010, router id 192.0.2.11"
    assert first.split()[:6] == ["192.0.2.1", "65000", "outside", "up", "up", "-"]
    assert second.split()[3] == "down"
    assert "hold timer expired" in second


def test_routes(url, capsys):
    """Each VIP at each peer: what it is told, or why it is not."""
    assert call(["bgp", "routes", "--url", url]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert ["198.51.100.7", "192.0.2.1", "told", "self", "-", "-", "-", "-"] in lines
    assert any(line[:5] == ["198.51.100.7", "192.0.2.2", "not", "told:", "no_session"] for line in lines)
    assert len(lines) == 8


@pytest.mark.parametrize(
    ("vip", "words"),
    [
        ("198.51.100.7", ["is announced to 192.0.2.1", "used by web", "192.0.2.2: not told, no_session"]),
        ("2001:DB8:F::7", ["next hop 2001:db8:1::11, MED -, local preference -, AS path -, communities -"]),
        ("198.51.100.53", ["is not announced: below_min_members (1 in rotation, 2 wanted)", "192.0.2.1: not told"]),
    ],
)
def test_why(url, vip, words, capsys):
    """All about one VIP, in sentences."""
    assert call(["bgp", "why", vip, "--url", url]) == 0
    text = capsys.readouterr().out
    assert [word for word in words if word not in text] == []


def test_why_this_rank(capsys):
    """Whom a director takes the place of: those that are gone, and those from which routers do not have the VIP."""
    document = announced_document(observed())
    (vip,) = (vip for vip in document["vips"] if vip["vip"] == "198.51.100.7")
    vip |= {"ha": "n_plus_m", "ranked": ["d3", "d2", "d1"], "standing": 0, "away": ["d2"], "absent": ["d2", "d3"]}
    with director(PATH, json.dumps(document)) as made:
        assert call(["bgp", "why", "198.51.100.7", "--url", made]) == 0
    line = "this director is among the best; nothing is heard of d2; routers do not have it from d3, or not for long"
    assert f"  n_plus_m: ranks d3, d2, d1; {line}\n" in capsys.readouterr().out


def test_as_json(url, capsys):
    """What the API tells, for scripts."""
    assert call(["bgp", "why", "198.51.100.7", "--url", url, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["apiVersion"] == "v1"
    assert [vip["vip"] for vip in document["vips"]] == ["198.51.100.7"]
    assert call(["bgp", "peers", "--url", url, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["bgp"]["peers"]) == 2


def test_a_vip_that_is_not_there(url, capsys):
    """Those that are there are named, and the exit code is 5; what is no address is wrong usage."""
    assert call(["bgp", "why", "192.0.2.99", "--url", url]) == 5
    assert "VIPs: 198.51.100.7" in capsys.readouterr().err
    assert call(["bgp", "why", "web", "--url", url]) == 2


def test_nobody_answers_or_somebody_else(capsys):
    """Exit codes tell these apart."""
    assert call(["bgp", "peers", "--url", "http://127.0.0.1:1"]) == 3
    with director(PATH, "{}") as made:
        assert call(["bgp", "routes", "--url", made]) == 1
