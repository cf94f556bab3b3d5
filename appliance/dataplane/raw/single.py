"""Plain frames one by one, for when too few are ready for a batch: the usual case of low load.

A quick way through the usual case only. Whatever is not simply transmitted is left to `packet.forward`.
"""

import struct
from dataclasses import dataclass

from appliance.dataplane.raw.compiled import Compiled, Kind, Way
from appliance.dataplane.raw.idents import Idents
from appliance.dataplane.raw.layout import ETHERNET, IP, OUTER4, OUTER6, Frames
from appliance.dataplane.raw.logging import log_words
from appliance.dataplane.raw.placing import place_one
from appliance.dataplane.raw.rules import KIND_LIST, UDP
from appliance.model import HashMode, Protocol
from appliance.packet.quic import HEAD, member_of
from appliance.ring.hash import MASKS, hash_words

_WORDS4, _WORDS6 = struct.Struct("<6I"), struct.Struct("<11I")
_WORD = struct.Struct("<I")
_MAC = struct.Struct("<IHH")
_REST4 = struct.Struct("<IIHH")
_REST6 = struct.Struct("!IHBB")
_ADDRESS = struct.Struct("!I")
_IPV4 = 0x0008
"""The Ethernet type, read little-endian."""
_DONT_FRAGMENT = 0x00400000
"""In the second word of an IPv4 header, read little-endian."""
_SYN, _SYN_ACK = 0x02, 0x12


@dataclass(slots=True)  # not frozen: making one for each frame would take three times as long
class Frame:
    """A frame that is ready in its slot."""

    ifindex: int
    start: int
    """Where it begins, in the memory of all slots."""
    end: int


class SinglePath:
    """Forwards frames within their slots, one at a time."""

    def __init__(self, frames: Frames, idents: Idents | None = None) -> None:
        """
        Args:
            frames: the slots.
            idents: see `VectorPath`.
        """
        self._memory = frames.reshape(-1).data
        self._stride = frames.shape[1]
        self._idents = idents or Idents()

    def forward(self, row: int, port: int, tables: Compiled) -> Frame | None:
        """Rewrite one plain frame for its member, and count it.

        Args:
            row: its slot.
            port: number of the interface that it arrived on.
            tables: to forward by.

        Returns:
            None when the frame was left as it is: it is not to be transmitted, or at least not in the usual way.
        """
        memory, base = self._memory, row * self._stride
        head, tail, ethertype = _MAC.unpack_from(memory, base + ETHERNET + 6)
        if tables.loops[port].has(head, tail):
            return None
        if ethertype == _IPV4:
            version, l4 = 4, base + IP + 20
            words: tuple[int, ...] = _WORDS4.unpack_from(memory, base + IP)
            total = words[0] >> 24 | words[0] >> 8 & 0xFF00
            protocol, lookup = words[2] >> 8 & 0xFF, tables.lookup4
            vip: int | None = words[4]
            addresses = words[3:5]
        else:
            version, l4 = 6, base + IP + 40
            words = _WORDS6.unpack_from(memory, base + IP)
            total = (words[1] >> 8 & 0xFF | words[1] << 8 & 0xFF00) + 40
            protocol, lookup = words[1] >> 16 & 0xFF, tables.lookup6
            vip = lookup.vips.get(bytes(memory[base + IP + 24 : base + IP + 40]))
            addresses = words[2:10]
        ports = words[-1]
        if vip is None:
            return None
        service = lookup.find_one(vip << 32 | protocol << 16 | ports >> 24 | ports >> 8 & 0xFF00)
        if service < 0:
            return None
        masks = tables.masks[service]
        whole = (*addresses, ports, protocol)
        if masks is not _WHOLE:
            half = len(addresses) // 2
            addresses = (*addresses[:half], *(word & masks.destination for word in addresses[half:]))
        flow = (*addresses, ports & masks.ports, protocol & masks.protocol)
        hash32 = hash_words(tables.keys.numbers, flow)
        slot = tables.offsets[service] + (hash32 * tables.sizes[service] >> 32)
        guard, source = tables.guards[service], b""
        opening = protocol == Protocol.TCP and memory[l4 + 13] & _SYN_ACK == _SYN
        if guard is not None:
            source = bytes(
                memory[base + IP + 12 : base + IP + 16] if version == 4 else memory[base + IP + 8 : base + IP + 24]
            )
            if guard.denies(source):
                return None
            if opening and tables.admit(guard, source, look_only=True) is not None:
                return None
        number = int(tables.ways[slot])
        if number == tables.no_way and tables.quic[service]:
            end = l4 + (memory[l4 + 4] << 8 | memory[l4 + 5])
            named = member_of(bytes(memory[l4 + 8 : min(end, l4 + 8 + HEAD)]), tables.quic[service])
            number = tables.no_way if named is None else tables.dense.get(named, tables.no_way)
        if number == tables.no_way:
            kind = KIND_LIST[memory[l4 + 13]] if protocol == Protocol.TCP else UDP
            number = place_one(tables, service, slot, kind, whole, hash32, total)
            if number == tables.no_way:
                return None
        way = tables.way_list[number]
        if total > (way.limit if version == 4 else way.limit6):
            return None
        if guard is not None and opening:
            tables.admit(guard, source)

        traffic = tables.traffic
        traffic.service_packets[service] += 1
        traffic.service_bytes[service] += total
        traffic.way_packets[number] += 1
        traffic.way_bytes[number] += total
        if opening:
            traffic.service_flows[service] += 1
            traffic.way_flows[number] += 1
        if tables.logged is not None and tables.logged.below:
            flags = memory[l4 + 13] if protocol == Protocol.TCP else 0
            log_words(tables, whole, flags, total, tables.members[number].index)

        group = way.group
        if group.kind is Kind.L2:
            start = base + ETHERNET
            memory[start : start + 12] = way.macs
            return Frame(group.ifindex, start, start + 14 + total)
        if group.routed:
            self._less_one_hop(base + IP, version, words)
        tunnel = way.tunnel
        between = tunnel.between(version, total, hash32)
        protocol, payload = tunnel.protocols[version], len(between) + total
        if group.kind is Kind.OUTER4:
            more = hash32 & way.spread_mask
            head = self._outer4(way, words, version, protocol, payload, more, unbound=total > way.limit)
            start = base + OUTER4 - len(between)
        else:
            service_class = words[0] >> 8 & 0xFF if version == 4 else _type_of_service(words[0])
            first = 6 << 28 | service_class << 20 | (hash32 & 0xFFFFF or 1)
            head = way.outer6[:14] + _REST6.pack(first, payload, protocol, way.ttl) + way.outer6[22:]
            if more := hash32 & way.spread_mask:
                head = _added(head, 34, more)
            start = base + OUTER6 - len(between)
        memory[start : base + IP] = head + between
        return Frame(group.ifindex, start, base + IP + total)

    def bytes_of(self, frame: Frame) -> memoryview:
        """The frame's bytes, still in its slot."""
        return self._memory[frame.start : frame.end]

    def _less_one_hop(self, ip: int, version: int, words: tuple[int, ...]) -> None:
        if version == 6:
            self._memory[ip + 7] = (words[1] >> 24) - 1
            return
        after = words[2] + 0xFFFF  # as in vector.py
        if words[2] >= 0xFFFE0000:
            after += 0x10000
        _WORD.pack_into(self._memory, ip + 8, after & 0xFFFFFFFF)

    def _outer4(
        self, way: Way, words: tuple[int, ...], version: int, protocol: int, payload: int, more: int, *, unbound: bool
    ) -> bytes:
        size = payload + 20
        length = size >> 8 | (size & 0xFF) << 8
        if version == 4:
            first, second = words[0] & 0xFFFF, words[1] & _DONT_FRAGMENT
        else:
            first, second = _type_of_service(words[0]) << 8 | 0x45, 0 if unbound else _DONT_FRAGMENT
        if not second or way.group.clear:
            ident = self._idents.take()
            second = ident >> 8 | (ident & 0xFF) << 8
        # The constant part of the sum has the TTL already.
        total_sum = way.outer4_sum + first + length + (second >> 16) + (second & 0xFFFF) + (protocol << 8)
        if more:
            total_sum += _swapped(more >> 16) + _swapped(more & 0xFFFF)
        total_sum = (total_sum & 0xFFFF) + (total_sum >> 16)
        total_sum += total_sum >> 16
        rest = _REST4.pack(first | length << 16, second, way.ttl | protocol << 8, ~total_sum & 0xFFFF)
        head = way.outer4[:14] + rest + way.outer4[26:]
        return _added(head, 26, more) if more else head


_WHOLE = MASKS[HashMode.FIVE_TUPLE]


def _added(head: bytes, at: int, more: int) -> bytes:
    """The header with *more* added to the 32 bits that end an address, which begin at *at*."""
    (word,) = _ADDRESS.unpack_from(head, at)
    return head[:at] + _ADDRESS.pack(word + more) + head[at + 4 :]


def _swapped(half: int) -> int:
    return half >> 8 | (half & 0xFF) << 8


def _type_of_service(first_word: int) -> int:
    """Traffic class of an IPv6 header from its first word."""
    return (first_word & 0x0F) << 4 | first_word >> 12 & 0x0F
