"""DNS: a question, and what the answer says. The only file that knows dnspython, which packs and unpacks messages."""

import asyncio
import socket
from dataclasses import dataclass

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype

from health.checks.errors import excerpt
from health.checks.probing import Progress, within
from health.checks.sockets import connected, datagrams
from health.spec import Code, Result, Target

ANSWER_BYTES = 4096
"""More is no answer to a health check, and would keep us busy with unpacking."""

_ANY = "ANY"

_STRAYS = 16
"""Datagrams from the right address that answer another question; whoever sends more is not well."""


@dataclass(frozen=True)
class DnsCheck:
    """Good when the answer has the expected rcode, the wanted kind of record and, where given, the wanted data."""

    timeout_s: float
    """For all of it, seconds."""

    query_name: str
    record_type: str = "A"
    """Its mnemonic."""

    transport: str = "udp"
    """Or tcp."""

    rcode: str = "NOERROR"
    """Its mnemonic, or ANY."""

    qtype: str = "query_type"
    """What the answer must have, in the seed system's words: query_type, a record of the type that was asked for;
    any_type, any record; any_thing, nothing, the rcode is enough. Counts for NOERROR only: other answers have none."""

    response: bytes = b""
    """Must be in one of the answer's records, in presentation format (RFC 1035, section 5); empty: any data will do."""

    async def probe(self, target: Target) -> Result:
        """Ask *target* once; see `health.spec.Check`."""

        async def ask(progress: Progress) -> Result:
            query = dns.message.make_query(self.query_name, self.record_type)
            if self.transport == "tcp":
                return await self._by_tcp(target, query, progress)
            progress.doing = "ask"
            return await self._by_udp(target, query)

        return await within(self.timeout_s, ask)

    async def _by_udp(self, target: Target, query: dns.message.QueryMessage) -> Result:
        loop = asyncio.get_running_loop()
        with datagrams(target) as sock:
            sock.send(query.to_wire())
            for _ in range(_STRAYS):
                result = self._judge(query, await loop.sock_recv(sock, ANSWER_BYTES))
                if result is not None:
                    return result
                await asyncio.sleep(0)
        return Result(Code.PAYLOAD_CONTENT_MISMATCH, f"{_STRAYS} answers, none of them to the question")

    async def _by_tcp(self, target: Target, query: dns.message.QueryMessage, progress: Progress) -> Result:
        async with connected(target) as sock:
            progress.doing = "send"
            wire = query.to_wire()
            await asyncio.get_running_loop().sock_sendall(sock, len(wire).to_bytes(2, "big") + wire)
            progress.doing = "read"
            size = await _exactly(sock, 2)
            length = int.from_bytes(size, "big")
            if length > ANSWER_BYTES:
                return Result(Code.RESPONSE_BUFFER_OVERFLOW, f"an answer of {length} bytes; {ANSWER_BYTES} at most")
            answer = await _exactly(sock, length) if len(size) == 2 else b""
            if not size:
                return Result(Code.NO_RESPONSE, "closed without an answer")
            if len(size) < 2 or len(answer) < length:
                return Result(Code.CONNECTION_ERROR, "closed in the middle of the answer")
            return self._judge(query, answer) or _not_an_answer(answer)

    def _judge(self, query: dns.message.QueryMessage, wire: bytes) -> Result | None:
        """What an answer says; None: it is none to this question."""
        if wire[:2] != query.id.to_bytes(2, "big"):
            return None
        try:
            answer = dns.message.from_wire(wire)
        except dns.exception.DNSException:
            return _not_an_answer(wire)
        if not query.is_response(answer):
            return _not_an_answer(wire)
        rcode = dns.rcode.to_text(answer.rcode())
        if self.rcode not in (rcode, _ANY):
            return Result(Code.RESPONSE_CODE_MISMATCH, f"{rcode}, expected {self.rcode}")
        if answer.rcode() != dns.rcode.NOERROR:
            return Result(Code.OK, rcode)
        records = [(rrset.rdtype, record.to_text()) for rrset in answer.answer for record in rrset]
        if self.qtype == "query_type":
            records = [found for found in records if found[0] == dns.rdatatype.from_text(self.record_type)]
        texts = [text for _, text in records]
        if any(self.response.decode() in text for text in texts) or (self.qtype == "any_thing" and not self.response):
            return Result(Code.OK)
        if answer.flags & dns.flags.TC:
            return Result(Code.PAYLOAD_CONTENT_MISMATCH, 'the answer does not fit into UDP; use transport = "tcp"')
        record = f"a record of type {self.record_type}" if self.qtype == "query_type" else "a record"
        expected = excerpt(self.response) if self.response else record
        got = excerpt(", ".join(texts).encode()) if texts else "none"
        return Result(Code.PAYLOAD_CONTENT_MISMATCH, f"expected {expected}, got {got}")


def _not_an_answer(wire: bytes) -> Result:
    return Result(Code.PAYLOAD_CONTENT_MISMATCH, f"not an answer to the question: {excerpt(wire)}")


async def _exactly(sock: socket.socket, length: int) -> bytes:
    """So many bytes, or what there is until the end."""
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < length:
        more = await loop.sock_recv(sock, length - len(data))
        if not more:
            break
        data += more
    return data
