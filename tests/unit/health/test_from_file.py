"""From a configuration file to verdicts: real members in a namespace, asked by monitors as a director asks them."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog
import uvloop

from appliance.config.load import load
from appliance.path.gate import Gate
from appliance.wiring import probes
from health.monitor import Monitors
from health.spec import Status, Verdict
from tests.netns import Namespace, namespaces, veth

CONNECT = "import os, socket; socket.create_connection((os.environ['IP'], int(os.environ['PORT'])))"

FILE = f"""
schema_version = 1
director = {{ name = "d1", interfaces = ["eth0"] }}
fleet = {{ secret_file = "fleet.key" }}
[[network_profile]]
name = "tcp"
type = "tcp_fast_path"
[[virtual_service]]
name = "web"
vips = ["198.51.100.7"]
ports = [80]
network_profile = "tcp"
pool = "web"
[[pool]]
name = "web"
health_monitors = ["page", "syn", "machine", "script", "port"]
[[pool.member]]
name = "m1"
address = "192.0.2.2"
[[pool.member]]
name = "m2"
address = "2001:db8::2"
[[health_monitor]]
name = "page"
type = "http"
path = "/page.txt"
vantage = "direct"
response = "all is fine"
[[health_monitor]]
name = "syn"
type = "tcp"
half_open = true
vantage = "direct"
[[health_monitor]]
name = "machine"
type = "ping"
vantage = "direct"
[[health_monitor]]
name = "script"
type = "external"
command = [{json.dumps(sys.executable)}, "-c", {json.dumps(CONNECT)}]
[[health_monitor]]
name = "port"
type = "udp"
monitor_port = 9
vantage = "direct"
"""

FAST = '\nsend_interval = 0.9\nreceive_timeout = 0.8\ntype = "'


async def follow(path: Path) -> None:
    """Ask for ever, and print a line of JSON for each turn."""

    def told(status: Status) -> None:
        if status.verdict is not Verdict.UNKNOWN and status.last is not None:
            print(json.dumps([status.monitor, status.target.id, status.verdict, status.last.code]), flush=True)

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    monitors = Monitors(told, random.Random(1))
    config = load(path)
    gate = Gate(config.director.interfaces, config.secret, dict)
    monitors.set(frozenset(probes(config, gate.way)))
    await monitors.run()


@contextmanager
def started(space: Namespace, *command: str, cwd: Path | None = None) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(space.command(*command), stdout=subprocess.PIPE, stderr=None, text=True, cwd=cwd)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.root
def test_members_come_up_and_go_down(tmp_path: Path) -> None:
    """Every monitor finds both members well, and when their server ends, those that watch it say why; ping does not."""
    file = tmp_path / "onward.toml"
    file.write_text(FILE.replace('\ntype = "', FAST).replace(FAST + "tcp_fast", '\ntype = "tcp_fast'))
    (tmp_path / "fleet.key").write_text("0123456789abcdef")
    (tmp_path / "page.txt").write_text("all is fine")
    members = ("web/m1", "web/m2")
    with namespaces("d", "m", prefix="owfile") as (director, member):
        veth(director, "eth0", member, "eth0")
        for space, number in ((director, 1), (member, 2)):
            space.ip(f"addr add 192.0.2.{number}/24 dev eth0")
            space.ip(f"addr add 2001:db8::{number}/64 dev eth0 nodad")
        serve = ("-m", "http.server", "80", "--bind", "::")
        with (
            started(member, sys.executable, *serve, cwd=tmp_path) as server,
            started(director, sys.executable, "-m", "tests.unit.health.test_from_file", str(file)) as asking,
        ):
            assert asking.stdout is not None
            turns: dict[tuple[str, str], tuple[str, str]] = {}

            def wait_for(wanted: dict[tuple[str, str], tuple[str, str]]) -> None:
                deadline = time.monotonic() + 40
                while turns != wanted:
                    assert time.monotonic() < deadline, turns
                    monitor, name, verdict, code = json.loads(asking.stdout.readline())
                    turns[monitor, name] = (verdict, code)

            monitors = ("page", "syn", "machine", "script")
            # Nothing listens on port 9, and UDP without an expected answer knows it by ICMP.
            closed = {("port", name): ("down", "port_unreachable") for name in members}
            wait_for(closed | {(monitor, name): ("up", "ok") for monitor in monitors for name in members})
            server.kill()
            gone = {("page", name): ("down", "connection_refused") for name in members}
            gone |= {("syn", name): ("down", "connection_refused") for name in members}
            gone |= {("script", name): ("down", "script_error") for name in members}
            wait_for(closed | gone | {("machine", name): ("up", "ok") for name in members})


if __name__ == "__main__":
    uvloop.run(follow(Path(sys.argv[1])))
