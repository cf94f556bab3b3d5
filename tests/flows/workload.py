"""The clients' programs, and what they say."""

import json
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Popen = Callable[..., "subprocess.Popen[str]"]
"""Starts a program somewhere: `Node.popen`, or one for a namespace."""


@dataclass(frozen=True)
class Mark:
    """A SYN-ACK or RST that came for a connection."""

    at: float
    reset: bool
    member: int | None


@dataclass(frozen=True)
class Broken:
    """A flow that did not go on as it should. Times are seconds since the epoch."""

    flow: int
    protocol: str
    source: str
    port: int
    vip: str
    why: str
    member: int | None
    """That had the flow; None when nobody had answered."""
    by: int | None
    """That has broken it; None when it is not known."""
    state: str
    """Where it was: connecting, open, saying bye (the other side is to close it), closing."""
    again: bool
    """Its ports were those of a connection that had just ended."""
    sent: int
    heard: int
    """Requests and answers."""
    born: float
    at: float
    cause: float
    """When the first packet failed: the request that was never answered, or the reset."""
    answered: float | None
    """The last answer."""
    marks: tuple[Mark, ...] = ()

    @classmethod
    def from_line(cls, line: dict[str, Any]) -> "Broken":
        late = "in time" in line["why"]
        return cls(
            flow=line["flow"],
            protocol=line["protocol"],
            source=line["source"],
            port=line["port"],
            vip=line["vip"],
            why=line["why"],
            member=_member(line["member"]),
            by=_member(line["by"]),
            state=line["state"],
            again=line["again"],
            sent=line["sent"],
            heard=line["heard"],
            born=line["born"],
            at=line["at"],
            cause=line["asked"] if late and line["asked"] else line["at"],
            answered=line["answered"] or None,
            marks=tuple(Mark(mark["at"], bool(mark["flags"] & 4), _member(mark["member"])) for mark in line["marks"]),
        )

    def __str__(self) -> str:
        had, by = (f"m{number}" if number is not None else "nobody" for number in (self.member, self.by))
        marks = "".join(
            f", {'RST' if mark.reset else 'SYN-ACK'} from {'nobody' if mark.member is None else f'm{mark.member}'} "
            f"{mark.at - self.born:.3f} s after its birth"
            for mark in self.marks
        )
        return (
            f"{self.protocol} {self.source} {self.port} > {self.vip}: {self.why}; had {had}, broken by {by}; "
            f"{self.heard} of {self.sent} answered, {self.state}, {self.at - self.born:.1f} s old"
            f"{', on used ports' if self.again else ''}{marks}"
        )


def _member(number: int) -> int | None:
    return None if number < 0 else number


@dataclass
class Census:
    """How a client's flows are at a time."""

    begun: int = 0
    finished: int = 0
    broken: int = 0
    strays: int = 0
    """Resets for connections that were over already."""
    tcp: int = 0
    udp: int = 0
    """Flows that live."""
    at: Counter[int] = field(default_factory=Counter)
    """Living flows by member."""
    slowest_s: float = 0.0
    """The longest that anybody has waited for an answer since the census before."""

    def __add__(self, other: "Census") -> "Census":
        return Census(
            self.begun + other.begun,
            self.finished + other.finished,
            self.broken + other.broken,
            self.strays + other.strays,
            self.tcp + other.tcp,
            self.udp + other.udp,
            self.at + other.at,
            max(self.slowest_s, other.slowest_s),
        )


@dataclass(frozen=True)
class Load:
    """What a client does."""

    connections: int
    """TCP connections that are always open."""
    udp_flows: int
    """UDP flows that are always alive."""
    tcp_rate: float
    udp_rate: float
    """Short flows a second."""
    life_s: float = 60.0
    """Mean life of the kept ones (exponential); UDP flows live half as long."""
    pause_s: float = 1.5
    """Mean pause between an answer and the next request; now and then five times as long. UDP: a third of it."""
    timeout_s: float = 30.0
    ramp_s: float = 5.0
    seed: int = 1

    def arguments(self, sources: Sequence[str], targets: dict[str, float], hops: int) -> list[str]:
        return [
            "load",
            f"sources={','.join(sources)}",
            f"targets={','.join(f'{vip}/{share}' for vip, share in targets.items())}",
            f"hops={hops}",
            f"seed={self.seed}",
            f"ramp={self.ramp_s}",
            f"timeout={self.timeout_s}",
            f"tcp_kept={self.connections},{self.life_s},{self.pause_s}",
            f"udp_kept={self.udp_flows},{self.life_s / 2},{self.pause_s / 3}",
            f"tcp_short={self.tcp_rate},0.5,0.2",
            f"udp_short={self.udp_rate},1,0.3",
        ]


class Client:
    """A running client program."""

    def __init__(self, popen: Popen, program: Path, arguments: Sequence[str]) -> None:
        self.census = Census()
        self.broken: list[Broken] = []
        self.ended = False
        self._slowest = 0.0
        self._lock = threading.Lock()
        self._process = popen([program, *arguments], stdin=subprocess.PIPE, stderr=None)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for text in self._process.stdout:
            line = json.loads(text)
            with self._lock:
                if "broken" in line and isinstance(line["broken"], dict):
                    self.broken.append(Broken.from_line(line["broken"]))
                else:
                    self._take(line)

    def _take(self, line: dict[str, Any]) -> None:
        self._slowest = max(self._slowest, line["slowest"])
        self.ended = line["end"]
        at = Counter({int(number): count for number, count in line["tcp_at"].items()})
        at.update({int(number): count for number, count in line["udp_at"].items()})
        self.census = Census(
            line["begun"], line["finished"], line["broken"], line["strays"], line["tcp"], line["udp"], at
        )

    def look(self) -> Census:
        """The latest census; the longest wait since the look before is in it.

        Raises:
            RuntimeError: the program has ended before its time.
        """
        if self._process.poll() is not None and not self.ended:
            raise RuntimeError(f"the client's program has ended: exit code {self._process.returncode}")
        with self._lock:
            slowest, self._slowest = self._slowest, 0.0
            return Census(**{**self.census.__dict__, "slowest_s": slowest})

    def finish(self, deadline_s: float = 90.0) -> None:
        """Begin no more flows, and wait for the end of all.

        Raises:
            RuntimeError: they did not end, or were not all accounted for.
        """
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(deadline_s)
        self._thread.join(deadline_s)
        census = self.census
        if not self.ended or census.begun != census.finished + census.broken or len(self.broken) != census.broken:
            raise RuntimeError(f"flows are not accounted for: {census}, {len(self.broken)} told as broken")

    def kill(self) -> None:
        """At once, whatever its flows do."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._thread.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
