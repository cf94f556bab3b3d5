"""What leads from addresses and ports to virtual services, in the program's form. Pure; the slots are not in here."""

import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from appliance.dataplane.intervals import NO_SERVICE, PORTS, port_intervals
from appliance.dataplane.xdp import layout
from appliance.dataplane.xdp.layout import BOUNDARY, BUCKET, ENTRY, GUARD, POLICY, PROBES, RANGE, VIP, what
from appliance.forwarding import ChoiceOrder, Placement, TableService
from appliance.model import IPAddress, Protocol
from appliance.packet.placement import idle_ticks
from appliance.packet.protection import Guard, guards
from appliance.ring.hash import FINAL, MASKS, derive_keys, derive_pin_keys, flow_words

U64 = npt.NDArray[np.uint64]
Records = npt.NDArray[np.void]

PLACEMENTS = {
    Placement.HASH: layout.PLACEMENT_HASH,
    Placement.PER_FLOW: layout.PLACEMENT_PER_FLOW,
    Placement.PER_PACKET: layout.PLACEMENT_PER_PACKET,
}
ORDERS = {ChoiceOrder.SEQUENCE: layout.ORDER_SEQUENCE, ChoiceOrder.RANDOM: layout.ORDER_RANDOM}

NO_OWNER = -1
"""Owner of entries that stand for a VIP."""

EXACT_WIDTH = 4
"""Ports of an interval up to this long get an entry each, which is found at once; others are searched for."""

_M64 = (1 << 64) - 1
_PER_BUCKET = 4
_BUCKETS_PER_ENTRY = 0.75
"""At least: a denser index has more packets look into a second bucket, a sparser one takes more of the CPU's cache."""

_ATTEMPTS = 16


@dataclass(frozen=True)
class Directory:
    """Entry 0 is unused: 0 in a bucket or a range means nothing."""

    services: tuple[TableService, ...]
    keys: tuple[int, ...]
    """Of the flow hash."""

    pin_keys: tuple[int, ...]
    """Of the hash that pins are found by."""

    entries: Records
    """ENTRY, some of them to be read as VIP; `service`, `slots`, `size` and `previous` are left to be filled in."""

    owners: npt.NDArray[np.int64]
    """By entry: the index of its service, or NO_OWNER."""

    ranges: Records
    seeds: tuple[int, int, int, int]
    index_sizes: tuple[int, int]
    """Buckets of the index of VIPs with ports, and of that of VIPs: powers of two."""

    buckets: Records
    """Both, one behind the other."""

    @cached_property
    def names(self) -> tuple[tuple[str, str], ...]:
        """(virtual service, VIP) of each: who has counters of its own."""
        return tuple((service.name, str(service.vip)) for service in self.services)

    @cached_property
    def owned(self) -> npt.NDArray[np.int64]:
        """Numbers of the entries that have a service."""
        return np.flatnonzero(self.owners >= 0)

    @cached_property
    def owned_services(self) -> npt.NDArray[np.int64]:
        """The services of these."""
        owners: npt.NDArray[np.int64] = self.owners[self.owned]
        return owners

    @cached_property
    def policies(self) -> Records:
        """POLICY of each service; `choices`, `length`, `stamp` and `quic` are left to be filled in."""
        return np.array(
            [
                (PLACEMENTS[one.placement], ORDERS[one.choice_order], idle_ticks(one.idle_timeout_s), 0, 0, 0, 0, 0)
                for one in self.services
            ],
            POLICY,
        )

    @cached_property
    def guards(self) -> tuple[Guard | None, ...]:
        """Of each service; None for those that are open to all."""
        return tuple(guards(self.services))

    @cached_property
    def guarded(self) -> npt.NDArray[np.bool_]:
        return np.array([guard is not None for guard in self.guards], np.bool_)

    @cached_property
    def boundaries(self) -> Records:
        """BOUNDARY of all guards, those that have the same once."""
        marks = [mark for one in self._boundaries for mark in one]
        return np.array([(mark >> 64, mark & _M64) for mark in marks], BOUNDARY)

    @cached_property
    def _boundaries(self) -> dict[tuple[int, ...], int]:
        """Where those of each guard begin."""
        found: dict[tuple[int, ...], int] = {}
        total = 0
        for guard in self.guards:
            if guard is not None and guard.boundaries not in found:
                found[guard.boundaries] = total
                total += len(guard.boundaries)
        return found

    @cached_property
    def guard_rows(self) -> Records:
        """GUARD of each service; `meter` is left to be filled in, and `boundaries_first` counts from the first."""
        rows = np.zeros(len(self.services), GUARD)
        for row, guard in zip(rows, self.guards, strict=True):
            if guard is not None:
                row["interval"] = [rate.interval_ns if rate is not None else 0 for rate in guard.rates]
                row["tolerance"] = [rate.tolerance_ns if rate is not None else 0 for rate in guard.rates]
                row["boundaries_first"] = self._boundaries[guard.boundaries]
                row["boundaries"] = len(guard.boundaries)
        return rows

    @cached_property
    def choosing(self) -> tuple[int, ...]:
        """The services that have choices."""
        return tuple(one.index for one in self.services if one.placement is not Placement.HASH)

    @cached_property
    def carrying_quic(self) -> tuple[int, ...]:
        """The services that connection IDs decide about."""
        return tuple(one.index for one in self.services if one.quic)


def build(services: tuple[TableService, ...], secret: bytes) -> Directory:
    """The directory of some services.

    Raises:
        ValueError: the secret is too short, or there are more ports than the program can tell apart.
    """
    keys = derive_keys(secret)
    groups: dict[tuple[IPAddress, Protocol], list[TableService]] = {}
    for service in services:
        groups.setdefault((service.vip, service.protocol), []).append(service)
    writer = _Writer(keys)
    for (vip, protocol), members in groups.items():
        writer.add(vip, protocol, members)
    # VIPs last: packets for ports that have an entry do not touch them, and they are to take no room in the cache.
    numbered = len(writer.rows) + 1 + np.arange(len(writer.vips))
    rows = [bytes(ENTRY.itemsize), *writer.rows, *(vip.tobytes() for vip in writer.vips.values())]
    entries = np.frombuffer(b"".join(rows), ENTRY).copy()
    if len(entries) >= 1 << 24:
        raise ValueError(f"{len(entries)} VIPs and ports are more than the XDP program can hold (16777215)")
    seeds, indexes = _index(entries, (np.array(writer.indexed, np.int64), numbered), secret)
    return Directory(
        services=services,
        keys=keys,
        pin_keys=derive_pin_keys(secret),
        entries=entries,
        owners=np.array([NO_OWNER, *writer.owners, *(NO_OWNER for _ in writer.vips)], np.int64),
        ranges=np.array(writer.ranges, RANGE),
        seeds=seeds,
        index_sizes=(len(indexes[0]), len(indexes[1])),
        buckets=np.concatenate(indexes),
    )


class _Writer:
    def __init__(self, keys: Sequence[int]) -> None:
        self._keys = keys
        self.vips: dict[IPAddress, Records] = {}
        """A record for each VIP."""
        self.rows: list[bytes] = []
        """Entries from number 1 on."""
        self.owners: list[int] = []
        self.indexed: list[int] = []
        """Numbers of the entries that the index of ports leads to; ranges lead to the others."""
        self.ranges: list[tuple[int, int, int]] = []

    def add(self, vip: IPAddress, protocol: Protocol, services: Sequence[TableService]) -> None:
        address = mapped(vip)
        by_index = {service.index: service for service in services}
        intervals = list(port_intervals(services))
        ends = [first for first, _ in intervals[1:]] + [PORTS]
        first_range = len(self.ranges)
        for (first, index), end in zip(intervals, ends, strict=True):
            if index == NO_SERVICE:
                continue
            if end - first <= EXACT_WIDTH:
                for port in range(first, end):
                    self.indexed.append(self._entry(address, what(vip.version, protocol, port), by_index[index]))
            else:
                number = self._entry(address, 0, by_index[index])
                self.ranges.append((first, end - 1, number))
        record = self.vips.setdefault(vip, np.frombuffer(address + bytes(48), VIP).copy())
        which = int(protocol == Protocol.UDP)
        record["what"] = what(vip.version, 0, 0)
        record["rejects"] |= any(service.rejects for service in services)
        record["first"][0, which], record["count"][0, which] = first_range, len(self.ranges) - first_range

    def _entry(self, address: bytes, key: int, service: TableService) -> int:
        base, source_factor, ports_factor = _factors(self._keys, service)
        mask = MASKS[service.hash_mode].ports
        self.rows.append(address + struct.pack("<IIQQQIIII", key, 0, base, source_factor, ports_factor, mask, 0, 0, 0))
        self.owners.append(service.index)
        return len(self.rows)


def mapped(address: IPAddress) -> bytes:
    """16 bytes in network order; IPv4 as RFC 4291, 2.5.5.2 maps it."""
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


def _factors(keys: Sequence[int], service: TableService) -> tuple[int, int, int]:
    """The parts of a service's flow hash that do not depend on the client, as struct entry has them.

    For IPv4: h = base + (k1 + source) * source_factor + (k3 + ports) * ports_factor; for IPv6 the source's part needs
    no factor, and ports have k9. See ring/hash.py.
    """
    vip = service.vip
    words = flow_words(bytes(len(vip.packed)), vip.packed, bytes(4), service.protocol, service.hash_mode)
    if vip.version == 4:
        _, destination, _, protocol = words
        return keys[0], keys[2] + destination & _M64, keys[4] + protocol & _M64
    d0, d1, d2, d3 = words[4:8]
    base = keys[0] + (keys[5] + d0) * (keys[6] + d1) + (keys[7] + d2) * (keys[8] + d3)
    return base & _M64, 0, keys[10] + words[9] & _M64


def _index(
    entries: Records, parts: Sequence[npt.NDArray[np.int64]], secret: bytes
) -> tuple[tuple[int, int, int, int], list[Records]]:
    """Seeds with which every entry finds a place near its own, and the buckets of each part's index."""
    sizes = [1 << max(0, math.ceil(math.log2(max(1, len(part)) * _BUCKETS_PER_ENTRY))) for part in parts]
    for attempt in range(_ATTEMPTS):
        number = attempt.to_bytes(8, "little")
        digest = hashlib.blake2b(number, key=secret[:64], digest_size=32, person=b"onward-index").digest()
        s0, s1, s2, s3 = seeds = struct.unpack("<4Q", digest)
        indexes = []
        for part, size in zip(parts, sizes, strict=True):
            h = hash_keys(entries["address"][part], entries["what"][part].astype(np.uint64), (s0, s1, s2, s3))
            homes = ((h >> np.uint64(32)) & np.uint64(size - 1)).astype(np.int64)
            places = _places(homes.tolist(), size)
            if places is None:
                break
            buckets = np.zeros(size, BUCKET)
            buckets["slot"].reshape(-1)[places] = (h & np.uint64(0xFF000000)) | part.astype(np.uint64)
            indexes.append(buckets)
        else:
            return seeds, indexes
        sizes = [2 * size for size in sizes] if attempt % 4 == 3 else sizes
    raise ValueError(f"no place for {len(entries)} VIPs and ports in the XDP program's index")


def _places(homes: Sequence[int], size: int) -> list[int] | None:
    """A place for each: in its own bucket, or in one of the next where that is full. None: there is none so near."""
    filled = [0] * size
    places = []
    for home in homes:
        for probe in range(PROBES):
            bucket = (home + probe) % size
            if filled[bucket] < _PER_BUCKET:
                break
        else:
            return None
        places.append(bucket * _PER_BUCKET + filled[bucket])
        filled[bucket] += 1
    return places


def hash_keys(address: npt.NDArray[Any], key: U64, seeds: tuple[int, int, int, int]) -> U64:
    """`find` of lookup.h, its hash: of which the upper half chooses a bucket and the next byte is the tag.

    Args:
        address: two words for each key.
        key: the other part, `what`.
        seeds: of the index.
    """
    s0, s1, s2, s3 = (np.uint64(seed) for seed in seeds)
    h: U64 = (address[:, 0] + s0) * (address[:, 1] + s1) + (key + s2) * s3
    h ^= h >> np.uint64(32)
    h *= np.uint64(FINAL)
    return h
