"""The lease on what is announced: renewed only for a data plane that has just proved itself."""

import structlog

from appliance.dataplane.base import DataPlane, DataPlaneError
from appliance.state import State
from bgp.speaker import Speaker, Survival

log = structlog.get_logger()


async def renew(state: State, plane: DataPlane, speaker: Speaker, grace_s: float = 0.0) -> bool:
    """Have the plane prove that it forwards, and renew the lease then; otherwise say in the store why not.

    While the store has doubts already it is for the reconciler to set things right, and the lease runs out meanwhile.

    Args:
        grace_s: for how long routes may stay when this process ends, if the plane forwards on without it.

    Returns:
        Whether the lease was renewed.
    """
    if state.snapshot().plane_error is not None:
        return False
    try:
        await plane.check()
    except DataPlaneError as error:
        log.error("plane.failed", error=str(error))
        state.set_plane_error(str(error))
        return False
    await speaker.renew(Survival(grace_s, plane.survivors(), plane.keeper()))
    return True
