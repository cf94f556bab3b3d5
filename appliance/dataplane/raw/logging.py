"""What the raw plane tells the connection log: of batches, and of frames one by one."""

import numpy as np
import numpy.typing as npt

from appliance.dataplane.logged import ACK, SYN, LoggedFlows, Sighting
from appliance.dataplane.raw.compiled import U64, Compiled
from appliance.model import HashMode, Protocol
from appliance.packet.headers import IpHeader, Part
from appliance.packet.placement import FlowFacts
from appliance.ring.hash import flow_words, pin_hash

MOST = 64
"""Flows of one batch that are logged. With a sample of one in a hundred there are ten in the largest batch."""

_TAIL = np.array(0xFFFFFFFF, np.uint64)


def log_rows(
    logged: LoggedFlows,
    hash64: U64,
    addresses: tuple[U64, U64],
    ports: U64,
    protocol: npt.NDArray[np.uint8],
    flags: npt.NDArray[np.uint8],
    total: U64,
    member: npt.NDArray[np.int64],
) -> None:
    """Log frames of a batch that are on their way to members.

    Args:
        logged: takes them.
        hash64: pin hashes.
        addresses: sources and destinations, 1 or 4 words of each.
        ports: the first words of their L4 headers.
        protocol: numbers.
        flags: of TCP; of UDP, anything.
        total: bytes of the IP packets.
        member: indices of who gets them.
    """
    wanted = np.flatnonzero((hash64 & _TAIL) < np.array(logged.below, np.uint64))
    if not len(wanted):
        return
    found, first, which = np.unique(hash64[wanted], return_index=True, return_inverse=True)
    packets, sizes = np.bincount(which), np.bincount(which, total[wanted])
    tcp = np.where(protocol[wanted] == Protocol.TCP, flags[wanted], 0)
    together = np.zeros(len(found), np.uint8)
    np.bitwise_or.at(together, which, tcp.astype(np.uint8))
    syns, answers = (np.bincount(which, (tcp & (SYN | ACK)) == kind) for kind in (SYN, ACK))
    sources, destinations = addresses
    for at in range(min(len(found), MOST)):
        row = wanted[first[at]]
        flow = FlowFacts(
            sources[:, row].astype("<u4").tobytes(),
            destinations[:, row].astype("<u4").tobytes(),
            int(ports[row]).to_bytes(4, "little"),
            int(protocol[row]),
            int(found[at]),
            hash32=0,
            idle=0,
        )
        seen = Sighting(int(packets[at]), int(sizes[at]), int(together[at]), int(syns[at]), bool(answers[at]))
        logged.see(flow, int(member[row]), seen)
    if len(found) > MOST:
        logged.miss(int(packets[MOST:].sum()))


def log_packet(tables: Compiled, packet: bytes, ip: IpHeader, member: int) -> None:
    """Log a packet that is on its way to a member. Of a fragment without ports nobody knows whose it is.

    Args:
        tables: that it was placed by; they log.
        packet: from its IP header on.
        ip: that header.
        member: index of who gets it.
    """
    if tables.logged is None or ip.part is Part.LATER or ip.protocol not in (Protocol.TCP, Protocol.UDP):
        return
    ports = packet[ip.l4 : ip.l4 + 4]
    words = flow_words(ip.source, ip.destination, ports, ip.protocol, HashMode.FIVE_TUPLE)
    flags = packet[ip.l4 + 13] if ip.protocol == Protocol.TCP else 0
    log_words(tables, words, flags, ip.length, member)


def log_words(tables: Compiled, words: tuple[int, ...], flags: int, total: int, member: int) -> None:
    """Log one packet, by the words of its flow.

    Args:
        tables: that it was placed by.
        words: `ring.hash.flow_words` of the whole flow key.
        flags: of TCP, 0 of UDP.
        total: bytes of the IP packet.
        member: index of who gets it.
    """
    logged, hash64 = tables.logged, pin_hash(tables.pin_keys.numbers, words)
    if logged is None or not logged.wants(hash64):
        return
    half = (len(words) - 2) // 2
    source, destination = (
        b"".join(word.to_bytes(4, "little") for word in part) for part in (words[:half], words[half:-2])
    )
    flow = FlowFacts(source, destination, words[-2].to_bytes(4, "little"), words[-1], hash64, hash32=0, idle=0)
    kind = flags & (SYN | ACK)
    logged.see(flow, member, Sighting(1, total, flags, int(kind == SYN), kind == ACK))
