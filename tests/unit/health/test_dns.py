"""DNS checks: against unbound in a namespace, and against sockets that answer what no server would."""

import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dns.message
import pytest
from hypothesis import given
from hypothesis import strategies as st

from health.checks.dns import ANSWER_BYTES, DnsCheck
from health.spec import Code, Result
from tests.netns import Namespace, namespaces, until
from tests.unit.health.probing import Question, asked
from tests.unit.health.serving import many, target

Run = Callable[..., Any]

ZONE = """
server:
  interface: 127.0.0.1@5353
  interface: ::1@5353
  access-control: ::/0 allow
  access-control: 0.0.0.0/0 allow
  username: ""
  chroot: ""
  directory: "{folder}"
  pidfile: "{folder}/pid"
  use-syslog: no
  do-daemonize: no
  minimal-responses: no
  local-zone: "example.com." static
  local-data: "www.example.com. A 192.0.2.80"
  local-data: "www.example.com. AAAA 2001:db8::80"
  local-data: 'text.example.com. TXT "v=fine"'
{many}
  local-zone: "refused.example." refuse
remote-control:
  control-enable: no
"""

NAME = "www.example.com"


@pytest.fixture(scope="module")
def resolver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Namespace]:
    """A namespace with a DNS server on its loopback."""
    folder = tmp_path_factory.mktemp("unbound")
    many_records = "\n".join(f'  local-data: "many.example.com. A 192.0.2.{n}"' for n in range(1, 101))
    (folder / "unbound.conf").write_text(ZONE.format(folder=folder, many=many_records))
    # By another path than the distribution's, since its AppArmor profile would keep the server from this folder.
    program = shutil.copy(shutil.which("unbound") or "unbound", folder / "server")
    with namespaces("d", prefix="owdns") as (space,):
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                space.command(str(program), "-d", "-c", str(folder / "unbound.conf")), stdout=log, stderr=log
            )
        try:
            until(lambda: ":5353" in space.run("ss", "-Hlnt"), f"unbound, see {folder / 'log'}")
            yield space
        finally:
            server.terminate()
            server.wait(10)


def q(name: str, address: str = "127.0.0.1", port: int = 5353, **settings: Any) -> Question:
    return "dns", address, port, {"query_name": name} | settings


@pytest.mark.root
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_real_server(resolver: Namespace, loop: str, transport: str, address: str) -> None:
    """Rcode, kind of record and data are judged, over UDP and TCP alike."""
    cases: list[tuple[Question, Code, str]] = [
        (q(NAME), Code.OK, ""),
        (q("WWW.example.com."), Code.OK, ""),
        (q(NAME, response=b"192.0.2.80"), Code.OK, ""),
        (q(NAME, response=b"192.0.2.81"), Code.PAYLOAD_CONTENT_MISMATCH, "expected '192.0.2.81', got '192.0.2.80'"),
        (q(NAME, record_type="AAAA", response=b"2001:db8::80"), Code.OK, ""),
        (q("text.example.com", record_type="TXT", response=b"v=fine"), Code.OK, ""),
        (q(NAME, record_type="MX"), Code.PAYLOAD_CONTENT_MISMATCH, "expected a record of type MX, got none"),
        (q(NAME, record_type="MX", qtype="any_thing"), Code.OK, ""),
        (q(NAME, record_type="MX", qtype="any_type"), Code.PAYLOAD_CONTENT_MISMATCH, "expected a record, got none"),
        (q("no.example.com"), Code.RESPONSE_CODE_MISMATCH, "NXDOMAIN, expected NOERROR"),
        (q("no.example.com", rcode="NXDOMAIN"), Code.OK, "NXDOMAIN"),
        (q("no.example.com", rcode="ANY"), Code.OK, "NXDOMAIN"),
        (q(NAME, rcode="NXDOMAIN"), Code.RESPONSE_CODE_MISMATCH, "NOERROR, expected NXDOMAIN"),
        (q("refused.example"), Code.RESPONSE_CODE_MISMATCH, "REFUSED, expected NOERROR"),
    ]
    questions = [(kind, address, port, settings | {"transport": transport}) for (kind, _, port, settings), *_ in cases]
    results = asked(resolver, loop, *questions)
    for question, (_, code, detail), (got, said, duration) in zip(questions, cases, results, strict=True):
        assert (got, said) == (code, detail), question
        assert 0 < duration < 3


@pytest.mark.root
def test_an_answer_that_does_not_fit(resolver: Namespace) -> None:
    """A hundred records are too many for UDP without extensions, and the result says what to do; TCP has them."""
    udp, tcp = asked(
        resolver, "uvloop", q("many.example.com"), q("many.example.com", transport="tcp", response=b"192.0.2.100")
    )
    assert udp[:2] == (Code.PAYLOAD_CONTENT_MISMATCH, 'the answer does not fit into UDP; use transport = "tcp"')
    assert tcp[0] == Code.OK


@pytest.mark.root
def test_no_server(resolver: Namespace) -> None:
    """ICMP "port unreachable" and a refused connection are told at once."""
    udp, tcp = asked(resolver, "asyncio", q(NAME, port=5354), q(NAME, port=5354, transport="tcp"))
    assert udp[:2] == (Code.PORT_UNREACHABLE, "ask: connection refused")
    assert tcp[:2] == (Code.CONNECTION_REFUSED, "connect: connection refused")


# ---------------------------------------------------------------------------------------------------------------------
# Servers that are none


@contextmanager
def answering(answers: Callable[[bytes], list[bytes]]) -> Iterator[int]:
    """A UDP socket that answers every question with datagrams of the test's choice; yields its port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(0.05)
        over = threading.Event()

        def work() -> None:
            while not over.is_set():
                try:
                    question, peer = sock.recvfrom(4096)
                    for answer in answers(question):
                        sock.sendto(answer, peer)
                except OSError:
                    pass  # nobody asks, or nobody listens any more

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield sock.getsockname()[1]
        finally:
            over.set()
            thread.join(5)


def ask(run: Run, port: int, **settings: Any) -> Result:
    result = run(DnsCheck(**{"timeout_s": 2.0, "query_name": NAME} | settings).probe(target(port)))
    assert isinstance(result, Result)
    return result


def reply(question: bytes) -> bytes:
    """A proper answer without records."""
    return dns.message.make_response(dns.message.from_wire(question)).to_wire()


def other_id(question: bytes) -> bytes:
    answer = reply(question)
    return bytes([answer[0] ^ 1]) + answer[1:]


def test_silence_is_no_response(run: Run) -> None:
    """A server that hears and says nothing is over at the time limit."""
    with answering(lambda _question: []) as port:
        result = ask(run, port, timeout_s=0.3)
    assert (result.code, result.detail) == (Code.NO_RESPONSE, "ask: nothing within 0.3 s")


def test_answers_to_other_questions_are_passed_over(run: Run) -> None:
    """The right answer counts although others come before it; only others are bad, and are not read for ever."""
    with answering(lambda question: [other_id(question), b"", b"x", reply(question)]) as port:
        assert ask(run, port, qtype="any_thing").good
    with answering(lambda question: [other_id(question)] * 1000) as port:
        result = ask(run, port)
    assert (result.code, result.detail) == (
        Code.PAYLOAD_CONTENT_MISMATCH,
        "16 answers, none of them to the question",
    )


@pytest.mark.parametrize(
    "broken",
    [
        lambda question: question,  # an echo is no answer
        lambda question: question[:2] + b"\x81\x80" + bytes(200),
        lambda question: reply(question)[:20],
        lambda question: question[:2] + b"\xff" * 3000,
        lambda question: reply(question) + b"more",
    ],
)
def test_garbage_with_the_right_number(run: Run, broken: Callable[[bytes], bytes]) -> None:
    """What is no answer is a mismatch at once, whatever is wrong with it."""
    with answering(lambda question: [broken(question)]) as port:
        result = ask(run, port)
    assert result.code is Code.PAYLOAD_CONTENT_MISMATCH
    assert result.detail.startswith("not an answer to the question: ")
    assert result.duration_s < 1


def serving(answer: Callable[[bytes], bytes]) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        question = connection.recv(1000)[2:]
        connection.sendall(answer(question))

    return serve


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (lambda _question: b"", Code.NO_RESPONSE),
        (lambda _question: b"\0", Code.CONNECTION_ERROR),
        (lambda question: b"\x01\0" + question, Code.CONNECTION_ERROR),
        (lambda _question: b"\0\0", Code.PAYLOAD_CONTENT_MISMATCH),
        (lambda question: b"\xff\xff" + question, Code.RESPONSE_BUFFER_OVERFLOW),
        (lambda question: struct.pack("!H", len(question)) + question, Code.PAYLOAD_CONTENT_MISMATCH),
        (lambda _question: b"HTTP/1.1 400 Bad Request\r\n\r\n", Code.RESPONSE_BUFFER_OVERFLOW),
    ],
)
def test_bad_answers_by_tcp(run: Run, answer: Callable[[bytes], bytes], code: Code) -> None:
    """Too short, too long and of something else: each has its code."""
    with many(serving(answer)) as port:
        assert ask(run, port, transport="tcp").code is code


def test_the_most_laborious_answer_takes_no_time(run: Run) -> None:
    """Names that are all pointers to one long name: as many as fit are unpacked in a small part of a second."""

    def laborious(question: bytes) -> bytes:
        head = question[:2] + struct.pack("!HHHHH", 0x8180, 1, 0xFFFF, 0, 0) + question[12:]
        labels = b"".join(b"\x01a" for _ in range(120)) + b"\0"
        record = struct.pack("!HHIH", 1, 1, 0, 4) + bytes(4)
        first = labels + record
        rest = (struct.pack("!H", 0xC000 | len(head)) + record) * 400
        body = (head + first + rest)[: ANSWER_BYTES - 1]
        count = 1 + (len(body) - len(head) - len(first)) // (2 + len(record))
        body = body[: len(head) + len(first) + (count - 1) * (2 + len(record))]
        return body[:6] + struct.pack("!H", count) + body[8:]

    with many(serving(lambda question: struct.pack("!H", len(laborious(question))) + laborious(question))) as port:
        started = time.process_time()
        result = ask(run, port, transport="tcp", response=b"never", qtype="any_type")
        assert time.process_time() - started < 0.5
    assert (result.code, result.detail[:30]) == (Code.PAYLOAD_CONTENT_MISMATCH, "expected 'never', got '0.0.0.0")


@given(st.binary(max_size=600))
def test_no_answer_breaks_the_check(noise: bytes) -> None:
    """Whatever comes is a result or an answer to another question; nothing is raised."""
    check = DnsCheck(timeout_s=1, query_name=NAME)
    query = dns.message.make_query(NAME, "A")
    number = query.id.to_bytes(2, "big")
    proper = dns.message.make_response(query).to_wire()
    for wire in (noise, number + noise, proper + noise, proper[: len(noise)] + noise):
        result = check._judge(query, wire)
        assert result is None or isinstance(result.code, Code)
