"""The sockets that hear routers and tell clients, in a namespace that is both; and what becomes of beliefs in time."""

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from appliance import pathmtu
from appliance.decide import Desired, decide
from appliance.hearing import Hearing
from appliance.model import Encapsulation, IPAddress, OuterSource
from appliance.packet.icmp import ipv4_message, ipv6_message
from appliance.state import State
from tests.builders import config, hop, member, pool, service, snapshot
from tests.netns import Namespace, namespaces, veth
from tests.root.plane_rig import inside
from tests.unit.packet.test_quotes import CLIENT, MEMBER, ROUTER, US, VIP, complaint, of_client, outer_packet
from tests.unit.packet.test_quotes import member as way

pytestmark = pytest.mark.root

PREFIX = {4: ip_network("198.51.100.64/26"), 6: ip_network("2001:db8:d::/64")}


@pytest.fixture
def space() -> Iterator[Namespace]:
    """It has our address and the client's."""
    with namespaces("h", prefix="owh") as (made,):
        for address in (US[4], CLIENT[4]):
            made.ip(f"addr add {address}/32 dev lo")
        for address in (US[6], CLIENT[6]):
            made.ip(f"addr add {address}/128 dev lo nodad")
        yield made


def in_force(version: int, source: OuterSource = OuterSource.INTERFACE) -> tuple[State, Desired]:
    """A service with one member, which is reached by IP in IP of that version."""
    web = pool(member(1, address=ip_address(MEMBER[version])))
    profile = service().profile
    profile = replace(profile, delivery=replace(profile.delivery, outer_source=source))
    given = config(service(pool=web, profile=profile, vips=tuple(map(ip_address, VIP.values()))))
    given = replace(given, director=replace(given.director, outer_source_prefixes=tuple(PREFIX.values())))
    known = snapshot(given, next_hops={ip_address(MEMBER[version]): hop(source=ip_address(US[version]))})
    return State(given, lambda: None), decide(known)


async def wait_for(what: object, wanted: object, within_s: float = 10.0) -> None:
    """Poll until a function gives what is wanted."""
    assert callable(what)
    end = asyncio.get_running_loop().time() + within_s
    while what() != wanted:
        assert asyncio.get_running_loop().time() < end, f"{what()} instead of {wanted}"
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("version", [4, 6])
def test_heard_told_and_forgotten(space: Namespace, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A router's complaint is in the store and with the client at once, and out of the store when its time is over."""
    monkeypatch.setattr(pathmtu, "LIFE_S", 2.0)
    family, protocol = (socket.AF_INET, 1) if version == 4 else (socket.AF_INET6, 58)
    address = ip_address(MEMBER[version])

    async def story() -> None:
        state, desired = in_force(version)
        hearing = Hearing(state, lambda: desired)
        client = socket.socket(family, socket.SOCK_RAW, protocol)
        router = socket.socket(family, socket.SOCK_RAW, protocol)
        with client, router:
            client.bind((CLIENT[version], 0))
            client.setblocking(False)
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(hearing.run())
                await asyncio.sleep(0.1)
                quote = outer_packet(way(Encapsulation.IPIP, version), of_client(version))[:300]
                router.sendto(complaint(version, quote), (US[version], 0))
                await wait_for(
                    lambda: {one: path.mtu for one, path in state.snapshot().path_mtus.items()}, {address: 1400}
                )
                assert hearing.facts().passed_on == {address: 1}
                heard = client.recv(2000)
                message = heard[20:] if version == 4 else heard
                assert message[:2] == (b"\3\4" if version == 4 else b"\2\0")
                assert int.from_bytes(message[4:8], "big") == 1400 - (20 if version == 4 else 40)
                assert message[8:].startswith(of_client(version)[: len(message) - 8])
                await wait_for(lambda: state.snapshot().path_mtus, {})
                running.cancel()

    inside(space, lambda: asyncio.run(story()))


def test_less_than_the_operator_has_is_not_believed(space: Namespace) -> None:
    """The least MTU of the configuration counts for what is heard."""

    async def story() -> None:
        state, desired = in_force(4)
        director = replace(state.config.director, least_path_mtu=1401)
        state.set_config(replace(state.config, director=director))
        hearing = Hearing(state, lambda: desired)
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, 1) as router:
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(hearing.run())
                await asyncio.sleep(0.1)
                quote = outer_packet(way(Encapsulation.IPIP, 4), of_client(4))[:300]
                router.sendto(complaint(4, quote), (US[4], 0))
                await wait_for(lambda: hearing.facts().outcomes["too_small"], 1)
                assert state.snapshot().path_mtus == {}
                running.cancel()

    inside(space, lambda: asyncio.run(story()))


@pytest.fixture
def cable() -> Iterator[tuple[Namespace, Namespace]]:
    """A director, and a router that has routes to its prefixes."""
    with namespaces("d", "r", prefix="owh") as (director, router):
        veth(director, "d0", router, "r0")
        for space, name, mine in ((director, "d0", US), (router, "r0", ROUTER)):
            space.ip(f"addr add {mine[4]}/24 dev {name}")
            space.ip(f"addr add {mine[6]}/32 dev {name} nodad")
        router.ip(f"route add 198.51.100.0/24 via {US[4]}")
        router.ip(f"-6 route add 2001:db8:c::/47 via {US[6]}")
        yield director, router


@pytest.mark.parametrize("version", [4, 6])
def test_what_is_told_to_an_address_of_the_prefix_is_heard(cable: tuple[Namespace, Namespace], version: int) -> None:
    """The kernel has no such address; the complaint is believed all the same, unless a bit of it is wrong, or it goes
    to an address beside the prefix."""
    quote = outer_packet(replace(way(Encapsulation.IPIP, version), outer_prefix=PREFIX[version]), of_client(version))
    ours = ip_address(quote[12:16] if version == 4 else quote[8:24])
    family = socket.AF_INET if version == 4 else socket.AF_INET6

    def tell(*packets: bytes) -> None:
        """Whole packets, in which no kernel puts a checksum right."""
        with inside(cable[1], lambda: socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)) as router:
            for packet in packets:
                router.sendto(packet, (str(ip_address(packet[16:20] if version == 4 else packet[24:40])), 0))

    async def story() -> None:
        state, desired = in_force(version, OuterSource.PREFIX)
        hearing = Hearing(state, lambda: desired)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(hearing.run())
            await asyncio.sleep(0.1)
            beside = whole_complaint(version, PREFIX[version].network_address - 1, quote)
            good = whole_complaint(version, ours, quote)
            await asyncio.to_thread(tell, beside, good[:-1] + bytes((good[-1] ^ 1,)), good)
            address = ip_address(MEMBER[version])
            await wait_for(lambda: {one: path.mtu for one, path in state.snapshot().path_mtus.items()}, {address: 1400})
            assert {name: count for name, count in hearing.facts().outcomes.items() if count} == {"learned": 1}
            running.cancel()

    inside(cable[0], lambda: asyncio.run(story()))


def whole_complaint(version: int, to: IPAddress, quote: bytes) -> bytes:
    """A router's packet."""
    message = complaint(version, quote[:300])
    if version == 4:
        return ipv4_message(ip_address(ROUTER[4]).packed, to.packed, message, 0xC0)
    return ipv6_message(ip_address(ROUTER[6]).packed, to.packed, message, 0)
