"""The speaker that drives ExaBGP.

    ExaBgpSpeaker --- GuardLink ---unix socket--- guard.py ---pipes--- ExaBGP ---TCP--- routers
         |                                                               |
         +------------------- ExaBgpProcess (starts, adopts, ends) ------+

Level-triggered: `set` says what should be, and the link brings the guard there, now or as soon as there is a guard and
a lease. Nothing here decides whether a route may be announced; the lease and the caller do.
"""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Sequence, Set
from ipaddress import ip_address

import structlog

from bgp import exabgp_text as text
from bgp.client import GuardLink
from bgp.config import BgpSpeakerConfig, problems
from bgp.pauses import Pauses
from bgp.route import Route
from bgp.speaker import PeerStatus, Session, SpeakerError, SpeakerStatus, Survival
from bgp.supervisor import EXABGP, ExaBgpProcess

log = structlog.get_logger()

ACKNOWLEDGE_S = 2.0
"""How long the answer to one command may take."""

SENT_S = 1.0
"""How long after an acknowledgement a route should really have been sent to a peer."""

APPEAR_S = 30.0
"""How long a started ExaBGP may take until its guard answers."""


POLL_S = 0.02


class ExaBgpSpeaker:
    """Implements `bgp.speaker.Speaker`. `run` must be running, in a task of the caller, for anything to happen."""

    def __init__(self, config: BgpSpeakerConfig, program: Sequence[str] = EXABGP) -> None:
        """
        Args:
            config: whom to talk to.
            program: the command that runs ExaBGP.

        Raises:
            SpeakerError: *config* cannot work; the text names every problem and its remedy.
        """
        if found := problems(config):
            raise SpeakerError("; ".join(found))
        self._config = config
        self._process = ExaBgpProcess(config, program)
        self._wanted: frozenset[Route] | None = None
        """None: nobody has said yet."""
        self._link: GuardLink | None = None
        self._closing = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()
        self._nothing_sent = asyncio.Event()
        self._nothing_sent.set()
        self._detail = "not started"
        self._updates: Counter[tuple[str, str]] = Counter()
        self._peers = {str(n.address): PeerStatus(Session.DOWN, time.time(), "not tried yet") for n in config.neighbors}

    async def set(self, routes: frozenset[Route]) -> None:
        # What cannot be announced must not keep the rest from being announced, or from being withdrawn.
        refused = self._refused(routes)
        self._wanted = frozenset(route for route in routes if not (refused and self._refused({route})))
        link = self._link
        if link is None or link.hello is None:
            raise SpeakerError(f"ExaBGP is not there ({self._detail}); the routes are announced when it is")
        link.want(self._wanted)
        if errors := [*refused, *await link.settled(ACKNOWLEDGE_S)]:
            raise SpeakerError("not announced: " + "; ".join(errors))
        if self._wanted and not link.leased:
            raise SpeakerError(
                "the lease on the routes is not renewed: the data plane has not proved itself;"
                " they are announced with the next renewal"
            )

    async def renew(self, survival: Survival | None = None) -> None:
        if self._link is not None:
            self._link.renew(self._config.lease_s, survival)

    async def leave(self, survival: Survival) -> None:
        link = self._link
        if link is not None:
            link.renew(survival.seconds, survival)
            await link.left(ACKNOWLEDGE_S)

    def status(self) -> SpeakerStatus:
        link = self._link
        if link is None or link.hello is None:
            return SpeakerStatus(False, dict(self._peers), detail=self._detail, updates=dict(self._updates))
        announced = link.acknowledged
        now = time.time()
        late = now - link.acknowledged_at > SENT_S
        return SpeakerStatus(
            running=True,
            peers={
                peer: _with_unsent(peer, status, announced, late and now - status.since > SENT_S)
                for peer, status in self._peers.items()
            },
            announced=announced,
            detail=self._detail,
            updates=dict(self._updates),
        )

    def reached(self) -> frozenset[str]:
        """Prefixes that at least one peer has from us now."""
        return frozenset[str]().union(
            *(status.routes_sent for status in self._peers.values() if status.session is Session.UP)
        )

    def lost(self, peer: str, why: str) -> None:
        """There is no way to *peer* any more, says somebody who knows sooner than ExaBGP does by its hold time.

        The session counts as down at once, and ExaBGP is told to end it and to try for a new one: that is up when
        ExaBGP says so. Routes stay wanted; there is nobody to withdraw them from.
        """
        before = self._peers.get(peer)
        if before is None or before.session is Session.DOWN:
            return
        self._session(peer, Session.DOWN, why)
        if self._link is not None:
            self._link.teardown(peer)

    async def run(self) -> None:
        """Keep ExaBGP running and talk to its guard, until cancelled or closed."""
        self._ended.clear()
        pauses = Pauses()
        try:
            while not self._closing.is_set():
                began = time.monotonic()
                try:
                    await self._process.ensure()
                    if self._closing.is_set():
                        break
                    await self._serve()
                    self._detail = "the connection to the guard ended; starting again"
                except SpeakerError as error:
                    self._detail = str(error)
                if self._closing.is_set():
                    break
                log.warning("bgp.interrupted", detail=self._detail)
                await pauses.rest(time.monotonic() - began, self._closing)
        finally:
            if not self._closing.is_set():
                self._process.release()
            self._ended.set()

    async def close(self) -> None:
        self._closing.set()
        self._wanted = frozenset()
        link = self._link
        if link is not None:
            # ExaBGP sends neither withdrawals nor a notification when it is ended: so first withdraw, then end it.
            link.want(frozenset())
            try:
                await link.settled(ACKNOWLEDGE_S)
            except SpeakerError as error:
                log.warning("bgp.close_incomplete", error=str(error))
            try:
                async with asyncio.timeout(SENT_S):
                    await self._nothing_sent.wait()
            except TimeoutError:
                log.warning(
                    "bgp.close_incomplete", error=f"withdrawals not sent within {SENT_S:g} s; the sessions end now"
                )
        await self._process.stop()
        await self._ended.wait()
        await self._process.remove()
        self._detail = "closed"

    def _refused(self, routes: Set[Route]) -> list[str]:
        """Why ExaBGP would refuse some of *routes*, or give them a next hop that nobody meant."""
        return problems(self._config, routes)

    async def _serve(self) -> None:
        """One connection to a guard, from its beginning to its end."""
        link = await self._connect()
        self._link = link
        try:
            if self._wanted is not None:
                link.want(self._wanted)
            await link.read()
        except SpeakerError:
            await self._process.stop(signal.SIGKILL)  # the routers see the connections close
            link.kill_guard()
            raise
        finally:
            self._link = None
            link.close()
            for peer in self._peers:
                self._put(peer, PeerStatus(Session.DOWN, time.time(), "no word from ExaBGP"))

    async def _connect(self) -> GuardLink:
        deadline = time.monotonic() + APPEAR_S
        while True:
            try:
                return await GuardLink.open(self._config, self._config.socket_path, self._take)
            except OSError:
                pass  # not yet there, or an old one's name
            if self._closing.is_set() or not self._process.running():
                raise SpeakerError("ExaBGP ended before its guard was there; its log (bgp.exabgp_log) says why")
            if time.monotonic() > deadline:
                await self._process.stop()
                raise SpeakerError(
                    f"ExaBGP's guard did not open {self._config.socket_path} within {APPEAR_S:g} s; ExaBGP is stopped."
                    " Can this user run the guard and write to the directory?"
                )
            await asyncio.sleep(POLL_S)

    def _take(self, event: text.Event) -> None:
        match event:
            case text.Hello():
                self._detail = ""
                for peer, prefixes in event.sent.items():
                    self._update(peer, announced=prefixes)
                log.info("bgp.guard_connected", exabgp_pid=event.exabgp_pid, routes=sorted(event.routes))
            case text.Withdrawn(why):
                log.warning("bgp.withdrawn", reason=why)
            case text.PeerState(peer, session, reason):
                self._session(peer, session, reason)
            case text.Sent(peer, announced, withdrawn):
                self._update(peer, announced, withdrawn)

    def _session(self, peer: str, session: Session, reason: str) -> None:
        before = self._peers.get(peer)
        if before is None:
            return
        if session is Session.UP:
            log.info("bgp.session_up", peer=peer)
        elif before.session is Session.UP:
            log.warning("bgp.session_down", peer=peer, reason=reason)
        since = before.since if session is before.session else time.time()
        self._put(peer, PeerStatus(session, since, reason))
        if session is Session.UP and self._link is not None:
            # What ExaBGP refused because it did not know its own address yet, it takes now.
            self._link.want_again()

    def _update(self, peer: str, announced: frozenset[str], withdrawn: frozenset[str] = frozenset()) -> None:
        before = self._peers.get(peer)
        for kind, prefixes in (("announce", announced), ("withdraw", withdrawn)):
            self._updates[peer, kind] += before is not None and bool(prefixes)
        if before is not None and before.session is Session.UP:  # else ExaBGP has not heard yet that it is lost
            sent = before.routes_sent - withdrawn | announced
            self._put(peer, PeerStatus(before.session, before.since, before.detail, sent))

    def _put(self, peer: str, status: PeerStatus) -> None:
        self._peers[peer] = status
        if any(other.routes_sent for other in self._peers.values()):
            self._nothing_sent.clear()
        else:
            self._nothing_sent.set()


def _with_unsent(peer: str, status: PeerStatus, announced: frozenset[Route], late: bool) -> PeerStatus:
    """An acknowledged route that never went out is worth a word: some peers do not take both address families."""
    if status.session is not Session.UP or not late:
        return status
    address = ip_address(peer)  # with a thousand routes nothing here may take long: somebody asks every second
    meant = {route.cidr for route in announced if route.goes_to(address)}
    missing = sorted(meant - status.routes_sent)
    if not missing:
        return status
    detail = f"not sent: {', '.join(missing)}; does the peer accept this address family?"
    return PeerStatus(status.session, status.since, detail, status.routes_sent)
