"""Whose turn it is, for many frames at once."""

import random

import numpy as np

from appliance.forwarding import NO_MEMBER, ChoiceArray, ChoiceOrder, TableService
from appliance.packet.forward import Turns


class ColumnTurns(Turns):
    """`packet.forward.Turns`, with a method for columns that takes the same turns."""

    def __init__(self, chance: random.Random | None = None) -> None:
        """
        Args:
            chance: for services whose choices are taken at random. Whom it favours is no secret.
        """
        self._chance = chance or random.Random()  # noqa: S311
        super().__init__(lambda: self._chance.getrandbits(32))

    def take_many(self, service: TableService, count: int, *, peek: bool = False) -> ChoiceArray:
        """The next choices, one for each of some frames; NO_MEMBER when there is none.

        Args:
            service: whose.
            count: how many.
            peek: leave them for the next ones.
        """
        choices, key = service.choices, (service.name, service.vip.packed)
        if not len(choices):
            return np.full(count, NO_MEMBER, np.uint16)
        if service.choice_order is ChoiceOrder.RANDOM:
            # The same numbers as one by one: a generator's 32 bits stand behind one another, the first ones lowest.
            numbers = np.frombuffer(self._chance.randbytes(4 * count), "<u4").astype(np.uint64)
            return choices[(numbers * np.uint64(len(choices)) >> np.uint64(32)).astype(np.intp)]
        known, at = self._at.get(key, (None, 0))
        at = at if known is choices else 0
        if not peek:
            self._at[key] = choices, (at + count) % len(choices)
        return choices[np.arange(at, at + count) % len(choices)]
