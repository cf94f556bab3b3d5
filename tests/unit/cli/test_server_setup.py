"""`onward server-setup`: what it refuses before it prints a script that root will run."""

from pathlib import Path

import pytest

from appliance.cli.output import Exit
from appliance.cli.root import call
from tests.unit.server.plans import HEAD, POOL, SERVICE


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """For a member behind IP in IP, with the decapsulator that needs an interface."""
    (tmp_path / "fleet.key").write_text("0" * 32)
    service = SERVICE.format(
        name="v", kind="tcp", dsr='type = "l3", encapsulation = "ipip"', vips='"198.51.100.7"', ports="443", outer=4
    )
    text = HEAD + POOL.format(version=4, address="203.0.113.2", other="203.0.113.4") + service
    (tmp_path / "onward.toml").write_text(text)
    config = str(tmp_path / "onward.toml")
    return ["server-setup", "--config", config, "--member", "m1", "--decapsulator", "onward"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--interface", "eth0; reboot"), "is not an interface name"),
        (("--interface", "a-name-that-is-too-long"), "is not an interface name"),
        (("--interface", "lo"), "packets for VIPs never arrive there"),
        (("--format", "windows", "--interface", 'nic"; Restart-Computer; "'), "without quotes and $"),
        (("--release", "-1"), "--release -1: give numbers like 1.1"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    command: list[str], words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong usage, with what to give instead; nothing is printed that somebody could run."""
    assert call([*command, *words]) == Exit.USAGE
    told = capsys.readouterr()
    assert said in told.err
    assert not told.out


def test_an_interface_is_a_word_in_the_script(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Names may have characters that a shell would take for its own."""
    assert call([*command, "--interface", "eth0;reboot"]) == Exit.OK
    script = capsys.readouterr().out
    assert script.count("--interface 'eth0;reboot'") == script.count("--interface") == 3
