"""Connection IDs of QUIC that name the server which has made them (draft-ietf-quic-load-balancers-21, "QUIC-LB").

A client that changes its address, or whose NAT does, keeps its connection, and its packets another port or address: by
the hash of these they would go to another member. So members make connection IDs from which a director reads whose they
are, without any state:

    first byte      config ID, 3 bits (7: names nobody); length of the rest or chance, 5 bits
    the rest        server ID and nonce, as they are or encrypted; more bytes may follow

Without a key they stand there as they are. With one, 16 bytes are one block of AES-128; any other number goes through a
Feistel network of four rounds, with that cipher as the round's function.

Where a connection ID stands in a packet is the same for all versions of QUIC (RFC 8999):

    long header     1 byte with the highest bit set, version (4), length of the ID (1), ID
    short header    1 byte with the highest bit clear, ID (of a length that the packet does not tell)

The first packets of a client have an ID of its own choice. Those name nobody, mostly since they are too short, and go
by the hash of addresses and ports, as the draft has it ("baseline fallback").
"""

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from appliance.forwarding import QuicServers
from appliance.model import QuicConfig

BLOCK = 16
"""What AES takes at once, bytes."""

_LONG, _LONG_HEAD, _SHORT_HEAD = 0x80, 6, 1
HEAD = _LONG_HEAD + 255
"""Bytes of a datagram that can matter: a long header with the longest ID."""

_LENGTH_BITS = 0x1F


def member_of(payload: bytes, known: tuple[QuicServers, ...]) -> int | None:
    """The member that a datagram's connection ID names, or None: it has none, or one that names nobody of ours.

    Args:
        payload: of UDP, as far as it is there.
        known: what IDs can mean.
    """
    cid = connection_id(payload)
    if cid is None:
        return None
    found, is_whole = cid
    for one in known:
        if one.config.config_id == found[0] >> 5:
            server_id = server_id_of(found, one.config, is_whole=is_whole)
            return one.servers.get(server_id) if server_id is not None else None
    return None


def connection_id(payload: bytes) -> tuple[bytes, bool] | None:
    """The destination connection ID of a QUIC packet (RFC 8999), and whether that is all of it: a short header does not
    tell where it ends. None where there is none."""
    if not payload:
        return None
    if not payload[0] & _LONG:
        return (payload[_SHORT_HEAD:], False) if len(payload) > _SHORT_HEAD else None
    if len(payload) < _LONG_HEAD or not payload[5] or len(payload) < _LONG_HEAD + payload[5]:
        return None
    return payload[_LONG_HEAD : _LONG_HEAD + payload[5]], True


def server_id_of(cid: bytes, config: QuicConfig, *, is_whole: bool = True) -> bytes | None:
    """The server ID in a connection ID, or None where it is not of that configuration.

    Args:
        cid: its bytes; without `is_whole`, more may follow.
        config: its first three bits are the config ID.
        is_whole: whether it ends there.
    """
    if len(cid) <= config.length or cid[0] >> 5 != config.config_id:
        return None
    told = cid[0] & _LENGTH_BITS
    if config.encode_length and (told < config.length or (is_whole and told != len(cid) - 1)):
        return None
    return decrypted(cid[1 : 1 + config.length], config)[: config.server_id_length]


def make(config: QuicConfig, server_id: bytes, nonce: bytes, low_bits: int = 0) -> bytes:
    """A connection ID, as a server makes it.

    Args:
        config: how.
        server_id: of `server_id_length` bytes.
        nonce: of `nonce_length` bytes, never the same twice; by chance where there is no key.
        low_bits: the last five of the first byte where the length does not stand there: chance.
    """
    told = config.length if config.encode_length else low_bits
    return bytes((config.config_id << 5 | told,)) + encrypted(server_id + nonce, config)


def encrypted(plain: bytes, config: QuicConfig) -> bytes:
    """Server ID and nonce as they stand in a connection ID: of the same length."""
    if config.key is None:
        return plain
    if len(plain) == BLOCK:
        encryptor = Cipher(AES(config.key), ECB()).encryptor()  # noqa: S305 - the draft's; one block, with a nonce in it
        return encryptor.update(plain)
    return _feistel(plain, config.key, (1, 2, 3, 4))


def decrypted(cipher: bytes, config: QuicConfig) -> bytes:
    """The reverse of `encrypted`."""
    if config.key is None:
        return cipher
    if len(cipher) == BLOCK:
        decryptor = Cipher(AES(config.key), ECB()).decryptor()  # noqa: S305
        return decryptor.update(cipher)
    return _feistel(cipher, config.key, (4, 3, 2, 1))


def _feistel(text: bytes, key: bytes, passes: tuple[int, ...]) -> bytes:
    """Four rounds over two halves. Of an odd number of bytes, the one in the middle is cut in two."""
    length, half = len(text), -(-len(text) // 2)
    odd = length % 2
    left, right = bytearray(text[:half]), bytearray(text[length - half :])
    if odd:
        left[-1] &= 0xF0
        right[0] &= 0x0F
    encryptor = Cipher(AES(key), ECB()).encryptor()  # noqa: S305
    for number in passes:
        # Odd rounds change the right half, even ones the left.
        by, changed = (left, right) if number % 2 else (right, left)
        block = encryptor.update(bytes(by).ljust(BLOCK - 2, b"\0") + bytes((length, number)))
        for at in range(half):
            changed[at] ^= block[at]
        if odd and number % 2:
            right[0] &= 0x0F
        elif odd:
            left[-1] &= 0xF0
    if not odd:
        return bytes(left + right)
    return bytes(left[:-1]) + bytes((left[-1] | right[0],)) + bytes(right[1:])
