"""`onward import`: configurations of other load balancers, as one of ours and a report of what it does not say."""

import glob
import os
import secrets
import sys
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from cyclopts import App, Parameter

from appliance.cli.help import HelpFormatter
from appliance.cli.output import Exit, complain, paint, print_json, print_problems
from appliance.config import values
from appliance.config.files import files_beside
from appliance.config.load import SECRET_BYTES, parse
from appliance.config.problems import BadValueError, ConfigError, Problem
from appliance.importers import IMPORTERS
from appliance.importers.base import KEY_FILE, Finding, Grade, Imported, Site, Source
from appliance.importers.document import toml

_T = TypeVar("_T")

MAX_BYTES = 64 * 1024 * 1024
"""Exports of a controller have some megabytes; more is something else."""

_TITLES = {
    Grade.LOST: "has no equivalent",
    Grade.CHANGED: "does not do quite the same",
    Grade.TODO: "is still to be done",
    Grade.IGNORED: "makes no difference",
}

app = App(
    name="import",
    help="Turn a configuration of another load balancer into one of ours.",
    help_formatter=HelpFormatter(),
    help_format="plaintext",
)

File = Annotated[Path, Parameter(allow_leading_hyphen=True)]
Output = Annotated[
    Path | None,
    Parameter(
        name=["--output", "-o"],
        help="Write the configuration here, and a key for the fleet beside it where there is none; by default it is "
        "printed.",
    ),
]
Force = Annotated[bool, Parameter(negative="", show_default=False, help="Replace a file that is there.")]
ReportAs = Annotated[
    Literal["text", "json"],
    Parameter(name="--report", help="How to write the report on standard error; json has all findings one by one."),
]
Name = Annotated[str | None, Parameter(help="Name of this director.")]
Interface = Annotated[
    list[str] | None, Parameter(negative="", help="Where packets for VIPs arrive. Repeat it for more.")
]
SecretFile = Annotated[str, Parameter(help="File with the key of the fleet, from where the configuration stands.")]
"""Options that all importers have."""


@app.command
def avi(
    file: File,
    /,
    *,
    output: Output = None,
    force: Force = False,
    report: ReportAs = "text",
    name: Name = None,
    interface: Interface = None,
    secret_file: SecretFile = KEY_FILE,
    router_id: str | None = None,
    next_hop_v6: str | None = None,
) -> int:
    """Import objects of an Avi (NSX ALB) controller: its configuration export, or what its API answers, in JSON.

    Virtual services on network profiles with a dsr_profile come as they are; others are named in the report.

    Parameters
    ----------
    file:
        The JSON file; - reads standard input.
    router_id:
        This director's BGP identifier, an IPv4 address. Without it, [bgp] is written as a comment.
    next_hop_v6:
        Next hop of IPv6 VIPs, where all BGP sessions are of IPv4.
    """
    return _import("avi", file, output, force, report, (name, interface, secret_file, router_id, next_hop_v6))


@app.command
def keepalived(
    file: File,
    /,
    *,
    output: Output = None,
    force: Force = False,
    report: ReportAs = "text",
    name: Name = None,
    interface: Interface = None,
    secret_file: SecretFile = KEY_FILE,
) -> int:
    """Import the virtual servers of a keepalived.conf, and of all files that it includes.

    Parameters
    ----------
    file:
        The file; - reads standard input, and looks for included files in the working directory.
    """
    return _import("keepalived", file, output, force, report, (name, interface, secret_file, None, None))


@app.command
def ipvsadm(
    file: File,
    /,
    *,
    output: Output = None,
    force: Force = False,
    report: ReportAs = "text",
    name: Name = None,
    interface: Interface = None,
    secret_file: SecretFile = KEY_FILE,
) -> int:
    """Import what `ipvsadm -Sn` prints.

    Parameters
    ----------
    file:
        The file; - reads standard input: ipvsadm -Sn | onward import ipvsadm -
    """
    return _import("ipvsadm", file, output, force, report, (name, interface, secret_file, None, None))


_Given = tuple[str | None, list[str] | None, str, str | None, str | None]


def _import(kind: str, file: Path, output: Path | None, force: bool, report: str, given: _Given) -> int:
    site = _site(given)
    if site is None:
        return Exit.USAGE
    if output is not None and output.exists() and not force:
        complain(f"{output} is there already; choose another name, or replace it with --force")
        return Exit.FAILED
    try:
        imported = IMPORTERS[kind](_source(file), site)
    except ConfigError as error:
        print_problems(error.problems)
        return Exit.CONFIG
    text = toml(_preamble(kind, file, imported.findings), imported.tables)
    findings = [*imported.findings]
    if output is None:
        sys.stdout.write(text)
    else:
        try:
            made = _write(output, text, site.secret_file)
        except OSError as error:
            complain(f"{error.filename or output} cannot be written: {(error.strerror or str(error)).lower()}")
            return Exit.FAILED
        if made is not None:
            message = f"made {made} of random bytes, as there was none"
            findings.append(
                Finding(Grade.TODO, str(output), "", message, "copy it to the other directors of the fleet")
            )
    problems = _what_check_says(text, output)
    _print_report(report, file, imported, findings, problems)
    return Exit.CONFIG if problems else Exit.OK


def _site(given: _Given) -> Site | None:
    """What options say, checked; None: something of it is wrong, which has been said."""
    name, interfaces, secret_file, router_id, next_hop_v6 = given
    bad: list[str] = []

    def read(option: str, parse: Callable[[object], _T], value: str) -> _T | None:
        try:
            return parse(value)
        except BadValueError as error:
            bad.append(f"{option}: {error}")
            return None

    if name is not None:
        read("--name", values.name, name)
    for interface in interfaces or ():
        read("--interface", values.interface, interface)
    read("--secret-file", values.path, secret_file)
    router: IPv4Address | None = read("--router-id", values.ipv4_address, router_id) if router_id else None
    hop: IPv6Address | None = read("--next-hop-v6", values.ipv6_address, next_hop_v6) if next_hop_v6 else None
    for message in bad:
        complain(message)
    if bad:
        return None
    unique = tuple(dict.fromkeys(interfaces or ()))
    return Site(name, unique, secret_file, str(router) if router else None, str(hop) if hop else None)


def _source(file: Path) -> Source:
    """The input. Raises ConfigError where it cannot be read."""
    if str(file) == "-":
        return Source("(standard input)", _decoded(sys.stdin.buffer.read(MAX_BYTES + 1), "(standard input)"), _included)
    return Source(str(file), _read(str(file)), _included)


def _read(name: str) -> str:
    try:
        with Path(name).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        message = (error.strerror or str(error)).lower()
        raise ConfigError([Problem(name, None, "", message, "give the path of a file to import")]) from None
    return _decoded(content, name)


def _decoded(content: bytes, name: str) -> str:
    if len(content) > MAX_BYTES:
        message = f"more than {MAX_BYTES >> 20} MiB"
        raise ConfigError([Problem(name, None, "", message, "give the path of a file to import")])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = f"byte {error.start} is not UTF-8 text"
        raise ConfigError([Problem(name, line, "", message, "convert the file with iconv")]) from None


def _included(pattern: str, asker: str) -> Sequence[tuple[str, str]]:
    """Files by a pattern, which counts from the folder of the file that includes them."""
    folder = Path() if asker.startswith("(") else Path(asker).parent
    names = sorted(glob.glob(str(folder / pattern), recursive=False))  # noqa: PTH207 - the pattern may be absolute
    return [(name, _read(name)) for name in names if Path(name).is_file()]


def _preamble(kind: str, file: Path, findings: Sequence[Finding]) -> Iterator[str]:
    yield f"Imported by `onward import {kind} {file}`."
    counted = Counter(finding.grade for finding in findings)
    if counted[Grade.LOST] or counted[Grade.CHANGED]:
        lost, changed = counted[Grade.LOST], counted[Grade.CHANGED]
        yield f"{lost} settings have no equivalent, {changed} do not do quite the same: see its report."
    yield "Check it with `onward check` before use."


def _write(output: Path, text: str, secret_file: str) -> Path | None:
    """Write the configuration, and a key if there is none.

    Returns:
        The key's file, if it was made.
    """
    secret = output.parent / secret_file
    made = None
    if not secret.exists():
        descriptor = os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(b64encode(secrets.token_bytes(32)) + b"\n")
        made = secret
    beside = output.with_name(f"{output.name}.new")
    # A peer's password may be in it.
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    beside.replace(output)
    return made


def _what_check_says(text: str, output: Path | None) -> Sequence[Problem]:
    """The mistakes that are left in the result: contradictions of the input that an importer does not see."""

    def no_key(_name: str) -> bytes:
        return b"-" * SECRET_BYTES

    try:
        parse(text, str(output or "(result)"), files_beside(output) if output is not None else no_key)
    except ConfigError as error:
        return error.problems
    return ()


def _print_report(
    form: str, file: Path, imported: Imported, findings: Sequence[Finding], problems: Sequence[Problem]
) -> None:
    if form == "json":
        print_json(_document(file, imported, findings, problems), sys.stderr)
        return
    for line in _text(imported, findings):
        print(line, file=sys.stderr)
    if problems:
        print(f"\n{paint('The result has mistakes', '31', sys.stderr)} that `onward check` names:", file=sys.stderr)
        print_problems(problems)


def _document(
    file: Path, imported: Imported, findings: Sequence[Finding], problems: Sequence[Problem]
) -> dict[str, object]:
    fields = ("source", "line", "path", "message", "remedy")
    counted = Counter(finding.grade for finding in findings)
    return {
        "ok": not problems,
        "source": str(file),
        "imported": _counts(imported),
        "counts": {str(grade): counted[grade] for grade in Grade},
        "findings": [
            {
                "grade": str(finding.grade),
                "place": finding.place,
                "what": finding.what,
                "message": finding.message,
                "remedy": finding.remedy,
            }
            for finding in findings
        ],
        "problems": [{field: getattr(problem, field) for field in fields} for problem in problems],
    }


def _text(imported: Imported, findings: Sequence[Finding]) -> Iterator[str]:
    counts = ", ".join(
        f"{count} {kind.replace('_', ' ').replace('.', ' ')}{'' if count == 1 else 's'}"
        for kind, count in _counts(imported).items()
    )
    yield f"Imported {counts}."
    for grade in Grade:
        found = [finding for finding in findings if finding.grade is grade]
        if not found:
            continue
        yield ""
        yield paint(f"What {_TITLES[grade]} ({len(found)}):", "1", sys.stderr)
        if grade is Grade.IGNORED:
            yield f"  {len(found)} settings; --report json names them."
            continue
        for finding in found:
            yield "  " + "".join(c if c.isprintable() else "?" for c in str(finding))


def _counts(imported: Imported) -> dict[str, int]:
    counted = Counter(table.header for table in imported.tables if not table.off)
    return {kind: counted[kind] for kind in ("virtual_service", "pool", "pool.member", "health_monitor")}
