"""A difference, made small and written as a vector or a sequence."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace

from appliance.dataplane.pins import PinTable
from appliance.packet.placement import TICK_S
from tests.fuzz.compare import PINS, Case, Chunk, Clock, Comparison, Finding, Reference
from tests.fuzz.tables import NOBODY, Raw
from tests.vectors_io import read_ingress, read_tables, write_action

TRIES = 2000
"""Cases that are run to make one smaller, at most."""


def reduced(comparison: Comparison, case: Case, finding: Finding) -> tuple[Case, Finding]:
    """The smallest case that still shows a finding of the same implementation, by leaving out what can be left out."""
    small, found, tries = case, finding, 0
    shrinking = True
    while shrinking:
        shrinking = False
        for candidate in _smaller(small, found):
            tries += 1
            again = _again(comparison, candidate, finding)
            if again is not None:
                small, found, shrinking = candidate, again, True
                break
            if tries == TRIES:
                return small, found
    return small, found


def _again(comparison: Comparison, case: Case, finding: Finding) -> Finding | None:
    found = (one for one in comparison.run(case) if one.implementation == finding.implementation)
    return next((one for one in found if (one.frame is None) == (finding.frame is None)), None)


def _smaller(case: Case, finding: Finding) -> Iterator[Case]:
    """Cases with something less, what is worth most first."""
    yield from _fewer_frames(case, finding)
    if case.egress:
        yield replace(case, egress={})
    if case.flags or case.coarse or case.begin:
        yield replace(case, flags=0, coarse=False, begin=0)
    yield from _smaller_tables(case)


def _fewer_frames(case: Case, finding: Finding) -> Iterator[Case]:
    chunks = case.chunks[: finding.chunk + 1]
    end = None if finding.at is None else finding.at + 1
    last = replace(chunks[-1], frames=chunks[-1].frames[:end])
    if len(chunks) < len(case.chunks) or len(last.frames) < len(case.chunks[finding.chunk].frames):
        yield replace(case, chunks=[*chunks[:-1], last])
    if finding.frame is not None and len(case.frames) > 1:
        yield replace(case, chunks=[Chunk(0, chunks[-1].version, [finding.frame])])
    for at, chunk in enumerate(case.chunks[:-1]):
        following = case.chunks[at + 1]
        later = replace(following, ticks=chunk.ticks + following.ticks)
        yield replace(case, chunks=[*case.chunks[:at], later, *case.chunks[at + 2 :]])
    size = max((len(chunk.frames) for chunk in case.chunks), default=0) // 2
    while size:
        for at, chunk in enumerate(case.chunks):
            for first in range(0, len(chunk.frames), size):
                frames = chunk.frames[:first] + chunk.frames[first + size :]
                if len(frames) < len(chunk.frames) and (frames or len(case.chunks) > 1):
                    fewer = replace(chunk, frames=frames)
                    yield replace(case, chunks=[*case.chunks[:at], fewer, *case.chunks[at + 1 :]])
        size //= 2


def _smaller_tables(case: Case) -> Iterator[Case]:
    used = sorted({chunk.version for chunk in case.chunks})
    if len(used) < len(case.raw_tables):
        chunks = [replace(chunk, version=used.index(chunk.version)) for chunk in case.chunks]
        yield replace(case, raw_tables=[case.raw_tables[version] for version in used], chunks=chunks)
    for version, raw in enumerate(case.raw_tables):
        services, members, slots = raw["services"], raw["members"], raw["slots"]
        named = {index for one in slots.values() for index in (*one.get("cycle", ()), *one.get("previous", ()))}
        named |= {index for service in services for index in service.get("choices", ())}
        for at, member in enumerate(members):
            if member["index"] not in named - {NOBODY}:
                yield _with(case, version, members=members[:at] + members[at + 1 :])
        for name, description in slots.items():
            owners = description.get("cycle", ())
            for at in range(len(owners) if len(owners) > 1 else 0):
                fewer = description | {"cycle": owners[:at] + owners[at + 1 :]}
                if "previous" in description:
                    previous = description["previous"]
                    fewer["previous"] = previous[:at] + previous[at + 1 :] or previous
                yield _with(case, version, slots=slots | {name: fewer})
            for key in ("previous", "size"):
                if key in description:
                    yield _with(case, version, slots=slots | {name: {k: v for k, v in description.items() if k != key}})
    # Services and their slot tables are the same in all versions.
    first = case.raw_tables[0]["services"]
    for at in range(len(first) if len(first) > 1 else 0):
        yield _all_with(case, lambda raw, at=at: {"services": raw["services"][:at] + raw["services"][at + 1 :]})
    needed = {service["slots"] for raw in case.raw_tables for service in raw["services"]}
    if any(needed != set(raw["slots"]) for raw in case.raw_tables):
        yield _all_with(case, lambda raw: {"slots": {n: one for n, one in raw["slots"].items() if n in needed}})
    for which, service in enumerate(first):
        for at in range(len(service["ports"]) if len(service["ports"]) > 1 else 0):
            fewer = service["ports"][:at] + service["ports"][at + 1 :]
            yield _all_with(
                case,
                lambda raw, which=which, fewer=fewer: {
                    "services": [s | {"ports": fewer} if n == which else s for n, s in enumerate(raw["services"])]
                },
            )


def _with(case: Case, version: int, **changes: object) -> Case:
    tables = list(case.raw_tables)
    tables[version] = tables[version] | changes
    return replace(case, raw_tables=tables)


def _all_with(case: Case, change: Callable[[Raw], Raw]) -> Case:
    return replace(case, raw_tables=[raw | change(raw) for raw in case.raw_tables])


def vector_file(case: Case, finding: Finding) -> Raw:
    """A finding as a whole file for tests/vectors: a vector where one frame is all it takes, else a sequence. What the
    reference says is what is expected."""
    clock = Clock(case.begin)
    reference = Reference(PinTable.in_memory(PINS, clock.now), clock)
    ingress = read_ingress(case.raw_ingress)
    tables = [read_tables(raw) for raw in case.raw_tables]
    steps: list[Raw] = []
    ticks = 0
    for chunk in case.chunks:
        ticks += chunk.ticks if steps else 0  # the first frames come at the beginning, whenever that is
        clock.move(chunk.ticks)
        reference.follow(tables[chunk.version])
        # In the middle of a tick, where a clock that is a bit off tells the same.
        at = round((ticks + 0.5) * TICK_S, 3) if steps else 0
        steps.append({"at": at, "set": f"found{chunk.version}"})
        at = at or round(0.5 * TICK_S, 3)
        for frame in chunk.frames:
            held = reference.holds(frame, ingress) and len(case.frames) > 1
            action = write_action(reference.forward(frame, ingress))
            if held:
                steps.append({"at": at, "frame": frame.hex(), "action": {"verdict": "hold", "reason": "fragment"}})
                at = round(at + 0.003, 3)
                steps.append({"at": at, "released": [action]})
            else:
                steps.append({"at": at, "frame": frame.hex(), "action": action})
    name, sentence = f"FUZZ-{finding.seed}", "Found by random packets."
    about = "Packets that were not treated alike."
    frames = [step for step in steps if "frame" in step]
    if len(frames) == 1:
        vector = {
            "id": name,
            "sentence": sentence,
            "tables": "found",
            "ingress": case.raw_ingress,
            "ident": 0,
            "frame": frames[0]["frame"],
            "action": frames[0]["action"],
        }
        found = case.raw_tables[next(chunk.version for chunk in case.chunks if chunk.frames)]
        return {"about": about, "tables": {"found": found}, "vectors": [vector]}
    sequence = {"id": name, "sentence": sentence, "ingress": case.raw_ingress, "ident": 0, "steps": steps}
    named = {f"found{version}": raw for version, raw in enumerate(case.raw_tables)}
    return {"about": about, "tables": named, "sequences": [sequence]}


def report(comparison: Comparison, case: Case, finding: Finding) -> str:
    """All there is to say about a finding."""
    small, found = reduced(comparison, case, finding)
    lines = [f"difference in case {finding.seed}, {finding.implementation}: {found.text}"]
    lines += [f"  {name:<10}{what}" for name, what in found.decided.items()]
    if small.egress or small.flags:
        lines.append(f"  with egress {small.egress}, port flags {small.flags}")
    if len(small.frames) < 50:
        lines += ["as a vector file:", json.dumps(vector_file(small, found), indent=1)]
    lines.append(f"again: tests/run fuzz --seed {finding.seed} --packets 1")
    return "\n".join(lines)
