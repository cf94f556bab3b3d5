"""What became of a change of the configuration, as an answer."""

from collections.abc import Callable, Sequence
from difflib import unified_diff
from functools import partial
from typing import Any, TypedDict

from aiohttp import web

from appliance.api.conditions import is_waited_for, tags_in
from appliance.api.problem import RefusedError, problem
from appliance.api.routes import Query, flag_in
from appliance.config.document import Document
from appliance.config.problems import Location, Problem
from appliance.objects.pointers import pointer_within
from appliance.revisions import Revision
from appliance.transaction import Outcome, Step, Transactions, as_document

MISTAKES = (Step.PARSE, Step.VALIDATE, Step.DIFF)
"""Where a transaction ends because of what is written."""


class Asked(TypedDict):
    """How a change is to be made, as `Transactions.change` takes it."""

    dry_run: bool
    force: bool
    at_restart: bool
    wanted: Callable[[], bool]


def asked_by(request: web.Request) -> Asked:
    """What the query says of it.

    Raises:
        RefusedError: it makes no sense.
    """
    return {
        "dry_run": flag_in(request.query, "dry_run"),
        "force": flag_in(request.query, "force"),
        "at_restart": flag_in(request.query, "at_restart"),
        "wanted": partial(is_waited_for, request),
    }


Places = Sequence[tuple[str, Location]]
"""Which parts of what was sent stand where: JSON pointers (RFC 6901), and locations in the files."""


def refused(outcome: Outcome, places: Places = ()) -> web.Response:
    """That it was not made, and why: 409 something else is in force or written meanwhile, 422 the configuration would
    have mistakes or takes a restart, 500 it could not be put into force or kept, 503 the director ends.

    Args:
        outcome: of the change.
        places: of the objects that were sent.
    """
    status = 503 if outcome.withdrawn else 409 if outcome.conflict else 422 if outcome.step in MISTAKES else 500
    errors = [error(one, places) for one in outcome.problems]
    first = str(outcome.problems[0]) if outcome.problems else "refused"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return problem(status, first + more, {**as_document(outcome), "errors": errors})


def error(one: Problem, places: Places = ()) -> dict[str, Any]:
    """A mistake with its place: paths are those of `onward check`; `pointer` (RFC 6901) leads to it within what was
    sent, and is null where it is about something else."""
    return {
        "path": one.path,
        "pointer": pointer_within(one.path, places),
        "file": one.source,
        "line": one.line,
        "value": one.value,
        "message": one.message,
        "hint": one.remedy,
    }


def diff_of(before: Document, after: Document) -> str:
    """Lines that differ, as `diff -u`."""
    lines: list[str] = []
    for name in {**before.texts, **after.texts}:
        old, new = (document.texts.get(name, "").splitlines() for document in (before, after))
        lines += unified_diff(old, new, f"in force/{name}", f"new/{name}", lineterm="")
    return "\n".join(lines)


def signature(revision: Revision) -> dict[str, object]:
    """When a configuration came into force, and by whom."""
    author = revision.author
    return {"at": revision.at, "who": author.who, "via": author.via, "why": author.why}


# ---------------------------------------------------------------------------------------------------------------------
# The configuration as a whole

IF_MATCH_WHOLE = (
    Query("If-Match", {"type": "string"}, "ETags of which the configuration must have one, or it stays (412)."),
)


def etag_of(document: Document) -> str:
    """A strong validator (RFC 9110, section 8.8) of a configuration as a whole."""
    return f'"{document.digest}"'


def must_match(request: web.Request, transactions: Transactions, document: Document) -> None:
    """
    Args:
        request: with `If-Match`, or without.
        transactions: know who has changed it.
        document: what is to be changed: what is in force, or what waits for the next start.

    Raises:
        RefusedError: it is another one than those of `If-Match`, or these are no ETags.
    """
    tags, now = tags_in(request, "If-Match", weak=False), etag_of(document)
    if tags is None or {"*", now} & tags:
        return
    revision = transactions.revision
    changed = {"revision": revision.number, **signature(revision)} if revision is not None else None
    by = f" by {revision.author.who or 'somebody'} (revision {revision.number})" if revision is not None else ""
    raise RefusedError(
        412, f"the configuration has been changed since{by}; read it again", {"etag": now, "changed": changed}
    )
