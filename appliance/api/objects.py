"""Objects of the configuration, one by one: objects/ behind HTTP.

    GET    /v1/objects                 which kinds there are, and how many of each
    GET    /v1/objects/KIND            all of a kind: names, ETags, files, users, and the objects
    POST   /v1/objects/KIND            one more
    GET    /v1/objects/KIND/NAME       one of them, in its canonical form, with its ETag
    PUT    /v1/objects/KIND/NAME       it becomes what is sent; made where it is not there
    PATCH  /v1/objects/KIND/NAME       some keys change (JSON merge patch, RFC 7396)
    DELETE /v1/objects/KIND/NAME       it goes, unless others name it

and the same at /v1/objects/pools/POOL/members and /v1/objects/pools/POOL/members/MEMBER for single members of a pool;
without NAME for what there is one of: director, api, connection-log, doctor, tier2, fleet, bgp. Changes take
`?dry_run=true`, which says what would happen; `?reason=`; `?force=true`, also where the files say something else than
what is in force; `?at_restart=true`, which writes what takes a restart to the files alone; and `If-Match`, of the
object or, for POST, of the list: a list has the ETag of the configuration as a whole.
"""

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from aiohttp import web

from appliance.api.conditions import IF_NEW, is_known, tags_in
from appliance.api.outcomes import IF_MATCH_WHOLE, asked_by, diff_of, etag_of, must_match, refused, signature
from appliance.api.problem import RefusedError
from appliance.api.records import REASON, Schema
from appliance.api.routes import Actor, Answer, Query, Role, Route, actor_of, flag_in, object_of
from appliance.api.schemas import CHANGED, ETAG, KINDS_LISTED, listed, object_in, object_out, refused_answers
from appliance.aside import aside
from appliance.config.document import Document
from appliance.objects.canonical import etag, hidden
from appliance.objects.catalogue import (
    Catalogue,
    Change,
    Condition,
    Entry,
    InUseError,
    NotThereError,
    StaleError,
    TakenError,
)
from appliance.objects.kinds import KINDS, Kind
from appliance.revisions import Author, Revision, RevisionError
from appliance.transaction import Outcome, Transactions, as_document

MERGE_PATCH = "application/merge-patch+json"
MAX_OBJECT = 16 * 1024 * 1024
"""Bytes: a pool with more members than any has."""

LOOKED_BACK = 20
"""So many revisions are read to find who changed an object."""

CHANGING = (
    Query("dry_run", {"type": "boolean", "default": False}, "Say what would happen, and do nothing."),
    Query(
        "force", {"type": "boolean", "default": False}, "Also where the files say something else than what is in force."
    ),
    Query(
        "at_restart",
        {"type": "boolean", "default": False},
        "Write what takes a restart to the files, for the next start; what is in force stays.",
    ),
    Query("reason", REASON, "A note for the log and the history."),
)
_STAGED = (Query("staged", {"type": "boolean", "default": False}, "As it waits for the next start, if anything does."),)
_IF_MATCH = (
    Query("If-Match", {"type": "string"}, "ETags of which the object must have one, or it is not changed (412)."),
)
_IF_NONE_MATCH = (
    Query("If-None-Match", {"type": "string", "enum": ["*"]}, "`*`: only where it is not there yet (412)."),
)


_NAME: Schema = {"type": "string", "minLength": 1}

_Edit = Callable[[Catalogue], Change]


class ObjectRoutes:
    """Shows and changes objects."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self._made: tuple[str, Catalogue] | None = None

    def routes(self) -> list[Route]:
        made = [
            Route(
                "GET",
                "/v1/objects",
                self._kinds,
                Role.VIEWER,
                "Which kinds of objects there are; the ETag is that of the configuration as a whole",
                {
                    200: Answer("Kinds.", KINDS_LISTED, headers=ETAG),
                    304: Answer("They are what `If-None-Match` has the ETag of."),
                },
                "objects",
                _STAGED,
                IF_NEW,
            )
        ]
        for kind in KINDS.values():
            made += self._of_kind(kind)
        return made

    def _of_kind(self, kind: Kind) -> list[Route]:
        """All routes of a kind."""
        base, one = f"/v1/objects/{kind.noun}", kind.one
        names: dict[str, Schema] = {}
        if kind.within is not None:
            base = f"/v1/objects/{kind.within.noun}/{{{_owner(kind)}}}/{kind.noun}"
            names[_owner(kind)] = _NAME
        owners = dict(names)
        shown = {200: Answer(f"The {one}.", object_out(kind), headers=ETAG), **refused_answers(404)}
        not_new = {304: Answer("It is what `If-None-Match` has the ETag of.")}
        shown |= not_new
        changed = {200: Answer("What came of it.", CHANGED), **refused_answers(404, 409, 412, 422, 503)}
        all_shown = {200: Answer("All.", listed(kind), headers=ETAG), **not_new}
        made = changed | {201: Answer("It was made.", CHANGED, headers=ETAG)}
        body, key = object_in(kind), _key_in_paths(kind)
        many = (
            [
                Route(
                    "GET",
                    base,
                    self._listing(kind),
                    Role.VIEWER,
                    f"List all {kind.noun}",
                    all_shown | refused_answers(*([404] if owners else [])),
                    "objects",
                    _STAGED,
                    IF_NEW,
                    names=owners,
                ),
                Route(
                    "POST",
                    base,
                    self._creating(kind),
                    Role.ADMIN,
                    f"Make a {one}",
                    made,
                    "objects",
                    CHANGING,
                    IF_MATCH_WHOLE,
                    body,
                    names=owners,
                    max_body=MAX_OBJECT,
                ),
            ]
            if kind.key is not None
            else []
        )
        place = f"{base}/{{{key}}}" if kind.key is not None else base
        if kind.key is not None:
            names[key] = _NAME
        single = [
            Route(
                "GET",
                place,
                self._showing(kind),
                Role.VIEWER,
                f"Show the {one}",
                shown,
                "objects",
                _STAGED,
                IF_NEW,
                names=names,
            ),
            Route(
                "PUT",
                place,
                self._replacing(kind),
                Role.ADMIN,
                f"Make or replace the {one}",
                made,
                "objects",
                CHANGING,
                (*_IF_MATCH, *_IF_NONE_MATCH),
                body,
                names=names,
                max_body=MAX_OBJECT,
            ),
            Route(
                "PATCH",
                place,
                self._patching(kind),
                Role.ADMIN,
                f"Change some keys of the {one}",
                changed,
                "objects",
                CHANGING,
                _IF_MATCH,
                {"type": "object"},
                (MERGE_PATCH, "application/json"),
                names=names,
                max_body=MAX_OBJECT,
            ),
        ]
        if not kind.needed:
            single.append(
                Route(
                    "DELETE",
                    place,
                    self._deleting(kind),
                    Role.ADMIN,
                    f"Remove the {one}",
                    changed,
                    "objects",
                    CHANGING,
                    _IF_MATCH,
                    names=names,
                )
            )
        return many + single

    # -----------------------------------------------------------------------------------------------------------------
    # Looking

    async def _catalogue(self, request: web.Request | None = None) -> Catalogue:
        """Of what is in force, made once for each configuration; or of what waits for the next start, where that is
        asked for and something waits."""
        document, waits = self._transactions.in_force.document, self._transactions.staged
        if waits is not None and request is not None and flag_in(request.query, "staged"):
            return await aside(Catalogue, waits.loaded.document)
        if self._made is None or self._made[0] != document.digest:
            self._made = document.digest, await aside(Catalogue, document)
        return self._made[1]

    @property
    def _key(self) -> bytes:
        return self._transactions.in_force.config.secret

    async def _kinds(self, request: web.Request) -> web.Response:
        catalogue = await self._catalogue()
        if is_known(request, tag := etag_of(catalogue.document)):
            return web.Response(status=304, headers={"ETag": tag})
        kinds = [
            {"kind": kind.noun, "single": kind.key is None, "key": kind.key, "count": len(catalogue.all(kind))}
            for kind in KINDS.values()
            if kind.within is None
        ]
        digest = catalogue.document.digest
        return web.json_response({"apiVersion": "v1", "digest": digest, "kinds": kinds}, headers={"ETag": tag})

    def _listing(self, kind: Kind) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.Response:
            catalogue, actor, owner = await self._catalogue(request), actor_of(request), _owner_in(request, kind)
            if kind.within is not None:
                _there(catalogue, kind.within, owner)
            if is_known(request, tag := etag_of(catalogue.document)):
                return web.Response(status=304, headers={"ETag": tag})

            def look() -> list[dict[str, Any]]:
                return [
                    {
                        "name": entry.name,
                        "etag": etag(entry.values, self._key),
                        "file": entry.file,
                        "used_by": list(catalogue.used_by(entry)),
                        "object": _shown(entry, actor),
                    }
                    for entry in _all_of(catalogue, kind, owner)
                ]

            items = await aside(look)
            return web.json_response({"apiVersion": "v1", "kind": kind.noun, "items": items}, headers={"ETag": tag})

        return handle

    def _showing(self, kind: Kind) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.Response:
            catalogue = await self._catalogue(request)
            entry = _there(catalogue, kind, _name(request, kind))
            tag = etag(entry.values, self._key)
            if is_known(request, tag):
                return web.Response(status=304, headers={"ETag": tag})
            return web.json_response(_shown(entry, actor_of(request)), headers={"ETag": tag})

        return handle

    # -----------------------------------------------------------------------------------------------------------------
    # Changing

    def _creating(self, kind: Kind) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.Response:
            values, owner = await object_of(request), _owner_in(request, kind)

            def create(catalogue: Catalogue) -> Change:
                must_match(request, self._transactions, catalogue.document)
                return catalogue.create(kind, values, owner=owner)

            return await self._change(request, kind, create)

        return handle

    def _replacing(self, kind: Kind) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.Response:
            values, name, condition = await object_of(request), _name(request, kind), self._condition(request)
            return await self._change(request, kind, lambda catalogue: catalogue.replace(kind, name, values, condition))

        return handle

    def _patching(self, kind: Kind) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.Response:
            patch, name, condition = await object_of(request), _name(request, kind), self._condition(request)
            return await self._change(request, kind, lambda catalogue: catalogue.patch(kind, name, patch, condition))

        return handle

    def _deleting(self, kind: Kind) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.Response:
            name, condition = _name(request, kind), self._condition(request)
            return await self._change(request, kind, lambda catalogue: catalogue.delete(kind, name, condition))

        return handle

    def _condition(self, request: web.Request) -> Condition:
        none = request.headers.get("If-None-Match")
        if none is not None and none.strip() != "*":
            raise RefusedError(400, f"If-None-Match: {none}: only * has a meaning for changes")
        return Condition(tags_in(request, "If-Match", weak=False), absent=none is not None, key=self._key)

    async def _change(self, request: web.Request, kind: Kind, edit: _Edit) -> web.Response:
        actor = actor_of(request)
        asked = asked_by(request)
        author = Author(actor.who, "api", request.query.get("reason", ""))
        made: list[Change] = []
        known = await self._catalogue()

        def change(document: Document) -> Mapping[str, str]:
            nonlocal known
            if known.document.digest != document.digest:  # somebody was faster
                known = Catalogue(document)
            made[:] = [edit(known)]
            return made[0].texts

        try:
            outcome = await self._transactions.change(change, author, **asked)
        except NotThereError as error:
            raise RefusedError(404, str(error)) from None
        except TakenError as error:
            raise RefusedError(409, str(error)) from None
        except InUseError as error:
            raise RefusedError(409, str(error), {"used_by": list(error.users)}) from None
        except StaleError as error:
            who = await aside(self._last_change, kind, _name(request, kind))
            by = f"; {who.author.who or 'somebody'} changed it ({who.author.via}, revision {who.number})" if who else ""
            raise RefusedError(
                412,
                f"{error}{by}; read it again",
                {"etag": error.etag, "changed": _change_document(who) if who else None},
            ) from None
        if not outcome.ok:
            return refused(outcome, [("", one.location) for one in made if one.location is not None])
        return await aside(self._answer, request, outcome, made[0], known)

    def _answer(self, request: web.Request, outcome: Outcome, change: Change, before: Catalogue) -> web.Response:
        """What came of a change that was taken, or would be."""
        after = change.after
        entry = Catalogue(after).find(change.kind, change.name) if change.location is not None else None
        tag = etag(entry.values, self._key) if entry is not None else None
        new = entry is not None and before.find(change.kind, change.name) is None
        document = {
            "apiVersion": "v1",
            **as_document(outcome),
            "kind": change.kind.noun,
            "name": change.name,
            "etag": tag,
            "object": _shown(entry, actor_of(request)) if entry is not None else None,
            "diff": diff_of(before.document, after),
        }
        headers = {} if tag is None else {"ETag": tag}
        if new and not outcome.dry_run:
            base = request.path if request.method == "POST" else request.path.rpartition("/")[0]
            headers["Location"] = f"{base}/{quote(change.name.rpartition('/')[2])}" if change.kind.key else request.path
        return web.json_response(document, status=201 if new and not outcome.dry_run else 200, headers=headers)

    def _last_change(self, kind: Kind, name: str) -> Revision | None:
        """The revision that made the object what it is now, or took it away; None where that cannot be told."""
        path = self._transactions.in_force.document.path
        try:
            known = self._transactions.revisions.all()[:LOOKED_BACK]
            seen: tuple[Revision, str | None] | None = None
            for revision in known:
                _, texts = self._transactions.revisions.read(revision.number)
                entry = Catalogue(Document(path, texts)).find(kind, name)
                tag = etag(entry.values) if entry is not None else None
                if seen is not None and seen[1] != tag:
                    return seen[0]
                seen = revision, tag
        except (RevisionError, ValueError):
            return None
        return seen[0] if seen is not None and len(known) < LOOKED_BACK else None


def _owner(kind: Kind) -> str:
    """What the part of a path is called that says within which object."""
    return kind.place[0]


def _key_in_paths(kind: Kind) -> str:
    return kind.place[-1] if kind.within is not None else kind.key or "name"


def _owner_in(request: web.Request, kind: Kind) -> str:
    return request.match_info[_owner(kind)] if kind.within is not None else ""


def _name(request: web.Request, kind: Kind) -> str:
    name = request.match_info.get(_key_in_paths(kind), "") if kind.key is not None else ""
    return f"{_owner_in(request, kind)}/{name}" if kind.within is not None else name


def _there(catalogue: Catalogue, kind: Kind, name: str) -> Entry:
    """
    Raises:
        RefusedError: there is none.
    """
    try:
        return catalogue.get(kind, name)
    except NotThereError as error:
        raise RefusedError(404, str(error)) from None


def _all_of(catalogue: Catalogue, kind: Kind, owner: str) -> list[Entry]:
    """All of a kind, within one other object where they are.

    Raises:
        RefusedError: there is no such other one.
    """
    if kind.within is None:
        return catalogue.all(kind)
    return list(catalogue.inside(kind, _there(catalogue, kind.within, owner)))


def _shown(entry: Entry, actor: Actor) -> dict[str, Any]:
    """Secrets are for those who could read the files as well."""
    values: dict[str, Any] = entry.values if actor.local else hidden(entry.values)
    return values


def _change_document(revision: Revision) -> dict[str, object]:
    return {"revision": revision.number, **signature(revision)}
