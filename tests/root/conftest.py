"""The order of files: those that take longest come first, so that no worker is left with one of them at the end.

`tests/run root` gives whole files to its workers, in this order.
"""

from collections.abc import Sequence

import pytest

LONGEST_FIRST = (
    "test_machine",
    "test_restart",
    "test_plane_flows",
    "test_path",
    "test_health_many",
    "test_xdp_load",
    "test_bfd",
    "test_bfd_director",
    "test_ha",
    "test_quic",
    "test_arp",
    "test_fuzz",
    "test_xdp_failures",
    "test_failures",
    "test_spares",
    "test_algorithms",
    "test_reload",
    "test_xdp_edges",
    "test_bgp",
    "test_pin_channel",
    "test_hostile",
    "test_transaction",
    "test_doctor",
    "test_connection_log",
    "test_server_setup",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _place(item.path.stem, LONGEST_FIRST))


def _place(file: str, order: Sequence[str]) -> int:
    return order.index(file) if file in order else len(order)
