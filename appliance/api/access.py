"""Who asks over HTTP, and what they may do: passwords and sessions, tokens, certificates, and nobody in particular.

    POST /v1/login   {"name": ..., "password": ...} -> a cookie, and the token that changes by cookie need (CSRF)
    POST /v1/logout  the session ends
    GET  /v1/me      who asks

Who is who is looked up in the configuration in force at every request: somebody that a reload takes out is out at once.
"""

import asyncio
import hmac
import math
import secrets
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import IPv6Address, ip_address
from time import monotonic, time
from typing import Any

import structlog
from aiohttp import web

from appliance.api.limiter import Limiter
from appliance.api.problem import Handler, RefusedError
from appliance.api.records import TEXT, record
from appliance.api.routes import ACTOR, Actor, Answer, Role, Route, actor_of, body_of
from appliance.api.schemas import ME, refused_answers
from appliance.model import ApiConfig, ApiRole, ApiUser
from appliance.passwords import LONGEST, SALT_BYTES, Scrypt, hashed, token_digest

log = structlog.get_logger()

COOKIE = "onward_session"
CSRF_HEADER = "X-CSRF-Token"
IDLE_S, LONGEST_S = 1800.0, 43_200.0
"""A session ends after so long without a request, and in any case."""

MAX_SESSIONS, MAX_OF_USER = 1000, 50
"""Of all, and of one user; who comes then ends the one that was used least recently."""

MAX_LOGIN_BYTES = 4096
AT_ONCE = 2
"""Passwords that are tried at the same time: each takes 32 MiB and a processor."""

PER_NAME = Limiter.Rate(burst=5, every_s=12.0)
PER_ADDRESS = Limiter.Rate(burst=10, every_s=6.0)
"""Wrong passwords and tokens: so many at once, and one more each so many seconds."""

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_LOCAL_NAMES = frozenset({"localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"})


@dataclass
class _Session:
    user: ApiUser
    """As it was when it logged in: another password or role takes another login."""

    csrf: str
    began: float
    used: float
    expires_at: float
    """Seconds since 1970."""


SESSION = web.RequestKey("session", _Session)


class Access:
    """Knows who asks."""

    def __init__(self, config: Callable[[], ApiConfig]) -> None:
        """
        Args:
            config: in force.
        """
        self._config = config
        self._sessions: dict[bytes, _Session] = {}
        self._names, self._addresses = Limiter(PER_NAME), Limiter(PER_ADDRESS)
        self._trying = asyncio.Semaphore(AT_ONCE)
        self._told = float("-inf")
        self._nobodys = hashed("", secrets.token_bytes(SALT_BYTES))
        """A password that nobody has: whoever asks for an unknown user waits as long as for a known one."""

    def routes(self) -> list[Route]:
        tag, login = "access", record({"name": TEXT, "password": TEXT})
        return [
            Route(
                "POST",
                "/v1/login",
                self._login,
                Role.NOBODY,
                "Log in: a cookie, and the token for changes by it",
                {200: Answer("Who is logged in.", ME), **refused_answers(400, 401, 413, 429)},
                tag,
                body=login,
                max_body=MAX_LOGIN_BYTES,
            ),
            Route(
                "POST", "/v1/logout", self._logout, Role.NOBODY, "End the session", {204: Answer("It is over.")}, tag
            ),
            Route("GET", "/v1/me", self._me, Role.NOBODY, "Who asks", {200: Answer("Who asks.", ME)}, tag),
        ]

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Says who asks; and that no page of somebody else has them ask for changes."""
        request[ACTOR] = self.who(request)
        if request.method not in _SAFE and _is_foreign(request):
            raise RefusedError(403, "a page of another site asks for this")
        if request.method not in _SAFE and request.get(SESSION) is not None and not request.path.endswith("/v1/login"):
            sent = request.headers.get(CSRF_HEADER, "")
            if not hmac.compare_digest(sent.encode(), request[SESSION].csrf.encode()):
                raise RefusedError(403, f"changes by cookie need the header {CSRF_HEADER}; GET /api/v1/me has it")
        return await handler(request)

    def who(self, request: web.Request) -> Actor:
        """Who asks.

        Raises:
            RefusedError: somebody shows a token that is none, or has shown too many.
        """
        address = _address(request)
        if (header := request.headers.get("Authorization")) is not None:
            return self._by_token(header, address)
        if (user := self._by_certificate(request)) is not None:
            return _actor(user.name, user.role, "certificate", address)
        cookie = request.cookies.get(COOKIE)
        if cookie is not None and (session := self._session(cookie)) is not None:
            request[SESSION] = session
            return _actor(session.user.name, session.user.role, "session", address)
        local = _is_loopback(address) and _names_this_machine(request.host)
        fields = {"by": "", "role": str(Role.VIEWER if local else Role.NOBODY), "address": address}
        return Actor("", Role.VIEWER if local else Role.NOBODY, fields)

    def _by_token(self, header: str, address: str) -> Actor:
        scheme, _, token = header.partition(" ")
        digest = token_digest(token.strip())
        if scheme.lower() == "bearer":
            for known in self._config().tokens:
                if hmac.compare_digest(known.digest, digest):
                    return _actor(f"token {known.name}", known.role, "token", address)
        self._limited(self._addresses, _net(address))
        log.warning("login.failed", by="", kind="token", address=address)
        raise RefusedError(401, "this is no token that we know", headers={"WWW-Authenticate": "Bearer"})

    def _by_certificate(self, request: web.Request) -> ApiUser | None:
        """Whom a client's certificate names; TLS has verified it already."""
        transport = request.transport
        certificate = transport.get_extra_info("peercert") if transport is not None else None
        if not certificate:
            return None
        names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
        return next((user for user in self._config().users if user.name in names), None)

    def _session(self, cookie: str) -> _Session | None:
        key = sha256(cookie.encode()).digest()
        session, now = self._sessions.get(key), monotonic()
        if session is None:
            return None
        if now - session.used > IDLE_S or now - session.began > LONGEST_S or session.user not in self._config().users:
            del self._sessions[key]
            return None
        session.used = now
        return session

    # -----------------------------------------------------------------------------------------------------------------

    async def _login(self, request: web.Request) -> web.Response:
        body, address = await body_of(request, {"name", "password"}), _address(request)
        name, password = body.get("name"), body.get("password")
        if not isinstance(name, str) or not isinstance(password, str) or len(password.encode()) > LONGEST:
            raise RefusedError(400, f"name and password are texts, the password of {LONGEST} bytes at most")
        self._limited(self._addresses, _net(address), name)
        self._limited(self._names, name, name)
        user = next((user for user in self._config().users if user.name == name and user.password), None)
        if not await self._fits(user.password if user is not None else None, password) or user is None:
            log.warning("login.failed", by=name[:64], kind="password", address=address)
            raise RefusedError(401, "name or password is wrong")
        self._addresses.give_back(_net(address))
        self._names.give_back(name)
        cookie, session = self._begin(user)
        log.info("login.succeeded", by=name, role=str(user.role), address=address)
        response = web.json_response(_me(_actor(name, user.role, "session", address), session))
        secure = self._config().tls is not None
        response.set_cookie(COOKIE, cookie, httponly=True, samesite="Strict", secure=secure, path="/")
        return response

    async def _fits(self, known: Scrypt | None, password: str) -> bool:
        async with self._trying:
            fits = await asyncio.to_thread((known or self._nobodys).fits, password)
        return fits and known is not None

    def _begin(self, user: ApiUser) -> tuple[str, _Session]:
        now = monotonic()
        own = [key for key, session in self._sessions.items() if session.user.name == user.name]
        for keys, most in ((own, MAX_OF_USER), (list(self._sessions), MAX_SESSIONS)):
            if len(keys) >= most:
                self._sessions.pop(min(keys, key=lambda key: self._sessions[key].used), None)
        cookie = secrets.token_urlsafe(32)
        session = _Session(user, secrets.token_urlsafe(32), now, now, time() + LONGEST_S)
        self._sessions[sha256(cookie.encode()).digest()] = session
        return cookie, session

    def _limited(self, limiter: Limiter, key: str, name: str = "") -> None:
        now = monotonic()
        wait_s = limiter.take(key, now)
        if wait_s > 0:
            if now - self._told >= 1.0:  # whoever tries passwords must not fill the log
                self._told = now
                log.warning("login.limited", by=name[:64], key=key[:64], seconds=round(wait_s, 1))
            retry = {"Retry-After": str(math.ceil(wait_s))}
            raise RefusedError(429, f"too many failed logins; try again in {math.ceil(wait_s)} s", headers=retry)

    async def _logout(self, request: web.Request) -> web.Response:
        cookie = request.cookies.get(COOKIE)
        if cookie is not None and self._sessions.pop(sha256(cookie.encode()).digest(), None) is not None:
            log.info("login.ended", **actor_of(request).fields)
        response = web.Response(status=204)
        response.del_cookie(COOKIE, path="/")
        return response

    async def _me(self, request: web.Request) -> web.Response:
        return web.json_response(_me(actor_of(request), request.get(SESSION)))


def _me(actor: Actor, session: _Session | None) -> Mapping[str, Any]:
    return {
        "name": str(actor.fields.get("by", "")),
        "role": str(actor.role),
        "via": str(actor.fields.get("via", "socket" if actor.local else "")) or None,
        "csrf": session.csrf if session is not None else None,
        "expires_at": session.expires_at if session is not None else None,
    }


def _actor(name: str, role: ApiRole, via: str, address: str) -> Actor:
    fields = {"by": name, "role": str(role), "via": via, "address": address}
    return Actor(f"{name} ({via}, {role}) from {address}", Role[role.name], fields)


def _address(request: web.Request) -> str:
    return request.remote or ""


def _is_foreign(request: web.Request) -> bool:
    """Whether a browser says that a page of another origin asks (Fetch Metadata; RFC 6454, section 7)."""
    if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        return True
    origin = request.headers.get("Origin")
    return origin is not None and origin.partition("://")[2] != request.host


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


def _names_this_machine(host: str) -> bool:
    """Whether a Host header has an address or this machine's own name: another name is one that somebody has pointed to
    us, to read by our user's browser what is for this machine only (DNS rebinding)."""
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return name.lower() in _LOCAL_NAMES
    return True


def _net(address: str) -> str:
    """Who counts as one: an IPv4 address, an IPv6 /64."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        return str(IPv6Address(int(parsed) >> 64 << 64)) + "/64"
    return address


def tls_context(config: ApiConfig) -> ssl.SSLContext | None:
    """For a listener; None: without TLS.

    Raises:
        OSError: a file cannot be read or used (ssl.SSLError is one).
    """
    if config.tls is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(config.tls.cert_file, config.tls.key_file)
    if config.tls.client_ca_file is not None:
        context.load_verify_locations(config.tls.client_ca_file)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context
