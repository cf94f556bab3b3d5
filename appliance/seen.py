"""From what a data plane remembers of flows to what the decision needs of it. Pure."""

from ipaddress import ip_address

import numpy as np
import numpy.typing as npt

from appliance.dataplane.pins import LivePins, addresses
from appliance.decide import Desired, course_key
from appliance.packet.placement import TICK_S, idle_ticks
from appliance.ring.transition import Course, pin_facts
from appliance.state import CourseKey, PinsSeen


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


def seen(live: LivePins, desired: Desired, services: npt.NDArray[np.int64]) -> PinsSeen:
    """What the plane remembers, by slot and by member.

    Args:
        live: its live pins.
        desired: the decision that is in force; the facts are about its words.
        services: of the pins, `services_of`.
    """
    if not len(live):
        none = {key: (course, pin_facts(course, _NO_SLOT, _NO_MEMBER, _NO_AGE)) for key, course in _moving(desired)}
        return PinsSeen(none, {})
    members, counts = np.unique(live.member, return_counts=True)
    flows = dict(zip(members.tolist(), counts.tolist(), strict=True))
    owner = _course_numbers(desired)[services]
    facts = {}
    for number, key in enumerate(desired.courses):
        mine = owner == number
        course = desired.courses[key]
        if course.steady and not mine.any():
            continue
        hash32 = live.flows["hash32"][mine].astype(np.uint64)
        slot = (hash32 * np.uint64(len(course.slots)) >> np.uint64(32)).astype(np.int64)
        age = (live.age[mine] * TICK_S).astype(np.float32)
        facts[key] = course, pin_facts(course, slot, live.member[mine], age)
    return PinsSeen(facts, flows)


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


_NO_SLOT = np.zeros(0, np.int64)
_NO_MEMBER = np.zeros(0, np.uint16)
_NO_AGE = np.zeros(0, np.float32)


def _moving(desired: Desired) -> list[tuple[CourseKey, Course]]:
    return [(key, course) for key, course in desired.courses.items() if not course.steady]


def _course_numbers(desired: Desired) -> npt.NDArray[np.int64]:
    """The position in `desired.courses` of each service's words, by the service's position in the tables; -1 where
    nothing is known of them, and at the end for no service."""
    numbers = {key: number for number, key in enumerate(desired.courses)}
    by_name = {view.service.name: numbers.get(course_key(view.service)) for view in desired.services}
    found = [by_name[service.name] for service in desired.tables.services]
    return np.array([*(-1 if number is None else number for number in found), -1], np.int64)
