"""This director's side of its fleet: what it tells the others and what it takes from them, put together.

Two things, and neither needs the other: flows that are remembered go to the other directors directly (channel.py); who
is up, what operators want and how pools became what they are is agreed by a store (store.py), where there is one.
Without directors in the configuration there is nothing to do, and without a store every director judges for itself.
"""

import asyncio
import hashlib
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import IPv4Address, ip_network

import structlog

from appliance import __version__
from appliance.dataplane.pins import PinTable
from appliance.decide import Desired, PoolUse, Why, pool_uses
from appliance.fleet.apart import apart
from appliance.fleet.channel import ChannelStatus, PinChannel
from appliance.fleet.client import Store, StoreError
from appliance.fleet.entries import DirectorCard
from appliance.fleet.etcd import EtcdStore
from appliance.fleet.giving import give
from appliance.fleet.store import Agreed, Agreement, Source
from appliance.fleet.tables import TableDigests
from appliance.forwarding import NextHop, TableMember
from appliance.model import AdminState, Config, Drain, FleetPeer, Health, IPAddress, Order
from appliance.state import LogEntry, RingKey, State, same_ring

log = structlog.get_logger()

JOIN_S = 2.0
"""How long to wait at most for a peer that says nothing, and for a store that cannot be reached, before we announce."""

BACK_S = 1.0
"""How long an order may take to come back from the store that has taken it."""

LOOK_S = 0.02
SHARE_S = 0.5
FIRST_S, RETURN_S = 3.0, 10.0
"""Who is heard of within the first seconds was there before us. Who comes later is counted on after a while only: it
has to learn before it announces, and might not stay."""

WATCH_S = 0.1
COMPARE_S = 0.5
MISMATCH_S = 5.0
"""Tables that differ for so long are worth an alarm: changes do not reach all directors at the same moment."""


_NOWHERE = NextHop(0, "", bytes(6), bytes(6), 0, IPv4Address(0), direct=False)
"""Whoever tells of flows need not know the way to their members."""


class FleetSide:
    """One director's side. Lives in the event loop's thread."""

    def __init__(
        self,
        config: Config,
        state: State,
        pins: Callable[[], PinTable],
        look: Callable[[], Awaitable[None]],
        wall: Callable[[], float] = time.time,
        reached: Callable[[], frozenset[str]] | None = None,
        claims: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        """
        Args:
            config: as it was at the start. Who we are in the fleet, and its store, are fixed from then on.
            state: what we learn goes there.
            pins: what the data plane remembers, once it has started.
            look: puts what is remembered into the store, for the next decision.
            wall: seconds since 1970.
            reached: prefixes that at least one router has from us now; None: whatever is announced is reached.
            claims: what others are to know of us; see `PinChannel`.
        """
        self._claims = claims
        self._look = look
        self._reached = reached
        self._wall = wall
        self._state = state
        self._pins = pins
        self._secret = config.secret
        self._announces = config.bgp is not None or any(service.arp for service in config.services)
        self._me = config.myself
        self._others = _others(config)
        self._own: dict[str, Health] = {}
        self._applied: Desired | None = None
        self._foreseen: Desired | None = None
        self._digests = TableDigests()
        self._compared: Mapping[str, int] = {}
        """Digests that other directors are told."""
        self._shared: dict[RingKey, LogEntry] = {}
        """What the store's logs have been told last of each ring."""
        self._absent_of: tuple[Config | None, Desired | None, Drain | None, frozenset[str] | None] = (None,) * 4
        """What the others have been told of absent VIPs follows from these."""
        self._vips: Mapping[str, IPAddress] = {}
        """By the names that all directors have for them."""
        self._named: object = None
        self._took_over = False
        self._to_look = asyncio.Event()
        self._alarmed: set[tuple[str, str]] = set()
        self.channel: PinChannel | None = None
        self.agreement: Agreement | None = None
        self._store: Store | None = None
        if config.fleet.etcd is not None and self._me is not None:
            rng = random.Random()  # noqa: S311 - which node is first, not secrets
            self._card = DirectorCard(self._me.name, self._me.address, self._me.port, secrets.token_hex(8), __version__)
            self._store = EtcdStore(config.fleet.etcd, rng)
            self.agreement = Agreement(
                self._card,
                self._store,
                self._on_agreed,
                wall=wall,
                clock=time.monotonic,
                rng=rng,
                orders=lambda: state.orders,
            )
        if self._others and self._announces:
            state.set_joining("has not heard of the other directors' flows yet")

    async def run(self) -> None:
        """Tell and hear until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            if self._me is not None:
                self.channel = PinChannel(
                    self._me,
                    self._others,
                    self._secret,
                    self._pins(),
                    tables=lambda: self._compared,
                    claims=self._claims,
                )
                tasks.create_task(apart(self.channel.run, "pins"), name="fleet:pins")
                if self.agreement is not None:
                    self._name_living(self.channel, self.agreement.latest)
                self._pins().herald = self.channel
                self._name_members()
                if self._announces:
                    tasks.create_task(self._join(self.channel), name="fleet:join")
                tasks.create_task(self._watch_tables(self.channel), name="fleet:tables")
                tasks.create_task(self._look_at_late_ones(), name="fleet:look")
                tasks.create_task(self._watch_others(self.channel), name="fleet:away")
            if self.agreement is not None:
                tasks.create_task(self.agreement.run(), name="fleet:agreement")
                tasks.create_task(self._share_log(self.agreement), name="fleet:log")

    def follow(self, config: Config) -> None:
        """The members that there are, and the other directors."""
        if (others := _others(config)) != self._others:
            self._others = others
            if self.channel is not None:
                self.channel.set_peers(others)
        known = {member for pool in config.pools for member in pool.member_ids}
        self._own = {member: health for member, health in self._own.items() if member in known}
        self._name_members()
        if self.agreement is not None:
            self.agreement.follow(config.pools)
            self.agreement.say(self._own)

    def judge(self, member: str, health: Health, *, asked: bool = True) -> None:
        """What this director sees of a member itself.

        Args:
            member: `pool/member`.
            health: its own verdict.
            asked: whether anybody asks the member at all.
        """
        self._own[member] = health
        if self.agreement is not None:
            self.agreement.say(self._own)
            if member in self.agreement.latest.members:
                return  # else it is switched off or leaving: nobody has to agree on it
        # Who is asked in another way from now on is what it was until there is a verdict, as in a fleet that agrees: a
        # reload must not take members out. What is known of another machine of that name, the store has forgotten.
        if health is not Health.UNKNOWN or not asked:
            self._state.set_health(member, health, self._wall())

    def foreseen(self, desired: Desired) -> None:
        """This will be in force as soon as it is certain; until then, what an earlier process has left is."""
        self._foreseen = desired

    def applied(self, desired: Desired) -> None:
        """These tables are in force."""
        self._foreseen = desired
        self._applied = desired
        self._name_members()
        if self.channel is not None:
            self._tell_absent(self.channel)
        if self._took_over:
            self._took_over = False
            self._to_look.set()

    def _name_members(self) -> None:
        """Tell the channel of whom we can hear.

        That includes members that do not serve yet, since flows are told of before the first table is decided.
        """
        snapshot = self._state.snapshot()
        if self.channel is None or snapshot.indices is self._named:
            return
        self._named = snapshot.indices
        names = {(pool.name, m.address): m.name for pool in snapshot.config.pools for m in pool.members}
        taken_over = self.channel.set_members(
            {
                index: TableMember(
                    index, f"{way.pool}/{names[way.pool, way.address]}", way.address, way.delivery, _NOWHERE
                )
                for way, index in snapshot.indices.items()
            }
        )
        self._took_over |= taken_over > 0

    def _name_living(self, channel: PinChannel, agreed: Agreed) -> None:
        """Whose leases run. While the store is away, whoever was there last: nobody can say that it has ended."""
        channel.set_living({card.name for card in agreed.directors})

    async def _watch_others(self, channel: PinChannel) -> None:
        """Who cannot be counted on: at once when nothing is heard of it, and until it has been heard for a while."""
        began = time.monotonic()
        since: dict[str, float] = {}
        while True:
            self._tell_absent(channel)  # sessions with routers come and go without a decision
            now = time.monotonic()
            news = now if now - began > FIRST_S else float("-inf")  # else it was there before us
            presence = channel.presence()
            since = {name: since.get(name, news) for name in presence.heard}
            there = {name for name, at in since.items() if now - at >= RETURN_S}
            absent: dict[IPAddress, frozenset[str]] = {}
            for name, vips in presence.absent.items():
                for vip in (self._vips.get(vip) for vip, seconds_ago in vips.items() if seconds_ago < RETURN_S):
                    if vip is not None:  # else it has been taken out of the configuration
                        absent[vip] = absent.get(vip, frozenset()) | {name}
            self._state.set_away(frozenset(peer.name for peer in self._others) - there, absent)
            await asyncio.sleep(WATCH_S)

    def _tell_absent(self, channel: PinChannel) -> None:
        """Tell the others of VIPs that routers do not have from us, or are asked to leave us for: where there are
        ranks, somebody takes our place; and all show who has a VIP."""
        reached = self._reached() if self._reached is not None else None
        config = self._state.config
        facts = config, self._applied, self._state.drain, reached
        if all(one is other for one, other in zip(facts[:3], self._absent_of[:3], strict=True)) and (
            reached == self._absent_of[3]
        ):
            return
        self._absent_of = facts
        vips = {vip for service in config.services for vip in service.vips}
        there: set[IPAddress] = set()
        if self._applied is not None and self._state.drain is None:
            there = {view.vip for view in self._applied.vips if view.no is None}
            if reached is not None:
                there = {vip for vip in there & vips if str(ip_network(vip)) in reached}
        self._vips = {str(vip): vip for vip in vips}
        channel.set_absent(self._vips, {str(vip) for vip in vips - there})

    async def _look_at_late_ones(self) -> None:
        """Flows that others had told of before their member was known here go on where they are: once there are tables
        with the member, their slots are looked at without waiting for the next look at all flows."""
        while True:
            await self._to_look.wait()
            self._to_look.clear()
            await self._look()

    async def order(self, orders: Mapping[str, Order | None]) -> None:
        """Give orders to all directors, all or none of them; without a store there is nothing to do.

        Returns when they have come back to us. Else something older that comes back meanwhile would undo them for a
        moment, and flows would move for it.

        Raises:
            StoreError: the store cannot be reached, or does not take them.
        """
        if self._store is None:
            return
        await give(self._store, orders)
        try:
            async with asyncio.timeout(BACK_S):
                await self._until(lambda: self._has_agreed_on(orders))
        except TimeoutError:
            pass  # somebody else has ordered otherwise meanwhile, or the store is away again

    def _has_agreed_on(self, orders: Mapping[str, Order | None]) -> bool:
        """Whether these have come back from the store, or nothing does at this moment."""
        if self.agreement is None or not (latest := self.agreement.latest).status.connected:
            return True
        return all(latest.orders.get(member) == order for member, order in orders.items())

    @property
    def shares_orders(self) -> bool:
        """Whether orders come back to us from the store."""
        return self.agreement is not None

    def agreed(self) -> Agreed | None:
        """What the fleet agrees on; None without a store."""
        return self.agreement.latest if self.agreement is not None else None

    def pins_status(self) -> ChannelStatus | None:
        """The pin channel; None without other directors."""
        return self.channel.status() if self.channel is not None and self._others else None

    def told(self) -> Mapping[str, tuple[float, Mapping[str, int]]]:
        """What other directors claim; see `PinChannel.claims`."""
        return self.channel.claims() if self.channel is not None else {}

    def say_claims(self) -> None:
        """Have others hear of our claims now."""
        if self.channel is not None:
            self.channel.say_claims()

    def _on_agreed(self, agreed: Agreed) -> None:
        now = self._wall()
        if self.channel is not None:
            self._name_living(self.channel, agreed)
        for member, judged in agreed.members.items():
            # A member that nobody has a verdict of is not one that we have to take out.
            if judged.health is not Health.UNKNOWN:
                self._state.set_health(member, judged.health, now)
        if agreed.status.source is Source.FLEET:
            before = self._state.orders
            for member in sorted(before.keys() | agreed.orders.keys()):
                if (order := agreed.orders.get(member)) != before.get(member):
                    self._state.set_order(member, order)
                    log.info(
                        "fleet.ordered",
                        member=member,
                        order=str(order.state if order is not None else AdminState.READY),
                        until=order.until if order is not None else None,
                        ratio=order.ratio if order is not None else None,
                    )
            if agreed.log:
                self._state.set_history(agreed.log)

    async def _join(self, channel: PinChannel) -> None:
        """Hear of the others' flows before we announce anything: at the start, and whenever we were cut off."""
        if self.agreement is not None and self._others:
            await self._hear_the_store(self.agreement)
        while True:
            if self._state.snapshot().joining is not None:
                await self._until(self._could_announce)
                joined = await channel.joined(JOIN_S)
                # Slots of which others remember flows elsewhere have to be looked at from the first packet on.
                await self._look()
                self._state.set_joining(None)
                seconds = round(joined.seconds, 2)
                log.info("fleet.joined", pins=dict(joined.pins), missing=joined.missing, seconds=seconds)
            await self._until(lambda: self._applied is not None and self._applied.attracts)
            await self._until(self._is_cut_off)
            if self._others:
                self._state.set_joining("has announced nothing for a while, and asks what became of flows meanwhile")

    async def _hear_the_store(self, agreement: Agreement) -> None:
        """Orders and the log of pools, from before we began, decide where flows are: better late than wrong."""
        try:
            async with asyncio.timeout(JOIN_S):
                await self._until(lambda: agreement.latest.status.connected)
        except TimeoutError:
            pass  # the agreement has said why; what this director has on its own disk has to do

    async def _until(self, so: Callable[[], bool]) -> None:
        while True:
            if so():
                return
            await asyncio.sleep(LOOK_S)

    def _is_cut_off(self) -> bool:
        """Nothing is announced; what has become of flows meanwhile we have not heard, or not all of it."""
        return self._state.snapshot().plane_error is not None or self._applied is None or not self._applied.attracts

    def _could_announce(self) -> bool:
        """Nothing but the others keeps us from announcing."""
        if self._foreseen is None or self._state.snapshot().plane_error is not None:
            return False
        serves = any(view.no is None or view.service.advertise_down for view in self._foreseen.services)
        return serves and any(view.down is not None and view.down.why is Why.JOINING for view in self._foreseen.vips)

    async def _share_log(self, agreement: Agreement) -> None:
        """How pools become what they are, for a director that starts anew."""
        while True:
            await asyncio.sleep(SHARE_S)
            if self._applied is None or not agreement.latest.status.connected:
                continue
            uses = pool_uses(self._state.config)
            for ring, entries in self._applied.log.items():
                known = agreement.latest.log.get(ring, ())
                # Each change once: what another director has otherwise does not have to be told again and again.
                if not entries or (known and ring in self._shared and same_ring(self._shared[ring], entries[-1])):
                    continue
                if known and same_ring(known[-1], entries[-1]):
                    self._shared[ring] = entries[-1]
                    continue
                # All that it lacks, not only the latest: who follows the log must see every owner that there was.
                lacking = [entry for entry in entries[:-1] if known and entry.at > known[-1].at]
                keep_s = uses.get(ring[0], PoolUse()).longest_window_s
                try:
                    for entry in (*lacking, entries[-1]):
                        await agreement.append(ring, entry, keep_s)
                except StoreError as error:
                    log.debug("fleet.log_not_shared", error=str(error))  # the next round tries again
                    break
                self._shared[ring] = entries[-1]
            digest = hashlib.blake2b(repr(sorted(self._compared.items())).encode(), digest_size=8).hexdigest()
            if digest != self._card.digest:
                self._card = DirectorCard(
                    self._card.name, self._card.address, self._card.port, self._card.boot, self._card.version, digest
                )
                agreement.describe(self._card)

    async def _watch_tables(self, channel: PinChannel) -> None:
        """An alarm for tables that other directors have otherwise, and when that has ended."""
        compared: Desired | None = None
        while True:
            await asyncio.sleep(COMPARE_S)
            if (applied := self._applied) is not None and applied is not compared:
                self._compared, compared = await asyncio.to_thread(self._digests.of, applied), applied
            differ = {
                (peer, table): seconds
                for peer, tables in channel.mismatches().items()
                for table, seconds in tables.items()
                if seconds >= MISMATCH_S
            }
            for peer, table in differ.keys() - self._alarmed:
                log.error("fleet.tables_differ", peer=peer, table=table, seconds=round(differ[peer, table], 1))
            for peer, table in self._alarmed - differ.keys():
                log.info("fleet.tables_agree", peer=peer, table=table)
            self._alarmed = set(differ)


def _others(config: Config) -> tuple[FleetPeer, ...]:
    return tuple(peer for peer in config.fleet.directors if peer.name != config.director.name)
