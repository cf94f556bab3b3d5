"""The connection log: what is written down of flows that are over, a sample of all.

Everything in it was seen from one side. A director sees what clients send, and no replies (DSR): what members have
sent is not known, and said to be null rather than 0.
"""

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog

from appliance.dataplane.logged import FIN, RST, LoggedFlows, one_of
from appliance.dataplane.pins import addresses
from appliance.decide import Desired
from appliance.forwarding import TableService
from appliance.model import ConnectionLog, IPAddress, Protocol

log = structlog.get_logger()

LOOK_S = 1.0
LINGER_NS = 5_000_000_000
"""After a FIN or RST the last packets of a flow may still come for so long."""

LONGEST_IDLE_S = 3600.0
"""A flow of a service without an idle timeout is over for the log after so long without a packet."""

HIDDEN = {"packets_to_client": None, "bytes_to_client": None, "response_ms": None}
"""What direct server return hides."""

Document = dict[str, Any]
Flows = npt.NDArray[np.void]


@dataclass(frozen=True)
class ConnectionLogStatus:
    """What has become of flows in the sample."""

    written: int = 0
    lost: int = 0
    """Flows that could not be written."""
    missed: int = 0
    """Packets that found no room in the plane's table."""


class Services:
    """Virtual services of tables, by what packets say."""

    def __init__(self, desired: Desired) -> None:
        self._members = desired.tables.members
        self._by: dict[tuple[bytes, int], list[TableService]] = {}
        for service in desired.tables.services:
            self._by.setdefault((service.vip.packed, service.protocol), []).append(service)

    def find(self, vip: bytes, protocol: int, port: int) -> TableService | None:
        """The virtual service of a port: the narrowest range that has it."""
        found = [
            (ports.last - ports.first, number, service)
            for number, service in enumerate(self._by.get((vip, protocol), ()))
            for ports in service.ports
            if ports.first <= port <= ports.last
        ]
        return min(found)[2] if found else None

    def member(self, index: int) -> tuple[str, str] | tuple[None, None]:
        """`pool/member` and address; nothing of one that has left the tables."""
        member = self._members.get(index)
        return (member.id, str(member.address)) if member is not None else (None, None)


def ends(flows: Flows, now_ns: int, services: Services) -> Iterator[str]:
    """How each flow has ended: `fin`, `rst` or `idle`; empty when it has not.

    Args:
        flows: LOGGED.
        now_ns: by the clock that they have.
        services: in force; a flow whose service is gone is over.
    """
    columns = [flows[name].tolist() for name in ("last_ns", "flags", "protocol", "ports")]
    known: dict[tuple[bytes, int, int], float] = {}
    for vip, last_ns, flags, protocol, ports in zip(addresses(flows["destination"]), *columns, strict=True):
        silent_ns = now_ns - last_ns
        if flags & (FIN | RST):
            yield ("rst" if flags & RST else "fin") if silent_ns > LINGER_NS else ""
            continue
        key = vip, protocol, _port(ports >> 16)
        if key not in known:
            service = services.find(*key)
            known[key] = 0.0 if service is None else service.idle_timeout_s or LONGEST_IDLE_S
        yield "idle" if silent_ns > known[key] * 1e9 else ""


def documents(
    flows: Flows, ended: Iterable[str], services: Services, ahead_s: float, director: str
) -> Iterator[Document]:
    """Flows that are over, as they are written down.

    Args:
        flows: LOGGED.
        ended: how.
        services: in force.
        ahead_s: what the time since 1970 is ahead of the clock that they have.
        director: our name.
    """
    endpoints = zip(addresses(flows["source"]), addresses(flows["destination"]), strict=True)
    for (source, destination), flow, end in zip(endpoints, flows, ended, strict=True):
        first, last, answered = (int(flow[name]) for name in ("first_ns", "last_ns", "answered_ns"))
        ports, protocol, syns = (int(flow[name]) for name in ("ports", "protocol", "syns"))
        port = _port(ports >> 16)
        service = services.find(destination, protocol, port)
        member, address = services.member(int(flow["member"]))
        yield {
            "start": datetime.fromtimestamp(first / 1e9 + ahead_s, UTC).isoformat(timespec="milliseconds"),
            "duration_s": round((last - first) / 1e9, 3),
            "end": end,
            "director": director,
            "protocol": "tcp" if protocol == Protocol.TCP else "udp",
            "client": str(_address(source)),
            "client_port": _port(ports & 0xFFFF),
            "vip": str(_address(destination)),
            "port": port,
            "service": service.name if service is not None else None,
            "member": member,
            "member_address": address,
            "packets": int(flow["packets"]),
            "bytes": int(flow["bytes"]),
            "syns": syns,
            # Where a SYN came again nobody knows which of them the answer was to.
            "handshake_ms": round((answered - first) / 1e6, 3) if answered and syns == 1 else None,
            "moves": int(flow["moves"]),
            "one_of": one_of(int(flow["share"])),
            **HIDDEN,
        }


def _port(word: int) -> int:
    return (word & 0xFF) << 8 | word >> 8 & 0xFF


def _address(packed: bytes) -> IPAddress:
    return ip_address(packed)


class Connections:
    """Writes down flows that are over."""

    def __init__(
        self,
        flows: Callable[[], LoggedFlows],
        applied: Callable[[], Desired | None],
        director: str,
        clock: Callable[[], float],
    ) -> None:
        """
        Args:
            flows: of the data plane.
            applied: the tables in force.
            director: our name.
            clock: seconds since 1970.
        """
        self._flows = flows
        self._applied = applied
        self._director = director
        self._clock = clock
        self._settings = ConnectionLog()
        self._failed = ""
        self._written = self._lost = 0
        self._services: tuple[Desired, Services] | None = None

    def status(self) -> ConnectionLogStatus:
        """What has become of flows so far."""
        return ConnectionLogStatus(self._written, self._lost, self._flows().missed)

    def follow(self, settings: ConnectionLog) -> None:
        """Log so many flows from now on."""
        self._settings = settings
        self._flows().sample(settings.one_of)

    async def run(self) -> None:
        """Look once a second, in a thread."""
        while True:
            await asyncio.sleep(LOOK_S)
            flows, applied = self._flows(), self._applied()
            if applied is not None and flows.live:
                await asyncio.to_thread(self._look, flows, applied, ends)

    def close(self) -> None:
        """Write down the flows that are there when the director stops: they may go on, but it does not see them."""
        applied = self._applied()
        if applied is not None:
            self._look(self._flows(), applied, lambda flows, *_: ["director_stopped"] * len(flows))

    def _look(
        self, flows: LoggedFlows, applied: Desired, judge: Callable[[Flows, int, Services], Iterable[str]]
    ) -> None:
        if self._services is None or self._services[0] is not applied:
            self._services = applied, Services(applied)  # with thousands of them it takes a while
        services = self._services[1]
        ended: list[str] = []
        ahead_s = 0.0

        def over(found: Flows, now_ns: int) -> Iterable[bool]:
            nonlocal ahead_s
            ahead_s = self._clock() - now_ns / 1e9
            how = list(judge(found, now_ns, services))
            ended.extend(filter(None, how))
            return map(bool, how)

        taken = flows.take(over)
        self._write(list(documents(taken, ended, services, ahead_s, self._director)), self._settings)

    def _write(self, found: list[Mapping[str, object]], settings: ConnectionLog) -> None:
        if not found:
            return
        if settings.file is None:
            for document in found:
                log.info("flow.ended", **document)
            self._written += len(found)
            return
        text = "".join(f"{json.dumps(document)}\n" for document in found)
        try:
            # Opened anew each time: whoever rotates the file need not tell us.
            with Path(settings.file).open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            self._lost += len(found)
            if str(error) != self._failed:
                log.warning("flow.not_written", file=str(settings.file), error=str(error))
            self._failed = str(error)
            return
        self._failed = ""
        self._written += len(found)
