"""Waiting for members that drain: what is left of their flows, until nothing is, or until there is no use in it."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

from cyclopts import Parameter

from appliance.cli.orders import Document, seconds
from appliance.cli.output import Exit, complain

LOOK_S = 0.5
"""How often a command that waits looks."""

_CERTAIN = 3
"""Looks in a row that show no drain: right after the order, what a fleet had agreed on before may still come in."""

Wait = Annotated[bool, Parameter(name="--wait", negative="")]
WaitTimeout = Annotated[float | None, Parameter(name="--wait-timeout", validator=seconds)]


def wait(members: Sequence[str], look: Callable[[str], Document], timeout_s: float | None) -> int:
    """Until nothing refers to members that were told to drain.

    Args:
        members: `pool/member`.
        look: what is left of one.
        timeout_s: seconds to wait at most; None is for ever.

    Returns:
        OK; FAILED, the time is over and flows are left, or the drain's own time is over and they were cut; REVOKED,
        somebody has given another order meanwhile.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    live = sys.stderr.isatty()
    said = ""
    missed = dict.fromkeys(members, 0)
    left: dict[str, Document] = {}
    """What was left of members when it was seen last."""
    while True:
        documents = {member: look(member) for member in members}
        for member, document in documents.items():
            if not _is_over(document):
                left[member] = document
            missed[member] = 0 if _drains(document) else missed[member] + 1
        revoked = [member for member, looks in missed.items() if looks >= _CERTAIN]
        late = deadline is not None and time.monotonic() >= deadline
        if revoked or (late and any(missed.values())):
            _end(live)
            for member in revoked or [member for member, looks in missed.items() if looks]:
                complain(f"{member} does not drain any more: {_ordered(documents[member])}")
            return Exit.REVOKED
        if not any(missed.values()):
            line = _line(documents)
            if live:
                print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
            elif line != said:
                print(line, file=sys.stderr, flush=True)
            said = line
            if all(_is_drained(document) for document in documents.values()):
                _end(live)
                over = {
                    member: left.get(member, document) for member, document in documents.items() if _is_over(document)
                }
                cut = {member: before for member, before in over.items() if _is_over(before) or not _is_drained(before)}
                for member, before in cut.items():
                    what = _left(before, now=False)
                    complain(f"{member}: its time was over, and what was left of its flows is cut: {what}")
                return Exit.FAILED if cut else Exit.OK
            if late:
                _end(live)
                for member, document in documents.items():
                    if not _is_drained(document):
                        complain(f"{member} is not drained after {timeout_s:g} s: {_left(document)}")
                return Exit.FAILED
        time.sleep(LOOK_S)


def _end(live: bool) -> None:
    if live:
        print(file=sys.stderr)


def _line(documents: Mapping[str, Document]) -> str:
    """Those of many that are not drained yet; of one, or of the last ones, that nothing is left."""
    waiting = {member: document for member, document in documents.items() if not _is_drained(document)}
    return ", ".join(
        f"{member}: {'in rotation' if _is_in_rotation(document) else _left(document)}"
        for member, document in (waiting or documents).items()
    )


def _drains(document: Document) -> bool:
    return document["order"] is not None and document["order"]["state"] == "drain"


def _is_in_rotation(document: Document) -> bool:
    """Right after the order the tables are the old ones still."""
    return bool(document["state"] == "in_rotation")


def _is_drained(document: Document) -> bool:
    return bool(document["drained"]) and not _is_in_rotation(document)


def _is_over(document: Document) -> bool:
    """Whether the member has been given so long to end its flows, and not longer."""
    return str(document["reason"]).startswith("drain_over")


def _ordered(document: Document) -> str:
    if document["order"] is not None and document["order"]["state"] == "maint":
        return "somebody has ordered maint meanwhile, and what was left of its flows is cut"
    return "somebody has taken the drain back meanwhile, and it takes new flows again"


def _left(document: Document, *, now: bool = True) -> str:
    """*now*: the document is of this moment."""
    known = document["flows"]
    parts = []
    if now and _is_over(document):
        parts.append("its time is over")
    elif now and document["drained"]:
        parts.append("nothing is left")
    if known["open"] or known["closing"]:
        clients = ", ".join(f"{top['client']} ({top['flows']})" for top in known["top_clients"][:3])
        closing = f" and {known['closing']} closing" if known["closing"] else ""
        parts.append(f"{known['open']} open flows{closing}, idle up to {known['longest_idle_s']:.0f} s, from {clients}")
    if document["window_ends"] is not None and not document["drained"]:
        seconds = max(0.0, document["window_ends"] - document["now"])
        parts.append(f"silent ones may be there for {seconds:.0f} s at most")
    if now and document["until"] is not None and not document["drained"]:
        parts.append(f"cut in {max(0.0, document['until'] - document['now']):.0f} s")
    return "; ".join(parts) or "waiting for the tables to be steady"
