"""From what a data plane remembers of flows to what the decision needs of it. Pure."""

from ipaddress import ip_address

import numpy as np
import numpy.typing as npt

from appliance.consequences import FlowsSeen
from appliance.dataplane.pins import LivePins, addresses
from appliance.decide import Desired, course_key
from appliance.forwarding import SLOTS
from appliance.packet.placement import TICK_S, idle_ticks
from appliance.ring.slots import unpack
from appliance.ring.transition import pin_facts
from appliance.state import PinsSeen


def services_of(live: LivePins, desired: Desired) -> npt.NDArray[np.int64]:
    """The service of each pin, by its position in the tables; -1 for pins of none."""
    where = np.zeros(len(live), np.dtype([("vip", "<u8", 2), ("port", "<u2"), ("protocol", "u1")]))
    where["vip"], where["protocol"] = live.flows["destination"], live.flows["protocol"]
    where["port"] = (live.flows["ports"] >> np.uint32(16)).astype(np.uint16).byteswap()
    places, inverse = np.unique(where, return_inverse=True)
    services = np.full(len(places), -1, np.int64)
    for at, (place, vip) in enumerate(zip(places, addresses(places["vip"]), strict=True)):
        service = desired.tables.find(ip_address(vip), int(place["protocol"]), int(place["port"]))
        if service is not None:
            services[at] = service.index
    return services[inverse]


def seen(live: LivePins, desired: Desired, services: npt.NDArray[np.int64], now: float) -> PinsSeen:
    """What the plane remembers, by slot and by member.

    Args:
        live: its live pins, those of members that do not serve included: they may soon.
        desired: the decision that is in force.
        services: of the pins, `services_of`.
        now: when they were looked at, by the clock of decisions.
    """
    members, counts = np.unique(live.member, return_counts=True)
    serves = np.zeros(1 << 16, np.bool_)
    serves[list(desired.tables.members)] = True
    flows = {member: count for member, count in zip(members.tolist(), counts.tolist(), strict=True) if serves[member]}
    owner = _course_numbers(desired)[services]
    facts, late = {}, False
    for number, (key, course) in enumerate(desired.courses.items()):
        mine = owner == number
        if course.steady and not mine.any():
            continue
        hash32 = live.flows["hash32"][mine].astype(np.uint64)
        slot = (hash32 * np.uint64(len(course.slots)) >> np.uint64(32)).astype(np.int64)
        age = (live.age[mine] * TICK_S).astype(np.float32)
        facts[key] = found = pin_facts(now, slot, live.member[mine], age)
        late = late or (course.steady and bool(found.elsewhere(unpack(course.slots)[0], serves).any()))
    return PinsSeen(facts, flows, late)


def outdated(
    live: LivePins, desired: Desired, services: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint16]]:
    """Pins whose records have another idle timeout than their service has now: a reload has changed it.

    Planes judge by that of the service, and everybody else, other directors included, by the records.

    Returns:
        Their positions, and what should stand there, in ticks.
    """
    ticks = [idle_ticks(service.idle_timeout_s) for service in desired.tables.services]
    wanted = np.array([*ticks, 0], np.uint16)[services]
    wrong = (services >= 0) & (live.flows["idle"] != wanted)
    return live.position[wrong], wanted[wrong]


def flows_of(live: LivePins, desired: Desired) -> FlowsSeen:
    """All flows that are remembered, those of members that do not serve included.

    Args:
        live: a plane's live pins.
        desired: the decision that is in force.
    """
    service = services_of(live, desired)
    known = np.flatnonzero(service >= 0)
    ports = (live.flows["ports"][known] >> np.uint32(16)).astype(np.uint16).byteswap()
    hash32 = live.flows["hash32"][known].astype(np.uint64)
    slot = (hash32 * np.uint64(SLOTS) >> np.uint64(32)).astype(np.int64)
    return FlowsSeen(service[known], ports.astype(np.int64), slot, live.member[known].astype(np.int64))


def _course_numbers(desired: Desired) -> npt.NDArray[np.int64]:
    """The position in `desired.courses` of each service's words, by the service's position in the tables; -1 where
    nothing is known of them, and at the end for no service."""
    numbers = {key: number for number, key in enumerate(desired.courses)}
    by_name = {view.service.name: numbers.get(course_key(view.service)) for view in desired.services}
    found = [by_name[service.name] for service in desired.tables.services]
    return np.array([*(-1 if number is None else number for number in found), -1], np.int64)
