"""The kernel's answers about routes."""

import errno
import struct
from contextlib import closing
from ipaddress import ip_address

import pytest

from appliance.routes import BATCH, RTN_LOCAL, RTN_UNICAST, Route, Routes, _answers


def attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def answer(number: int, body: bytes, kind: int = 24) -> bytes:
    whole = struct.pack("=IHHII", 16 + len(body), kind, 0, number, 0) + body
    return whole + bytes(-len(whole) % 4)


def unicast(*attributes: bytes) -> bytes:
    return struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 254, 0, 0, RTN_UNICAST, 0) + b"".join(attributes)


def test_real_answers() -> None:
    """The kernel knows the way to its own addresses; many questions have their answers in their order."""
    with closing(Routes()) as routes:
        found = routes.to([ip_address("127.0.0.1"), *[ip_address(f"127.0.0.{n}") for n in range(2, BATCH + 1)]])
    assert len(found) == BATCH
    assert {route.kind for route in found if route is not None} == {RTN_LOCAL}
    assert found[0] is not None
    assert found[0].source == ip_address("127.0.0.1")


def test_what_an_answer_says() -> None:
    """Interface, gateway, source and the MTU of the route; a gateway of the other family; several answers in one."""
    plain = unicast(
        attribute(4, struct.pack("=I", 7)),
        attribute(5, ip_address("192.0.2.1").packed),
        attribute(7, ip_address("192.0.2.11").packed),
        attribute(8, attribute(2, struct.pack("=I", 1400))),
    )
    via = unicast(
        attribute(4, struct.pack("=I", 7)), attribute(18, struct.pack("=H", 10) + ip_address("fe80::1").packed)
    )
    on_link = unicast(attribute(4, struct.pack("=I", 9)))
    data = b"".join(answer(number, body) for number, body in enumerate((plain, via, on_link), 1))
    assert list(_answers(data)) == [
        (1, Route(RTN_UNICAST, 7, "192.0.2.1", ip_address("192.0.2.11"), 1400)),
        (2, Route(RTN_UNICAST, 7, "fe80::1", None, None)),
        (3, Route(RTN_UNICAST, 9, None, None, None)),
    ]


def test_no_route_is_an_answer_and_a_refusal_is_not() -> None:
    """ "Unreachable" means that there is none; what the kernel cannot do is an error."""
    none = answer(5, struct.pack("=i", -errno.ENETUNREACH), kind=2)
    assert list(_answers(none)) == [(5, None)]
    with pytest.raises(OSError, match="asking the kernel"):
        list(_answers(answer(6, struct.pack("=i", -errno.EPERM), kind=2)))
