"""Orders of operators on their way into the fleet's store: those of one command all together, or none of them."""

from collections.abc import Mapping

from appliance.fleet import entries
from appliance.fleet.client import AT_ONCE, RefusedError, Store
from appliance.model import Order


async def give(store: Store, orders: Mapping[str, Order | None]) -> None:
    """What an operator wants of members, on all directors.

    A session of its own, since the one that directors agree by may have just broken without anybody knowing it.

    Args:
        store: the fleet's.
        orders: by `pool/member`; None takes back what there is.

    Raises:
        StoreError: the store cannot be reached or does not take them, or they are too many for one transaction.
    """
    if len(orders) > AT_ONCE:
        raise RefusedError(
            f"{len(orders)} orders at once, and the store takes {AT_ONCE}; give them for each member (onward member)"
        )
    keys = {member: f"{entries.ORDERS}/{member}" for member in orders}
    puts = {keys[member]: entries.encode_order(order) for member, order in orders.items() if order is not None}
    async with store.session() as session:
        await session.write(puts, [key for key in keys.values() if key not in puts])
