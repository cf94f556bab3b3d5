"""A store in etcd 3.4 or newer, through the JSON gateway that is part of every etcd.

The gateway is the gRPC API (https://etcd.io/docs/v3.5/dev-guide/api_grpc_gateway/) with keys and values in base64,
64-bit integers as strings, and everything left out that is zero, empty or false. Streams are JSON objects, one a line.
"""

import asyncio
import json
import random
import ssl
from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from itertools import chain
from types import MappingProxyType
from typing import Any, NoReturn

import aiohttp

from appliance.fleet.client import (
    AT_ONCE,
    Change,
    CompactedError,
    Entry,
    LeaseGoneError,
    Reading,
    RefusedError,
    StoreError,
    Swapped,
    UnavailableError,
)
from appliance.model import Etcd

DEADLINE_S = 1.5
"""For every request. Within a healthy cluster one takes milliseconds; an election takes 1 to 2 s."""

HEALTH_S = 0.5
"""For the question whether a node is well: it needs no disk."""

_CREDENTIALS = "check fleet.etcd.user, its password, and the user's roles (etcdctl user get)"
_REFUSALS = {
    "authentication failed": _CREDENTIALS,
    "permission denied": "grant the user readwrite on the prefix (etcdctl role grant-permission --prefix)",
    "user name is empty": "the cluster wants credentials: set fleet.etcd.user and fleet.etcd.password_file",
    "authentication is not enabled": "remove fleet.etcd.user, or enable authentication (etcdctl auth enable)",
    "invalid auth token": _CREDENTIALS,
    "revision of auth store is old": _CREDENTIALS,
}
"""What etcd says (server/etcdserver/api/v3rpc/rpctypes), and what to do about it."""


class EtcdStore:
    """A cluster of etcd nodes."""

    def __init__(self, where: Etcd, rng: random.Random, *, deadline_s: float = DEADLINE_S) -> None:
        """
        Args:
            where: nodes, prefix and credentials.
            rng: which node it is when more than one is well.
            deadline_s: for every request.

        Raises:
            ValueError: no endpoints.
        """
        if not where.endpoints:
            raise ValueError("fleet.etcd.endpoints names no node")
        self._where = where
        self._deadline_s = deadline_s
        self._endpoints = [endpoint.rstrip("/") for endpoint in where.endpoints]
        self._rng = rng
        self._token: str | None = None

    @asynccontextmanager
    async def session(self) -> AsyncIterator["EtcdSession"]:
        """See `client.Store`. All nodes are asked, and the first that is well is taken; certificates are read anew."""
        async with aiohttp.ClientSession(connector=self._connector()) as http:
            endpoint = await self._first_healthy(http)
            session = EtcdSession(http, endpoint, self._where.prefix, self._deadline_s)
            if self._where.user:
                if self._token is None:
                    self._token = await session.authenticate(self._where.user, self._where.password)
                session.use(self._token)
            try:
                yield session
            except RefusedError:
                self._token = None  # tokens do not outlive a restart of the node
                raise

    async def _first_healthy(self, http: aiohttp.ClientSession) -> str:
        """A node that says that it has a quorum.

        Raises:
            StoreError: there is none; of what each of them says, the one that most needs somebody to do something.
        """
        errors = []
        async with asyncio.TaskGroup() as tasks:
            asked = {tasks.create_task(_health(http, endpoint), name="fleet:health") for endpoint in self._endpoints}
            while asked:
                answered, asked = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
                answers = [task.result() for task in answered]
                well = [answer for answer in answers if isinstance(answer, str)]
                if well:
                    for task in asked:
                        task.cancel()
                    return self._rng.choice(well)
                errors += [answer for answer in answers if isinstance(answer, StoreError)]
        text = "; ".join(sorted(map(str, errors)))
        raise RefusedError(text) if any(isinstance(error, RefusedError) for error in errors) else UnavailableError(text)

    def _connector(self) -> aiohttp.TCPConnector:
        """For plain HTTP a context makes no difference."""
        where = self._where
        try:
            context = ssl.create_default_context(cafile=where.ca_file)
            if where.cert_file is not None:
                context.load_cert_chain(where.cert_file, where.key_file)
        except (OSError, ValueError) as error:
            raise RefusedError(
                f"fleet.etcd: certificates cannot be used: {error}; check ca_file, cert_file and key_file"
            ) from error
        return aiohttp.TCPConnector(ssl=context)


async def _health(http: aiohttp.ClientSession, endpoint: str) -> str | StoreError:
    """The endpoint, if the node says that it has a quorum."""
    try:
        async with asyncio.timeout(HEALTH_S), http.get(f"{endpoint}/health") as answer:
            text = await answer.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        return _trouble(endpoint, error, HEALTH_S)
    try:
        state = json.loads(text)
        well = state["health"] in ("true", True)
    except (ValueError, KeyError, TypeError):
        return _not_etcd(endpoint, answer.status, text)
    return endpoint if well else UnavailableError(f"{endpoint}: is without quorum {state.get('reason', '')}".rstrip())


def _trouble(endpoint: str, error: Exception, deadline_s: float) -> StoreError:
    """What an exception of the connection means."""
    if isinstance(error, TimeoutError):
        return UnavailableError(f"{endpoint}: no answer within {deadline_s} s")
    causes: list[BaseException | None] = [error]
    while causes[-1] is not None:
        causes.append(causes[-1].__cause__ or causes[-1].__context__)
    hint = "check fleet.etcd.ca_file, cert_file and key_file, and the node's own certificate"
    if any(isinstance(cause, ssl.SSLError | aiohttp.ClientSSLError) for cause in causes):
        return RefusedError(f"{endpoint}: {error}; {hint}")
    if isinstance(error, aiohttp.ClientConnectorError):
        return UnavailableError(f"{endpoint}: {error.strerror or error}")
    # A node that does not like a certificate closes the connection, and why is not always heard.
    return UnavailableError(f"{endpoint}: the connection was lost{f'; {hint}' if endpoint.startswith('https') else ''}")


def _not_etcd(endpoint: str, status: int, text: bytes) -> StoreError:
    shown = text[:100].decode(errors="replace").strip()
    return UnavailableError(
        f"{endpoint}: not the answer of an etcd 3.4 or newer: {status} {shown}; check fleet.etcd.endpoints"
    )


class EtcdSession:
    """See `client.Session`."""

    def __init__(self, http: aiohttp.ClientSession, endpoint: str, prefix: str, deadline_s: float) -> None:
        self._http = http
        self._endpoint = endpoint
        self._prefix = prefix
        self._deadline_s = deadline_s
        # Without a leader a node could go on with a watch that never tells anything; this has it say so instead.
        self._headers = {"Grpc-Metadata-hasleader": "true"}

    @property
    def endpoint(self) -> str:
        return self._endpoint

    async def authenticate(self, user: str, password: str) -> str:
        """A token for `use`."""
        answer = await self._ask("auth/authenticate", {"name": user, "password": password})
        return str(answer["token"])

    def use(self, token: str) -> None:
        """From now on."""
        self._headers["Authorization"] = token

    async def read(self) -> Reading:
        answer = await self._ask("kv/range", self._everything())
        return Reading(_revision(answer), dict(map(self._entry, answer.get("kvs", ()))))

    async def write(self, puts: Mapping[str, str], deletes: Iterable[str] = (), *, lease: int | None = None) -> None:
        operations = list(
            chain(
                ({"request_delete_range": {"key": self._key(key)}} for key in deletes),
                ({"request_put": self._put(key, value, lease)} for key, value in puts.items()),
            )
        )
        for start in range(0, len(operations), AT_ONCE):
            await self._ask("kv/txn", {"success": operations[start : start + AT_ONCE]})

    async def swap(
        self, key: str, value: str, revision: int, beside: Mapping[str, str] = MappingProxyType({})
    ) -> Swapped:
        name = self._key(key)
        answer = await self._ask(
            "kv/txn",
            {
                "compare": [{"key": name, "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}],
                "success": [
                    {"request_put": self._put(each, text, None)} for each, text in {**beside, key: value}.items()
                ],
                "failure": [{"request_range": {"key": name}}],
            },
        )
        if answer.get("succeeded"):
            return Swapped(True, Entry(value, _revision(answer)))
        found = answer["responses"][0]["response_range"].get("kvs", ())
        return Swapped(False, self._entry(found[0])[1] if found else None)

    async def grant(self, ttl_s: int) -> int:
        return int((await self._ask("lease/grant", {"TTL": str(ttl_s)}))["ID"])

    async def keep_alive(self, lease: int) -> None:
        answer = await self._ask("lease/keepalive", {"ID": str(lease)})  # a stream of one answer
        if int(answer["result"].get("TTL", 0)) <= 0:
            raise LeaseGoneError(f"{self._endpoint}: the lease has run out")

    async def revoke(self, lease: int) -> None:
        await self._ask("lease/revoke", {"ID": str(lease)})

    async def watch(self, after: int) -> AsyncGenerator[tuple[Change, ...], None]:
        body = {"create_request": self._everything() | {"start_revision": str(after + 1)}}
        limits = aiohttp.ClientTimeout(total=None, sock_connect=self._deadline_s)
        try:
            async with self._http.post(self._url("watch"), json=body, headers=self._headers, timeout=limits) as answer:
                rest = b""
                async for piece in answer.content.iter_any():
                    *lines, rest = (rest + piece).split(b"\n")
                    for line in filter(bytes.strip, lines):
                        if changes := self._changes(line, answer.status):
                            yield changes
                if rest.strip():
                    self._changes(rest, answer.status)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _trouble(self._endpoint, error, self._deadline_s) from error
        raise UnavailableError(f"{self._endpoint}: the watch has ended")

    def _changes(self, line: bytes, status: int) -> tuple[Change, ...]:
        result = self._parsed(line, status)["result"]
        if result.get("canceled"):
            if "compact_revision" in result:
                raise CompactedError(f"{self._endpoint}: compacted up to {result['compact_revision']}")
            self._complain(str(result.get("cancel_reason", "the watch was cancelled")))
        return tuple(map(self._change, result.get("events", ())))

    def _change(self, event: Mapping[str, Any]) -> Change:
        key, entry = self._entry(event["kv"])
        return Change(key, None if event.get("type") == "DELETE" else entry.value, entry.revision)

    async def _ask(self, what: str, body: Mapping[str, object]) -> dict[str, Any]:
        try:
            async with (
                asyncio.timeout(self._deadline_s),
                self._http.post(self._url(what), json=body, headers=self._headers) as answer,
            ):
                return self._parsed(await answer.read(), answer.status)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _trouble(self._endpoint, error, self._deadline_s) from error

    def _parsed(self, text: bytes, status: int) -> dict[str, Any]:
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise _not_etcd(self._endpoint, status, text)
        if error := answer.get("error"):
            self._complain(str(error.get("message", error) if isinstance(error, dict) else error))
        return answer

    def _complain(self, text: str) -> NoReturn:
        """By the text: codes differ between versions, and between requests and streams."""
        if "requested lease not found" in text:
            raise LeaseGoneError(f"{self._endpoint}: {text}")
        if "has been compacted" in text:
            raise CompactedError(f"{self._endpoint}: {text}")
        for refusal, remedy in _REFUSALS.items():
            if refusal in text:
                raise RefusedError(f"{self._endpoint}: {text}; {remedy}")
        raise UnavailableError(f"{self._endpoint}: {text}")

    def _url(self, what: str) -> str:
        return f"{self._endpoint}/v3/{what}"

    def _everything(self) -> dict[str, object]:
        """The keys that begin with the prefix: up to, not including, the first that does not."""
        first = self._prefix.encode()
        return {"key": _b64(first), "range_end": _b64(first[:-1] + bytes([first[-1] + 1]))}

    def _key(self, key: str) -> str:
        return _b64(f"{self._prefix}{key}".encode())

    def _put(self, key: str, value: str, lease: int | None) -> dict[str, object]:
        put: dict[str, object] = {"key": self._key(key), "value": _b64(value.encode())}
        return put if lease is None else put | {"lease": str(lease)}

    def _entry(self, kv: Mapping[str, Any]) -> tuple[str, Entry]:
        key = b64decode(kv["key"]).decode(errors="replace")
        value = b64decode(kv.get("value", "")).decode(errors="replace")
        return key.removeprefix(self._prefix), Entry(value, int(kv["mod_revision"]))


def _b64(raw: bytes) -> str:
    return b64encode(raw).decode()


def _revision(answer: Mapping[str, Any]) -> int:
    return int(answer["header"]["revision"])
