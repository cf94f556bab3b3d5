"""What became of a change of the configuration, as an answer."""

from difflib import unified_diff
from typing import Any

from aiohttp import web

from appliance.api.problem import problem
from appliance.config.document import Document
from appliance.config.problems import Problem
from appliance.objects.catalogue import Change
from appliance.objects.pointers import pointer
from appliance.revisions import Revision
from appliance.transaction import Outcome, Step, as_document

MISTAKES = (Step.PARSE, Step.VALIDATE, Step.DIFF)
"""Where a transaction ends because of what is written."""


def refused(outcome: Outcome, change: Change | None = None) -> web.Response:
    """That it was not made, and why: 409 something else is in force or written meanwhile, 422 the configuration would
    have mistakes or takes a restart, 500 it could not be put into force or kept.

    Args:
        outcome: of the change.
        change: of an object, where it was one.
    """
    status = 409 if outcome.conflict else 422 if outcome.step in MISTAKES else 500
    errors = [error(one, change) for one in outcome.problems]
    first = str(outcome.problems[0]) if outcome.problems else "refused"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return problem(status, first + more, {**as_document(outcome), "errors": errors})


def error(one: Problem, change: Change | None = None) -> dict[str, Any]:
    """A mistake with its place: paths are those of `onward check`; `pointer` (RFC 6901) leads to it within the object
    that was sent, and is null where it is about something else."""
    inside = pointer(one.path, change.location) if change is not None and change.location is not None else None
    return {
        "path": one.path,
        "pointer": inside,
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
