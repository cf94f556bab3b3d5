"""The BFD process: sockets and time around `session.Session`.

**Why a process.** A packet must go out every few tens of milliseconds, whatever the director is busy with. A thread
would wait for the interpreter's lock: each busy thread keeps it for 5 ms at a time, and a call into C (a large JSON
text, a garbage collection, reading the configuration) for as long as it takes. A process of its own waits for nobody,
and may have real-time priority without a risk for the rest.

**Why it falls silent.** A process of its own would also go on when the director has died or hangs, and tell the router
that all is well with a machine that forwards nothing. So it looks alive only under a lease that the director's event
loop renews; its end, or the end of the director, makes every session go down, which the router is told at once
(RFC 5880, section 6.8.17). Whether that one packet arrives or not, nothing follows it.

Run by `process.Bfd` with the number of an open socket. Standard library only; one thread, no call that can wait but the
poll.
"""

import ctypes
import json
import os
import random
import select
import signal
import socket
import struct
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address
from typing import ParamSpec

from bgp.bfd.messages import (
    MAX_BYTES,
    Change,
    Report,
    SessionSettings,
    SessionView,
    report_message,
    settings_of,
)
from bgp.bfd.packet import Packet, Refusal, RefusedError, decode, encode
from bgp.bfd.session import Session, Timers

SINGLE_HOP_PORT = 3784
"""RFC 5881, section 4."""
MULTIHOP_PORT = 4784
"""RFC 5883, section 5."""
SOURCE_PORTS = range(49152, 65536)
"""RFC 5881, section 4."""

HOP_LIMIT = 255
CS6 = 6 << 5
"""Network control: type of service and traffic class, RFC 4594."""

_IP_PKTINFO, _IP_RECVTTL = 8, 12
"""linux/in.h; `socket` does not have them in Python 3.11."""

INSTRUCTION = struct.Struct("=HBBI")
MAX_INSTRUCTIONS = 4096
"""BPF_MAXINSNS, linux/bpf_common.h."""
_SO_ATTACH_REUSEPORT_CBPF = 51
_LOAD_WORD, _LOAD_BYTE, _IF_EQUAL, _RETURN = 0x20, 0x30, 0x15, 0x06
_NETWORK = 0xFFF00000
"""SKF_NET_OFF: offsets from here count from the IP header."""

REPORT_S = 0.5
REOPEN_S = 2.0
"""How long to wait with a socket that could not be opened."""

BURST = 64
"""Packets taken in one turn from one socket. A flood has to share the CPU with the rest of the machine."""
BREATH_S = 0.001
STRANGERS = 256
"""Packets from strangers that are looked at with each report. What does not fit into their queue is not counted."""

LEAVE_S = 3.0
"""How long a session that is not wanted any more goes on saying so."""

MAX_CHANGES = 256

_Arguments = ParamSpec("_Arguments")


class Receiver:
    """Takes packets of one family and kind, with where they came from and how far.

    Two sockets have the port, and the kernel gives each packet to one of them (`peers_first`): the second gets what is
    from nobody's address or from too far away. So a flood of strangers, which anybody may send to the director, has a
    queue of its own to fill.
    """

    def __init__(self, version: int, multihop: bool, peers: Iterable[str]) -> None:
        """
        Raises:
            OSError: the port is in use.
        """
        self.multihop = multihop
        self.version = version
        self._peers: frozenset[str] | None = None
        self._sockets: list[socket.socket] = []
        _listening(version, multihop, shared=False).close()  # else a second director could be deaf without a word
        try:
            for _ in range(2):
                self._sockets.append(_listening(version, multihop, shared=True))
            self.expect(peers)
        except OSError:
            self.close()
            raise

    def fileno(self) -> int:
        return self._sockets[0].fileno()

    def expect(self, peers: Iterable[str]) -> None:
        """Tell the kernel who is no stranger."""
        wanted = frozenset(peers)
        if wanted != self._peers:
            self._peers = wanted
            program = peers_first(wanted, self.version, None if self.multihop else HOP_LIMIT)
            memory = ctypes.create_string_buffer(program)
            filtering = struct.pack("HP", len(program) // INSTRUCTION.size, ctypes.addressof(memory))
            self._sockets[0].setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, filtering)

    def take(self, most: int = BURST, *, strange: bool = False) -> Iterator[tuple[bytes, str, str, int]]:
        """What has come, so many at most: payload, source, destination, hop limit."""
        for _ in range(most):
            try:
                data, extra, _flags, address = self._sockets[strange].recvmsg(64, 256)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue  # an ICMP error about a packet of ours, for all we know
            hop_limit, destination = -1, ""
            for level, kind, value in extra:
                if (level, kind) in ((socket.IPPROTO_IP, socket.IP_TTL), (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT)):
                    hop_limit = int.from_bytes(value[:4], sys.byteorder)
                elif (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
                    destination = socket.inet_ntop(socket.AF_INET, value[8:12])
                elif (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
                    destination = socket.inet_ntop(socket.AF_INET6, value[:16])
            yield data, address[0], destination, hop_limit

    def close(self) -> None:
        for each in self._sockets:
            each.close()


def _listening(version: int, multihop: bool, *, shared: bool) -> socket.socket:
    """
    Raises:
        OSError: the port is in use.
    """
    made = socket.socket(_family(version), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
        if version == 4:
            made.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, 1)
            made.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        else:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        made.bind(("", _port(multihop)))
    except OSError:
        made.close()
        raise
    return made


def peers_first(peers: Iterable[str], version: int, hop_limit: int | None) -> bytes:
    """A program of classic BPF (linux/filter.h) that says which socket a packet is for: 0 for what comes from *peers*
    with that hop limit, 1 for all else."""
    at, source = (8, 12) if version == 4 else (7, 8)
    code = []
    if hop_limit is not None:
        code += [(_LOAD_BYTE, 0, 0, _NETWORK + at), (_IF_EQUAL, 1, 0, hop_limit), (_RETURN, 0, 0, 1)]
    for peer in sorted(peers):
        words = [word for (word,) in struct.iter_unpack("!I", ip_address(peer).packed)]
        for number, word in enumerate(words):
            left = 2 * (len(words) - number) - 1  # to the next peer
            code += [(_LOAD_WORD, 0, 0, _NETWORK + source + 4 * number), (_IF_EQUAL, 0, left, word)]
        code.append((_RETURN, 0, 0, 0))
    code.append((_RETURN, 0, 0, 1))
    if len(code) > MAX_INSTRUCTIONS:
        code = [(_RETURN, 0, 0, 0)]  # more than 450 routers: nobody is told apart
    return b"".join(INSTRUCTION.pack(*each) for each in code)


class Line:
    """A session with its socket and what is counted around it."""

    def __init__(self, settings: SessionSettings, session: Session) -> None:
        self.settings = settings
        self.session = session
        self.refused: Counter[str] = Counter()
        self.trouble = ""
        self.ends: float | None = None
        """When it is forgotten; None: it is wanted."""
        self._socket: socket.socket | None = None

    @property
    def version(self) -> int:
        return ip_address(self.settings.peer).version

    @property
    def source_port(self) -> int | None:
        return None if self._socket is None else int(self._socket.getsockname()[1])

    def send(self, packet: Packet, free_port: Callable[[], int]) -> None:
        """Send, or note why not: what is lost is sent again by the clock anyway."""
        try:
            if self._socket is None:
                self._socket = self._open(free_port)
            self._socket.sendto(encode(packet), (self.settings.peer, _port(self.settings.multihop)))
            self.trouble = ""
        except OSError as error:
            self.trouble = f"cannot send: {error.strerror or error}"

    def _open(self, free_port: Callable[[], int]) -> socket.socket:
        """Not connected: so the source address is whichever is right when a packet goes, and ICMP errors are ignored.

        Raises:
            OSError: `local` is not an address of this machine (now).
        """
        made = socket.socket(_family(self.version), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            if self.version == 4:
                made.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, HOP_LIMIT)
                made.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, CS6)
            else:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, HOP_LIMIT)
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, CS6)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 6)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)  # nobody reads it
            made.bind((self.settings.local or "", free_port()))
        except OSError:
            made.close()
            raise
        return made

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def view(self, epoch: float) -> SessionView:
        """
        Args:
            epoch: what to add to the clock for seconds since the epoch.
        """
        session = self.session
        return SessionView(
            state=session.state,
            remote_state=session.remote_state,
            diag=session.diag,
            remote_diag=session.remote_diag,
            since=session.since + epoch,
            transmit_s=session.transmit_s,
            receive_s=session.receive_s,
            detection_s=session.detection_s,
            packets_in=session.packets_in,
            packets_out=session.packets_out,
            downs=session.downs,
            refused=dict(self.refused),
            trouble=self.trouble,
        )


class Engine:
    """All sessions of a director."""

    def __init__(self, control: socket.socket, priority: str = "ordinary") -> None:
        """
        Args:
            control: of type SOCK_SEQPACKET; its other end is the director.
            priority: how this process is scheduled, for people.
        """
        self._control = control
        self._control.setblocking(False)
        self._priority = priority
        self._chance = random.SystemRandom()
        self._lines: dict[str, Line] = {}
        self._receivers: dict[tuple[int, bool], Receiver] = {}
        self._reopen: dict[tuple[int, bool], float] = {}
        self._trouble: dict[tuple[int, bool], str] = {}
        self._strangers: Counter[str] = Counter()
        self._changes: deque[Change] = deque(maxlen=MAX_CHANGES)
        self._director: int | None = None
        """Of the process that renews the lease: a descriptor that says when it ends."""
        self._director_pid = 0
        self._survival_s = 0.0
        self._lease_ends: float | None = None
        """None: there is none, and all sessions are held."""
        self._report_at = 0.0
        self._done = False

    def run(self) -> None:
        """Work until the director closes its end, or says so."""
        while not self._done:
            busy = self._turn()
            if busy:
                time.sleep(BREATH_S)
        for line in self._lines.values():
            line.close()
        for receiver in self._receivers.values():
            receiver.close()

    def _turn(self) -> bool:
        """Wait for something to happen, and deal with it; whether more packets may be waiting."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        if self._director is not None:
            poll.register(self._director, select.POLLIN)
        for receiver in self._receivers.values():
            poll.register(receiver, select.POLLIN)
        ready = poll.poll(max(0.0, self._due() - time.monotonic()) * 1000)
        # First what has come, then what time says: whoever was late himself must not blame the peer.
        busy = [self._receive(receiver, receiver.take()) == BURST for receiver in self._receivers.values()]
        whose = self._director_pid
        ended = any(fd == self._director for fd, _ in ready)
        self._listen()
        if ended and self._director_pid == whose:  # else another one has taken over meanwhile
            self._outlive()
        self._watch()
        return any(busy)

    def _due(self) -> float:
        times = [self._report_at, *self._reopen.values()]
        if self._lease_ends is not None:
            times.append(self._lease_ends)
        for line in self._lines.values():
            due = line.session.due()
            times += [each for each in (due, line.ends) if each is not None]
        return min(times)

    # -- packets

    def _receive(self, receiver: Receiver, packets: Iterable[tuple[bytes, str, str, int]]) -> int:
        """How many there were."""
        taken = 0
        for data, source, destination, hop_limit in packets:
            taken += 1
            try:
                packet = _judged(data, hop_limit, receiver.multihop)
                line = self._line_of(packet, source, destination, receiver.multihop)
            except RefusedError as refused:
                known = self._lines.get(source)
                (known.refused if known is not None else self._strangers)[refused.reason] += 1
                continue
            self._step(line, line.session.receive, packet, time.monotonic())
        return taken

    def _line_of(self, packet: Packet, source: str, destination: str, multihop: bool) -> Line:
        """The session that a packet belongs to (RFC 5880, section 6.8.6; RFC 5881, section 4; RFC 5883, section 4).

        Raises:
            RefusedError: there is none.
        """
        line = self._lines.get(source)
        if packet.your_discriminator == 0:
            fits = line is not None and line.settings.multihop is multihop
            if line is None or not fits or line.settings.local not in (None, destination):
                raise RefusedError(Refusal.NO_SESSION)
            return line
        if line is not None and line.session.discriminator == packet.your_discriminator:
            if line.settings.multihop is not multihop:
                raise RefusedError(Refusal.ADDRESS)
            return line
        # Stricter than the RFC: who guesses or has seen a discriminator still needs the address.
        known = any(each.session.discriminator == packet.your_discriminator for each in self._lines.values())
        raise RefusedError(Refusal.ADDRESS if known else Refusal.NO_SESSION)

    def _step(
        self, line: Line, step: Callable[_Arguments, list[Packet]], *args: _Arguments.args, **kwargs: _Arguments.kwargs
    ) -> None:
        """One step of a session: what it sends goes out, and a change is told."""
        before = line.session.state
        for packet in step(*args, **kwargs):
            line.send(packet, self._free_port)
        session = line.session
        if session.state is not before:
            self._changes.append(
                Change(
                    line.settings.peer,
                    before,
                    session.state,
                    session.remote_state,
                    session.diag,
                    session.remote_diag,
                )
            )
            self._report_at = 0.0

    def _free_port(self) -> int:
        used = {line.source_port for line in self._lines.values()}
        return self._chance.choice([port for port in SOURCE_PORTS if port not in used])

    # -- time

    def _watch(self) -> None:
        now = time.monotonic()
        if self._lease_ends is not None and now >= self._lease_ends:
            self._hold(now)
        for peer, line in list(self._lines.items()):
            self._step(line, line.session.tick, now)
            if line.ends is not None and now >= line.ends:
                self._forget(peer)
        for key, at in list(self._reopen.items()):
            if now >= at:
                self._open(key, now)
        if now >= self._report_at:
            self._tell(now)

    def _outlive(self) -> None:
        """The director has ended; somebody may still hold its end of our socket for another one."""
        self._forget_director()
        now = time.monotonic()
        if self._survival_s and self._lease_ends is not None:
            self._lease_ends = now + self._survival_s
        else:
            self._hold(now)

    def _forget_director(self) -> None:
        if self._director is not None:
            os.close(self._director)
            self._director = None

    def _hold(self, now: float) -> None:
        self._lease_ends = None
        for line in self._lines.values():
            self._step(line, line.session.hold, now)

    # -- the director

    def _listen(self) -> None:
        while not self._done:
            try:
                data = self._control.recv(MAX_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:
                data = b""
            now = time.monotonic()
            message = json.loads(data) if data else {}
            if "sessions" in message:
                self._set(settings_of(message), now)
            elif "lease" in message:
                if self._lease_ends is None:
                    for line in self._lines.values():
                        line.session.release(now)
                self._lease_ends = now + message["lease"]
                self._follow(message["director"], message["survival"])
            elif "close" in message:
                for line in self._lines.values():
                    self._step(line, line.session.admin_down, now)
                self._done = True
            else:
                self._hold(now)
                self._done = True

    def _follow(self, pid: int, survival_s: float) -> None:
        self._survival_s = survival_s
        if pid != self._director_pid:
            self._forget_director()
            self._director_pid = pid
            try:
                self._director = os.pidfd_open(pid)
            except OSError:
                pass  # it has ended meanwhile, and its lease will

    def _set(self, wanted: dict[str, SessionSettings], now: float) -> None:
        for peer, line in self._lines.items():
            if peer not in wanted and line.ends is None:
                self._step(line, line.session.admin_down, now)
                line.ends = now + LEAVE_S
        for peer, settings in wanted.items():
            known = self._lines.get(peer)
            if known is not None and known.ends is None and _same_but_timers(known.settings, settings):
                known.session.change(_timers(settings), now)
                known.settings = settings
            else:
                if known is not None:
                    self._forget(peer)
                self._lines[peer] = self._new(settings, now)
        self._open_what_is_needed(now)

    def _new(self, settings: SessionSettings, now: float) -> Line:
        taken = {line.session.discriminator for line in self._lines.values()}
        while (discriminator := self._chance.getrandbits(32)) in {0, *taken}:
            pass
        session = Session(_timers(settings), discriminator, self._chance.random, now, passive=settings.passive)
        if self._lease_ends is None:
            session.hold(now)
        return Line(settings, session)

    def _forget(self, peer: str) -> None:
        self._lines.pop(peer).close()

    def _open_what_is_needed(self, now: float) -> None:
        needed = {(line.version, line.settings.multihop) for line in self._lines.values()}
        for key in set(self._receivers) - needed:
            self._receivers.pop(key).close()
        for key in set(self._reopen) - needed:
            del self._reopen[key], self._trouble[key]
        for key in needed:
            if key in self._receivers:
                self._receivers[key].expect(self._expected(key))
            else:
                self._open(key, now)

    def _expected(self, key: tuple[int, bool]) -> Iterator[str]:
        return (line.settings.peer for line in self._lines.values() if (line.version, line.settings.multihop) == key)

    def _open(self, key: tuple[int, bool], now: float) -> None:
        self._reopen.pop(key, None)
        self._trouble.pop(key, None)
        try:
            self._receivers[key] = Receiver(*key, self._expected(key))
        except OSError as error:
            self._reopen[key] = now + REOPEN_S
            self._trouble[key] = (
                f"cannot receive on UDP port {_port(key[1])}, IPv{key[0]}: {error.strerror};"
                " stop whatever uses it (bfdd, bird), or take `bfd` out of [[bgp.peer]]"
            )

    def _tell(self, now: float) -> None:
        self._report_at = now + REPORT_S
        for receiver in self._receivers.values():
            self._receive(receiver, receiver.take(STRANGERS, strange=True))
        epoch = time.time() - now
        report = Report(
            sessions={peer: line.view(epoch) for peer, line in self._lines.items() if line.ends is None},
            changes=tuple(self._changes),
            refused=dict(self._strangers),
            trouble="; ".join(text for _, text in sorted(self._trouble.items())),
            priority=self._priority,
        )
        try:
            self._control.send(report_message(report))
        except OSError:
            return  # a director that does not read: changes wait, everything else is told anew the next time
        self._changes.clear()


def _judged(data: bytes, hop_limit: int, multihop: bool) -> Packet:
    """
    Raises:
        RefusedError: malformed, or from too far away (RFC 5881, section 5).
    """
    if not multihop and hop_limit != HOP_LIMIT:
        raise RefusedError(Refusal.TTL)
    return decode(data)


def _timers(settings: SessionSettings) -> Timers:
    return Timers(settings.interval_us, settings.multiplier)


def _same_but_timers(one: SessionSettings, other: SessionSettings) -> bool:
    def rest(settings: SessionSettings) -> tuple[object, ...]:
        return settings.peer, settings.local, settings.multihop, settings.passive

    return rest(one) == rest(other)


def _family(version: int) -> socket.AddressFamily:
    return socket.AF_INET if version == 4 else socket.AF_INET6


def _port(multihop: bool) -> int:
    return MULTIHOP_PORT if multihop else SINGLE_HOP_PORT


def _real_time() -> str:
    """Run before everybody else, where that is allowed; what became of it."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError:
        return "ordinary"
    return "real-time"


def main() -> None:
    # Whoever stops the director may signal its whole group; the peers are to hear of it from the director, in order.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    Engine(socket.socket(fileno=int(sys.argv[1])), _real_time()).run()


if __name__ == "__main__":
    main()
