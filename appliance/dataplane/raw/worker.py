"""The forwarding thread: takes frames from the rings, has them rewritten, sends them. It owns all that it touches.

What it shares with others are references that it reads once a round (`wanted`) and numbers that it only ever raises.
While it waits or sends, it does not hold the interpreter's lock; while the event loop is busy, the rings fill.
"""

import os
import select
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import structlog

from appliance.dataplane.events import EventLog, PacketEvent, describe_frame
from appliance.dataplane.raw.compiled import Compiled
from appliance.dataplane.raw.idents import Idents
from appliance.dataplane.raw.layout import (
    ETHERNET,
    TP_STATUS_CSUMNOTREADY,
    TP_STATUS_USER,
    TP_STATUS_VLAN_VALID,
    TP_VLAN,
    alike,
    with_tag,
)
from appliance.dataplane.raw.logging import log_packet
from appliance.dataplane.raw.partial import complete_frame, complete_rows
from appliance.dataplane.raw.rings import Area, RxRing, SlowTap
from appliance.dataplane.raw.single import SinglePath
from appliance.dataplane.raw.tx import Egress, Sender
from appliance.dataplane.raw.vector import Outcome, VectorPath
from appliance.dataplane.recording import Captured, Recording, Sent
from appliance.model import Protocol
from appliance.packet.action import Action, Reason, Reply, Verdict
from appliance.packet.forward import Ingress
from appliance.packet.fragments import Waiting
from appliance.packet.headers import Part, parse_ethernet, parse_ip
from appliance.packet.icmp import TokenBucket

log = structlog.get_logger()

POLL_MS = 100
"""How long the thread sleeps at most: it shows a sign of life at least this often."""

_SLOW_IDLE, _SLOW_BUSY = 64, 4
"""Odd frames that are looked at in a round, when the rings had no plain ones and when they had."""

_LOOK_EVERY = 8
"""Rounds after which the slow sockets are looked at even if there was no time to poll."""

_FLIGHT_PAUSE_S = 50e-6
"""A ring stays readable while its newest slot is in flight, so polling would spin."""

_ERRORS, _PINGS, _RESETS = (100.0, 20), (500.0, 100), (500.0, 100)
_SAYINGS = {"icmp_echo_reply": _PINGS, "tcp_reset": _RESETS}
"""Answers of our own, of each kind for each VIP: a second, and at once."""

_RELAYED_TOO_BIG, _RELAYED = (1000.0, 1000), (100.0, 100)
"""ICMP errors of others for each VIP. Without "too big" connections hang, and all clients behind a smaller link cause
it at once; nothing hangs without the others."""

_SPLIT_PER_S, _SPLIT_AT_ONCE = 5000.0, 500
"""Packets that are fragmented: whoever sends them without DF must not have the thread to himself."""

_SAMPLES_PER_S, _SAMPLES_AT_ONCE = 20.0, 20
"""Samples for each reason, so that a flood neither slows the thread nor hides what is rare."""

_HEADERS = 14 + 40
"""Bytes of a plain frame that have its addresses; VLAN tags are not in the slot's frame."""

_SYN, _SYN_ACK = 0x02, 0x12
_USER = np.array(TP_STATUS_USER, np.uint32)
_PARTIAL = np.array(TP_STATUS_CSUMNOTREADY, np.uint32)


@dataclass(frozen=True)
class Work:
    """What the thread is to do: swapped whole."""

    tables: Compiled
    egress: Mapping[int, Sender] = field(default_factory=dict)
    """By ifindex: an entry for every next hop of the tables."""


@dataclass(frozen=True)
class Port:
    """One interface that frames arrive on."""

    ingress: Ingress
    ring: RxRing
    slow: SlowTap
    reply: Egress
    """Where answers go, and frames of our own in general."""


class Worker:
    """The thread and its loop."""

    def __init__(
        self, area: Area, ports: Sequence[Port], work: Work, batch: int, few: int, events: EventLog, idents: Idents
    ) -> None:
        """
        Args:
            area: holds the rings of all ports.
            ports: in the order of their rings.
            work: to begin with.
            batch: frames to work on at once, at most.
            few: with fewer frames than this ready, one after the other is quicker than a batch.
            events: takes samples of drops and replies.
            idents: identifications for outer packets. They go on where an earlier worker has stopped.
        """
        self.wanted = work
        self.passed: Work | None = None
        """The work of the last whole round."""
        self.beats = 0
        """Rounds so far."""
        self.error: BaseException | None = None
        """What ended the thread."""
        self.reasons: Counter[Reason] = Counter()
        self.replies: Counter[str] = Counter()
        self.relayed: Counter[str] = Counter()
        """ICMP errors of others, by what they say."""
        self.told_too_big: Counter[str] = Counter()
        """Of the replies those that tell a client of a smaller way, by `pool/member`."""
        self.split = 0
        """Packets that went out in pieces."""
        self.completed = 0
        """Checksums that were partial."""
        self.odd = 0
        """Frames of the slow path."""
        self.held = 0
        """Fragments that came before the first of their datagram."""
        self.held_in_vain = 0
        """Of these, those whose first did not come in time, or that found no room to wait."""
        self.recording: Recording | None = None
        """Of whoever captures."""
        self.batches = 0
        self.few_frames = 0
        """Frames that came too few for a batch."""

        self._area = area
        self._status = area.columns.status
        self._ports = ports
        self._batch = batch
        self._few = few
        self._idents = idents
        self.vector = VectorPath(area.columns, idents=self._idents)
        self._single = SinglePath(area.frames, self._idents)
        self._all_egress: list[Sender] = [port.reply for port in ports]
        self._waiting: Waiting[tuple[bytes, Port]] = Waiting()
        self._buckets: dict[tuple[bytes, str], TokenBucket] = {}
        """By VIP and what is limited."""
        self._splitting = TokenBucket(_SPLIT_PER_S, _SPLIT_AT_ONCE)
        self._events = events
        self._sampling: defaultdict[str, TokenBucket] = defaultdict(
            lambda: TokenBucket(_SAMPLES_PER_S, _SAMPLES_AT_ONCE)
        )
        self._stopping = False
        self._fruitless = 0
        self._sent = False
        """Whether something was sent in this round."""
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._main, name="forwarding", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def use(self, work: Work) -> None:
        """Follow these tables from the next round on; `passed` shows when that has happened."""
        self.wanted = work
        self.wake()

    def wake(self) -> None:
        """End the thread's sleep, if it sleeps."""
        os.eventfd_write(self._wake_fd, 1)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def waiting(self) -> bool:
        """Whether plain frames wait in the rings."""
        return any(self._status.item(port.ring.head) & TP_STATUS_USER for port in self._ports)

    def stop(self, timeout_s: float = 5.0) -> bool:
        """End the thread. False when it does not end in time: then its sockets and memory must stay."""
        self._stopping = True
        self.wake()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        if self._thread.is_alive():
            return False
        os.close(self._wake_fd)
        return True

    def _main(self) -> None:
        try:
            self._loop()
        except BaseException as error:
            # Whoever asks for our health next learns of it; a director with a dead part must not look alive.
            self.error = error
            log.exception("plane.thread_died", error=repr(error))

    def _loop(self) -> None:
        poll = select.poll()
        poll.register(self._wake_fd, select.POLLIN)
        taps = {tap.socket.fileno(): tap for port in self._ports for tap in (port.ring, port.slow)}
        for fd in taps:
            poll.register(fd, select.POLLIN)
        known: Work | None = None
        look = True
        while not self._stopping:
            work = self.wanted
            if work is not known:
                known = work
                self._all_egress = list(
                    dict.fromkeys([*(port.reply for port in self._ports), *work.egress.values(), *self._all_egress])
                )
            for egress in self._all_egress:
                egress.reap()
            moved = 0
            self._sent = False
            for port in self._ports:
                moved += self._ring(port, work)
            # A look at the slow sockets is a system call each: polling says when it is worth it. Before anybody has
            # waited in vain, what has come meanwhile has to be looked at.
            if look or self._waiting or self.beats % _LOOK_EVERY == 0:
                look = False
                budget = _SLOW_BUSY if moved else _SLOW_IDLE
                for port in self._ports:
                    got = self._slow(port, work, budget)
                    look = look or got == budget
                    moved += got
                if not look:
                    self._give_up(self._waiting.due(time.monotonic_ns()), work)
            self.passed = work
            self.beats += 1
            if work.tables.pins is not None:
                work.tables.pins.attend()
            if moved:
                self._fruitless = 0
                if not self._sent:
                    # No system call was made yet that lets the event loop have the interpreter. (Sleeping for no time
                    # would: for 50 microseconds, the timer's slack.)
                    poll.poll(0)
                continue
            busy = any(egress.busy for egress in self._all_egress)
            events = poll.poll(1 if busy or self._waiting else POLL_MS)
            for fd, event in events:
                if fd == self._wake_fd:
                    os.eventfd_read(fd)
                    continue
                if event & ~select.POLLIN:
                    taps[fd].clear_error()
                    time.sleep(_FLIGHT_PAUSE_S)  # an interface that is gone leaves its error for ever
                look = look or isinstance(taps[fd], SlowTap)
            if events:
                self._fruitless += 1
                if self._fruitless > 2:
                    time.sleep(_FLIGHT_PAUSE_S)
        self.reasons[Reason.FRAGMENT] += len(self._waiting)

    def _ring(self, port: Port, work: Work) -> int:
        """Forward what is ready in one ring, up to the batch size and the ring's end."""
        ring = port.ring
        head = ring.head
        if not self._status.item(head) & TP_STATUS_USER:
            return 0
        enough = head + self._few
        if enough > ring.end or not self._status.item(enough - 1) & TP_STATUS_USER:
            n = self._one_by_one(head, min(enough - 1, ring.end), port, work)
        else:
            n = self._batch_from(head, port, work)
        ring.head = head + n if head + n < ring.end else ring.first
        return n

    def _one_by_one(self, head: int, end: int, port: Port, work: Work) -> int:
        """Forward what is ready from one slot on. No pass of NumPy here: at low load it is latency."""
        row = head
        while row < end:
            status = self._status.item(row)
            if not status & TP_STATUS_USER:
                break
            if status & TP_STATUS_CSUMNOTREADY:
                complete_rows(self._area.columns, np.array([row]))
                self.completed += 1
            self._forward_one(row, port, work)
            row += 1
        self.few_frames += row - head
        return row - head

    def _batch_from(self, head: int, port: Port, work: Work) -> int:
        """Forward what is ready from one slot on, at once."""
        ring = port.ring
        status = self._status[head : min(head + self._batch, ring.end)].copy()  # a cache line each: read them once
        if alike(status):
            n, incomplete = len(status), status.item(0) & TP_STATUS_CSUMNOTREADY
        else:
            n = int((status & _USER).argmin()) or len(status)
            incomplete = np.bitwise_or.reduce(status[:n]) & TP_STATUS_CSUMNOTREADY
        if incomplete:
            partial = np.flatnonzero(status[:n] & _PARTIAL)
            complete_rows(self._area.columns, partial + head)
            self.completed += len(partial)
        recording = self.recording
        copies = self._copy(head, n, recording) if recording is not None else None
        outcome = self.vector.forward(slice(head, head + n), ring.number, work.tables)
        self._sent = self._sent or bool(outcome.sends)
        if recording is not None and copies:
            self._record_batch(outcome, copies, port, work, recording)
        for send in outcome.sends:
            work.egress[send.ifindex].send(send.rows, send.start, send.lengths)
        for row in outcome.answer:
            self._forward_row(row, port, work)
            self._status[row] = 0
        for rows in outcome.dropped:
            if len(rows) and self._sampling["batch"].take(time.monotonic()):
                self._sample_row(int(rows[0]), port, work)
            self._status[rows] = 0
        self.batches += 1
        return n

    def _forward_one(self, row: int, port: Port, work: Work) -> None:
        recording = self.recording
        copy = self._copy(row, 1, recording).get(row) if recording is not None else None
        # The quick way does not look for VLAN tags, which only matter for answers; it has none to give.
        frame = self._single.forward(row, port.ring.number, work.tables)
        if frame is None:
            self._forward_row(row, port, work)
        else:
            self._sent = True
            ready = self._single.bytes_of(frame)
            if recording is not None and copy is not None:
                sent = self._sent_copy(work.egress[frame.ifindex].name, bytes(ready), recording)
                recording.add(self._captured(copy, port, recording, Verdict.TRANSMIT, sent=(sent,)))
            work.egress[frame.ifindex].send_frame(ready)
        self._status[row] = 0

    def _forward_row(self, row: int, port: Port, work: Work) -> None:
        self._forward_frame(self._frame(row), port, work)

    def _frame(self, row: int) -> bytes:
        """A received frame as it was on the wire."""
        captured = int(self._area.columns.captured[row])
        frame = self._area.frames[row, ETHERNET : ETHERNET + captured].tobytes()
        if self._status[row] & TP_STATUS_VLAN_VALID:
            frame = with_tag(frame, self._area.frames[row, TP_VLAN : TP_VLAN + 4].tobytes())
        return frame

    def _slow(self, port: Port, work: Work, budget: int) -> int:
        done = 0
        while done < budget:
            try:
                got = port.slow.read()
            except OSError:
                break  # the interface went down or away; whoever checks us sees that
            if got is None:
                break
            frame, partial = got
            if partial:
                frame = complete_frame(frame)
                self.completed += 1
            self._forward_frame(frame, port, work)
            done += 1
        self.odd += done
        return done

    def _give_up(self, held: Iterable[tuple[bytes, Port]], work: Work) -> None:
        """Frames need not wait any longer for what they wait for."""
        for frame, port in held:
            self.held_in_vain += 1
            self._forward_frame(frame, port, work, waited=True)

    def _forward_frame(self, frame: bytes, port: Port, work: Work, *, waited: bool = False) -> None:
        """The reference path for one frame, and for those that have waited for it."""
        action = work.tables.path.forward(
            frame, port.ingress, self._idents.take(), step=self._idents.step, waited=waited
        )
        if action.verdict is Verdict.HOLD and action.datagram is not None:
            self.held += 1
            now_ns = time.monotonic_ns()
            self._give_up(self._waiting.add(action.datagram, (frame, port), len(frame), now_ns), work)
            return
        reason = action.reason
        if action.verdict is Verdict.TRANSMIT:
            reason = self._why_too_many(action, work)
            if reason is None:
                self._transmit(action, frame, work)
        if action.verdict is not Verdict.PASS and reason is not None:
            self.reasons[reason] += 1
            self._sample("drop", reason, frame, port)
        reply = action.reply
        answered = reply is not None and self._may_say(reply)
        recording = self.recording
        if recording is not None and action.verdict is not Verdict.PASS:
            self._record_action(action, reason, frame, port, work, recording, answered=answered)
        if reply is not None and answered:
            port.reply.send_frame(reply.frame)
            self.replies[reply.kind] += 1
            if action.member is not None and action.reason is Reason.TOO_BIG:
                self.told_too_big[work.tables.tables.members[action.member].id] += 1
            self._sample("reply", reply.kind, frame, port)
        if action.verdict is Verdict.TRANSMIT and reason is None and action.datagram is not None:
            for other, of in self._waiting.release(action.datagram):
                self._forward_frame(other, of, work)

    # What whoever captures gets. None of it is called while nobody does.

    def _copy(self, head: int, n: int, recording: Recording) -> dict[int, bytes]:
        """Frames that are wanted, by row, before they are worked on: that is done in place."""
        if recording.full:
            recording.lose(n)
            return {}
        frames = self._area.frames
        rows = (
            row
            for row in range(head, head + n)
            if recording.wanted.matches(frames[row, ETHERNET : ETHERNET + _HEADERS].tobytes())
        )
        return {row: self._frame(row) for row in rows}

    def _record_batch(
        self, outcome: Outcome, copies: Mapping[int, bytes], port: Port, work: Work, recording: Recording
    ) -> None:
        """What became of a batch, but for frames that the reference is to look at. Before it is sent, since then its
        slots are free."""
        for send in outcome.sends:
            name = work.egress[send.ifindex].name
            rows = range(send.rows.start, send.rows.stop) if isinstance(send.rows, slice) else send.rows.tolist()
            for row, length in zip(rows, send.lengths.tolist(), strict=True):
                if (copy := copies.get(row)) is not None:
                    ready = self._area.frames[row, send.start : send.start + length].tobytes()
                    sent = self._sent_copy(name, ready, recording)
                    recording.add(self._captured(copy, port, recording, Verdict.TRANSMIT, sent=(sent,)))
        for dropped in outcome.dropped:
            for row in dropped.tolist():
                if (copy := copies.get(row)) is not None:  # the reference says why: batches only count
                    action = work.tables.path.forward(copy, port.ingress, look_only=True)
                    # What would go in pieces is dropped when a batch has too many that take a closer look.
                    reason = action.reason or Reason.TOO_BIG
                    if action.verdict is not Verdict.PASS:
                        self._record_action(action, reason, copy, port, work, recording, answered=False)

    def _record_action(
        self,
        action: Action,
        reason: Reason | None,
        frame: bytes,
        port: Port,
        work: Work,
        recording: Recording,
        *,
        answered: bool,
    ) -> None:
        if not recording.wanted.matches(frame):
            return
        tables, sent = work.tables.tables, []
        if action.verdict is Verdict.TRANSMIT and reason is None:
            name = work.egress[action.ifindex].name
            sent = [self._sent_copy(name, piece, recording) for piece in (action.frame, *action.further)]
        if action.reply is not None and answered:
            sent.append(self._sent_copy(port.reply.name, action.reply.frame, recording, action.reply.kind))
        recording.add(
            self._captured(
                frame,
                port,
                recording,
                Verdict.TRANSMIT if reason is None else Verdict.DROP,
                reason=str(reason or ""),
                sent=tuple(sent),
                service=tables.services[action.service].name if action.service is not None else "",
                member=tables.members[action.member].id if action.member is not None else "",
                slot=action.slot,
                by=str(action.by or ""),
            )
        )

    def _captured(self, frame: bytes, port: Port, recording: Recording, verdict: Verdict, **known: Any) -> Captured:
        return Captured(
            time.monotonic_ns(),
            port.ring.interface.name,
            frame[: recording.wanted.snaplen],
            len(frame),
            verdict,
            **known,
        )

    def _sent_copy(self, name: str, frame: bytes, recording: Recording, kind: str = "") -> Sent:
        return Sent(name, frame[: recording.wanted.snaplen], len(frame), kind)

    def _may_say(self, reply: Reply) -> bool:
        limit = _SAYINGS.get(reply.kind, _ERRORS)
        return self._bucket(reply.vip, reply.kind, *limit).take(time.monotonic())

    def _transmit(self, action: Action, frame: bytes, work: Work) -> None:
        egress = work.egress[action.ifindex]
        egress.send_frame(action.frame)
        if action.further:
            self._idents.take_many(len(action.further))
            self.split += 1
            for piece in action.further:
                egress.send_frame(piece)
        if action.relayed is not None:
            self.relayed[action.relayed] += 1
        count(work.tables, action, frame)

    def _why_too_many(self, action: Action, work: Work) -> Reason | None:
        """Why a frame that could be sent is not."""
        if action.further and not self._splitting.take(time.monotonic()):
            return Reason.SLOW_PATH_FULL
        if action.relayed is not None and action.service is not None:
            vip = work.tables.tables.services[action.service].vip.packed
            too_big = action.relayed == "too_big"
            what, limit = ("relayed_too_big", _RELAYED_TOO_BIG) if too_big else ("relayed", _RELAYED)
            if not self._bucket(vip, what, *limit).take(time.monotonic()):
                return Reason.ICMP_RATE
        return None

    def _bucket(self, vip: bytes, what: str, rate: float, burst: int) -> TokenBucket:
        key = vip, what
        if key not in self._buckets:
            self._buckets[key] = TokenBucket(rate, burst)
        return self._buckets[key]

    def _sample_row(self, row: int, port: Port, work: Work) -> None:
        """A sample of a frame that a batch has dropped. The reference says why: batches only count."""
        frame = self._frame(row)
        action = work.tables.path.forward(frame, port.ingress, look_only=True)
        if action.verdict is Verdict.DROP and action.reason is not None:
            self._sample("drop", action.reason, frame, port)

    def _sample(self, what: str, reason: str, frame: bytes, port: Port) -> None:
        now = time.monotonic()
        if self._sampling[reason].take(now):
            source, destination, protocol = describe_frame(frame)
            name = port.ring.interface.name
            self._events.add(PacketEvent(now, what, str(reason), name, len(frame), source, destination, protocol))


def count(tables: Compiled, action: Action, frame: bytes) -> None:
    """Count a frame that was transmitted one by one."""
    link = parse_ethernet(frame)
    if action.service is None or action.member is None or isinstance(link, Reason):
        return
    packet = frame[link.length :]
    ip = parse_ip(packet, link.version)
    if isinstance(ip, Reason):
        return
    whole = ip.protocol == Protocol.TCP and ip.part is not Part.LATER
    flow = int(whole and packet[ip.l4 + 13] & _SYN_ACK == _SYN)
    traffic, way = tables.traffic, tables.dense[action.member]
    traffic.service_packets[action.service] += 1
    traffic.service_bytes[action.service] += ip.length
    traffic.service_flows[action.service] += flow
    traffic.way_packets[way] += 1
    traffic.way_bytes[way] += ip.length
    traffic.way_flows[way] += flow
    if tables.logged is not None and tables.logged.below:
        log_packet(tables, packet, ip, action.member)
