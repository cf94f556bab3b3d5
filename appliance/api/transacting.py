"""Several objects in one transaction: all of them or none, as one revision.

    POST /v1/transactions              {"changes": [{"op": "put", "kind": "pools", "name": "web", "object": {...},
                                        "if_match": ETAG}, ...]}

`op` is put (as PUT: it becomes what is sent; this is meant where nothing is said), create, patch or delete; `name` may
stand in the object instead; that of a member is POOL/MEMBER. The order of changes does not matter. `If-Match` is about
the configuration as a whole: `GET /v1/objects` has its ETag. The query is that of changes of single objects.
"""

from collections.abc import Mapping

from aiohttp import web

from appliance.api.objects import CHANGING
from appliance.api.outcomes import IF_MATCH_WHOLE, asked_by, diff_of, error, etag_of, must_match, refused
from appliance.api.problem import problem
from appliance.api.records import array, record
from appliance.api.routes import Answer, Role, Route, actor_of, body_of
from appliance.api.schemas import CHANGE_STEP, CHANGES, ETAG, refused_answers
from appliance.aside import aside
from appliance.config.document import Document
from appliance.config.problems import ConfigError
from appliance.objects.changes import ChangesError, Made, make, read_steps, results
from appliance.revisions import Author
from appliance.transaction import Outcome, Transactions, as_document

MAX_CHANGES = 64 * 1024 * 1024
"""Bytes: as a whole configuration."""


class TransactionRoutes:
    """Takes changes of several objects."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def routes(self) -> list[Route]:
        return [
            Route(
                "POST",
                "/v1/transactions",
                self._change,
                Role.ADMIN,
                "Change several objects, all or none",
                {200: Answer("What came of it.", CHANGES, headers=ETAG), **refused_answers(409, 412, 422, 503)},
                "objects",
                CHANGING,
                IF_MATCH_WHOLE,
                record({"changes": {**array(CHANGE_STEP), "minItems": 1}}),
                max_body=MAX_CHANGES,
            )
        ]

    async def _change(self, request: web.Request) -> web.Response:
        body = await body_of(request, {"changes"})
        actor = actor_of(request)
        author = Author(actor.who, "api", request.query.get("reason", ""))
        asked = asked_by(request)
        transactions, source = self._transactions, str(self._transactions.in_force.document.path)
        made: list[tuple[Document, Made]] = []

        def change(document: Document) -> Mapping[str, str]:
            must_match(request, transactions, document)
            made[:] = [(document, make(document, steps, self._key))]
            return made[0][1].texts

        try:
            steps = await aside(read_steps, body.get("changes"), source)
            outcome = await transactions.change(change, author, **asked)
        except ChangesError as why:
            return await aside(self._mistaken, why)
        if not outcome.ok:
            return refused(outcome, made[0][1].places if made else ())
        return await aside(self._answer, outcome, *made[0])

    @property
    def _key(self) -> bytes:
        return self._transactions.in_force.config.secret

    def _mistaken(self, why: ChangesError) -> web.Response:
        """That some changes cannot be made, and what would be wrong with the others."""
        errors = [{**error(one.problem), "pointer": one.pointer} for one in why.mistakes]
        if why.rest is not None:
            try:
                self._transactions.parse(why.rest.after)
            except ConfigError as others:
                errors += [error(one, why.rest.places) for one in others.problems]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        status = 422
        if any(one.stale for one in why.mistakes):
            status = 412
        elif any(one.taken for one in why.mistakes):
            status = 409
        return problem(status, f"{why.mistakes[0].problem}{more}", {"step": "parse", "errors": errors})

    def _answer(self, outcome: Outcome, before: Document, made: Made) -> web.Response:
        after = made.after
        tag = etag_of(after)
        changes = [
            {
                "op": str(done.step.op),
                "kind": done.step.kind.noun,
                "name": done.step.name,
                "result": str(done.result),
                "etag": done.etag,
            }
            for done in results(made, before, self._key)
        ]
        document = {
            "apiVersion": "v1",
            **as_document(outcome),
            "etag": tag,
            "changes": changes,
            "diff": diff_of(before, after),
        }
        return web.json_response(document, headers={"ETag": tag})
