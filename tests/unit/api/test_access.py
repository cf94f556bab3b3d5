"""Who may do what over HTTP: a real server, real passwords, tokens and certificates."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
import trustme
from aiohttp import web

from appliance.api import access as access_module
from appliance.api.limiter import Limiter
from appliance.api.routes import Answer, Role, Route, actor_of
from appliance.api.server import ApiServer
from appliance.model import ApiConfig, ApiRole, ApiTls, ApiToken, ApiUser
from appliance.passwords import digest_of, hashed, scrypt_of, token_digest
from tests.unit.api.samples import sources

RIGHT = "correct horse"
PASSWORD = hashed(RIGHT, bytes(16))
LOOPBACK = ip_address("127.0.0.1")
CONFIG = ApiConfig(
    LOOPBACK,
    0,
    users=(
        ApiUser("ann", ApiRole.ADMIN, PASSWORD),
        ApiUser("olga", ApiRole.OPERATOR, PASSWORD),
        ApiUser("vic", ApiRole.VIEWER, PASSWORD),
    ),
    tokens=(ApiToken("ci", ApiRole.OPERATOR, token_digest("t" * 43)),),
)


async def who(request: web.Request) -> web.Response:
    return web.json_response({"who": actor_of(request).who, "role": str(actor_of(request).role)})


ROUTES = [
    Route(method, f"/v1/for/{role}", who, role, "A test", {200: Answer("It may.")}, "test")
    for role in (Role.VIEWER, Role.OPERATOR, Role.ADMIN)
    for method in ("GET", "POST")
]


class Served:
    """A server whose configuration can change under it."""

    def __init__(self, config: ApiConfig = CONFIG) -> None:
        self.config = config
        self.server = ApiServer(config.address, 0, sources(), ROUTES, lambda: self.config)


@asynccontextmanager
async def serving(config: ApiConfig = CONFIG, **client: Any) -> AsyncIterator[tuple[aiohttp.ClientSession, Served]]:
    made = Served(config)
    await made.server.start()
    try:
        # Cookies of addresses are taken, too; those that are Secure are not sent without TLS.
        async with aiohttp.ClientSession(
            made.server.url, cookie_jar=aiohttp.CookieJar(unsafe=True), **client
        ) as session:
            yield session, made
    finally:
        await made.server.close()


async def status(session: aiohttp.ClientSession, method: str, path: str, **options: Any) -> int:
    async with session.request(method, path, **options) as response:
        text = await response.text()
        if response.status >= 400:
            assert response.content_type == "application/problem+json", text
            assert json.loads(text)["status"] == response.status
        return response.status


async def login(session: aiohttp.ClientSession, name: str, password: str = RIGHT) -> tuple[int, Any]:
    async with session.post("/api/v1/login", json={"name": name, "password": password}) as response:
        return response.status, await response.json(content_type=None)


@pytest.mark.parametrize(
    ("name", "may"), [("ann", ["viewer", "operator", "admin"]), ("olga", ["viewer", "operator"]), ("vic", ["viewer"])]
)
async def test_roles_may_what_lesser_ones_may(name: str, may: list[str]) -> None:
    """Viewers look, operators give orders, admins change; a session is as good for it as its user."""
    async with serving() as (session, _):
        code, me = await login(session, name)
        assert (code, me["name"], me["via"]) == (200, name, "session")
        for role in ("viewer", "operator", "admin"):
            expected = 200 if role in may else 403
            assert (
                await status(session, "POST", f"/api/v1/for/{role}", headers={"X-CSRF-Token": me["csrf"]}) == expected
            )


async def test_nobody_in_particular_looks_from_this_machine_only() -> None:
    """Reading is for all on loopback, changes are not; and a name that somebody has pointed to us is not ours."""
    async with serving() as (session, made):
        assert await status(session, "GET", "/api/v1/status") == 200
        assert await status(session, "POST", "/api/v1/for/operator") == 403
        port = made.server.bound[1]
        for host, code in (
            (f"localhost:{port}", 200), (f"[::1]:{port}", 200), (f"evil.example:{port}", 401), ("evil.example", 401)
        ):  # fmt: skip
            for path in ("/api/v1/status", "/metrics", "/plain", "/live", "/api/v1/events"):
                if path == "/live" and code == 200:
                    continue
                assert await status(session, "GET", path, headers={"Host": host}) == code, (host, path)
        for path in ("/healthz", "/livez", "/api/openapi.json", "/page.css"):
            assert await status(session, "GET", path, headers={"Host": "evil.example"}) == 200
        async with session.get("/readyz", headers={"Host": "evil.example"}) as response:
            assert response.status == 200


async def test_details_of_what_is_not_ready_are_for_those_who_may_look() -> None:
    """Others hear the names only."""
    made = Served()
    made.server._sources = replace(made.server._sources, ready=lambda: (("bgp", False, "192.0.2.1 is down"),))
    await made.server.start()
    try:
        async with aiohttp.ClientSession(made.server.url) as session:
            for host, detail in (("evil.example", ""), ("localhost", "192.0.2.1 is down")):
                async with session.get("/readyz", headers={"Host": host}) as response:
                    assert (await response.json())["failed"] == [{"name": "bgp", "detail": detail}]
    finally:
        await made.server.close()


async def test_a_cookie_alone_changes_nothing() -> None:
    """A page of somebody else can have a browser send the cookie, and not the token; the cookie is for us alone."""
    async with serving() as (session, _):
        async with session.post("/api/v1/login", json={"name": "ann", "password": "correct horse"}) as response:
            csrf = (await response.json())["csrf"]
            cookie = response.headers["Set-Cookie"]
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
        assert "Secure" not in cookie
        assert await status(session, "GET", "/api/v1/for/admin") == 200
        assert await status(session, "POST", "/api/v1/for/admin") == 403
        assert await status(session, "POST", "/api/v1/for/admin", headers={"X-CSRF-Token": "wrong"}) == 403
        assert await status(session, "POST", "/api/v1/for/admin", headers={"X-CSRF-Token": csrf}) == 200
        async with session.get("/api/v1/me") as response:
            assert (await response.json())["csrf"] == csrf
        assert await status(session, "POST", "/api/v1/logout") == 403
        assert await status(session, "POST", "/api/v1/logout", headers={"X-CSRF-Token": csrf}) == 204
        assert await status(session, "POST", "/api/v1/for/admin", headers={"X-CSRF-Token": csrf}) == 403


async def test_a_page_of_somebody_else_asks_for_nothing() -> None:
    """Whatever a browser sends along by itself, a client's certificate as well: it says where a request comes from."""
    async with serving() as (session, made):
        token = {"Authorization": "Bearer " + "t" * 43}
        own = made.server.url.rstrip("/")
        for headers, code in (
            ({"Origin": "https://evil.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Sec-Fetch-Site": "cross-site"}, 403),
            ({"Origin": own, "Sec-Fetch-Site": "same-origin"}, 200),
        ):
            assert await status(session, "POST", "/api/v1/for/operator", headers=token | headers) == code
            assert await status(session, "GET", "/api/v1/for/operator", headers=token | headers) == 200


async def test_a_session_ends_with_time_and_with_its_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while without use, in the end in any case, and when a reload takes its user out or changes a password."""
    now = 1000.0
    monkeypatch.setattr(access_module, "monotonic", lambda: now)
    async with serving() as (session, made):
        for step, ends in (
            (access_module.IDLE_S - 1, False), (access_module.IDLE_S + 1, True), (access_module.LONGEST_S + 1, True)
        ):  # fmt: skip
            assert (await login(session, "ann"))[0] == 200
            now += step
            assert (await status(session, "GET", "/api/v1/for/admin") == 403) is ends
        for users in ((), (replace(CONFIG.users[0], password=hashed("another one", bytes(16))),)):
            made.config = CONFIG
            assert (await login(session, "ann"))[0] == 200
            made.config = replace(CONFIG, users=users)
            assert await status(session, "GET", "/api/v1/for/admin") == 403


async def test_tokens_are_for_programs() -> None:
    """They need no other token; a wrong one is no viewer either."""
    async with serving() as (session, _):
        good, bad = {"Authorization": "Bearer " + "t" * 43}, {"Authorization": "Bearer " + "u" * 43}
        async with session.post("/api/v1/for/operator", headers=good) as response:
            assert (await response.json())["who"] == "token ci (token, operator) from 127.0.0.1"
        assert await status(session, "POST", "/api/v1/for/admin", headers=good) == 403
        assert await status(session, "GET", "/api/v1/status", headers=bad) == 401
        assert await status(session, "GET", "/api/v1/status", headers={"Authorization": "Basic dDp0"}) == 401


async def test_wrong_passwords_are_limited_and_told_to_the_log() -> None:
    """By name, whatever the address; the right one does not get in meanwhile, and another user does."""
    async with serving() as (session, _):
        with structlog.testing.capture_logs() as logs:
            codes = [(await login(session, "ann", "wrong"))[0] for _ in range(access_module.PER_NAME.burst)]
            assert codes == [401] * access_module.PER_NAME.burst
            async with session.post("/api/v1/login", json={"name": "ann", "password": "correct horse"}) as response:
                assert response.status == 429
                assert 0 < int(response.headers["Retry-After"]) <= access_module.PER_NAME.every_s
            assert (await login(session, "vic"))[0] == 200
        failed = [log for log in logs if log["event"] == "login.failed"]
        assert [(log["by"], log["address"]) for log in failed] == [("ann", "127.0.0.1")] * 5
        assert [log["event"] for log in logs if log["event"] == "login.limited"] == ["login.limited"]
        assert [log["by"] for log in logs if log["event"] == "login.succeeded"] == ["vic"]


async def test_wrong_passwords_are_limited_by_address() -> None:
    """Whatever the names; wrong tokens count as well."""
    async with serving() as (session, _):
        for number in range(access_module.PER_ADDRESS.burst - 1):
            assert (await login(session, f"nobody{number}"))[0] == 401
        assert await status(session, "GET", "/api/v1/status", headers={"Authorization": "Bearer x"}) == 401
        assert (await login(session, "ann"))[0] == 429
        assert await status(session, "GET", "/api/v1/status", headers={"Authorization": "Bearer x"}) == 429
        assert await status(session, "GET", "/api/v1/status") == 200


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, 400),
        ({"name": "ann", "password": 1}, 400),
        ({"name": "ann", "password": "x" * 1025}, 400),
        ({"name": "ann", "password": "x" * 5000}, 413),
        ([], 400),
    ],
)
async def test_logins_that_are_none(body: Any, code: int) -> None:
    """Bounded before they are read."""
    async with serving() as (session, _):
        assert await status(session, "POST", "/api/v1/login", json=body) == code


async def test_every_request_for_a_change_is_in_the_log() -> None:
    """With who, from where, what, and what came of it."""
    async with serving() as (session, _):
        _, me = await login(session, "olga")
        with structlog.testing.capture_logs() as logs:
            for role in ("operator", "admin"):
                await status(session, "POST", f"/api/v1/for/{role}", headers={"X-CSRF-Token": me["csrf"]})
        asked = [log for log in logs if log["event"] == "api.asked"]
        assert [(log["by"], log["role"], log["address"], log["path"], log["status"]) for log in asked] == [
            ("olga", "operator", "127.0.0.1", "/api/v1/for/operator", 200),
            ("olga", "operator", "127.0.0.1", "/api/v1/for/admin", 403),
        ]


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(tmp_path: Path, authority: trustme.CA) -> ApiTls:
    own = authority.issue_cert("127.0.0.1")
    own.private_key_and_cert_chain_pem.write_to_path(tmp_path / "api.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return ApiTls(str(tmp_path / "api.pem"), None, str(tmp_path / "ca.pem"))


def trusting(authority: trustme.CA, certificate: trustme.LeafCert | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if certificate is not None:
        certificate.configure_cert(context)
    return context


async def test_a_client_certificate_is_its_user(tls: ApiTls, authority: trustme.CA) -> None:
    """By common name; one of nobody is nobody in particular, one of another authority is refused by TLS."""
    config = replace(CONFIG, tls=tls, users=(*CONFIG.users, ApiUser("robot", ApiRole.ADMIN)))
    async with serving(config) as (_, made):
        for name, code in (("robot", 200), ("stranger", 403)):
            certificate = authority.issue_cert("robot.example", common_name=name)
            connector = aiohttp.TCPConnector(ssl=trusting(authority, certificate))
            async with aiohttp.ClientSession(made.server.url, connector=connector) as session:
                assert await status(session, "POST", "/api/v1/for/admin") == code
        foreign = trusting(authority, trustme.CA().issue_cert("robot.example", common_name="robot"))
        async with aiohttp.ClientSession(made.server.url, connector=aiohttp.TCPConnector(ssl=foreign)) as session:
            with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
                await status(session, "POST", "/api/v1/for/admin")


async def test_cookies_of_https_are_for_https(tls: ApiTls, authority: trustme.CA) -> None:
    """And passwords work there as well."""
    connector = aiohttp.TCPConnector(ssl=trusting(authority))
    async with (
        serving(replace(CONFIG, tls=tls), connector=connector) as (session, made),
        session.post("/api/v1/login", json={"name": "ann", "password": "correct horse"}) as response,
    ):
        assert made.server.url.startswith("https://")
        assert response.status == 200
        assert "Secure" in response.headers["Set-Cookie"]


async def test_a_certificate_is_renewed_under_a_running_server(tls: ApiTls, authority: trustme.CA) -> None:
    """New connections get the new one; one that cannot be used leaves the one before."""
    async with serving(replace(CONFIG, tls=tls)) as (_, made):
        first = await asyncio.to_thread(ssl.get_server_certificate, made.server.bound)
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tls.cert_file)
        made.server.renew()
        second = await asyncio.to_thread(ssl.get_server_certificate, made.server.bound)
        assert second != first
        await asyncio.to_thread(Path(tls.cert_file).write_text, "nothing of the kind")
        with pytest.raises(OSError):
            made.server.renew()
        assert await asyncio.to_thread(ssl.get_server_certificate, made.server.bound) == second


def test_a_limit_is_a_burst_and_a_rate() -> None:
    """What is not used comes back with time, and what was right is given back; few keys are remembered."""
    limiter = Limiter(Limiter.Rate(burst=3, every_s=10.0))
    assert [limiter.take("a", 0.0) for _ in range(4)] == [0, 0, 0, 10.0]
    assert limiter.take("b", 0.0) == 0
    assert limiter.take("a", 4.0) == 6.0
    assert [limiter.take("a", 10.0), limiter.take("a", 10.0)] == [0, 10.0]
    limiter.give_back("a")
    assert limiter.take("a", 10.0) == 0
    for number in range(20_000):
        limiter.take(str(number), 20.0)
    assert len(limiter._full_at) == 10_000


def test_what_is_kept_of_passwords_can_be_read_back() -> None:
    """And tells right from wrong; what would take a director's memory is refused."""
    kept = scrypt_of(str(PASSWORD))
    assert kept == PASSWORD
    assert kept.fits("correct horse")
    assert not kept.fits("correct horsf")
    for text in ("", "x", str(PASSWORD).replace("ln=15", "ln=30"), str(PASSWORD).replace("r=8", "r=0")):
        with pytest.raises(ValueError):
            scrypt_of(text)
    assert digest_of("sha256:" + token_digest("x").hex()) == token_digest("x")
    with pytest.raises(ValueError):
        digest_of("sha256:xyz")
