"""`onward health`: what every health monitor says of every member."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

from cyclopts import Parameter

from appliance.cli.listing import DEFAULTS, Column, Document, ListOptions, NotFoundError, View, or_dash, show
from appliance.cli.status import HERE, AnswerError, Reach, ask, duration

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
    reach: Reach = HERE,
    options: ListOptions = DEFAULTS,
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
    """

    def ask_for() -> Mapping[str, Any]:
        document = fetch(reach.address)
        shown = [each for each in document["members"] if member is None or _is(each["member"], member)]
        if member is not None and not shown:
            known = [each["member"] for each in document["members"]]
            more = f" and {len(known) - NAMED} more" if len(known) > NAMED else ""
            named = ", ".join(known[:NAMED]) or "none"
            raise NotFoundError(f'there is no member or pool "{member}" in use; members: {named}{more}')
        return {**document, "members": shown}

    return show(view(time.time, with_turns=turns or (member is not None and "/" in member)), options, ask_for)


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


def view(clock: Callable[[], float], *, with_turns: bool = False) -> View:
    """A table with a line for each member and monitor, and below it what is worth a sentence.

    Args:
        clock: seconds since 1970.
        with_turns: also how verdicts have turned lately.
    """

    def of_check(get: Callable[[Document], object]) -> Callable[[Document], object]:
        return lambda row: None if row["check"] is None else get(row["check"])

    def below(document: Document) -> Iterator[str]:
        for member in document["members"]:
            yield from (f"{member['member']}: {text}" for text in _notes(member, clock()))
            if with_turns:
                yield from _turns(member, clock())
        for reason, count in document["checks"]["delayed"].items():
            if count:
                yield f"{count} checks {DELAYS.get(reason, reason)}"

    return View(
        columns=(
            Column("MEMBER", lambda row: row["member"]["member"]),
            Column("STATE", lambda row: _state(row["member"])),
            Column("MONITOR", of_check(lambda check: check["monitor"]), or_dash),
            Column("ASKS", of_check(lambda check: check["path"] or f"port {check['port']}"), or_dash),
            Column("VERDICT", of_check(lambda check: check["verdict"]), or_dash),
            Column("SINCE", of_check(lambda check: clock() - check["since"]), _ago),
            Column("GOOD", of_check(lambda check: check["good"]), or_dash, right=True),
            Column("BAD", of_check(lambda check: check["bad"] + check["maintenance"]), or_dash, right=True),
            Column("LAST RESULT", of_check(lambda check: _result(check["last"])), lambda text: str(text or "")),
        ),
        rows=lambda document: [
            {"member": member, "check": check} for member in document["members"] for check in member["checks"] or [None]
        ],
        name=lambda row: str(row["member"]["member"]),
        below=below,
        empty="There are no members.",
    )


def _state(member: Document) -> str:
    reason = f" ({member['reason']})" if member["reason"] else ""
    return str(member["state"]).replace("_", " ") + reason


def _ago(seconds: float | None) -> str:
    return "-" if seconds is None else duration(seconds)


def _result(last: Mapping[str, Any] | None) -> str:
    if last is None:
        return "none yet"
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
