"""Asks the running plane and the model about a packet, and tells whether they agree."""

import asyncio
from collections.abc import Callable

from appliance.dataplane.base import DataPlane, DataPlaneError
from appliance.dataplane.raw.kernel import Interface, read_interface
from appliance.dataplane.second import SecondOpinion, differences
from appliance.decide import Desired
from appliance.explain.answer import Answers, Document, Judged
from appliance.packet.action import Action, By, Verdict
from appliance.packet.forward import Ingress

TRIES = 3
"""Tables, and what is remembered of a flow, may change between two questions. What differs each time is an error."""


class Explainer:
    """Explains packets as if they had arrived now. Nothing is sent, counted or remembered.

    A test run of the XDP program leaves marks in rows of its tables that belong to test runs alone.
    """

    def __init__(
        self,
        plane: DataPlane,
        applied: Callable[[], Desired | None],
        interface: Callable[[str], Interface | None] = read_interface,
    ) -> None:
        """
        Args:
            plane: the running one.
            applied: the decision in force.
            interface: what the kernel says of one.
        """
        self._plane = plane
        self._applied = applied
        self._interface = interface
        self._answers: Answers | None = None
        self._opinion: SecondOpinion | None = None
        self._asking = asyncio.Lock()
        """Whoever gives an opinion works for one at a time."""

    async def explain(self, frame: bytes, name: str) -> Document:
        """What becomes of a frame.

        Args:
            frame: with an Ethernet header, whose destination becomes our address. A source of zeros is nobody's.
            name: of the interface that it arrives on.

        Raises:
            DataPlaneError: the plane does not work, or does not serve that interface; or nothing is in force yet.
        """
        link = self._interface(name)
        if link is None:
            raise DataPlaneError(f"there is no interface {name}")
        frame = link.mac + frame[6:]
        async with self._asking:
            return await self._explain(frame, name, Ingress(link.ifindex, link.mac, link.mtu))

    async def _explain(self, frame: bytes, name: str, ingress: Ingress) -> Document:
        for attempt in range(TRIES):
            desired = self._applied()
            if desired is None:
                raise DataPlaneError("no tables are in force yet; the director has just started")
            action = await self._plane.explain(frame, name)
            answers, opinion = self._ready(desired)
            document = await asyncio.to_thread(_document, answers, opinion, frame, ingress, action)
            if not document["differences"] or attempt == TRIES - 1:
                break
            await asyncio.sleep(0.05)
        return document

    def _ready(self, desired: Desired) -> tuple[Answers, SecondOpinion]:
        if self._answers is None or self._opinion is None or self._answers.desired is not desired:
            pins = self._plane.pins
            self._answers = Answers(desired, pins)
            self._opinion = SecondOpinion(desired.tables, pins, fragments=True)
        return self._answers, self._opinion


def _document(answers: Answers, opinion: SecondOpinion, frame: bytes, ingress: Ingress, action: Action) -> Document:
    expected = opinion.on(frame, ingress, action.member, action.by)
    # Of a later fragment the model knows no first one; the plane may.
    compared = action.by is not By.FIRST or expected.verdict is not Verdict.HOLD
    return answers.document(Judged(frame, action, differences(expected, action) if compared else (), compared))
