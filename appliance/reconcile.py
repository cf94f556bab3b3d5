"""The only writer: makes the world be as decided, again and again.

The order of effects is withdraw, program, announce:

1. stop attracting what we are about to drop;
2. change the forwarding tables, and have the data plane prove that it follows them;
3. attract what we can now carry.

The other way round there would be a moment in which routers send us packets that we know nothing of.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import structlog

from appliance.dataplane.base import DataPlane, DataPlaneError
from appliance.decide import Desired, MemberView, No, Why, decide
from appliance.model import EffectiveState, IPAddress, VirtualService
from appliance.state import Snapshot, State
from bgp.route import Route, diff
from bgp.speaker import Speaker, SpeakerError

log = structlog.get_logger()

RETRY_S = 1.0

WITHDRAW_S = 0.25
"""How long tables wait for a withdrawal to be confirmed, which takes some milliseconds. Whoever is much slower hangs or
has very much to do, and a member that has died must not stay in the tables for that."""


Transition = tuple[str, str, EffectiveState]
"""The way packets are delivered, a member as `pool/member`, and the state that it has come into."""


class Reconciler:
    """Takes the store's snapshot, decides, acts. Any number of changes while it acts become one more round."""

    def __init__(
        self,
        state: State,
        plane: DataPlane,
        speaker: Speaker,
        changed: asyncio.Event,
        clock: Callable[[], float] = time.time,
        on_applied: Callable[[Desired], None] = lambda _: None,
        on_decided: Callable[[Desired], None] = lambda _: None,
        holds: Callable[[Desired], bool] = lambda _: False,
    ) -> None:
        """
        Args:
            state: what is known.
            plane: what forwards.
            speaker: what announces.
            changed: set whenever the store has changed.
            clock: seconds since 1970.
            on_applied: is told of everything that has come into force.
            on_decided: is told of everything before it does, together with the withdrawal of routes.
            holds: whether to leave everything as it is for the time being, although this is decided: as a process
                before has left it, that knew better.
        """
        self._holds = holds
        self._on_decided = on_decided
        self._state = state
        self._plane = plane
        self._speaker = speaker
        self._changed = changed
        self._clock = clock
        self._on_applied = on_applied
        self._told: Desired | None = None
        self.transitions: dict[Transition, int] = {}
        """How often each has been, of members that are there. The state that a member begins with is none."""

        self._decided: Desired | None = None
        """What could be decided last."""

        self._announced: frozenset[Route] = frozenset()
        """What the speaker was told last."""
        self._confirmed: frozenset[Route] = frozenset()
        """Of that, what it has confirmed, and what was logged."""

        self._trouble = ""
        self._trials: dict[int, asyncio.Future[None]] = {}
        self.error = ""
        """Why no decision could be made, in the last round; empty when one was."""

        self.applied: Desired | None = None
        """What is in force; None before the first round that succeeded."""

        self.busy_since: float | None = None
        """Since when a round is going on, by the monotonic clock; None while nothing is to do."""

    async def run(self, wait: Callable[[asyncio.Event, float], Awaitable[None]] | None = None) -> None:
        """Work until cancelled.

        Args:
            wait: waits for the event, at most that many seconds; a test puts its own clock here.
        """
        wait = wait or _wait
        while True:
            self._changed.clear()
            self.busy_since = time.monotonic()
            done = await self.once()
            self.busy_since = None
            if not done:
                await wait(self._changed, RETRY_S)
            elif self.applied is None or self.applied.recheck_at is None:
                await self._changed.wait()
            else:
                await wait(self._changed, max(0.0, self.applied.recheck_at - self._clock()))

    async def follows(self, generation: int) -> None:
        """Wait until a configuration is in force: by number, `State.generation`.

        Until it is, a plane that refuses its tables says something about the configuration, and nothing is withdrawn
        for it: whoever waits here puts the one before back, whose tables are still followed.

        Raises:
            DataPlaneError: its tables were not taken.
        """
        trial = self._trials.setdefault(generation, asyncio.get_running_loop().create_future())
        try:
            await trial
        finally:
            self._trials.pop(generation, None)

    async def once(self) -> bool:
        """One round. False when something is left to do and only time can help."""
        snapshot = self._state.snapshot()
        # Pure, and maybe tens of milliseconds when a ring is built: the loop has leases to renew meanwhile.
        try:
            desired: Desired | None = await asyncio.to_thread(decide, snapshot, self._decided, self._clock())
        except Exception as error:
            self._fail(snapshot.generation, DataPlaneError(f"nothing can be decided with it: {error!r}"))
            desired = self._as_before(snapshot, error)
        else:
            self._decided = desired
            if self.error:
                self.error = ""
                log.info("decision.made")
        if desired is None:
            return False
        if self._holds(desired):
            try:
                await self._plane.check()
                self._state.set_plane_error(None)
            except DataPlaneError as error:
                self._state.set_plane_error(str(error))
            return False
        done = not self.error
        gone = diff(self._announced, desired.routes).withdraw
        if gone:
            done &= await self._speak(self._announced - gone, first=True)
        self._on_decided(desired)
        self._tell(desired)
        try:
            await self._plane.set(desired.tables)
            # The first time, there may be what a process before has remembered, of members that are gone.
            if self.applied is None or not self.applied.remembered <= desired.remembered:
                await asyncio.to_thread(self._plane.pins.forget, mask(desired.remembered))
            await self._plane.check()
        except DataPlaneError as error:
            if self.applied is not None and self._fail(snapshot.generation, error):
                self._tell(self.applied)
                self._decided = self.applied
                return False
            # Routers may not be told of what is not certain to be carried: the store turns this error into "announce
            # nothing", and that is the next round.
            if self._state.snapshot().plane_error != str(error):
                log.error("plane.failed", error=str(error))
            self._state.set_plane_error(str(error))
            return False
        self.applied = desired
        for generation, trial in self._trials.items():
            if generation <= snapshot.generation and not trial.done() and not self.error:
                trial.set_result(None)
        self._on_applied(desired)
        self._state.set_plane_error(None)
        if desired.gone or desired.moved:
            self._state.forget(desired.gone, desired.moved)
        return await self._speak(desired.routes) and done

    def _fail(self, generation: int, error: DataPlaneError) -> bool:
        """Whether somebody is waiting for this configuration, who has been told now that it cannot be."""
        trial = self._trials.get(generation)
        if trial is None or trial.done():
            return False
        trial.set_exception(error)
        return True

    def _as_before(self, snapshot: Snapshot, error: Exception) -> Desired | None:
        """What to go on with when nothing can be decided: an error of ours, which must not take a VIP down.

        The decision before stays in force, and so do its routes, as long as it is certain to be carried.
        """
        if (text := repr(error)) != self.error:  # it is tried again and again; once is enough to read
            self.error = text
            log.error("decision.failed", error=text, exc_info=error)
        if self._decided is None:
            return None
        before = replace(self._decided, gone=frozenset(), moved={})
        if snapshot.plane_error is None:
            return before
        no = No(Why.PLANE_DOWN, snapshot.plane_error)
        return replace(
            before, routes=frozenset(), vips=tuple(replace(view, no=view.no or no, down=no) for view in before.vips)
        )

    async def _speak(self, routes: frozenset[Route], *, first: bool = False) -> bool:
        """Tell the speaker, which remembers it and does it when it can. False when there is trouble.

        Nobody waits for a speaker that is slow: tables wait for a withdrawal (*first*) for WITHDRAW_S at most, and for
        an announcement not at all. When something has changed meanwhile, the next round waits for what is left.
        """
        self._announced = routes
        self._confirmed &= routes
        try:
            confirmed = await self._confirms(routes, first=first)
        except SpeakerError as error:
            if str(error) != self._trouble:  # it is tried again and again; once is enough to read
                self._trouble = str(error)
                log.warning("speaker.set_failed", error=self._trouble)
            return False
        if not confirmed:
            return True
        self._trouble = ""
        for route in sorted(routes - self._confirmed):
            peers = None if route.peers is None else sorted(map(str, route.peers))
            log.info(
                "vip.announced", vip=route.vip, next_hop=route.next_hop, attributes=str(route.attributes), peers=peers
            )
        self._confirmed = routes
        return True

    async def _confirms(self, routes: frozenset[Route], *, first: bool) -> bool:
        """Whether the speaker confirms what it is told, as long as it may take.

        Raises:
            SpeakerError: it says that it cannot.
        """
        errors = []

        async def tell() -> None:
            try:
                await self._speaker.set(routes)
            except SpeakerError as error:
                errors.append(error)

        async with asyncio.TaskGroup() as waiting:
            told = waiting.create_task(tell())
            changed = waiting.create_task(self._changed.wait())
            ends, limit = ((told,), WITHDRAW_S) if first else ((told, changed), None)
            await asyncio.wait(ends, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            confirmed = told.done()
            told.cancel()
            changed.cancel()
        if errors:
            raise errors[0]
        return confirmed

    def _tell(self, now: Desired) -> None:
        """One event for every member and VIP whose state turned, with the reason."""
        before, self._told = self._told, now
        came: set[Transition] = set()
        for service, member, was in _turned(before, now):
            if was not in (None, member.state):
                came.add((str(service.profile.delivery), member.id, member.state))
            fields = {"service": service.name, "member": member.id, "address": member.address}
            if member.no is None:
                log.info("member.in_rotation", **fields)
            elif member.state is EffectiveState.DRAINING:
                log.info("member.draining", **fields, reason=member.no.why, detail=member.no.detail)
            else:
                log.info("member.out", **fields, reason=member.no.why, detail=member.no.detail)
        if now.gone:
            self.transitions = {way: count for way, count in self.transitions.items() if way[1] not in now.gone}
        for way in came:
            self.transitions[way] = self.transitions.get(way, 0) + 1
        old_vips = {view.vip: view.no for view in before.vips} if before else {}
        for view in now.vips:
            if view.no is not None and old_vips.get(view.vip) != view.no:
                log.info("vip.withdrawn", vip=view.vip, reason=view.no.why, detail=view.no.detail)
        for vip in _gone(before, now):
            log.info("vip.withdrawn", vip=vip, reason="removed", detail="no longer configured")


def mask(members: Iterable[int]) -> npt.NDArray[np.bool_]:
    """Member indices as a column: by index, whether it is one of them."""
    chosen = np.zeros(1 << 16, np.bool_)
    chosen[list(members)] = True
    return chosen


def _turned(before: Desired | None, now: Desired) -> Iterator[tuple[VirtualService, MemberView, EffectiveState | None]]:
    """Virtual services and their members whose state or reason is another one, with the state before.

    Services of one pool share their members, so each pair of old and new members is compared once, however many
    services there are: this runs in the event loop.
    """
    old = {view.service.name: view.members for view in before.services} if before else {}
    compared: dict[tuple[int, int], list[tuple[MemberView, EffectiveState | None]]] = {}
    for view in now.services:
        members = old.get(view.service.name, ())
        pair = id(members), id(view.members)
        if pair not in compared:
            known = {member.id: (member.state, member.no) for member in members}
            compared[pair] = [
                (member, known[member.id][0] if member.id in known else None)
                for member in view.members
                if known.get(member.id) != (member.state, member.no)
            ]
        for member, was in compared[pair]:
            yield view.service, member, was


def _gone(before: Desired | None, now: Desired) -> list[IPAddress]:
    kept = {view.vip for view in now.vips}
    return [view.vip for view in before.vips if view.vip not in kept] if before else []


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass
