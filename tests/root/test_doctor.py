"""The doctor on a lab with real members, tunnels and faults: the short form of `tests/run doctor`."""

import json
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest

from appliance.cli.orders import ask
from appliance.cli.root import call
from appliance.doctor import prober
from appliance.doctor.evidence import Reply
from appliance.doctor.prober import Question
from appliance.model import Protocol
from tests.doctor.faults import FAULTS, filtered
from tests.doctor.lab import REPOSITORY, WEB, Lab, lab
from tests.doctor.run import failures, run
from tests.netns import namespaces, veth
from tests.root.plane_rig import inside

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


def test_faults_are_named_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Faults that differ in kind are named on the first run; before the first and behind the last there is nothing."""
    faults = [fault for fault in FAULTS if fault.short]
    assert len(faults) >= 5
    with lab(tmp_path, other=False) as made:
        assert call(["doctor", "-o", "json", "--socket", str(made.socket)]) == 0
        document = json.loads(capsys.readouterr().out)
        assert failures(document) == frozenset()
        assert {one["member"]: one["dsr_capable"] for one in document["members"]} == dict.fromkeys(
            ("web/near", "web/far", "echo/near", "flat/near"), "yes"
        )
        seen_by_client(made)
        for outcome in run(made, faults, afterwards=False):
            assert outcome.found == outcome.fault.named, (outcome.fault.what, outcome.texts)
        assert failures(made.doctor()) == frozenset()


@pytest.mark.usefixtures("many_files")
def test_questions_with_thousands_of_files() -> None:
    """Packet sockets ask and hear also where their numbers among open files are high ones."""
    mac, address = "02:71:00:00:00:0b", ip_address("192.0.2.2")
    with namespaces("a", "b", prefix="owfiles") as (ours, theirs):
        veth(ours, "a0", theirs, "b0")
        theirs.ip(f"link set b0 address {mac}")
        ours.ip("addr add 192.0.2.1/24 dev a0")
        theirs.ip(f"addr add {address}/24 dev b0")
        head = bytes.fromhex(mac.replace(":", "")) + bytes.fromhex("02710000000a0800")
        closed = Question(ip_address("192.0.2.1"), address, Protocol.TCP, 81, lambda packet: ("a0", head + packet))
        asked = inside(ours, lambda: prober.ask([closed], 5.0))
        heard = inside(ours, lambda: prober.who_has({"a0": [address]}))
    assert [one.reply for one in asked] == [Reply.REFUSED]
    assert heard == {"a0": {address: {mac}}}


def seen_by_client(made: Lab) -> None:
    """Connections of a client's machine are taken along: well at first, and without answers where a firewall is on the
    client's way that no director's question meets."""
    command = made.client.command(sys.executable, "-m", "appliance", "client", f"{WEB}:80", "--timeout", "2")

    def doctor() -> dict[tuple[str, str], str]:
        said = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
        document = ask(made.socket, "POST", "/v1/doctor", {"clients": [json.loads(said)]}, timeout_s=120)
        return {(one["check"], one["member"]): one["outcome"] for one in document["findings"] if one["member"]}

    both = [("clients", "web/near"), ("clients", "web/far")]
    assert {name: found for name, found in doctor().items() if name in both} == dict.fromkeys(both, "pass")
    with filtered(made.client, "prerouting", f"ip saddr {WEB} drop"):
        found = doctor()
    assert {name for name, outcome in found.items() if outcome == "fail"} == set(both)
    made.doctor()
