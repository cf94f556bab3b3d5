"""The reference as a second opinion on what a plane did with a frame.

Some things only the plane knows: whose turn it was, whether it had the time to tell other directors of a connection,
which identification its next outer packet has. In these the reference follows the plane, as far as that may be.
"""

from collections.abc import Iterator

from appliance.forwarding import ForwardingTables, TableService
from appliance.packet.action import Action, By, Verdict
from appliance.packet.checksum import checksum
from appliance.packet.forward import Ingress, PacketPath, Turns
from appliance.packet.fragments import Fragments
from appliance.packet.headers import ETH_IPV4
from appliance.packet.placement import Pins

_DONT_FRAGMENT = 0x40


class SecondOpinion:
    """What the reference says of frames that a plane has judged. Remembers nothing, and takes nobody's turn."""

    def __init__(self, tables: ForwardingTables, pins: Pins | None = None, *, fragments: bool = False) -> None:
        """
        Args:
            tables: in force.
            pins: what the plane remembers of flows.
            fragments: later fragments are held, as planes do that know no first one; without it they are dropped.
        """
        self.tables = tables
        self._choice = _Choice()
        gate = None if pins is None else _Gate(pins, self._choice)
        self._path = PacketPath(tables, gate, self._choice, Fragments(lambda: 0) if fragments else None)

    def on(self, frame: bytes, ingress: Ingress, member: int | None, by: By | None) -> Action:
        """What the reference says of a frame.

        Args:
            frame: as it arrived.
            ingress: where.
            member: whom the plane has chosen, as `TableMember.index`.
            by: and what has decided that.
        """
        self._choice.taken, self._choice.by = member, by
        return self._path.forward(frame, ingress, look_only=True)


class _Choice(Turns):
    """Whose turn it is only the plane knows. It may be that of any choice."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: int | None = None
        """The member that the plane has taken."""
        self.by: By | None = None

    def take(self, service: TableService, *, peek: bool = False) -> int:
        if self.taken is not None and (service.choices == self.taken).any():
            return self.taken
        return super().take(service, peek=peek)


class _Gate:
    """What is remembered. Whether there was time for a new connection only the plane knows."""

    def __init__(self, pins: Pins, choice: _Choice) -> None:
        self.now, self.find, self.keep = pins.now, pins.find, pins.keep
        self._choice = choice

    def may_open(self, *, look_only: bool = False) -> bool:
        return self._choice.by is not By.PREVIOUS


def differences(expected: Action, got: Action) -> list[str]:
    """In what a plane's action is not what the reference says; empty when it is.

    Args:
        expected: of the reference.
        got: of the plane.
    """
    return [
        f"{what}: the plane has {_short(theirs)}, the reference {_short(ours)}"
        for (what, theirs), (_, ours) in zip(_facts(got), _facts(expected), strict=True)
        if theirs != ours
    ]


def _facts(action: Action) -> Iterator[tuple[str, object]]:
    yield "verdict", str(action.verdict)
    yield "reason", str(action.reason or "")
    transmitted = action.verdict is Verdict.TRANSMIT
    yield "member", action.member if transmitted else None
    yield "decided by", str(action.by or "") if transmitted else ""
    yield "frames", [comparable(frame) for frame in (action.frame, *action.further)] if transmitted else []
    yield "answer", action.reply.kind if action.reply is not None else ""


def comparable(frame: bytes) -> bytes:
    """A frame to a member, without what may differ although both are right: the tag of a VLAN device, which some put on
    and others leave to the kernel; and the identification of an outer IPv4 header that may be fragmented."""
    addresses, rest = frame[:12], frame[12:]
    if rest[:2] in (b"\x81\x00", b"\x88\xa8"):
        rest = rest[4:]
    packet = rest[2:]
    if rest[:2] != ETH_IPV4.to_bytes(2, "big") or len(packet) < 20 or packet[6] & _DONT_FRAGMENT:
        return addresses + rest
    head = packet[:4] + bytes(2) + packet[6:10] + bytes(2) + packet[12:20]
    return addresses + rest[:2] + head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + packet[20:]


def _short(value: object) -> str:
    if isinstance(value, list):
        return f"{len(value)} ({', '.join(frame.hex() for frame in value)})" if value else "none"
    return str(value) if value not in (None, "") else "none"
