"""The order of files: those that take longest come first, so that no worker is left with one of them at the end.

`tests/run root` gives whole files to its workers, in this order.
"""

from collections.abc import Sequence

import pytest

LONGEST_FIRST = (
    "test_planes",
    "test_machine",
    "test_path",
    "test_tunnels",
    "test_plane_flows",
    "test_restart",
    "test_xdp_failures",
    "test_fuzz",
    "test_bfd",
    "test_ha",
    "test_xdp_flows",
    "test_path_mtu",
    "test_xdp_load",
    "test_doctor",
    "test_capture",
    "test_capture_director",
    "test_bgp",
    "test_health_many",
    "test_spares",
    "test_server_setup",
    "test_bfd_director",
    "test_failures",
    "test_algorithms",
    "test_xdp_edges",
    "test_quic",
    "test_transaction",
    "test_api",
    "test_path_gate",
    "test_arp",
    "test_decap",
    "test_pin_channel",
    "test_icmp_relay",
    "test_fragments",
    "test_workload",
    "test_connection_log",
    "test_reload",
    "test_etcd",
    "test_lab_runner",
    "test_conformance",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _place(item.path.stem, LONGEST_FIRST))


def _place(file: str, order: Sequence[str]) -> int:
    return order.index(file) if file in order else len(order)
