"""Where the doctor gets a member's own view from: its agent, or a file that somebody has brought."""

import asyncio
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import aiohttp

from appliance.doctor.member import LARGEST, IPAddress, MemberReport, ReportError, read_report
from appliance.doctor.proof import ANSWER, QUESTION, answer, question

TIMEOUT_S = 5.0


class VantageError(Exception):
    """The member says nothing of itself; the text says why."""


class Vantage(Protocol):
    """A member's own view. One run of the doctor asks each once."""

    @property
    def name(self) -> str:
        """Where it comes from, for people."""

    async def begin(self, askers: Sequence[IPAddress], vips: Sequence[IPAddress]) -> None:
        """Look at what is about to come.

        Args:
            askers: addresses of this director.
            vips: that are asked.

        Raises:
            VantageError: it does not answer, or refuses.
        """

    async def report(self, vips: Sequence[IPAddress]) -> MemberReport:
        """What was seen meanwhile, and all else.

        Raises:
            VantageError: it does not answer, or refuses.
        """


class Given:
    """A report that was made before."""

    def __init__(self, report: MemberReport) -> None:
        self._report = report

    @property
    def name(self) -> str:
        return "a report that was brought"

    async def begin(self, askers: Sequence[IPAddress], vips: Sequence[IPAddress]) -> None:
        """Nothing can be looked at any more."""

    async def report(self, vips: Sequence[IPAddress]) -> MemberReport:
        return self._report


class AgentVantage:
    """`onward agent` at a member's own address."""

    def __init__(self, address: IPAddress, port: int, secret: bytes) -> None:
        self._host = f"[{address}]" if address.version == 6 else str(address)
        self._port = port
        self._secret = secret

    @property
    def name(self) -> str:
        return f"agent at {self._host}:{self._port}"

    async def begin(self, askers: Sequence[IPAddress], vips: Sequence[IPAddress]) -> None:
        body = {"askers": list(map(str, askers)), "vips": list(map(str, vips))}
        await self._ask("/v1/watch", body)

    async def report(self, vips: Sequence[IPAddress]) -> MemberReport:
        text = await self._ask("/v1/report", {"vips": list(map(str, vips))})
        try:
            return read_report(text)
        except ReportError as error:
            raise VantageError(f"{self.name}: {error}") from error

    async def _ask(self, path: str, body: Mapping[str, object]) -> bytes:
        data, nonce = json.dumps(body).encode(), secrets.token_hex(16)
        headers = {QUESTION: question(self._secret, int(time.time()), nonce, f"POST {path}", data)}
        url = f"http://{self._host}:{self._port}{path}"
        try:
            async with (
                asyncio.timeout(TIMEOUT_S),
                aiohttp.ClientSession(trust_env=False) as session,
                session.post(url, data=data, headers=headers, allow_redirects=False) as response,
            ):
                text = await response.content.read(LARGEST + 1)
                while not response.content.at_eof() and len(text) <= LARGEST:
                    text += await response.content.read(LARGEST + 1 - len(text))
                said, status = response.headers.get(ANSWER, ""), response.status
        except TimeoutError:
            raise VantageError(f"{self.name} does not answer within {TIMEOUT_S:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise VantageError(f"{self.name}: {error}") from error
        if status != 200:
            raise VantageError(f"{self.name} refuses ({status}): {text[:200].decode(errors='replace')}")
        if len(text) > LARGEST or not secrets.compare_digest(said, answer(self._secret, nonce, text)):
            raise VantageError(f"{self.name}: an answer of somebody who does not know the secret")
        return text
