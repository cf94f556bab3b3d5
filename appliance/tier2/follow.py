"""A pool whose members come and go by themselves: who is there, and what a configuration says then."""

import socket
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from appliance.config import edit
from appliance.config.document import Document
from appliance.model import Follow, IPAddress
from appliance.tier2 import registry


class FollowError(Exception):
    """It cannot be said who is there; the text says why."""


@dataclass(frozen=True)
class There:
    """A member that is there."""

    name: str
    address: IPAddress
    ratio: int | None = None
    """None: it does not say, so what the configuration says stays."""


def look(follow: Follow) -> tuple[There, ...]:
    """Who is there now, by folder or name. Blocks while names are looked up.

    Raises:
        FollowError: it cannot be said. Then members stay as they are.
    """
    if follow.folder is not None:
        try:
            entries, problems = registry.Folder(Path(follow.folder)).read()
        except OSError as error:
            raise FollowError(f"{follow.folder}: {error.strerror or error}") from None
        if problems:
            # To take out a member whose file cannot be read would be the worse mistake.
            raise FollowError("; ".join(problems))
        return of_entries(entries, follow.version)
    family = socket.AF_INET if follow.version == 4 else socket.AF_INET6
    try:
        answers = socket.getaddrinfo(follow.dns, None, family, socket.SOCK_STREAM)
    except OSError as error:
        raise FollowError(f"{follow.dns}: {error.strerror or error}") from None
    addresses = sorted({ip_address(answer[4][0]) for answer in answers}, key=int)
    return tuple(There(str(address), address) for address in addresses)


def of_entries(entries: Iterable[registry.Entry], version: int) -> tuple[There, ...]:
    """By their addresses of one family."""
    return tuple(
        There(entry.name, address, entry.ratio)
        for entry in entries
        for address in entry.addresses
        if address.version == version
    )


def members(written: Sequence[Mapping[str, Any]], there: Iterable[There]) -> list[dict[str, Any]] | None:
    """What a pool's members are to be; None: they are that already, or nobody is there, and then they stay.

    Args:
        written: the members as they are in the configuration: those who stay keep all that was said of them.
        there: who is there.
    """
    wanted = {one.address: one for one in there}
    if not wanted:
        return None
    found: list[dict[str, Any]] = []
    for table in written:
        one = wanted.pop(ip_address(table["address"]), None)
        if one is not None:
            found.append({**table, "ratio": one.ratio} if one.ratio not in (None, table.get("ratio", 1)) else {**table})
    taken = {str(table.get("name", table["address"])) for table in found}
    for address, one in sorted(wanted.items(), key=lambda pair: (pair[1].name, str(pair[0]))):
        name = one.name if one.name not in taken else str(address)
        found.append(
            {"name": name, "address": str(address), **({} if one.ratio in (None, 1) else {"ratio": one.ratio})}
        )
    return None if found == [dict(table) for table in written] else found


def changed(document: Document, pool: str, there: Iterable[There]) -> Mapping[str, str]:
    """The texts of a configuration in which a pool has who is there.

    Raises:
        ConfigError: the text cannot be changed.
    """
    table = written(document, pool)
    now = members(table["member"], there) if table is not None else None
    if table is None or now is None:
        return document.texts
    return edit.put(document, [edit.Edit("pool", pool, {**table, "member": now})]).texts


def written(document: Document, pool: str) -> dict[str, Any] | None:
    """A pool as it is written down; None where there is none of that name."""
    for text in document.texts.values():
        for table in tomllib.loads(text).get("pool", []):
            if table.get("name") == pool:
                return dict(table)
    return None
