"""The XDP data plane: a program in front of the raw data plane.

The program decides what is plain: TCP and UDP packets for VIPs, which it sends to members or drops. What takes a closer
look it passes on like a packet that is none of its business, and there stands a complete raw data plane: its tap sees
the packet, its guard keeps the kernel from it. So behaviour is the same with the program and without it, and while a
program is missing (an interface came back, something took it off) nothing is lost but speed.
"""

import asyncio
import errno
import logging
import random
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address
from pathlib import Path

import structlog

from appliance.bpf.libbpf import BpfError, Link, Map, RingBuffer, possible_cpus
from appliance.bpf.rcu import wait_for_readers
from appliance.dataplane.base import Counters, DataPlaneError, MapFacts
from appliance.dataplane.events import EventLog, PacketEvent, describe_frame
from appliance.dataplane.logged import LoggedFlows
from appliance.dataplane.pins import DEFAULT_PINS, PINS_FORM, PinTable, sets_for
from appliance.dataplane.raw import kernel
from appliance.dataplane.raw.plane import RawDataPlane
from appliance.dataplane.recording import Captured, Recording, Sent
from appliance.dataplane.second import SecondOpinion, differences
from appliance.dataplane.totals import Totals
from appliance.dataplane.xdp import layout
from appliance.dataplane.xdp.attach import (
    Attachment,
    Mode,
    adopt,
    attach_to,
    egress_of,
    open_for_frames,
    why_not_native,
)
from appliance.dataplane.xdp.directory import build
from appliance.dataplane.xdp.program import LONGEST_TEST_FRAME, Program, Watcher
from appliance.dataplane.xdp.tables import (
    PIN_MAPS,
    Capacity,
    Egress,
    Names,
    NoRoomError,
    Outcome,
    needs_of,
    pin_shapes,
)
from appliance.forwarding import ForwardingTables, NextHop, TableMember, TableService
from appliance.inheritance import Inheritance
from appliance.model import Protocol
from appliance.packet.action import Action, Reason, Verdict
from appliance.packet.checksum import checksum
from appliance.packet.forward import Ingress

log = structlog.get_logger()

RETRY_S = 5.0
"""An interface without its program gets it again after so long, if that is possible."""

LOOK_EVERY_S = 1.0
"""How often it is looked whether interfaces still can what they could."""

PROOFS = 4
"""Virtual services that are tried out whenever new tables are in force."""

_LINK, _EXIT, _ALL_PINS = "link.", "exit.", "pins"
_PINS = f"{_ALL_PINS}{PINS_FORM}."
"""What the names of what we leave to the next process begin with: an interface, its number, a map follow."""

_TRANSMIT = "transmit"
_CLIENT4, _CLIENT6 = IPv4Address("192.0.2.1").packed, bytes.fromhex("20010db8" + "00" * 11 + "01")


class XdpDataPlane:
    """Forwards packets for VIPs that arrive on some interfaces, by an XDP program where it can.

    Needs Linux 5.15, libbpf, CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON beside what the raw data plane needs.
    """

    def __init__(
        self,
        interfaces: tuple[str, ...],
        *,
        mode: Mode = Mode.AUTO,
        links: Mapping[str, int] | None = None,
        slow_path: RawDataPlane | None = None,
        pins: int = DEFAULT_PINS,
        slot_tables: int = 0,
        inheritance: Inheritance | None = None,
    ) -> None:
        """
        Args:
            interfaces: names of those that packets for VIPs arrive on.
            mode: where the program is to run.
            links: file descriptors of links that an earlier process has left attached, by interface. Their program goes
                on by its own tables until the first `set`, and not one packet goes between.
            slow_path: the plane behind the program; by default one on the same interfaces.
            pins: flows to remember at once, at most; for the slow path that is made here. With another one, as many as
                that one has room for.
            slot_tables: how many to have room for from the beginning, in whatever transition; with more of them, larger
                maps are loaded when they are needed.
            inheritance: where to leave programs and pins to the next process. What an earlier one has left there is
                taken over as *links* are, and with it the flows that are remembered.
        """
        self._interfaces = interfaces
        self._inheritance = inheritance or Inheritance({}, 0, Path())
        self._capacity = Capacity.planned(slot_tables)
        self._mode = mode
        self._left = {name: Link(fd) for name, fd in {**self._left_links(_LINK), **(links or {})}.items()}
        self._slow = slow_path or RawDataPlane(interfaces, slots=1024, pins=pins, inheritance=inheritance)
        self._lock = threading.RLock()
        self._program: Program | None = None
        self._spare: Program | None = None
        """Another program with larger maps that was staged and is not attached yet."""

        self._attached: dict[str, Attachment] = {}
        self._inherited: set[str] = set()
        """Interfaces whose program is still that of an earlier process."""

        self._why_not: dict[str, str] = {}
        """Why an interface has no program."""

        self._retry_at = 0.0
        self._look_at = 0.0
        self._egress: dict[tuple[int, str], Egress] = {}
        """How the program sends by each interface, by number and name."""
        self._opened: dict[int, Link] = {}
        """The program on interfaces that frames only leave by."""
        self._left_exits = {name: Link(fd) for name, fd in self._left_links(_EXIT).items()}
        """The same, of an earlier process."""
        self._programmed: ForwardingTables | None = None
        """The tables last set; None when they are not certain to be in force."""
        self._reference = SecondOpinion(ForwardingTables())
        """What they mean."""
        self._past = Totals()
        self._proof = random.Random(0)  # noqa: S311 - which flows are tried out, not secrets
        self.events = EventLog()
        self._names: dict[int, str] = {}
        self._ring: RingBuffer | None = None
        self._heard: Program | None = None
        """Whose samples these are."""
        self._recording: Recording | None = None
        self._watcher: Watcher | None = None
        """Who tells of frames, for whoever captures."""
        self._lost_before = 0

    @property
    def pins(self) -> PinTable:
        """What is remembered of flows, by the program and by the slow path."""
        return self._slow.pins

    @property
    def logged(self) -> LoggedFlows:
        """Flows of the connection log, of the program and of the slow path."""
        return self._slow.logged

    async def start(self) -> None:
        """Take over the interfaces.

        Raises:
            DataPlaneError: as the contract says; the text names what is missing.
        """
        await asyncio.to_thread(self._load)
        try:
            await self._slow.start()
            await asyncio.to_thread(self._start)
        except BaseException:
            await asyncio.to_thread(self._close)
            await self._slow.close()
            raise
        self._listen()

    async def set(self, tables: ForwardingTables) -> None:
        """Make these the tables in force.

        New VIPs: the slow path first, whose guard keeps the kernel from them. Otherwise the program first, since most
        packets go through it. What no packet depends on comes after both: to wait for those that are under way by the
        tables before, which takes longer than all the rest, and the proof.

        Raises:
            DataPlaneError: as the contract says; but when it is the slow path that refuses in the end, the program
                follows the new tables already.
        """
        before = self._tables().vips
        staged = await asyncio.to_thread(self._stage, tables)
        if not tables.vips <= before:
            await self._slow.set(tables)
        if staged:
            await asyncio.to_thread(self._publish, tables)
            self._listen()
        await self._slow.set(tables)
        if staged:
            await asyncio.to_thread(self._settle)

    async def check(self) -> None:
        """Prove that packets are being forwarded by the tables last set.

        Raises:
            DataPlaneError: as the contract says. An interface without its program is none, since the slow path has its
                packets; that is logged, shown and mended.
        """
        await self._slow.check()
        await asyncio.to_thread(self._check)

    async def counters(self) -> Counters:
        """Read the counters now."""
        return await asyncio.to_thread(self._count, await self._slow.counters())

    async def explain(self, frame: bytes, interface: str) -> Action:
        """What happens to a frame on *interface*: by the program in the kernel, and by the slow path where that has it.

        Raises:
            DataPlaneError: the plane is not started, or does not serve that interface.
        """
        attachment = self._attached.get(interface)
        if attachment is not None and 14 <= len(frame) <= LONGEST_TEST_FRAME:
            action = await asyncio.to_thread(self._try_out, frame, attachment.interface)
            if action is not None:
                return action
        return await self._slow.explain(frame, interface)

    async def samples(self) -> Sequence[PacketEvent]:
        """The latest samples of the program and of the slow path, the newest last. Never complete."""
        return sorted([*self.events.latest(), *await self._slow.samples()], key=lambda event: event.at)

    async def record(self, recording: Recording | None) -> None:
        """Begin or end a capture: another program takes the place of the usual one, which has nothing to do with
        captures; no packet goes between. What the slow path does is recorded as well.

        Raises:
            DataPlaneError: the plane is not started, or the kernel does not take that program.
        """
        await asyncio.to_thread(self._record, recording)
        await self._slow.record(recording)

    async def describe(self) -> Mapping[str, str]:
        """Facts for people."""
        facts = await asyncio.to_thread(self._describe)
        slow = await self._slow.describe()
        return facts | {f"slow_path_{key}": value for key, value in slow.items() if key != "interfaces"}

    async def maps(self) -> Sequence[MapFacts]:
        """See `DataPlane.maps`."""
        return await asyncio.to_thread(self._maps)

    async def stay(self) -> None:
        """See `DataPlane.stay`: the program does."""

    def keeper(self) -> int:
        """See `DataPlane.keeper`: none."""
        return 0

    def survivors(self) -> frozenset[int]:
        """See `DataPlane.survivors`: the program goes on wherever the next process can find it."""
        attached = dict(self._attached)
        if any(self._inheritance.get(f"{_LINK}{name}") is None or name not in attached for name in self._interfaces):
            return frozenset()
        if self._programmed is None and self._inherited != set(attached):
            return frozenset()
        return frozenset(attachment.interface.ifindex for attachment in attached.values())

    def links(self) -> Mapping[str, int]:
        """File descriptors of the links, by interface: whoever holds a copy keeps the program attached when this
        process ends, and the next one may adopt them."""
        return {name: attachment.link.fileno() for name, attachment in self._attached.items()}

    async def close(self, *, leave: bool = False) -> None:
        """Stop forwarding and leave nothing behind.

        Args:
            leave: but the program where it is attached, for the process that follows.
        """
        leave = leave and bool(self.survivors())
        self._deafen()
        await asyncio.to_thread(self._close, leave)
        await self._slow.close(leave=leave)

    # In worker threads: the lock may be held for as long as it takes to write large tables

    def _count(self, slow: Counters) -> Counters:
        with self._lock:
            totals = Totals(slow, self._past.counters())
            if self._program is not None:
                totals.add(_counters(self._program))
        totals.details["samples"] = self.events.seen
        return totals.counters()

    def _describe(self) -> dict[str, str]:
        facts = {"kind": "xdp", "interfaces": ", ".join(self._interfaces)}
        with self._lock:
            for name in self._interfaces:
                attachment = self._attached.get(name)
                if attachment is None:
                    facts[f"mode_{name}"] = "none"
                    facts[f"why_{name}"] = self._why_not.get(name, "not started")
                else:
                    facts[f"mode_{name}"] = str(attachment.mode)
                    if attachment.why_generic:
                        facts[f"why_{name}"] = attachment.why_generic
            for (_, name), egress in sorted(self._egress.items()):
                if egress.slow:
                    facts[f"egress_{name}"] = f"slow path: {egress.slow}"
            if self._program is not None:
                facts["program"] = self._program.name
                facts["map_memory_mib"] = f"{self._program.memory() / (1 << 20):.1f}"
            return facts

    def _maps(self) -> Sequence[MapFacts]:
        with self._lock:
            return self._program.maps() if self._program is not None else ()

    def _tables(self) -> ForwardingTables:
        return self._program.tables.tables if self._program is not None else ForwardingTables()

    def _load(self) -> None:
        """Load the program, and let the slow path remember flows where it does."""
        with self._lock:
            if self._program is not None:
                return
            try:
                self._program = Program(self._capacity, pins=self._slow.pins.capacity, pin_maps=self._left_pins())
            except BpfError as error:
                raise DataPlaneError(_explain(error)) from error
            for name, known in self._program.pin_maps().items():
                if name in PIN_MAPS and self._inheritance.get(f"{_PINS}{name}") is None:
                    self._inheritance.put(f"{_PINS}{name}", known.fd)
            self._slow.pins = self._program.pin_table()
            self._slow.pins.silent = bool(self._left)
            self._slow.meters = self._program.meters
            self._slow.logged = self._program.logged_flows()
            self._slow.idents = self._program.tables.idents()

    def _start(self) -> None:
        with self._lock:
            program = self._program
            if program is None or self._attached:
                return
            for name in self._interfaces:
                self._cover(name)
            for name in list(self._left):  # of interfaces that are no business of ours any more
                self._let_go(f"{_LINK}{name}", self._left.pop(name))
            log.info(
                "plane.started",
                kind="xdp",
                interfaces=self._interfaces,
                program=program.name,
                modes={name: str(attachment.mode) for name, attachment in self._attached.items()},
            )

    def _cover(self, name: str) -> None:
        """Attach the program to an interface, or adopt what is attached there.

        Raises:
            DataPlaneError: it cannot be.
        """
        program = self._program
        interface = kernel.read_interface(name)
        if program is None or interface is None:
            raise DataPlaneError(f"there is no interface {name}")
        left = self._left.pop(name, None)
        attachment = adopt(interface, left, self._mode) if left is not None else None
        if left is not None and attachment is None:
            self._inheritance.drop(f"{_LINK}{name}")
        if attachment is not None:
            self._inherited.add(name)
            log.info("plane.xdp_adopted", interface=name, mode=str(attachment.mode))
        else:
            self._set_port(program, interface, layout.PORT_NO_TRANSMIT | layout.PORT_PARTIAL)  # right for any mode
            attachment = attach_to(interface, program.fd, self._mode)
            if attachment.why_generic:
                log.warning("plane.xdp_generic", interface=name, reason=attachment.why_generic)
        self._attached[name] = attachment
        self._inheritance.put(f"{_LINK}{name}", attachment.link.fileno())
        self._why_not.pop(name, None)
        self._set_port(program, interface, attachment.port_flags)

    def _left_links(self, prefix: str) -> dict[str, int]:
        left = {name: self._inheritance.get(name) for name in self._inheritance.names(prefix)}
        return {name.removeprefix(prefix): fd for name, fd in left.items() if fd is not None}

    def _left_pins(self) -> dict[str, Map] | None:
        """The maps in which an earlier process has remembered flows, if they are of the form that ours have."""
        names = self._inheritance.names(_ALL_PINS)
        if not names:
            return None
        try:
            maps = {name: Map(name, fd) for name, fd in self._left_links(_PINS).items()}
            shapes = {name: (m.key_size, m.value_size, m.max_entries) for name, m in maps.items()}
        except BpfError as error:
            shapes, why = {}, str(error)
        else:
            why = "they are of another form, or for another number of flows"
        if shapes == pin_shapes(sets_for(self._slow.pins.capacity), possible_cpus()):
            return maps
        log.warning("plane.pins_not_adopted", reason=why)
        self._inheritance.forget(*names)
        return None

    def _let_go(self, name: str, link: Link) -> None:
        link.close()
        self._inheritance.drop(name)

    def _set_port(self, program: Program, interface: kernel.Interface, flags: int) -> None:
        self._names[interface.ifindex] = interface.name
        try:
            program.tables.set_port(interface.ifindex, interface.mac, interface.mtu, flags)
        except ValueError as error:
            raise DataPlaneError(str(error)) from error

    def _uncover(self, name: str, reason: str) -> None:
        attachment = self._attached.pop(name, None)
        if attachment is not None:
            self._let_go(f"{_LINK}{name}", attachment.link)
            if self._program is not None:
                self._program.tables.forget_port(attachment.interface.ifindex)
            log.warning("plane.xdp_lost", interface=name, reason=reason, hint="its packets take the slow path")
        self._inherited.discard(name)
        self._why_not[name] = reason
        # An interface that is gone is taken as soon as it is back.
        self._retry_at = time.monotonic() + (RETRY_S if kernel.read_interface(name) is not None else 0.0)

    def _check(self) -> None:
        """Look after interfaces, and prove one packet. While tables are being written that has to wait: whoever does so
        proves them, and what is in force stays so meanwhile."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            if self._in_doubt():
                self._look_after()
            self._prove(1)
        finally:
            self._lock.release()

    def _in_doubt(self) -> bool:
        now = time.monotonic()
        if any(not attachment.alive() for attachment in self._attached.values()):
            return True
        return now >= self._look_at or (bool(self._why_not) and now >= self._retry_at)

    def _look_after(self) -> None:
        """Attach what can be, follow what has changed of the interfaces, and send by other ways where it must be."""
        with self._lock:
            program = self._program
            if program is None:
                return
            self._look_at = time.monotonic() + LOOK_EVERY_S
            for name in self._interfaces:
                self._look_after_one(program, name)
            self._follow_egress()

    def _follow_egress(self) -> None:
        """Look anew at how next hops can be sent to; when that is another way than before, write tables that say so."""
        program, before = self._program, self._egress
        if program is None:
            return
        program.tables.renew_egress()
        self._egress = {}
        tables = program.tables.tables
        for hop in {(m.next_hop.ifindex, m.next_hop.interface): m.next_hop for m in tables.members.values()}.values():
            self._egress_of(hop)
        for ifindex in self._opened.keys() - {egress.ifindex for egress in self._egress.values()}:
            self._let_go(f"{_EXIT}{ifindex}", self._opened.pop(ifindex))
        if self._programmed is None or all(egress == before.get(key) for key, egress in self._egress.items()):
            return
        for key, egress in self._egress.items():
            if egress.slow and egress != before.get(key):
                log.warning("plane.xdp_egress_slow", interface=key[1], reason=egress.slow)
        program.tables.stage(tables, self._member_egress)
        program.tables.publish()

    def _look_after_one(self, program: Program, name: str) -> None:
        attachment, interface = self._attached.get(name), kernel.read_interface(name)
        if attachment is not None:
            if interface is None or interface.ifindex != attachment.interface.ifindex:
                self._uncover(name, f"interface {name} is gone")
            elif not attachment.alive():
                self._uncover(name, "something has detached the XDP program")
            elif (interface.mac, interface.mtu) != (attachment.interface.mac, attachment.interface.mtu):
                attachment.interface = interface
                self._set_port(program, interface, attachment.port_flags)
                log.info("plane.xdp_interface_changed", interface=name, mtu=interface.mtu)
            else:
                self._change_mode(name, attachment)
        if name not in self._attached and interface is not None and time.monotonic() >= self._retry_at:
            try:
                self._cover(name)
                log.info("plane.xdp_attached", interface=name, mode=str(self._attached[name].mode))
            except DataPlaneError as error:
                self._why_not[name] = str(error)
                self._retry_at = time.monotonic() + RETRY_S

    def _change_mode(self, name: str, attachment: Attachment) -> None:
        """Go native when that has become possible, and generic when it is no longer, or as it is wanted. The slow path
        bridges the gap."""
        if name in self._inherited:
            return
        if self._mode is Mode.AUTO:
            native = not why_not_native(attachment.interface)
            change = not native if attachment.mode is Mode.NATIVE else native and attachment.may_change
        else:
            native = self._mode is Mode.NATIVE
            change = attachment.mode is not self._mode  # an earlier process was told otherwise
        if change:
            if native:
                # What native XDP cannot send has to be known before it runs.
                attachment.mode = Mode.NATIVE
                self._follow_egress()
            self._let_go(f"{_LINK}{name}", attachment.link)
            self._attached.pop(name)
            self._retry_at = 0.0

    def _member_egress(self, member: TableMember) -> Egress:
        return self._egress_of(member.next_hop)

    def _egress_of(self, hop: NextHop) -> Egress:
        key = hop.ifindex, hop.interface
        if key not in self._egress:
            native = self._native()
            egress = egress_of(hop, native)
            if egress.slow and egress.ifindex not in {*native, *self._opened} and self._program is not None:
                link = self._exit_by(egress.ifindex, self._program)
                if link is not None:
                    self._opened[egress.ifindex] = link
                    self._inheritance.put(f"{_EXIT}{egress.ifindex}", link.fileno())
                    egress = egress_of(hop, native)
                    log.info("plane.xdp_egress_opened", interface=hop.interface)
            self._egress[key] = egress
        return self._egress[key]

    def _exit_by(self, ifindex: int, program: Program) -> Link | None:
        """The program where frames only leave; that of an earlier process, if it is there."""
        left = self._left_exits.pop(str(ifindex), None)
        if left is not None:
            try:
                left.update(program.fd)
            except BpfError:
                self._let_go(f"{_EXIT}{ifindex}", left)
            else:
                return left
        return open_for_frames(ifindex, program.fd)

    def _native(self) -> frozenset[int]:
        """Interfaces where the program runs in the driver, or may do so at any time since it is not there just now."""
        native = set()
        for name in self._interfaces:
            attachment = self._attached.get(name)
            if attachment is not None and attachment.mode is Mode.NATIVE:
                native.add(attachment.interface.ifindex)
            elif attachment is None and self._mode is not Mode.GENERIC:
                interface = kernel.read_interface(name)
                native |= {interface.ifindex} if interface is not None else set()
        return frozenset(native)

    def _stage(self, tables: ForwardingTables) -> bool:
        """Write new tables beside those in force. False when they are in force already."""
        with self._lock:
            program = self._program
            if program is None:
                raise DataPlaneError("the data plane was not started")
            if self._in_doubt():
                self._look_after()
            else:
                for name in self._interfaces:
                    self._look_after_one(program, name)
                program.tables.renew_egress()
            if self._programmed is not None and self._programmed.same(tables) and not self._inherited:
                return False
            try:
                self._drop_spare()
                try:
                    program.tables.stage(tables, self._member_egress, same_egress=True)
                except NoRoomError as reason:
                    needs = needs_of(tables, build(tables.services, tables.secret))
                    self._spare = Program(
                        program.tables.capacity.holding(needs), pin_maps=program.pin_maps(), meters=program.meters
                    )
                    log.info("plane.xdp_larger_maps", reason=str(reason))
                    self._spare.tables.stage(tables, self._member_egress)
                    for attachment in self._attached.values():
                        self._set_port(self._spare, attachment.interface, attachment.port_flags)
            except (BpfError, ValueError, NoRoomError) as error:
                self._drop_spare()
                raise DataPlaneError(f"the XDP program cannot follow the new tables: {error}") from error
            return True

    def _publish(self, tables: ForwardingTables) -> None:
        with self._lock:
            program, started = self._program, time.monotonic()
            if program is None:
                raise DataPlaneError("the data plane was not started")
            fresh = self._spare or program
            if fresh is self._spare:
                self._watch_too(fresh)
            if fresh.tables.staged is not tables:
                # An interface has changed meanwhile, and what was in force had to be written anew.
                fresh.tables.stage(tables, self._member_egress)
            fresh.tables.publish()
            self.pins.silent = False
            before, self._programmed = self._programmed, tables
            self._reference = SecondOpinion(tables, self.pins)
            replaced = list(self._attached) if fresh is self._spare else list(self._inherited)
            for name in replaced:
                self._attach_again(name, fresh)
                self._inherited.discard(name)
            for number in list(self._left_exits):  # nobody leaves by these any more
                self._let_go(f"{_EXIT}{number}", self._left_exits.pop(number))
            if fresh is self._spare:
                for ifindex, link in list(self._opened.items()):
                    try:
                        link.update(fresh.fd)
                    except BpfError:
                        self._let_go(f"{_EXIT}{ifindex}", self._opened.pop(ifindex))  # the interface is gone
                self._program, self._spare = fresh, None
                self._tell_of(fresh.watcher)
                wait_for_readers()  # those that were counting with the old one
                self._past.add(_counters(program))
                self._past.settle()
                program.close()
            level = logging.DEBUG if before is not None and before.same_but_choices(tables) else logging.INFO
            log.log(
                level,
                "plane.programmed",
                kind="xdp",
                services=len(tables.services),
                members=len(tables.members),
                vips=len(tables.vips),
                ms=round((time.monotonic() - started) * 1000, 1),
            )

    def _settle(self) -> None:
        """Free what only the tables before have used, and prove those in force."""
        with self._lock:
            if self._program is not None:
                self._program.tables.settle()
                self._prove(PROOFS)

    def _drop_spare(self) -> None:
        if self._spare is not None:
            self._spare.close()
            self._spare = None

    def _close(self, leave: bool = False) -> None:
        with self._lock:
            self._drop_spare()
            attached = [attachment.link for attachment in self._attached.values()]
            for link in [*attached, *self._left.values(), *self._opened.values(), *self._left_exits.values()]:
                link.close()  # where something is left, the supervisor has a copy
            if not leave:
                self._inheritance.drop(*(name for part in (_LINK, _EXIT) for name in self._inheritance.names(part)))
                self._inheritance.drop(*self._inheritance.names(_ALL_PINS))
            self._attached.clear()
            self._left_exits.clear()
            self._opened.clear()
            self._left.clear()
            self._inherited.clear()
            if self._program is not None:
                self._program.tables.settle()
                self._past.add(_counters(self._program))
                self._past.settle()
                self._program.close()
                self._program = None
                self._programmed = None
                log.info("plane.stopped", kind="xdp")

    # Trying out

    def _try_out(self, frame: bytes, interface: kernel.Interface) -> Action | None:
        """What the program does; None when the slow path is to say."""
        with self._lock:
            if self._program is None:
                return None
            try:
                outcome, out = self._program.run(frame, interface)
            except BpfError:
                return None
            return action_of(outcome, out, self._tables())

    def _prove(self, services: int) -> None:
        """Compare program and reference for a few packets of some services; take the program off when they differ."""
        with self._lock:
            tables = self._tables()
            if self._program is None or self._programmed is None or not tables.services or not self._attached:
                return
            attached = {name: attachment.interface for name, attachment in self._attached.items()}
            # The kernel does not try anything out on one that is down.
            up = (one for name, one in attached.items() if (now := kernel.read_interface(name)) is not None and now.up)
            interface = next(up, None) or next(iter(attached.values()))
            ingress = Ingress(interface.ifindex, interface.mac, interface.mtu)
            for service in self._proof.sample(tables.services, min(services, len(tables.services))):
                frame = _probe(service, interface.mac, self._proof)
                try:
                    outcome, out = self._program.run(frame, interface)
                except BpfError as error:
                    raise DataPlaneError(f"the XDP program cannot be tried out: {error}") from error
                got = action_of(outcome, out, tables)
                expected = self._reference.on(frame, ingress, outcome.member, outcome.by)
                if got is None or not (found := differences(expected, got)):
                    continue
                reason = f"program and reference differ for {service.name} ({service.vip}): {'; '.join(found)}"
                log.error("plane.xdp_disproved", reason=reason)
                for name in list(self._attached):
                    self._uncover(name, reason)
                self._retry_at = float("inf")
                return

    # Captures

    def _record(self, recording: Recording | None) -> None:
        done = False
        while not done:
            program = self._program
            if program is None:
                if recording is None:
                    return
                raise DataPlaneError("the data plane was not started")
            try:
                # Not under the lock: it takes a second, and tables may have to change meanwhile.
                watcher = None if recording is None else program.load_watcher(recording.wanted)
            except BpfError as error:
                raise DataPlaneError(f"captures take a program that the kernel refuses: {error}") from error
            with self._lock:
                done = program is self._program
                if done:
                    self._use(program, watcher, recording)
                elif watcher is not None:
                    watcher.close()

    def _use(self, program: Program, watcher: Watcher | None, recording: Recording | None) -> None:
        self._recording, self._watcher, self._lost_before = recording, watcher, 0
        program.use(watcher)
        for name in list(self._attached):
            if name not in self._inherited:
                self._attach_again(name, program)
        if recording is not None:
            recording.pull = self._pull

    def _watch_too(self, fresh: Program) -> None:
        """Let a program that takes the place of another capture as that one does."""
        if self._recording is None:
            return
        try:
            fresh.use(fresh.load_watcher(self._recording.wanted))
        except BpfError as error:  # tables have to be followed all the same
            log.warning("capture.incomplete", reason=str(error))

    def _attach_again(self, name: str, program: Program) -> None:
        try:
            self._attached[name].link.update(program.fd)
        except BpfError as error:
            self._uncover(name, f"the program cannot be replaced: {error}")

    def _tell_of(self, watcher: Watcher | None) -> None:
        """Whose frames are recorded from now on."""
        if self._watcher is not None:
            self._lost_before += self._watcher.lost
        self._watcher = watcher

    def _pull(self, limit: int) -> int:
        """Hand over what the program has told. In the thread of whoever captures."""
        watcher, recording, program = self._watcher, self._recording, self._program
        if watcher is None or recording is None or program is None:
            return self._lost_before
        records = watcher.take(limit)
        if records:
            names = program.tables.names()
            for raw in records:
                recording.add(captured(raw, program.tables.exit_name, names, self._names))
        return self._lost_before + watcher.lost

    # Samples

    def _listen(self) -> None:
        """Read the samples of the program that is attached now. In the event loop's thread."""
        if self._heard is self._program:
            return
        self._deafen()
        if self._program is not None:
            self._ring = self._program.samples(self._take_sample)
            asyncio.get_running_loop().add_reader(self._ring.fileno(), self._ring.consume)
        self._heard = self._program

    def _deafen(self) -> None:
        if self._ring is not None:
            asyncio.get_running_loop().remove_reader(self._ring.fileno())
            self._ring.close()
        self._ring = self._heard = None

    def _take_sample(self, raw: bytes) -> None:
        ns, number, ifindex, length, captured = layout.EVENT.unpack_from(raw)
        head = raw[layout.EVENT.size : layout.EVENT.size + captured]
        program = self._program
        exit_name = program.tables.exit_name(number) if program is not None else ""
        what, _, reason = exit_name.partition("_")
        source, destination, protocol = describe_frame(head)
        self.events.add(
            PacketEvent(
                at=ns / 1e9,
                what={"transmit": "new_flow", "slow": "slow_path"}.get(what, what),
                reason=reason,
                interface=self._names.get(ifindex, str(ifindex)),
                length=length,
                source=source,
                destination=destination,
                protocol=protocol,
            )
        )


def action_of(outcome: Outcome, out: bytes, tables: ForwardingTables) -> Action | None:
    """The action that a way out of the program is; None for those that lead to the slow path.

    Args:
        outcome: what the program did with a frame.
        out: as it has left it.
        tables: in force.
    """
    service, member, slot = outcome.service, outcome.member, outcome.slot
    if outcome.exit == _TRANSMIT and member is not None:
        ifindex = tables.members[member].next_hop.ifindex
        return Action(
            Verdict.TRANSMIT, frame=out, ifindex=ifindex, service=service, member=member, slot=slot, by=outcome.by
        )
    what, _, reason = outcome.exit.partition("_")
    if what == "pass":
        return Action(Verdict.PASS, Reason(reason))
    if what == "drop":
        chosen = slot if reason == Reason.NO_MEMBER else None
        return Action(Verdict.DROP, Reason(reason), service=service, slot=chosen)
    return None


def captured(
    raw: bytes,
    exit_name: Callable[[int], str],
    names: Names,
    interfaces: Mapping[int, str],
) -> Captured:
    """What a record of the program says.

    Args:
        raw: `struct record`.
        exit_name: of ways out.
        names: what its numbers stand for.
        interfaces: names by number, of those that frames arrive on.
    """
    ns, number, ifindex, entry, way, slot, service, by, length, got, out_length, out_got = layout.CAPTURED.unpack_from(
        raw
    )
    what, _, reason = exit_name(number).partition("_")
    begin = layout.CAPTURED.size
    frame, out = raw[begin : begin + got], raw[begin + got : begin + got + out_got]
    member, egress = names.ways.get(way, ("", "")) if way != layout.NOBODY else ("", "")
    return Captured(
        at_ns=ns,
        interface=interfaces.get(ifindex, str(ifindex)),
        frame=frame,
        length=length,
        verdict=Verdict(what),
        reason=reason,
        sent=(Sent(egress, out, out_length),) if out_length else (),
        service=names.services.get(service, "") if entry else "",
        member=member,
        slot=slot if member or reason == Reason.NO_MEMBER else None,
        by=str(names.by[by]) if member else "",
    )


def _counters(program: Program) -> Counters:
    totals = Totals(program.tables.traffic())
    for name, number in program.tables.exits().items():
        what, _, reason = name.partition("_")
        if what in ("pass", "drop") and reason in set(Reason):
            totals.reasons[reason] += number
        elif name != _TRANSMIT:
            totals.details[f"xdp_{name}"] += number
    totals.details.update(program.tables.pins())
    return totals.counters()


def _probe(service: TableService, mac: bytes, rnd: random.Random) -> bytes:
    """A packet of a new flow to a service."""
    ports = struct.pack("!HH", rnd.randrange(1024, 65536), rnd.choice(service.ports).first)
    if service.protocol is Protocol.TCP:
        segment = ports + struct.pack("!IIBBHHH", rnd.randrange(1 << 32), 0, 0x50, 0x02, 65535, 0, 0)
    else:
        segment = ports + struct.pack("!HH", 8, 0)
    vip = service.vip.packed
    if service.vip.version == 6:
        head = struct.pack("!IHBB", 6 << 28, len(segment), service.protocol, 64) + _CLIENT6 + vip
        return mac + bytes(6) + b"\x86\xdd" + head + segment
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 0, 0x4000, 64, service.protocol, 0) + _CLIENT4 + vip
    return mac + bytes(6) + b"\x08\x00" + head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + segment


def _explain(error: BpfError) -> str:
    if error.errno == errno.EPERM:
        return f"the XDP data plane needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON: {error}"
    # Without CAP_PERFMON the verifier finds fault with what it otherwise accepts.
    hint = " (without CAP_PERFMON, kernels refuse it)" if error.errno == errno.EACCES else ""
    return f"the XDP program cannot be loaded{hint}: {error}"
