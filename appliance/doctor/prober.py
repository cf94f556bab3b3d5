"""Sends the doctor's questions and hears what comes back, with packet sockets of its own. For a thread: it waits.

The answers are heard where they come in, before the kernel judges them: so what the director's own kernel drops is told
from what never comes. Ports are held by sockets that drop all they get, or the kernel would answer with an RST of its
own, which would go to another member.
"""

import random
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

from appliance.arp.frames import What, probe
from appliance.arp.frames import read as read_neighbour
from appliance.dataplane.raw import kernel
from appliance.doctor import packets
from appliance.doctor.evidence import Asked, Reply
from appliance.doctor.packets import Answer, Said
from appliance.model import IPAddress, Protocol
from appliance.packet.headers import ETH_IPV4, ETH_IPV6, ETHERNET

WAIT_S = 0.7
"""For an answer, each time that is asked."""

TRIES = 2
AT_ONCE = 200
"""Questions that are under way together: each holds a port."""

_SNAPLEN = 400
_ETH_P_ALL = 3
_DROP_ALL = struct.pack("HBBI", 6, 0, 0, 0)
_LD_W, _LD_H, _JEQ, _RET = 0x20, 0x28, 0x15, 0x06
_PORT_UNREACHABLE = {4: (3, 3), 6: (1, 4)}

Wrap = Callable[[bytes], tuple[str, bytes]]
"""From an IP packet to the interface by which it leaves, and the frame."""


@dataclass(frozen=True)
class Question:
    """One packet that wants an answer."""

    source: IPAddress
    destination: IPAddress
    protocol: Protocol
    port: int
    wrap: Wrap = field(compare=False, repr=False)
    hop_limit: int = 1
    payload: bytes = b""
    """Of a datagram."""
    length: int = 0
    """Of the whole packet of a SYN; 0 is as short as can be."""
    member: IPAddress | None = None
    """Where the tunnel goes, for errors that quote nothing of what is in it."""
    outer: IPAddress | None = None
    """The tunnel's source, where routers' errors go, if that is no address of this machine."""


@dataclass
class _Open:
    question: Question
    port: int
    number: int
    asked: Asked = field(default_factory=Asked)

    @property
    def is_over(self) -> bool:
        return self.asked.reply is not Reply.SILENT


def ask(questions: Sequence[Question], wait_s: float = WAIT_S, tries: int = TRIES) -> list[Asked]:
    """Ask all, a part at a time; what came of each, in their order.

    Who has not answered is asked again from another port: a server that remembers a connection from the first one
    (TIME-WAIT; RFC 9293, 3.10.7.4) may answer a SYN with something else than a SYN-ACK.

    Raises:
        OSError: no packet sockets are to be had, or no ports are left.
    """
    found = [Asked()] * len(questions)
    for _ in range(tries):
        left = [at for at, asked in enumerate(found) if asked.reply is Reply.SILENT]
        for begin in range(0, len(left), AT_ONCE):
            part = left[begin : begin + AT_ONCE]
            for at, asked in zip(part, _ask([questions[at] for at in part], wait_s), strict=True):
                found[at] = asked
    return found


def _ask(questions: Sequence[Question], wait_s: float) -> list[Asked]:
    with ExitStack() as stack:
        tap = stack.enter_context(_tap(_wanted(_heard_at(questions))))
        out = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
        under_way = [
            _Open(one, stack.enter_context(_port(one.source, one.protocol)), random.getrandbits(32))
            for one in questions
        ]
        by_port = {(one.question.protocol, one.port): one for one in under_way}
        for one in under_way:
            _send(out, one.question, _packet(one))
        end = time.monotonic() + wait_s
        while not all(one.is_over for one in under_way) and (left := end - time.monotonic()) > 0:
            for frame in _frames(tap, left):
                _hear(frame, by_port, under_way)
        for one in under_way:
            if one.asked.reply is Reply.ANSWERED and one.question.protocol is Protocol.TCP:
                asked = one.question
                number = one.number + 1 & 0xFFFFFFFF
                rst = packets.rst(asked.source, asked.destination, (one.port, asked.port), number, asked.hop_limit)
                _send(out, asked, rst)
        return [one.asked for one in under_way]


def _packet(one: _Open) -> bytes:
    asked = one.question
    ports = one.port, asked.port
    if asked.protocol is Protocol.UDP:
        return packets.datagram(asked.source, asked.destination, ports, asked.payload, asked.hop_limit)
    return packets.syn(asked.source, asked.destination, ports, one.number, asked.hop_limit, asked.length)


def _send(out: socket.socket, question: Question, packet: bytes) -> None:
    interface, frame = question.wrap(packet)
    try:
        out.sendto(frame, (interface, 0))
    except OSError:
        pass  # the interface is down or has no room: nothing comes back, and that is what will be said


def _ready(taps: Iterable[socket.socket], wait_s: float) -> list[socket.socket]:
    """Those that have something to be read, within that time. Not by select(2): it knows no files above 1023, and
    thousands of health checks may be under way."""
    poll, by_number = select.poll(), {tap.fileno(): tap for tap in taps}
    for number in by_number:
        poll.register(number, select.POLLIN)
    return [by_number[number] for number, _ in poll.poll(wait_s * 1000)]


def _frames(tap: socket.socket, wait_s: float) -> Iterator[bytes]:
    if _ready([tap], wait_s):
        while True:
            try:
                yield tap.recv(_SNAPLEN)
            except OSError:
                return


def _hear(frame: bytes, by_port: Mapping[tuple[Protocol, int], _Open], under_way: Iterable[_Open]) -> None:
    kind = int.from_bytes(frame[12:14], "big")
    version = {ETH_IPV4: 4, ETH_IPV6: 6}.get(kind)
    answer = packets.read(frame[ETHERNET:], version) if version is not None and len(frame) > ETHERNET + 20 else None
    if answer is None:
        return
    for one in _whose(answer, by_port, under_way):
        if not one.is_over:
            one.asked = _told(answer, one, frame[6:12].hex(":"))


def _whose(answer: Answer, by_port: Mapping[tuple[Protocol, int], _Open], all_: Iterable[_Open]) -> Iterable[_Open]:
    if answer.said is Said.ERROR:
        found = [one for (_, port), one in by_port.items() if answer.port == port]
        return found or [one for one in all_ if not answer.port and answer.member == one.question.member is not None]
    protocol = Protocol.UDP if answer.said is Said.DATAGRAM else Protocol.TCP
    one = by_port.get((protocol, answer.port))
    if one is None or (protocol is Protocol.TCP and answer.acknowledged != one.number + 1 & 0xFFFFFFFF):
        return ()
    return (one,)


def _told(answer: Answer, one: _Open, mac: str) -> Asked:
    said = {Said.SYN_ACK: Reply.ANSWERED, Said.DATAGRAM: Reply.ANSWERED, Said.RST: Reply.REFUSED}
    if answer.error is None:
        return Asked(said[answer.said], answer.source, mac, answer.mss)
    error = answer.error
    closed = _PORT_UNREACHABLE[error.sender.version] == (error.kind, error.code) and not error.outer
    reply = Reply.REFUSED if closed and one.question.protocol is Protocol.UDP else Reply.ERROR
    return replace(one.asked, reply=reply, source=error.sender, mac=mac, errors=(*one.asked.errors, error))


@contextmanager
def _port(source: IPAddress, protocol: Protocol) -> Iterator[int]:
    """A port of ours that nobody answers from: the socket that holds it drops whatever comes."""
    family = socket.AF_INET if source.version == 4 else socket.AF_INET6
    kind = socket.SOCK_STREAM if protocol is Protocol.TCP else socket.SOCK_DGRAM
    with socket.socket(family, kind) as sock:
        kernel.attach_filter(sock, _DROP_ALL)
        sock.bind((str(source), 0))
        if protocol is Protocol.TCP:
            sock.listen(1)
        yield int(sock.getsockname()[1])


@contextmanager
def _tap(program: bytes, interface: str = "") -> Iterator[socket.socket]:
    """Of one interface, or of all; then it hears at once, and what came before its filter is let go."""
    protocol = 0 if interface else socket.htons(_ETH_P_ALL)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol) as tap:
        kernel.attach_filter(tap, program)
        tap.setsockopt(kernel.SOL_PACKET, kernel.PACKET_IGNORE_OUTGOING, 1)
        tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        if interface:
            tap.bind((interface, _ETH_P_ALL))
        else:
            for _ in _frames(tap, 0):
                pass
        yield tap


def _heard_at(questions: Iterable[Question]) -> set[IPAddress]:
    """Where answers go, and errors about tunnels."""
    return {address for one in questions for address in (one.source, one.outer) if address is not None}


def _wanted(sources: Iterable[IPAddress]) -> bytes:
    """Frames to these, as `struct sock_filter[]` (classic BPF). Of IPv6 the last word is compared."""
    code: list[tuple[int, int, int, int]] = []
    for kind, version, at in ((ETH_IPV4, 4, 30), (ETH_IPV6, 6, 50)):
        body = [(_LD_W, 0, 0, at)]
        for word in sorted({int(one) & 0xFFFFFFFF for one in sources if one.version == version}):
            body += [(_JEQ, 0, 1, word), (_RET, 0, 0, _SNAPLEN)]
        body.append((_RET, 0, 0, 0))
        code += [(_LD_H, 0, 0, 12), (_JEQ, 0, len(body), kind), *body]
    code.append((_RET, 0, 0, 0))
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)


_NEIGHBOURS = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (_LD_H, 0, 0, 12),
        (_JEQ, 0, 1, 0x0806),
        (_RET, 0, 0, _SNAPLEN),
        (_JEQ, 0, 3, ETH_IPV6),
        (0x30, 0, 0, 20),
        (_JEQ, 0, 1, 58),
        (_RET, 0, 0, _SNAPLEN),
        (_RET, 0, 0, 0),
    )
)
"""ARP and ICMPv6."""


def who_has(wanted: Mapping[str, Iterable[IPAddress]], wait_s: float = WAIT_S) -> dict[str, dict[IPAddress, set[str]]]:
    """Ask segments for addresses, as somebody who looks whether they are free (RFC 5227, 2.1.1; RFC 4862, 5.4.2), so
    that nobody's neighbour table changes by it.

    Args:
        wanted: addresses by interface.
        wait_s: for answers; they are asked for twice in this time.

    Returns:
        By interface and address: the MAC addresses that answer. Interfaces that are not there are left out.
    """
    found: dict[str, dict[IPAddress, set[str]]] = {}
    with ExitStack() as stack:
        taps = {}
        for name, addresses in wanted.items():
            interface = kernel.read_interface(name)
            if interface is None:
                continue
            try:
                taps[stack.enter_context(_tap(_NEIGHBOURS, name))] = interface, list(addresses)
            except OSError:
                continue
            found[name] = {address: set() for address in addresses}
        for _ in range(2):
            for tap, (interface, addresses) in taps.items():
                for address in addresses:
                    try:
                        tap.send(probe(address, interface.mac))
                    except OSError:
                        pass
            end = time.monotonic() + wait_s / 2
            while (left := end - time.monotonic()) > 0 and taps:
                for tap in _ready(taps, left):
                    interface, _ = taps[tap]
                    for frame in _frames(tap, 0):
                        heard = read_neighbour(frame)
                        mine = found[interface.name]
                        if heard is None or heard.mac == interface.mac:
                            continue
                        if heard.what is What.HAS and heard.address in mine:
                            mine[heard.address].add(heard.mac.hex(":"))
                        elif heard.what is What.ASKS and len(heard.sender) in (4, 16):
                            sender = ip_address(heard.sender)
                            if sender in mine:  # whoever asks in its name has it, or thinks so
                                mine[sender].add(heard.mac.hex(":"))
    return found
