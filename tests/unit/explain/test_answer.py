"""Explained by what is in force: slots on their way, what is remembered, why no other member, and doubts."""

import asyncio
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from appliance.dataplane.base import DataPlaneError
from appliance.dataplane.fake import FakeDataPlane
from appliance.dataplane.raw.kernel import Interface
from appliance.decide import Desired, decide
from appliance.explain.question import Tcp, frame_of, packet_of
from appliance.explain.side import Explainer
from appliance.model import Health, Protocol
from appliance.packet.action import Action
from appliance.packet.forward import Ingress
from appliance.packet.placement import FlowFacts, Pin, PinState
from appliance.ring.hash import FlowKey, HashMode, derive_pin_keys, flow_words, pin_hash
from tests.builders import config, snapshot

MAC = bytes((2, 0, 0, 0, 9, 1))
LINK = Interface("eth1", 3, MAC, 1500, True, True)


class Director:
    """A plane in memory and decisions, as the control server has them."""

    def __init__(self, *healths: dict[str, Health]) -> None:
        self.desired: Desired | None = None
        self.plane = FakeDataPlane(ingress=Ingress(3, MAC, 1500))
        self.explainer = Explainer(self.plane, lambda: self.desired, {"eth1": LINK}.get)
        self.now = 1000.0
        for health in healths:
            self.turn(health)

    def turn(self, health: dict[str, Health]) -> None:
        self.now += 20
        self.desired = decide(snapshot(config(), health), self.desired, self.now)
        asyncio.run(self._follow())

    async def _follow(self) -> None:
        assert self.desired is not None
        await self.plane.start()
        await self.plane.set(self.desired.tables)

    def explain(self, port: int = 40000, tcp: Tcp = Tcp.SYN, size: int = 0, to_port: int = 80) -> dict[str, Any]:
        return asyncio.run(self.explainer.explain(frame_of(packet_of(key(port, to_port), size, tcp)), "eth1"))

    def remember(self, port: int, member: int, state: PinState = PinState.OPEN) -> None:
        assert self.desired is not None
        flow = key(port)
        ports = flow.source_port.to_bytes(2, "big") + flow.destination_port.to_bytes(2, "big")
        words = flow_words(flow.source.packed, flow.destination.packed, ports, 6, HashMode.FIVE_TUPLE)
        hash64 = pin_hash(derive_pin_keys(self.desired.tables.secret), words)
        facts = FlowFacts(flow.source.packed, flow.destination.packed, ports, 6, hash64, 0, 300)
        self.plane.pins.keep(Pin(member, state), facts, self.plane.pins.now())


def key(port: int, to_port: int = 80) -> FlowKey:
    return FlowKey(ip_address("192.0.2.7"), ip_address("198.51.100.7"), Protocol.TCP, port, to_port)


def all_up(**changes: Health) -> dict[str, Health]:
    return {f"web/web{number}": changes.get(f"web{number}", Health.UP) for number in (1, 2, 3)}


@pytest.fixture(scope="module")
def window() -> Director:
    """web3 was down and is back: a third of the slots are on their way to it."""
    return Director(all_up(web3=Health.DOWN), all_up())


def moving(director: Director) -> int:
    """The port of a flow whose slot is on its way."""
    return next(port for port in range(40000, 40100) if director.explain(port)["phase"] == "window")


def test_steady() -> None:
    """The slot says it all; the others do not have it, or are out for a reason."""
    director = Director(all_up(web2=Health.DOWN))
    found = director.explain()
    assert (found["verdict"], found["by"], found["phase"], found["pin"]) == ("transmit", "slot", "steady", None)
    assert found["primary"] == found["previous"] == found["member"]["id"]
    assert found["compared"] is True
    assert found["differences"] == []
    why = {one["member"]: one["why"] for one in found["others"]}
    assert why.pop("web/web2") == "health_down"
    assert list(why.values()) == [f"the slot is {found['member']['id']}'s"]
    assert found["mtu"]["verdict"] == "fits"
    assert found["out"][0][0]["header"] == "ethernet"


def test_in_a_window(window: Director) -> None:
    """A connection that begins goes to the new owner, one that may be from before to the previous one."""
    port = moving(window)
    begins, goes_on = window.explain(port), window.explain(port, Tcp.DATA)
    assert (begins["by"], begins["member"]["id"], begins["primary"]) == ("slot", "web/web3", "web/web3")
    assert (goes_on["by"], goes_on["member"]["id"]) == ("previous", goes_on["previous"])
    assert begins["window_ends"] is not None
    why = {one["member"]: one["why"] for one in begins["others"]}
    assert why[begins["previous"]].startswith("had the slot before the change")
    assert {one["member"]: one["why"] for one in goes_on["others"]}["web/web3"].startswith("has the slot since")
    assert begins["differences"] == goes_on["differences"] == []


def test_what_is_remembered(window: Director) -> None:
    """A pin decides while it counts; asking does not change it."""
    port = moving(window)
    assert window.desired is not None
    elsewhere = next(index for index, one in window.desired.tables.members.items() if one.id == "web/web3")
    window.remember(port, elsewhere)
    for _ in range(2):
        found = window.explain(port, Tcp.DATA)
        assert (found["by"], found["member"]["id"]) == ("pin", "web/web3")
        assert found["pin"] == {"member": "web/web3", "state": "open", "idle_s": 0.0, "counts": True}
        assert all(one["why"] == "the flow is remembered at web/web3" for one in found["others"])


def test_a_no_is_explained() -> None:
    """No service, nobody, too big."""
    director = Director(all_up())
    assert "no virtual service has tcp port 81" in director.explain(to_port=81)["why"]
    big = director.explain(size=1600)
    assert (big["verdict"], big["reason"]) == ("drop", "oversized_frame")
    director.turn(dict.fromkeys(all_up(), Health.DOWN))
    nobody = director.explain()
    assert (nobody["reason"], nobody["member"]) == ("no_member", None)
    assert nobody["why"] == "web/web1 health_down; web/web2 health_down; web/web3 health_down"


def test_a_plane_that_does_something_else_is_shouted_at(window: Director) -> None:
    """Another member, or one byte of the frame out: the difference is told, with both sides."""
    told: list[Action] = []

    class Wrong(FakeDataPlane):
        async def explain(self, frame: bytes, interface: str) -> Action:
            right = await window.plane.explain(frame, interface)
            told.append(replace(right, frame=right.frame[:-1] + b"\xff", member=99))
            return told[-1]

    wrong = Wrong()
    explainer = Explainer(wrong, lambda: window.desired, {"eth1": LINK}.get)
    with pytest.raises(DataPlaneError, match="no interface eth9"):
        asyncio.run(explainer.explain(frame_of(packet_of(key(40000))), "eth9"))
    found: Any = asyncio.run(explainer.explain(frame_of(packet_of(key(40000))), "eth1"))
    assert len(told) == 3  # what differs once may be a change under way
    assert [one.partition(":")[0] for one in found["differences"]] == ["member", "frames"]
    assert found["differences"][0].startswith("member: the plane has 99, the reference ")


def test_nothing_in_force_yet() -> None:
    """A director that has just started says so."""
    with pytest.raises(DataPlaneError, match="has just started"):
        Director().explain()
