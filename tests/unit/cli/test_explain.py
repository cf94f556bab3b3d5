"""`onward explain` agrees with the packet path, and says why."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

import appliance.config
from appliance.capture.pcap import Direction, Packet, Writer
from appliance.cli.output import Exit
from appliance.cli.root import call
from appliance.config.load import load
from appliance.explain.model import Model
from appliance.explain.question import Endpoint, endpoint, frame_of, packet_of
from appliance.model import Config, Protocol
from appliance.packet.action import Reason, Verdict
from appliance.ring.hash import FlowKey

EXAMPLE = Path(appliance.config.__file__).parent / "example.toml"


@pytest.fixture(scope="module")
def config() -> Config:
    return load(EXAMPLE)


def flow(port: int = 40000, to: str = "198.51.100.7", to_port: int = 80, protocol: Protocol = Protocol.TCP) -> FlowKey:
    source = "192.0.2.7" if ip_address(to).version == 4 else "2001:db8::7"
    return FlowKey(ip_address(source), ip_address(to), protocol, port, to_port)


def explain_flow(config: Config, key: FlowKey, down: Sequence[str] = (), size: int = 0) -> dict[str, Any]:
    return Model(config, down).explain(frame_of(packet_of(key, size)), key)


def explained(to: str, *arguments: str, proto: str = "tcp") -> list[str]:
    return ["explain", proto, "192.0.2.7:40000", to, "--config", str(EXAMPLE), *arguments]


def test_flows_are_shared_by_ratio(config: Config) -> None:
    """Ratio 2 gets about twice the flows of ratio 1, and without failures the base owner gets each."""
    model = Model(config)
    found: list[Any] = [model.explain(frame_of(packet_of(flow(port)))) for port in range(20000, 20090)]
    assert all(one["member"]["id"] == one["base_owner"] == one["primary"] for one in found)
    first = sum(one["base_owner"] == "web/web1" for one in found)
    assert 45 <= first <= 75


def test_a_failure_moves_only_the_flows_of_the_failed_member(config: Config) -> None:
    """The overlay gives its slots to others, and the base owner is still named."""
    well, worse = Model(config), Model(config, ["web/web1"])
    for port in range(20000, 20020):
        before: Any = well.explain(frame_of(packet_of(flow(port))))
        after: Any = worse.explain(frame_of(packet_of(flow(port))))
        assert after["member"]["id"] == "web/web2"
        assert after["base_owner"] == before["base_owner"]
        assert after["slot"] == before["slot"]
        assert after["others"] == [{"member": "web/web1", "state": "out", "why": "health_down"}]


def test_down_counts_in_a_pool_without_monitors(config: Config) -> None:
    """Members of such a pool are always up for a director, but the question is what would be."""
    services = (replace(one, pool=replace(one.pool, monitors=())) for one in config.services)
    found = explain_flow(replace(config, services=tuple(services)), flow(), down=["web/web1", "web/web2"])
    assert found["reason"] == Reason.NO_MEMBER


def test_all_members_down_is_no_member(config: Config) -> None:
    """Then there is no member, and the VIP is not announced."""
    found = explain_flow(config, flow(), down=["web/web1", "web/web2"])
    assert (found["verdict"], found["reason"], found["member"]) == (Verdict.DROP, Reason.NO_MEMBER, None)
    assert found["why"] == "web/web1 health_down; web/web2 health_down"


@pytest.mark.parametrize(
    ("to", "size", "fits"),
    [
        ("198.51.100.7", 1480, True),
        ("198.51.100.7", 1481, False),
        ("2001:db8:f::7", 1480, True),
        ("2001:db8:f::7", 1481, False),
    ],
)
def test_what_fits_is_judged_with_the_encapsulation(config: Config, to: str, size: int, fits: bool) -> None:
    """IPIP over IPv4 takes 20 bytes of 1500, whatever the inner packet."""
    found = explain_flow(config, flow(to=to), size=size)
    assert found["forwarded"] is fits
    assert found["reason"] == (None if fits else Reason.TOO_BIG)
    assert found["mtu"]["verdict"].startswith("fits" if fits else "too big: ")


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    """One fact a line: flow, service, hash, slot, member, frame, sizes, announcement."""
    assert call(explained("198.51.100.7:80")) == Exit.OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "flow             192.0.2.7:40000 > 198.51.100.7:80 tcp"
    assert lines[1] == "virtual service  web (198.51.100.7 tcp 80,443)"
    text = "\n".join(lines)
    assert "protocol 4 (IPv4 in IP), TTL 64, DF set, 60 bytes; inner packet unchanged but for its TTL" in text
    assert "largest packet   1480 bytes (MTU of the way 1500, see --mtu)" in text
    assert "assumed          members are reachable" in text
    assert "MSS              members must advertise 1440 or less" in text
    assert "fragments        follow the first one of their datagram" in text
    assert "announced        198.51.100.7: yes" in text


@pytest.mark.parametrize(
    ("dsr", "facts"),
    [
        (
            'encapsulation = "gre", outer_ttl = 9',
            "protocol 47 (GRE), TTL 9, DF set, 64 bytes; GRE of type 0x0800, flags and version 0; inner packet",
        ),
        (
            'encapsulation = "gue", outer_df = "clear"',
            "DF clear, 72 bytes; UDP from port PORT to 6080, 52 bytes, without a checksum; GUE variant 0 of protocol 4",
        ),
    ],
)
def test_text_shows_all_outer_headers(dsr: str, facts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """GRE and GUE have headers between the two IP headers, with a port that comes from the hash."""
    path = tmp_path / "onward.toml"
    text = EXAMPLE.read_text().replace("example.key", str(EXAMPLE.parent / "example.key"))
    path.write_text(text.replace('encapsulation = "ipip"', dsr))
    assert call(["explain", "tcp", "192.0.2.7:40000", "198.51.100.7:80", "--config", str(path)]) == Exit.OK
    said = capsys.readouterr().out
    hash32 = int(said.partition(" = 0x")[2][:8], 16)
    assert facts.replace("PORT", str(49152 + hash32 % 16384)) in said


def test_the_outer_source_is_of_the_prefix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the configuration alone one sees which address of the director's prefix a flow has."""
    path = tmp_path / "onward.toml"
    text = EXAMPLE.read_text().replace("example.key", str(EXAMPLE.parent / "example.key"))
    text = text.replace('interfaces = ["eth1"]', 'interfaces = ["eth1"]\nouter_source_prefixes = ["198.51.100.64/26"]')
    path.write_text(text.replace('encapsulation = "ipip"', 'outer_source = "prefix"'))
    assert call(["explain", "tcp", "192.0.2.7:40000", "198.51.100.7:80", "--config", str(path)]) == Exit.OK
    said = capsys.readouterr().out
    hash32 = int(said.partition(" = 0x")[2][:8], 16)
    assert f" 198.51.100.{65 + (hash32 & 0b111101)} " in said


@pytest.mark.parametrize("dsr", ["ipip", "gue"])
@pytest.mark.parametrize("to", ["198.51.100.7:80", "[2001:db8:f::7]:80", "198.51.100.53:53"])
def test_nothing_is_made_up(dsr: str, to: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What only a running director knows is said to be that, and null for scripts: no address is there that is neither
    of the configuration nor of the question."""
    path = tmp_path / "onward.toml"
    text = EXAMPLE.read_text().replace("example.key", str(EXAMPLE.parent / "example.key"))
    path.write_text(text.replace('encapsulation = "ipip"', f'encapsulation = "{dsr}"'))
    client = "[2001:db8::7]:40000" if to.startswith("[") else "192.0.2.7:40000"
    words = ["explain", "udp" if to.endswith(":53") else "tcp", client, to, "--config", str(path)]
    assert call(words) == Exit.OK
    said = capsys.readouterr().out
    assert "known only to a running director" in said
    assert call([*words, "-o", "json"]) == Exit.OK
    written = capsys.readouterr().out
    for text in (said, written):
        assert not re.search(r"02:00:00|192\.0\.0\.8|\b100::|eth\d|00:00:00", text), text
        assert "None" not in text
    document = json.loads(written)
    assert document["member"]["interface"] is None
    assert document["packet"][0]["destination"] is None
    ethernet, outer, *_ = document["out"][0]
    assert ethernet == {"header": "ethernet", "source": None, "destination": None, "vlans": []}
    assert outer["source"] == (client.rpartition(":")[0] if document["member"]["encapsulation"] is None else None)


def test_text_for_l2(capsys: pytest.CaptureFixture[str]) -> None:
    """L2 DSR costs no bytes; UDP has no MSS."""
    assert call(explained("198.51.100.53:53", proto="udp")) == Exit.OK
    text = capsys.readouterr().out
    assert "L2 DSR" in text
    assert "the same IP packet, with the member's MAC address" in text
    assert "largest datagram  1472 bytes of payload" in text
    assert "fragments         each goes by its slot" in text


def test_a_file_of_packets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every packet is explained, one a line, whatever its MAC address; those that a director has sent are not."""
    path = tmp_path / "some.pcapng"
    writer = Writer("test")
    frames = [frame_of(packet_of(flow(port))) for port in (20000, 20001)]
    frames.append(frame_of(packet_of(flow(to="198.51.100.99")), bytes((2, 9, 9, 9, 9, 9))))
    packets = [Packet(frame, len(frame), 0, interface="eth1", direction=Direction.IN) for frame in frames]
    sent = Packet(frames[0], len(frames[0]), 0, interface="eth2", direction=Direction.OUT)
    path.write_bytes(writer.head() + b"".join(map(writer.packet, [*packets, sent])))
    assert call(["explain", "--pcap", str(path), "--config", str(EXAMPLE)]) == Exit.OK
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[1].split()[:6] == ["1", "192.0.2.7:20000", ">", "198.51.100.7:80", "tcp", "transmit"]
    assert "pass not_vip" in lines[3]
    path.write_bytes(b"#!/bin/sh\n")
    assert call(["explain", "--pcap", str(path), "--config", str(EXAMPLE)]) == Exit.FAILED
    assert "neither a pcap nor a pcapng file" in capsys.readouterr().err
    assert call(["explain", "--pcap", str(tmp_path / "none"), "--config", str(EXAMPLE)]) == Exit.FAILED
    assert "No such file" in capsys.readouterr().err


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    """The same facts for scripts."""
    assert call(explained("198.51.100.7:80", "--down", "web/web2", "-o", "json")) == Exit.OK
    document = json.loads(capsys.readouterr().out)
    assert document["apiVersion"] == "v1"
    assert document["forwarded"] is True
    assert document["virtual_service"] == "web"
    assert [one["header"] for one in document["out"][0]] == ["ethernet", "ipv4", "ipv4", "tcp"]
    assert document["member"]["id"] == "web/web1"
    assert document["member"]["overhead"] == 20
    assert document["fragments"] == "by_first"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["198.51.100.7:81"],
            Exit.FAILED,
            "no_service: no virtual service has tcp port 81 of this VIP; there are: web",
        ),
        (["198.51.100.9:80"], Exit.FAILED, "not_vip: 198.51.100.9 is not a VIP; VIPs are 198.51.100.7, "),
        (
            ["198.51.100.7:80", "--size", "1500"],
            Exit.FAILED,
            "too_big: at most 1480 bytes fit on the way to web/",
        ),
        (["198.51.100.7:80", "--down", "web/web3"], Exit.NOT_FOUND, "did you mean `web/web"),
        (["198.51.100.7"], Exit.USAGE, "the port is missing"),
        (["198.51.100.7:0"], Exit.USAGE, "0 is not a port"),
        (["[2001:db8:f::7]:80"], Exit.USAGE, "different families"),
        (["198.51.100.7:80", "--mtu", "100"], Exit.USAGE, "--mtu 100 is out of range"),
        (["198.51.100.7:80", "--size", "39"], Exit.USAGE, "--size 39 is out of range; use 40.."),
        (["198.51.100.7:80", "--interface", "eth1"], Exit.USAGE, "are for a running director"),
    ],
)
def test_every_no_has_a_reason_and_an_exit_code(
    arguments: list[str], code: Exit, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not forwarded is 1, wrong usage 2, an unknown member 5."""
    assert call(explained(*arguments)) == code
    output = capsys.readouterr()
    assert message in output.out + output.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "a flow takes three words"),
        (["tcp", "192.0.2.7:1"], "a flow takes three words"),
        (["sctp", "192.0.2.7:1", "198.51.100.7:80"], "sctp"),
        (["tcp", "192.0.2.7:1", "198.51.100.7:80", "--pcap", "x"], "either a flow or --pcap"),
        (["tcp", "192.0.2.7:1", "198.51.100.7:80", "--down", "web/web1"], "--down and --mtu are for --config"),
    ],
)
def test_wrong_words(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is missing or does not go together is named."""
    assert call(["explain", *words]) == Exit.USAGE
    assert message in capsys.readouterr().err


def test_an_invalid_configuration_exits_with_4(capsys: pytest.CaptureFixture[str]) -> None:
    """As with every command that reads one."""
    assert call(["explain", "tcp", "192.0.2.7:1", "198.51.100.7:80", "--config", "/absent.toml"]) == Exit.CONFIG
    assert "no such file" in capsys.readouterr().err


def test_a_service_that_is_not_enabled_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The most likely reason comes first."""
    path = tmp_path / "onward.toml"
    text = EXAMPLE.read_text().replace("example.key", str(EXAMPLE.parent / "example.key"))
    path.write_text(text.replace("# enabled = true\n# ha", "enabled = false\n# ha"))
    assert call(["explain", "tcp", "192.0.2.7:1", "198.51.100.7:80", "--config", str(path)]) == Exit.FAILED
    assert "virtual service web is not enabled" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [("192.0.2.7:1", "192.0.2.7", 1), ("[2001:db8::7]:65535", "2001:db8::7", 65535)],
)
def test_endpoints_read_and_print_alike(text: str, address: str, port: int) -> None:
    """Brackets around IPv6 addresses, as in URLs (RFC 3986)."""
    assert endpoint(text) == Endpoint(ip_address(address), port)
    assert str(endpoint(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "192.0.2.7",
        "192.0.2.7:",
        "192.0.2.7:x",
        "192.0.2.7:65536",
        "[192.0.2.7]:1",
        "2001:db8::7:1",
        "[2001:db8::7]",
        "[::1]:٣",
    ],
)
def test_not_endpoints(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError):
        endpoint(text)
