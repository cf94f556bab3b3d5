"""The raw-socket data plane: `dataplane.base.DataPlane` over packet rings and NumPy."""

import asyncio
import copy
import dataclasses
import errno
import logging
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count

import numpy as np
import structlog

from appliance.dataplane.base import Counters, DataPlaneError, MapFacts
from appliance.dataplane.events import EventLog, PacketEvent
from appliance.dataplane.logged import LoggedFlows
from appliance.dataplane.meters import MeterTable
from appliance.dataplane.pins import DEFAULT_PINS, PINS_FORM, PinTable, file_bytes
from appliance.dataplane.raw import bpf, keeper, kernel, offloads
from appliance.dataplane.raw.compiled import Compiled, TrafficColumns
from appliance.dataplane.raw.guard import KernelGuard
from appliance.dataplane.raw.idents import Idents
from appliance.dataplane.raw.layout import ETHERNET, Columns, stride_for
from appliance.dataplane.raw.rings import FIRST, SECOND, Area, Groups, RxRing, SlowTap
from appliance.dataplane.raw.turns import ColumnTurns
from appliance.dataplane.raw.tx import Egress, NoEgress, Sender, reason_of
from appliance.dataplane.raw.vector import VectorPath
from appliance.dataplane.raw.worker import Port, Work, Worker
from appliance.dataplane.raw.xsk import MAX_FRAME, XskSender
from appliance.dataplane.recording import Recording
from appliance.dataplane.totals import Later, Totals, added_up
from appliance.forwarding import ForwardingTables
from appliance.inheritance import Inheritance
from appliance.packet.action import Action, Reason, Verdict
from appliance.packet.forward import Ingress
from appliance.packet.fragments import Fragments

log = structlog.get_logger()

STUCK_S = 0.5
"""Without a round of the forwarding thread for so long, it counts as stuck. It never sleeps longer than a fifth."""

SWITCH_S = 0.0005
"""How long the event loop may keep the interpreter from the forwarding thread when both want it. With Python's 5 ms, a
busy loop would add as much to every batch's latency."""

RETRY_XSK_S = 30.0
"""A sender that had to fall back tries AF_XDP again with the first new tables after so long; trying may take 1 s."""

PASS_S = 2.0
"""How long new tables may take until the thread follows them."""


SUPER_FRAMES = (
    "frames larger than the link's MTU arrive and are dropped: a sender on this machine leaves segmentation to its "
    "device; try on its side of the link: ethtool -K DEVICE tso off gso off"
)


_OFFLOADS, _GUARD, _PINS = "offloads.", "guard.", "memory."
"""What names of what we leave to the next process begin with; then comes the interface, the guard's table, or a table's
form and size."""

AWAY_S = 0.2
"""How long frames that have come before a plane has looked away may take to be forwarded."""


class RawDataPlane:
    """Forwards packets for VIPs that arrive on some interfaces; see the package's other modules for how.

    Needs CAP_NET_RAW and CAP_NET_ADMIN, and nft. Everything that takes more than a few hundred microseconds is done in
    worker threads; the forwarding thread is one more.
    """

    def __init__(
        self,
        interfaces: tuple[str, ...],
        *,
        slots: int = 2048,
        batch: int = 1024,
        few: int = 6,
        use_xsk: bool = True,
        pins: int = DEFAULT_PINS,
        inheritance: Inheritance | None = None,
        stays: bool = False,
        stands: Mapping[str, tuple[str, ...]] | None = None,
        groups: Groups | None = None,
    ) -> None:
        """
        Args:
            interfaces: names of those that packets for VIPs arrive on.
            inheritance: what an earlier process has left, and where to leave it to the next one: what it takes to leave
                nothing behind in the end, and with *stays* a keeper (`keeper`) and remembered flows.
            stays: whether packets are to be forwarded on when this process is followed by another one. Not where
                something else does that: an XDP program.
            stands: for a plane that stands by: it takes no frames and changes nothing before `begin`, while another one
                forwards by the same interfaces; only the keeper does. By interface, what that one has switched off.
            groups: what the sockets of that one are in, for such a plane.
            pins: flows to remember at once, at most.
            slots: of each interface's ring. More of them take longer bursts, and more of the CPU's cache.
            batch: frames that are worked on at once, at most 1024.
            few: fewer frames than this are forwarded one by one.
            use_xsk: send by AF_XDP where it is to be had; False sends by sendmmsg(2) always.
        """
        self._interfaces = interfaces
        self._inheritance = inheritance
        self._stays = stays and inheritance is not None and inheritance.works
        self._stands = stands
        self._groups = groups
        """To be in with somebody who forwards now; None: nobody does."""
        self._keeper: keeper.Keeper | None = None
        self._found = frozenset(inheritance.names(keeper.NAME) if inheritance is not None else ())
        """Keepers of directors before this one. The descriptors of our own belong to their thread."""
        self._beats_proved = -1
        """Rounds of the thread when it has proved itself last, of a plane that has stood by."""
        self._proved_at = 0.0
        self._pins_fd: int | None = None
        self._slots = slots
        self._batch = batch
        self._few = few
        self._use_xsk = use_xsk
        self.pins = PinTable.in_memory(pins, time.monotonic_ns)
        """What is remembered of flows. A plane in front of this one gives it the table of both before the start."""
        self.idents = Idents()
        """Identifications for outer packets. A plane in front of this one gives it those that it does not use."""
        self.meters = MeterTable.in_memory(time.monotonic_ns)
        """How many connections have come. A plane in front of this one gives it the meters of both before the start."""
        self.logged = LoggedFlows.in_memory(time.monotonic_ns)
        """Flows of the connection log. A plane in front of this one gives it the table of both before the start."""
        self._turns = ColumnTurns()
        self._fragments = Fragments(time.monotonic_ns)
        self._guard = KernelGuard(interfaces)
        self._guard_due = False
        """Whether the guard has still to be made what it should be, of a plane that has stood by."""
        self._lock = threading.Lock()
        """Held by whatever opens, changes or closes sockets: a cancelled caller leaves its worker thread behind."""

        self._started = False
        self._session: _Session | None = None
        """None before the start, and while an interface that went away has not come back."""

        self._old = Totals()
        """What sessions that have ended have counted."""

        self._events = EventLog()
        self._recording: Recording | None = None

        self._programmed: ForwardingTables | None = None
        """The tables that everything follows; None when that is not certain."""

        self._lost: Mapping[str, str] = {}
        """Interfaces by which nothing comes, and why, when that was looked at last."""

        self._seen_beats = -1
        self._switch_interval: float | None = None

    async def start(self) -> None:
        """Take over the interfaces.

        Raises:
            DataPlaneError: as the contract says.
        """
        await asyncio.to_thread(self._start)
        if self._switch_interval is None:
            self._switch_interval = sys.getswitchinterval()
            sys.setswitchinterval(SWITCH_S)

    async def set(self, tables: ForwardingTables) -> None:
        """Make these the tables in force. Sets right what `check` complains about, where that is possible.

        Raises:
            DataPlaneError: as the contract says.
        """
        await asyncio.to_thread(self._set, tables)

    async def check(self) -> None:
        """Prove that frames are being forwarded by the tables last set.

        Raises:
            DataPlaneError: the thread is stuck or dead, all interfaces are down, one is gone or not what it was, the
                kernel guard is gone, or who is to forward until the first `set` does not.
        """
        session = self._running()
        self._trust_keepers()
        fault = session.fault()
        self._tell_lost(session)
        if fault is not None:
            raise DataPlaneError(fault)
        session.hint()
        if session.worker.beats == self._seen_beats:
            await self._see_a_beat(session)
        self._seen_beats = session.worker.beats
        if self._guard.changed():
            await asyncio.to_thread(self._verify_guard)

    def _tell_lost(self, session: "_Session") -> None:
        before, self._lost = self._lost, session.lost()
        for name in self._lost.keys() - before.keys():
            log.warning("plane.interface_lost", interface=name, reason=self._lost[name])
        for name in before.keys() - self._lost.keys():
            log.info("plane.interface_back", interface=name)

    async def counters(self) -> Counters:
        """Read the counters now."""
        totals = Totals(self._old.counters())
        session = self._session
        if session is not None:
            session.add_to(totals)
        totals.details.update(pin_details(self.pins))
        totals.details["fragments_remembered"] = self._fragments.kept
        totals.details["limit_sources_forgotten"] = self.meters.forgotten
        return totals.counters()

    async def explain(self, frame: bytes, interface: str) -> Action:
        """What happens to a frame on *interface*: by the very filter and the very passes that real ones meet.

        Raises:
            DataPlaneError: the plane is not started, or does not serve that interface.
        """
        return self._running().explain(frame, interface)

    async def samples(self) -> Sequence[PacketEvent]:
        """Some of what was dropped and answered, the newest last. What is sent to members is none of it."""
        return self._events.latest()

    async def record(self, recording: Recording | None) -> None:
        """Begin or end a capture: from its next round on, the thread copies what it works on.

        Raises:
            DataPlaneError: the plane is not started.
        """
        self._recording = recording
        if recording is not None or self._session is not None:
            self._running().worker.recording = recording

    async def describe(self) -> Mapping[str, str]:
        """Facts for people."""
        facts = {"kind": "raw", "interfaces": ", ".join(self._interfaces), "kernel_guard": self._guard.table}
        session = self._session
        if session is not None:
            facts |= session.describe() | {f"lost_{name}": why for name, why in session.lost().items()}
        return facts

    async def maps(self) -> Sequence[MapFacts]:
        """See `DataPlane.maps`: none."""
        return ()

    async def stay(self) -> None:
        """See `DataPlane.stay`: a keeper takes frames when this returns, and this plane does not any more."""
        if self._stays:
            await asyncio.to_thread(self._stay)

    def keeper(self) -> int:
        """See `DataPlane.keeper`."""
        names = self._inheritance.names(keeper.NAME) if self._inheritance is not None else []
        return next((keeper.lives(name) for name in names if not self._doubts(name)), 0)

    def survivors(self) -> frozenset[int]:
        """See `DataPlane.survivors`: the forwarding thread ends with the process, but a keeper may be there."""
        if not self._stays or not self.keeper():
            return frozenset()
        there = map(kernel.read_interface, self._interfaces)
        return frozenset(interface.ifindex for interface in there if interface is not None)

    def follow(self, tables: ForwardingTables) -> None:
        """The same as `set`, in this thread; a plane that stands by only gets ready.

        Raises:
            DataPlaneError: as the contract says.
        """
        self._set(tables)

    def _doubts(self, name: str) -> str:
        """Why a keeper is not to be counted on; empty: it is. Our own has to answer its thread, or has no name."""
        if name in self._found and self._inheritance is not None:
            return keeper.doubts(name, self._inheritance.folder)
        return "" if keeper.lives(name) else "it has ended"

    def _trust_keepers(self) -> None:
        """Whoever forwards until this plane does has to prove it.

        Raises:
            DataPlaneError: it does not.
        """
        doubts = [self._doubts(name) for name in self._inherited_keepers()]
        if doubts and all(doubts):
            raise DataPlaneError(f"the keeper does not forward: {doubts[0]}")

    def begin(self) -> None:
        """Take frames from now on, by the tables set last: of a plane that has stood by. It goes on with the kernel
        guard that the one before has left; where that fails, `watch_guard` tries again.

        Raises:
            DataPlaneError: it cannot.
        """
        with self._lock:
            session, tables = self._running(), self._programmed
            if tables is None:
                raise DataPlaneError("there are no tables to begin with")
            if session.beyond_repair():
                session = self._stand_again(session)
            session.begin()
            session.choose(SECOND)
            self._stands, self._guard_due = None, True
            try:
                self._take_guard(tables)
            except DataPlaneError as error:
                log.warning("plane.guard_not_set", reason=str(error))

    def _take_guard(self, tables: ForwardingTables) -> None:
        """Go on with the guard that another process has left, for the VIPs of these tables.

        Raises:
            DataPlaneError: nftables refused.
        """
        if self._guard.known() or self._guard.adopt():
            self._guard.set(tables.vips_v4, tables.vips_v6)
        else:
            self._guard.install(tables.vips_v4, tables.vips_v6)
        self._guard_due = False

    def look_away(self) -> None:
        """Take no frames any more; returns when those that have come were forwarded."""
        with self._lock:
            self._running().look_away()

    def make_room(self) -> Groups:
        """Have another one share what arrives: all of it is still for this plane. Whoever has forwarded before it must
        have closed its sockets."""
        with self._lock:
            session = self._running()
            session.choose(FIRST)
            return session.groups

    def prove(self) -> bool:
        """Whether the thread has made a round since this was asked last: of a plane that has stood by.

        Raises:
            DataPlaneError: nothing is forwarded, and that will stay so.
        """
        session, now = self._running(), time.monotonic()
        fault = session.fault()
        if fault is not None:
            raise DataPlaneError(fault)
        beats, before = session.worker.beats, self._beats_proved
        if beats != before:
            self._beats_proved, self._proved_at = beats, now
        elif now - self._proved_at > STUCK_S:
            raise DataPlaneError(f"the forwarding thread has made no round for {STUCK_S} s")
        return beats != before

    def watch_guard(self, *, shared: bool) -> None:
        """Put back what keeps the kernel from packets for VIPs, should it be gone. Cheap while no rule changes.

        Args:
            shared: whether the process that follows changes it as well.

        Raises:
            DataPlaneError: it cannot be put back; the next call tries again.
        """
        with self._lock:
            tables = self._programmed
            if tables is None:
                return
            self._guard_due &= not shared
            if self._guard_due:
                try:
                    self._take_guard(tables)
                except DataPlaneError:
                    if not self._guard.known():
                        raise
                return
            if not self._guard.changed():
                return
            if shared:
                if self._guard.adopt():
                    return
                reason = "it is gone"
            else:
                try:
                    self._guard.verify()
                    return
                except DataPlaneError as error:
                    reason = str(error)
            self._guard.install(tables.vips_v4, tables.vips_v6)
            log.warning("plane.guard_restored", reason=reason)

    async def close(self, *, leave: bool = False) -> None:
        """Stop forwarding and leave nothing behind.

        Args:
            leave: but what keeps the kernel from packets for VIPs, and offloads as they are.
        """
        await asyncio.to_thread(self._close, leave)
        if self._switch_interval is not None:
            sys.setswitchinterval(self._switch_interval)
            self._switch_interval = None

    def _running(self) -> "_Session":
        if self._session is None:
            what = "has lost an interface and waits for it to return" if self._started else "was not started"
            raise DataPlaneError(f"the data plane {what}")
        return self._session

    def _start(self) -> None:
        with self._lock:
            if self._session is None:
                if self._stays and self._inheritance is not None:
                    kernel.forgo_dumps()  # the keeper is told of our end after the dump only
                    keeper.clear_up(self._inheritance.folder)
                    self._keep_pins(self._inheritance)
                self._open()
            self._started = True

    def _open(self) -> None:
        interfaces = [_require(name) for name in self._interfaces]
        installed = self._stands is None and not (not self._started and self._inherits() and self._guard.adopt())
        if installed:
            self._guard.install()
        if self._stands is None:
            self._groups = self._join()
        try:
            self._session = _Session(
                interfaces,
                self._slots,
                self._batch,
                self._few,
                self._use_xsk,
                self._events,
                self.pins,
                self._turns,
                self._fragments,
                self.idents,
                self.meters,
                self.logged,
                {name: self._left_off(name) for name in self._interfaces},
                stands=self._stands is not None,
                shares=self._stays or self._groups is not None,
                groups=self._groups or {},
            )
        except OSError as error:
            if installed and not any(map(keeper.lives, self._inherited_keepers())):
                self._guard.remove()
            raise DataPlaneError(_explain_os_error(error, self._interfaces)) from error
        self._seen_beats, self._programmed = -1, None
        self._session.worker.recording = self._recording
        if self._inheritance is not None:
            for name, features in self._session.offloads.items():
                self._inheritance.put_text(f"{_OFFLOADS}{name}", " ".join(features))
            self._inheritance.put_text(f"{_GUARD}{self._guard.table}", " ".join(self._interfaces))
        if self._stands is None:
            slots = self._session.area.slots
            log.info("plane.started", kind="raw", interfaces=self._interfaces, slots=slots, batch=self._batch)

    def _set(self, tables: ForwardingTables) -> None:
        with self._lock:
            if self._session is None and self._started:
                self._open()
            session = self._running()
            if self._stands is not None:
                if session.beyond_repair():
                    session = self._stand_again(session)
                session.follow(tables)
                self._programmed = tables
                if not self._guard.known():
                    self._guard.adopt()  # so that it is known later, too, when nft may fail
                return
            fault = session.fault()
            if fault is not None and session.beyond_repair():
                log.warning("plane.reopening", reason=fault)
                self._end_keeper(wait=False)  # its sockets are those of the interfaces that were
                self._close_session(session)
                self._open()
                session = self._running()
            elif self._guard.changed():
                try:
                    self._guard.verify()
                except DataPlaneError as error:
                    log.warning("plane.guard_restored", reason=str(error))
                    self._guard.install(session.tables.vips_v4, session.tables.vips_v6)
            if self._programmed is not None and self._programmed.same(tables):
                return
            started, before = time.monotonic(), self._programmed
            try:
                self._program(session, tables)
            except OSError as error:
                raise DataPlaneError(f"cannot follow the new tables: {error}") from error
            level = logging.DEBUG if before is not None and before.same_but_choices(tables) else logging.INFO
            log.log(
                level,
                "plane.programmed",
                services=len(tables.services),
                members=len(tables.members),
                vips=len(tables.vips),
                ms=round((time.monotonic() - started) * 1000, 1),
            )

    def _program(self, session: "_Session", tables: ForwardingTables) -> None:
        """New VIPs: first the kernel looks away, then we know what to do, then we look. Old ones: the other way round.

        So nobody's packet is handled twice, and none by half a table. Failing in the middle makes the next call do
        everything.
        """
        work = session.prepare(tables)
        sure, self._programmed = self._programmed is not None, None
        before, after = session.tables, tables
        if not sure or not after.vips <= before.vips:
            self._guard.set(after.vips_v4 | before.vips_v4, after.vips_v6 | before.vips_v6)
        session.use(work)
        if not sure or after.vips != before.vips:
            session.admit(tables)
        self._relieve(session)
        if not sure or not before.vips <= after.vips:
            self._guard.set(after.vips_v4, after.vips_v6)
        self._programmed = tables
        self._tell_keeper(session, tables)

    def _join(self) -> Groups | None:
        """The groups that a keeper's sockets are in, if one forwards."""
        for name in self._inherited_keepers():
            if self._inheritance is not None and (fd := self._inheritance.get(name)) is not None and keeper.lives(name):
                groups = keeper.join(fd)
                if groups is not None:
                    return groups
                log.warning("plane.keeper_hangs", pid=keeper.lives(name), reason="it does not answer")
        return None

    def _relieve(self, session: "_Session") -> None:
        """Take frames in place of whoever has forwarded before, and clear up what nobody needs then."""
        inheritance = self._inheritance
        if inheritance is None:
            return
        if names := self._inherited_keepers():
            session.choose(SECOND)
            for name in names:
                if (fd := inheritance.get(name)) is not None:
                    pid = int(name.removeprefix(keeper.NAME))
                    wrong, ended = keeper.relieve(fd, name)
                    if wrong:
                        log.warning("plane.keeper_hangs", pid=pid, reason=wrong)
                    if not ended:
                        raise DataPlaneError(f"process {pid} cannot be ended, and still takes packets in our place")
                    inheritance.forget(name)
                keeper.Proof(inheritance.folder, name).remove()
            self._found = frozenset()  # they need prove nothing any more
            session.choose(FIRST)
        for name in inheritance.names(_OFFLOADS):
            if (interface := name.removeprefix(_OFFLOADS)) not in self._interfaces:
                offloads.restore(interface, self._left_off(interface))
                inheritance.forget(name)
        for name in inheritance.names(_GUARD):
            if (table := name.removeprefix(_GUARD)) != self._guard.table:
                self._guard.remove(table)
                inheritance.forget(name)

    def _inherited_keepers(self) -> list[str]:
        there = self._inheritance.names(keeper.NAME) if self._inheritance is not None else []
        return [name for name in there if name in self._found]

    def _stand_again(self, session: "_Session") -> "_Session":
        """Begin to stand by anew, where an interface is not what it was."""
        session.keep_offloads()
        self._close_session(session)
        tables = session.tables
        self._open()
        session = self._running()
        session.follow(tables)
        self._programmed = tables
        return session

    def _tell_keeper(self, session: "_Session", tables: ForwardingTables) -> None:
        inheritance = self._inheritance
        if inheritance is None or self._pins_fd is None:
            return
        if self._keeper is None:

            def leave(name: str, fd: int) -> bool:
                inheritance.put(name, fd)
                return inheritance.get(name) == fd

            order = keeper.Order(
                self._interfaces, session.offloads, self.pins.capacity, session.groups, inheritance.folder
            )
            self._keeper = keeper.Keeper(order, self._pins_fd, leave, inheritance.drop)
        self._keeper.follow(tables, heard=self.pins.herald is not None)

    def _end_keeper(self, *, wait: bool) -> None:
        if self._keeper is not None:
            self._keeper.end(wait=wait)
            self._keeper = None

    def _stay(self) -> None:
        with self._lock:
            inherited = self._inherited_keepers()
            if self._session is None or not all(map(self._doubts, inherited)):
                return
            try:
                if self._keeper is None or self._programmed is None:
                    raise keeper.KeeperError("nothing is forwarded")
                self._keeper.begin()
            except keeper.KeeperError as error:
                log.warning("plane.no_keeper", reason=str(error))
                return
            self._session.look_away()

    def _keep_pins(self, inheritance: Inheritance) -> None:
        """Remember flows in memory that outlives this process."""
        capacity = self.pins.capacity
        name = f"{_PINS}{PINS_FORM}.{capacity}"
        for other in inheritance.names(_PINS):
            if other != name:
                log.warning("plane.pins_not_adopted", reason="they are of another form, or for another number of flows")
                inheritance.forget(other)
        fd = inheritance.get(name)
        if fd is None:
            fd = os.memfd_create("onward-pins", os.MFD_CLOEXEC)
            os.ftruncate(fd, file_bytes(capacity))
            inheritance.put(name, fd)
        self.pins, self._pins_fd = PinTable.in_file(fd, capacity, time.monotonic_ns), fd

    def _verify_guard(self) -> None:
        with self._lock:
            self._guard.verify()

    async def _see_a_beat(self, session: "_Session") -> None:
        """Wait for a round of the thread, which may have been asleep just now."""
        session.worker.wake()
        deadline = time.monotonic() + STUCK_S
        while session.worker.beats == self._seen_beats:
            if time.monotonic() > deadline:
                raise DataPlaneError(
                    f"the forwarding thread has made no round for {STUCK_S} s; "
                    "is the machine overloaded, or something holding the interpreter?"
                )
            await asyncio.sleep(0.005)

    def _close(self, leave: bool) -> None:
        with self._lock:
            if not self._started:
                return
            self._started = False
            if not leave:
                self._end_keeper(wait=True)
            if self._session is not None:
                if leave:
                    self._session.keep_offloads()
                self._close_session(self._session)
            if not leave:
                self._guard.remove()
                if self._inheritance is not None:
                    self._inheritance.forget_all((_OFFLOADS, _GUARD, keeper.NAME))
                    self._inheritance.drop(*self._inheritance.names(_PINS))
            if self._stands is None:
                log.info("plane.stopped", kind="raw")

    def _inherits(self) -> bool:
        return self._inheritance is not None and bool(self._inheritance.names(""))

    def _left_off(self, name: str) -> tuple[str, ...]:
        """What an earlier process has switched off at an interface, and had no time to switch on again."""
        if self._stands is not None:
            return self._stands.get(name, ())
        return tuple(self._inheritance.text(f"{_OFFLOADS}{name}").split()) if self._inheritance is not None else ()

    def _close_session(self, session: "_Session") -> None:
        self._session = None
        session.close()
        session.add_to(self._old)
        self._old.settle()


class _Session:
    """Rings, senders and the thread, from one opening to the next closing."""

    def __init__(
        self,
        interfaces: list[kernel.Interface],
        slots: int,
        batch: int,
        few: int,
        use_xsk: bool,
        events: EventLog,
        pins: PinTable,
        turns: ColumnTurns,
        fragments: Fragments,
        idents: Idents,
        meters: MeterTable,
        logged: LoggedFlows,
        left_off: Mapping[str, tuple[str, ...]],
        *,
        stands: bool,
        shares: bool,
        groups: Groups,
    ) -> None:
        """
        Args:
            left_off: offloads by interface that are off already, and are to be switched on in the end.
            stands: whether nothing is to be forwarded before `begin`.
            shares: whether sockets are to be in groups with those of another process.
            groups: those that are there already; others are made.
        """
        self._shares = shares
        self.groups: dict[str, tuple[int, int]] = dict(groups)
        """That the sockets are in, by interface."""
        self._left_off = left_off
        self.offloads: dict[str, tuple[str, ...]] = {}
        """What is to be switched on in the end, by interface."""
        self._batch = batch
        self._logged = logged
        self._pins = pins
        self._turns = turns
        self._fragments = fragments
        self._idents = idents
        self._meters = meters
        self._use_xsk = use_xsk
        self._interfaces = interfaces
        self.tables = ForwardingTables()
        """The tables that the thread follows."""

        self._try_xsk_at: dict[int, float] = {}
        """When AF_XDP may be tried again, by ifindex."""
        self._exact = True
        self._hinted = False
        self._numbers = count(1)
        self._undo: list[Callable[[], object]] = []
        try:
            self._open(slots, few, events)
            if not stands:
                self.begin()
        except BaseException:
            if stands or groups:
                self.keep_offloads()
            self._release()
            raise

    def _open(self, slots: int, few: int, events: EventLog) -> None:
        self._undo.append(self._restore_offloads)
        for interface in self._interfaces:
            merging = offloads.switch_off(interface.name)
            if merging:
                log.info("plane.offloads_off", interface=interface.name, features=merging)
            merging = tuple(dict.fromkeys((*self._left_off[interface.name], *merging)))
            if merging:
                self.offloads[interface.name] = merging
        _raise_memlock_limit()
        stride = stride_for(max(interface.mtu for interface in self._interfaces))
        self.area = Area(stride, slots, len(self._interfaces))
        self._undo.append(self.area.close)
        self._egress: dict[int, Sender] = {}
        self._undo.append(self._close_egress)
        ports = []
        for number, interface in enumerate(self._interfaces):
            ring = RxRing(interface, self.area, number)
            self._undo.append(ring.close)
            slow = SlowTap(interface)
            self._undo.append(slow.close)
            reply = self._egress[interface.ifindex] = Egress(interface.name, interface.ifindex, self.area, self._batch)
            ports.append(Port(Ingress(interface.ifindex, interface.mac, interface.mtu), ring, slow, reply))
        self._ports = ports
        compiled = self._compile(self.tables)
        self._books = Totals(), compiled
        """What tables that are no longer followed have counted, and the tables that are. Replaced together, so that
        a reader never misses or doubles anything."""

        for port in ports:
            port.ring.bind()
            port.slow.bind()
            if self._shares:
                self._share(port)
        self.worker = Worker(self.area, ports, Work(compiled), self._batch, few, events, self._idents)

    def _share(self, port: Port) -> None:
        name = port.ring.interface.name
        given = self.groups.get(name, (None, None))
        try:
            ring, slow = (tap.share(group) for tap, group in zip((port.ring, port.slow), given, strict=True))
        except OSError:
            if given == (None, None):
                raise
            # Nobody whom we could share it with is at this interface any more: it is another one of its name.
            ring, slow = (tap.share(None) for tap in (port.ring, port.slow))
        self.groups[name] = ring, slow

    def choose(self, member: int) -> None:
        """Have all that arrives come to one of those that share it; returns when nothing is on its way to another."""
        if self._shares:
            for tap in (*(port.ring for port in self._ports), *(port.slow for port in self._ports)):
                tap.choose(member)

    def begin(self) -> None:
        """Forward what arrives."""
        self.worker.start()

    def follow(self, tables: ForwardingTables) -> None:
        """Have everything follow these tables before `begin`; frames for their VIPs may come from now on.

        Raises:
            DataPlaneError: they cannot be followed.
        """
        work = self.prepare(tables)
        self.worker.wanted = self.worker.passed = work
        self._books, self.tables = (Totals(), work.tables), tables
        self.admit(tables)

    def prepare(self, tables: ForwardingTables) -> Work:
        """Build all that the thread needs for these tables; nothing that it uses now is touched.

        Raises:
            DataPlaneError: the tables cannot be followed.
        """
        try:
            compiled = self._compile(tables)
        except ValueError as error:
            raise DataPlaneError(f"the forwarding tables cannot be used: {error}") from error
        egress = {
            ifindex: self._sender(name, ifindex, compiled.mtu_of(ifindex))
            for ifindex, name in compiled.interfaces.items()
        }
        return Work(compiled, egress)

    def _compile(self, tables: ForwardingTables) -> Compiled:
        ports = [port.ingress for port in self._ports]
        return Compiled(tables, ports, self._pins, self._turns, self._fragments, self._meters, self._logged)

    def _sender(self, name: str, ifindex: int, mtu: int) -> Sender:
        sender = self._egress.get(ifindex)
        if not isinstance(sender, Egress):
            try:
                sender = Egress(name, ifindex, self.area, self._batch)
            except OSError as error:
                log.warning("plane.tx_unavailable", interface=name, reason=str(error))
                return self._egress.setdefault(ifindex, NoEgress(name, ifindex, self.area))
            if ifindex in self._egress:
                sender.failed = self._egress[ifindex].failed
            self._egress[ifindex] = sender
        now = time.monotonic()
        sender.small_frames = mtu + 14 <= MAX_FRAME
        if not sender.small_frames:
            log.info("plane.tx_fallback", interface=name, transmit="sendmmsg", reason=f"MTU {mtu} is too large")
        elif self._use_xsk and sender.xsk is None and now >= self._try_xsk_at.get(ifindex, now):
            self._try_xsk_at[ifindex] = now + RETRY_XSK_S
            sender.xsk = self._open_xsk(name, ifindex)
        return sender

    def _open_xsk(self, name: str, ifindex: int) -> XskSender | None:
        living = [egress.xsk for egress in self._egress.values() if isinstance(egress, Egress) and egress.xsk]
        error: OSError | None = None
        # A socket whose interface is gone cannot share its UMEM any more; without any to share with, register it anew.
        for share in [*living[:1], None] if living else [None]:
            try:
                return XskSender(name, ifindex, self.area, next(self._numbers), self._batch, share)
            except OSError as refused:
                error = refused
        if error is not None:
            log.warning("plane.tx_fallback", interface=name, transmit="sendmmsg", reason=reason_of(error))
        return None

    def use(self, work: Work) -> None:
        """Hand the thread new tables, and wait until it has passed a round with them.

        Raises:
            DataPlaneError: the thread does not.
        """
        before = self.worker.wanted
        self.worker.use(work)
        deadline = time.monotonic() + PASS_S
        while self.worker.passed is not work:
            if not self.worker.alive or time.monotonic() > deadline:
                self.worker.use(before)
                raise DataPlaneError(self.fault() or f"the forwarding thread did not take new tables within {PASS_S} s")
            time.sleep(0.0005)
        retired, old = self._books
        retired = Totals(retired.counters(), traffic_of(old))  # final: the thread has left these tables
        retired.settle()
        self._books = retired, work.tables
        self.tables = work.tables.tables

    def admit(self, tables: ForwardingTables) -> None:
        """Take frames for the VIPs of these tables, and for no other."""
        exact = True
        for port in self._ports:
            exact &= port.ring.admit(tables)
            exact &= port.slow.admit(tables)
        if exact is False and self._exact:
            log.warning("plane.filter_coarse", vips=len(tables.vips), hint="too many VIPs for a socket filter")
        self._exact = exact

    def look_away(self) -> None:
        """Take no frames any more, and wait until those that have come were forwarded."""
        for port in self._ports:
            port.ring.refuse()
            port.slow.refuse()
        deadline, beats = time.monotonic() + AWAY_S, self.worker.beats
        while time.monotonic() < deadline and self.worker.alive:
            if self.worker.beats > beats + 2 and not self.worker.waiting() and not self._in_flight():
                break
            self.worker.wake()
            time.sleep(0.0005)

    def _in_flight(self) -> bool:
        return any(sender.busy for sender in list(self._egress.values()))

    def fault(self) -> str | None:
        """What is wrong with thread or interfaces, if anything."""
        if self.worker.error is not None:
            return f"the forwarding thread has died: {self.worker.error!r}"
        for was in self._interfaces:
            now = kernel.read_interface(was.name)
            if now is None:
                return f"interface {was.name} is gone"
            if now.ifindex != was.ifindex:
                return f"interface {was.name} is not the one it was (ifindex {now.ifindex}, not {was.ifindex})"
            if (now.mtu, now.mac) != (was.mtu, was.mac):
                return f"interface {was.name} has another MTU or MAC address than before"
        lost = self.lost()
        # Those that are left go on. Members behind a lost one are unreachable, and sessions by it end; to withdraw all
        # VIPs would be too much: when a switch ends, every director loses an interface.
        return "; ".join(lost.values()) if len(lost) == len(self._interfaces) else None

    def lost(self) -> dict[str, str]:
        """Interfaces by which nothing comes, and why."""
        found = {}
        for was in self._interfaces:
            now = kernel.read_interface(was.name)
            if now is None:
                found[was.name] = f"interface {was.name} is gone"
            elif not now.up:
                found[was.name] = f"interface {was.name} is down; try: ip link set {was.name} up"
            elif not now.carrier:
                found[was.name] = f"interface {was.name} has no carrier"
        return found

    def beyond_repair(self) -> bool:
        """Whether it takes a new session to forward again: not when an interface is merely down."""
        if self.worker.error is not None:
            return True
        for was in self._interfaces:
            now = kernel.read_interface(was.name)
            if now is None or (now.ifindex, now.mtu, now.mac) != (was.ifindex, was.mtu, was.mac):
                return True
        return False

    def add_to(self, totals: Totals) -> None:
        """Add all that this session has counted."""
        worker = self.worker
        retired, compiled = self._books
        totals.add(retired.counters())
        totals.add(traffic_of(compiled))
        for reason, number in [*list(worker.reasons.items()), *list(worker.vector.reasons.items())]:
            totals.reasons[str(reason)] += number
        failed = sum(sender.failed for sender in self._egress.values())
        if failed:
            totals.reasons[str(Reason.TX_FAILED)] += failed
        totals.replies.update(dict(worker.replies))  # a copy in one step: the thread goes on counting
        totals.told_too_big.update(dict(worker.told_too_big))
        for port in self._ports:
            for tap in (port.ring, port.slow):
                if tap.socket.fileno() >= 0:
                    tap.read_losses()
        totals.details.update(
            {
                "ring_overflows": sum(port.ring.lost for port in self._ports),
                "slow_path_overflows": sum(port.slow.lost for port in self._ports),
                "slow_path_frames": worker.odd,
                "fragments_held": worker.held,
                "fragments_held_in_vain": worker.held_in_vain,
                "completed_checksums": worker.completed,
                "batches": worker.batches,
                "single_frames": worker.few_frames,
                "fragmented_packets": worker.split,
                **{f"relayed_{kind}": number for kind, number in list(worker.relayed.items())},
            }
        )

    def describe(self) -> dict[str, str]:
        """Facts for people."""
        facts = {
            "ring": f"{self.area.slots} slots of {self.area.stride} bytes for each interface",
            "filter": "exact" if self._exact else "coarse: more VIPs than fit into a socket filter",
        }
        for sender in list(self._egress.values()):
            facts[f"transmit_{sender.name}"] = sender.kind
        if self.worker.reasons[Reason.OVERSIZED_FRAME]:
            facts["super_frames"] = SUPER_FRAMES
        return facts

    def hint(self) -> None:
        """Say once what an operator should do about frames that are larger than the link."""
        if not self._hinted and self.worker.reasons[Reason.OVERSIZED_FRAME]:
            self._hinted = True
            log.warning("plane.super_frames", interfaces=[one.name for one in self._interfaces], hint=SUPER_FRAMES)

    def explain(self, frame: bytes, interface: str) -> Action:
        number = next((n for n, port in enumerate(self._ports) if port.ring.interface.name == interface), None)
        if number is None:
            names = ", ".join(port.ring.interface.name for port in self._ports)
            raise DataPlaneError(f"interface {interface} is not one that this director listens on ({names})")
        return explain(self._books[1], self._ports[number].ingress, number, frame)

    def _close_egress(self) -> None:
        for sender in self._egress.values():
            sender.close()

    def keep_offloads(self) -> None:
        """Leave them off in the end: somebody else goes on."""
        self.offloads = {}

    def _restore_offloads(self) -> None:
        for name, features in self.offloads.items():
            offloads.restore(name, features)

    def close(self) -> None:
        if self.worker.stop():
            for port in self._ports:
                port.ring.read_losses()
                port.slow.read_losses()
            self._release()
        else:
            # Memory under a running thread must not be unmapped: better a leak than a crash.
            log.error("plane.thread_stuck", hint="the forwarding thread does not end; its sockets stay open")

    def _release(self) -> None:
        while self._undo:
            self._undo.pop()()


def traffic_of(compiled: Compiled) -> Counters:
    """What was counted by these tables."""
    traffic = compiled.traffic.now()
    services = compiled.tables.services
    return Counters(
        services=added_up(((one.name, str(one.vip)), traffic.service(one.index)) for one in services),
        members=Later(lambda: ((member.id, traffic.way(way)) for way, member in enumerate(compiled.members))),
    )


def explain(compiled: Compiled, ingress: Ingress, number: int, frame: bytes) -> Action:
    """What the plane does with a frame: the socket filters as the kernel runs them, then the passes or the reference.

    Args:
        compiled: tables; nothing is counted in them, nothing remembered of the flow, and nobody's turn taken.
        ingress: where the frame arrives.
        number: of that interface among those that *compiled* was made for.
        frame: with its Ethernet header.
    """
    action = compiled.path.forward(frame, ingress, look_only=True)
    tables = compiled.tables
    plain, _ = bpf.classifier(sorted(tables.vips_v4), sorted(tables.vips_v6), ingress.mtu, bpf.Class.PLAIN)
    if frame[:6] != ingress.mac or not bpf.run(plain, frame):
        return action
    columns = Columns(np.zeros((1, stride_for(ingress.mtu)), np.uint8))
    columns.frames[0, ETHERNET : ETHERNET + len(frame)] = np.frombuffer(frame, np.uint8)
    columns.captured[0] = len(frame)
    path = VectorPath(columns)
    outcome = path.forward(slice(0, 1), number, _uncounted(compiled), look_only=True)
    if outcome.answer:
        return action
    if outcome.sends:
        send = outcome.sends[0]
        sent = columns.frames[0, send.start : send.start + int(send.lengths[0])].tobytes()
        return dataclasses.replace(action, verdict=Verdict.TRANSMIT, reason=None, frame=sent, ifindex=send.ifindex)
    reason = next(iter(path.reasons), Reason.NOT_VIP)
    verdict = Verdict.PASS if reason is Reason.NOT_VIP else Verdict.DROP
    return dataclasses.replace(action, verdict=verdict, reason=reason, frame=b"", ifindex=0)


def pin_details(pins: PinTable) -> dict[str, int]:
    """What a table has counted of flows: those that got a place, and live ones that had to give theirs up, by state."""
    evicted = {f"pins_evicted_{state.name.lower()}": number for state, number in pins.evicted.items()}
    return {"pins_made": pins.made, "pins_told": pins.told, **evicted}


def _uncounted(compiled: Compiled) -> Compiled:
    """The same tables with counters of their own."""
    other = copy.copy(compiled)
    other.traffic = TrafficColumns(len(compiled.tables.services), len(compiled.members))
    return other


def _require(name: str) -> kernel.Interface:
    interface = kernel.read_interface(name)
    if interface is None:
        there = ", ".join(sorted(other for _, other in socket.if_nameindex()))
        raise DataPlaneError(f"there is no interface {name} (director.interfaces); there are: {there}")
    if not interface.up:
        raise DataPlaneError(f"interface {name} is down; try: ip link set {name} up")
    return interface


def _raise_memlock_limit() -> None:
    """The UMEM counts as locked memory for whoever lacks CAP_IPC_LOCK."""
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))


def _explain_os_error(error: OSError, interfaces: tuple[str, ...]) -> str:
    names = ", ".join(interfaces)
    if error.errno in (errno.EPERM, errno.EACCES):
        return f"not permitted to listen on {names}: the raw data plane needs CAP_NET_RAW and CAP_NET_ADMIN"
    if error.errno == errno.ENOMEM:
        return f"not enough memory for the packet rings of {names}; use fewer slots"
    return f"cannot listen on {names}: {error}"
