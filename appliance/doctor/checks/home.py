"""The director itself, its segments, its fleet and its routers. Pure."""

from appliance.doctor.evidence import DirectorSeen
from appliance.doctor.finding import Fix, Judgement, Site, failed, passed, unknown

LATE_S = 0.5
"""An event loop of which one turn in a hundred is later than this keeps BGP, BFD and health checks waiting."""

_FULL = 0.9


def vip_not_local(seen: DirectorSeen) -> Judgement:
    """Is no VIP an address of this machine? Its kernel would take the packets, and drop replies of members."""
    if seen.local:
        evidence = [f"{vip} on {device}" for vip, device in seen.local.items()]
        fix = Fix(
            Site.DIRECTOR,
            "take the VIP from the director's interfaces; the data plane has it, and no interface needs it",
            tuple(f"ip address del {vip}/{vip.max_prefixlen} dev {device}" for vip, device in seen.local.items()),
        )
        return failed(f"VIP {', '.join(map(str, seen.local))} is an address of this director", evidence, fix)
    return passed("no VIP is an address of this director")


def duplicate_vip(seen: DirectorSeen) -> Judgement:
    """Has nobody else on the director's segments a VIP?"""
    if seen.answers or seen.conflicts:
        evidence = [f"{vip} is answered for by {', '.join(macs)}" for vip, macs in seen.answers.items()]
        evidence += [f"{vip}: {text}" for vip, text in seen.conflicts.items()]
        vips = ", ".join(map(str, dict.fromkeys([*seen.answers, *seen.conflicts])))
        fix = Fix(
            Site.NETWORK,
            "find the machine with that MAC address, and take the VIP from it; a router does proxy ARP",
            tuple(f"bridge fdb show | grep -i {mac}" for macs in seen.answers.values() for mac in macs),
        )
        return failed(f"a machine that is no member says that it has VIP {vips}", evidence, fix)
    if not seen.asked_segments:
        return unknown("nobody was asked for VIPs on a segment")
    return passed("nobody else has a VIP", f"asked on {', '.join(seen.asked_segments)}: no answer")


def offloads(seen: DirectorSeen) -> Judgement:
    """Does no receive offload merge packets into frames that are larger than any way?"""
    if seen.merging:
        evidence = [f"{name}: {', '.join(features)} on" for name, features in seen.merging.items()]
        names = {"rx-gro": "gro", "rx-lro": "lro", "rx-gro-hw": "rx-gro-hw", "rx-gro-list": "rx-gro-list"}
        commands = tuple(
            f"ethtool -K {name} {' '.join(f'{names.get(one, one)} off' for one in features)}"
            for name, features in seen.merging.items()
        )
        fix = Fix(Site.DIRECTOR, "switch them off; something has switched them on since the director began", commands)
        text = f"packets are merged before the data plane ({seen.plane}) sees them, and then do not fit"
        return failed(text, evidence, fix)
    return passed("no receive offload merges packets")


def tables_agree(seen: DirectorSeen) -> Judgement | None:
    """Have all directors of the fleet the same tables? Else flows break when routers take other ways."""
    if not seen.peers:
        return None
    bad = [peer for peer in seen.peers if peer.differs]
    if bad:
        evidence = [
            f"{peer.name} has another table for {name}, for {seconds:.0f} s"
            for peer in bad
            for name, seconds in peer.differs.items()
        ]
        fix = Fix(
            Site.DIRECTOR,
            "give all directors the same configuration and the same time (NTP), and reload those that lack it",
            ("onward config history", "chronyc tracking", "onward reload"),
        )
        return failed(
            f"{', '.join(peer.name for peer in bad)} and this director would send flows to different members",
            evidence,
            fix,
        )
    return passed("all directors that are heard have the same tables")


def routing_sessions(seen: DirectorSeen) -> Judgement | None:
    """Do routers hear this director in time, and it them?"""
    lost = [one for one in seen.sessions if not one.bgp_up or one.bfd_downs]
    late = seen.late_s >= LATE_S
    if not seen.sessions and not late:
        return None
    if late or lost:
        evidence = [
            f"{one.peer}: BGP {'up' if one.bgp_up else 'down'}, lost {one.bfd_downs} times by BFD {one.detail}".rstrip()
            for one in lost
        ]
        evidence.append(f"the event loop was {seen.late_s * 1000:.0f} ms late in one turn of a hundred")
        if late:
            fix = Fix(
                Site.DIRECTOR,
                "the director has too little CPU for its control traffic: give it a core of its own, "
                "keep receive queues off that core, or relax BFD's interval",
                ("systemctl set-property onward.service CPUAffinity=0", "grep . /proc/irq/*/smp_affinity_list"),
            )
            return failed("control traffic is kept waiting on this director", evidence, fix)
        fix = Fix(Site.NETWORK, "see why the router is not heard", ("onward bgp peers",))
        return failed(
            f"no session with {', '.join(one.peer for one in lost)}, or one that is lost again and again", evidence, fix
        )
    return passed(
        "sessions with routers are up", f"the event loop was {seen.late_s * 1000:.0f} ms late in one turn of a hundred"
    )


def fragments(seen: DirectorSeen) -> Judgement | None:
    """Do all fragments of a datagram come by the same director?"""
    if seen.fragments_lost:
        fix = Fix(
            Site.NETWORK,
            'let routers choose the director of fragments by addresses only (Linux does), or set hash = "source_ip" in '
            f"the pools of {', '.join(seen.hash_by_ports) or 'these services'}: then each has its member by itself",
        )
        evidence = [f"{seen.fragments_lost} later fragments whose first one did not come by this director were dropped"]
        return failed(
            "fragments of a datagram come by different directors, or their first one gets lost", evidence, fix
        )
    return passed("no fragment was lost for want of its first one")


def director_conntrack(seen: DirectorSeen) -> Judgement | None:
    """Is there room in the director's own connection table?"""
    if seen.conntrack is None or not seen.conntrack[1]:
        return None
    used, most = seen.conntrack
    if used >= _FULL * most:
        fix = Fix(
            Site.DIRECTOR,
            "do not track packets for VIPs: of one-way traffic every entry stays until it is old",
            (
                "nft add table inet onward",
                "nft 'add chain inet onward early { type filter hook prerouting priority raw; }'",
                "nft add rule inet onward early ip daddr VIP notrack",
            ),
        )
        return failed("this director's connection table is full", [f"nf_conntrack_count {used} of {most}"], fix)
    return passed("there is room for connections", f"nf_conntrack_count {used} of {most}")
