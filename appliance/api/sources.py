"""Where the status server gets what it shows, and all of it at one moment as a value."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from appliance import __version__
from appliance.arp.side import VipStatus
from appliance.connections import ConnectionLogStatus
from appliance.dataplane.base import Counters, DataPlaneError
from appliance.dataplane.events import PacketEvent
from appliance.decide import Desired
from appliance.doctor.finding import Report
from appliance.fleet.channel import ChannelStatus
from appliance.fleet.store import Agreed
from appliance.looplag import LagSummary
from appliance.passive import Handshakes
from appliance.pathmtu import PathMtuFacts
from appliance.reconcile import Transition
from appliance.state import Snapshot
from appliance.transaction import Staged
from bgp.bfd.process import BfdStatus
from bgp.speaker import SpeakerStatus
from health.spec import Status
from health.strain import Strain


@dataclass(frozen=True)
class ReloadStatus:
    """The latest attempt to read the configuration; the first one is the start."""

    ok: bool
    at: float
    """Seconds since the epoch."""

    source: str = ""
    digest: str = ""
    """Of the configuration in force, whatever became of the attempt."""

    problems: tuple[str, ...] = ()
    step: str = ""
    """Of `transaction.Step`: where it ended; empty: the start."""

    revision: int | None = None
    """Number of what is in force; None: it could not be kept."""

    warnings: tuple[str, ...] = ()
    """What it has cost."""

    taken_at: float = 0.0
    """When the latest attempt that succeeded was, seconds since the epoch."""


Part = tuple[str, bool, str]
"""A part that must work before traffic is welcome: name, whether it works, detail."""


@dataclass(frozen=True)
class PinsUse:
    """Room for what is remembered of flows."""

    capacity: int
    live: int


@dataclass(frozen=True)
class StatusSources:
    """Functions that tell the present state. None of them waits for anything but the data plane's worker."""

    applied: Callable[[], Desired | None]
    """What is in force; None before the first success."""

    snapshot: Callable[[], Snapshot]
    counters: Callable[[], Awaitable[Counters]]
    speaker: Callable[[], SpeakerStatus | None]
    """None: no BGP is configured."""

    health: Callable[[], tuple[Status, ...]]
    plane: Callable[[], Awaitable[Mapping[str, str]]]
    """The data plane's facts for people."""

    samples: Callable[[], Awaitable[Sequence[PacketEvent]]]
    """Of single packets, the newest last."""

    reload: Callable[[], ReloadStatus]
    loop_lag: Callable[[], LagSummary]
    ready: Callable[[], tuple[Part, ...]]
    started_at: float
    """Seconds since the epoch."""

    pins: Callable[[], PinsUse]
    agreed: Callable[[], Agreed | None] = lambda: None
    """None: there is no store to agree by."""

    channel: Callable[[], ChannelStatus | None] = lambda: None
    """None: there are no other directors."""

    bfd: Callable[[], BfdStatus] = BfdStatus
    path_mtu: Callable[[], PathMtuFacts] = PathMtuFacts
    strain: Callable[[], Strain] = Strain
    arp: Callable[[], tuple[VipStatus, ...]] = tuple
    connection_log: Callable[[], ConnectionLogStatus] = ConnectionLogStatus
    doctor: Callable[[], Report | None] = lambda: None
    """None: the doctor has not looked yet."""
    handshakes: Callable[[], Mapping[tuple[str, str], Handshakes]] = dict
    """Of pools that are watched, by virtual service and `pool/member`."""
    transitions: Callable[[], Mapping[Transition, int]] = dict
    """How often members have come into another state."""

    staged: Callable[[], Staged | None] = lambda: None
    """What of the configuration waits for the next start."""


@dataclass(frozen=True)
class Observed:
    """Everything that is shown, as it was at one moment."""

    at: float
    """Seconds since the epoch."""

    clock: float
    """The same moment on a clock that never jumps, seconds."""

    version: str
    started_at: float
    applied: Desired | None
    snapshot: Snapshot
    counters: Counters | None
    """None: the data plane did not tell."""

    speaker: SpeakerStatus | None
    health: tuple[Status, ...]
    plane: Mapping[str, str]
    samples: Sequence[PacketEvent]
    reload: ReloadStatus
    lag: LagSummary
    ready: tuple[Part, ...]
    pins: PinsUse = PinsUse(0, 0)
    agreed: Agreed | None = None
    channel: ChannelStatus | None = None
    bfd: BfdStatus = field(default_factory=BfdStatus)
    path_mtu: PathMtuFacts = field(default_factory=PathMtuFacts)
    strain: Strain = field(default_factory=Strain)
    arp: tuple[VipStatus, ...] = ()
    connection_log: ConnectionLogStatus = field(default_factory=ConnectionLogStatus)
    doctor: Report | None = None
    handshakes: Mapping[tuple[str, str], Handshakes] = field(default_factory=dict)
    transitions: Mapping[Transition, int] = field(default_factory=dict)
    staged: Staged | None = None


async def observe(sources: StatusSources) -> Observed:
    """Ask all sources now."""
    counters: Counters | None
    plane: Mapping[str, str]
    samples: Sequence[PacketEvent]
    try:
        counters = await sources.counters()
        plane = await sources.plane()
        samples = await sources.samples()
    except DataPlaneError:  # the snapshot tells why
        counters, plane, samples = None, {}, ()
    return Observed(
        at=time.time(),
        clock=time.monotonic(),
        version=__version__,
        started_at=sources.started_at,
        applied=sources.applied(),
        snapshot=sources.snapshot(),
        counters=counters,
        speaker=sources.speaker(),
        health=sources.health(),
        plane=plane,
        samples=samples,
        reload=sources.reload(),
        lag=sources.loop_lag(),
        ready=sources.ready(),
        pins=sources.pins(),
        agreed=sources.agreed(),
        channel=sources.channel(),
        bfd=sources.bfd(),
        path_mtu=sources.path_mtu(),
        strain=sources.strain(),
        arp=sources.arp(),
        connection_log=sources.connection_log(),
        doctor=sources.doctor(),
        handshakes=sources.handshakes(),
        transitions=sources.transitions(),
        staged=sources.staged(),
    )
