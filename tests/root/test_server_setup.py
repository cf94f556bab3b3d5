"""Members set up by what `onward server-setup` prints or does, and nothing else: they carry traffic of a real director.

client -- director -- member. The director runs with a virtual service for every delivery; whatever the member has
beyond its own address and routes comes from the generated configuration.
"""

import hashlib
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.lab.node import Node
from appliance.lab.responder import pattern
from appliance.lab.runner import Lab
from tests.debs import libraries, unpacked
from tests.netns import until

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

TOPOLOGY = """
name: "@NAME"
prefix: "@NAME"
topology:
  nodes:
    client:
      exec: [ip route add default via 192.0.2.1, "ip -6 route add default via 2001:db8:1::1", ethtool -K eth1 gro on]
    director:
      image: onward
      binds: [onward.toml:/etc/onward/onward.toml, fleet.key:/etc/onward/fleet.key]
      sysctls: {net.ipv4.ip_forward: 1, net.ipv6.conf.all.forwarding: 1}
      labels: {onward.ready: python3 -c "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/healthz')"}
    member:
      image: onward
      cmd: lab responder
      binds: [onward.toml:/etc/onward/onward.toml]
      # Strict: what comes out of the encapsulation must look as if it had come on the interface towards the client.
      sysctls: {net.ipv4.conf.all.rp_filter: 1}
      exec:
        - ip route add default via 203.0.113.1
        - ip -6 route add default via 2001:db8:2::1
        - ethtool -K eth1 gro on
        - mount -t tmpfs tmpfs /opt
        - mkdir -p /opt/onward/bin
        - ln -s @ONWARD /opt/onward/bin/onward
      labels: {onward.ready: "bash -c '</dev/tcp/127.0.0.1/80'"}
  links:
    - endpoints: ["client:eth1", "director:eth1"]
      mtu: 1500
      ipv4: [192.0.2.2/24, 192.0.2.1/24]
      ipv6: ["2001:db8:1::2/64", "2001:db8:1::1/64"]
    - endpoints: ["director:eth2", "member:eth1"]
      mtu: 1500
      ipv4: [203.0.113.1/29, 203.0.113.2/29]
      ipv6: ["2001:db8:2::1/64", "2001:db8:2::2/64"]
"""
CONFIG = """
schema_version = 1
[director]
name = "d1"
interfaces = ["eth1"]
plane = "xdp"
[fleet]
secret_file = "fleet.key"
"""
SERVICE = """
[[network_profile]]
name = "{name}"
type = "tcp_fast_path"
dsr = {{ {dsr} }}
[[pool]]
name = "{name}"
[[pool.member]]
name = "m1"
address = "{address}"
[[virtual_service]]
name = "{name}"
vips = ["198.51.100.{number}", "2001:db8:f::{number}"]
ports = [80]
network_profile = "{name}"
pool = "{name}"
"""
MEMBER = {4: "203.0.113.2", 6: "2001:db8:2::2"}
SERVICES = {"l2": ("", 4)} | {f"{kind}{outer}": (kind, outer) for kind in ("ipip", "gre", "gue") for outer in (4, 6)}
"""Encapsulation and IP version of the outer header. Each has VIPs of both families."""

ROOM = {
    "l2": (1460, 1440),
    "ipip4": (1440, 1420),
    "ipip6": (1420, 1400),
    "gre4": (1436, 1416),
    "gre6": (1416, 1396),
    "gue4": (1428, 1408),
    "gue6": (1408, 1388),
}
"""The MSS that members have to advertise on links of 1500 bytes, IPv4 and IPv6."""

VIPS = {name: (f"198.51.100.{number}", f"2001:db8:f::{number}") for number, name in enumerate(SERVICES, 11)}
SETUP = [
    "onward",
    "server-setup",
    "--config",
    "/etc/onward/onward.toml",
    "--member",
    "m1",
    "--interface",
    "eth1",
    "--decapsulator",
    "onward",
    "--from",
    "203.0.113.1/32",
    "--from",
    "2001:db8:2::1/128",
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("setup")
    text = CONFIG
    for number, (name, (kind, outer)) in enumerate(SERVICES.items(), 11):
        dsr = f'type = "l3", encapsulation = "{kind}"' if kind else 'type = "l2"'
        text += SERVICE.format(name=name, number=number, dsr=dsr, address=MEMBER[outer])
    (folder / "onward.toml").write_text(text)
    (folder / "fleet.key").write_text("0123456789abcdef")
    file = folder / "setup.clab.yml"
    onward = Path(sys.executable).with_name("onward")
    file.write_text(TOPOLOGY.replace("@NAME", f"ows{os.getpid()}").replace("@ONWARD", str(onward)))
    with Lab.up(file) as lab:
        lab.wait()
        yield lab


FETCH = """
import hashlib, http.client, json, socket, sys
told = {}
for vip in sys.argv[1:]:
    try:
        connection = http.client.HTTPConnection(vip, 80, timeout=10)
        connection.connect()
        # Without the 12 bytes of timestamps in every segment.
        mss = connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) + 12
        connection.request("GET", "/blob?size=200000")
        got = hashlib.sha256(connection.getresponse().read()).hexdigest()
        connection.request("POST", "/sink", b"onward" * 50000)
        sunk = connection.getresponse().read().decode().split()[0]
        told[vip] = [got, sunk, mss]
    except OSError as error:
        told[vip] = str(error)
print(json.dumps(told))
"""


def carries(lab: Lab) -> None:
    """Every VIP of every delivery, both directions, and segments that fit the tunnel."""
    blob, sink = hashlib.sha256(), hashlib.sha256(b"onward" * 50000)
    for piece in pattern(200000):
        blob.update(piece)
    vips = [vip for pair in VIPS.values() for vip in pair]
    told = json.loads(lab.node("client").run(["python3", "-c", FETCH, *vips], timeout=200).stdout)
    wanted = {
        vip: [blob.hexdigest(), sink.hexdigest(), mss]
        for name in SERVICES
        for vip, mss in zip(VIPS[name], ROOM[name], strict=True)
    }
    assert told == wanted


def check(lab: Lab, code: int = 0) -> list[dict[str, str]]:
    """The points of the member, as it sees itself."""
    done = lab.node("member").run([*SETUP, "--check", "--json"], check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return list(json.loads(done.stdout)["points"])


def green(lab: Lab) -> None:
    """Every point passes; nothing is left that could not be seen."""
    points = check(lab)
    assert {point["verdict"] for point in points} == {"pass"}, points
    assert {point["name"] for point in points} >= {"vip", "tunnel", "mss", "firewall", "listening", "arp_ignore"}


TRACES = (
    "ip -details -oneline address | sed 's/valid_lft.*//'",
    "ip -4 rule; ip -6 rule",
    "ip -4 route show table all; ip -6 route show table all",
    "grep -rH . /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf",
    "nft list ruleset",
    "ip fou show 2>/dev/null || true",
    "ls -A /run/onward 2>/dev/null || true",
    "ps -eo args | grep -Ev 'ps -eo|grep|sort' | sort",
)


def traces(member: Node) -> dict[str, str]:
    """Everything of the member that set-up could have changed."""
    found = {command: member.run(["sh", "-c", command], check=False).stdout for command in TRACES}
    # Routes of the loopback interface have hashes of their own order; neighbours' timers run.
    return {
        command: "\n".join(sorted(re.sub(r"expires \d+sec", "", text).splitlines())) for command, text in found.items()
    }


def nothing_is_left(member: Node, before: dict[str, str]) -> None:
    """All is as before. A process that has ended may still have to be collected."""
    try:
        until(lambda: traces(member) == before, "nothing is left", 5)
    except AssertionError:
        assert traces(member) == before


def test_apply_and_undo(lab: Lab) -> None:
    """--apply alone makes a member that carries everything, twice is as good as once, and --undo leaves no trace."""
    member = lab.node("member")
    before = traces(member)
    assert {point["name"] for point in check(lab, 1) if point["verdict"] == "fail"} >= {"vip", "tunnel", "arp_ignore"}
    said = member.run([*SETUP, "--apply"]).stdout
    assert "onward decap on eth1" in said
    carries(lab)
    green(lab)
    applied = traces(member)
    assert member.run([*SETUP, "--apply"]).stdout == "everything was there\n"
    assert traces(member) == applied
    member.run(["onward", "server-setup", "--undo"])
    nothing_is_left(member, before)
    assert member.run(["onward", "server-setup", "--undo"]).stdout == "nothing was to be taken back\n"


def test_check_names_what_is_broken(lab: Lab) -> None:
    """One thing is broken at a time: exactly its point fails, with a remedy, and passes when it is mended."""
    member = lab.node("member")
    vip, six = VIPS["ipip4"]
    member.run([*SETUP, "--apply"])
    try:
        for broken, mended, name, subject in (
            (f"ip address del {vip}/32 dev lo", f"ip address add {vip}/32 dev lo", "vip", vip),
            (f"ip address del {six}/128 dev lo", f"ip address add {six}/128 dev lo nodad", "vip", six),
            (
                "sysctl -w net.ipv4.conf.all.arp_ignore=0",
                "sysctl -w net.ipv4.conf.all.arp_ignore=1",
                "arp_ignore",
                "eth1",
            ),
            (
                "sysctl -w net.ipv4.conf.all.arp_announce=1",
                "sysctl -w net.ipv4.conf.all.arp_announce=2",
                "arp_announce",
                "eth1",
            ),
            ("onward decap stop --interface eth1", shlex.join([*SETUP, "--apply"]), "tunnel", "eth1"),
        ):
            member.run(["sh", "-c", broken])
            failed = [point for point in check(lab, 1) if point["verdict"] == "fail"]
            assert {(point["name"], point["subject"]) for point in failed} == {(name, subject)}, failed
            assert all(point["fix"] for point in failed)
            member.run(["sh", "-c", mended])
            green(lab)
        rule = next(line for line in member.run(["ip", "rule"]).stdout.splitlines() if f"from {vip} " in line)
        member.run(["ip", "rule", "del", "from", vip])
        (failed_mss,) = [point for point in check(lab, 1) if point["verdict"] == "fail"]
        assert (failed_mss["name"], failed_mss["subject"]) == ("mss", vip), rule
        assert "1440 fits the tunnel" in failed_mss["evidence"]
    finally:
        member.run(["onward", "server-setup", "--undo"])


def test_another_plan_takes_back_what_it_has_not(lab: Lab) -> None:
    """Fewer services: VIPs, rules and routing tables of the others go, and the rest stays as it was."""
    member = lab.node("member")
    before = traces(member)
    member.run([*SETUP, "--apply"])
    fewer = [*SETUP, "--service", "l2", "--service", "gre4"]
    said = member.run([*fewer, "--apply"]).stdout
    assert f"{VIPS['ipip4'][0]}/32 is off lo" in said
    kept = member.run(["ip", "address", "show", "dev", "lo"]).stdout
    wanted = {vip for name in ("l2", "gre4") for vip in VIPS[name]}
    assert {vip for pair in VIPS.values() for vip in pair if f"{vip}/" in kept} == wanted
    assert len(re.findall(r"lookup 77", member.run(["sh", "-c", "ip -4 rule; ip -6 rule"]).stdout)) == 2
    assert member.run([*fewer, "--check"]).returncode == 0
    member.run(["onward", "server-setup", "--undo"])
    nothing_is_left(member, before)


def test_the_script(lab: Lab) -> None:
    """The script of the format `shell`: up, up again, and down."""
    member = lab.node("member")
    before = traces(member)
    member.run(["sh", "-c", f"{shlex.join(SETUP)} --format shell >/run/onward-member"])
    for _ in range(2):
        member.run(["sh", "/run/onward-member", "up"])
    carries(lab)
    green(lab)
    member.run(["sh", "/run/onward-member", "down"])
    nothing_is_left(member, before)


@pytest.mark.parametrize("form", ["networkd", "netplan"])
def test_networkd(lab: Lab, form: str) -> None:
    """The real systemd-networkd puts the generated files into force, by way of netplan's real generator or directly."""
    member = lab.node("member")
    files = [Path(line) for line in member.run([*SETUP, "--format", form, "--output", "/"]).stdout.split()]
    folders = "/etc/systemd/network"
    if form == "netplan":
        place = unpacked("netplan")
        path = libraries(place)["LD_LIBRARY_PATH"]
        member.run([place / "usr/libexec/netplan/generate"], env={"LD_LIBRARY_PATH": path})
        folders = "/run/systemd/network"
    assert member.run(["ls", folders]).stdout
    # Without udev, as in containers: a read-only /sys is what networkd goes by.
    member.run(["mount", "-o", "remount,ro", "/sys"])
    networkd = member.popen(["/lib/systemd/systemd-networkd"], env={"SYSTEMD_LOG_LEVEL": "info"})
    try:
        last = VIPS["gue6"][1]
        until(
            lambda: last in member.run(["ip", "address", "show", "dev", "lo"]).stdout, "networkd has set the VIPs", 20
        )
        member.run(["sysctl", "-q", "-p", "/etc/sysctl.d/90-onward.conf"])
        for unit in (file for file in files if file.suffix == ".service"):
            (start,) = re.findall(r"(?m)^ExecStart=(.*)$", member.run(["cat", unit]).stdout)
            member.run(["sh", "-c", f"setsid --fork {start} >/run/unit.log 2>&1 </dev/null"])
        until(
            lambda: member.run(["onward", "decap", "status", "--interface", "eth1"], check=False).returncode == 0,
            "the decapsulator runs",
            20,
        )
        carries(lab)
        green(lab)
    finally:
        networkd.terminate()
        said = networkd.communicate(timeout=20)[1]
        member.run(["onward", "decap", "stop", "--interface", "eth1"])
        member.run(["mount", "-o", "remount,rw", "/sys"])
        member.run(["nft", "delete", "table", "inet", "onward_member"])
        member.run(["rm", "-rf", *files, "/run/systemd/network", "/run/unit.log"])
        for pair in VIPS.values():
            for vip in pair:
                member.run(["ip", "address", "del", f"{vip}/{128 if ':' in vip else 32}", "dev", "lo"], check=False)
        for key in ("arp_ignore", "arp_announce"):
            member.run(["sysctl", "-qw", f"net.ipv4.conf.all.{key}=0"])
    assert not re.search(r"(?i)unknown|fail(ed)? to parse|invalid", said), said


def test_what_a_capture_shows(lab: Lab) -> None:
    """tcpdump in front of the member: the request in a tunnel from the director, the reply as it goes to the client."""
    member = lab.node("member")
    vip = VIPS["ipip4"][0]
    # Behind the place where captures are taken; XDP is in front of it.
    member.run([*SETUP, "--apply"])
    arguments = ("--from", "203.0.113.1/32", "--vip", vip, "--address", MEMBER[4], "--mode", "tc")
    member.run(["onward", "decap", "stop", "--interface", "eth1"])
    decap = member.popen(["onward", "decap", "run", "--interface", "eth1", *arguments])
    assert decap.stdout is not None
    assert "tc mode" in decap.stdout.readline()
    capture = member.popen(["tcpdump", "-ntt", "-l", "-i", "eth1", "-c", "2", f"proto 4 or src host {vip}"])
    try:
        assert capture.stderr is not None
        until(lambda: "listening" in capture.stderr.readline(), "tcpdump listens")
        lab.node("client").run(["bash", "-c", f"exec 3<>/dev/tcp/{vip}/80"])
        shown, _ = capture.communicate(timeout=20)
    finally:
        decap.terminate()
        decap.communicate()
        member.run(["onward", "server-setup", "--undo"])
    request, reply = shown.splitlines()
    print(f"\n{shown}")
    asked = re.match(rf"([\d.]+) IP 203.0.113.1 > 203.0.113.2: IP 192.0.2.2.(\d+) > {vip}.80: Flags \[S\], ", request)
    assert asked, request
    answered = re.match(rf"([\d.]+) IP {vip}.80 > 192.0.2.2.{asked[2]}: Flags \[S\.\], ", reply)
    assert answered, reply
    print(f"answered within {(float(answered[1]) - float(asked[1])) * 1e6:.0f} µs")
