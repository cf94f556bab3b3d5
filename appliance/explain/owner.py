"""Which members flows go to, by the tables in force and what is remembered. Pure but for reading that memory."""

from collections.abc import Iterable

from appliance.dataplane.second import SecondOpinion
from appliance.explain.question import frame_of, packet_of
from appliance.forwarding import ForwardingTables
from appliance.packet.action import By
from appliance.packet.forward import Ingress
from appliance.packet.placement import Pins
from appliance.ring.hash import FlowKey

_MAC = bytes((2, 0, 0, 0, 0, 1))
_LINK = Ingress(1, _MAC, 65535)
_CERTAIN = frozenset({By.SLOT, By.PREVIOUS, By.PIN})
"""What has decided is the same when asked again, unlike an algorithm's choice."""


def owners(tables: ForwardingTables, pins: Pins | None, keys: Iterable[FlowKey]) -> dict[FlowKey, tuple[str, str]]:
    """
    Args:
        tables: in force.
        pins: what is remembered of flows.
        keys: flows.

    Returns:
        Virtual service and `pool/member` of each; those are left out of which it cannot be said.
    """
    opinion = SecondOpinion(tables, pins)
    services = {service.index: service.name for service in tables.services}
    found = {}
    for key in keys:
        action = opinion.on(frame_of(packet_of(key), _MAC), _LINK, None, None)
        member = tables.members.get(action.member) if action.member is not None else None
        if action.by in _CERTAIN and action.service is not None and member is not None:
            found[key] = services[action.service], member.id
    return found
