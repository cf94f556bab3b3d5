"""`onward check`: summary, JSON, notes, standard input."""

import io
import json
import sys
from pathlib import Path

import pytest

import appliance.config
from appliance.cli.check import lenient_reader
from appliance.cli.output import Exit
from appliance.cli.root import call
from appliance.config.load import parse

EXAMPLE = Path(appliance.config.__file__).parent / "example.toml"
BAD = Path(__file__).parent.parent.parent / "bad_configs"


TUNNELS = (
    "Tunnels take room: on links of 1500 bytes, members must advertise these MSS or less to clients (advmss of their "
    "routes)."
)


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The shipped example with a secret of its own that only we can read."""
    path = tmp_path / "onward.toml"
    path.write_text(EXAMPLE.read_text())
    key = tmp_path / "example.key"
    key.write_text("0123456789abcdef\n")
    key.chmod(0o600)
    return path


def test_a_valid_file_is_summed_up(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """VIPs with what serves them, members with their shares, and who hears of it."""
    assert call(["check", str(example)]) == Exit.OK
    output = capsys.readouterr()
    assert output.err == ""
    assert output.out.splitlines() == [
        f"{example}: ok, 2 virtual services, 3 VIPs, 2 pools, 3 members",
        "",
        "VIRTUAL SERVICE  VIP            PROTOCOL  PORTS   DELIVERY  HASH        POOL",
        "web              198.51.100.7   tcp       80,443  ipip      five_tuple  web",
        "                 2001:db8:f::7  tcp       80,443  ipip      five_tuple  web",
        "dns              198.51.100.53  udp       53      l2        source_ip   dns",
        "",
        "POOL  MEMBER  ADDRESS       RATIO   SHARE",
        "web   web1    203.0.113.21      2   66.7%",
        "      web2    203.0.113.22      1   33.3%",
        "dns           192.0.2.53        1  100.0%",
        "",
        "POOL  DELIVERY  OVER  BYTES MORE  LARGEST PACKET  MSS IPV4  MSS IPV6",
        "web   ipip      IPv4          20            1480      1440      1420",
        "",
        TUNNELS,
        "",
        "VIPs are announced from AS 65010 to 192.0.2.1 (AS 65000).",
    ]


def test_bfd_is_said_with_its_detection_time(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So that a mistake in a factor of ten is seen."""
    example.write_text(example.read_text().replace("# bfd = {", "bfd = {"))
    assert call(["check", str(example)]) == Exit.OK
    assert "to 192.0.2.1 (AS 65000, BFD within 300 ms)." in capsys.readouterr().out


def test_quiet_says_nothing_of_a_valid_file(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is the answer."""
    assert call(["check", "-q", str(example)]) == Exit.OK
    assert capsys.readouterr() == ("", "")


def test_json_of_a_valid_file(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One document with a version, for scripts."""
    assert call(["check", "--json", str(example)]) == Exit.OK
    document = json.loads(capsys.readouterr().out)
    assert document["apiVersion"] == "v1"
    assert document["ok"] is True
    assert document["virtual_services"][0]["vips"] == ["198.51.100.7", "2001:db8:f::7"]
    assert document["pools"][0]["members"][0] == {
        "name": "web1",
        "address": "203.0.113.21",
        "ratio": 2,
        "enabled": True,
    }


def test_json_of_an_invalid_file(capsys: pytest.CaptureFixture[str]) -> None:
    """Problems come in parts, on standard output, with the same exit code."""
    path = BAD / "unknown_key.toml"
    assert call(["check", "--json", str(path)]) == Exit.CONFIG
    output = capsys.readouterr()
    assert output.err == ""
    (problem,) = json.loads(output.out)["problems"]
    assert problem == {
        "source": str(path),
        "line": 38,
        "path": "pool[0].member[0].ration",
        "message": "unknown key",
        "remedy": "did you mean `ratio`? known here: name, address, ratio, enabled, max_connections, load_port, "
        "server_id",
    }


def test_a_secret_that_everybody_can_read_is_warned_of(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is no mistake of the file, so the file is valid."""
    (example.parent / "example.key").chmod(0o644)
    assert call(["check", "-q", str(example)]) == Exit.OK
    assert "example.key can be read by everybody" in capsys.readouterr().err


def test_a_secret_kept_from_the_user_is_not_checked(tmp_path: Path) -> None:
    """Checking needs no root, and the secret is for the daemon: that is a note, not a mistake."""

    def refuse(name: str) -> bytes:
        raise PermissionError(13, "Permission denied", name)

    notes: list[str] = []
    config = parse(EXAMPLE.read_text(), "onward.toml", lenient_reader(refuse, tmp_path, notes))
    assert config.services
    assert notes == ["example.key cannot be read by this user, so the fleet secret was not checked"]


def test_a_director_without_services_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Valid, but hardly meant."""
    (tmp_path / "k").write_text("0123456789abcdef")
    (tmp_path / "k").chmod(0o600)
    path = tmp_path / "onward.toml"
    path.write_text('schema_version = 1\n[director]\nname = "d1"\ninterfaces = ["eth1"]\n[fleet]\nsecret_file = "k"\n')
    assert call(["check", str(path)]) == Exit.OK
    output = capsys.readouterr()
    assert "this director would forward nothing" in output.err
    assert "Nothing is announced: there is no [bgp]." in output.out


def test_vips_on_a_segment_are_named(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever turns arp on sees for which VIPs and where."""
    example.write_text(example.read_text().replace("# arp = false", "arp = true #", 1))
    assert call(["check", str(example)]) == Exit.OK, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "Questions for 198.51.100.7, 2001:db8:f::7 on eth1 (ARP, neighbour solicitations) are answered by us" in said


def test_a_hyphen_reads_standard_input(
    example: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that are named there are looked up from the working directory."""
    monkeypatch.chdir(example.parent)
    for arguments in (["-"], ["-q", "-"], ["-", "-q"]):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(example.read_bytes())))
        assert call(["check", *arguments]) == Exit.OK
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"schema_version = 2")))
    capsys.readouterr()
    assert call(["check", "-"]) == Exit.CONFIG
    assert capsys.readouterr().err.startswith("(standard input):1: schema_version: ")


@pytest.mark.parametrize(
    ("name", "message"), [("absent.toml", "no such file"), (".", "this is a folder"), ("junk", "not UTF-8 text")]
)
def test_what_is_no_file_of_ours(name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One friendly line and exit code 4."""
    (tmp_path / "junk").write_bytes(bytes(range(256)))
    assert call(["check", str(tmp_path / name)]) == Exit.CONFIG
    assert message in capsys.readouterr().err


def test_what_directors_do_not_agree_on_is_said(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pool that decides flow by flow, and a director that remembers nothing, are worth a warning each."""
    text = example.read_text()
    example.write_text(text.replace('# algorithm = "consistent_hash" ', 'algorithm = "round_robin" #'))
    assert call(["check", "--quiet", str(example)]) == Exit.OK
    warned = capsys.readouterr().err
    assert "pool web: round_robin decides flow by flow" in warned
    assert "no [[fleet.director]] to ask" in warned
    example.write_text(text.replace("# pins = 131072 ", "pins = 0 "))
    assert call(["check", "--quiet", str(example)]) == Exit.OK
    assert "every change of members breaks flows" in capsys.readouterr().err


def test_what_tunnels_leave_is_said(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By pool and family, with the MSS for each family of VIPs; and that a cleared DF has a price."""
    text = example.read_text().replace('encapsulation = "ipip" }', 'encapsulation = "gue", outer_df = "clear" }')
    example.write_text(text.replace('"203.0.113.22"', '"2001:db8:21::22"'))
    assert call(["check", str(example)]) == Exit.OK
    said = capsys.readouterr()
    assert "web   gue       IPv4          32            1468      1428      1408" in said.out
    assert "web   gue       IPv6          52            1448      1408      1388" in said.out
    assert "network profile tcp-l3: outer_df = clear lets routers fragment" in said.err
    assert call(["check", "--json", str(example)]) == Exit.OK
    tunnels = json.loads(capsys.readouterr().out)["tunnels"]
    assert [(one["outer_version"], one["overhead"], one["mss"]) for one in tunnels] == [
        (4, 32, {"ipv4": 1428, "ipv6": 1408}),
        (6, 52, {"ipv4": 1408, "ipv6": 1388}),
    ]


def test_what_monitors_do_not_see_is_said(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A program that is not there, certificates that nobody verifies, and a pool that only ping watches."""
    text = example.read_text().replace("# tls_verify = true", "tls_verify = false")
    text = text.replace('health_monitors = ["http"]', 'health_monitors = ["https", "database"]')
    example.write_text(text.replace('health_monitors = ["dns"]', 'health_monitors = ["machine"]'))
    assert call(["check", "-q", str(example)]) == Exit.OK
    assert capsys.readouterr().err.splitlines() == [
        "warning: health monitor https: with tls_verify = false any certificate will do that has not ended",
        "warning: health monitor database: this user cannot start /usr/local/lib/onward/check-database on this machine",
        "warning: pool dns: ping alone says that a machine is there, not that it serves",
    ]


def test_what_of_the_path_is_not_tried_is_said(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ports between the ends of a range, ports of "*", and pools of which only own addresses are asked."""
    text = example.read_text().replace("ports = [80, 443]", 'ports = [80, "8000-8099", "*"]')
    example.write_text(text.replace('type = "dns"', 'type = "dns"\nmonitor_port = 5300'))
    assert call(["check", "-q", str(example)]) == Exit.OK
    ranges, wildcard, own = capsys.readouterr().err.splitlines()
    assert ranges == "warning: virtual service web: of ports 8000-8099 only the first and the last one are tried"
    assert wildcard == 'warning: virtual service web: of "*" no ports are tried but those of monitors'
    assert own.startswith("warning: pool dns: its monitors ask members' own addresses only")


def test_more_connections_than_ports_are_told(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two members, two VIPs, a connection in 5 s each are few; a hundred times as many are too many."""
    text = example.read_text().replace("send_interval = 5 ", "send_interval = 0.1 ").replace("receive_timeout = 2 ", "")
    more = "".join(f'[[pool.member]]\naddress = "203.0.113.{number}"\n' for number in range(100, 120))
    at = text.index("[[pool]]", text.index("[[pool]]") + 1)
    example.write_text(text[:at] + more + text[at:])
    assert call(["check", "-q", str(example)]) == Exit.OK
    assert "health monitors connect through the DSR path 440 times a second" in capsys.readouterr().err
