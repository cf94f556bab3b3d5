"""The contract of a store that a fleet agrees by: small values under keys, changes in one order, leases.

`etcd.py` speaks it to etcd, `fake.py` in memory. Keys are relative to the fleet's prefix. Pure but for the waiting.
"""

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

AT_ONCE = 101
"""Puts and deletes that one `Session.write` does all together or not at all; etcd takes 128 (--max-txn-ops). A hundred
orders, and the mark that there are some."""


class StoreError(Exception):
    """The store did not do what it was asked; the text names the place, and the remedy where there is one."""


class UnavailableError(StoreError):
    """It cannot be reached, is without quorum, or did not answer in time. What was asked may have been done."""


class RefusedError(StoreError):
    """It is there and says no: credentials, certificates, permissions, version. Somebody has to do something."""


class CompactedError(StoreError):
    """What happened since the revision that was asked for is not known any more: read everything anew."""


class LeaseGoneError(StoreError):
    """The lease has run out, and everything under it is gone."""


@dataclass(frozen=True)
class Entry:
    """A value with the revision of the store that wrote it."""

    value: str
    revision: int


@dataclass(frozen=True)
class Reading:
    """All that was there at one revision."""

    revision: int
    entries: Mapping[str, Entry]


@dataclass(frozen=True)
class Change:
    """A key that was written, or deleted (None)."""

    key: str
    value: str | None
    revision: int


@dataclass(frozen=True)
class Swapped:
    """How a compare-and-swap went."""

    won: bool
    entry: Entry | None
    """What is there now: one's own, or what somebody else had written before."""


class Session(Protocol):
    """A connection to one node of the store. Every method raises `StoreError`, and then the session is of no use."""

    @property
    def endpoint(self) -> str:
        """The node, for people."""

    async def read(self) -> Reading:
        """Everything, as a majority of the store has it."""

    async def write(self, puts: Mapping[str, str], deletes: Iterable[str] = (), *, lease: int | None = None) -> None:
        """Put and delete; no key may be in both. All or nothing, at one revision, up to AT_ONCE of them.

        Args:
            puts: values by key.
            deletes: keys; those that are not there do no harm.
            lease: what is put goes away with it; None stays.
        """

    async def swap(
        self, key: str, value: str, revision: int, beside: Mapping[str, str] = MappingProxyType({})
    ) -> Swapped:
        """Put only if the key was last written at *revision* (0: is not there).

        Args:
            key: what is compared and put.
            value: for it.
            revision: see above.
            beside: other values that are put then as well, by key; fewer than AT_ONCE.
        """

    async def grant(self, ttl_s: int) -> int:
        """A new lease, which runs out after so many seconds without `keep_alive`."""

    async def keep_alive(self, lease: int) -> None:
        """Start the lease's time anew.

        Raises:
            LeaseGoneError: it has run out.
        """

    async def revoke(self, lease: int) -> None:
        """End the lease, and delete everything under it."""

    def watch(self, after: int) -> AsyncGenerator[tuple[Change, ...], None]:
        """What happens after a revision, in order; never ends by itself.

        Raises:
            CompactedError: some of that is not known any more.
            UnavailableError: the node was lost, or has lost the others.
        """


class Store(Protocol):
    """Opens sessions."""

    def session(self) -> AbstractAsyncContextManager[Session]:
        """A session with a node that is well, logged in."""
