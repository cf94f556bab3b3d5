"""The kinds of health checks. A new one is a file here and a line in CHECKS.

All are built alike: `CHECKS[kind](timeout_s=..., **settings)`, and ask any number of targets.
"""

from collections.abc import Callable, Mapping

from health.checks.dns import DnsCheck
from health.checks.external import ExternalCheck
from health.checks.grpc import GrpcCheck
from health.checks.http import HttpCheck, HttpsCheck
from health.checks.ping import PingCheck
from health.checks.tcp import TcpCheck
from health.checks.tls import TlsCheck
from health.checks.udp import UdpCheck
from health.spec import Check

CHECKS: Mapping[str, Callable[..., Check]] = {
    "tcp": TcpCheck,
    "udp": UdpCheck,
    "ping": PingCheck,
    "http": HttpCheck,
    "https": HttpsCheck,
    "dns": DnsCheck,
    "tls": TlsCheck,
    "grpc": GrpcCheck,
    "external": ExternalCheck,
}

TOLD_WHO = frozenset({"external"})
"""Kinds that tell whoever answers which member is asked about. Of all others the same question to one address and port
is the same for all members that stand there, and needs to be asked once only."""
