"""Orders of operators on their way into the fleet's store: those of one command all together, or none of them.

With the first order the store gets a mark, which stays. A store without it, and without orders, is not one from which
all orders have been taken back: it is new, or has lost what it had, and a director that knows orders puts them there.
"""

from collections.abc import Iterable, Mapping

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


def is_new(found: Iterable[str]) -> bool:
    """Whether a store with these keys has no orders and never had any."""
    return not any(key == entries.ORDERED or key.startswith(f"{entries.ORDERS}/") for key in found)


async def hand_over(session: Session, orders: Mapping[str, Order]) -> bool:
    """Put orders into a store that is new.

    Args:
        session: with the store.
        orders: what this director knows, by `pool/member`; at least one.

    Returns:
        Whether this director was first. Otherwise those of another one count.

    Raises:
        StoreError: the store cannot be reached. Some of them may be there; trying again does no harm.
    """
    texts = {f"{entries.ORDERS}/{member}": entries.encode_order(order) for member, order in sorted(orders.items())}
    together = dict(list(texts.items())[: AT_ONCE - 1])
    for key in texts.keys() - together.keys():
        await session.swap(key, texts[key], 0)
    return (await session.swap(entries.ORDERED, _MARK[entries.ORDERED], 0, together)).won


_MARK = {entries.ORDERED: "1"}
