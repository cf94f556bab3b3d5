"""The vectorised path: what `packet.forward` does, for a batch of plain frames at once, in place.

Every step is one pass of NumPy over a column of the batch; the number of passes is what a batch costs. So it is first
found out what is the same for all frames (router, VIP, protocol, port: mostly), and done once for all. Whatever the
passes find wrong with a frame takes it out of the batch. Frames that need an answer are left to the caller, who has
`packet.forward` for them.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from appliance.dataplane.intervals import NO_SERVICE
from appliance.dataplane.logged import LoggedFlows
from appliance.dataplane.raw.between import BETWEEN
from appliance.dataplane.raw.compiled import I64, NOT_VIP, U32, U64, Compiled, Group, Keys, Kind
from appliance.dataplane.raw.connection_ids import SEEN, members_of
from appliance.dataplane.raw.idents import Idents
from appliance.dataplane.raw.layout import ETHERNET, IP, OUTER4, OUTER6, Columns, Rows, alike
from appliance.dataplane.raw.logging import log_rows
from appliance.dataplane.raw.placing import Flows, place
from appliance.dataplane.raw.rules import KIND_OF_FLAGS, UDP
from appliance.forwarding import QuicServers
from appliance.model import Encapsulation, HashMode, Protocol
from appliance.packet.action import Reason
from appliance.packet.encap import TUNNELS
from appliance.packet.protection import Guard
from appliance.ring.hash import FINAL, MASKS

_ETHERTYPE4 = 0x0008
"""0x0800 as it stands in the frame, read little-endian."""


_SYN, _SYN_ACK = 0x02, 0x12
_DONT_FRAGMENT = 0x0040
"""The IPv4 flags half word, little-endian."""


def _constant(value: int) -> U64:
    """A 0-d array: NumPy converts a Python number anew in every call, and warns of overflow on its own scalars."""
    return np.array(value, np.uint64)


_1, _8, _16, _20, _24, _32, _40 = map(_constant, (1, 8, 16, 20, 24, 32, 40))
_TAIL = np.array(0xFFFF, np.uint32)
_TCP = np.array(Protocol.TCP, np.uint8)
_YES = np.array(True)
_NOBODY = np.zeros(0, np.intp)
_BYTE, _HALF = _constant(0xFF), _constant(0xFFFF)
_TOWARDS = _constant(0xFFFF0000FFFFFFFF)
"""Destination address and port in the last eight bytes of `head4`; the source port is between them."""

_LABEL = _constant(0xFFFFF)
_FINAL = _constant(FINAL)
_M64 = (1 << 64) - 1
_BIG_ENDIAN = np.arange(1 << 16, dtype=np.uint16).byteswap().astype(np.uint64)
"""Numbers as they stand in a packet, read little-endian."""


@dataclass
class Send:
    """Frames ready to leave."""

    ifindex: int
    rows: Rows
    start: int
    """Where in their slots they begin."""
    lengths: U64


@dataclass
class Outcome:
    """What became of a batch."""

    sends: list[Send]
    answer: list[int]
    """Rows that `packet.forward` has to look at: it may have something to say to their senders. Not counted yet."""

    dropped: list[npt.NDArray[np.intp]]
    """Rows that are finished with."""


class _Batch:
    """Frames of one family on their way through the passes; `keep` takes some of them out of all columns."""

    __slots__ = (
        "admitted",
        "hash32",
        "link",
        "outcome",
        "protocol",
        "rows",
        "service",
        "total",
        "version",
        "way",
        "words",
    )

    def __init__(
        self,
        version: int,
        rows: Rows,
        outcome: Outcome,
        link: int | U32,
        words: U64,
        protocol: npt.NDArray[np.uint8],
        total: U64,
    ) -> None:
        self.version = version
        self.rows = rows
        self.outcome = outcome
        self.link = link
        """See `Columns.link`; one number when it is the same for all."""
        self.words = words
        self.protocol = protocol
        self.total = total
        self.service: int | I64 = NOT_VIP
        self.hash32: U64 = total
        self.way = _NOBODY
        self.admitted: dict[int, tuple[Guard, bytes]] = {}
        """By row: new connections that meters have taken."""

    def numbers(self) -> npt.NDArray[np.intp]:
        if isinstance(self.rows, slice):
            return np.arange(self.rows.start, self.rows.stop)
        return self.rows

    def keep(self, wanted: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
        """Go on with these; the rows of the others are returned."""
        rows = self.numbers()
        self.rows = rows[wanted]
        if not isinstance(self.link, int):
            self.link = self.link[wanted]
        self.words = self.words[:, wanted]
        self.protocol = self.protocol[wanted]
        self.total = self.total[wanted]
        self.hash32 = self.hash32[wanted]
        if not isinstance(self.service, int):
            self.service = self.service[wanted]
        if len(self.way):
            self.way = self.way[wanted]
        return rows[~wanted]


class VectorPath:
    """Forwards batches of plain frames (bpf.py says what that is) within their slots."""

    def __init__(self, columns: Columns, answers: int = 32, idents: Idents | None = None, refusals: int = 4) -> None:
        """
        Args:
            columns: the slots.
            answers: rows of a batch that may be left to the caller for an answer; more of them are only dropped.
            idents: identifications for outer packets; those of others as well, where others send, too.
            refusals: rows that may be left to the caller because they are for a port that no service has.
        """
        self._columns = columns
        self._answers = answers
        self._refusals = refusals
        self._idents = idents or Idents()
        self._look_only = False
        self.reasons: Counter[Reason] = Counter()
        """Drops so far."""

    def forward(self, rows: slice, port: int, tables: Compiled, *, look_only: bool = False) -> Outcome:
        """Rewrite the frames of neighbouring slots for their members.

        Args:
            rows: which slots, at least one.
            port: number of the interface that they arrived on.
            tables: to forward by. Their traffic is counted as sent.
            look_only: remember nothing of their flows, and take nobody's turn.
        """
        self._look_only = look_only
        outcome = Outcome([], [], [])
        link = self._columns.link[rows]
        if alike(link):
            first = link.item(0)
            forward = self._forward4 if first >> 16 == _ETHERTYPE4 else self._forward6
            forward(rows, first, port, tables, outcome)
            return outcome
        four = link >> 16 == _ETHERTYPE4
        count = int(np.count_nonzero(four))
        if count == len(four):
            self._forward4(rows, link, port, tables, outcome)
        elif count == 0:
            self._forward6(rows, link, port, tables, outcome)
        else:
            self._forward4(np.flatnonzero(four) + rows.start, link[four], port, tables, outcome)
            self._forward6(np.flatnonzero(~four) + rows.start, link[~four], port, tables, outcome)
        return outcome

    def _forward4(self, rows: Rows, link: int | U32, port: int, tables: Compiled, outcome: Outcome) -> None:
        heads = np.ascontiguousarray(self._columns.head4[rows])
        n = len(heads)
        words = heads.view("<u4").reshape(n, 6).T.astype(np.uint64, order="C")
        halves = heads.view(">u2").reshape(n, 12)
        protocol = heads.view("u1").reshape(n, 24)[:, 9]
        batch = _Batch(4, rows, outcome, link, words, protocol, halves[:, 1].astype(np.uint64))
        towards = heads.view("<u8").reshape(n, 3)[:, 2] & _TOWARDS
        if alike(towards) and alike(protocol):
            key = words.item(4, 0) << 32 | protocol.item(0) << 16 | halves.item(0, 11)
            batch.service = tables.lookup4.find_one(key)
        else:
            keys = words[4] << _32
            keys |= halves[:, 11]
            keys |= protocol << _16
            batch.service = tables.lookup4.find(keys)
        self._to_members(batch, port, tables, words[3:4], words[4:5], words[5])

    def _forward6(self, rows: Rows, link: int | U32, port: int, tables: Compiled, outcome: Outcome) -> None:
        heads = np.ascontiguousarray(self._columns.head6[rows])
        n = len(heads)
        words = heads.view("<u4").reshape(n, 11).T.astype(np.uint64, order="C")
        halves = heads.view(">u2").reshape(n, 22)
        protocol = heads.view("u1").reshape(n, 44)[:, 6]
        batch = _Batch(6, rows, outcome, link, words, protocol, halves[:, 2] + _40)
        key = tables.vips6.positions(words[6:10])
        key <<= _32
        key |= halves[:, 21]
        key |= protocol << _16
        batch.service = tables.lookup6.find(key)
        self._to_members(batch, port, tables, words[2:6], words[6:10], words[10])

    def _to_members(
        self, batch: _Batch, port: int, tables: Compiled, sources: U64, destinations: U64, ports: U64
    ) -> None:
        """The rest of the way, the same for both families."""
        service = batch.service
        if isinstance(service, int):
            if service == NO_SERVICE:
                self._unserved(batch.numbers(), batch, tables)
                return
            if service < 0:
                batch.outcome.dropped.append(batch.numbers())
                return
            # All frames are for one VIP and have one protocol, so half of the hash is one number.
            flow = tables.flows[service]
            source_port = masked_ports(ports, tables.masks[service].ports)
            h = hash_columns(tables.keys, [*sources, *flow[len(sources) : -2], source_port, flow[-1]])
            slot = h * _constant(tables.sizes[service])
            slot >>= _32
            index = slot + _constant(tables.offsets[service])
        else:
            lowest = int(service.min())
            if lowest < 0:
                wanted = service >= 0
                unserved = batch.numbers()[service == NO_SERVICE]
                self._unserved(unserved, batch, tables)
                batch.outcome.dropped.append(np.setdiff1d(batch.keep(wanted), unserved))
                sources, destinations, ports = sources[:, wanted], destinations[:, wanted], ports[wanted]
                service = service[wanted]
                if not len(service):
                    return
            if tables.one_mask is _WHOLE:
                h = hash_columns(tables.keys, [*sources, *destinations, ports, batch.protocol])
            elif tables.one_mask is not None:
                nothing = [0] * len(destinations)
                h = hash_columns(tables.keys, [*sources, *nothing, masked_ports(ports, tables.one_mask.ports), 0])
            else:
                masked = destinations & tables.destination_masks.take(service)
                chosen = ports & tables.ports_masks.take(service)
                protocol = batch.protocol & tables.protocol_masks.take(service)
                h = hash_columns(tables.keys, [*sources, *masked, chosen, protocol])
            slot = h * tables.sizes_column.take(service)
            slot >>= _32
            index = slot + tables.offsets_column.take(service)
        batch.hash32 = h

        link, suspects = batch.link, tables.loops[port].tails
        if suspects[link & 0xFFFF] if isinstance(link, int) else suspects.take(link & _TAIL).any():
            looped = tables.loops[port].match(self._columns.source_mac_head[batch.rows], np.asarray(link & _TAIL))
            if looped.any():
                self.reasons[Reason.LOOP] += int(np.count_nonzero(looped))
                index = index[~looped]
                batch.outcome.dropped.append(batch.keep(~looped))
                if not len(index):
                    return
        if tables.any_guarded:
            welcome = self._welcome(batch, tables)
            if welcome is not None:
                index = index[welcome]
                batch.outcome.dropped.append(batch.keep(welcome))
                if not len(index):
                    return
        batch.way = way = tables.ways.take(index.view(np.int64)).astype(np.intp)
        if tables.gaps and int(way.max()) == tables.no_way:
            self._place(batch, index.view(np.int64), tables)
            lost = way == tables.no_way
            if lost.any():
                self.reasons[Reason.NO_MEMBER] += int(np.count_nonzero(lost))
                batch.outcome.dropped.append(batch.keep(~lost))
                way = batch.way
                if not len(way):
                    return
        if int(batch.total.max()) > tables.lowest_limit:
            too_big = batch.total > (tables.limits if batch.version == 4 else tables.limits6).take(way)
            if too_big.any():
                rows = batch.keep(~too_big)
                for row in batch.admitted.keys() & set(rows.tolist()) if batch.admitted else ():
                    tables.give_back(*batch.admitted[row])  # whoever answers judges it anew
                batch.outcome.answer.extend(rows[: self._answers].tolist())
                self.reasons[Reason.TOO_BIG] += len(rows[self._answers :])
                batch.outcome.dropped.append(rows[self._answers :])
                way = batch.way
                if not len(way):
                    return
        self._count(batch, tables)
        if tables.logged is not None and tables.logged.below and not self._look_only:
            self._log(batch, tables, tables.logged)
        self._send(batch, tables)

    def _welcome(self, batch: _Batch, tables: Compiled) -> npt.NDArray[np.bool_] | None:
        """Which frames protection lets through; None: all."""
        service = batch.service
        if isinstance(service, int):
            if tables.guards[service] is None:
                return None
            guarded, numbers = np.arange(len(batch.total)), np.full(len(batch.total), service)
        else:
            guarded = np.flatnonzero(tables.guarded.take(service))
            numbers = service[guarded]
        welcome = np.ones(len(batch.total), np.bool_)
        words = batch.words[3:4] if batch.version == 4 else batch.words[2:6]
        for number in np.flatnonzero(np.bincount(numbers)).tolist():
            mine = guarded[numbers == number]
            welcome[mine[tables.denied(number, words[:, mine])]] = False
        denied = len(welcome) - int(np.count_nonzero(welcome))
        if denied:
            self.reasons[Reason.DENIED] += denied
        flags = (self._columns.tcp_flags4 if batch.version == 4 else self._columns.tcp_flags6)[batch.rows]
        opening = ((flags & _SYN_ACK) == _SYN) & (batch.protocol == _TCP) & welcome
        rows, over = batch.numbers(), dict[int, Reason]()
        for at in guarded[opening[guarded]].tolist():
            number = service if isinstance(service, int) else int(service[at])
            guard = tables.guards[number]
            if guard is None:
                continue
            source = words[:, at].astype("<u4").tobytes()
            # A batch comes at one moment: what takes no more from anybody takes no more of it.
            refused = over.get(number) or tables.admit(guard, source, look_only=self._look_only)
            if refused is not None:
                welcome[at] = False
                self.reasons[refused] += 1
                if refused is not Reason.SOURCE_RATE:
                    over[number] = refused
            elif not self._look_only and guard.limited:
                batch.admitted[int(rows[at])] = guard, source
        return None if welcome.all() else welcome

    def _place(self, batch: _Batch, index: I64, tables: Compiled) -> None:
        """Find the ways of frames whose slot does not tell."""
        if tables.any_quic:
            self._place_by_connection_id(batch, tables)
        open_ = np.flatnonzero(batch.way == tables.no_way)
        if not len(open_):
            return
        rows = None if len(open_) == len(index) else open_
        words = batch.words if rows is None else batch.words[:, rows]
        sources, destinations, ports = (
            (words[3:4], words[4:5], words[5]) if batch.version == 4 else (words[2:6], words[6:10], words[10])
        )
        flags = self._columns.tcp_flags4 if batch.version == 4 else self._columns.tcp_flags6
        kind: int | I64
        protocol: int | npt.NDArray[np.uint8]
        service = batch.service
        if isinstance(service, int):
            protocol = tables.tables.services[service].protocol
            kind = UDP
            if protocol == Protocol.TCP:
                kind = KIND_OF_FLAGS.take(flags[batch.rows if rows is None else batch.numbers()[rows]])
            remembering = tables.remembering[service]
        else:
            service = service if rows is None else service[rows]
            protocol = batch.protocol if rows is None else batch.protocol[rows]
            kind = KIND_OF_FLAGS.take(flags[batch.numbers() if rows is None else batch.numbers()[rows]])
            kind[protocol != _TCP] = UDP
            remembering = any(tables.remembering)
        hash64 = None
        if remembering and tables.pins is not None:
            # As with the other hash: what is one number for all frames is half of the work.
            towards = tables.destinations[service] if isinstance(service, int) else destinations
            hash64 = pin_hash_columns(tables.pin_keys, [*sources, *towards, ports, protocol])
        flows = Flows(
            service,
            index if rows is None else index[rows],
            kind,
            batch.total if rows is None else batch.total[rows],
            batch.hash32 if rows is None else batch.hash32[rows],
            hash64,
            sources,
            destinations,
            ports,
            protocol,
        )
        batch.way[slice(None) if rows is None else rows] = place(tables, flows, look_only=self._look_only)

    def _place_by_connection_id(self, batch: _Batch, tables: Compiled) -> None:
        """Find the ways of QUIC's datagrams that name their member."""
        services = tables.quic
        asked: list[tuple[tuple[QuicServers, ...], npt.NDArray[np.intp] | None]]
        if isinstance(batch.service, int):
            asked = [(services[batch.service], None)] if services[batch.service] else []
        else:
            numbers = np.flatnonzero(np.bincount(batch.service)).tolist()
            asked = [
                (services[number], np.flatnonzero(batch.service == number)) for number in numbers if services[number]
            ]
        at = IP + (20 if batch.version == 4 else 40)
        for known, rows in asked:
            where = batch.rows if rows is None else batch.numbers()[rows]
            found = members_of(self._columns.frames[where, at : at + SEEN], known)
            way = tables.dense_column.take(found).astype(np.intp)
            batch.way[slice(None) if rows is None else rows] = way

    def _unserved(self, rows: npt.NDArray[np.intp], batch: _Batch, tables: Compiled) -> None:
        """Drop frames for ports that no service has. Of VIPs that say so, some are left to the caller."""
        answer: list[int] = []
        if tables.rejecting:
            first, end = (IP + 16, IP + 20) if batch.version == 4 else (IP + 24, IP + 40)
            vips = self._columns.frames[rows, first:end]
            asked = (row for row, vip in zip(rows.tolist(), vips, strict=True) if vip.tobytes() in tables.rejecting)
            answer = list(islice(asked, self._refusals))
            batch.outcome.answer.extend(answer)
            rows = rows[~np.isin(rows, answer)]
        self.reasons[Reason.NO_SERVICE] += len(rows)
        batch.outcome.dropped.append(rows)

    def _count(self, batch: _Batch, tables: Compiled) -> None:
        way, service, traffic = batch.way, batch.service, tables.traffic
        columns = self._columns
        syns = None
        if not isinstance(service, int):
            tcp = batch.protocol == _TCP
            opens = bool(tcp.any())
        else:
            tcp, opens = _YES, tables.tables.services[service].protocol is Protocol.TCP
        if opens:
            flags = (columns.tcp_flags4 if batch.version == 4 else columns.tcp_flags6)[batch.rows]
            opening = (flags & _SYN_ACK) == _SYN
            opening &= tcp
            syns = np.flatnonzero(opening) if opening.any() else None
        ways = tables.no_way
        traffic.way_packets += np.bincount(way, minlength=ways)
        # Sums of bincount are doubles: exact, since a batch has far less than 2^53 bytes.
        sizes = np.bincount(way, batch.total, minlength=ways).astype(np.int64)
        traffic.way_bytes += sizes
        if syns is not None:
            traffic.way_flows += np.bincount(way[syns], minlength=ways)
        if isinstance(service, int):
            traffic.service_packets[service] += len(way)
            traffic.service_bytes[service] += int(sizes.sum())
            if syns is not None:
                traffic.service_flows[service] += len(syns)
            return
        services = len(traffic.service_packets)
        traffic.service_packets += np.bincount(service, minlength=services)
        traffic.service_bytes += np.bincount(service, batch.total, minlength=services).astype(np.int64)
        if syns is not None:
            traffic.service_flows += np.bincount(service[syns], minlength=services)

    def _log(self, batch: _Batch, tables: Compiled, logged: LoggedFlows) -> None:
        words = batch.words
        sources, destinations, ports = (
            (words[3:4], words[4:5], words[5]) if batch.version == 4 else (words[2:6], words[6:10], words[10])
        )
        flags = (self._columns.tcp_flags4 if batch.version == 4 else self._columns.tcp_flags6)[batch.rows]
        hash64 = pin_hash_columns(tables.pin_keys, [*sources, *destinations, ports, batch.protocol])
        members = tables.indices.take(batch.way)
        log_rows(logged, hash64, (sources, destinations), ports, batch.protocol, flags, batch.total, members)

    def _send(self, batch: _Batch, tables: Compiled) -> None:
        way = batch.way
        if len(tables.groups) == 1:
            self._rewrite(tables.groups[0], batch, batch.rows, way, None, tables)
            return
        group_of = tables.group_of.take(way)
        first = int(group_of[0])
        if bool((group_of == first).all()):
            self._rewrite(tables.groups[first], batch, batch.rows, way, None, tables)
            return
        rows = batch.numbers()
        for number in np.flatnonzero(np.bincount(group_of, minlength=len(tables.groups))):
            part = np.flatnonzero(group_of == number)
            self._rewrite(tables.groups[number], batch, rows[part], way[part], part, tables)

    def _rewrite(
        self,
        group: Group,
        batch: _Batch,
        rows: Rows,
        way: npt.NDArray[np.intp],
        part: npt.NDArray[np.intp] | None,
        tables: Compiled,
    ) -> None:
        """Write the headers of one group. `part` selects from the batch's columns; None takes all."""
        columns = self._columns
        total = batch.total if part is None else batch.total[part]
        if group.kind is Kind.L2:
            columns.macs[rows] = tables.macs.take(way)
            batch.outcome.sends.append(Send(group.ifindex, rows, ETHERNET, total + _constant(14)))
            return
        words = batch.words if part is None else batch.words[:, part]
        if group.routed:
            if batch.version == 4:
                columns.ttl_word[rows] = _less_one_hop(words[2])
            else:
                columns.hop_limit[rows] = (words[1] >> _24) - _1
        kind, length = group.encapsulation, total
        hash32 = batch.hash32
        if part is not None and (group.kind is Kind.OUTER6 or kind is Encapsulation.GUE or group.spread):
            hash32 = hash32[part]
        more = hash32 & tables.spread_masks.take(way) if group.spread else None
        if kind is not Encapsulation.IPIP:
            columns.between[kind][rows] = BETWEEN[kind](batch.version, total, hash32)
            length = total + _constant(kind.between)
        if group.kind is Kind.OUTER4:
            unbound = total > tables.limits.take(way) if batch.version == 6 and tables.any_unbound else None
            columns.outer4[kind][rows] = self._outer4(
                batch.version, words, length, tables.outer4.take(way), way, group, tables, unbound, more
            )
            batch.outcome.sends.append(Send(group.ifindex, rows, OUTER4 - kind.between, length + _constant(34)))
        else:
            protocol = TUNNELS[kind].protocols[batch.version]
            columns.outer6[kind][rows] = _outer6(
                batch.version, words, length, hash32, tables.outer6.take(way), protocol, more
            )
            batch.outcome.sends.append(Send(group.ifindex, rows, OUTER6 - kind.between, length + _constant(54)))

    def _outer4(
        self,
        version: int,
        words: U64,
        payload: U64,
        heads: npt.NDArray[np.void],
        way: npt.NDArray[np.intp],
        group: Group,
        tables: Compiled,
        unbound: npt.NDArray[np.bool_] | None,
        more: U64 | None,
    ) -> npt.NDArray[np.void]:
        """Ethernet and outer IPv4 headers: `packet.encap.encapsulate`. Unbound: which IPv6 packets go without DF. More:
        what is added to sources."""
        length = _BIG_ENDIAN.take((payload + _20).view(np.int64))
        out = heads.view("<u2").reshape(-1, 17)
        # Of IPv4, version, header length and type of service are those of the inner header.
        first = words[0] & _HALF if version == 4 else _type_of_service(words[0]) << _8 | _constant(0x45)
        sums, fragmentation = first, _constant(0 if group.clear else _DONT_FRAGMENT)
        if group.clear:
            out[:, 9] = idents = _BIG_ENDIAN.take(self._idents.take_many(len(way)))
            sums = first + idents
        else:
            if version == 4:
                fragmentation = (words[1] >> _16) & fragmentation
            elif unbound is not None:
                fragmentation = np.where(unbound, _constant(0), fragmentation)
            may = fragmentation == 0
            if may.any():
                idents = np.zeros(len(way), np.uint64)
                idents[may] = _BIG_ENDIAN.take(self._idents.take_many(int(np.count_nonzero(may))))
                out[:, 9] = idents
                sums = first + idents
        carried = TUNNELS[group.encapsulation].protocols[version] << 8
        out[:, 7] = first
        out[:, 8] = length
        out[:, 10] = fragmentation
        out[:, 11] |= np.uint16(carried)
        sums = sums + tables.outer4_sums.take(way)
        if more is not None:
            sums += _add_to(out, 13, more)
        sums += length
        sums += fragmentation
        sums += _constant(carried)
        sums = (sums & _HALF) + (sums >> _16)
        sums += sums >> _16
        out[:, 12] = ~sums & _HALF
        return heads


_WHOLE = MASKS[HashMode.FIVE_TUPLE]


def masked_ports(ports: U64, mask: int) -> U64 | int:
    """The ports as they are hashed."""
    if mask == _WHOLE.ports:
        return ports
    return ports & _constant(mask) if mask else 0


def hash_columns(keys: Keys, columns: Sequence[npt.NDArray[Any] | int]) -> U64:
    """`ring.hash.hash_columns`, where words that are the same for all frames are given as numbers.

    Of a pair of words, if only one is a number, it is the second. The first word is none.
    """
    h = _spread(keys, columns)
    h >>= _32
    return h


def pin_hash_columns(keys: Keys, columns: Sequence[npt.NDArray[Any] | int]) -> U64:
    """`ring.hash.pin_hash`, with words as for `hash_columns`."""
    h = _spread(keys, columns)
    h ^= h >> _32
    return h


def _spread(keys: Keys, columns: Sequence[npt.NDArray[Any] | int]) -> U64:
    h = _constant(0)
    constant = keys.numbers[0]
    for i in range(0, len(columns), 2):
        first, second = columns[i : i + 2]
        if isinstance(second, int):
            number = keys.numbers[i + 2] + second & _M64
            if isinstance(first, int):
                constant += (keys.numbers[i + 1] + first) * number
                continue
            product = first + keys.arrays[i + 1]
            product *= _constant(number)
        else:
            product = first + keys.arrays[i + 1]
            product *= second + keys.arrays[i + 2]
        if i:
            h += product
        else:
            h = product
    h += _constant(constant & _M64)
    for _ in range(2):
        h ^= h >> _32
        h *= _FINAL
    return h


def _type_of_service(first_word: U64) -> U64:
    """Traffic class of IPv6 headers from their first word: low nibble of byte 0, high nibble of byte 1."""
    return (first_word & _constant(0x0F)) << _constant(4) | (first_word >> _constant(12)) & _constant(0x0F)


def _add_to(out: npt.NDArray[np.uint16], at: int, more: U64) -> U64:
    """Add 32-bit numbers to the two columns from *at* on, where no byte overflows by it (`TableMember.spread_mask`).
    Returns the sums of their halves, as checksums count them."""
    high, low = (_BIG_ENDIAN.take(half.view(np.int64)) for half in (more >> _16, more & _HALF))
    out[:, at] += high.astype(np.uint16)
    out[:, at + 1] += low.astype(np.uint16)
    return high + low


def _outer6(
    version: int,
    words: U64,
    payload: U64,
    hash32: U64,
    heads: npt.NDArray[np.void],
    protocol: int,
    more: U64 | None,
) -> npt.NDArray[np.void]:
    """Ethernet and outer IPv6 headers: `packet.encap.encapsulate`."""
    service = (words[0] >> _8) & _BYTE if version == 4 else _type_of_service(words[0])
    label = hash32 & _LABEL
    label[label == 0] = 1
    out = heads.view("<u2").reshape(-1, 27)
    first = service << _20
    first |= label
    first |= _constant(6 << 28)
    out[:, 7] = _BIG_ENDIAN.take((first >> _16).view(np.int64))
    out[:, 8] = _BIG_ENDIAN.take((first & _HALF).view(np.int64))
    out[:, 9] = _BIG_ENDIAN.take(payload.view(np.int64))
    out[:, 10] |= np.uint16(protocol)
    if more is not None:
        _add_to(out, 17, more)
    return heads


def _less_one_hop(word: U64) -> U64:
    """TTL, protocol and checksum after one hop.

    TTL is one less and the checksum one more (RFC 1624); in little-endian words, both are at the low end of their
    fields. A checksum that would overflow or end up as all ones goes round the corner.
    """
    after = word + _constant(0xFFFF)
    if int(word.max()) >= 0xFFFE0000:
        after += (word >= _constant(0xFFFE0000)).astype(np.uint64) << _16
    return after
