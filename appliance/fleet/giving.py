"""Orders of operators on their way into the fleet's store: those of one command all together, or none of them.

With the first order the store gets a mark, which stays. A store without it is not one from which all orders have been
taken back: it is new, or has lost what it had, and a director that knows orders puts them there.
"""

from collections.abc import Container, Mapping

from appliance.fleet import entries
from appliance.fleet.client import AT_ONCE, RefusedError, Session, Store
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
    if len(orders) >= AT_ONCE:
        raise RefusedError(
            f"{len(orders)} orders at once, and the store takes {AT_ONCE - 1}; "
            "give them for each member (onward member)"
        )
    keys = {member: f"{entries.ORDERS}/{member}" for member in orders}
    puts = {keys[member]: entries.encode_order(order) for member, order in orders.items() if order is not None}
    async with store.session() as session:
        await session.write(puts | _MARK, [key for key in keys.values() if key not in puts])


async def hand_over(session: Session, found: Container[str], orders: Mapping[str, Order]) -> bool:
    """Put orders into a store without the mark.

    Args:
        session: with the store.
        found: keys that are there; orders among them, which somebody may have begun to hand over, stay as they are.
        orders: what this director knows, by `pool/member`; at least one.

    Returns:
        Whether this director was first. Otherwise those of another one count.

    Raises:
        StoreError: the store cannot be reached. Some of them may be there; trying again does no harm.
    """
    keys = {f"{entries.ORDERS}/{member}": order for member, order in sorted(orders.items())}
    texts = {key: entries.encode_order(order) for key, order in keys.items() if key not in found}
    together = dict(list(texts.items())[: AT_ONCE - 1])
    for key in texts.keys() - together.keys():
        await session.swap(key, texts[key], 0)
    return (await session.swap(entries.ORDERED, _MARK[entries.ORDERED], 0, together)).won


_MARK = {entries.ORDERED: "1"}
