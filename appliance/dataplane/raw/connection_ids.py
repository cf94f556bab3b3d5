"""Connection IDs of QUIC, for many datagrams at once: `packet.quic`, with AES over all of them in one call."""

from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from appliance.forwarding import NO_MEMBER, QuicServers
from appliance.model import QUIC_LENGTH, QuicConfig
from appliance.packet.quic import BLOCK

Bytes = npt.NDArray[np.uint8]
"""A row of bytes for each datagram."""

_UDP, _LONG_HEAD, _SHORT_HEAD = 8, 6, 1
_ID = 1 + QUIC_LENGTH
"""Bytes of a connection ID that can matter."""

SEEN = _UDP + _LONG_HEAD + _ID
"""Bytes of a datagram, its header included, that can."""


def members_of(datagrams: Bytes, known: tuple[QuicServers, ...]) -> npt.NDArray[np.int64]:
    """The members that connection IDs name, as TableMember.index; NO_MEMBER where one names nobody.

    Args:
        datagrams: SEEN bytes from the UDP header on. What is behind a datagram's own length does not count.
        known: what connection IDs can mean.
    """
    head = datagrams
    carried = (head[:, 4].astype(np.int64) << 8 | head[:, 5]) - _UDP
    is_long = head[:, _UDP] >= 0x80
    told = head[:, _UDP + 5].astype(np.int64)
    length = np.where(is_long, told, carried - _SHORT_HEAD)
    length[is_long & (told > carried - _LONG_HEAD)] = 0
    cids = np.where(
        is_long[:, None],
        head[:, _UDP + _LONG_HEAD :],
        head[:, _UDP + _SHORT_HEAD : _UDP + _SHORT_HEAD + _ID],
    )
    members = np.full(len(head), NO_MEMBER, np.int64)
    config_ids = cids[:, 0] >> 5
    for one in known:
        mine = (config_ids == one.config.config_id) & (length > one.config.length)
        if one.config.encode_length:
            low = cids[:, 0] & 0x1F
            mine &= (low >= one.config.length) & (~is_long | (low == length - 1))
        rows = np.flatnonzero(mine)
        if len(rows):
            members[rows] = _owners(cids[rows, 1 : 1 + one.config.length], one)
    return members


def _owners(cids: Bytes, known: QuicServers) -> npt.NDArray[np.int64]:
    ids = np.ascontiguousarray(_decrypted(cids, known.config)[:, : known.config.server_id_length])
    size, data, find = known.config.server_id_length, ids.tobytes(), known.servers.get
    return np.array([find(data[at : at + size], NO_MEMBER) for at in range(0, len(data), size)], np.int64)


def _decrypted(cids: Bytes, config: QuicConfig) -> Bytes:
    if config.key is None:
        return cids
    cipher: Cipher[Any] = Cipher(AES(config.key), ECB())  # noqa: S305 - the draft's
    if config.length == BLOCK:
        return np.frombuffer(cipher.decryptor().update(cids.tobytes()), np.uint8).reshape(-1, BLOCK)
    length, half = config.length, -(-config.length // 2)
    odd = length % 2
    left, right = cids[:, :half].copy(), cids[:, length - half :].copy()
    if odd:
        left[:, -1] &= 0xF0
        right[:, 0] &= 0x0F
    block = np.zeros((len(cids), BLOCK), np.uint8)
    block[:, BLOCK - 2] = length
    encryptor = cipher.encryptor()
    for number in (4, 3, 2, 1):
        if number == 1 and config.server_id_length <= length - half:
            break  # all of the server ID is in the left half
        by, changed = (left, right) if number % 2 else (right, left)
        block[:, :half], block[:, BLOCK - 1] = by, number
        changed ^= np.frombuffer(encryptor.update(block.tobytes()), np.uint8).reshape(-1, BLOCK)[:, :half]
        if odd and number % 2:
            right[:, 0] &= 0x0F
        elif odd:
            left[:, -1] &= 0xF0
    if odd:
        left[:, -1] |= right[:, 0]
        right = right[:, 1:]
    return np.hstack((left, right))
