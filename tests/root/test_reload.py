"""Reloads of whole directors, each in a namespace of its own: other directors, other pools."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from tests.netns import Namespace, namespaces, until, veth
from tests.root.plane_rig import REPOSITORY, inside

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

ADDRESSES = {"d1": "192.0.2.11", "d2": "192.0.2.12"}

CONFIG = """
schema_version = 1

[director]
name = "{name}"
interfaces = ["e0"]
plane = "raw"
runtime_dir = "{folder}/run"

[fleet]
secret_file = "fleet.key"
{directors}
[[network_profile]]
name = "tcp"
type = "tcp_fast_path"
dsr = {{ type = "l3" }}

{monitors}
[[pool]]
name = "{pool}"
health_monitors = {names}
[[pool.member]]
name = "web1"
address = "{member}"

[[virtual_service]]
name = "web"
vips = ["198.51.100.7"]
ports = [80]
network_profile = "tcp"
pool = "{pool}"
"""


@dataclass
class Director:
    """One that runs in its namespace, with an API on the loopback interface there."""

    name: str
    space: Namespace
    folder: Path
    process: "subprocess.Popen[bytes] | None" = field(default=None)

    def write(
        self,
        *directors: str,
        port: int = 7117,
        pool: str = "web",
        member: str = "192.0.2.99",
        monitors: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """The configuration, with these directors in it; *port* is our own, *member* and *monitors* (settings by name)
        those of the pool."""
        ports = {self.name: port}
        entries = "".join(
            f'[[fleet.director]]\nname = "{name}"\naddress = "{ADDRESSES[name]}"\nport = {ports.get(name, 7117)}\n'
            for name in directors
        )
        tables = "".join(f'[[health_monitor]]\nname = "{name}"\n{rest}\n' for name, rest in monitors.items())
        text = CONFIG.format(
            name=self.name, folder=self.folder, directors=entries, pool=pool, member=member, monitors=tables,
            names=list(monitors),
        )  # fmt: skip
        (self.folder / "onward.toml").write_text(text)

    def start(self) -> None:
        words = self.space.command(sys.executable, "-m", "appliance", "run", str(self.folder / "onward.toml"))
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(words, cwd=REPOSITORY, stdout=log, stderr=log)
        until(self.status, f"{self.name} runs", 20)

    def reload(self) -> None:
        assert self.process is not None
        at = self.status()["config"]["last_reload"]["at"]
        os.kill(self.process.pid, signal.SIGHUP)
        until(lambda: self.status()["config"]["last_reload"]["at"] != at, "the file was read again")

    def status(self) -> Any:
        def ask() -> Any:
            try:
                with urllib.request.urlopen("http://127.0.0.1:8080/api/v1/status", timeout=5) as answer:
                    return json.load(answer)
            except OSError:
                return None

        return inside(self.space, ask)

    def events(self, *names: str) -> list[str]:
        """Those of these names that the log has, in their order."""
        lines = (self.folder / "log").read_text().splitlines()
        events = (json.loads(line)["event"] for line in lines if line.startswith("{"))
        return [event for event in events if event in names]

    def peers(self) -> dict[str, str]:
        """Other directors by name, and what there is between them and this one."""
        return {peer["name"]: peer["state"] for peer in (self.status()["fleet"] or {"peers": ()})["peers"]}


@contextmanager
def directors(folder: Path) -> Iterator[list[Director]]:
    with namespaces("d1", "d2", prefix="owm") as spaces:
        veth(spaces[0], "e0", spaces[1], "e0")
        made = []
        for name, space in zip(ADDRESSES, spaces, strict=True):
            space.ip(f"address add {ADDRESSES[name]}/24 dev e0")
            one = Director(name, space, folder / name)
            one.folder.mkdir()
            (one.folder / "fleet.key").write_bytes(bytes(range(32)))
            (one.folder / "fleet.key").chmod(0o600)
            made.append(one)
        try:
            yield made
        finally:
            for one in made:
                if one.process is not None:
                    one.process.terminate()
                    one.process.wait(20)


def test_a_virtual_service_gets_another_pool(tmp_path: Path) -> None:
    """By a reload of a running director: new flows go to the new pool's member as soon as it can be reached, and the
    old one drains as long as the window lasts."""
    with directors(tmp_path) as (one, machine):
        one.write(member=ADDRESSES["d2"])
        one.start()
        until(lambda: members(one) == {"web/web1": "in_rotation"}, "the member is reached")
        one.write(pool="next", member="192.0.2.13")
        one.reload()
        until(lambda: members(one) == {"next/web1": "out", "web/web1": "in_rotation"}, "the new member is looked for")
        machine.space.ip("address add 192.0.2.13/24 dev e0")
        until(lambda: members(one) == {"next/web1": "in_rotation", "web/web1": "draining"}, "it is found", 20)
        (service,) = one.status()["services"]
        assert service["transition"]["window"] == 65537


SLOWLY = "send_interval = 1\nquick_start = false\nsuccessful_checks = 2\nfailed_checks = 2\n"


def test_a_pool_gets_other_monitors(tmp_path: Path) -> None:
    """Its first one, one in the place of another, another vantage point: members go on as they are until what is asked
    now has a verdict, and that counts."""
    with directors(tmp_path) as (one, machine), ExitStack() as stack:
        listener = inside(machine.space, lambda: socket.create_server(("", 80)))
        stack.callback(listener.close)

        def verdicts() -> dict[str, str]:
            (member,) = next(iter(one.status()["pools"].values()))["members"]
            return {check["monitor"]: check["verdict"] for check in member["checks"] if check["path"] is None}

        one.write(member=ADDRESSES["d2"])
        one.start()
        until(lambda: members(one) == {"web/web1": "in_rotation"}, "the member is reached")
        begun = len(one.events("member.out", "member.draining"))
        for name in ("first", "second"):
            one.write(
                member=ADDRESSES["d2"],
                monitors={name: f'type = "tcp"\nvantage = "direct"\nmonitor_port = 80\n{SLOWLY}'},
            )
            one.reload()
            assert members(one) == {"web/web1": "in_rotation"}
            until(lambda name=name: verdicts() == {name: "up"}, "the member is asked", 20)  # type: ignore[misc]
        assert one.events("member.out", "member.draining")[begun:] == []
        # Nothing takes packets out of IP in IP there: through the path the member is down, but not before it is asked.
        one.write(member=ADDRESSES["d2"], monitors={"second": f'type = "tcp"\nmonitor_port = 80\n{SLOWLY}'})
        began = time.monotonic()
        one.reload()
        until(lambda: members(one) == {"web/web1": "out"}, "the path is asked", 20)
        assert time.monotonic() - began > 1.0, "not before its second bad result"
        assert one.events("member.out", "member.draining")[begun:] == ["member.out"]


def test_a_refused_configuration_does_not_count_as_taken(tmp_path: Path) -> None:
    """Metrics say when the configuration in force was taken, and when somebody last tried to change it."""
    with directors(tmp_path) as (one, _):

        def times() -> list[float]:
            names = (
                "onward_config_last_reload_success_timestamp_seconds",
                "onward_config_last_reload_timestamp_seconds",
            )
            return [value for name in names for value in metric(one, name)]

        one.write()
        one.start()
        taken, tried = times()
        assert taken == tried
        one.write(member="198.51.100.7")  # the VIP
        one.reload()
        refused = times()
        assert refused[0] == taken
        assert refused[1] > taken
        one.write()
        one.reload()
        taken_again, tried_again = times()
        assert taken_again == tried_again > refused[1]


def metric(one: Director, name: str) -> list[float]:
    """All values of a metric."""

    def ask() -> str:
        with urllib.request.urlopen("http://127.0.0.1:8080/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    lines = inside(one.space, ask).splitlines()
    return [float(line.rpartition(" ")[2]) for line in lines if line.partition("{")[0].partition(" ")[0] == name]


def members(one: Director) -> dict[str, str]:
    """State by `pool/member`."""
    return {member["id"]: member["state"] for pool in one.status()["pools"].values() for member in pool["members"]}


def test_a_director_joins_a_fleet_that_runs_and_leaves_it(tmp_path: Path) -> None:
    """By a reload those that run hear and tell a new director, and forget one that is not listed any more; what a
    director is itself takes a restart, and such a file is refused whole."""
    with directors(tmp_path) as (one, two):
        one.write("d1")
        one.start()
        assert one.peers() == {}

        two.write("d1", "d2")
        two.start()
        assert two.peers() == {"d1": "silent"}

        one.write("d1", "d2")
        one.reload()
        until(lambda: one.peers() == {"d2": "joined"}, "d1 hears d2")
        until(lambda: two.peers() == {"d1": "joined"}, "d2 hears d1")

        one.write("d1", "d2", port=7118)
        one.reload()
        reload = one.status()["config"]["last_reload"]
        assert not reload["ok"]
        assert "own entry" in str(reload["problems"])
        assert one.peers() == {"d2": "joined"}

        one.write("d1")
        one.reload()
        assert one.peers() == {}
        until(lambda: two.peers() == {"d1": "silent"}, "d2 hears d1 no more", 20)
