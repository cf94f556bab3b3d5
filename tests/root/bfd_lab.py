"""A director and a router that speak BFD: on a cable between them, and over a machine in the middle.

    director eth1 ───────────── eth1 router        192.0.2.0/24, 2001:db8:1::/64
    director eth2 ── middle ─── eth2 router        198.51.100.0/24, 203.0.113.0/24; 2001:db8:2::/64, 2001:db8:3::/64

What happens is measured on the router's interfaces, by the kernel's clock (`Wire`).
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.netns import PATIENCE, Namespace, namespaces, until, veth
from tests.root.bgp_lab import children

INTERVAL_MS = 50

FRR = """
for place in /run/frr /etc/frr /var/tmp/frr; do
    mkdir -p $place && mount -t tmpfs -o mode=1777 tmpfs $place || exit 1
done
cp {folder}/bfdd.conf /etc/frr/bfdd.conf
touch /etc/frr/zebra.conf /etc/frr/vtysh.conf
/usr/lib/frr/zebra -u frr -g frr -A 127.0.0.1 -P 0 --log file:{folder}/zebra.log &
until [ -S /run/frr/zserv.api ]; do sleep 0.02; done
exec /usr/lib/frr/bfdd -u frr -g frr -A 127.0.0.1 -P 0 --log file:{folder}/bfdd.log
"""

_FRR_TIMERS = """  receive-interval {ms}
  transmit-interval {ms}
  detect-multiplier 3
  no shutdown
"""

BIRD = """
log stderr all;
router id 192.0.2.1;
protocol device {{ scan time 2; }}
protocol bfd {{
  interface "*" {{ min rx interval {ms} ms; min tx interval {ms} ms; idle tx interval 1 s; multiplier 3; }};
  multihop {{ min rx interval {ms} ms; min tx interval {ms} ms; idle tx interval 1 s; multiplier 3; }};
{neighbors}
}}
"""


@dataclass(frozen=True)
class Way:
    """One way between the two."""

    name: str
    ours: str
    theirs: str
    interface: str
    """Of the router."""

    @property
    def multihop(self) -> bool:
        return self.interface == "eth2"

    @property
    def version(self) -> int:
        return 6 if ":" in self.ours else 4

    def settings(self, **changes: object) -> dict:
        """For `messages.SessionSettings`."""
        fixed = {"peer": self.theirs, "interval_us": INTERVAL_MS * 1000, "multiplier": 3, "multihop": self.multihop}
        return fixed | changes


WAYS = {
    way.name: way
    for way in (
        Way("v4", "192.0.2.11", "192.0.2.1", "eth1"),
        Way("v6", "2001:db8:1::11", "2001:db8:1::1", "eth1"),
        Way("v4-multihop", "198.51.100.11", "203.0.113.2", "eth2"),
        Way("v6-multihop", "2001:db8:2::11", "2001:db8:3::2", "eth2"),
    )
}


@dataclass(frozen=True)
class Lab:
    name: str
    director: Namespace
    router: Namespace
    folder: Path
    pid: int
    """Of the first process of the router's software."""

    @contextmanager
    def cut(self) -> Iterator[tuple[float, float]]:
        """Nothing of BFD gets through any more, in either direction, and no interface tells.

        Yields:
            Since when the director hears nothing, and since when the router does.
        """
        moments = []
        rule = "add table inet cut; add chain inet cut in { type filter hook prerouting priority -300; };"
        for space in (self.director, self.router):
            space.run("nft", f"{rule} add rule inet cut in udp dport {{ 3784, 4784 }} drop")
            moments.append(now())
        try:
            yield moments[0], moments[1]
        finally:
            for space in (self.director, self.router):
                space.run("nft", "delete table inet cut")

    def timers(self, ms: int) -> None:
        """Other timers for all sessions of the router."""
        if self.name == "frr":
            self.vtysh("configure", "bfd", *_frr(ms).splitlines()[1:])
        else:
            (self.folder / "bird.conf").write_text(_bird(ms))
            self.router.run("birdc", "-s", str(self.folder / "bird.ctl"), "configure")

    def vtysh(self, *commands: str) -> str:
        """FRR's own shell, inside its mounts."""
        (inner,) = children(self.pid)
        arguments = [word for command in commands for word in ("-c", command)]
        return self.router.run("nsenter", f"--mount=/proc/{inner}/ns/mnt", "vtysh", "-d", "bfdd", *arguments)


def _frr(ms: int) -> str:
    lines = ["bfd"]
    for way in WAYS.values():
        lines += [f" peer {way.ours}{f' multihop local-address {way.theirs}' if way.multihop else ''}"]
        lines += [_FRR_TIMERS.format(ms=ms), " exit"]
    return "\n".join([*lines, "exit", ""])


def _bird(ms: int) -> str:
    neighbors = [
        f"  neighbor {way.ours} " + (f"local {way.theirs} multihop on;" if way.multihop else 'dev "eth1";')
        for way in WAYS.values()
    ]
    return BIRD.format(ms=ms, neighbors="\n".join(neighbors))


@contextmanager
def lab(name: str, folder: Path) -> Iterator[Lab]:
    """`frr` or `bird`, with a session for each of WAYS."""
    with namespaces("d", "m", "r", prefix="owf") as (director, middle, router):
        veth(director, "eth1", router, "eth1")
        veth(director, "eth2", middle, "eth1")
        veth(middle, "eth2", router, "eth2")
        for space, interface, *addresses in (
            (director, "eth1", "192.0.2.11/24", "2001:db8:1::11/64"),
            (router, "eth1", "192.0.2.1/24", "2001:db8:1::1/64"),
            (director, "eth2", "198.51.100.11/24", "2001:db8:2::11/64"),
            (middle, "eth1", "198.51.100.1/24", "2001:db8:2::1/64"),
            (middle, "eth2", "203.0.113.1/24", "2001:db8:3::1/64"),
            (router, "eth2", "203.0.113.2/24", "2001:db8:3::2/64"),
        ):
            for address in addresses:
                space.ip(f"addr add {address} dev {interface}{' nodad' if ':' in address else ''}")
        middle.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
        director.ip("route add 203.0.113.0/24 via 198.51.100.1")
        director.ip("-6 route add 2001:db8:3::/64 via 2001:db8:2::1")
        router.ip("route add 198.51.100.0/24 via 203.0.113.1")
        router.ip("-6 route add 2001:db8:2::/64 via 2001:db8:3::1")
        if name == "frr":
            folder.chmod(0o777)  # FRR writes its logs as its own user
            (folder / "bfdd.conf").write_text(_frr(INTERVAL_MS))
            inside = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c"]
            command = router.command(*inside, FRR.format(folder=folder))
        else:
            (folder / "bird.conf").write_text(_bird(INTERVAL_MS))
            control = ["-c", str(folder / "bird.conf"), "-s", str(folder / "bird.ctl"), "-P", str(folder / "bird.pid")]
            command = router.command("bird", "-f", *control)
        with (folder / "router.log").open("w") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        try:
            until(lambda: router.run("ss", "-Hlun", "sport", "=", ":3784"), f"{name} listens", 30.0)
            yield Lab(name, director, router, folder, process.pid)
        finally:
            for pid in [process.pid, *children(process.pid)]:
                os.kill(pid, signal.SIGKILL)
            process.wait()


@dataclass(frozen=True)
class Seen:
    """A BFD packet on one of the router's interfaces, by the kernel's clock."""

    at: float
    """Seconds, CLOCK_REALTIME."""
    outgoing: bool
    """From the router."""
    source: str
    source_port: int
    hop_limit: int
    traffic_class: int
    state: str
    diag: int
    poll: bool
    final: bool
    multiplier: int
    desired_min_tx_us: int
    required_min_rx_us: int


class Wire:
    """Watches one interface of the router."""

    def __init__(self, where: Lab, way: Way) -> None:
        arguments = [sys.executable, "-m", "tests.root.bfd_wire", way.interface, str(way.version)]
        path = where.folder / f"wire.{time.monotonic_ns()}"
        with path.open("w") as output:
            self._process = subprocess.Popen(where.router.command(*arguments), stdout=output)
        self._lines = path.open()
        self._rest = ""
        self.seen: list[Seen] = []
        until(lambda: self._lines.readline() == "ready\n", "the watcher is there")

    def look(self) -> list[Seen]:
        """All packets up to now, the oldest first."""
        *lines, self._rest = (self._rest + self._lines.read()).split("\n")
        self.seen += [Seen(**json.loads(line)) for line in lines]
        return self.seen

    def first(self, after: float, what: str, wanted: Callable[[Seen], bool], deadline_s: float = 10.0) -> Seen:
        """The first packet after a moment that is *wanted*; waits for it."""

        def found() -> Seen | None:
            return next((seen for seen in self.look() if seen.at >= after and wanted(seen)), None)

        return until(found, what, deadline_s)

    def last(self, before: float, wanted: Callable[[Seen], bool]) -> Seen:
        return [seen for seen in self.look() if seen.at < before and wanted(seen)][-1]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._lines.close()


class Director:
    """A `Bfd` in a process of its own, in the director's namespace."""

    def __init__(self, where: Lab) -> None:
        self.process = subprocess.Popen(
            where.director.command(sys.executable, "-m", "tests.root.bfd_director"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def call(self, *command: object) -> dict:
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the director is dead"
        return json.loads(line)

    def set(self, *sessions: dict) -> None:
        self.call("set", *sessions)

    def session(self, way: Way) -> dict:
        return self.call("status")["sessions"].get(way.theirs, {})

    def becomes(self, way: Way, state: str, deadline_s: float = 10.0) -> dict:
        """Wait until the session is in *state*; its view."""

        def there() -> dict | None:
            view = self.session(way)
            return view if view.get("state") == state else None

        return until(there, f"{way.name} {state}", deadline_s)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def now() -> float:
    """On the clock of `Seen.at`."""
    return time.time()


def quiet(wire: Wire, since: float, wanted: Callable[[Seen], bool], seconds: float) -> None:
    """Nothing *wanted* is seen for so long."""
    end = time.monotonic() + seconds * PATIENCE
    while time.monotonic() < end:
        assert not [seen for seen in wire.look() if seen.at >= since and wanted(seen)]
        time.sleep(0.05)
