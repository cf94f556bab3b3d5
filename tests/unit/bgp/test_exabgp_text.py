"""Texts for and from ExaBGP 5.0: golden configurations, recorded events, log lines."""

import subprocess
import sys
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp import exabgp_text as text
from bgp.config import BgpSpeakerConfig, Neighbor
from bgp.route import Attributes, Route
from bgp.speaker import Session

GOLDEN = Path(__file__).parents[2] / "golden" / "exabgp"
RUN = ("/bin/sh", "guard.py", "--socket", "/run/onward/exabgp.sock", "--linger", "30")
ROUTER = Neighbor(ip_address("192.0.2.1"), 65000, local_address=ip_address("192.0.2.11"))
CONFIGURATIONS = {
    "ebgp": BgpSpeakerConfig(65010, ip_address("192.0.2.11"), (ROUTER,), Path("/run/onward")),
    "ibgp-two-routers": BgpSpeakerConfig(
        4200000001,
        ip_address("192.0.2.11"),
        (
            Neighbor(ip_address("2001:db8:1::1"), 4200000001, hold_time_s=0),
            Neighbor(ip_address("192.0.2.2"), 4200000001, hold_time_s=3),
            replace(ROUTER, remote_as=4200000001),
        ),
        Path("/run/onward"),
    ),
    "options": BgpSpeakerConfig(
        65010,
        ip_address("192.0.2.11"),
        (
            replace(ROUTER, multihop=4, passive=True, port=1179, password="secret"),  # noqa: S106
            Neighbor(ip_address("203.0.113.1"), 4200000001, multihop=3),
            Neighbor(ip_address("2001:db8:1::1"), 65000, port=1790, ttl_security=2),
        ),
        Path("/run/onward"),
    ),
    "password": BgpSpeakerConfig(
        65010,
        ip_address("192.0.2.11"),
        (replace(ROUTER, password="a b;{#}[,]\\YWJj"),),  # noqa: S106
        Path("/run/onward"),
    ),
}


def rendered(name):
    return text.configuration(CONFIGURATIONS[name], RUN, stamp="golden")


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_configuration_is_as_recorded(name):
    """Equal input, equal text: an ExaBGP is adopted only when the text is the same."""
    assert rendered(name) == (GOLDEN / f"{name}.conf").read_text(), f"if meant so: python -m {__spec__.name}"


def test_exabgp_accepts_the_recorded_configurations():
    """The installed ExaBGP says that they are valid."""
    files = [str(GOLDEN / f"{name}.conf") for name in CONFIGURATIONS]
    subprocess.run([sys.executable, "-P", "-m", "exabgp", "validate", "-n", *files], check=True, capture_output=True)


def test_order_of_neighbors_does_not_matter():
    """Two ways to write the same thing are the same configuration."""
    config = CONFIGURATIONS["ibgp-two-routers"]
    turned = replace(config, neighbors=config.neighbors[::-1])
    assert text.configuration(turned, RUN) == text.configuration(config, RUN)


@pytest.mark.parametrize("word", ['a"b', "a'b", "a\nb", "ü"])
def test_inexpressible_words_are_refused(word):
    """What ExaBGP's file format cannot carry is an error, never another text."""
    with pytest.raises(ValueError, match="cannot express"):
        text.configuration(CONFIGURATIONS["ebgp"], ["/bin/sh", word])


def test_commands():
    """The route's own next hop, then the configured one, then the session's own address."""
    v4, v6 = ip_address("198.51.100.7"), ip_address("2001:db8:f::7")
    hop = ip_address("192.0.2.11")
    line = "announce 7 198.51.100.7/32 announce route 198.51.100.7/32 next-hop "
    assert text.announce(7, [Route(v4)], None) == line + "self"
    assert text.announce(7, [Route(v4)], hop) == line + "192.0.2.11"
    assert text.announce(7, [Route(v4, ip_address("192.0.2.99"))], hop) == line + "192.0.2.99"
    assert text.announce(8, [Route(v6, v6)], None).endswith("announce route 2001:db8:f::7/128 next-hop 2001:db8:f::7")
    one, two = ip_address("192.0.2.1"), ip_address("2001:db8:1::2")
    route = Route(v4, attributes=Attributes(med=7), peers=frozenset({two, one}))
    whom = "neighbor 192.0.2.1 , neighbor 2001:db8:1::2 announce route 198.51.100.7/32"
    assert text.announce(7, [route], None) == f"announce 7 198.51.100.7/32 {whom} next-hop self med 7"
    assert text.withdraw(9, ["198.51.100.7/32"], {two, one}) == "withdraw 9 198.51.100.7/32 192.0.2.1 2001:db8:1::2"
    assert text.withdraw(9, ["198.51.100.7/32"]) == "withdraw 9 198.51.100.7/32"
    both, listed = [route, replace(route, vip=v4 + 1)], "198.51.100.7/32,198.51.100.8/32"
    whom = "neighbor 192.0.2.1 , neighbor 2001:db8:1::2 announce attributes next-hop self med 7 nlri"
    assert text.announce(7, both, None) == f"announce 7 {listed} {whom} {listed.replace(',', ' ')}"
    assert text.withdraw(9, listed.split(","), {one}) == f"withdraw 9 {listed} 192.0.2.1"
    assert text.lease(1, 1.5) == "lease 1 1.5"


def test_recorded_events():
    """What ExaBGP 5.0.15 wrote in a session with a router is understood."""
    router, nothing = "192.0.2.1", frozenset()
    v4, v6 = frozenset({"198.51.100.7/32"}), frozenset({"2001:db8:f::7/128"})
    assert [text.parse(line) for line in (GOLDEN / "events.jsonl").read_text().splitlines()] == [
        text.PeerState(router, Session.CONNECTED, ""),
        text.PeerState(router, Session.UP, ""),
        None,  # our end-of-RIB
        text.Sent(router, v4, nothing),
        text.Sent(router, v6, nothing),
        text.Sent(router, nothing, v4),
        text.Sent(router, nothing, v6),
        None,  # the router's notification; the state that follows has it as its reason
        text.PeerState(router, Session.DOWN, "notification received (6,2)"),
        None,  # ExaBGP ends
    ]


def test_guard_events():
    """The guard's own lines."""
    hello = '{"guard": "hello", "exabgp": 7, "routes": ["198.51.100.7/32"], "sent": {"2001:DB8::1": []}}'
    assert text.parse(hello) == text.Hello(7, frozenset({"198.51.100.7/32"}), {"2001:db8::1": frozenset()})
    assert text.parse('{"guard": "reply", "number": 3, "ok": true}') == text.Reply(3, None)
    assert text.parse('{"guard": "reply", "number": 3, "ok": false, "error": "no"}') == text.Reply(3, "no")
    assert text.parse('{"guard": "withdrawn", "why": "w", "after": 9}') == text.Withdrawn("w", 9)
    assert text.parse('{"guard": "of a later version"}') is None


@pytest.mark.parametrize(
    "line",
    [
        "",
        "done",
        "[]",
        "7",
        "{",
        "{}" * 2,
        '{"guard": "hello"}',
        '{"type": "state", "neighbor": {"address": {"peer": "somewhere"}, "state": "up"}}',
        '{"type": "state", "neighbor": {"address": {"peer": "192.0.2.1"}, "state": "sideways"}}',
        "[" * 100_000,
    ],
)
def test_garbage_is_a_value_error(line):
    """Whatever comes, there is one exception to expect, and its text is short."""
    with pytest.raises(ValueError, match="not understood") as caught:
        text.parse(line)
    assert len(str(caught.value)) < 600


@given(st.text() | st.recursive(st.none() | st.text(), lambda c: st.dictionaries(st.text(), c)).map(str))
def test_any_text_is_survived(line):
    """No line makes the parser raise anything else."""
    try:
        text.parse(line)
    except ValueError:
        pass
    text.log_line(line)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("welcome         Thank you for using ExaBGP", None),
        ("advice          environment file missing", None),
        ("", None),
        (
            "reactor         connected to peer-1 with outgoing-1 192.0.2.11-192.0.2.1",
            ("reactor", "connected to peer-1 with outgoing-1 192.0.2.11-192.0.2.1", False),
        ),
        (
            "reactor         async | guard | problem with function",
            ("reactor", "async | guard | problem with function", True),
        ),
        ("Traceback", ("", "Traceback", True)),
    ],
)
def test_log_lines(line, wanted):
    """Banner and advice are noise; trouble is told from the words."""
    entry = text.log_line(line)
    assert (entry and (entry.source, entry.text, entry.trouble)) == wanted


if __name__ == "__main__":
    for each in CONFIGURATIONS:
        (GOLDEN / f"{each}.conf").write_text(rendered(each))
