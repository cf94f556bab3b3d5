"""The flows of the connection log: a set-associative table in plain memory of a sample of all flows.

    flows  96 bytes for each (LOGGED), PLACES to a set. Key 0 is empty
    gate   u64: flows whose pin hash is lower in its lower half are logged, 0 logs none; packets that found no room

A flow is in the sample by its hash, whose keys follow from the fleet's secret, so all directors choose the same ones.
What a packet costs is bounded: one comparison for those that are not in the sample, one set for those that are. A flow
for which its set has no room is not logged, and its packets are counted as missed: nobody is pushed out, so a flood of
new flows takes places until these are idle, and no more.

The memory may be that of an XDP program's maps, which then writes to the same table. Numbers are added to atomically
there; here under `lock`. `take` is the only one that empties places. A packet that comes at that very moment may be
lost to the log: places are emptied only when their flow is over, so there should be none.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from appliance.packet.placement import FlowFacts

PLACES, SETS = 4, 1024
"""4096 flows at a time, 384 KiB."""

LOGGED = np.dtype(
    [
        ("key", "<u8"),
        ("first_ns", "<u8"),
        ("last_ns", "<u8"),
        ("source", "<u8", 2),
        ("destination", "<u8", 2),
        ("packets", "<u8"),
        ("bytes", "<u8"),
        ("answered_ns", "<u8"),
        ("ports", "<u4"),
        ("member", "<u2"),
        ("protocol", "u1"),
        ("flags", "u1"),
        ("syns", "<u2"),
        ("moves", "<u2"),
        ("share", "<u4"),
    ]
)
"""
    key                    the flow's pin hash, 1 for 0
    first_ns, last_ns      when packets came, by the monotonic clock
    source, destination    as in the packet, IPv4 mapped into IPv6 (RFC 4291)
    packets, bytes         of inner IP packets
    answered_ns            when the client's first ACK came after its SYN; 0 for not
    ports                  as in the packet, read little-endian
    member                 index of who got the latest one
    flags, syns            all flags of TCP; how many SYNs without ACK
    moves                  how often the member was another one than for the packet before
    share                  of all hashes, those up to this one were in the sample when it began
"""

BELOW, MISSED, GATES = range(3)
"""Places in the gate, and how many there are."""

FIN, SYN, RST, ACK = 1, 2, 4, 16

_TAG = 0xFFFFFFFF
_MOST = 0xFFFF


def below(one_of: int) -> int:
    """What the lower half of a hash must be less than, so that one of so many flows is in the sample; 0 for none."""
    return -(-(1 << 32) // one_of) if one_of else 0


def one_of(share: int) -> int:
    """Of how many flows one is in the sample, by `share`."""
    return round((1 << 32) / (share + 1))


@dataclass(frozen=True)
class Sighting:
    """Packets of one flow that came together."""

    packets: int
    bytes: int
    """Of inner IP packets."""
    flags: int
    """Of TCP, all of them together."""
    syns: int
    """Of the packets, those with SYN and without ACK."""
    answers: bool = False
    """Whether one of them has ACK and no SYN."""


class LoggedFlows:
    """The table, for one writer beside the program."""

    def __init__(self, memory: Mapping[str, npt.NDArray[Any]], clock_ns: Callable[[], int]) -> None:
        """
        Args:
            memory: `flows` and `gate`.
            clock_ns: the monotonic clock.
        """
        self._flows = memory["flows"]
        self._gate = memory["gate"]
        self._clock_ns = clock_ns
        self.lock = threading.Lock()

    @classmethod
    def in_memory(cls, clock_ns: Callable[[], int]) -> "LoggedFlows":
        """A table of its own."""
        return cls({"flows": np.zeros(SETS * PLACES, LOGGED), "gate": np.zeros(GATES, np.uint64)}, clock_ns)

    @property
    def below(self) -> int:
        """What the lower half of a logged flow's hash is less than."""
        return int(self._gate[BELOW])

    @property
    def missed(self) -> int:
        """Packets of flows that are in the sample and found no room."""
        return int(self._gate[MISSED])

    @property
    def live(self) -> int:
        """Flows in the table."""
        return int(np.count_nonzero(self._flows["key"]))

    def sample(self, one_of: int) -> None:
        """Log one of so many flows from now on; 0 logs none. Those that are in the table stay there."""
        self._gate[BELOW] = below(one_of)

    def wants(self, hash64: int) -> bool:
        """Whether a flow is in the sample, by its pin hash."""
        return hash64 & _TAG < int(self._gate[BELOW])

    def see(self, flow: FlowFacts, member: int, seen: Sighting) -> None:
        """Count packets for a flow that is in the sample.

        Args:
            flow: whose they are.
            member: index of who gets them.
            seen: the packets.
        """
        key, now = flow.hash64 or 1, self._clock_ns()
        first = (flow.hash64 >> 32) * SETS >> 32
        first *= PLACES
        with self.lock:
            keys = self._flows["key"][first : first + PLACES].tolist()
            if key in keys:
                place = self._flows[first + keys.index(key)]
            elif 0 in keys:
                place = self._flows[first + keys.index(0)]
                place["first_ns"], place["member"], place["protocol"] = now, member, flow.protocol
                place["source"], place["destination"] = _mapped(flow.source), _mapped(flow.destination)
                place["ports"], place["share"] = int.from_bytes(flow.ports, "little"), max(self.below - 1, 0)
                place["key"] = key
            else:
                self._gate[MISSED] += np.uint64(seen.packets)
                return
            syns, packets, size, moves = (int(place[name]) for name in ("syns", "packets", "bytes", "moves"))
            if int(place["member"]) != member:
                place["member"], place["moves"] = member, min(moves + 1, _MOST)
            if seen.answers and syns + seen.syns == 1 and not int(place["answered_ns"]):
                place["answered_ns"] = now
            place["last_ns"], place["syns"] = now, min(syns + seen.syns, _MOST)
            place["flags"] = int(place["flags"]) | seen.flags
            place["bytes"], place["packets"] = size + seen.bytes, packets + seen.packets

    def miss(self, packets: int) -> None:
        """So many packets of flows in the sample are not counted for these."""
        with self.lock:
            self._gate[MISSED] += np.uint64(packets)

    def take(self, over: Callable[[npt.NDArray[np.void], int], Iterable[bool]]) -> npt.NDArray[np.void]:
        """Take flows out of the table.

        Args:
            over: says of flows, and of the time in ns, which ones.

        Returns:
            Those, as they were.
        """
        positions = np.flatnonzero(self._flows["key"])
        found = self._flows[positions]
        # One that has just got its place may not be written down yet.
        whole = (found["packets"] > 0) & (found["first_ns"] > 0)
        positions, found = positions[whole], found[whole]
        chosen = np.fromiter(over(found, self._clock_ns()), np.bool_, len(found))
        with self.lock:
            taken: npt.NDArray[np.void] = self._flows[positions[chosen]]
            for name in LOGGED.names or ():
                if name != "key":
                    self._flows[name][positions[chosen]] = 0
            self._flows["key"][positions[chosen]] = 0
        return taken


def _mapped(address: bytes) -> tuple[int, int]:
    whole = address if len(address) == 16 else bytes(10) + b"\xff\xff" + address
    return int.from_bytes(whole[:8], "little"), int.from_bytes(whole[8:], "little")
