"""The kinds of health checks. A new one is a file here and a line in CHECKS.

All are built alike: `CHECKS[kind](timeout_s=..., **settings)`, and ask any number of targets.
"""

from collections.abc import Callable, Mapping

from health.checks.tcp import TcpCheck
from health.checks.udp import UdpCheck
from health.spec import Check

CHECKS: Mapping[str, Callable[..., Check]] = {"tcp": TcpCheck, "udp": UdpCheck}
