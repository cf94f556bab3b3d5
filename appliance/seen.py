"""From what a data plane remembers of flows to what the decision needs of it. Pure."""

from ipaddress import ip_address

import numpy as np
import numpy.typing as npt

from appliance.dataplane.pins import LivePins, addresses
from appliance.decide import Desired, window_s
from appliance.packet.placement import TICK_S
from appliance.ring.transition import Course, pin_facts
from appliance.state import CourseKey, PinsSeen


def seen(live: LivePins, desired: Desired) -> PinsSeen:
    """What the plane remembers, by slot and by member.

    Args:
        live: its live pins.
        desired: the decision that is in force; the facts are about its words.
    """
    if not len(live):
        none = {key: (course, pin_facts(course, _NO_SLOT, _NO_MEMBER, _NO_AGE)) for key, course in _moving(desired)}
        return PinsSeen(none, {})
    members, counts = np.unique(live.member, return_counts=True)
    flows = dict(zip(members.tolist(), counts.tolist(), strict=True))
    owner = _courses_of(live, desired)
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


_NO_SLOT = np.zeros(0, np.int64)
_NO_MEMBER = np.zeros(0, np.uint16)
_NO_AGE = np.zeros(0, np.float32)


def _moving(desired: Desired) -> list[tuple[CourseKey, Course]]:
    return [(key, course) for key, course in desired.courses.items() if not course.steady]


def _courses_of(live: LivePins, desired: Desired) -> npt.NDArray[np.int64]:
    """The position in `desired.courses` of each pin's words; -1 for pins of no service."""
    numbers = {key: number for number, key in enumerate(desired.courses)}
    by_name = {
        view.service.name: numbers[view.service.pool.name, view.service.profile.delivery, window_s(view.service)]
        for view in desired.services
    }
    where = np.zeros(len(live), np.dtype([("vip", "<u8", 2), ("port", "<u2"), ("protocol", "u1")]))
    where["vip"], where["protocol"] = live.flows["destination"], live.flows["protocol"]
    where["port"] = (live.flows["ports"] >> np.uint32(16)).astype(np.uint16).byteswap()
    places, inverse = np.unique(where, return_inverse=True)
    courses = np.full(len(places), -1, np.int64)
    for at, (place, vip) in enumerate(zip(places, addresses(places["vip"]), strict=True)):
        service = desired.tables.find(ip_address(vip), int(place["protocol"]), int(place["port"]))
        if service is not None:
            courses[at] = by_name[service.name]
    return courses[inverse]
