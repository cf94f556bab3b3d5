"""The fake data plane."""

from ipaddress import ip_address

import pytest

from appliance.dataplane.base import DataPlaneError
from appliance.dataplane.drivers import DRIVERS
from appliance.dataplane.events import PacketEvent
from appliance.dataplane.fake import FakeDataPlane
from appliance.forwarding import ForwardingTables, NextHop, TableMember, TableService
from appliance.model import HashMode, PlaneKind, PortRange, Protocol
from appliance.packet.action import Reason
from tests.unit.dataplane.frames import L2, cycle

HOP = NextHop(2, "d1", bytes(6), bytes(6), 1500, ip_address("192.0.2.1"), True)
MEMBERS = {i: TableMember(i, f"web/web{i}", ip_address(f"203.0.113.{i}"), L2, HOP) for i in (1, 2)}


def service(number: int, vip: str, *indices: int) -> TableService:
    ports = (PortRange(443, 443), PortRange(8000, 8999))
    return TableService(
        number, "web", ip_address(vip), Protocol.TCP, ports, HashMode.FIVE_TUPLE, cycle(*indices, size=1000)
    )


async def test_it_prints_the_tables_in_force() -> None:
    """One line for each destination, with every member's share."""
    plane = FakeDataPlane(("eth1",))
    await plane.start()
    services = service(0, "198.51.100.7", 1, 2), service(1, "2001:db8:f::7", 0xFFFF)
    await plane.set(ForwardingTables(bytes(16), services, MEMBERS))
    await plane.check()
    assert str(plane) == (
        "198.51.100.7:443/tcp  web1 50%  web2 50%\n"
        "198.51.100.7:8000-8999/tcp  web1 50%  web2 50%\n"
        "[2001:db8:f::7]:443/tcp  nobody\n"
        "[2001:db8:f::7]:8000-8999/tcp  nobody\n"
    )
    assert (await plane.describe())["kind"] == "fake"
    assert (await plane.explain(bytes(60), "eth1")).reason is Reason.NOT_IP
    await plane.close()
    assert str(plane) == ""


async def test_it_fails_when_told_to_or_not_started() -> None:
    """What refuses leaves the old tables in force."""
    plane = FakeDataPlane()
    with pytest.raises(DataPlaneError, match="not started"):
        await plane.set(ForwardingTables())
    await plane.start()
    tables = ForwardingTables(bytes(16), (service(0, "198.51.100.7", 1),), MEMBERS)
    await plane.set(tables)
    plane.fail("worker stuck")
    with pytest.raises(DataPlaneError, match="worker stuck"):
        await plane.check()
    with pytest.raises(DataPlaneError, match="worker stuck"):
        await plane.set(ForwardingTables())
    assert plane.tables is tables
    plane.fail(None)
    await plane.check()


async def test_it_shows_the_samples_it_is_given() -> None:
    """What the test puts in comes out."""
    plane = FakeDataPlane()
    assert await plane.samples() == ()
    plane.sampled = (PacketEvent(1.5, "drop", "no_service", "eth1", 60),)
    assert await plane.samples() == plane.sampled


def test_every_kind_of_plane_has_a_driver() -> None:
    """What the configuration can name can be built."""
    assert set(DRIVERS) == set(PlaneKind)
