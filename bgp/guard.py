#!/usr/bin/env python3
"""The dead-man's switch: stands between ExaBGP, which starts it, and the speaker, which connects to it.

ExaBGP alone keeps a route announced when the program that asked for it dies, hangs or goes away. So the guard
remembers what is announced and withdraws all of it when

* the speaker's lease runs out (the process hangs, or its data plane does not forward),
* the speaker's connection ends (the process died), unless the speaker has said that its XDP program or another process
  forwards on without it: then the routes stay for a while, for another speaker, as long as the program is seen to be
  there, or the process shows that it forwards.

It also kills an ExaBGP that hangs, because routers see a closed connection at once but a silent one only after the
hold time; and it ends an ExaBGP to which no speaker comes back. Should the guard itself hang, ExaBGP is ended by what
has started it (launch.py), to which it shows all the time that it lives.

Runs by itself, as ExaBGP's child: standard library only, no imports from this package. `exabgp_text.py` describes the
lines that the speaker sends and gets. One thread, one `select` loop, no call that can wait.
"""

import argparse
import errno
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

READ_SIZE = 1 << 16
MAX_LINE = 1 << 20
MAX_BACKLOG = 4 << 20
"""Bytes that wait for a slow speaker before its connection is dropped. ExaBGP must never wait for us: it blocks when
its pipe to us is full, and then misses its keepalives."""

ADOPTION_LEASE_S = 2.0
"""How long the routes of a guard before us stay. It died; the speaker may well be alive and about to connect again."""

START_S = 30.0
"""ExaBGP may take this long for its first answer."""

PROOF_S = 1.0
"""How old the proof of a process that forwards for the speaker may be: as old as a lease gets."""

LATE_S = 0.5
"""A turn of the loop that comes later than this says that the whole machine stood still, not that ExaBGP hangs."""

BFD_DOWN = 10
"""The reason that a peer is given, should it hear of it: RFC 9384."""

BEAT_S = 0.2
"""How often to show that we live."""

TOGETHER = 50
"""Routes in one command for ExaBGP, at most."""

RTM_NEWLINK, RTM_GETLINK = 16, 18
IFLA_XDP, IFLA_XDP_ATTACHED = 43, 2

GONE = "the speaker is gone"

KILL_AFTER_S = 3.0
"""SIGTERM did not end ExaBGP within this time: SIGKILL."""


class Lines:
    """Lines over a pair of descriptors, without ever waiting for the other side."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.read_fd = read_fd
        self.write_fd = write_fd
        self._received = b""
        self.unsent = bytearray()
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)

    def receive(self) -> list[str] | None:
        """The complete lines that have come; None when the other side has closed."""
        try:
            data = os.read(self.read_fd, READ_SIZE)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data:
            return None
        *lines, self._received = (self._received + data).split(b"\n")
        if len(self._received) > MAX_LINE:
            self._received = b""
        return [line.decode(errors="replace").strip() for line in lines]

    def send(self, line: str) -> bool:
        """Send as much as goes now, keep the rest; False when the other side has closed."""
        self.unsent += line.encode() + b"\n"
        return self.flush()

    def flush(self) -> bool:
        while self.unsent:
            try:
                del self.unsent[: os.write(self.write_fd, self.unsent)]
            except BlockingIOError:
                return True
            except OSError:
                return False
        return True


class Guard:
    """What is announced, under which lease, and what ExaBGP still owes us an answer to."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.watchdog_s: float = options.watchdog
        self.linger_s: float = options.linger
        self.socket_path: str = options.socket
        self.parent = os.getppid()
        self.exabgp = Lines(0, 1)
        self.listener = listen(options.socket)
        self.beat_path: str = options.beat
        self.beats = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.beats.setblocking(False)
        self.speaker: Lines | None = None
        self.connection: socket.socket | None = None

        self.now = self.beat_at = self.look_at = time.monotonic()
        self.routes: dict[str, None] = {}  # an ordered set
        self.leased = False
        self.lease_ends = self.now
        self.survival: tuple[float, list[int], int] = (0.0, [], 0)
        """For how long the routes may stay when the speaker has ended, on which interfaces it has programs, and which
        process forwards in place of these, if one does."""
        self.last_number = 0  # of the speaker's commands
        self.lonely_since = self.now
        self.terminated_at: float | None = None

        # For a speaker that connects later: the last state of each peer, and what those that are up were sent.
        self.states: dict[str, str] = {}
        self.sent: dict[str, dict[str, None]] = {}

        # ExaBGP answers `done` or `error` in the order of the commands; what to do then waits here in the same order.
        self.owed: deque[Callable[[bool], None]] = deque()
        self.owed_since = self.now
        self.heard = self.now
        self.adopting = True
        self._greet()

    # -- ExaBGP

    def _greet(self) -> None:
        """Find the place in ExaBGP's stream of answers, and what a guard before us has left behind.

        Answers to that guard's commands may still come, to us. `reset` drops what it had queued; every answer before
        the reply to `version` is not ours.
        """
        self.greeted = False
        self.exabgp.send("reset")  # the one command that has no answer
        self._command("version", lambda _ok: None)
        self._command("show neighbor summary", lambda _ok: None)  # it tells of sessions only when they change
        self._command("show adj-rib out", self._adopted)

    def _command(self, command: str, then: Callable[[bool], None]) -> None:
        if not self.owed:
            self.owed_since = self.now
        self.owed.append(then)
        self.exabgp.send(command)

    def _from_exabgp(self, line: str) -> None:
        if line.startswith("{"):
            self._note(line)
            self._tell(line)
        elif not self.greeted:
            self.greeted = line.startswith("exabgp ")
        elif line in ("done", "error"):
            if self.owed:
                self.owed.popleft()(line == "done")
        elif self.adopting:
            self._find(line.split())

    def _find(self, words: list[str]) -> None:
        """Something that was there before us: a session, or a route of a peer's.

        192.0.2.1       65000   1 day, 0:01:02 established           2          0
        192.0.2.1 ipv4 unicast 198.51.100.7/32 next-hop 192.0.2.11
        """
        if "established" in words:
            peer = words[0]
            event = {"type": "state", "neighbor": {"address": {"peer": peer}, "state": "up"}}
            self.states.setdefault(peer, json.dumps(event))
            self.sent.setdefault(peer, {})
        elif len(words) > 3 and words[2] == "unicast":
            self.routes[words[3]] = None
            if words[0] in self.sent:
                self.sent[words[0]][words[3]] = None

    def _adopted(self, _ok: bool) -> None:
        self.adopting = False
        if self.routes:
            self._lease(ADOPTION_LEASE_S)
        if self.speaker is not None:
            self._hello()

    def _note(self, line: str) -> None:
        try:
            event = json.loads(line)
            neighbor = event["neighbor"]
            peer = neighbor["address"]["peer"]
            if event["type"] == "state":
                self.states[peer] = line
                if neighbor["state"] != "up":
                    self.sent.pop(peer, None)
            elif event["type"] == "update" and neighbor["direction"] == "send":
                update = neighbor["message"].get("update", {})
                sent = self.sent.setdefault(peer, {})
                for routes in update.get("withdraw", {}).values():
                    for route in routes:
                        sent.pop(route["nlri"], None)
                for next_hops in update.get("announce", {}).values():
                    for routes in next_hops.values():
                        sent.update((route["nlri"], None) for route in routes)
        except (ValueError, KeyError, TypeError, AttributeError):
            pass  # not of a kind that we must remember; the speaker judges it

    def _lease(self, seconds: float) -> None:
        self.leased = True
        self.lease_ends = self.now + seconds

    def _withdraw_all(self, why: str) -> None:
        self.leased = False
        for is_v6 in (False, True):
            prefixes = [prefix for prefix in self.routes if (":" in prefix) is is_v6]
            for begin in range(0, len(prefixes), TOGETHER):
                self._command(withdrawal(prefixes[begin : begin + TOGETHER]), lambda _ok: None)
        self.routes.clear()
        # Commands with later numbers were not yet here: they are not undone, but answered in their turn.
        self._tell(json.dumps({"guard": "withdrawn", "why": why, "after": self.last_number}))

    # -- the speaker

    def _accept(self) -> None:
        try:
            connection, _ = self.listener.accept()
        except OSError:
            return  # it has changed its mind
        self._close()  # there is one speaker; the newest is it
        self.connection = connection
        self.last_number = 0
        self.speaker = Lines(connection.fileno(), connection.fileno())
        if not self.adopting:
            self._hello()

    def _hello(self) -> None:
        for line in self.states.values():
            self._tell(line)
        sent = {peer: list(prefixes) for peer, prefixes in self.sent.items()}
        hello = {"guard": "hello", "exabgp": self.parent, "routes": list(self.routes), "sent": sent}
        self._tell(json.dumps(hello))

    def _tell(self, line: str) -> None:
        if self.speaker is None or self.adopting:
            return
        if not self.speaker.send(line):
            self._lost(GONE)
        elif len(self.speaker.unsent) > MAX_BACKLOG:
            self._lost("the speaker does not read")

    def _from_speaker(self, line: str) -> None:
        verb, _, rest = line.partition(" ")
        number, _, rest = rest.partition(" ")
        self.last_number = int(number)
        answer = self._answer_to(self.last_number)
        if verb == "lease":
            words = rest.split()
            # An older speaker says less, a newer one may say more.
            seconds, grace, interfaces, process = (words + ["", "0", "", "0"][len(words) :])[:4]
            numbers = [int(number) for number in interfaces.split(",") if number]
            self.survival = (float(grace), numbers, int(process))
            self._lease(float(seconds))
            answer(True)
        elif verb == "announce" and not self.leased:
            answer(False, "the lease has ended")
        elif verb == "announce":
            prefixes, _, command = rest.partition(" ")
            self.routes.update(dict.fromkeys(prefixes.split(",")))
            self._command(command, answer)
        elif verb == "withdraw":
            listed, *peers = rest.split()
            for prefix in listed.split(",") if not peers else ():  # else others keep it
                self.routes.pop(prefix, None)
            whom = " , ".join(f"neighbor {peer}" for peer in peers)
            self._command(f"{whom} {withdrawal(listed.split(','))}".strip(), answer)
        elif verb == "teardown":
            self._command(f"neighbor {rest} teardown {BFD_DOWN}", answer)
        else:
            answer(False, f"no such command: {verb}")

    def _answer_to(self, number: int) -> Callable[..., None]:
        speaker = self.speaker

        def answer(ok: bool, error: str = "refused by ExaBGP") -> None:
            if self.speaker is speaker:  # else it asked and left
                reply: dict[str, Any] = {"guard": "reply", "number": number, "ok": ok}
                self._tell(json.dumps(reply if ok else {**reply, "error": error}))

        return answer

    def _close(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.connection = self.speaker = None

    def _lost(self, why: str) -> None:
        """The speaker is gone: no use in waiting for the end of its lease, unless something goes on without it."""
        self._close()
        self.lonely_since = self.now
        seconds, interfaces, process = self.survival
        # One that hangs or talks nonsense lives, and nobody starts another.
        if why == GONE and self.leased and interfaces and not self._doubts():
            if seconds:
                self._lease(seconds)
            self.survival = (0.0, interfaces, process)  # whoever comes and goes without a word prolongs nothing
        else:
            self._withdraw_all(why)

    def _doubts(self) -> str:
        """Why what is to forward without the speaker does not; empty: it does."""
        _, interfaces, process = self.survival
        if not process:
            return "" if all(map(has_program, interfaces)) else "an interface has no program"
        if not lives(process):
            return f"process {process} has ended"
        # Until it has noticed that it is to begin there is no proof.
        return doubts(os.path.dirname(self.socket_path), process, self.lonely_since, time.monotonic)  # noqa: PTH120

    # -- time

    def _watch(self) -> None:
        """Act on everything that has come due."""
        if self.now >= self.beat_at:
            self.beat_at = self.now + BEAT_S
            try:
                self.beats.sendto(b"\n", self.beat_path)
            except OSError:
                pass  # it does not listen, or has more than enough to read
        if self.leased and self.now >= self.lease_ends:
            self._withdraw_all("the lease has ended")
        elif self.leased and self.speaker is None and self.now >= self.look_at:
            self.look_at = self.now + BEAT_S
            if self.survival[1] and (why := self._doubts()):
                self._withdraw_all(f"the speaker is gone, and nothing forwards for it: {why}")
        limit = self.watchdog_s if self.greeted else START_S
        if self.owed and self.now - max(self.owed_since, self.heard) > limit:
            self._end_exabgp(signal.SIGKILL)
        elif not self.owed and self.now - self.heard >= self.watchdog_s / 3:
            # `#` is answered at once, other commands in their turn, so it could overtake: only when nothing is owed.
            self._command("# ping", lambda _ok: None)
        if self.terminated_at is None:
            if self.speaker is None and not self.leased and self.now - self.lonely_since >= self.linger_s:
                os.unlink(self.socket_path)  # noqa: PTH108 - no pathlib: start quickly; nobody may connect any more
                self._end_exabgp(signal.SIGTERM)
                self.terminated_at = self.now
        elif self.now - self.terminated_at >= KILL_AFTER_S:
            self._end_exabgp(signal.SIGKILL)

    def _end_exabgp(self, number: signal.Signals) -> None:
        if os.getppid() == self.parent:  # else it has ended by itself
            os.kill(self.parent, number)
        if number == signal.SIGKILL:
            sys.exit(1)

    def _until_due(self) -> float:
        """Seconds until `_watch` has to look again."""
        due = [self.heard + self.watchdog_s / 3 if not self.owed else self.now + self.watchdog_s / 3, self.beat_at]
        if self.leased:
            due.append(self.lease_ends)
        if self.terminated_at is not None:
            due.append(self.terminated_at + KILL_AFTER_S)
        elif self.speaker is None and not self.leased:
            due.append(self.lonely_since + self.linger_s)
        return max(0.0, min(due) - self.now)

    def turn(self) -> None:
        """Wait for something to happen, and deal with it."""
        read: list[Any] = [self.exabgp.read_fd, self.listener]
        write: list[Any] = [self.exabgp.write_fd] if self.exabgp.unsent else []
        if self.speaker is not None:
            read.append(self.speaker.read_fd)
            if self.speaker.unsent:
                write.append(self.speaker.write_fd)
        wait = self._until_due()
        began = time.monotonic()
        readable, writable, _ = select.select(read, write, [], wait)
        self.now = time.monotonic()
        if self.now - began > wait + LATE_S:
            self.heard = self.now

        if self.exabgp.write_fd in writable:
            self.exabgp.flush()
        if self.exabgp.read_fd in readable:
            lines = self.exabgp.receive()
            if lines is None:
                sys.exit(0)  # ExaBGP is gone, and with it every session and route
            self.heard = self.now
            for line in lines:
                self._from_exabgp(line)
        speaker = self.speaker
        if speaker is not None and speaker.write_fd in writable and not speaker.flush():
            self._lost(GONE)
        elif speaker is not None and speaker.read_fd in readable:
            self._hear(speaker)
        if self.listener in readable:
            self._accept()
        self._watch()

    def _hear(self, speaker: Lines) -> None:
        lines = speaker.receive()
        if lines is None:
            self._lost(GONE)
            return
        for line in lines:
            if self.speaker is not speaker:
                return  # dropped while it was served
            try:
                self._from_speaker(line)
            except ValueError:
                self._lost(f"the speaker sent {line[:80]!r}")


def withdrawal(prefixes: list[str]) -> str:
    """ExaBGP's command for prefixes of one IP version. It wants a next hop for several, and does not look at it."""
    if len(prefixes) == 1:
        return f"withdraw route {prefixes[0]}"
    next_hop = "::" if ":" in prefixes[0] else "0.0.0.0"  # noqa: S104 - nobody's address
    return f"withdraw attributes next-hop {next_hop} nlri {' '.join(prefixes)}"


def lives(process: int) -> bool:
    """Whether a process is there."""
    try:
        os.kill(process, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    return True


def doubts(folder: str, process: int, since: float, clock: Callable[[], float]) -> str:
    """Why a process does not forward: what the director's keeper writes (appliance/dataplane/raw/keeper.py, `Proof`).

    Args:
        since: when it was to begin at the latest, if it has not said anything, in seconds.
        clock: CLOCK_MONOTONIC. It is read after the proof, which would else be newer now and then.
    """
    word = ""
    try:
        with open(f"{folder}/keeper.{process}", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            word = file.read().strip()
    except OSError:
        pass
    if word.startswith("no: "):
        return word[4:]
    now = clock()
    try:
        proved = float(word)
    except ValueError:
        proved = since
    if proved <= now:
        since = max(since, proved)
    return f"process {process} has not proved it for {now - since:.1f} s" if now - since > PROOF_S else ""


def has_program(ifindex: int) -> bool:
    """Whether an interface has an XDP program: rtnetlink(7), IFLA_XDP in linux/if_link.h."""
    request = struct.pack("=IHHIIBxHiII", 32, RTM_GETLINK, 1, 1, 0, 0, 0, ifindex, 0, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
            netlink.settimeout(0.2)
            netlink.sendto(request, (0, 0))
            answer = netlink.recv(1 << 16)
    except OSError:
        return False
    if int.from_bytes(answer[4:6], sys.byteorder) != RTM_NEWLINK:
        return False
    xdp = attributes(answer[32:]).get(IFLA_XDP, b"")
    return any(attributes(xdp).get(IFLA_XDP_ATTACHED, b""))


def attributes(data: bytes) -> dict[int, bytes]:
    """Those of a netlink message, by type."""
    found, at = {}, 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        found[kind & 0x3FFF] = data[at + 4 : at + length]
        at += max(4, (length + 3) & ~3)
    return found


def listen(path: str) -> socket.socket:
    """A socket for our own user only. It appears under its name when it is ready, in the place of an earlier one."""
    fresh = f"{path}.new"
    try:
        os.unlink(fresh)  # noqa: PTH108
    except FileNotFoundError:
        pass
    listener = socket.socket(socket.AF_UNIX)
    listener.setblocking(False)
    listener.bind(fresh)
    os.chmod(fresh, 0o600)  # noqa: PTH101
    listener.listen(4)
    os.rename(fresh, path)  # noqa: PTH104
    return listener


def main() -> None:
    parser = argparse.ArgumentParser(description="guards the routes that ExaBGP announces; ExaBGP starts it")
    parser.add_argument("--socket", required=True, help="where the speaker connects")
    parser.add_argument("--beat", required=True, help="where to show that we live")
    parser.add_argument("--linger", type=float, required=True, help="seconds until ExaBGP is ended without a speaker")
    parser.add_argument("--watchdog", type=float, required=True, help="seconds until a silent ExaBGP is killed")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    guard = Guard(parser.parse_args())
    while True:
        guard.turn()


if __name__ == "__main__":
    main()
