"""The configuration as a whole: what is in force, what was, and the way to another one.

    GET  /v1/config                    what is in force: revision, digest and texts; its ETag is for `If-Match`
    PUT  /v1/config                    {"texts": {name: text}, "base": digest, "reason": "...", "dry_run": true,
                                        "force": true, "at_restart": true}
    POST /v1/config/reload             {"reason": "...", "dry_run": true}
    POST /v1/config/rollback           {"revision": N, "in_force": N, "reason": "...", "dry_run": true, "force": true,
                                        "at_restart": true}; 412 where another one is in force by now
    GET  /v1/config/revisions          who, when and why, the latest first
    GET  /v1/config/revisions/N        one of them, with its texts
    GET  /v1/config/diff?revision=N    which lines of it differ from what is in force; of the files without it
    GET  /v1/config/schema             the JSON Schema of the files

All keys of bodies are optional, but for `texts` and `revision`. What came of it is told whole, whether it was taken or
not: outcomes.py. Single objects: objects.py.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Mapping
from functools import cache, partial
from typing import Any

from aiohttp import web

from appliance.api.conditions import is_waited_for
from appliance.api.outcomes import IF_MATCH_WHOLE, Asked, diff_of, etag_of, must_match, refused, signature
from appliance.api.problem import RefusedError
from appliance.api.records import ANYTHING, FLAG, NUMBER, REASON, TEXT, WHOLE, array, nullable, record
from appliance.api.routes import Answer, Query, Role, Route, actor_of, body_of
from appliance.api.schemas import ETAG, OUTCOME, refused_answers
from appliance.api.status_schema import STAGED
from appliance.config.document import Document, read_document
from appliance.config.problems import ConfigError
from appliance.config.schema import json_schema
from appliance.revisions import Author, Revision, RevisionError
from appliance.transaction import Outcome, Transactions, as_document, staged_document

MAX_TEXTS = 64 * 1024 * 1024
"""Bytes: the texts of a large configuration, as JSON."""

_TEXTS = {"type": "object", "additionalProperties": TEXT}
_NUMBER = {"type": "integer", "minimum": 1, "maximum": 99_999_999}
_REVISION_KEYS = {
    "number": WHOLE,
    "at": NUMBER,
    "who": TEXT,
    "via": TEXT,
    "why": TEXT,
    "digest": TEXT,
    "summary": TEXT,
}
_IN_FORCE = record(
    {"path": TEXT, "digest": TEXT, "revision": nullable(WHOLE), "staged": nullable(STAGED), "texts": _TEXTS}
)
_REVISIONS = record(
    {"in_force": nullable(WHOLE), "staged": nullable(WHOLE), "revisions": array(record(_REVISION_KEYS))}
)
_CAME_OF_IT = {200: Answer("What came of it.", OUTCOME), **refused_answers(400, 409, 422, 503)}


class ConfigRoutes:
    """Takes changes of the configuration."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def routes(self) -> list[Route]:
        tag = "configuration"
        common = {"reason": REASON, "dry_run": FLAG, "force": FLAG, "at_restart": FLAG}
        put = record({"texts": _TEXTS}, {"base": TEXT, **common})
        reload = record({}, {"reason": REASON, "dry_run": FLAG})
        back = record({"revision": WHOLE}, {"in_force": WHOLE, **common})
        texts = record({**_REVISION_KEYS, "texts": _TEXTS})
        return [
            Route(
                "GET",
                "/v1/config",
                self._in_force,
                Role.ADMIN,
                "What is in force: texts, digest, revision",
                {200: Answer("Texts by file name.", _IN_FORCE, headers=ETAG)},
                tag,
            ),
            Route(
                "PUT",
                "/v1/config",
                self._put,
                Role.ADMIN,
                "Other texts",
                _CAME_OF_IT | refused_answers(412),
                tag,
                headers=IF_MATCH_WHOLE,
                body=put,
                max_body=MAX_TEXTS,
            ),
            Route(
                "POST",
                "/v1/config/reload",
                self._reload,
                Role.OPERATOR,
                "Read the files again",
                _CAME_OF_IT,
                tag,
                body=reload,
                needs_body=False,
            ),
            Route(
                "POST",
                "/v1/config/rollback",
                self._rollback,
                Role.ADMIN,
                "An earlier revision again",
                _CAME_OF_IT | refused_answers(404, 412),
                tag,
                headers=IF_MATCH_WHOLE,
                body=back,
            ),
            Route(
                "GET",
                "/v1/config/diff",
                self._diff,
                Role.ADMIN,
                "Which lines differ from what is in force: of the files as they are now, or of a revision",
                {200: Answer("As `diff -u`.", record({"diff": TEXT})), **refused_answers(400, 404, 422)},
                tag,
                (Query("revision", _NUMBER, "Its number; the files by default."),),
            ),
            Route(
                "GET",
                "/v1/config/revisions",
                self._revisions,
                Role.VIEWER,
                "What was in force: who, when, why; the latest first",
                {200: Answer("Revisions.", _REVISIONS)},
                tag,
            ),
            Route(
                "GET",
                r"/v1/config/revisions/{number:\d{1,8}}",
                self._revision,
                Role.ADMIN,
                "One revision with its texts",
                {200: Answer("The revision.", texts), **refused_answers(404)},
                tag,
                names={"number": _NUMBER},
            ),
            Route(
                "GET",
                "/v1/config/schema",
                self._schema,
                Role.NOBODY,
                "The JSON Schema of the configuration files",
                {200: Answer("JSON Schema, draft 7.", ANYTHING)},
                tag,
            ),
        ]

    async def _schema(self, _request: web.Request) -> web.Response:
        return web.json_response(_file_schema())

    async def _in_force(self, _request: web.Request) -> web.Response:
        document, revision = self._transactions.in_force.document, self._transactions.revision
        return web.json_response(
            {
                "path": str(document.path),
                "digest": document.digest,
                "revision": revision.number if revision is not None else None,
                "staged": staged_document(self._transactions.staged),
                "texts": dict(document.texts),
            },
            headers={"ETag": etag_of(document)},
        )

    async def _diff(self, request: web.Request) -> web.Response:
        in_force, number = self._transactions.in_force.document, request.query.get("revision")
        if number is not None and not re.fullmatch("[0-9]{1,8}", number):
            raise RefusedError(400, f"revision = {number} is not a number")
        try:
            if number is None:
                other = await asyncio.to_thread(read_document, in_force.path)
            else:
                _, texts = await asyncio.to_thread(self._transactions.revisions.read, int(number))
                other = in_force.having(texts)
        except RevisionError as error:
            raise RefusedError(404, str(error)) from error
        except ConfigError as error:
            raise RefusedError(422, str(error)) from error
        return web.json_response({"diff": await asyncio.to_thread(diff_of, in_force, other)})

    async def _put(self, request: web.Request) -> web.Response:
        body = await body_of(request, {"texts", "base", "reason", "dry_run", "force", "at_restart"})
        texts = body.get("texts")
        if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
            raise RefusedError(400, "texts is not an object of texts by file name")
        base = body.get("base")
        if base is not None and not isinstance(base, str):
            raise RefusedError(400, "base is not a digest")
        author, asked = _author(request, body, "api"), _asked(request, body)

        def change(document: Document) -> Mapping[str, str]:
            must_match(request, self._transactions, document)
            return texts

        return await _answer(self._transactions.change(change, author, base=base, **asked))

    async def _reload(self, request: web.Request) -> web.Response:
        body = await body_of(request, {"reason", "dry_run"})
        author = _author(request, body, "reload")
        dry_run, wanted = _flag(body, "dry_run"), partial(is_waited_for, request)
        return await _answer(self._transactions.reload(author, dry_run=dry_run, wanted=wanted))

    async def _rollback(self, request: web.Request) -> web.Response:
        body = await body_of(request, {"revision", "in_force", "reason", "dry_run", "force", "at_restart"})
        number, seen = body.get("revision"), body.get("in_force")
        if isinstance(number, bool) or not isinstance(number, int):
            raise RefusedError(400, "revision is not a number")
        if seen is not None and (isinstance(seen, bool) or not isinstance(seen, int)):
            raise RefusedError(400, "in_force is not a number")

        def check() -> None:
            must_match(request, self._transactions, self._transactions.in_force.document)
            now = self._transactions.revision
            if seen is not None and now is not None and now.number != seen:
                text = f"revision {now.number} is in force by now, and not {seen}; look again at what this would undo"
                raise RefusedError(412, text, {"changed": _document(now)})

        author, asked = _author(request, body, f"rollback to {number}"), _asked(request, body)
        try:
            return await _answer(self._transactions.rollback(number, author, check, **asked))
        except RevisionError as error:
            raise RefusedError(404, str(error)) from error

    async def _revisions(self, _request: web.Request) -> web.Response:
        now, staged = self._transactions.revision, self._transactions.staged
        try:
            found = await asyncio.to_thread(self._transactions.revisions.all)
        except RevisionError as error:
            raise RefusedError(500, str(error)) from error
        return web.json_response(
            {
                "in_force": now.number if now is not None else None,
                "staged": staged.revision.number if staged is not None else None,
                "revisions": [_document(one) for one in found],
            }
        )

    async def _revision(self, request: web.Request) -> web.Response:
        try:
            number = int(request.match_info["number"])
            revision, texts = await asyncio.to_thread(self._transactions.revisions.read, number)
        except RevisionError as error:
            raise RefusedError(404, str(error)) from error
        return web.json_response({**_document(revision), "texts": dict(texts)})


async def _answer(transaction: Awaitable[Outcome]) -> web.Response:
    outcome = await transaction
    return web.json_response(as_document(outcome)) if outcome.ok else refused(outcome)


def _document(revision: Revision) -> dict[str, object]:
    return {
        "number": revision.number,
        **signature(revision),
        "digest": revision.digest,
        "summary": revision.summary,
    }


def _flag(body: Mapping[str, object], key: str) -> bool:
    value = body.get(key, False)
    if not isinstance(value, bool):
        raise RefusedError(400, f"{key} is neither true nor false")
    return value


def _asked(request: web.Request, body: Mapping[str, object]) -> Asked:
    """How a change is to be made."""
    return {
        "dry_run": _flag(body, "dry_run"),
        "force": _flag(body, "force"),
        "at_restart": _flag(body, "at_restart"),
        "wanted": partial(is_waited_for, request),
    }


def _author(request: web.Request, body: Mapping[str, object], via: str) -> Author:
    return Author(actor_of(request).who, via, str(body.get("reason") or ""))


@cache
def _file_schema() -> Any:
    return json.loads(json_schema())
