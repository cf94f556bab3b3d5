"""`onward health`: what every health monitor says of every member."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from cyclopts import Parameter

from appliance.cli.output import Exit, complain, table
from appliance.cli.status import DEFAULT_URL, AnswerError, UnreachableError, ask, duration, unanswered

HEADER = ("MEMBER", "STATE", "MONITOR", "ASKS", "VERDICT", "SINCE", "GOOD", "BAD", "LAST RESULT")

NAMED = 20
"""So many members at most are told to who asks for one that is not there."""

DELAYS = {
    "limit": "waited for their turn, since as many were under way as may be",
    "no_resources": "could not be made, since files, memory or ports were used up",
    "busy": "waited for the director, which had too much to do",
    "late": "were made again, since the director itself was late",
    "failed": "failed by an error of Onward's, and say nothing of members: see health.check_failed in its log",
}


def health(
    member: str | None = None,
    /,
    *,
    turns: Annotated[bool, Parameter(name=["--turns"], negative="")] = False,
    url: Annotated[str, Parameter(env_var="ONWARD_URL")] = DEFAULT_URL,
    as_json: Annotated[bool, Parameter(name=["--json"], negative="")] = False,
) -> int:
    """Show what every health monitor of a running director says of every member.

    ASKS is the member's own port, or the VIP and port that are asked through the DSR path. SINCE tells for how long the
    verdict has been what it is. BAD counts results in which the member said that it is worked on, too.

    Exit codes: 0 done; 1 what answers is no director; 3 nobody answers; 5 there is no such member.

    Parameters
    ----------
    member
        Only this one, as POOL/MEMBER, and how its verdicts have turned lately; or all of a pool, as POOL.
    turns
        Show how verdicts have turned lately, of all members that are shown.
    url
        Where the director's API listens.
    as_json
        Print the document as it is.
    """
    try:
        document = fetch(url)
    except (UnreachableError, AnswerError) as error:
        return unanswered(error)
    shown = [each for each in document["members"] if member is None or _is(each["member"], member)]
    if member is not None and not shown:
        known = [each["member"] for each in document["members"]]
        more = f" and {len(known) - NAMED} more" if len(known) > NAMED else ""
        complain(f'there is no member or pool "{member}" in use; members: {", ".join(known[:NAMED]) or "none"}{more}')
        return Exit.NOT_FOUND
    document = {**document, "members": shown}
    with_turns = turns or (member is not None and "/" in member)
    print(json.dumps(document, indent=2) if as_json else render(document, time.time(), with_turns=with_turns))
    return Exit.OK


def _is(name: str, wanted: str) -> bool:
    return name == wanted or name.partition("/")[0] == wanted


def fetch(url: str) -> Mapping[str, Any]:
    """The document of the director at *url*.

    Raises:
        UnreachableError: nobody answers there.
        AnswerError: the answer is no such document, or *url* is no address of an API.
    """
    status, answer = ask(url, "/api/v1/health")
    if status != 200 or not isinstance(answer, dict) or "members" not in answer or "checks" not in answer:
        raise AnswerError(
            f"{url} answers with HTTP status {status} and no results of checks; is it a director, and as old as this "
            "command?"
        )
    return answer


def render(document: Mapping[str, Any], now: float, *, with_turns: bool = False) -> str:
    """A table with a line for each member and monitor, and below it what is worth a sentence.

    Args:
        document: of `/api/v1/health`.
        now: seconds since 1970.
        with_turns: also how verdicts have turned lately.
    """
    members = document["members"]
    rows = [row for member in members for row in _rows(member, now)]
    lines = [table(HEADER, rows, ("GOOD", "BAD")) if rows else "There are no members."]
    for member in members:
        lines += [f"{member['member']}: {text}" for text in _notes(member, now)]
        if with_turns:
            lines += _turns(member, now)
    for reason, count in document["checks"]["delayed"].items():
        if count:
            lines.append(f"{count} checks {DELAYS.get(reason, reason)}")
    return "\n".join(lines)


def _rows(member: Mapping[str, Any], now: float) -> Iterator[Sequence[object]]:
    state = member["state"].replace("_", " ") + (f" ({member['reason']})" if member["reason"] else "")
    if not member["checks"]:
        yield member["member"], state, "-", "-", "-", "-", "-", "-", ""
    for number, check in enumerate(member["checks"]):
        last = check["last"]
        yield (
            member["member"] if number == 0 else "",
            state if number == 0 else "",
            check["monitor"],
            check["path"] or f"port {check['port']}",
            check["verdict"],
            duration(now - check["since"]),
            check["good"],
            check["bad"] + check["maintenance"],
            "none yet" if last is None else _result(last),
        )


def _result(last: Mapping[str, Any]) -> str:
    text = str(last["code"]) + (f": {last['detail']}" if last["detail"] else "")
    return f"{text} ({last['duration_s'] * 1000:.1f} ms)"


def _notes(member: Mapping[str, Any], now: float) -> Iterator[str]:
    if member["finding"]:
        yield member["finding"]
    flap = member["flap"]
    if flap is not None and flap["penalty"] >= 1:
        text = f"penalty {flap['penalty']:.0f} after going down {flap['downs']} times"
        yield f"{text}; takes new flows again in {duration(flap['until'] - now)}" if flap["until"] else text


def _turns(member: Mapping[str, Any], now: float) -> Iterator[str]:
    for turn in member["turns"]:
        cause = turn["code"] + (f": {turn['detail']}" if turn["detail"] else "")
        path = f" {turn['path']}" if turn["path"] else ""
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(turn["at"]))
        yield f"  {when}, {duration(now - turn['at'])} ago  {turn['monitor']}{path} became {turn['verdict']}: {cause}"
