"""How large packets to members may be, as it is shown."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from appliance.api.metrics import families
from appliance.api.mtu import mtu_document
from appliance.api.sources import Observed
from appliance.cli.listing import DEFAULTS, rendered
from appliance.cli.mtu import VIEW
from appliance.dataplane.base import Counters
from appliance.decide import decide
from appliance.pathmtu import Outcome, PathMtuFacts
from appliance.state import PathMtu
from tests.builders import snapshot
from tests.unit.api.samples import observed


def render(document: Mapping[str, Any]) -> str:
    return rendered(VIEW, document, DEFAULTS)


@pytest.fixture
def seen() -> Observed:
    """Two of three members are behind a smaller link, of which one carries no IPv6."""
    base = observed()
    snap = snapshot()
    first, second, _ = (member.address for member in snap.config.pools[0].members)
    snap = replace(snap, path_mtus={first: PathMtu(1400, base.at - 61.0), second: PathMtu(576, base.at - 5.0)})
    heard = PathMtuFacts({Outcome.LEARNED: 2, Outcome.NOT_OURS: 7}, {first: 3, second: 1}, {first: 2})
    counters = Counters(told_too_big={"web/web1": 40, "web/web3": 1})
    return replace(base, snapshot=snap, applied=decide(snap), path_mtu=heard, counters=counters)


def test_document(seen: Observed) -> None:
    """Link, path and its age, overhead, what is left of it, the MSS to advertise, and errors both ways."""
    document = mtu_document(seen)
    assert document["members"][0] == {
        "member": "web/web1",
        "address": "203.0.113.1",
        "delivery": "ipip",
        "link_mtu": 1500,
        "overhead": 20,
        "path_mtu": 1400,
        "path_mtu_age_s": 61.0,
        "largest_packet": 1380,
        "mss": {"ipv4": 1340, "ipv6": 1320},
        "carries_ipv6": True,
        "errors_sent": 42,
        "errors_heard": 3,
    }
    second, third = document["members"][1:]
    assert (second["largest_packet"], second["carries_ipv6"]) == (556, False)
    assert (third["path_mtu"], third["path_mtu_age_s"], third["largest_packet"]) == (None, None, 1480)
    assert document["errors_heard"] == {"learned": 2, "not_ours": 7}


def test_table(seen: Observed) -> None:
    """The same for people, with what is worth a sentence."""
    assert render(mtu_document(seen)) == (
        "MEMBER    ADDRESS      DELIVERY  LINK  PATH  AGE  OVERHEAD  LARGEST  MSS4  MSS6  SENT  HEARD\n"
        "web/web1  203.0.113.1  ipip      1500  1400  61s        20     1380  1340  1320    42      3\n"
        "web/web2  203.0.113.2  ipip      1500   576   5s        20      556   516   496     0      1\n"
        "web/web3  203.0.113.3  ipip      1500     -    -        20     1480  1440  1420     1      0\n"
        "Less than IPv6 needs (1280), so that IPv6 packets may get lost: web/web2\n"
        "Errors that were not believed: 7 not_ours"
    )
    deaf = replace(seen, path_mtu=PathMtuFacts(deaf="IPv6: no"), snapshot=snapshot(), applied=decide(snapshot()))
    assert render(mtu_document(deaf)).splitlines()[4:] == ["Errors of routers cannot be heard: IPv6: no"]
    nobody = decide(snapshot(next_hops={}))
    assert render(mtu_document(replace(deaf, applied=nobody, path_mtu=PathMtuFacts()))) == "No member has a next hop."


def test_metrics(seen: Observed) -> None:
    """One sample a member, of path MTUs only where something was learned."""
    found = {
        (sample.name, sample.labels.get("member") or sample.labels.get("outcome")): sample.value
        for family in families(seen)
        for sample in family.samples
        if re.search("largest_packet|path_mtu|too_big", sample.name)
    }
    assert found == {
        ("onward_member_largest_packet_bytes", "web/web1"): 1380,
        ("onward_member_largest_packet_bytes", "web/web2"): 556,
        ("onward_member_largest_packet_bytes", "web/web3"): 1480,
        ("onward_member_path_mtu_bytes", "web/web1"): 1400,
        ("onward_member_path_mtu_bytes", "web/web2"): 576,
        ("onward_member_too_big_sent_total", "web/web1"): 42,
        ("onward_member_too_big_sent_total", "web/web2"): 0,
        ("onward_member_too_big_sent_total", "web/web3"): 1,
        ("onward_path_mtu_errors_total", "learned"): 2,
        ("onward_path_mtu_errors_total", "not_ours"): 7,
    }
