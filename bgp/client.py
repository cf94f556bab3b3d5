"""Our end of the guard's socket: commands out, answers and events in."""

import asyncio
import itertools
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import structlog

from bgp import exabgp_text as text
from bgp.config import BgpSpeakerConfig
from bgp.route import IPAddress, Route
from bgp.speaker import SpeakerError, Survival

log = structlog.get_logger()

MAX_LINE = 1 << 22
SILENCE_S = 1.0
MAX_SILENCES = 3
"""A guard that owes an answer and is silent for so many times SILENCE_S hangs, and can no longer guard anything.

Counted in waits that ended without a line, not by the clock: after our own process was held up, answers that have
been there all the time must not count against the guard."""

GREETING_SILENCES = 30
"""The same before the greeting, which waits for ExaBGP's first answer."""


@dataclass(frozen=True)
class _Request:
    done: asyncio.Future[str | None]
    """Becomes the error, or None when acknowledged."""

    prefixes: tuple[str, ...] = ()
    routes: tuple[Route, ...] = ()
    """Of these prefixes, one each; none: withdraw."""

    lease: bool = False


class GuardLink:
    """One connection to a guard. Knows what the guard was told, and what of that is acknowledged."""

    def __init__(
        self,
        config: BgpSpeakerConfig,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_event: Callable[[text.Event], None],
    ) -> None:
        self._config = config
        self._reader = reader
        self._writer = writer
        self._on_event = on_event
        self._numbers = itertools.count(1)
        self._owed: dict[int, _Request] = {}
        self._told: dict[str, frozenset[Route] | None] = {}
        """By prefix; None: the guard has some route for it, but we do not know which."""

        self._wanted: frozenset[Route] | None = None
        """None: nobody has said yet. What an earlier process has announced stays until then."""
        self._acknowledged: dict[str, frozenset[Route]] = {}
        """By prefix."""

        self.acknowledged_at = 0.0
        """Of the latest route; seconds since the epoch."""

        self.hello: text.Hello | None = None
        self.leased = False

    @classmethod
    async def open(cls, config: BgpSpeakerConfig, path: Path, on_event: Callable[[text.Event], None]) -> "GuardLink":
        """Connect.

        Raises:
            OSError: nobody listens at *path*.
        """
        reader, writer = await asyncio.open_unix_connection(str(path), limit=MAX_LINE)
        return cls(config, reader, writer, on_event)

    @property
    def acknowledged(self) -> frozenset[Route]:
        return frozenset[Route]().union(*self._acknowledged.values())

    def want(self, routes: frozenset[Route]) -> None:
        """Send whatever makes the guard announce exactly *routes*: withdrawals first. Does not wait.

        Without a lease only withdrawals go out; announcements follow by themselves when the lease is there.
        """
        self._wanted = routes
        if self.hello is None:
            return
        wanted: dict[str, frozenset[Route]] = {}
        for route in routes:  # a thousand of them, each time that anything changes: what stays must cost little
            wanted[route.cidr] = wanted.get(route.cidr, frozenset()) | {route}
        unwanted = [prefix for prefix in self._told if prefix not in wanted]
        for prefix in unwanted:
            del self._told[prefix]
            self._acknowledged.pop(prefix, None)
        self._withdraw(unwanted)
        if self.leased:
            news = {prefix: now for prefix, now in wanted.items() if self._told.get(prefix) != now}
            self._tell({prefix: news[prefix] for prefix in sorted(news, key=lambda prefix: min(news[prefix]))})

    def want_again(self) -> None:
        """`want`, as the last time."""
        if self._wanted is not None:
            self.want(self._wanted)

    def _tell(self, wanted: Mapping[str, frozenset[Route]]) -> None:
        """Make the routes of prefixes be just these: first those who are to have another one, then those who are to
        have none."""
        routes: list[Route] = []
        gone: dict[frozenset[IPAddress], list[str]] = {}
        for prefix, now in wanted.items():
            told = self._told.get(prefix, frozenset[Route]())
            self._told[prefix] = now
            routes += sorted(now if told is None else now - told)
            had = self._peers if told is None else self._of(told)
            if lost := had - self._of(now):
                gone.setdefault(lost, []).append(prefix)
        self._announce(routes)
        for peers, prefixes in gone.items():
            self._withdraw(prefixes, peers)

    def _announce(self, routes: Iterable[Route]) -> None:
        """Ask for them, those together that have the same attributes."""
        alike: dict[tuple[object, ...], list[Route]] = {}
        for route in routes:
            alike.setdefault((route.vip.version, route.next_hop, route.attributes, route.peers), []).append(route)
        for together in alike.values():
            next_hop = self._config.next_hop(together[0].vip.version)
            for some in _portions(together):
                number = next(self._numbers)
                prefixes = [route.cidr for route in some]
                self._ask(number, text.announce(number, some, next_hop), prefixes, some)

    def _withdraw(self, prefixes: Sequence[str], peers: Iterable[IPAddress] = ()) -> None:
        for is_v6 in (False, True):
            for some in _portions([prefix for prefix in prefixes if (":" in prefix) is is_v6]):
                number = next(self._numbers)
                self._ask(number, text.withdraw(number, some, peers), some)

    @property
    def _peers(self) -> frozenset[IPAddress]:
        return frozenset(neighbor.address for neighbor in self._config.neighbors)

    def _of(self, routes: frozenset[Route]) -> frozenset[IPAddress]:
        return frozenset(peer for peer in self._peers if any(route.goes_to(peer) for route in routes))

    async def settled(self, patience_s: float) -> list[str]:
        """Wait until every route command is answered; the errors among the answers.

        Raises:
            SpeakerError: no answer came for *patience_s*.
        """
        errors = []
        while requests := [request for request in self._owed.values() if request.prefixes]:
            for request in requests:
                done, _ = await asyncio.wait([request.done], timeout=patience_s)
                if not done:
                    raise SpeakerError(
                        f"ExaBGP did not acknowledge {_named(request)} within {patience_s:g} s;"
                        " it is restarted if it hangs, and the routes are announced then"
                    )
                if error := request.done.result():
                    errors.append(f"{_named(request)}: {error}")
        return errors

    async def left(self, patience_s: float) -> None:
        """Wait until everything so far is answered, or for *patience_s*: what is not may not have arrived."""
        owed = [request.done for request in self._owed.values()]
        if owed:
            await asyncio.wait(owed, timeout=patience_s)

    def renew(self, seconds: float, survival: Survival | None = None) -> None:
        if self.hello is not None:
            number = next(self._numbers)
            self._ask(number, text.lease(number, seconds, survival), lease=True)

    def teardown(self, peer: str) -> None:
        """End the session with *peer*."""
        if self.hello is not None:
            number = next(self._numbers)
            self._ask(number, text.teardown(number, peer))

    async def read(self) -> None:
        """Take in what comes, until the connection ends.

        Raises:
            SpeakerError: the guard hangs.
        """
        silences = 0
        while True:
            try:
                async with asyncio.timeout(SILENCE_S):
                    line = await self._reader.readline()
            except TimeoutError:
                silences = silences + 1 if self._owed or self.hello is None else 0
                if silences >= (GREETING_SILENCES if self.hello is None else MAX_SILENCES):
                    raise SpeakerError("the guard does not answer: ExaBGP is stopped and started anew") from None
                continue
            except (OSError, ValueError) as error:  # ValueError: a line beyond MAX_LINE
                log.warning("bgp.link_broken", error=str(error))
                return
            silences = 0
            if not line.endswith(b"\n"):
                return
            try:
                event = text.parse(line.decode(errors="replace"))
            except ValueError as error:
                log.warning("bgp.line_not_understood", error=str(error))
                continue
            if event is not None:
                self._take(event)

    def kill_guard(self) -> None:
        """End a guard that hangs: it would not notice that ExaBGP is gone."""
        credentials = self._writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid, _uid, _gid = struct.unpack("iII", credentials)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def close(self) -> None:
        self._writer.close()
        self.hello = None
        self.leased = False
        self._acknowledged.clear()
        for number in list(self._owed):
            self._answer(number, "the connection to the guard ended")

    def _ask(
        self, number: int, line: str, prefixes: Iterable[str] = (), routes: Iterable[Route] = (), *, lease: bool = False
    ) -> None:
        done = asyncio.get_running_loop().create_future()
        self._owed[number] = _Request(done, tuple(prefixes), tuple(routes), lease)
        self._writer.write(line.encode() + b"\n")

    def _answer(self, number: int, error: str | None) -> _Request | None:
        request = self._owed.pop(number, None)
        if request is not None and not request.done.done():
            request.done.set_result(error)
        return request

    def _take(self, event: text.Event) -> None:
        match event:
            case text.Hello():
                self.hello = event
                self._told = dict.fromkeys(event.routes)
                self.want_again()
            case text.Reply(number, error):
                self._replied(number, error)
            case text.Withdrawn(why, after):
                self.leased = False
                self._acknowledged.clear()
                later: dict[str, set[Route]] = {}
                for number, request in self._owed.items():
                    for prefix, route in zip(request.prefixes, request.routes, strict=False) if number > after else ():
                        later.setdefault(prefix, set()).add(route)
                self._told = {
                    prefix: None if routes is None else routes & later[prefix]
                    for prefix, routes in self._told.items()
                    if prefix in later
                }
                for number, request in list(self._owed.items()):
                    if number <= after and request.routes:
                        self._answer(number, f"withdrawn: {why}")
        self._on_event(event)

    def _replied(self, number: int, error: str | None) -> None:
        request = self._owed.get(number)
        if request is None:
            return
        if error is not None and len(request.routes) > 1 and self.leased:
            # One that is refused must not keep the others from being announced: each by itself.
            self._answer(number, None)
            for prefix, route in zip(request.prefixes, request.routes, strict=True):
                if route in (self._told.get(prefix) or ()):
                    self._announce([route])
            return
        self._answer(number, error)
        if request.lease:
            if error is None and not self.leased:
                self.leased = True
                self.want_again()
            return
        for prefix, route in zip(request.prefixes, request.routes, strict=False):  # a withdrawal has no routes
            told = self._told.get(prefix) or frozenset[Route]()
            if route not in told:
                continue
            if error is None:
                known = self._acknowledged.get(prefix, frozenset[Route]())
                self._acknowledged[prefix] = known & told | {route}
                self.acknowledged_at = time.time()
            else:
                # Some peers may have it all the same: to be withdrawn when nobody wants it any more.
                self._told[prefix] = None
                self._acknowledged.pop(prefix, None)


_Item = TypeVar("_Item")


def _portions(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    for begin in range(0, len(items), text.TOGETHER):
        yield items[begin : begin + text.TOGETHER]


def _named(request: _Request) -> str:
    """A command by its first route, for people."""
    first = str(request.routes[0]) if request.routes else request.prefixes[0]
    return first if len(request.prefixes) == 1 else f"{first} and {len(request.prefixes) - 1} more"
