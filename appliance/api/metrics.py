"""From what was observed to Prometheus metrics. Pure.

Names end in their unit, counters in `_total`; states are a `state` label with 1 for the one that holds. Only packets
from client to member are counted anywhere: replies never pass a director (DSR).
"""

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from functools import lru_cache
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.utils import floatToGoString

from appliance.api.mtu import too_big_told, ways
from appliance.api.sources import Observed
from appliance.api.views import (
    MODES,
    PASSES,
    Document,
    PoolView,
    announcements,
    bgp_document,
    flap_document,
    lost_interfaces,
    plane_modes,
    pool_key,
    pool_views,
    service_state,
    service_views,
    tcp_pools,
)
from appliance.dataplane.base import Counters, Traffic
from appliance.decide import MemberView, ServiceView, Why
from appliance.doctor.finding import Capable
from appliance.fleet.channel import PeerState
from appliance.looplag import BOUNDS_S
from appliance.model import EffectiveState, Health, Protocol, VirtualService
from appliance.packet.action import Reason
from appliance.path.gate import segments_of
from bgp.bfd.packet import State
from bgp.bfd.process import BfdStatus
from bgp.speaker import Session
from health.spec import Verdict
from health.strain import BOUNDS_S as BOUNDS_OF_CHECKS_S
from health.strain import Strain

_ONE_WAY = " Client to member only: replies never pass a director (DSR)."

_Labels = tuple[str, ...]


def exposition(observed: Observed) -> bytes:
    """The text format (version 0.0.4) of everything, with this process's own `process_*` metrics.

    Args:
        observed: what was seen.
    """
    own = ProcessCollector(registry=None)
    return "".join(line for metric in (*families(observed), *own.collect()) for line in lines(metric)).encode()


def lines(metric: Metric) -> Iterator[str]:
    """A gauge, counter or histogram in the text format.

    As `prometheus_client.generate_latest` writes it, which takes three times as long for a sample: ten thousand members
    have some 300,000, and as long as they are written health checks and the forwarding thread have to share.
    """
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    text = metric.documentation.replace("\\", r"\\").replace("\n", r"\n")
    yield f"# HELP {name} {text}\n# TYPE {name} {metric.type}\n"
    for one in metric.samples:
        labels = ",".join([f'{label}="{_escaped(value)}"' for label, value in sorted(one.labels.items())])
        yield f"{one.name}{{{labels}}} {_number(one.value)}\n" if labels else f"{one.name} {_number(one.value)}\n"


@lru_cache(maxsize=1 << 16)
def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


@lru_cache(maxsize=1 << 12)
def _number(value: float) -> str:
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]


def families(observed: Observed) -> Iterator[Metric]:
    """Every metric of ours."""
    views = service_views(observed)
    pools = pool_views(views)
    yield from _director(observed)
    yield from _services(views, pools)
    yield from _members(observed, pools)
    yield from _mtus(observed)
    if observed.counters is not None:
        yield from _traffic(observed.counters, [view.service for view in views])
    yield from _checks(observed)
    yield from _doctor(observed)
    yield from _remembered(observed, pools)
    yield from _routing(observed)
    yield from _connection_log(observed)
    yield from _loop(observed)


def _gauge(name: str, text: str, labels: _Labels, samples: Iterable[tuple[_Labels, float]]) -> Metric:
    metric = GaugeMetricFamily(name, text, labels=labels)
    for values, value in samples:
        metric.add_metric(values, value)
    return metric


def _counter(name: str, text: str, labels: _Labels, samples: Iterable[tuple[_Labels, float]]) -> Metric:
    metric = CounterMetricFamily(name, text, labels=labels)
    for values, value in samples:
        metric.add_metric(values, value)
    return metric


def _states(values: _Labels, state: str, states: Iterable[str]) -> Iterator[tuple[_Labels, float]]:
    for candidate in states:
        yield (*values, str(candidate)), float(candidate == state)


def _doctor(observed: Observed) -> Iterator[Metric]:
    report = observed.doctor
    yield _gauge(
        "onward_doctor_last_run_timestamp_seconds",
        "When the doctor looked last (epoch); 0: not yet.",
        (),
        [((), report.at if report is not None else 0)],
    )
    yield _gauge(
        "onward_doctor_finding",
        "1 for each check of the doctor's that fails; service and member are empty where it is about the director.",
        ("check", "service", "member"),
        [((one.check, one.service, one.member), 1) for one in report.findings if one.failed] if report else (),
    )
    yield _gauge(
        "onward_member_dsr_capable",
        "1 for what the doctor says of a member in a virtual service: yes, no or unknown.",
        ("service", "member", "state"),
        [
            sample
            for one in (report.capable if report is not None else ())
            for sample in _states((one.service, one.member), str(one.capable), Capable)
        ],
    )
    outcomes = ("completed", "repeated", "stuck", "reset")
    yield _gauge(
        "onward_member_handshakes",
        "Handshakes of clients in the last minutes, of the flows that are watched, by what became of them." + _ONE_WAY,
        ("service", "member", "outcome"),
        [
            ((service, member, outcome), getattr(one, outcome))
            for (service, member), one in observed.handshakes.items()
            for outcome in outcomes
        ],
    )
    yield _gauge(
        "onward_member_handshake_seconds",
        "From SYN to the client's ACK, mean of the last minutes, of the flows that are watched.",
        ("service", "member"),
        [
            ((service, member), one.response_s)
            for (service, member), one in observed.handshakes.items()
            if one.response_s is not None
        ],
    )


def _director(observed: Observed) -> Iterator[Metric]:
    info = (observed.version, str(observed.snapshot.config.director.plane), platform.python_version())
    yield _gauge("onward_build_info", "Version, data plane and Python.", ("version", "plane", "python"), [(info, 1)])
    yield _gauge("onward_start_time_seconds", "When this director started (epoch).", (), [((), observed.started_at)])
    yield _gauge(
        "onward_ready",
        "1 for each part that works; all must, before traffic is welcome.",
        ("part",),
        [((name,), works) for name, works, _ in observed.ready],
    )
    yield _gauge(
        "onward_director_drained",
        "1 while an operator has taken this director out of service: its routes are withdrawn, or will be.",
        (),
        [((), observed.snapshot.drain is not None)],
    )
    yield _gauge(
        "onward_member_orders",
        "Orders of operators about members that stand, also of members that are gone.",
        (),
        [((), len(observed.snapshot.orders))],
    )
    yield _gauge(
        "onward_config_last_reload_successful",
        "1 when the latest configuration was taken; 0: it was rejected, the one before it is in force.",
        (),
        [((), observed.reload.ok)],
    )
    yield _gauge(
        "onward_config_last_reload_timestamp_seconds",
        "When the configuration was last read, successfully or not (epoch).",
        (),
        [((), observed.reload.at)],
    )
    yield _gauge(
        "onward_config_last_reload_success_timestamp_seconds",
        "When the configuration was last taken, at the start or later (epoch); a refused one does not count.",
        (),
        [((), observed.reload.taken_at)],
    )
    yield _gauge(
        "onward_config_revision",
        "Number of the configuration in force, 0: it could not be kept.",
        (),
        [((), observed.reload.revision or 0)],
    )
    yield _gauge(
        "onward_config_staged_revision",
        "Number of the configuration that the files have for the next start, 0: none waits for one.",
        (),
        [((), observed.staged.revision.number if observed.staged is not None else 0)],
    )
    yield _gauge(
        "onward_plane_up",
        "1 when the data plane has proved that it forwards by the tables in force.",
        (),
        [((), observed.snapshot.plane_error is None)],
    )
    lost = lost_interfaces(observed.plane)
    yield _gauge(
        "onward_plane_interface_up",
        "1 when packets may come by an interface; without any, the data plane is down.",
        ("interface",),
        [((name,), name not in lost) for name in observed.snapshot.config.director.interfaces],
    )
    kind = observed.plane.get("kind")
    yield _gauge(
        "onward_plane_info",
        "Kind of the data plane that forwards; with plane = auto, the one that was chosen.",
        ("kind",),
        [((kind,), 1)] if kind else [],
    )
    yield _gauge(
        "onward_plane_interface_mode",
        "How an interface has its XDP program: 1 for what holds. There are samples with the XDP plane only.",
        ("interface", "mode"),
        (
            sample
            for interface, mode in plane_modes(observed.plane).items()
            for sample in _states((interface,), mode, MODES)
        ),
    )


def _services(views: Sequence[ServiceView], pools: Mapping[str, PoolView]) -> Iterator[Metric]:
    yield _gauge(
        "onward_service_state",
        "State of a virtual service on each of its VIPs: 1 for the one that holds.",
        ("service", "vip", "state"),
        (
            sample
            for view in views
            for vip in view.service.vips
            for sample in _states((view.service.name, str(vip)), service_state(view), ("up", "down", "disabled"))
        ),
    )
    yield _gauge(
        "onward_service_members",
        "Members of a virtual service by effective state.",
        ("service", "state"),
        (
            ((view.service.name, state), count)
            for view in views
            for pool in [pools[pool_key(view.service)]]
            for state in EffectiveState
            for count in [sum(member.state is state for member in pool.members)]
        ),
    )
    yield _gauge(
        "onward_transition_slots",
        "Slots of a virtual service that are on their way to another member: window falls back to the member before, "
        "tail keeps the flows that are remembered elsewhere.",
        ("service", "phase"),
        (
            ((view.service.name, phase), count)
            for view in views
            for phase, count in (
                ("window", view.course.windows if view.course else 0),
                ("tail", view.course.tails if view.course else 0),
            )
        ),
    )


def _members(observed: Observed, pools: Mapping[str, PoolView]) -> Iterator[Metric]:
    """By pool, not by virtual service: those that share one would all say the same. Members of former pools are found
    with the services that go on to use them, maybe several times, and count for their own pool."""
    ways = {
        (_pool_of(member), key.removeprefix(f"{pool.name}+"), member.id): member
        for key, pool in pools.items()
        for member in pool.members
    }
    yield _gauge(
        "onward_member_state",
        "Effective state of a member of a pool, by the way packets are delivered: 1 for the one that holds.",
        ("pool", "delivery", "member", "state"),
        (sample for way, member in ways.items() for sample in _states(way, member.state, EffectiveState)),
    )
    yield _counter(
        "onward_member_transitions_total",
        "How often a member has come into another state, by the way packets are delivered.",
        ("pool", "delivery", "member", "to"),
        (
            ((*way, str(state)), observed.transitions.get((way[1], member.id, state), 0))
            for way, member in ways.items()
            for state in EffectiveState
        ),
    )
    by_id = {(pool, name): member for (pool, _, name), member in ways.items()}
    yield _gauge(
        "onward_member_health",
        "What the health monitors say of a member, taken together: 1 for what holds.",
        ("pool", "member", "health"),
        (sample for key, member in by_id.items() for sample in _states(key, member.health, Health)),
    )
    flaps = {key: flap for key, member in by_id.items() if (flap := flap_document(observed, member.id)) is not None}
    yield _gauge(
        "onward_member_flap_penalty",
        "Penalty of a member that went down; it halves with time. No sample where none did.",
        ("pool", "member"),
        [(key, flap["penalty"]) for key, flap in flaps.items()],
    )
    yield _gauge(
        "onward_member_flap_held",
        "1 while a member takes no new flows since it went down too often; no sample where none did.",
        ("pool", "member"),
        [(key, (no := by_id[key].no) is not None and no.why is Why.FLAPPING) for key in flaps],
    )
    yield _gauge(
        "onward_member_ratio",
        "Configured share relative to the pool's other members.",
        ("pool", "member"),
        [(key, member.ratio) for key, member in by_id.items()],
    )
    yield _gauge(
        "onward_member_slot_share_ratio",
        "Fraction of the slots of a pool that a member has, by the way packets are delivered, 0 to 1.",
        ("pool", "delivery", "member"),
        [(way, member.share) for way, member in ways.items()],
    )


def _pool_of(member: MemberView) -> str:
    return member.id.partition("/")[0]


def _mtus(observed: Observed) -> Iterator[Metric]:
    found = {(way.pool.name, str(way.pool.delivery), way.member.id): way for way in ways(observed)}
    yield _gauge(
        "onward_member_largest_packet_bytes",
        "Largest packet of a client that gets to a member in one piece, by the way packets are delivered.",
        ("pool", "delivery", "member"),
        [(labels, way.largest) for labels, way in found.items()],
    )
    yield _gauge(
        "onward_member_path_mtu_bytes",
        "Largest outer packet that routers on the way to a member take. Samples only where one has complained.",
        ("pool", "delivery", "member"),
        [(labels, way.path_mtu) for labels, way in found.items() if way.path_mtu is not None],
    )
    yield _counter(
        "onward_member_too_big_sent_total",
        "Errors sent to clients whose packets did not fit the way to a member.",
        ("pool", "member"),
        {(pool, member): too_big_told(observed, way.member) for (pool, _, member), way in found.items()}.items(),
    )
    yield _counter(
        "onward_path_mtu_errors_total",
        "ICMP too-big errors that this director was sent about its own packets, by what became of them.",
        ("outcome",),
        [((outcome,), number) for outcome, number in observed.path_mtu.outcomes.items()],
    )


def _traffic(counters: Counters, present: Sequence[VirtualService]) -> Iterator[Metric]:
    services: dict[_Labels, Traffic] = {
        (service, vip): traffic for (service, vip), traffic in counters.services.items()
    }
    members: dict[_Labels, Traffic] = {
        (member.partition("/")[0], member): traffic for member, traffic in counters.members.items()
    }
    tcp = {service.name for service in present if service.protocol is Protocol.TCP}
    yield from _three("onward_service", "VIP of a virtual service", ("service", "vip"), services, tcp)
    what = "member, for all virtual services that use its pool"
    yield from _three("onward_member", what, ("pool", "member"), members, tcp_pools(present))
    yield _counter(
        "onward_drops_total",
        "Frames dropped, by reason." + _ONE_WAY,
        ("reason",),
        _reasons(counters, [reason for reason in Reason if reason not in PASSES]),
    )
    yield _counter(
        "onward_passes_total",
        "Frames that are none of our business and were left to the kernel, by reason.",
        ("reason",),
        _reasons(counters, [reason for reason in Reason if reason in PASSES]),
    )
    yield _counter(
        "onward_icmp_sent_total",
        "ICMP errors and answers to pings that the data plane has sent, by kind.",
        ("kind",),
        [((kind,), count) for kind, count in counters.replies.items()],
    )
    yield _counter(
        "onward_plane_events_total",
        "What the data plane counts of itself.",
        ("event",),
        [((event,), count) for event, count in counters.details.items()],
    )


def _three(
    name: str, what: str, labels: _Labels, traffic: Mapping[_Labels, Traffic], tcp: Set[str]
) -> Iterator[Metric]:
    """Where nothing marks the beginning of flows there is no sample of them: 0 would be a number.

    Args:
        tcp: values of the first label that TCP has today; what has counted flows had it earlier.
    """
    yield _counter(
        f"{name}_packets_total",
        f"Packets forwarded, by {what}.{_ONE_WAY}",
        labels,
        [(values, count.packets) for values, count in traffic.items()],
    )
    yield _counter(
        f"{name}_bytes_total",
        f"Bytes of the inner IP packets forwarded, by {what}.{_ONE_WAY}",
        labels,
        [(values, count.bytes) for values, count in traffic.items()],
    )
    yield _counter(
        f"{name}_flows_created_total",
        f"TCP SYNs forwarded, by {what}; UDP flows have no beginning and no sample.{_ONE_WAY}",
        labels,
        [(values, count.new_flows) for values, count in traffic.items() if values[0] in tcp or count.new_flows],
    )


def _reasons(counters: Counters, known: Iterable[Reason]) -> Iterator[tuple[_Labels, float]]:
    """Also those that have not happened yet: a rate needs the zero before the first one."""
    for reason in known:
        yield (str(reason),), counters.reasons.get(reason, 0)


def _checks(observed: Observed) -> Iterator[Metric]:
    keyed = [((status.monitor, status.target.id, status.target.place), status) for status in observed.health]
    yield _gauge(
        "onward_check_up",
        "1 when a health monitor's verdict on a member is up.",
        ("monitor", "member", "path"),
        [(key, status.verdict == "up") for key, status in keyed],
    )
    yield _counter(
        "onward_checks_total",
        "Probes of a health monitor, by result.",
        ("monitor", "member", "path", "result"),
        (
            ((*key, result), count)
            for key, status in keyed
            for result, count in (
                ("good", status.good),
                ("bad", status.bad),
                ("maintenance", status.maintenance),
            )
        ),
    )
    yield _counter(
        "onward_check_turns_total",
        "How often a health monitor's verdict on a member has become up, down, or maintenance.",
        ("monitor", "member", "path", "verdict"),
        (
            ((*key, str(verdict)), status.turned.get(verdict, 0))
            for key, status in keyed
            for verdict in (Verdict.UP, Verdict.DOWN, Verdict.MAINTENANCE)
        ),
    )
    yield from _strain(observed.strain)
    yield _gauge(
        "onward_check_last_duration_seconds",
        "How long the latest probe took.",
        ("monitor", "member", "path"),
        [(key, status.last.duration_s) for key, status in keyed if status.last],
    )
    yield _gauge(
        "onward_check_certificate_end_timestamp_seconds",
        "When the certificate ends that the latest probe of a monitor of type tls has seen.",
        ("monitor", "member", "path"),
        [(key, status.last.ends_at) for key, status in keyed if status.last and status.last.ends_at is not None],
    )
    seen = {
        (found.member, str(found.vip), str(found.port), str(found.delivery)): found
        for status in observed.health
        if (found := segments_of(status, observed.snapshot.next_hops)) is not None
    }
    for name, what, number in (
        ("onward_member_mss_bytes", "MSS that a member's SYN-ACKs advertise.", "advertised"),
        ("onward_member_mss_limit_bytes", "The largest MSS whose segments fit the way to the member.", "limit"),
    ):
        yield _gauge(
            name,
            what,
            ("member", "vip", "port", "delivery"),
            [(key, getattr(found, number)) for key, found in seen.items()],
        )


def _strain(strain: Strain) -> Iterator[Metric]:
    histogram = HistogramMetricFamily(
        "onward_check_duration_seconds", "How long probes took, by health monitor.", labels=("monitor",)
    )
    bounds = [*map(str, BOUNDS_OF_CHECKS_S), "+Inf"]
    for monitor, kept in strain.durations.items():
        buckets = list(zip(bounds, accumulate(kept.buckets), strict=True))
        histogram.add_metric((monitor,), buckets, sum_value=kept.sum_s)
    yield histogram
    yield _gauge("onward_checks_under_way", "Probes that wait for their answers.", (), [((), strain.under_way)])
    yield _gauge("onward_checks_limit", "Probes that may be under way at a time.", (), [((), strain.limit)])
    yield _counter(
        "onward_checks_delayed_total",
        "Probes that came later or are made again, by what this director lacked. They are no bad results.",
        ("reason",),
        [((str(reason),), count) for reason, count in strain.delayed.items()],
    )


def _remembered(observed: Observed, pools: Mapping[str, PoolView]) -> Iterator[Metric]:
    yield _gauge("onward_pins_capacity", "Flows that can be remembered at once.", (), [((), observed.pins.capacity)])
    yield _gauge(
        "onward_pins_live",
        "Flows that are remembered: those of slots that change hands, and all of pools that place flow by flow.",
        (),
        [((), observed.pins.live)],
    )
    room = observed.pins.capacity
    yield _gauge(
        "onward_pins_fill_ratio",
        "How much of the memory for flows is in use, 0 to 1; no sample where there is none.",
        (),
        [((), observed.pins.live / room)] if room else [],
    )
    flows = observed.snapshot.pins.flows
    members = {member.index: member for pool in pools.values() for member in pool.members}
    by_member: dict[_Labels, int] = {}
    for member in members.values():
        if member.index in flows or member.state is EffectiveState.DRAINING:
            key = _pool_of(member), member.id
            by_member[key] = by_member.get(key, 0) + flows.get(member.index, 0)
    yield _gauge(
        "onward_member_flows_remembered",
        "Flows of a member that are remembered; no sample where nothing has to be.",
        ("pool", "member"),
        by_member.items(),
    )
    if observed.channel is not None:
        yield _gauge(
            "onward_fleet_peer_joined",
            "1 when another director and this one tell each other of remembered flows.",
            ("peer",),
            [((peer.name,), peer.state == PeerState.JOINED) for peer in observed.channel.peers],
        )
        yield _gauge(
            "onward_fleet_tables_differ",
            "VIPs with protocol and ports that another director serves otherwise.",
            ("peer",),
            [((peer.name,), len(peer.mismatches)) for peer in observed.channel.peers],
        )
        yield _gauge(
            "onward_fleet_lost_ratio",
            "Share of the last seconds' datagrams from (in) and to (out) another director that did not arrive.",
            ("peer", "direction"),
            [
                ((peer.name, direction), share)
                for peer in observed.channel.peers
                for direction, share in (("in", peer.lost_in), ("out", peer.lost_out))
            ],
        )
        yield _counter(
            "onward_fleet_refused_total",
            "Datagrams in the name of another director that were refused, by reason.",
            ("peer", "reason"),
            [((peer.name, reason), n) for peer in observed.channel.peers for reason, n in peer.refused.items()],
        )
        yield _counter(
            "onward_fleet_openings_total",
            "New connections in windows: told to other directors first; left with the previous owner instead; "
            "unsent: the news could not be sent to every director, and the connection began all the same.",
            ("result",),
            [
                (("told",), observed.channel.counts["openings"]),
                (("left",), observed.channel.counts["openings_refused"]),
                (("unsent",), observed.channel.counts["openings_unsent"]),
            ],
        )
    if observed.agreed is not None:
        yield _gauge(
            "onward_fleet_store_connected",
            "1 when the fleet's store can be reached.",
            (),
            [((), observed.agreed.status.connected)],
        )


def _routing(observed: Observed) -> Iterator[Metric]:
    vips = {str(vip): said for vip, said in announcements(observed).items()}
    yield _gauge(
        "onward_vip_wanted",
        "1 when a VIP should be announced.",
        ("vip",),
        [((address,), vip["wanted"]) for address, vip in vips.items()],
    )
    yield _gauge(
        "onward_vip_announced",
        "1 when some router has a VIP from this director: confirmed, and sent in a session that is up.",
        ("vip",),
        [((address,), vip["announced"]) for address, vip in vips.items()],
    )
    answered = {address: vip["arp"] for address, vip in vips.items() if vip["arp"] is not None}
    yield _gauge(
        "onward_arp_answering",
        "1 when this director answers ARP and neighbour solicitations for a VIP.",
        ("vip",),
        [((address,), arp["phase"] == "answering") for address, arp in answered.items()],
    )
    yield _counter(
        "onward_arp_answers_total",
        "Questions for a VIP that were answered.",
        ("vip",),
        [((address,), arp["answers"]) for address, arp in answered.items()],
    )
    yield _counter(
        "onward_arp_conflicts_total",
        "How often somebody had a VIP who is no director.",
        ("vip",),
        [((address,), arp["conflicts"]) for address, arp in answered.items()],
    )
    bgp = bgp_document(observed)
    if bgp is None:
        return
    peers = bgp["peers"]
    yield _gauge("onward_bgp_speaker_up", "1 when the speaker runs.", (), [((), bgp["running"])])
    yield _gauge(
        "onward_bgp_session_up",
        "1 when the session with a peer is established.",
        ("peer",),
        [((peer["address"],), peer["session"] == Session.UP) for peer in peers],
    )
    yield _gauge(
        "onward_bgp_session_state",
        "State of the session with a peer: 1 for the one that holds.",
        ("peer", "state"),
        (sample for peer in peers for sample in _states((peer["address"],), peer["session"], Session)),
    )
    yield _gauge(
        "onward_bgp_announced_routes",
        "Routes sent to a peer in the present session, by address family.",
        ("peer", "family"),
        [
            ((peer["address"], family), sum((":" in route) == (family == "ipv6") for route in peer["routes_sent"]))
            for peer in peers
            for family in ("ipv4", "ipv6")
        ],
    )
    updates = observed.speaker.updates if observed.speaker is not None else {}
    yield _counter(
        "onward_bgp_updates_total",
        "UPDATE messages sent to a peer, by type: announce or withdraw.",
        ("peer", "type"),
        [
            ((peer["address"], kind), updates.get((peer["address"], kind), 0))
            for peer in peers
            for kind in ("announce", "withdraw")
        ],
    )
    yield from _bfd(peers, observed.bfd)


def _bfd(peers: Sequence[Document], status: BfdStatus) -> Iterator[Metric]:
    sessions = [(peer["address"], peer["bfd"]) for peer in peers if peer["bfd"] is not None]
    if not sessions:
        return
    yield _gauge(
        "onward_bfd_session_up",
        "1 when the BFD session with a peer is up.",
        ("peer",),
        [((address,), bfd["state"] == str(State.UP)) for address, bfd in sessions],
    )
    told = [(address, bfd) for address, bfd in sessions if "diag" in bfd]
    yield _gauge(
        "onward_bfd_detection_seconds",
        "Time without a packet after which a peer is gone, as negotiated.",
        ("peer",),
        [((address,), bfd["detection_time_s"]) for address, bfd in told],
    )
    yield _counter(
        "onward_bfd_downs_total",
        "How often the BFD session with a peer was up and is not any more.",
        ("peer",),
        [((address,), bfd["downs"]) for address, bfd in told],
    )
    yield _counter(
        "onward_bfd_messages_total",
        "BFD control packets, by direction.",
        ("peer", "direction"),
        [((address, direction), bfd[f"packets_{direction}"]) for address, bfd in told for direction in ("in", "out")],
    )
    yield _counter(
        "onward_bfd_refused_total",
        "BFD packets that were not taken, by reason; without a peer, those from nobody's address.",
        ("peer", "reason"),
        [
            *(((address, reason), count) for address, bfd in told for reason, count in bfd["refused"].items()),
            *((("", reason), count) for reason, count in status.refused.items()),
        ],
    )


def _connection_log(observed: Observed) -> Iterator[Metric]:
    seen = observed.connection_log
    yield _counter(
        "onward_connection_log_flows_total",
        "Flows of the connection log's sample that are over, by result: written, or lost since they could not be.",
        ("result",),
        [(("written",), seen.written), (("lost",), seen.lost)],
    )
    yield _counter(
        "onward_connection_log_missed_total",
        "Times that a flow of the sample was seen and found no room: its record is missing or incomplete.",
        (),
        [((), seen.missed)],
    )


def _loop(observed: Observed) -> Iterator[Metric]:
    lag = observed.lag
    bounds = [*map(str, BOUNDS_S), "+Inf"]
    histogram = HistogramMetricFamily("onward_loop_lag_seconds", "How late the event loop was, sampled all the time.")
    histogram.add_metric((), list(zip(bounds, accumulate(lag.buckets), strict=True)), sum_value=lag.sum_s)
    yield histogram
    yield _gauge(
        "onward_loop_lag_recent_max_seconds", "The latest the event loop was in the last minute.", (), [((), lag.max_s)]
    )
