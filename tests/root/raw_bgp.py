"""A router made of bare BGP messages: it takes routes and says when, or misbehaves in every way that it is told.

    raw_bgp.py AS PORT ADDRESS [WAY...]

Prints a line of JSON for what happens: `{"listens": port}`, `{"open": way}` for each session that came up, `{"at":
seconds, "announced": n, "withdrawn": n}` for each UPDATE, `{"closed": way}`, by the monotonic clock of the machine. For
each connection it takes the next way, and for the last one as often as it takes; without any it only listens to what
it is told. `WAYS` has all.
"""

import json
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator

MARKER = b"\xff" * 16
OPEN, UPDATE, NOTIFICATION, KEEPALIVE = 1, 2, 3, 4
HOLD_S = 9
FLOOD = 100_000
"""Routes."""
LONGEST = 4096


def message(kind: int, body: bytes = b"") -> bytes:
    return MARKER + struct.pack("!HB", 19 + len(body), kind) + body


KEEP = message(KEEPALIVE)


def opening(number: int, version: int = 4, hold_s: int = HOLD_S) -> bytes:
    """OPEN: both families, route refresh, an AS number of 32 bits."""
    capabilities = [(1, b"\0\1\0\1"), (1, b"\0\2\0\1"), (2, b""), (65, number.to_bytes(4, "big"))]
    coded = b"".join(bytes([2, 2 + len(value), code, len(value)]) + value for code, value in capabilities)
    short = number if number < 1 << 16 else 23456
    return message(OPEN, struct.pack("!BHH4sB", version, short, hold_s, b"\xc0\0\2\1", len(coded)) + coded)


def attribute(flags: int, kind: int, value: bytes) -> bytes:
    return bytes([flags, kind, len(value)]) + value


ORIGIN = attribute(0x40, 1, b"\0")
NEXT_HOP = attribute(0x40, 3, bytes([192, 0, 2, 1]))
NLRI = bytes([24, 10, 0, 0])


def path(number: int) -> bytes:
    return attribute(0x40, 2, bytes([2, 1]) + number.to_bytes(4, "big"))


def update(attributes: bytes, nlri: bytes, withdrawn: bytes = b"") -> bytes:
    body = struct.pack("!H", len(withdrawn)) + withdrawn + struct.pack("!H", len(attributes)) + attributes + nlri
    return message(UPDATE, body)


def good(number: int) -> bytes:
    return ORIGIN + path(number) + NEXT_HOP


def flood(number: int) -> Iterator[bytes]:
    """FLOOD routes, as many in a message as it holds."""
    attributes = good(number)
    room = (LONGEST - 23 - len(attributes)) // 4
    for begin in range(0, FLOOD, room):
        networks = range(begin, min(FLOOD, begin + room))
        yield update(attributes, b"".join(bytes([24]) + (0x0A0000 + each).to_bytes(3, "big") for each in networks))


BROKEN: dict[str, Callable[[int], bytes]] = {
    "marker": lambda _: b"\0" * 16 + KEEP[16:],
    "short-length": lambda _: MARKER + struct.pack("!HB", 18, KEEPALIVE),
    "long-length": lambda _: MARKER + struct.pack("!HB", 65535, UPDATE) + bytes(65516),
    "kind": lambda _: message(99),
    "keepalive-with-body": lambda _: message(KEEPALIVE, b"\0" * 40),
    "update-of-nothing": lambda _: message(UPDATE, b"\0"),
    "attributes-too-long": lambda _: message(UPDATE, struct.pack("!HH", 0, 4000) + ORIGIN),
    "withdrawn-too-long": lambda _: message(UPDATE, struct.pack("!H", 4000)),
    "origin-of-2-bytes": lambda number: update(attribute(0x40, 1, b"\0\0") + path(number) + NEXT_HOP, NLRI),
    "no-origin": lambda number: update(path(number) + NEXT_HOP, NLRI),
    "path-cut-off": lambda _: update(ORIGIN + attribute(0x40, 2, b"\2\xff\0\0\xfd\xe8") + NEXT_HOP, NLRI),
    "path-of-nonsense": lambda _: update(ORIGIN + attribute(0x40, 2, b"\x63\1\0\0\xfd\xe8") + NEXT_HOP, NLRI),
    "next-hop-of-3-bytes": lambda number: update(ORIGIN + path(number) + attribute(0x40, 3, b"\1\2\3"), NLRI),
    "prefix-of-33-bits": lambda number: update(good(number), bytes([33, 10, 0, 0, 0, 0])),
    "prefix-cut-off": lambda number: update(good(number), bytes([24, 10])),
    "unknown-well-known": lambda number: update(good(number) + attribute(0x40, 200, b"x"), NLRI),
    "multiprotocol-of-nonsense": lambda number: update(good(number) + attribute(0x80, 14, b"\0\1"), b""),
    "multiprotocol-of-no-family": lambda number: update(
        good(number) + attribute(0x80, 14, b"\x12\x34\x56\4\0\0\0\0\0"), b""
    ),
    "community-of-5-bytes": lambda number: update(good(number) + attribute(0xC0, 8, b"\0" * 5), NLRI),
    "large-community-of-1-byte": lambda number: update(good(number) + attribute(0xC0, 32, b"\0"), NLRI),
    "same-attribute-twice": lambda number: update(good(number) + ORIGIN, NLRI),
    "refresh-of-nonsense": lambda _: message(5, b"\xff" * 3),
    "notification-of-nonsense": lambda _: message(NOTIFICATION, b"\xff"),
    "second-open": opening,
    "noise": lambda _: os.urandom(8192),
}
"""Messages that are wrong, each in one way. Some end the session, by the router's own rules or ours; some must not."""

LINGER_S = 0.3
"""How long to see what a broken message does."""


class Session:
    """One connection, from its beginning to its end."""

    def __init__(self, connection: socket.socket, number: int, way: str) -> None:
        self._connection = connection
        self._number = number
        self._way = way
        self._received = b""
        self._keep_at = 0.0

    def run(self) -> None:
        way = self._way
        if way == "silent":  # a connection, and nothing on it
            self._until(time.monotonic() + 2.0)
            return
        if way in ("wrong-as", "old-version", "no-hold-time"):
            asked = {
                "wrong-as": (64999, 4, 9),
                "old-version": (self._number, 3, 9),
                "no-hold-time": (self._number, 4, 1),
            }
            self._connection.sendall(opening(*asked[way]))
            self._until(time.monotonic() + 1.0)
            return
        self._connection.sendall(opening(self._number) + KEEP)
        while not self._up:
            self._turn(1.0)
        say(open=way)
        if way in BROKEN:
            self._connection.sendall(BROKEN[way](self._number))
            self._until(time.monotonic() + LINGER_S)
            return
        if way == "flap":
            self._until(time.monotonic() + 1.0)
            return
        if way == "reset":
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        if way == "flood":
            for data in flood(self._number):
                self._send(data)
            say(flooded=FLOOD)
        if way == "deaf":  # it speaks, and reads nothing any more
            while True:
                time.sleep(HOLD_S / 3)
                self._connection.sendall(KEEP)
        while True:
            self._turn(HOLD_S / 3)

    _up = False

    def _until(self, end: float) -> None:
        while (left := end - time.monotonic()) > 0:
            self._turn(left)

    def _send(self, data: bytes) -> None:
        """Without ever not reading: who writes to us must not wait."""
        rest = memoryview(data)
        while rest:
            readable, writable, _ = select.select([self._connection], [self._connection], [], HOLD_S)
            if writable:
                rest = rest[self._connection.send(rest, socket.MSG_DONTWAIT) :]
            if readable:
                self._turn(0.0)

    def _turn(self, wait_s: float) -> None:
        """
        Raises:
            ConnectionError: the other side has ended the session.
        """
        if self._up and time.monotonic() >= self._keep_at:
            self._connection.sendall(KEEP)
            self._keep_at = time.monotonic() + HOLD_S / 3
        if not select.select([self._connection], [], [], min(wait_s, HOLD_S / 3))[0]:
            return
        data = self._connection.recv(1 << 16)
        at = time.monotonic()
        if not data:
            raise ConnectionResetError("closed")
        self._received += data
        while len(self._received) >= 19 and len(self._received) >= (
            size := int.from_bytes(self._received[16:18], "big")
        ):
            one, self._received = self._received[:size], self._received[size:]
            if one[18] == KEEPALIVE:
                self._up = True
            elif one[18] == NOTIFICATION:
                say(notification=[one[19], one[20]], way=self._way)
            elif one[18] == UPDATE and (counts := counted(one[19:])) != (0, 0):
                say(at=at, announced=counts[0], withdrawn=counts[1])


def counted(body: bytes) -> tuple[int, int]:
    """How many routes an UPDATE of a well-behaved speaker announces, and how many it withdraws."""
    size = int.from_bytes(body[:2], "big")
    withdrawn = prefixes(body[2 : 2 + size])
    rest = body[2 + size :]
    size = int.from_bytes(rest[:2], "big")
    attributes, announced = rest[2 : 2 + size], prefixes(rest[2 + size :])
    while attributes:
        flags, kind = attributes[0], attributes[1]
        head = 4 if flags & 0x10 else 3
        size = int.from_bytes(attributes[2:head], "big")
        value, attributes = attributes[head : head + size], attributes[head + size :]
        if kind == 14:  # RFC 4760: family, next hop, a reserved byte, routes
            announced += prefixes(value[5 + value[3] :])
        elif kind == 15:
            withdrawn += prefixes(value[3:])
    return announced, withdrawn


def prefixes(data: bytes) -> int:
    count = 0
    while data:
        data = data[1 + (data[0] + 7) // 8 :]
        count += 1
    return count


OPENINGS = ("silent", "wrong-as", "old-version", "no-hold-time", "reset")
"""Ways in which a session does not come up, or is gone in the same moment."""
ENDLESS = ("flood", "flap", "deaf", "listen")
WAYS = (*BROKEN, *OPENINGS, *ENDLESS)


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


def main() -> None:
    number, port, address, ways = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:] or ["listen"]
    assert set(ways) <= set(WAYS), ways
    with socket.create_server((address, port)) as listener:
        say(listens=port)
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            way = ways.pop(0) if len(ways) > 1 else ways[0]
            with connection:
                try:
                    Session(connection, number, way).run()
                except OSError:
                    pass
            say(closed=way)


if __name__ == "__main__":
    main()
