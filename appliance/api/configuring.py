"""The configuration over the control socket: what is in force, what was, and the way to another one.

    GET  /v1/config                    what is in force: revision, digest and texts
    PUT  /v1/config                    {"texts": {name: text}, "base": digest, "reason": "...", "dry_run": true,
                                        "force": true}
    PUT  /v1/config/objects/KIND/NAME  {"values": {...}} and as above: one thing, with all its keys as in TOML; comments
                                       of everything else stay. KIND alone for what there is one of: bgp, fleet, ...
    DELETE /v1/config/objects/KIND/NAME, with the same body but for values
    POST /v1/config/reload             {"reason": "...", "dry_run": true}
    POST /v1/config/rollback           {"revision": N, "reason": "...", "dry_run": true, "force": true}
    GET  /v1/config/revisions          who, when and why, the latest first
    GET  /v1/config/revisions/N        one of them, with its texts

All keys of bodies are optional, but for `texts` and `revision`. What came of it is told whole, whether it was taken or
not: 200 taken, 422 the configuration has mistakes or takes a restart, 500 it could not be put into force or kept.
"""

from collections.abc import Awaitable, Callable, Mapping
from pwd import getpwuid

from aiohttp import web

from appliance.api.control import body_of, who_of
from appliance.api.problem import RefusedError
from appliance.config import edit
from appliance.config.document import Document
from appliance.revisions import Author, Revision, RevisionError
from appliance.transaction import Outcome, Step, Transactions, as_document

MISTAKES = (Step.PARSE, Step.VALIDATE, Step.DIFF)
"""Where a transaction ends because of what is written."""


class ConfigRoutes:
    """Takes changes of the configuration."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/config", self._in_force),
            web.put("/v1/config", self._put),
            *(
                web.route(method, f"/v1/config/objects/{place}", handler)
                for place in ("{kind}/{name}", "{kind}")
                for method, handler in (("PUT", self._put_one), ("DELETE", self._remove_one))
            ),
            web.post("/v1/config/reload", self._reload),
            web.post("/v1/config/rollback", self._rollback),
            web.get("/v1/config/revisions", self._revisions),
            web.get(r"/v1/config/revisions/{number:\d{1,8}}", self._revision),
        ]

    async def _in_force(self, _request: web.Request) -> web.Response:
        document, revision = self._transactions.in_force.document, self._transactions.revision
        return web.json_response(
            {
                "path": str(document.path),
                "digest": document.digest,
                "revision": revision.number if revision is not None else None,
                "texts": dict(document.texts),
            }
        )

    async def _put(self, request: web.Request) -> web.Response:
        body = await body_of(request, {"texts", "base", "reason", "dry_run", "force"})
        texts = body.get("texts")
        if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
            raise RefusedError(400, "texts is not an object of texts by file name")
        return await self._change(request, body, lambda _: texts)

    async def _put_one(self, request: web.Request) -> web.Response:
        body = await body_of(request, {"values", "base", "reason", "dry_run", "force"})
        values = body.get("values")
        if not isinstance(values, dict):
            raise RefusedError(400, "values is not an object")
        kind, name = request.match_info["kind"], request.match_info.get("name")
        return await self._change(request, body, lambda document: edit.put(document, kind, name, values))

    async def _remove_one(self, request: web.Request) -> web.Response:
        body = await body_of(request, {"base", "reason", "dry_run", "force"})
        kind, name = request.match_info["kind"], request.match_info.get("name")
        return await self._change(request, body, lambda document: edit.remove(document, kind, name))

    async def _change(
        self, request: web.Request, body: Mapping[str, object], change: Callable[[Document], Mapping[str, str]]
    ) -> web.Response:
        base = body.get("base")
        if base is not None and not isinstance(base, str):
            raise RefusedError(400, "base is not a digest")
        dry_run, force = _flag(body, "dry_run"), _flag(body, "force")
        author = _author(request, body, "api")
        return await _answer(self._transactions.change(change, author, base=base, dry_run=dry_run, force=force))

    async def _reload(self, request: web.Request) -> web.Response:
        body = await body_of(request, {"reason", "dry_run"})
        author = _author(request, body, "reload")
        return await _answer(self._transactions.reload(author, dry_run=_flag(body, "dry_run")))

    async def _rollback(self, request: web.Request) -> web.Response:
        body = await body_of(request, {"revision", "reason", "dry_run", "force"})
        number = body.get("revision")
        if isinstance(number, bool) or not isinstance(number, int):
            raise RefusedError(400, "revision is not a number")
        author = _author(request, body, f"rollback to {number}")
        dry_run, force = _flag(body, "dry_run"), _flag(body, "force")
        try:
            return await _answer(self._transactions.rollback(number, author, dry_run=dry_run, force=force))
        except RevisionError as error:
            raise RefusedError(404, str(error)) from error

    async def _revisions(self, _request: web.Request) -> web.Response:
        now = self._transactions.revision
        try:
            found = self._transactions.revisions.all()
        except RevisionError as error:
            raise RefusedError(500, str(error)) from error
        return web.json_response(
            {"in_force": now.number if now is not None else None, "revisions": [_document(one) for one in found]}
        )

    async def _revision(self, request: web.Request) -> web.Response:
        try:
            revision, texts = self._transactions.revisions.read(int(request.match_info["number"]))
        except RevisionError as error:
            raise RefusedError(404, str(error)) from error
        return web.json_response({**_document(revision), "texts": dict(texts)})


async def _answer(transaction: Awaitable[Outcome]) -> web.Response:
    outcome = await transaction
    status = 200 if outcome.ok else 422 if outcome.step in MISTAKES else 500
    return web.json_response(as_document(outcome), status=status)


def _document(revision: Revision) -> dict[str, object]:
    author = revision.author
    return {
        "number": revision.number,
        "at": revision.at,
        "who": author.who,
        "via": author.via,
        "why": author.why,
        "digest": revision.digest,
        "summary": revision.summary,
    }


def _flag(body: Mapping[str, object], key: str) -> bool:
    value = body.get(key, False)
    if not isinstance(value, bool):
        raise RefusedError(400, f"{key} is neither true nor false")
    return value


def _author(request: web.Request, body: Mapping[str, object], via: str) -> Author:
    """Who is at the other end of the socket."""
    known = who_of(request)
    uid, pid = known.get("by_uid"), known.get("by_pid")
    if not isinstance(uid, int):
        return Author("", via, str(body.get("reason") or ""))
    try:
        name = getpwuid(uid).pw_name
    except KeyError:
        name = "nobody we know"
    return Author(f"{name} (uid {uid}, pid {pid})", via, str(body.get("reason") or ""))
