"""A difference, made small and written as a vector."""

import json
from collections.abc import Iterator
from dataclasses import replace

from appliance.packet.forward import forward
from tests.fuzz.compare import Case, Comparison, Finding
from tests.fuzz.tables import NOBODY, Raw
from tests.vectors_io import read_ingress, read_tables, write_action


def reduced(comparison: Comparison, case: Case, finding: Finding) -> tuple[Case, Finding]:
    """The smallest case with one frame that still shows a finding about a frame, by leaving out what can be left out.

    A finding that takes several frames (counters, batches) stays as it is, with all of the case.
    """
    if finding.frame is None:
        return case, finding
    small = replace(case, frames=[finding.frame])
    found = _again(comparison, small, finding)
    if found is None:
        return case, finding
    shrinking = True
    while shrinking:
        shrinking = False
        for candidate in _smaller(small):
            again = _again(comparison, candidate, finding)
            if again is not None:
                small, found, shrinking = candidate, again, True
                break
    return small, found


def _again(comparison: Comparison, case: Case, finding: Finding) -> Finding | None:
    found = (one for one in comparison.run(case) if one.frame and one.implementation == finding.implementation)
    return next(found, None)


def _smaller(case: Case) -> Iterator[Case]:
    raw = case.raw_tables
    services, members, slots = raw["services"], raw["members"], raw["slots"]
    for at in range(len(services) if len(services) > 1 else 0):
        yield _with(case, services=services[:at] + services[at + 1 :])
    used = {service["slots"] for service in services}
    if used != set(slots):
        yield _with(case, slots={name: slots[name] for name in slots if name in used})
    for name, description in slots.items():
        owners = description.get("cycle", ())
        for at in range(len(owners) if len(owners) > 1 else 0):
            yield _with(case, slots=slots | {name: description | {"cycle": owners[:at] + owners[at + 1 :]}})
        for key in ("previous", "size"):
            if key in description:
                yield _with(case, slots=slots | {name: {k: v for k, v in description.items() if k != key}})
    named = {index for one in slots.values() for index in (*one.get("cycle", ()), *one.get("previous", ()))} - {NOBODY}
    for at, member in enumerate(members):
        if member["index"] not in named:
            yield _with(case, members=members[:at] + members[at + 1 :])
    for service in services:
        for at in range(len(service["ports"]) if len(service["ports"]) > 1 else 0):
            fewer = service | {"ports": service["ports"][:at] + service["ports"][at + 1 :]}
            yield _with(case, services=[fewer if other is service else other for other in services])
    if case.egress:
        yield replace(case, egress={})
    if case.flags or case.coarse:
        yield replace(case, flags=0, coarse=False)


def _with(case: Case, **changes: object) -> Case:
    return replace(case, raw_tables=case.raw_tables | changes)


def vector_file(case: Case, finding: Finding) -> Raw:
    """A finding about a frame as a whole file for tests/vectors; what the reference says is what is expected."""
    assert finding.frame is not None
    action = forward(finding.frame, read_tables(case.raw_tables), read_ingress(case.raw_ingress))
    vector = {
        "id": f"FUZZ-{finding.seed}",
        "sentence": "Found by random packets.",
        "tables": "found",
        "ingress": case.raw_ingress,
        "ident": 0,
        "frame": finding.frame.hex(),
        "action": write_action(action),
    }
    return {"about": "Packets that were not treated alike.", "tables": {"found": case.raw_tables}, "vectors": [vector]}


def report(comparison: Comparison, case: Case, finding: Finding) -> str:
    """All there is to say about a finding."""
    small, found = reduced(comparison, case, finding)
    lines = [f"difference in case {finding.seed}, {finding.implementation}: {found.text}"]
    lines += [f"  {name:<10}{what}" for name, what in found.decided.items()]
    if small.egress or small.flags:
        lines.append(f"  with egress {small.egress}, port flags {small.flags}")
    if found.frame is not None:
        lines += ["as a vector file:", json.dumps(vector_file(small, found), indent=1)]
    lines.append(f"again: tests/run fuzz --seed {finding.seed} --packets 1")
    return "\n".join(lines)
