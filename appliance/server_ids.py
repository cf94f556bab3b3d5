"""Which server ID a member has in connection IDs of QUIC. Pure: all directors come to the same, and so does whoever
configures members."""

import hashlib
from collections.abc import Iterator, Mapping

from appliance.model import Pool, QuicConfig


def server_ids(pool: Pool, config: QuicConfig, secret: bytes) -> Mapping[str, bytes]:
    """By name, the server IDs of a pool's members.

    What a member is not given follows from its name, that of its pool, the config ID and the fleet's secret: other
    members come and go without a change, and with another config ID all are others, as the draft wants it where some
    configurations have a key and some have not.

    Args:
        pool: whose members.
        config: gives the length.
        secret: the fleet's.
    """
    return {
        member.name: member.server_id
        if member.server_id is not None and len(member.server_id) == config.server_id_length
        else _derived(f"{pool.name}/{member.name}", config, secret)
        for member in pool.members
    }


def collisions(pool: Pool, config: QuicConfig, secret: bytes) -> Iterator[tuple[str, str]]:
    """Pairs of members with the same server ID: the later one, and the one that has had it first."""
    owners: dict[bytes, str] = {}
    for name, server_id in server_ids(pool, config, secret).items():
        if server_id in owners:
            yield name, owners[server_id]
        owners.setdefault(server_id, name)


def _derived(member: str, config: QuicConfig, secret: bytes) -> bytes:
    key = hashlib.blake2b(secret, digest_size=64, person=b"onward-server-id").digest()
    text = bytes((config.config_id,)) + member.encode()
    return hashlib.blake2b(text, digest_size=config.server_id_length, key=key).digest()
