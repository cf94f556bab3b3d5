"""The keyed flow hash that every director and every data plane shares.

A flow key is laid out as 32-bit words, each read little-endian from the bytes as they stand in the packet:

    IPv4    source, destination, ports, protocol                                   4 words
    IPv6    source (4 words), destination (4 words), ports, protocol              10 words

`ports` is the first four bytes of the L4 header (source port, then destination port); `protocol` is the protocol
number. What a hash mode leaves out is zero. The words are hashed in pairs with 64-bit keys k0, k1, ... derived from the
fleet's secret (Multilinear-HM, strongly universal: Lemire and Kaser, "Strongly universal string hashing is fast",
2014):

    h = k0 + (k1 + w1)(k2 + w2) + (k3 + w3)(k4 + w4) + ...        mod 2^64

then two multiplications spread what structured inputs leave regular (after one, up to two secrets in a hundred spread
sequential addresses visibly unevenly), and the upper half is the hash:

    h = (h xor h >> 32) * FINAL                                     mod 2^64
    h = (h xor h >> 32) * FINAL                                     mod 2^64
    hash32 = h >> 32
    slot = hash32 * size >> 32

There is no division and no byte swapping, so C for BPF, NumPy and Python compute it alike; tests/vectors/hash.json
holds published values.

What is remembered of single flows (dataplane/pins.py) is found by another hash of the whole flow key, whatever the hash
mode: the same sum with other keys, and all 64 bits of it, spread once more:

    h = (h xor h >> 32) * FINAL, twice as above
    hash64 = h xor h >> 32
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from appliance.model import HashMode, IPAddress

KEYS = 11
"""k0 and one key for each word of an IPv6 flow key."""

FINAL = 0xD6E8FEB86659FD93
_M64 = (1 << 64) - 1
_ONE_WORD = struct.Struct("<I")
_FOUR_WORDS = struct.Struct("<4I")
_SOURCE_PORT = 0x0000FFFF
"""Of the ports word, read little-endian: the source port's two bytes."""


@dataclass(frozen=True)
class FlowKey:
    """The packets of one flow have the same one."""

    source: IPAddress
    destination: IPAddress
    protocol: int
    source_port: int
    destination_port: int


@dataclass(frozen=True)
class WordMasks:
    """What a hash mode lets through of each part of the flow key."""

    destination: int
    ports: int
    protocol: int


MASKS = {
    HashMode.SOURCE_IP: WordMasks(destination=0, ports=0, protocol=0),
    HashMode.SOURCE_IP_PORT: WordMasks(destination=0, ports=_SOURCE_PORT, protocol=0),
    HashMode.FIVE_TUPLE: WordMasks(destination=0xFFFFFFFF, ports=0xFFFFFFFF, protocol=0xFF),
}


def derive_keys(secret: bytes) -> tuple[int, ...]:
    """KEYS 64-bit keys from the fleet's secret (BLAKE2b in counter mode, RFC 7693).

    Raises:
        ValueError: the secret is shorter than 128 bits.
    """
    return _derive(secret, b"onward-flow-hash")


def derive_pin_keys(secret: bytes) -> tuple[int, ...]:
    """KEYS other keys, for `pin_hash`.

    Raises:
        ValueError: the secret is shorter than 128 bits.
    """
    return _derive(secret, b"onward-flow-pins")


def _derive(secret: bytes, purpose: bytes) -> tuple[int, ...]:
    if len(secret) < 16:
        raise ValueError(f"the fleet secret needs at least 16 bytes, this one has {len(secret)}")
    material = hashlib.blake2b(secret, digest_size=64, person=purpose).digest()
    stream = b"".join(
        hashlib.blake2b(counter.to_bytes(8, "little"), key=material, digest_size=64).digest() for counter in range(2)
    )
    return struct.unpack_from(f"<{KEYS}Q", stream)


def words(key: FlowKey, mode: HashMode) -> tuple[int, ...]:
    """The flow key's words: 4 for IPv4, 10 for IPv6."""
    ports = struct.pack("!HH", key.source_port, key.destination_port)
    return flow_words(key.source.packed, key.destination.packed, ports, key.protocol, mode)


def flow_words(source: bytes, destination: bytes, ports: bytes, protocol: int, mode: HashMode) -> tuple[int, ...]:
    """`words`, from the bytes of a packet.

    Args:
        source: 4 or 16 bytes.
        destination: as many.
        ports: the first 4 bytes of the L4 header.
        protocol: its number.
        mode: what of these counts.
    """
    masks = MASKS[mode]
    layout = _ONE_WORD if len(source) == 4 else _FOUR_WORDS
    return (
        *layout.unpack(source),
        *(word & masks.destination for word in layout.unpack(destination)),
        int.from_bytes(ports, "little") & masks.ports,
        protocol & masks.protocol,
    )


def hash_words(keys: Sequence[int], flow: Sequence[int]) -> int:
    """The 32-bit hash of an even number of words."""
    return _spread(keys, flow) >> 32


def pin_hash(keys: Sequence[int], flow: Sequence[int]) -> int:
    """The 64-bit hash of a whole flow key.

    Args:
        keys: from `derive_pin_keys`.
        flow: from `flow_words`, with the five tuple.
    """
    h = _spread(keys, flow)
    return h ^ h >> 32


def _spread(keys: Sequence[int], flow: Sequence[int]) -> int:
    h = keys[0]
    for i in range(0, len(flow), 2):
        h += (keys[i + 1] + flow[i]) * (keys[i + 2] + flow[i + 1])
    h &= _M64
    h ^= h >> 32
    h = h * FINAL & _M64
    h ^= h >> 32
    return h * FINAL & _M64


def hash_flow(keys: Sequence[int], key: FlowKey, mode: HashMode) -> int:
    """The 32-bit hash of a flow key."""
    return hash_words(keys, words(key, mode))


def slot_of(hash32: int, size: int) -> int:
    return hash32 * size >> 32


def hash_columns(keys: Sequence[int], columns: Sequence[npt.NDArray[np.integer]]) -> npt.NDArray[np.uint64]:
    """`hash_words` for many flows at once.

    Args:
        keys: from `derive_keys`.
        columns: 4 or 10 columns of words, all of one length, any unsigned type.

    Returns:
        The 32-bit hashes, as uint64.
    """
    k = np.array(keys, np.uint64)
    h = np.full(len(columns[0]), k[0], np.uint64)
    for i in range(0, len(columns), 2):
        h += (columns[i].astype(np.uint64) + k[i + 1]) * (columns[i + 1].astype(np.uint64) + k[i + 2])
    for _ in range(2):
        h ^= h >> np.uint64(32)
        h *= np.uint64(FINAL)
    h >>= np.uint64(32)
    return h
