"""What stands between outer and inner IP header, for a batch: `packet.encap.TUNNELS` in columns."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from appliance.model import Encapsulation
from appliance.packet.encap import EPHEMERAL, TUNNELS

U64 = npt.NDArray[np.uint64]
_FLOW_BITS = np.array(EPHEMERAL ^ 0xFFFF, np.uint64)

Between = npt.NDArray[np.void]
"""One for each frame, or one for all."""


def _gre(inner_version: int, total: U64, hash32: U64) -> Between:
    return np.frombuffer(TUNNELS[Encapsulation.GRE].between(inner_version, 0, 0), "V4")


def _gue(inner_version: int, total: U64, hash32: U64) -> Between:
    constant = TUNNELS[Encapsulation.GUE].between(inner_version, 0, 0)
    out = np.frombuffer(constant * len(total), ">u2").reshape(-1, 6).copy()
    out[:, 0] |= (hash32 & _FLOW_BITS).astype(np.uint16)
    out[:, 2] += total.astype(np.uint16)
    return out.view("V12")[:, 0]


BETWEEN: dict[Encapsulation, Callable[[int, U64, U64], Between]] = {Encapsulation.GRE: _gre, Encapsulation.GUE: _gue}
"""By encapsulation: of inner version, lengths of the inner packets and flow hashes. IPIP has nothing there."""
