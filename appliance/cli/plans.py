"""What a change of the configuration does, or did, as text."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from appliance.cli.orders import Document, ask
from appliance.cli.output import Exit, complain, paint, print_json, table, warn

MANY = 20
"""Lines of one kind that are shown."""

_COLOURS = {"+": "32", "-": "31", "~": "33"}


def orders_at(socket: Path) -> list[Document]:
    """Members that operators have ordered something else of than is configured, which no configuration changes:
    `member`, `order` and `text`.

    Raises:
        OrderError: nobody answers.
    """
    members = ask(socket, "GET", "/v1/members")["members"]
    return [
        {"member": member["id"], "order": member["order"], "text": ordered(member)}
        for member in members
        if member["order"] is not None and ordered(member)
    ]


def ordered(member: Mapping[str, Any]) -> str:
    """What an operator has ordered of a member; empty: nothing else than is configured."""
    order = member["order"]
    if order is None:
        return ""
    ratio = "" if order["ratio"] is None else f"ratio {order['ratio']}"
    return " ".join(filter(None, ("" if order["state"] == "ready" else order["state"], ratio)))


def show_outcome(outcome: Document, *, json: bool) -> int:
    """Print what became of a change.

    Args:
        outcome: as `transaction.as_document` has it; `orders` and `orders_reset` besides, where they are known.
        json: print JSON.

    Returns:
        The exit code.
    """
    code = exit_of(outcome)
    if json:
        print_json(outcome)
        return code
    for problem in outcome["problems"]:
        print(problem["text"], file=sys.stderr)
    if not outcome["ok"] and not outcome["dry_run"]:
        complain(f"refused ({outcome['step']}); what was in force is")
        return code
    print("\n".join(_lines(outcome)))
    if outcome.get("staged") is not None and not outcome["at_restart"]:
        warn(waits(outcome["staged"]))
    return code


def waits(staged: Mapping[str, Any]) -> str:
    """What waits for a restart of the director."""
    by = ", ".join(filter(None, (staged["who"] or "somebody", staged["why"])))
    keys = "; ".join(staged["takes_restart"])
    return f"the files are ahead of what is in force: revision {staged['revision']} ({by}) waits for a restart: {keys}"


def exit_of(outcome: Document) -> int:
    """0 taken; 4 the configuration is what is wrong; 1 it could not be put into force or kept, or something else is in
    force or written meanwhile."""
    if outcome["ok"]:
        return Exit.OK
    if outcome.get("status") in (409, 412, 503):
        return Exit.FAILED
    return Exit.CONFIG if outcome["step"] in ("parse", "validate", "diff") else Exit.FAILED


def _lines(outcome: Document) -> Iterator[str]:
    foreseen = outcome["ok"] or outcome["consequences"]["changes"]
    if not outcome["unchanged"] and foreseen:
        yield from plan(outcome["consequences"])
    if orders := outcome.get("orders"):
        reset = outcome.get("orders_reset", False)
        would = "would be taken back" if outcome["dry_run"] else "were taken back"
        yield f"{'' if outcome['unchanged'] else chr(10)}orders of operators that {would if reset else 'stay'}:"
        yield from _some([f"  {one['member']} {one['text']}" for one in orders])
    if outcome["unchanged"]:
        again = outcome.get("written", False)
        yield "nothing is different: what is written is in force" + " again, and nothing waits any more" * again
    elif outcome["dry_run"]:
        refusal = "" if outcome["ok"] else f"it would be refused ({outcome['step']}); "
        yield f"{refusal}nothing was changed (dry run)"
    elif outcome.get("at_restart"):
        yield f"revision {outcome['staged']['revision']} is written, and waits for a restart of the director"
    else:
        revision = outcome["revision"]
        yield f"revision {revision} is in force, after {outcome['seconds']:.2f} s"


def plan(found: Document) -> Iterator[str]:
    """Consequences as lines of text.

    Args:
        found: as `consequences.as_document` has them.
    """
    yield from _some([_painted(change["text"]) for change in found["changes"]])
    if not found["changes"]:
        yield "nothing is written otherwise, but for comments and order"
    if found["moves"]:
        rows = [
            (
                moves["service"],
                f"{moves['slots']:.2%}",
                f"{moves['slots_later']:.2%}",
                moves["flows"],
                moves["flows_moved"],
                "expected: the hash changes" if moves["hash_changes"] else "",
            )
            for moves in found["moves"]
        ]
        header = ("VIRTUAL SERVICE", "SLOTS MOVE", "WHEN ALL ARE UP", "FLOWS REMEMBERED", "OF THESE BREAK", "")
        yield ""
        yield from _some(table(header, rows, right=header[1:5]).splitlines(), MANY + 1)
    elif found["changes"]:
        yield "no slot changes hands"
    routes, members = found["routes"], found["members"]
    for title, lines in (
        ("another delivery", found["deliveries"]),
        ("routes to withdraw", routes["withdraw"]),
        ("routes to announce", routes["announce"]),
        ("routes to announce when all members are up", routes["announce_later"]),
        ("members to be asked", members["asked"]),
        ("members asked no more", members["not_asked"]),
        ("takes a restart", found["refused"]),
    ):
        if lines:
            yield f"\n{title}:"
            yield from _some([f"  {line}" for line in lines])


def _some(lines: list[str], most: int = MANY) -> Iterator[str]:
    yield from lines[:most]
    if len(lines) > most:
        yield f"  ... and {len(lines) - most} more; --json has all"


def _painted(text: str) -> str:
    return paint(text, _COLOURS.get(text[:1], "0"), sys.stdout)
