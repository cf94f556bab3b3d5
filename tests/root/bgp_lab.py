"""A director and a router with a cable between them, real routing software on the router, and a speaker to control."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.netns import Namespace, namespaces, until, veth

V4 = "198.51.100.7/32"
V6 = "2001:db8:f::7/128"

# Private directories: FRR has fixed places for its sockets, and names files after process ids, which repeat here.
FRR = """
for place in /run/frr /etc/frr /var/tmp/frr; do
    mkdir -p $place && mount -t tmpfs -o mode=1777 tmpfs $place || exit 1
done
cp {folder}/bgpd.conf /etc/frr/bgpd.conf
touch /etc/frr/zebra.conf /etc/frr/vtysh.conf
/usr/lib/frr/zebra -u frr -g frr -A 127.0.0.1 -P 0 --log file:{folder}/zebra.log &
until [ -S /run/frr/zserv.api ]; do sleep 0.02; done
exec /usr/lib/frr/bgpd -u frr -g frr -A 127.0.0.1 -P 0 --log file:{folder}/bgpd.log
"""

BGPD = """
router bgp 65000
 bgp router-id 192.0.2.1
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 timers bgp 3 9
 neighbor 192.0.2.11 remote-as 65010
 neighbor 192.0.2.11 password onward;test
 neighbor 192.0.2.11 advertisement-interval 0
 neighbor 192.0.2.11 timers connect 1
 address-family ipv4 unicast
  neighbor 192.0.2.11 activate
 exit-address-family
 address-family ipv6 unicast
  neighbor 192.0.2.11 activate
 exit-address-family
"""

BIRD = """
log stderr all;
router id 192.0.2.1;
protocol device { scan time 2; }
protocol direct { ipv4; ipv6; }
protocol kernel k4 { ipv4 { import none; export where source = RTS_BGP; }; }
protocol kernel k6 { ipv6 { import none; export where source = RTS_BGP; }; }
protocol bgp director {
  local 2001:db8:1::1 as 65010;
  neighbor 2001:db8:1::11 as 65010;
  hold time 9;
  connect retry time 1;
  error wait time 1, 10;
  ipv4 { import all; export none; };
  ipv6 { import all; export none; };
}
"""

EBGP = {
    "local_as": 65010,
    "router_id": "192.0.2.11",
    "neighbors": [{"address": "192.0.2.1", "remote_as": 65000, "password": "onward;test"}],
    "next_hop_v6": "2001:db8:1::11",
}
IBGP = {
    "local_as": 65010,
    "router_id": "192.0.2.11",
    "neighbors": [{"address": "2001:db8:1::1", "remote_as": 65010}],
    "next_hop_v4": "192.0.2.11",
}


@dataclass(frozen=True)
class Lab:
    name: str
    director: Namespace
    router: Namespace
    settings: dict
    """For the speaker."""

    @property
    def peer(self) -> str:
        return self.settings["neighbors"][0]["address"]

    def fib(self) -> set[str]:
        """The prefixes among V4 and V6 that the router's kernel has a route for."""
        found = (json.loads(self.router.ip("-j route show 198.51.100.7")) and {V4}) or set()
        return found | ((json.loads(self.router.ip("-j -6 route show 2001:db8:f::7")) and {V6}) or set())

    @contextmanager
    def without_addresses(self) -> Iterator[None]:
        """The director's network is not configured yet."""
        addresses = ("192.0.2.11/24", "2001:db8:1::11/64")
        for address in addresses:
            self.director.ip(f"addr del {address} dev eth1")
        try:
            yield
        finally:
            for address in addresses:
                self.director.ip(f"addr add {address} dev eth1 nodad")

    def fib_becomes(self, *prefixes: str, deadline_s: float = 30.0) -> float:
        """Wait until the kernel has just these; the seconds it took."""
        began = time.monotonic()
        until(lambda: self.fib() == set(prefixes), f"{self.name}: routes {prefixes}", deadline_s)
        return time.monotonic() - began


@contextmanager
def lab(name: str, folder: Path, config: str = "", port: int = 179) -> Iterator[Lab]:
    """`frr`: eBGP over IPv4 with a password. `bird`: iBGP over IPv6. Both carry both families.

    Args:
        name: which router.
        folder: for its files.
        config: of the router, instead of its usual one.
        port: where it listens then.
    """
    with namespaces("d", "r", prefix="owb") as (director, router):
        veth(director, "eth1", router, "eth1")
        for space, host in ((director, "11"), (router, "1")):
            space.ip(f"addr add 192.0.2.{host}/24 dev eth1")
            space.ip(f"addr add 2001:db8:1::{host}/64 dev eth1 nodad")
        if name == "frr":
            folder.chmod(0o777)  # FRR writes its logs as its own user
            (folder / "bgpd.conf").write_text(config or BGPD)
            inside = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c"]
            command = router.command(*inside, FRR.format(folder=folder))
        else:
            (folder / "bird.conf").write_text(config or BIRD)
            control = ["-c", str(folder / "bird.conf"), "-s", str(folder / "bird.ctl"), "-P", str(folder / "bird.pid")]
            command = router.command("bird", "-f", *control)
        with (folder / "router.log").open("w") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        try:
            listening = f"ss -Hltn sport = :{port}"
            until(lambda: router.run(*listening.split()), f"{name} listens")
            yield Lab(name, director, router, EBGP if name == "frr" else IBGP)
        finally:
            # The first process of FRR's pid namespace takes the rest along. (--kill-child does not outlive its setuid.)
            for pid in [process.pid, *children(process.pid)]:
                os.kill(pid, signal.SIGKILL)
            process.wait()


class Speaker:
    """A speaker process in the director's namespace."""

    def __init__(self, where: Lab, runtime_dir: Path, **changes: object) -> None:
        self.runtime_dir = runtime_dir
        settings = json.dumps(where.settings | changes)
        self._log = runtime_dir.with_suffix(f".{time.monotonic_ns()}.log").open("w")
        self.process = subprocess.Popen(
            where.director.command(sys.executable, "-m", "tests.root.bgp_speaker", settings, str(runtime_dir)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def call(self, *command: object) -> object:
        """
        Raises:
            AssertionError: the speaker raised SpeakerError, or is dead.
        """
        answer = self._ask(*command)
        assert "error" not in answer, answer["error"]
        return answer["ok"]

    def began(self, *command: object) -> float:
        """When the speaker began with a command, on the machine's monotonic clock."""
        return float(self._ask(*command)["began"])

    def refusal(self, *command: object) -> str:
        """The text of the SpeakerError that *command* raised; empty when it did not."""
        return self._ask(*command).get("error", "")

    def _ask(self, *command: object) -> dict:
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the speaker is dead"
        return json.loads(line)

    def status(self) -> dict:
        return self.call("status")

    def is_up(self, deadline_s: float = 60.0) -> None:
        def up() -> bool:
            return [peer["session"] for peer in self.status()["peers"].values()] == ["up"]

        until(up, "session up", deadline_s)

    def sets(self, *addresses: str) -> None:
        """Set until it is acknowledged, as the reconciler would."""

        until(lambda: not self.refusal("set", *addresses), f"set {addresses}", 30.0)

    @property
    def exabgp_pid(self) -> int:
        return int((self.runtime_dir / "exabgp.pid").read_text())

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def end(self) -> None:
        """Let go of everything, whatever state it is in."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self._log.close()


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def kill_exabgp(runtime_dir: Path) -> None:
    """End an ExaBGP whose speaker is gone already."""
    path = runtime_dir / "exabgp.pid"
    if path.exists() and (text := path.read_text().strip()) and alive(int(text)):
        os.kill(int(text), signal.SIGKILL)
        until(lambda: not alive(int(text)), "ExaBGP is gone")
