"""TLS: the handshake alone, and as HTTPS; certificates of all kinds, made by an authority of the test's own."""

import os
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from health.checks.certificate import not_after
from health.checks.http import HttpsCheck
from health.checks.tls import TlsCheck
from health.secure import HANDSHAKE_BYTES, Tls
from health.spec import Check, Code, Result
from tests.unit.health.certificates import NAME, Authority, authority, days, secured
from tests.unit.health.serving import many, reset, target, wait_for_end

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("trusted"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("stranger"))


def web(stream: ssl.SSLSocket) -> None:
    """Whatever is asked."""
    if stream.recv(1000):
        stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine")
        wait_for_end(stream)


def handshake(tls: Tls, **settings: Any) -> Check:
    return TlsCheck(timeout_s=5.0, tls=tls, **settings)


def https(tls: Tls, **settings: Any) -> Check:
    return HttpsCheck(timeout_s=5.0, tls=tls, response=b"fine", **settings)


KINDS = pytest.mark.parametrize("kind", [handshake, https])
Kind = Callable[..., Check]


def ask(run: Run, check: Check, port: int, address: str = "127.0.0.1") -> Result:
    result = run(check.probe(target(port, address)))
    assert isinstance(result, Result)
    return result


@KINDS
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_trusted_certificate_of_the_right_name(run: Run, kind: Kind, trusted: Authority, address: str) -> None:
    """The name or the address is verified, and the server is told the name and no address (SNI)."""
    told: list[str | None] = []
    context = trusted.server(NAME, address)
    context.sni_callback = lambda _stream, name, _context: told.append(name)
    with secured(context, web, address) as port:
        for name in (NAME, None):
            result = ask(run, kind(Tls(ca_file=trusted.ca_file, server_name=name)), port, address)
            assert (result.code, result.detail) == (Code.OK, "")
    assert told == [NAME, None]


@KINDS
def test_bad_certificates(run: Run, kind: Kind, trusted: Authority, stranger: Authority) -> None:
    """Of another name, of nobody we trust, ended: each is a certificate's error, and says which."""
    tls = Tls(ca_file=trusted.ca_file, server_name=NAME)
    for context, detail in (
        (trusted.server("other.example.com"), "certificate: Hostname mismatch"),
        (stranger.server(NAME), "certificate: unable to get local issuer certificate"),
        (trusted.server(NAME, not_before=days(-9), not_after=days(-1)), "certificate: certificate has expired"),
        (trusted.server(NAME, not_before=days(1), not_after=days(9)), "certificate: certificate is not yet valid"),
    ):
        with secured(context, web) as port:
            result = ask(run, kind(tls), port)
        assert result.code is Code.SSL_CERT_ERROR
        assert result.detail.startswith(detail), result.detail


@KINDS
def test_without_verification(run: Run, kind: Kind, stranger: Authority) -> None:
    """A stranger's certificate for another name will do."""
    with secured(stranger.server("other.example.com"), web) as port:
        assert ask(run, kind(Tls(verify=False, server_name=NAME)), port).good


def test_an_ended_certificate_without_verification(run: Run, stranger: Authority) -> None:
    """Whoever watches certificates wants to know when one has ended, whoever has issued it."""
    end = days(-1)
    with secured(stranger.server(NAME, not_before=days(-9), not_after=end), web) as port:
        result = ask(run, handshake(Tls(verify=False)), port)
    assert (result.code, result.detail) == (
        Code.SSL_CERT_ERROR,
        f"certificate: ended on {end:%Y-%m-%d %H:%M} UTC",
    )


@pytest.mark.parametrize("verify", [True, False])
def test_a_certificate_that_ends_soon(run: Run, trusted: Authority, verify: bool) -> None:
    """Within the warning time the member stays good, with a warning that says when it ends; before, there is none."""
    end = days(10.2)
    tls = Tls(verify=verify, ca_file=trusted.ca_file if verify else None, server_name=NAME)
    with secured(trusted.server(NAME, not_before=days(-1), not_after=end), web) as port:
        soon = ask(run, handshake(tls, expiry_warning_days=11), port)
        later = ask(run, handshake(tls, expiry_warning_days=10), port)
        ended = ask(run, handshake(tls, clock=lambda: time.time() + 11 * 86400), port)
    assert (soon.code, soon.detail) == (Code.OK, f"certificate ends in 10 days, on {end:%Y-%m-%d %H:%M} UTC")
    assert (later.code, later.detail) == (Code.OK, "")
    assert ended.code is Code.SSL_CERT_ERROR
    assert (soon.warning, later.warning, ended.warning) == (True, False, False)
    assert soon.ends_at == later.ends_at == ended.ends_at == int(end.timestamp())


def test_our_own_certificate(run: Run, trusted: Authority) -> None:
    """A server that wants one gets it; without, it says so in TLS and resets the connection: one of both is heard."""
    context = trusted.server(NAME)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(trusted.ca_file)
    tls = Tls(ca_file=trusted.ca_file, server_name=NAME)
    with secured(context, web) as port:
        assert ask(run, https(replace(tls, cert_file=trusted.client_file())), port).good
        result = ask(run, https(tls), port)
    assert "certificate required" in result.detail or result.code is Code.CONNECTION_RESET


@KINDS
def test_no_tls_at_all(run: Run, kind: Kind) -> None:
    """A server that speaks something else is an error of TLS at once."""
    with many(lambda connection: connection.sendall(b"220 mail.example.com ESMTP\r\n")) as port:
        result = ask(run, kind(Tls(verify=False)), port)
    assert result.code is Code.SSL_ERROR
    assert result.detail.startswith("handshake: ")
    assert result.duration_s < 3


@KINDS
def test_the_handshake_ends_early(run: Run, kind: Kind) -> None:
    """A server that closes instead of answering the handshake, or resets, is an error of TLS or a reset."""
    with many(lambda connection: connection.recv(1 << 16)) as port:  # all of it: else it would be reset
        assert ask(run, kind(Tls(verify=False)), port).code is Code.SSL_ERROR
    with many(lambda connection: reset(connection) if connection.recv(1 << 16) else None) as port:
        assert ask(run, kind(Tls(verify=False)), port).code in (Code.SSL_ERROR, Code.CONNECTION_RESET)


def test_a_handshake_that_hangs(run: Run) -> None:
    """A server that accepts and never says anything is over at the time limit."""
    with many(wait_for_end) as port:
        result = ask(run, TlsCheck(timeout_s=0.3), port)
        secure = ask(run, HttpsCheck(timeout_s=0.3), port)
    for found in (result, secure):
        assert (found.code, found.detail) == (Code.SSL_ERROR, "handshake: nothing within 0.3 s")
        assert found.duration_s < 2


def test_refused(run: Run) -> None:
    """A closed port is a refusal."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert ask(run, TlsCheck(timeout_s=5), closed.getsockname()[1]).code is Code.CONNECTION_REFUSED


def test_an_endless_handshake(run: Run) -> None:
    """Records that are well formed and lead nowhere are read up to a limit."""
    warning = b"\x15\x03\x03\x00\x02\x01\x5a"  # alert, warning, user_canceled: no reason to stop

    def serve(connection: socket.socket) -> None:
        while True:
            connection.sendall(warning * 1000)

    with many(serve) as port:
        result = ask(run, handshake(Tls(verify=False)), port)
    assert result.code is Code.SSL_ERROR
    assert HANDSHAKE_BYTES <= 1 << 20


def test_renewed_certificates_are_taken_up(run: Run, trusted: Authority, stranger: Authority, tmp_path: Path) -> None:
    """The next probe after a file has changed uses the new one; while it is unusable, the old one."""
    ca_file = tmp_path / "ca.pem"
    ca_file.write_text(Path(stranger.ca_file).read_text())
    check = handshake(Tls(ca_file=str(ca_file), server_name=NAME))
    with secured(trusted.server(NAME), web) as port:
        assert ask(run, check, port).code is Code.SSL_CERT_ERROR
        for number, (text, code) in enumerate(
            ((Path(trusted.ca_file).read_text(), Code.OK), ("half", Code.OK), (None, Code.OK)), 1
        ):
            if text is None:
                ca_file.unlink()
            else:
                ca_file.write_text(text)
                os.utime(ca_file, ns=(number, number))
            assert ask(run, check, port).code is code


def test_unusable_files_are_refused_at_once(tmp_path: Path) -> None:
    """A check whose files are missing or something else is not made at all."""
    nonsense = tmp_path / "ca.pem"
    nonsense.write_text("nonsense")
    for tls in (Tls(ca_file=str(nonsense)), Tls(ca_file=str(tmp_path / "none.pem")), Tls(cert_file=str(nonsense))):
        with pytest.raises(ValueError, match="certificates cannot be used"):
            TlsCheck(timeout_s=1, tls=tls)


@pytest.mark.parametrize("year", [2031, 2049, 2050, 2099])
def test_the_end_of_a_certificate(year: int) -> None:
    """Both ways of writing a time are read: two digits of the year until 2049, four from then on."""
    end = datetime(year, 3, 4, 5, 6, 7, tzinfo=UTC)
    certificate = trustme.CA().issue_cert(NAME, not_after=end).cert_chain_pems[0].bytes().decode()
    assert not_after(ssl.PEM_cert_to_DER_cert(certificate)) == end


CERTIFICATE = ssl.PEM_cert_to_DER_cert(trustme.CA().issue_cert(NAME).cert_chain_pems[0].bytes().decode())


@given(st.integers(0, len(CERTIFICATE) - 1), st.binary(max_size=8))
def test_no_certificate_breaks_the_reader(place: int, instead: bytes) -> None:
    """Cut or changed anywhere, it is a time or a ValueError."""
    for data in (CERTIFICATE[:place], CERTIFICATE[:place] + instead + CERTIFICATE[place + len(instead) :], instead):
        try:
            not_after(data)
        except ValueError:
            pass
