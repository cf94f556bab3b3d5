"""One running director: everything is built here, and here only are tasks created.

A page-long tour:

* `run` reads the configuration, takes the instance lock, and runs `Director` under uvloop.
* `Director` builds the store and its neighbours. What they learn goes into the store: next hops (netlink), verdicts
  (health), a new configuration (reload), doubts about forwarding (the lease). The store signals a change; the
  reconciler decides and acts. The status server only reads.
* Tasks live in one TaskGroup and have names. One that dies unexpectedly takes the process along: a director with a dead
  part must not look alive. Whoever supervises us starts it again, and the BGP guard has withdrawn the routes meanwhile.
* The lease: four times a second the data plane must prove that it forwards, and only then is the lease on the announced
  routes renewed. A loop that is stuck, a plane that is stuck or a process that is gone: the guard withdraws.
* Stopping: let routers take other ways first where that is wished (`drain_on_stop`); withdraw, keep forwarding while
  routers turn away, then let go.
* Restarting: where an XDP program or a keeper goes on without us, routes and sessions are left as they are (SIGUSR1),
  and the next process changes nothing before it knows as much as this one.
"""

import asyncio
import faulthandler
import fcntl
import gc
import os
import random
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import structlog
import uvloop

from appliance import drain, history, indices, notify, orders
from appliance import log as logging
from appliance.announce import own_addresses
from appliance.api import doctoring
from appliance.api.configuring import ConfigRoutes
from appliance.api.control import SOCKET, ControlServer, looking_routes
from appliance.api.objects import ObjectRoutes
from appliance.api.ordering import Controls, OrderRoutes
from appliance.api.runtime import RuntimeRoutes
from appliance.api.server import ApiError, ApiServer
from appliance.api.sources import PinsUse, ReloadStatus, StatusSources
from appliance.api.transacting import TransactionRoutes
from appliance.arp.side import ArpSide
from appliance.aside import aside
from appliance.clock import steady
from appliance.config.document import Document, DocumentError, pending, read_document
from appliance.config.load import Loaded, load_document
from appliance.config.problems import ConfigError, Problem
from appliance.connections import Connections
from appliance.consequences import NO_FLOWS, Consequences, consequences
from appliance.dataplane.base import DataPlane, DataPlaneError
from appliance.dataplane.drivers import DRIVERS
from appliance.dataplane.pins import LivePins
from appliance.decide import Desired, slot_tables, unsettled
from appliance.doctor.evidence import PassiveSeen
from appliance.doctor.gather import Gatherer
from appliance.doctor.side import DoctorSide, DoctorSources, passive_seen
from appliance.explain.owner import owners
from appliance.fleet.side import FleetSide
from appliance.forwarding import Placement
from appliance.happenings import Happenings
from appliance.hearing import Hearing
from appliance.inheritance import Inheritance
from appliance.keeper import Keeper
from appliance.lease import renew
from appliance.looplag import LoopLag
from appliance.model import Config, Drain, Order, PlaneKind
from appliance.netlink import Netlink
from appliance.objects.differences import differences
from appliance.outer import MachineError, addresses_of, not_routed, shown_by_ip
from appliance.passive import Held, Passive
from appliance.path.causes import unresolved
from appliance.path.gate import Gate, segments_of
from appliance.path.segments import Segments
from appliance.path.steer import SteerError
from appliance.reconcile import Reconciler
from appliance.revisions import Author, RevisionError, Revisions
from appliance.ring.algorithms import ALGORITHMS
from appliance.ring.hash import FlowKey
from appliance.seen import flows_of, outdated, seen, services_of
from appliance.state import Learning, PinsSeen, State
from appliance.stats import Seen, member_stats
from appliance.tier2.following import Following
from appliance.transaction import Effects, Outcome, ProgramError, Step, Transactions
from appliance.wiring import (
    HashChange,
    agents,
    bfd_sessions,
    counting,
    hash_changes,
    health_of,
    learning_limit_s,
    probes,
)
from bgp.bfd.messages import Change
from bgp.bfd.packet import diag_name
from bgp.bfd.process import Bfd
from bgp.config import BgpSpeakerConfig, Neighbor
from bgp.exabgp import ExaBgpSpeaker
from bgp.speaker import RecordingSpeaker, Speaker, SpeakerError, Survival
from health.load import Loads, LoadStatus
from health.monitor import Key, Monitors, key_of
from health.spec import Status, Verdict
from health.strain import room

log = structlog.get_logger()

CHECK_INTERVAL_S = 0.25
LAG_INTERVAL_S = 0.01
PINS_INTERVAL_S = 1.0
KEEP_INTERVAL_S = 1.0
DRAIN_LOOK_S = 0.2
LEARN_S, LEARN_AGAIN_S = 15.0, 5.0
"""How long a director waits at most, once a VIP could be announced, to hear of all members: when it is new, and when it
was cut off. In the second case other directors may have withdrawn, too, and everybody waits for us."""

PROGRAM_S = 60.0
"""How long a new configuration may take until the data plane follows it. To build the tables of 500 pools of a hundred
members has taken 8 s on a busy machine (`tests/run bench config`)."""

GC_THRESHOLDS = 50_000, 20, 100
"""When Python looks for garbage in cycles, which is rare here. With Python's own numbers and thousands of members it
would look through millions of objects several times a minute, and stop all threads for half a second each time."""

HOLD_S = 20.0
"""How long what an earlier process has left goes on unchanged, at most: until all members (LEARN_S) and the other
directors were heard of."""

READY_S = 25.0
"""How long a start takes at most, for a supervisor; longer than HOLD_S."""

STUCK_S = 120.0
"""A round of the reconciler that takes longer hangs: twice as long as a new configuration may take."""

FEED_S = 1.0
"""How often a supervisor's watchdog is fed."""

_BFD = "bfd"

TURN_AWAY_S = 0.5
"""How long we go on forwarding after the withdrawal: routers take some 100 ms to program it (FRR 75, BIRD 25)."""


class StartError(Exception):
    """The director cannot start; the text says why and what to do."""


def run(path: Path, plane: PlaneKind | None = None, at: Callable[[Step], None] = lambda _: None) -> int:
    """Run a director in the foreground until SIGTERM or SIGINT.

    Args:
        path: the configuration file.
        plane: the data plane to use whatever the file says, now and after every reload.
        at: is told of every step of a change of the configuration as it begins.

    Returns:
        The exit code: 0 after an orderly stop, 1 when it could not start or a part of it died.

    Raises:
        ConfigError: the configuration has mistakes; nothing was started.
    """
    parse = partial(parsed, plane=plane)
    loaded = parse(read_document(path))
    happenings = Happenings(time.time)
    logging.configure(note=happenings.note)
    faulthandler.enable()  # a watchdog ends what hangs by SIGABRT: then it is known where
    _raise_file_limit()
    gc.set_threshold(*GC_THRESHOLDS)
    with ExitStack() as locks:
        try:
            locks.enter_context(_lock(Path(loaded.config.director.runtime_dir)))
            if (state := _lock_state(loaded.config)) is not None:
                locks.enter_context(state)
        except StartError as error:
            print(f"onward: {error}", file=sys.stderr)
            return 1
        try:
            uvloop.run(_direct(loaded, parse, at, happenings))
        except Exception as error:
            for leaf in _leaves(error):
                if isinstance(leaf, StartError | DataPlaneError | ApiError | SpeakerError | SteerError):
                    print(f"onward: {leaf}", file=sys.stderr)
                else:
                    log.error("director.died", error=repr(leaf), exc_info=leaf)
            return 1
    return 0


def parsed(document: Document, plane: PlaneKind | None) -> Loaded:
    """What a document says, but for the data plane, where another one is wanted.

    Raises:
        ConfigError: it has mistakes.
    """
    loaded = load_document(document)
    config = loaded.config
    if plane is None:
        return loaded
    return replace(loaded, config=replace(config, director=replace(config.director, plane=plane)))


async def _direct(
    loaded: Loaded, parse: Callable[[Document], Loaded], at: Callable[[Step], None], happenings: Happenings
) -> None:
    """Build it where the loop runs: some parts ask for the running loop."""
    await Director(loaded, parse, at, happenings).run()


def _leaves(error: BaseException) -> Iterable[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _raise_file_limit() -> None:
    """Every probe is a socket; the soft limit of 1024 is there for programs that use select(2) only."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else max(soft, 1 << 16), hard))


def refuse_own_prefixes(config: Config) -> None:
    """
    Raises:
        StartError: a prefix of outer sources is not routed to this machine, but one of its own networks.
    """
    prefixes = config.director.outer_source_prefixes
    if not prefixes:
        return
    try:
        here = addresses_of(shown_by_ip())
    except MachineError as error:
        raise StartError(str(error)) from error
    if troubles := list(not_routed(prefixes, here)):
        raise StartError("\nonward: ".join(troubles))


def _lock(runtime_dir: Path) -> IO[str]:
    """Two directors with one runtime directory would tear at the same sockets and rules."""
    try:
        runtime_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
        lock = (runtime_dir / "lock").open("a")  # not "w": who does not get the lock must not wipe its holder's PID
    except OSError as error:
        raise StartError(f"cannot use director.runtime_dir: {error}; create it, or name another one") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise StartError(
            f"a director is running already with {runtime_dir}; stop it, or set director.runtime_dir"
        ) from None
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


def _lock_state(config: Config) -> IO[str] | None:
    """Two directors with one state directory would replace each other's orders. Nothing where there is none that
    could be used: what is to be kept there says so itself.

    Raises:
        StartError: another director has it.
    """
    folder = Path(config.director.state_dir)
    if folder == Path(config.director.runtime_dir):
        return None
    try:
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        lock = (folder / "lock").open("a")
    except OSError as error:
        log.warning("orders.not_locked", folder=str(folder), error=str(error))
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise StartError(f"a director is running already with {folder}; set another director.state_dir") from None
    except OSError as error:
        log.warning("orders.not_locked", folder=str(folder), error=str(error))
    return lock


class Director:
    """The composition of one running instance."""

    def __init__(
        self,
        loaded: Loaded,
        parse: Callable[[Document], Loaded],
        at: Callable[[Step], None] = lambda _: None,
        happenings: Happenings | None = None,
    ) -> None:
        """
        Args:
            loaded: the configuration to begin with.
            parse: what another one says; raises ConfigError.
            at: is told of every step of a change of the configuration.
            happenings: has the events of the log.
        """
        config = loaded.config
        self._inheritance = Inheritance(os.environ, os.getpid(), Path(config.director.runtime_dir))
        self._started_at = time.time()
        self._now = steady()
        """For all decisions, and for the facts that they rest on; what people are shown has the machine's clock."""
        self._changed = asyncio.Event()
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._reload = asyncio.Event()
        self._in_force = asyncio.Event()
        self._leaving = False
        self._fed_at = 0.0
        self._holds_until = 0.0
        """What an earlier process has left goes on as it is, until then at most."""
        self._indices_path = Path(config.director.runtime_dir) / "indices.json"
        given = indices.load(self._indices_path, config)
        if given is None:
            # They have only numbers, and nobody knows whose these are.
            self._inheritance.forget_all(("pins", "memory."))
        self._indices: object = None
        self._state = (
            State(config, self._changed.set)
            if given is None
            else State(config, self._changed.set, given.known, given.unused)
        )
        self._agents = Loads(self._on_load, random.Random())  # noqa: S311 - jitter, not secrets
        self._loads: dict[str, float] = {}
        self._stats: Seen | None = None
        # What operators order outlives the runtime directory, which systemd removes at a stop, and a reboot does.
        path = Path(config.director.state_dir) / "orders.json"
        orders_now = orders.take_over(Path(config.director.runtime_dir) / "orders.json", path)
        for member, order in orders.load(orders_now).items():
            self._state.set_order(member, order)
        self._kept_orders = Keeper[Mapping[str, Order]](
            partial(orders.save, path), self._state.orders, sure=orders_now == path
        )
        self._history_path = Path(config.director.runtime_dir) / "history.json"
        self._state.set_history(history.load(self._history_path))
        path = Path(config.director.state_dir) / "drain.json"
        earlier = Path(config.director.runtime_dir) / "drain.json"
        drain_now = orders.take_over(earlier, path)
        self._state.set_drain(drain.load(drain_now, self._started_at))
        self._kept_drain = Keeper[Drain | None](
            partial(drain.save, path, earlier=earlier), self._state.drain, sure=drain_now == path
        )
        driver = DRIVERS[config.director.plane]
        self._plane: DataPlane = driver(
            config.director.interfaces, config.director.pins, slot_tables(config), self._inheritance
        )
        self._speaker = _speaker(config)
        self._bfd_fd: int | None = None
        self._bfd = Bfd(self._on_bfd, left=self._inheritance.get(_BFD), keep=self._keep_bfd)
        self._netlink = Netlink(self._state.set_next_hops)
        self._monitors = Monitors(
            self._on_health,
            random.Random(),  # noqa: S311 - jitter, not secrets
            at_once=room(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
            explain=lambda result, target: unresolved(result, self._state.next_hops.get(target.address)),
        )
        self._fleet = FleetSide(
            config,
            self._state,
            lambda: self._plane.pins,
            self._look_at_pins,
            self._now,
            self._speaker.reached if isinstance(self._speaker, ExaBgpSpeaker) else None,
            lambda: self._arp.claims(),
        )
        self._arp = ArpSide(config.director.interfaces, self._fleet.told, self._fleet.say_claims)
        self._reconciler = Reconciler(
            self._state,
            self._plane,
            self._speaker,
            self._changed,
            self._now,
            self._on_applied,
            self._on_decided,
            self._holds,
        )
        self._hearing = Hearing(self._state, lambda: self._reconciler.applied)
        self._connections = Connections(
            lambda: self._plane.logged, lambda: self._reconciler.applied, config.director.name, time.time
        )
        self._lag = LoopLag()
        prefixes = config.director.outer_source_prefixes
        self._gate = Gate(config.director.interfaces, config.secret, lambda: self._state.next_hops, prefixes)
        self._verdicts: dict[Key, Verdict] = {}
        self._counting: Mapping[str, frozenset[Key]] = {}
        self._segments: dict[Key, Segments] = {}
        self._passive = Passive()
        self._held = Held()
        self._doctor = DoctorSide(
            Gatherer(config.director.interfaces, self._gate, lambda: self._state.next_hops),
            DoctorSources(
                config=lambda: self._state.config,
                counters=self._plane.counters,
                plane=self._plane.describe,
                channel=self._fleet.pins_status,
                speaker=self._speaker.status if config.bgp else lambda: None,
                bfd=self._bfd.status,
                lag=self._lag.summary,
                arp=lambda: self._arp.statuses(),
                passive=self._handshakes,
                owners=self._owners,
            ),
        )
        started = self._started_at
        self._last_reload = ReloadStatus(True, started, config.source, config.digest, taken_at=started)
        self._hash_changes: tuple[HashChange, ...] = ()
        """By the configuration that was put into force last."""
        self._following = Following(lambda: self._transactions)
        self._transactions = Transactions(
            Effects(
                read=partial(read_document, loaded.document.path),
                parse=parse,
                foresee=self._foresee,
                program=self._program,
                done=self._changed_config,
                wall=time.time,
                clock=time.monotonic,
            ),
            Revisions(Path(config.director.state_dir) / "revisions"),
            loaded,
            at,
        )
        sources = StatusSources(
            applied=lambda: self._reconciler.applied,
            snapshot=self._state.snapshot,
            counters=self._plane.counters,
            speaker=self._speaker.status if config.bgp else lambda: None,
            bfd=self._bfd.status,
            health=self._monitors.statuses,
            strain=self._monitors.strain,
            plane=self._plane.describe,
            samples=self._plane.samples,
            reload=lambda: self._last_reload,
            loop_lag=self._lag.summary,
            ready=self._ready,
            started_at=self._started_at,
            pins=self._pins_use,
            agreed=self._fleet.agreed,
            channel=self._fleet.pins_status,
            path_mtu=self._hearing.facts,
            arp=lambda: self._arp.statuses(),
            connection_log=self._connections.status,
            doctor=self._doctor.latest,
            handshakes=self._passive.handshakes,
            transitions=lambda: self._reconciler.transitions,
            staged=lambda: self._transactions.staged,
        )
        controls = Controls(
            state=self._state,
            applied=lambda: self._reconciler.applied,
            pins=lambda: self._plane.pins,
            save=self._kept_orders.put,
            share=self._fleet.order if self._fleet.shares_orders else None,
            save_drain=self._kept_drain.put,
            plane=self._plane,
        )
        self._orders = OrderRoutes(controls, self._now)
        routes = [
            *self._orders.routes(),
            *RuntimeRoutes(controls).routes(),
            *looking_routes(controls),
            *ConfigRoutes(self._transactions).routes(),
            *ObjectRoutes(self._transactions).routes(),
            *TransactionRoutes(self._transactions).routes(),
            *doctoring.routes(self._doctor),
        ]
        api = config.director.api
        self._api = ApiServer(
            api.address,
            api.port,
            sources,
            routes,
            lambda: self._transactions.in_force.config.director.api,
            happenings,
        )
        runtime_dir = Path(config.director.runtime_dir)
        self._control = ControlServer(runtime_dir / SOCKET, [*self._api.views(), *routes])

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        loop.add_signal_handler(signal.SIGUSR1, self._on_leave)
        if self._state.config.director.plane is PlaneKind.RAW:
            self._inheritance.forget_all(("link.", "exit.", "pins"))  # a program that nobody follows must not go on
        await asyncio.to_thread(refuse_own_prefixes, self._state.config)
        await self._plane.start()
        if self._plane.survivors():
            self._holds_until = time.monotonic() + HOLD_S
        else:
            self._bfd.end_left()
        try:
            await self._work()
        except BaseException:
            await self._plane.stay()
            self._leaving = bool(self._plane.survivors())  # whoever supervises us starts another process
            raise
        finally:
            await self._plane.close(leave=self._leaving)
            if not self._leaving:
                self._inheritance.forget_all()
                self._indices_path.unlink(missing_ok=True)
        log.info("director.stopped", left=self._leaving)

    async def _work(self) -> None:
        config = self._state.config
        async with asyncio.TaskGroup() as tasks:
            reconcile = tasks.create_task(self._reconciler.run(), name="reconcile")
            own = [
                reconcile,
                tasks.create_task(self._netlink.run(), name="netlink"),
                tasks.create_task(self._monitors.run(), name="health"),
                tasks.create_task(self._agents.run(), name="load"),
                tasks.create_task(self._gate.run(), name="path"),
                tasks.create_task(self._keep_lease(), name="lease"),
                tasks.create_task(self._measure_lag(), name="loop-lag"),
                tasks.create_task(self._reloads(), name="reload"),
                tasks.create_task(self._end_learning(), name="learning"),
                tasks.create_task(self._watch_pins(), name="pins"),
                tasks.create_task(self._watch_drain(), name="drain"),
                tasks.create_task(self._keep_orders(), name="orders"),
                tasks.create_task(self._fleet.run(), name="fleet"),
                tasks.create_task(self._hearing.run(), name="hearing"),
                tasks.create_task(self._arp.run(), name="arp"),
                tasks.create_task(self._connections.run(), name="connections"),
                tasks.create_task(self._doctor.run(), name="doctor"),
                tasks.create_task(self._following.run(), name="follow"),
            ]
            if isinstance(self._speaker, ExaBgpSpeaker):
                own.append(tasks.create_task(self._speaker.run(), name="speaker"))
                own.append(tasks.create_task(self._bfd.run(), name="bfd"))
            await self._make_way(config)
            self._follow(config)
            await self._begin_revisions()
            await self._api.start()
            own.append(tasks.create_task(self._api.keep_past(), name="past"))
            await self._control.start()
            gc.freeze()  # what there is now stays
            self._say_what_stands()
            log.info("director.started", name=config.director.name, config=config.source, pid=os.getpid())
            own.append(tasks.create_task(self._say_ready(), name="ready"))
            try:
                await self._stop.wait()
                self._notify("STOPPING=1")
                # Before whoever forwards from now on gets its last tables: what is being put into force comes first.
                await self._transactions.end()
                if self._leaving:
                    await self._plane.stay()
                self._leaving = self._leaving and bool(self._plane.survivors())
                log.info("director.stopping", leave=self._leaving)
                if self._leaving:
                    await self._leave(reconcile)
                    return
                await asyncio.gather(self._drain_before_the_end(), self._arp.leave())
                reconcile.cancel()  # nobody may announce again
                await self._speaker.close()
                await self._bfd.close()  # not before: routers end BGP with it, and with that the routes, out of order
                if config.bgp is not None:
                    await asyncio.sleep(TURN_AWAY_S)
            finally:
                await self._control.close()
                await self._api.close()
                for task in own:
                    task.cancel()
                await self._gate.close()
                await asyncio.to_thread(self._connections.close)

    async def _make_way(self, config: Config) -> None:
        """Open the way through the DSR path, if anything is asked by it.

        Raises:
            SteerError: it cannot be opened. Nothing has changed then.
        """
        if any(probe.target.way is not None for probe in probes(config, self._gate.way)):
            await self._gate.open()

    async def _leave(self, reconcile: asyncio.Task[None]) -> None:
        """Leave everything to the process that follows; what it takes to know what we know is on the disk."""
        reconcile.cancel()
        if (applied := self._reconciler.applied) is not None:
            await asyncio.to_thread(history.save, self._history_path, applied.log)
        seconds = self._state.config.director.restart_grace_s
        self._bfd.survive(seconds)
        if self._bfd_fd is not None:
            self._inheritance.put(_BFD, self._bfd_fd)
        await self._speaker.leave(Survival(seconds, self._plane.survivors(), self._plane.keeper()))

    def _on_leave(self) -> None:
        self._leaving = True
        self._on_stop()

    def _holds(self, desired: Desired) -> bool:
        """Whether it is too early to touch what an earlier process has left."""
        if not self._holds_until:
            return False
        early = unsettled(desired) or bool(self._state.snapshot().learning)
        if early and time.monotonic() < self._holds_until and self._plane.survivors():
            self._fleet.foreseen(desired)
            return True
        self._holds_until = 0.0
        log.info("director.took_over", seconds=round(time.time() - self._started_at, 2))
        return False

    def _on_decided(self, desired: Desired) -> None:
        """Before it comes into force."""
        self._arp.decided(desired)
        given = self._state.snapshot().indices
        if self._inheritance.works and given is not self._indices:
            try:
                indices.save(self._indices_path, given)
            except OSError as error:
                log.warning("indices.not_written", error=str(error))
            self._indices = given

    def _keep_bfd(self, fd: int | None) -> None:
        self._bfd_fd = fd
        if fd is None:
            self._inheritance.drop(_BFD)

    async def _say_ready(self) -> None:
        """Tell the supervisor that the director forwards; or that it does not yet: a start must not fail for what
        can be mended while it runs."""
        try:
            async with asyncio.timeout(READY_S):
                await self._in_force.wait()
        except TimeoutError:
            pass
        self._notify("READY=1")
        self._tell(self._summary())

    def _summary(self) -> str:
        if (error := self._state.plane_error) is not None:
            return f"not forwarding: {error}"
        applied = self._reconciler.applied
        up = [view.vip for view in applied.vips if view.no is None] if applied is not None else []
        return f"forwarding; {len(up)} of {len(applied.vips) if applied is not None else 0} VIPs announced"

    def _tell(self, text: str) -> None:
        """The supervisor's words of how things are. That nothing is announced because of an order is the first."""
        going = self._state.drain
        prefix = "" if going is None else f"{'drained' if going.over else 'draining'} (`onward undrain`); "
        self._notify(notify.status(prefix + text))

    def _say_what_stands(self) -> None:
        """Orders of earlier processes, which nobody may think of any more."""
        if (going := self._state.drain) is not None:
            log.warning("director.still_drained", since=going.since, detail=going.over)
        if standing := self._state.orders:
            log.warning("orders.still_in_force", number=len(standing))
        self._say_whose_are_gone()

    def _say_whose_are_gone(self) -> None:
        """A member that comes back with its name would be found drained."""
        names = {name for pool in self._state.config.pools for name in pool.member_ids}
        if gone := sorted(self._state.orders.keys() - names):
            log.warning("orders.without_member", number=len(gone), members=gone[:20], hint="`onward member ready`")

    def _feed_watchdog(self) -> None:
        """Only while rounds of the reconciler come to an end. That the plane has just answered, the caller knows."""
        since, now = self._reconciler.busy_since, time.monotonic()
        if (since is None or now - since < STUCK_S) and now - self._fed_at >= FEED_S:
            self._fed_at = now
            self._notify("WATCHDOG=1")

    def _on_stop(self) -> None:
        """The second time is for those who do not want to wait."""
        (self._hurry if self._stop.is_set() else self._stop).set()

    async def _drain_before_the_end(self) -> None:
        """Let routers take other ways first, where that is wished. It is not kept: the next process announces."""
        limit_s = self._state.config.director.drain_on_stop_s
        if not limit_s or self._state.config.bgp is None:
            return
        if self._state.drain is None:
            now = time.time()
            self._state.set_drain(Drain(now, now + limit_s))
        while (going := self._state.drain) is not None and not going.over and not self._hurry.is_set():
            try:
                async with asyncio.timeout(DRAIN_LOOK_S):
                    await self._hurry.wait()
            except TimeoutError:
                pass

    async def _watch_drain(self) -> None:
        """Routes of a drained director are withdrawn when no packets come any more."""
        seen: drain.Seen | None = None
        while True:
            await asyncio.sleep(DRAIN_LOOK_S)
            if (going := self._state.drain) is None or going.over:
                seen = None
                continue
            packets = seen.packets if seen is not None else 0
            try:
                packets = sum(traffic.packets for traffic in (await self._plane.counters()).services.values())
            except DataPlaneError:
                pass  # nothing is announced then, and nobody can count what comes all the same
            now = time.time()
            seen = drain.look(seen, packets, now)
            after = drain.advance(going, seen, now)
            if after != going and self._state.drain == going:
                log.info("director.drained", detail=after.over, seconds=round(now - after.since, 1))
                self._state.set_drain(after)

    async def _keep_orders(self) -> None:
        """What stands and was not kept when it was ordered: orders that came from the fleet, since after a restart
        without the store they have to be known as well; how far a drain is; and the orders before one that was refused
        after it had come to the disk."""
        told = self._state.drain
        while True:
            await asyncio.sleep(KEEP_INTERVAL_S)
            if self._state.drain != told and not self._stop.is_set():  # a drain before the end was not ordered
                told = self._state.drain
                self._tell(self._summary())
            if self._orders.giving.locked():
                continue  # its end decides
            async with self._orders.giving:
                if self._kept_orders.behind(self._state.orders):
                    try:
                        await self._kept_orders.put(self._state.orders)
                    except OSError as error:
                        log.warning("orders.not_written", error=str(error))
                if not self._stop.is_set() and self._kept_drain.behind(self._state.drain):
                    try:
                        await self._kept_drain.put(self._state.drain)
                    except OSError as error:
                        log.warning("drain.not_written", error=str(error))

    def _follow(self, config: Config) -> None:
        """Tell those who watch the world what to watch."""
        self._netlink.follow(
            (member.address for pool in config.pools for member in pool.members),
            (vip for service in config.services for vip in service.vips),
            own_addresses(config.bgp) if config.bgp is not None else (),
        )
        wanted = frozenset(probes(config, self._gate.way))
        self._counting = counting(wanted)
        known = {probe.key for probe in wanted}
        self._verdicts = {key: verdict for key, verdict in self._verdicts.items() if key in known}
        self._segments = {key: found for key, found in self._segments.items() if key in known}
        self._monitors.set(wanted)
        self._agents.set(frozenset(agents(config)))
        self._bfd.set(bfd_sessions(config))
        self._fleet.follow(config)
        self._arp.follow(config)
        self._connections.follow(config.connection_log)

    def _on_health(self, status: Status) -> None:
        """What a monitor has found; see `wiring.health_of`."""
        member, key = status.target.id, key_of(status.monitor, status.target)
        self._look_at_mss(key, status)
        self._verdicts[key] = status.verdict
        of_pool = member.partition("/")[0]
        if any(pool.name == of_pool for pool in self._state.config.pools):
            counted = self._counting.get(member, frozenset({key}))
            least = next(pool.min_monitors_up for pool in self._state.config.pools if pool.name == of_pool)
            health = health_of({each: self._verdicts.get(each, Verdict.UNKNOWN) for each in counted}, least)
            if health is not None:
                self._fleet.judge(member, health, asked=member in self._counting)

    def _look_at_mss(self, key: Key, status: Status) -> None:
        """Say it once when a member takes segments that do not fit the way to it."""
        found = segments_of(status, self._state.next_hops)
        if found is not None and found != self._segments.get(key):
            self._segments[key] = found
            if found.too_large:
                log.warning("member.mss_too_large", member=found.member, note=found.note)

    def _on_load(self, status: LoadStatus) -> None:
        if status.load is None:
            self._loads.pop(status.target.id, None)
        else:
            self._loads[status.target.id] = status.load

    def _on_applied(self, desired: Desired) -> None:
        self._in_force.set()
        self._fleet.applied(desired)
        self._arp.applied(desired)
        self._doctor.applied(desired)

    def _on_bfd(self, change: Change) -> None:
        if change.path_lost and isinstance(self._speaker, ExaBgpSpeaker):
            self._speaker.lost(change.peer, f"BFD: {diag_name(change.diag)}")

    async def _keep_lease(self) -> None:
        while True:
            grace_s = self._state.config.director.restart_grace_s
            await renew(self._state, self._plane, self._speaker, grace_s)
            survives = bool(self._plane.survivors())
            self._bfd.survive(grace_s if survives else 0.0)
            if survives and self._bfd_fd is not None:
                self._inheritance.put(_BFD, self._bfd_fd)
            self._feed_watchdog()
            await asyncio.sleep(CHECK_INTERVAL_S)

    async def _end_learning(self) -> None:
        """Waiting for all members of a pool ends a while after the first one is usable: `learning_limit_s`."""
        since: dict[str, float] = {}
        while True:
            now, snapshot = time.monotonic(), self._state.snapshot()
            since = {name: at for name, at in since.items() if name in snapshot.learning}
            for pool in snapshot.config.pools:
                if pool.name in snapshot.learning and snapshot.usable(pool) and snapshot.plane_error is None:
                    longest = LEARN_S if snapshot.learning[pool.name] is Learning.FIRST else LEARN_AGAIN_S
                    if now - since.setdefault(pool.name, now) >= learning_limit_s(pool, longest):
                        self._state.end_learning(pool.name)
            await asyncio.sleep(CHECK_INTERVAL_S)

    async def _watch_pins(self) -> None:
        """Once a second: what is remembered of flows, for the decision; and the log, for the process after this one."""
        written: object = None
        while True:
            await asyncio.sleep(PINS_INTERVAL_S)
            applied = self._reconciler.applied
            if applied is None:
                continue
            await self._look_at_pins()
            if applied.log != written:
                try:
                    await asyncio.to_thread(history.save, self._history_path, applied.log)
                except OSError as error:
                    log.warning("history.not_written", error=str(error))
                written = applied.log

    async def _look_at_pins(self) -> None:
        """Put what is remembered of flows into the store."""
        applied = self._reconciler.applied
        if applied is not None:
            facts, stats = await asyncio.to_thread(self._seen, applied, dict(self._loads), self._stats)
            self._stats = stats
            asked = any(ALGORITHMS[pool.algorithm].dynamic for pool in self._state.config.pools)
            self._state.set_pins(facts, stats.members, signal=facts.late or asked)
            self._hold_outliers()

    def _seen(self, applied: Desired, loads: Mapping[str, float], known: Seen | None) -> tuple[PinsSeen, Seen]:
        pins = self._plane.pins
        pins.sweep()
        live = pins.live()
        services = services_of(live, applied)
        pins.set_idle(*outdated(live, applied, services))
        # Of a pool that goes by the hash alone nobody asks for numbers, which take a while with thousands of members.
        asking = {
            pool.name
            for view in applied.services
            for pool in view.service.pools
            if ALGORITHMS[pool.algorithm].placement is not Placement.HASH or view.service.profile.per_packet
        }
        ids = {i: member.id for i, member in applied.tables.members.items() if member.id.partition("/")[0] in asking}
        self._watch_handshakes(live, applied, services)
        stats = member_stats(live, pins.delays, ids, loads, time.monotonic_ns(), known)
        return seen(live, applied, services, self._now()), stats

    def _watch_handshakes(self, live: LivePins, applied: Desired, services: npt.NDArray[np.int64]) -> None:
        """Of pools that are to be watched."""
        watched = {view.service.name for view in applied.services if view.service.pool.passive_share}
        if watched:
            names = {one.index: one.name for one in applied.tables.services if one.name in watched}
            members = {index: one.id for index, one in applied.tables.members.items()}
            self._passive.look(live, services, names, members, self._plane.pins.delays, time.monotonic_ns())

    def _hold_outliers(self) -> None:
        """Members whose clients' handshakes are not like the others' get less, in pools that want that."""
        wanted = {name for pool in self._state.config.pools if pool.passive_weight < 1 for name in pool.member_ids}
        before, held = self._state.outliers, self._held.look(self._passive.handshakes(), wanted, time.monotonic())
        for member in held.keys() - before.keys():
            log.warning("member.outlier", member=member, reason=held[member])
        for member in before.keys() - held.keys():
            log.info("member.outlier_over", member=member)
        self._state.set_outliers(held)

    def _owners(self, keys: Iterable[FlowKey]) -> Mapping[FlowKey, tuple[str, str]]:
        """Where flows go now, for the doctor."""
        applied = self._reconciler.applied
        return {} if applied is None else owners(applied.tables, self._plane.pins, keys)

    def _handshakes(self) -> dict[tuple[str, str], PassiveSeen]:
        """What the doctor is told of clients' handshakes."""
        return passive_seen(self._passive.handshakes())

    def _pins_use(self) -> PinsUse:
        live = sum(self._state.snapshot().pins.flows.values())  # a second old at most, and nothing to count for it
        return PinsUse(self._plane.pins.capacity, live)

    async def _measure_lag(self) -> None:
        while True:
            due = time.monotonic() + LAG_INTERVAL_S
            await asyncio.sleep(LAG_INTERVAL_S)
            now = time.monotonic()
            self._lag.add(max(0.0, now - due), now)

    async def _reloads(self) -> None:
        """SIGHUP: the whole new configuration, or nothing of it."""
        while True:
            await self._reload.wait()
            self._reload.clear()
            try:
                await self._transactions.reload(Author("", "signal", "SIGHUP"))
            except Exception:  # whatever it is: what is in force is no worse for it
                log.exception("config.reload_failed")

    async def _begin_revisions(self) -> None:
        """What the director begins with is a revision; not to be able to keep it is no reason not to forward."""
        path = self._transactions.in_force.document.path
        if (change := await aside(pending, path)) is not None and change.overtaken:
            log.warning("config.change_dropped", source=str(path), hint="the files were changed since by somebody else")
        try:
            revision = await self._transactions.begin(Author("", "start"))
        except (RevisionError, DocumentError) as error:
            log.warning("config.not_kept", error=str(error))
            return
        if revision is not None:
            self._last_reload = replace(self._last_reload, revision=revision.number)

    async def _foresee(self, loaded: Loaded) -> Consequences:
        applied, twin = self._reconciler.applied, self._state.twin()
        in_force, way, now = self._transactions.in_force, self._gate.way, self._now()
        there = {name for _, name in socket.if_nameindex()}
        if missing := set(loaded.config.director.interfaces) - set(in_force.config.director.interfaces) - there:
            # That takes a restart, after which nobody would forward.
            message = f"there is no interface {', '.join(sorted(missing))} on this machine"
            remedy = f"there are: {', '.join(sorted(there))}"
            raise ConfigError([Problem(loaded.config.source, None, "director.interfaces", message, remedy)])

        def look() -> Consequences:
            flows = NO_FLOWS if applied is None else flows_of(self._plane.pins.live(), applied)
            changes = differences(in_force.document, loaded.document, in_force.named, loaded.named)
            return consequences(twin, applied, in_force.config, loaded.config, way, now, flows, changes)

        try:
            return await aside(look)
        except ValueError as error:  # with the members that still leave there are too many
            raise ProgramError(f"this configuration cannot be put into force now: {error}") from error

    async def _program(self, loaded: Loaded, before: Loaded) -> None:
        """Put a configuration into force, or the one before again.

        Raises:
            ProgramError: it could not be; what was in force is.
        """
        self._hash_changes = tuple(hash_changes(before.config, loaded.config))
        try:
            await self._make_way(loaded.config)
        except SteerError as error:
            raise ProgramError(str(error)) from error
        # What does not forward already says nothing about a new configuration, which may be the way out.
        proves = self._reconciler.applied is not None and self._state.plane_error is None
        why = await self._put(loaded.config, proves=proves)
        if why is not None:
            again = await self._put(before.config, proves=True)
            trouble = "" if again is None else f"; and the one before is not in force again yet: {again}"
            text = f"the data plane does not take this configuration: {why}{trouble}"
            raise ProgramError(text, restored=again is None)

    async def _put(self, config: Config, *, proves: bool) -> str | None:
        """Make it the one that counts; why the data plane does not follow it, if it does not and is to prove it."""
        generation = self._state.generation
        self._state.set_config(config, self._now())
        self._follow(self._state.config)
        if not proves or self._state.generation == generation:
            return None
        try:
            async with asyncio.timeout(PROGRAM_S):
                await self._reconciler.follows(self._state.generation)
        except DataPlaneError as error:
            return str(error)
        except TimeoutError:
            return f"it did not follow within {PROGRAM_S:g} s"
        return None

    def _changed_config(self, outcome: Outcome) -> None:
        """Everybody can see what became of a change of the configuration, and why."""
        config, author = self._transactions.in_force.config, outcome.author
        if outcome.dry_run:
            return
        by = {"who": author.who, "via": author.via, "why": author.why}
        revision = outcome.revision.number if outcome.revision is not None else None
        texts = tuple(str(problem) for problem in outcome.problems)
        if not outcome.ok:
            for text in texts:
                log.error("config.rejected", problem=text, step=str(outcome.step), **by)
        if outcome.leaves_no_trace:
            return
        moving = self._hash_changes if outcome.ok and not (outcome.unchanged or outcome.at_restart) else ()
        now = time.time()
        self._last_reload = ReloadStatus(
            ok=outcome.ok,
            at=now,
            taken_at=now if outcome.ok else self._last_reload.taken_at,
            source=config.source,
            digest=config.digest,
            problems=texts,
            warnings=tuple(map(str, moving)),
            step=str(outcome.step),
            revision=revision,
        )
        if not outcome.ok:
            self._tell(f"configuration refused ({outcome.step}): {texts[0]}")
            if outcome.staged is not None and outcome.digest == outcome.staged.loaded.document.digest:
                self._renew_certificate()  # files that wait for a restart are no reason to let it run out
            return
        for one in moving:
            log.warning(
                "service.hash_changed",
                service=one.service,
                before=one.before,
                after=one.after,
                share=round(one.share, 3),
            )
        if outcome.at_restart and outcome.staged is not None:
            number, waits = outcome.staged.revision.number, outcome.staged.why
            log.warning("config.staged", revision=number, takes_restart=list(waits), **by)
            self._tell(f"revision {number} of the configuration waits for a restart")
            return
        moves = outcome.consequences.moves
        log.info(
            "config.reloaded",
            source=config.source,
            unchanged=outcome.unchanged,
            revision=revision,
            summary=outcome.consequences.summary,
            services_moving=len(moves),
            largest_share=round(max((one.slots for one in moves), default=0.0), 4),
            flows_moved=sum(one.flows_moved for one in moves),
            seconds=round(outcome.seconds, 3),
            **by,
        )
        self._renew_certificate()
        self._say_whose_are_gone()
        self._tell(f"{config.source} is in force, revision {revision or 'not kept'}")

    def _renew_certificate(self) -> None:
        try:
            self._api.renew()
        except OSError as error:
            log.warning("api.certificate_kept", error=str(error))

    def _notify(self, text: str) -> None:
        try:
            notify.tell(text, os.environ)
        except OSError as error:
            log.debug("config.not_told", error=str(error))

    def _ready(self) -> tuple[tuple[str, bool, str], ...]:
        """The parts that must work before traffic is welcome: (name, works, detail)."""
        error = self._state.snapshot().plane_error
        speaker = self._speaker.status()
        sessions = [status.session for status in speaker.peers.values()]
        parts = [
            # Whatever became of the latest reload: a file with a mistake must not take a fleet out that works.
            ("config", True, "; ".join(self._last_reload.problems)),
            ("data_plane", error is None, error or ""),
            ("programmed", self._reconciler.applied is not None, ""),
            ("decision", not self._reconciler.error, self._reconciler.error),
        ]
        if self._state.config.bgp is not None:
            up = any(session == "up" for session in sessions)
            parts.append(("bgp", up, "" if up else speaker.detail or "no session is up"))
        return tuple(parts)


def _speaker(config: Config) -> Speaker:
    if config.bgp is None:
        return RecordingSpeaker()
    return ExaBgpSpeaker(
        BgpSpeakerConfig(
            local_as=config.bgp.local_as,
            router_id=config.bgp.router_id,
            neighbors=tuple(
                Neighbor(
                    address=peer.address,
                    remote_as=peer.remote_as,
                    hold_time_s=peer.hold_time_s,
                    local_address=peer.local_address,
                    password=peer.password,
                    multihop=peer.multihop,
                    ttl_security=peer.ttl_security,
                    passive=peer.passive,
                    port=peer.port,
                )
                for peer in config.bgp.peers
            ),
            runtime_dir=Path(config.director.runtime_dir),
        )
    )
