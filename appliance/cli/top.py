"""`onward top`: what a director does, live, the busiest first."""

import os
import select
import shutil
import sys
import termios
import time
import tty
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter

from appliance.cli.output import Exit, colour_wanted, complain
from appliance.cli.status import (
    ENDLESS,
    HERE,
    AnswerError,
    Cell,
    Look,
    Reach,
    UnreachableError,
    columns,
    duration,
    fetch,
    fit,
    number,
    painted,
    tone_of,
    unanswered,
)

PAUSE_S = 1.0
ORDERS = "packets", "flows", "bytes", "name"
"""What rows can be sorted by."""

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Rate:
    """What went through between two looks, by the second."""

    packets: float = 0.0
    bytes: float = 0.0
    flows: float = 0.0


@dataclass(frozen=True)
class Row:
    """A virtual service or a member."""

    name: str
    state: str
    rate: Rate
    note: str
    members: tuple["Row", ...] = ()


def top(
    *,
    reach: Reach = HERE,
    once: Annotated[bool, Parameter(name="--once", negative="", show_default=False)] = False,
    sort_by: Annotated[str, Parameter(name="--sort-by")] = ORDERS[0],
    pause: Annotated[float, Parameter(name=["--interval", "-i"])] = PAUSE_S,
) -> int:
    """Show what a running director does, live: virtual services and members by packets and new flows a second, drops
    by reason.

    Keys: q ends it; s sorts by packets, flows, bytes or name; m leaves members out, or shows them again; space looks at
    once. Packets and flows count client to member; replies never pass a director.

    Exit codes: 0 done; 1 what answers is no director; 3 nobody answers.

    Parameters
    ----------
    once
        Print one picture, of the next interval, and end: for scripts and pipes.
    sort_by
        packets, flows, bytes or name, to begin with.
    pause
        Seconds between two looks.
    """
    if sort_by not in ORDERS:
        complain(f"--sort-by takes {', '.join(ORDERS)}")
        return Exit.USAGE
    if not 0.2 <= pause <= 60:
        complain("--interval takes 0.2 to 60 seconds")
        return Exit.USAGE
    try:
        url = reach.address
        before = fetch(url)
        if once or not (sys.stdin.isatty() and sys.stdout.isatty()):
            time.sleep(pause)
            look = Look(
                shutil.get_terminal_size().columns if sys.stdout.isatty() else ENDLESS, colour_wanted(sys.stdout)
            )
            print("\n".join(picture(before, fetch(url), sort_by, look)))
            return Exit.OK
        return _live(url, before, sort_by, pause)
    except (UnreachableError, AnswerError) as error:
        return unanswered(error)
    except KeyboardInterrupt:
        return Exit.OK


def _live(url: str, before: Document, sort_by: str, pause: float) -> int:
    """Until somebody ends it. Once a director has answered, its absence is news and no reason to leave."""
    after, with_members, trouble = before, True, ""
    with _screen() as screen:
        while True:
            size = shutil.get_terminal_size()
            look = Look(size.columns, colour_wanted(sys.stdout))
            lines = list(picture(before, after, sort_by, look, with_members=with_members))
            screen.show(
                [*lines[: size.lines - 2], *([trouble] if trouble else [])], f"q quit  s sort: {sort_by}  m members"
            )
            match screen.key(pause):
                case "q":
                    return Exit.OK
                case "s":
                    sort_by = ORDERS[(ORDERS.index(sort_by) + 1) % len(ORDERS)]
                    continue
                case "m":
                    with_members = not with_members
                    continue
            try:
                now = fetch(url)
            except UnreachableError as error:
                trouble = str(error)
            else:
                trouble = ""
                if now["time"] != after["time"]:
                    before, after = after, now


# ---------------------------------------------------------------------------------------------------------------------
# The picture


def picture(before: Document, after: Document, sort_by: str, look: Look, *, with_members: bool = True) -> Iterator[str]:
    """Lines of text.

    Args:
        before: a status document.
        after: a later one of the same director.
        sort_by: of ORDERS.
        look: how wide, and whether in colour.
        with_members: below their virtual services.
    """
    elapsed_s = max(0.0, after["time"] - before["time"])
    rows = _sorted(services(before, after, elapsed_s), sort_by)
    total = Rate(*(sum(getattr(row.rate, part) for row in rows) for part in ("packets", "bytes", "flows")))
    director, health = after["director"], after["health"]
    yield fit(
        f"{director['name']}  {health['state']}  up {duration(director['uptime_s'])}  {after['plane']['name']}",
        look.width,
    )
    yield fit(
        f"{_rate(total.packets)} packets/s  {_rate(total.bytes * 8)}bit/s  {_rate(total.flows)} new TCP flows/s  "
        f"{number(after['pins']['live'])} flows remembered",
        look.width,
    )
    yield ""
    head: Sequence[Cell] = [
        (text, "bold") for text in ("SERVICE / MEMBER", "PACKETS/S", "BIT/S", "FLOWS/S", "STATE", "")
    ]
    lines: list[tuple[Cell, ...]] = [tuple(head)]
    for row in rows:
        lines.append(_line(row, "", "bold"))
        if with_members:
            lines += [_line(member, "  ", "") for member in _sorted(row.members, sort_by)]
    yield from columns(lines, look, right={1, 2, 3})
    yield ""
    yield from _drops(before, after, elapsed_s, look)
    for problem in health["problems"]:
        yield painted(fit(f"! {problem}", look.width), "warn", look)


def services(before: Document, after: Document, elapsed_s: float) -> list[Row]:
    """Virtual services with the members of their pools. Members that several services share stand below each."""
    earlier = {
        (service["name"], vip["vip"]): vip["traffic"] for service in before["services"] for vip in service["vips"]
    }
    rows = []
    for service in after["services"]:
        rates = [
            _between(earlier.get((service["name"], vip["vip"])), vip["traffic"], elapsed_s) for vip in service["vips"]
        ]
        pool = after["pools"][service["pool_key"]]
        old = {
            member["id"]: member["traffic"]
            for member in before["pools"].get(service["pool_key"], {"members": ()})["members"]
        }
        shared = len(pool["traffic_of"]) > 1
        members = tuple(
            Row(
                member["name"],
                member["state"],
                _between(old.get(member["id"]), member["traffic"], elapsed_s),
                f"of all {len(pool['traffic_of'])} services" if shared else str(member["reason"] or ""),
            )
            for member in pool["members"]
        )
        ways = f"{service['in_rotation']} of {len(pool['members'])} in rotation"
        rate = Rate(*(sum(getattr(one, part) for one in rates) for part in ("packets", "bytes", "flows")))
        note = f"{ways}  {service['reason']}" if service["reason"] else ways
        rows.append(Row(service["name"], service["state"], rate, note, members))
    return rows


def _between(before: Document | None, after: Document, elapsed_s: float) -> Rate:
    """A director that has started anew in between counts from zero again: then there is no rate."""
    if before is None or not elapsed_s:
        return Rate()
    steps = [(after[part] or 0) - (before[part] or 0) for part in ("packets", "bytes", "new_flows")]
    return Rate(*(step / elapsed_s for step in steps)) if min(steps) >= 0 else Rate()


def _drops(before: Document, after: Document, elapsed_s: float, look: Look) -> Iterator[str]:
    if after["counters"] is None or before["counters"] is None or not elapsed_s:
        return
    earlier = before["counters"]["drops"]
    rates = [
        ((count - earlier.get(reason, 0)) / elapsed_s, reason)
        for reason, count in after["counters"]["drops"].items()
        if count > earlier.get(reason, 0)
    ]
    text = "  ".join(f"{reason} {_rate(rate)}/s" for rate, reason in sorted(rates, reverse=True))
    yield fit(f"Drops  {text or 'none'}", look.width)


def _line(row: Row, indent: str, tone: str) -> tuple[Cell, ...]:
    rate = row.rate
    busy = "" if rate.packets else "faint"
    return (
        (indent + row.name, tone),
        (_rate(rate.packets), busy),
        (_rate(rate.bytes * 8), busy),
        (_rate(rate.flows), busy),
        (row.state.replace("_", " "), tone_of(row.state)),
        (row.note, "faint"),
    )


def _sorted(rows: Sequence[Row], sort_by: str) -> list[Row]:
    if sort_by == "name":
        return sorted(rows, key=lambda row: row.name)
    return sorted(rows, key=lambda row: (-getattr(row.rate, sort_by), row.name))


def _rate(value: float) -> str:
    """At most five characters."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.1f}{unit}" if value < 100 * factor else f"{value / factor:.0f}{unit}"
    return f"{value:.1f}" if 0 < value < 10 else f"{value:.0f}"


# ---------------------------------------------------------------------------------------------------------------------
# The terminal


class _Screen:
    """The alternate screen of a terminal (xterm's control sequences), and its keys."""

    def show(self, lines: Sequence[str], foot: str) -> None:
        text = "\r\n".join(f"{line}\x1b[K" for line in [*lines, "", foot])
        sys.stdout.write(f"\x1b[H{text}\x1b[J")
        sys.stdout.flush()

    def key(self, timeout_s: float) -> str:
        """The next key; empty when there was none in that time."""
        ready, _, _ = select.select([sys.stdin], [], [], timeout_s)
        return os.read(sys.stdin.fileno(), 1).decode(errors="replace").lower() if ready else ""


@contextmanager
def _screen() -> Iterator[_Screen]:
    """Whatever happens, the terminal is as it was."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    sys.stdout.write("\x1b[?1049h\x1b[?25l")
    try:
        tty.setcbreak(fd)
        yield _Screen()
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
        sys.stdout.write("\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()
