"""`onward samples`: what became of single packets lately."""

import sys
import time
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from cyclopts import Parameter

from appliance.cli.output import Exit, Form, FormOption, complain, paint, structured
from appliance.cli.status import HERE, AnswerError, Reach, UnreachableError, ask, unanswered

FOLLOW_S = 1.0

_COLOURS = {"new_flow": "32", "drop": "33", "slow_path": "2", "reply": "36"}

Sample = Mapping[str, Any]


def samples(
    *,
    reach: Reach = HERE,
    output: FormOption = "table",
    as_json: Annotated[bool, Parameter(name=["--json"], negative="")] = False,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative="")] = False,
) -> int:
    """Show samples of what a running director did with single packets: new flows, drops, replies, with the reason.

    They are samples: of many packets of a kind some are shown, and of those that merely go on in a flow none. For
    totals see `onward status`.

    Exit codes: 0 done; 1 what answers is no director; 3 nobody answers.

    Parameters
    ----------
    as_json
        Print them as JSON, the same as -o json: a list, or with --follow one sample a line.
    follow
        Go on with new ones, until Ctrl-C.
    """
    form: Form = "json" if as_json else output
    try:
        url = reach.address
        latest = fetch(url)
        if follow:
            return _follow(url, form, latest)
    except (UnreachableError, AnswerError) as error:
        return unanswered(error)
    if form != "table":
        print(structured(latest, form))
    elif latest:
        _show(latest)
    else:
        print("No samples yet.", file=sys.stderr)
    return Exit.OK


def fetch(url: str) -> list[Sample]:
    """The latest samples of the director at *url*, the newest last.

    Raises:
        UnreachableError: nobody answers there.
        AnswerError: the answer is no list of samples, or *url* is no address of an API.
    """
    status, answer = ask(url, "/api/v1/samples")
    if status != 200 or not isinstance(answer, list):
        raise AnswerError(
            f"{url} answers with HTTP status {status} and no samples; is it a director, and as old as this command?"
        )
    return answer


def _follow(url: str, form: Form, latest: list[Sample]) -> int:
    """Once a director has answered, its absence is news and no reason to leave: it may be starting again."""
    seen: set[tuple[object, ...]] = set()
    try:
        while True:
            fresh = [sample for sample in latest if _identity(sample) not in seen]
            if form != "table":
                for sample in fresh:
                    print(structured(sample, form, on_a_line=True), flush=True)
            else:
                _show(fresh)
            seen = {_identity(sample) for sample in latest} or seen
            time.sleep(FOLLOW_S)
            try:
                latest = fetch(url)
            except UnreachableError as error:
                latest = []
                complain(str(error))
    except KeyboardInterrupt:
        return Exit.OK


def _identity(sample: Sample) -> tuple[object, ...]:
    """Without the time of day, which may be adjusted from one answer to the next."""
    return tuple(value for key, value in sample.items() if key != "at")


def _show(found: Iterable[Sample]) -> None:
    for sample in found:
        print(line(sample), flush=True)


def line(sample: Sample) -> str:
    """A sample as a line: time of day, what and why, where it arrived, from where to where, how long."""
    at = float(sample["at"])
    clock = time.strftime("%H:%M:%S", time.localtime(at)) + f".{int(at * 1000 + 0.5) % 1000:03}"
    what = f"{sample['what']} {sample['reason'] or ''}".ljust(24)
    way = f"{sample['source']} -> {sample['destination']} {sample['protocol'] or ''}".rstrip()
    painted = paint(what, _COLOURS.get(sample["what"], "0"), sys.stdout)
    return f"{clock}  {painted}  {sample['interface']:<8}  {way}  {sample['length']} bytes"
