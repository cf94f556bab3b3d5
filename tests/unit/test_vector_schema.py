"""Vector files have the documented form, and what random packets find is written in it."""

import copy
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from appliance.dataplane.pins import PinTable
from appliance.packet.action import Action, Reason
from appliance.packet.forward import forward
from appliance.packet.placement import TICK_S, TICK_SHIFT
from tests.fuzz.compare import PINS, Chunk, Clock, Finding, Reference, make_case
from tests.fuzz.findings import vector_file
from tests.vector_schema import schema, violations
from tests.vectors_io import (
    DIRECTORY,
    Step,
    canonical,
    packet_files,
    packet_vectors,
    read,
    read_sequences,
    run_sequence,
    sequence_files,
)


def load(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.parametrize("path", packet_files(), ids=lambda path: path.stem)
def test_packet_files_have_the_form(path: Path) -> None:
    """Every packet vector is as the schema says."""
    assert violations(load(path)) == []


@pytest.mark.parametrize("path", sequence_files(), ids=lambda path: path.stem)
def test_sequence_files_have_the_form(path: Path) -> None:
    """So is every sequence."""
    assert violations(load(path), "sequenceFile") == []


@pytest.mark.parametrize("path", sequence_files(), ids=lambda path: path.stem)
def test_sequences_make_sense(path: Path) -> None:
    """What the schema cannot say: they begin with tables at 0 s, time goes on, and what sets tables is not the end."""
    text = load(path)
    for sequence in text["sequences"]:
        times = [step["at"] for step in sequence["steps"]]
        assert times[0] == 0
        assert times == sorted(times)
        assert "set" in sequence["steps"][0]
        assert "set" not in sequence["steps"][-1]
    named = {step["set"] for sequence in text["sequences"] for step in sequence["steps"] if "set" in step}
    assert named == set(text["tables"])


@pytest.mark.parametrize("path", [*packet_files(), *sequence_files()], ids=lambda path: path.stem)
def test_names_lead_somewhere(path: Path) -> None:
    """What a schema cannot say: tables, slots and members that are named exist, ports are in order, families fit."""
    text = load(path)
    assert {vector["tables"] for vector in text.get("vectors", ())} <= set(text["tables"])
    for tables in text["tables"].values():
        assert {service["slots"] for service in tables["services"]} <= set(tables["slots"])
        assert all(first <= last for service in tables["services"] for first, last in service["ports"])
        indices = {member.get("index", number) for number, member in enumerate(tables["members"])}
        assert len(indices) == len(tables["members"])
        for slots in tables["slots"].values():
            named = {*slots.get("cycle", ()), *slots.get("previous", ())} - {0xFFFF}
            named |= {slots["all"]} if "all" in slots else set()
            assert named | {member["index"] for member in slots.get("ring", ())} <= indices
        assert all(set(service.get("choices", ())) <= indices for service in tables["services"])
        for member in tables["members"]:
            if "encapsulation" in member:
                assert ip_address(member["address"]).version == ip_address(member["next_hop"]["source"]).version


def test_hash_file_has_the_form() -> None:
    """So is every value of the flow hash."""
    assert violations(load(DIRECTORY / "hash.json"), "hashFile") == []


def test_reasons_are_those_of_the_reference() -> None:
    """The schema names every reason of a packet path; what only limits and sockets can cause is not in vectors."""
    forms = schema()["$defs"]
    named = {*forms["drop"]["properties"]["reason"]["enum"], *forms["pass"]["properties"]["reason"]["enum"]}
    assert named == set(Reason) - {Reason.SLOW_PATH_FULL, Reason.ICMP_RATE, Reason.TX_FAILED}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.pop("about"), "$ has no about"),
        (lambda text: text.update(more=1), "$ has more, which nothing is known about"),
        (lambda text: text["vectors"][0].update(ident=-1), "$.vectors[0].ident is -1, outside of 0..65535"),
        (lambda text: text["vectors"][0].update(ident=True), "$.vectors[0].ident is True, no integer"),
        (lambda text: text["vectors"][0].update(frame="0"), "$.vectors[0].frame is '0', not of the form"),
        (lambda text: text["vectors"][0]["action"].update(reason="bored"), "has 0 of the forms"),
        (lambda text: text.update(vectors=[]), "$.vectors has 0 items"),
    ],
)
def test_what_is_wrong_is_named(change: Any, says: str) -> None:
    """The check is one that can fail, and says where."""
    text = copy.deepcopy(load(DIRECTORY / "mtu.json"))
    change(text)
    problems = violations(text)
    assert len(problems) == 1
    assert says in problems[0]


@pytest.mark.parametrize("seed", range(5))
def test_random_packets_can_be_published(seed: int) -> None:
    """Tables and frames of a random case, written as a vector file, are read back as what they were."""
    case = make_case(seed, frames=20)
    for frame in case.frames:
        single = replace(case, chunks=[Chunk(0, 0, [frame])])
        text = json.loads(json.dumps(vector_file(single, Finding(seed, "any", "", frame))))
        assert violations(text) == []
        (vector,) = read(text)
        assert vector.frame == frame
        assert forward(vector.frame, vector.tables, vector.ingress, vector.ident) == vector.action


@pytest.mark.parametrize("seed", range(20))
def test_random_sequences_can_be_published(seed: int) -> None:
    """So are tables and frames over time, and what the reference does is what it did."""
    case = make_case(seed, frames=30)
    text = json.loads(json.dumps(vector_file(case, Finding(seed, "any", ""))))
    assert violations(text, "sequenceFile") == []
    (sequence,) = read_sequences(text)
    assert [step.frame for step in sequence.steps if step.action is not None] == case.frames
    clock = Clock(case.begin)
    reference = Reference(PinTable.in_memory(PINS, lambda: clock.now() - (1 << TICK_SHIFT - 1)), clock)
    now = 0.0

    def wait(seconds: float) -> None:
        nonlocal now
        before, now = int(now / TICK_S), now + seconds
        clock.move(int(now / TICK_S) - before)

    def ask(step: Step) -> Action:
        return reference.forward(step.frame, sequence.ingress, waited=step.waited)

    assert run_sequence(sequence, wait, reference.follow, ask) == ""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text["sequences"][0]["steps"][0].update(at=-1), "has 0 of the forms"),
        (lambda text: text["sequences"][0]["steps"][0].update(frame=""), "has 0 of the forms"),
        (lambda text: text["sequences"][0]["steps"][2]["action"].update(by="chance"), "has 0 of the forms"),
        (lambda text: text["sequences"][0].update(steps=[]), "$.sequences[0].steps has 0 items"),
        (lambda text: text["tables"]["t0"]["services"][0].update(placement="best"), "is 'best', none of"),
        (lambda text: text["tables"]["t0"]["services"][0].update(idle_timeout=0.5), "is 0.5, no integer"),
    ],
)
def test_what_is_wrong_with_a_sequence_is_named(change: Any, says: str) -> None:
    """Neither is the check of sequences one that cannot fail."""
    text = copy.deepcopy(load(DIRECTORY / "transitions.json"))
    change(text)
    problems = violations(text, "sequenceFile")
    assert len(problems) == 1
    assert says in problems[0]


def test_vectors_of_the_generator_are_those_of_the_files(tmp_path: Path) -> None:
    """The files are what the scripts beside them write."""
    for script in ("generate.py", "sequences.py"):
        shutil.copy(DIRECTORY / script, tmp_path)
    for script in ("generate.py", "sequences.py"):
        subprocess.run([sys.executable, "-W", "ignore", tmp_path / script], check=True, capture_output=True)
    written = sorted(path.name for path in tmp_path.glob("*.json"))
    assert written == sorted({path.name for path in DIRECTORY.glob("*.json")} - {"schema.json"})
    for name in written:
        assert (tmp_path / name).read_text() == (DIRECTORY / name).read_text(), f"{name} is out of date"


def test_wrong_outer_checksums_are_seen() -> None:
    """Another identification is no difference, but a checksum that does not fit it is."""
    vector = next(vector for vector in packet_vectors() if vector.id == "IPIP-4in4-tcp-df-clear")
    right = vector.action.frame
    assert canonical(right[:24] + bytes((right[24] ^ 1,)) + right[25:]) != canonical(right)


def test_cases_come_from_their_number() -> None:
    """The same number makes the same case, another one another."""
    assert make_case(3, 50) == make_case(3, 50)
    assert make_case(3, 50).frames != make_case(4, 50).frames
