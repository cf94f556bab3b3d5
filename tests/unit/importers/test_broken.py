"""Input that is broken gets an error with its place, and no input whatever a traceback."""

import contextlib
import json
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.config.load import parse
from appliance.config.problems import ConfigError
from appliance.importers import IMPORTERS
from appliance.importers.base import Imported, Site, Source, State
from appliance.importers.document import toml
from tests.unit.importers.samples import FILES, KINDS, SITE, imported, included, sample

BROKEN = [
    ("avi", "", "not JSON: expecting value at column 1"),
    ("avi", "{", "avi.json:1: not JSON"),
    ("avi", '{"Pool": [\n{"name": "a"},\n}', "avi.json:3: not JSON"),
    ("avi", "[1]", "avi.json: [0]: nothing says what kind of object this is"),
    ("avi", '"x"', "there is no object of a type that is known here"),
    ("avi", "{}", "there is no object of a type that is known here"),
    ("avi", '{"Pool": [{"name": NaN}]}', "NaN is not a number of JSON"),
    ("avi", '{"Pool": [{"name": "a", "name": "b"}]}', "Pool[0].name: the key stands twice"),
    ("avi", '{"Pool": ["a"]}', 'Pool[0]: "a" is no object'),
    ("avi", f'{{"Pool": {"[" * 90}{"]" * 90}}}', "more than 64 tables in each other"),
    ("avi", "[" * 100_000, "nested too deeply"),
    ("avi", '{"Pool": [{"n": 1%s}]}' % ("0" * 5000), "not usable"),
    (
        "keepalived",
        "virtual_server 198.51.100.7 80 {",
        "keepalived.conf:1: the block of `virtual_server 198.51.100.7 80`",
    ),
    ("keepalived", "a {\n}\n}", "keepalived.conf:3: a } without a {"),
    ("keepalived", "{\n}", "keepalived.conf:1: a block without a keyword"),
    ("keepalived", 'a "b', "keepalived.conf:1: a quote is not closed"),
    ("keepalived", "@main a {\n}", "a conditional line opens or closes a block"),
    ("keepalived", "$A=${A}x\nb ${A}", "keepalived.conf:2: a definition has itself in it"),
    ("keepalived", "$A= \\\n$A \\\n$A\n$A", "go on for ever"),
    ("keepalived", "a {\n" * 40, "more than 32 blocks in each other"),
    ("keepalived", "virtual_server 198.51.100.7 http {\n}", "`http` is not a port"),
    ("keepalived", "virtual_server group X {\n}", "no virtual_server_group is called `X`; groups: there are none"),
    ("keepalived", "virtual_server group {\n}", "no virtual_server_group is called ``; groups: there are none"),
    ("keepalived", "virtual_server 198.51.100.7 80 {\nprotocol SDP\n}", "keepalived.conf:2: protocol SDP: `sdp`"),
    ("keepalived", "virtual_server 198.51.100.7 80 {\nlb_kind FNAT\n}", "`FNAT` is no way to forward; use DR or TUN"),
    (
        "keepalived",
        "virtual_server 198.51.100.7 80 {\nreal_server 203.0.113.1 80 {\nweight y\n}\nquorum -1\n}",
        "`-1` is not a number from 0 to 2147483648; correct it|weight y: `y` is not a number",
    ),
    ("ipvsadm", "# nothing\n", "ipvsadm.txt: there is no command in it"),
    ("ipvsadm", "hello", 'ipvsadm.txt:1: "hello" is no command of ipvsadm'),
    ("ipvsadm", "-A -t www.example.com:http -s rr", "use the output of `ipvsadm -Sn`: n is for numbers"),
    ("ipvsadm", "-A -t localhost -s rr", "n is for numbers"),
    ("ipvsadm", "-A -s rr", "ipvsadm.txt:1: there is not one virtual service in it"),
    ("ipvsadm", "-A -t", "-t without a word behind it"),
    ("ipvsadm", "-A -t 198.51.100.7:80\n-A -t 198.51.100.7:80", "ipvsadm.txt:2: the virtual service"),
    ("ipvsadm", "-a -t 198.51.100.7:80 -r 203.0.113.1:80", "was added above"),
    ("ipvsadm", "-A -t 198.51.100.7:80\n-a -t 198.51.100.7:80 -g", "there is no real server in it"),
    ("ipvsadm", "-A -t 198.51.100.7:80\n-a -t 198.51.100.7:80 -r 203.0.113.1 -w x", 'ipvsadm.txt:2: -w "x" is not'),
    ("ipvsadm", "-A -t 198.51.100.7:http", "is not an address and a port in numbers"),
    (
        "ipvsadm",
        "-A -t 198.51.100.7:80\n-a -t 198.51.100.7:80 -r 203.0.113.1 -i --tun-type vxlan",
        '"vxlan" is no tunnel; use ipip, gre or gue',
    ),
    ("ipvsadm", "--set 1 2", "--set takes three numbers"),
]


@pytest.mark.parametrize(("kind", "text", "messages"), BROKEN)
def test_broken_input_gets_an_error_with_its_place(kind: str, text: str, messages: str) -> None:
    """All mistakes at once, each with what to do."""
    with pytest.raises(ConfigError) as caught:
        imported(kind, text)
    for message in messages.split("|"):
        assert message in str(caught.value)
    assert all(problem.source and problem.message and problem.remedy for problem in caught.value.problems)


def test_values_of_wrong_types_are_named_by_their_path() -> None:
    """Of one import, all of them."""
    data = json.loads(sample("avi"))
    data["Pool"][0]["servers"][0]["ratio"] = "three"
    data["Pool"][0]["enabled"] = 1
    data["VirtualService"][0]["services"][2]["port_range_end"] = 7000
    data["VirtualService"][0]["name"] = None
    data["VsVip"][0]["vip"][0]["ip_address"]["type"] = "V6"
    data["HealthMonitor"][0]["http_monitor"]["http_response_code"][0] = "HTTP_9XX"
    data["VrfContext"][0]["bgp_profile"]["local_as"] = 0
    with pytest.raises(ConfigError) as caught:
        imported("avi", json.dumps(data))
    assert {problem.path for problem in caught.value.problems} >= {
        "Pool[0].servers[0].ratio",
        "Pool[0].enabled",
        "VirtualService[0].services[2]",
        "VsVip[0].vip[0].ip_address",
        "HealthMonitor[0].http_monitor.http_response_code[0]",
        "VrfContext[0].bgp_profile.local_as",
    }


def test_a_file_that_includes_itself_ends() -> None:
    """With an error that says so."""

    def itself(pattern: str, _asker: str) -> list[tuple[str, str]]:
        return [(pattern, f"include {pattern}")]

    with pytest.raises(ConfigError, match=r"more than 256 files are included; see whether one includes itself"):
        IMPORTERS["keepalived"](Source("a", "include a", itself), SITE)


def holds(kind: str, text: str) -> None:
    """An import ends in an error, or in a file that can be read, and a report of all that was not used."""
    with contextlib.suppress(ConfigError):
        result_holds(IMPORTERS[kind](Source(FILES[kind], text, included), SITE))


def result_holds(found: Imported) -> None:
    written = toml([], found.tables)
    tomllib.loads(written)
    assert all(leaf.state is not State.UNREAD for leaf in found.root.leaves())
    json.dumps([str(finding) for finding in found.findings]).encode()
    "\n".join(map(str, found.findings)).encode()
    messages = ""
    try:
        parse(written, "result", lambda _: b"0123456789abcdef")
    except ConfigError as error:  # a contradiction that only the whole file shows
        messages = str(error)
    assert "unknown key" not in messages


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text(max_size=200))
@settings(max_examples=100)
def test_no_text_gives_a_traceback(kind: str, text: str) -> None:
    """Whatever somebody takes for a configuration."""
    holds(kind, text)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=25)
def test_no_damage_to_a_real_one_gives_a_traceback(kind: str, data: st.DataObject) -> None:
    """Lines that are lost, doubled, exchanged, or have other words."""
    lines = sample(kind).splitlines()
    words = [
        "{",
        "}",
        '"',
        "0",
        "-1",
        "99999999999",
        "x",
        "::",
        "203.0.113.21",
        "null",
        "[]",
        "true",
        ",",
        "$A=${A}",
        "\\",
    ]
    for _ in range(data.draw(st.integers(1, 4))):
        i, j = (data.draw(st.integers(0, len(lines) - 1)) for _ in range(2))
        match data.draw(st.integers(0, 3)):
            case 0:
                lines[i : i + 1] = []
                lines = lines or [""]
            case 1:
                lines[i], lines[j] = lines[j], lines[i]
            case 2:
                lines.insert(i, lines[j])
            case _:
                parts = lines[i].split() or [""]
                parts[data.draw(st.integers(0, len(parts) - 1))] = data.draw(st.sampled_from(words))
                lines[i] = " ".join(parts)
    holds(kind, "\n".join(lines))


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-2, 70000)
    | st.sampled_from(
        ["", "x", "198.51.100.7", "2001:db8::7", "pool-1", "/api/pool/?name=web%20pool", "HTTP_2XX", "DSR_TYPE_L2"]
    )
)


@given(data=st.data())
@settings(max_examples=40)
def test_no_other_value_gives_a_traceback(data: st.DataObject) -> None:
    """Values of any type at any place of an export."""
    document = json.loads(sample("avi"))
    for _ in range(data.draw(st.integers(1, 3))):
        holder, key = document, data.draw(st.sampled_from(sorted(document)))
        while isinstance(holder[key], dict | list) and holder[key] and data.draw(st.integers(0, 5)):
            holder = holder[key]
            keys = sorted(holder) if isinstance(holder, dict) else range(len(holder))
            key = data.draw(st.sampled_from(list(keys)))
        holder[key] = data.draw(SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.text(max_size=5), SCALARS))
    holds("avi", json.dumps(document))


def test_what_the_site_says_is_written() -> None:
    """Names, interfaces and the key of the operator, not guesses."""
    site = Site("d7", ("eth1", "eth2"), "/etc/onward/fleet.key")
    found: Imported = IMPORTERS["keepalived"](Source("x", sample("keepalived"), included), site)
    document = tomllib.loads(toml([], found.tables))
    assert document["director"] == {"name": "d7", "interfaces": ["eth1", "eth2"]}
    assert document["fleet"] == {"secret_file": "/etc/onward/fleet.key"}
