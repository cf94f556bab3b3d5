"""Packets explained by the configuration alone: next hops are made up, and members are well unless somebody says no.

So service, slot and member are those of every director of the fleet in the same situation, with nothing in transition.
What follows from the made-up next hops is None in the answer: only a running director knows it.
"""

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from appliance.decide import decide
from appliance.explain.answer import Answers, Document, Judged
from appliance.explain.question import frame_of, later_fragment_of
from appliance.forwarding import NextHop
from appliance.model import Config, Health, MonitorSpec
from appliance.packet.action import Verdict
from appliance.packet.forward import Ingress, PacketPath
from appliance.packet.fragments import Fragments
from appliance.ring.hash import FlowKey
from appliance.state import IndexAllocator, Snapshot, ways

_OUR_MAC, _NEXT_MAC = bytes((2, 0, 0, 0, 0, 2)), bytes((2, 0, 0, 0, 0, 3))
_SOURCES = {4: ip_address("192.0.0.8"), 6: ip_address("100::")}
"""Stand for the director's own address, which only a running director knows: the dummy addresses of RFC 7600 and
RFC 6666."""

_NOBODY = bytes(6).hex(":")
"""The source of frames that are made for a flow."""

_ANY_SIZE = 65535
"""The link that packets come from is not in question, so it carries anything."""


class Model:
    """A configuration, ready to be asked."""

    def __init__(self, config: Config, down: Sequence[str] = (), mtu: int = 1500) -> None:
        """
        Args:
            config: the configuration.
            down: `pool/member` ids that count as down; all others count as up, and as reachable.
            mtu: of the way to every member, bytes.
        """
        snapshot = Snapshot(
            config=_watched(config),
            health={
                f"{pool.name}/{member.name}": Health.DOWN if f"{pool.name}/{member.name}" in down else Health.UP
                for pool in config.pools
                for member in pool.members
            },
            next_hops={
                member.address: NextHop(
                    ifindex=1,
                    interface=config.director.interfaces[0],
                    source_mac=_OUR_MAC,
                    mac=_NEXT_MAC,
                    mtu=mtu,
                    source=_SOURCES[member.address.version],
                    direct=True,
                )
                for pool in config.pools
                for member in pool.members
            },
            indices=IndexAllocator().update(ways(config)),
        )
        self.desired = decide(snapshot)
        self._answers = Answers(self.desired)
        self._path = PacketPath(self.desired.tables, fragments=Fragments(lambda: 0))

    def explain(self, frame: bytes, key: FlowKey | None = None) -> Document:
        """What becomes of a frame.

        Args:
            frame: with an Ethernet header, whose destination becomes our address. A source of zeros is nobody's.
            key: of its flow, where it is also of interest what becomes of fragments.
        """
        frame = _OUR_MAC + frame[6:]
        link = Ingress(1, _OUR_MAC, _ANY_SIZE)
        action = self._path.forward(frame, link, look_only=True)
        waits = None
        if key is not None:
            later = frame_of(later_fragment_of(key), _OUR_MAC)
            waits = self._path.forward(later, link, look_only=True).verdict is Verdict.HOLD
        return _known(self._answers.document(Judged(frame, action), fragments_wait=waits))


def _known(found: Document) -> Document:
    """The answer without Ethernet addresses, interface and outer source that nobody has."""
    answer: dict[str, Any] = dict(found)
    for ethernet in answer["packet"][:1]:
        ethernet["destination"] = None
        ethernet["source"] = None if ethernet["source"] == _NOBODY else ethernet["source"]
    for ethernet, outer, *inner in answer["out"]:
        ethernet["source"] = ethernet["destination"] = None
        if ip_address(outer["source"]) in _SOURCES.values():
            outer["source"] = None
            for header in inner[:1]:
                if header["header"] == "udp" and header["checksum"]:
                    header["checksum"] = None
        if outer.get("dont_fragment") is False and answer["member"]["encapsulation"] is not None:
            outer["ident"] = None
    if answer["member"] is not None:
        answer["member"]["interface"] = None
    return answer


def _watched(config: Config) -> Config:
    """The configuration with a monitor for every pool: members of a pool without one are up whatever health says."""
    stand_in = (MonitorSpec("assumed", "tcp", 10, 4, 2, 2, None),)
    services = (replace(s, pool=replace(s.pool, monitors=s.pool.monitors or stand_in)) for s in config.services)
    return replace(config, services=tuple(services))
