"""An agent and a director's side of it, over real HTTP on loopback."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path

import pytest

from appliance.doctor.agent import Agent
from appliance.doctor.vantage import AgentVantage, VantageError
from tests.unit.doctor.evidence import VIP

SECRET = b"what agents of this test know"
LOOPBACK = ip_address("127.0.0.1")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def listens(port: int) -> None:
    for _ in range(500):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        await asyncio.sleep(0.01)


def run(test: Callable[[int], Awaitable[None]], root: Path) -> None:
    """With an agent at a port of the loopback interface."""

    async def inside() -> None:
        stop, port = asyncio.Event(), free_port()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(Agent(SECRET, root).run("127.0.0.1", port, stop))
            try:
                await listens(port)
                await test(port)
            finally:
                stop.set()

    asyncio.run(inside())


def test_who_knows_the_secret_gets_a_report(tmp_path: Path) -> None:
    """Of this machine; nobody has watched, so nothing is said of packets."""

    async def test(port: int) -> None:
        found = await AgentVantage(LOOPBACK, port, SECRET).report([VIP])
        assert "lo" in found.devices
        assert not found.watched

    run(test, tmp_path)


def test_who_does_not_know_it_gets_nothing(tmp_path: Path) -> None:
    """And is told that, without a word about the machine."""

    async def test(port: int) -> None:
        with pytest.raises(VantageError, match=r"refuses \(401\): another secret"):
            await AgentVantage(LOOPBACK, port, b"another secret of somebody").report([VIP])

    run(test, tmp_path)


def test_answers_of_others_are_not_taken() -> None:
    """Somebody listens there who does not know the secret, or nobody does."""

    async def test() -> None:
        async def lie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nOnward-Answer: 00\r\nConnection: close\r\n\r\n{}")
            writer.close()

        async with await asyncio.start_server(lie, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(VantageError, match="does not know the secret"):
                await AgentVantage(LOOPBACK, port, SECRET).report([VIP])
        with pytest.raises(VantageError, match="agent at"):
            await AgentVantage(LOOPBACK, port, SECRET).begin([LOOPBACK], [VIP])

    asyncio.run(test())
