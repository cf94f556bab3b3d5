"""Can random packets find a mistake at all? Programs with one seeded mistake each, and whether they are found out."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.compare import Case, Comparison, Finding, make_case

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCES = (ROOT / "appliance" / "bpf", ROOT / "appliance" / "dataplane" / "bpf")
MAIN = "balance.bpf.c"
PLACE = "place.h"
QUIC = "quic.h"
ENOUGH = 400_000
"""Packets within which each mistake has to be found."""


@dataclass(frozen=True)
class Mutant:
    name: str
    file: str
    right: str
    """Text of the source; every place where it stands is changed."""

    wrong: str


MUTANTS = (
    Mutant("link MTU, off by one", MAIN, "run->length - l2 > run->port->mtu", "run->length - l2 >= run->port->mtu"),
    Mutant("path MTU, off by one", MAIN, "inner->length <= way->limit", "inner->length <= way->limit + 1u"),
    Mutant("prefixes, the other half", "guard.h", "return low & 1", "return ~low & 1"),
    Mutant("prefixes, upper half of IPv6 only", MAIN, "upper = (u64)__builtin_bswap32(s[0]) << 32 |", "upper ="),
    Mutant(
        "limits, one too many",
        "guard.h",
        "return due > now + tolerance &&",
        "return due > now + tolerance + interval &&",
    ),
    Mutant(
        "limits, refused ones count",
        MAIN,
        "return admit(guard_at, *hash64, run->row, ADMIT_LOOK);",
        "return admit(guard_at, *hash64, run->row, ADMIT_TAKE);",
    ),
    Mutant(
        "limits, IPv6 sources by 32 bits",
        MAIN,
        "saddr[0]) * (k[2] + ((const struct ip6hdr *)l3)->saddr[1])",
        "saddr[0]) * (k[2] + 0)",
    ),
    Mutant(
        "limits, nobody counts in vain",
        MAIN,
        "admit(run->generation->guards_first + service, source, run->row, ADMIT_TAKE);",
        ";",
    ),
    Mutant("martians of IPv4, loopback", MAIN, "|| (u8)ip->saddr == 127", "|| 0"),
    Mutant("martians of IPv6, multicast", MAIN, "(u8)s[0] == 0xff ||", "0 ||"),
    Mutant("TTL 1 goes on", MAIN, "*hop_limit <= 1", "*hop_limit < 1"),
    Mutant("TTL, checksum", MAIN, "(u16)~ip->check + 0xfffe", "(u16)~ip->check + 0xffff"),
    Mutant("checksum of the TTL, carry lost", MAIN, "~folded((u16)~ip->check + 0xfffe)", "~((u16)~ip->check + 0xfffe)"),
    Mutant("outer checksum, class left out", "send.h", "(0x45 | inner->tclass << 8)", "0x45"),
    Mutant("outer checksum, identification left out", "send.h", " + length + id + frag", " + length + frag"),
    Mutant("one tag only", MAIN, "i < 2; i++) { /* 2 */", "i < 1; i++) { /* 2 */"),
    Mutant("802.1ad tags unknown", MAIN, " && type != BE16(ETH_P_8021AD)", ""),
    Mutant("last port of a range", "lookup.h", "port > range->last", "port >= range->last"),
    Mutant("first port of a range", "lookup.h", "port < range->first", "port <= range->first"),
    Mutant("hash, order of words", MAIN, "(ip->saddr[2] + g->keys[3])", "(ip->saddr[2] + g->keys[4])"),
    Mutant("hash, ports not masked", MAIN, "(ports & entry->ports_mask)", "ports"),
    Mutant("hash spread once", "lookup.h", "spread(spread(h)) >> 32", "spread(h) >> 32"),
    Mutant("no loop by our own address", MAIN, "if (unlikely(head == *(u32 *)run->port->mac && ", "if (unlikely(0 && "),
    Mutant("no loops of members", MAIN, "return is_station(", "return 0 * is_station("),
    Mutant("loops by the tail only", MAIN, "return is_station(", "return 1 | is_station("),
    Mutant("DF always set outside", MAIN, "inner.whole = (ip->frag_off & BE16(0x4000)) != 0", "inner.whole = 1"),
    Mutant("flow label zero", "send.h", "(label ? label : 1)", "label"),
    Mutant("UDP length below eight", MAIN, "length < 8 || length > l4->available", "length > l4->available"),
    Mutant("UDP length beyond", MAIN, "length < 8 || length > l4->available", "length < 8"),
    Mutant("TCP header beyond", MAIN, "header < 20 || header > l4->available", "header < 20"),
    Mutant("first fragments taken for packets", MAIN, "ip->frag_off & BE16(0x3fff)", "ip->frag_off & BE16(0x1fff)"),
    Mutant("protocol of 6in4", "send.h", "IPPROTO_IPIP : IPPROTO_IPV6", "IPPROTO_IPIP : IPPROTO_IPIP"),
    Mutant("outer length without GRE", "send.h", "length + between +", "length + (between & 8) +"),
    Mutant("outer payload, half of GUE", "send.h", "inner->length + between)", "inner->length + (between & 4))"),
    Mutant("GRE, always IPv4", "send.h", "gre->protocol = inner->type", "gre->protocol = BE16(ETH_P_IP)"),
    Mutant("GRE, something between flags", "send.h", "gre->flags_version = 0", "gre->flags_version = 0x80"),
    Mutant("GUE, any source port", "send.h", "0xc000 | inner->hash", "inner->hash"),
    Mutant("GUE, UDP length without GUE", "send.h", "sizeof(*udp) + sizeof(*gue)", "sizeof(*udp)"),
    Mutant("GUE, leftovers as checksum", "send.h", "udp->check = 0;", ""),
    Mutant("GUE, protocol", "send.h", "gue->protocol = ip_in_ip(inner)", "gue->protocol = IPPROTO_IPIP"),
    Mutant("DF is not cleared", "send.h", " && !(way->kind & WAY_CLEAR)", ""),
    Mutant("outer TTL always 64", "send.h", "ip->ttl = way->ttl", "ip->ttl = 64"),
    Mutant("outer hop limit always 64", "send.h", "ip->hop_limit = way->ttl", "ip->hop_limit = 64"),
    Mutant("IPv6 traffic class", MAIN, "__builtin_bswap32(*(u32 *)ip) >> 20", "__builtin_bswap32(*(u32 *)ip) >> 24"),
    Mutant("SYN-ACK counted as new", MAIN, "(l4->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN", "(l4->flags & TCP_SYN)"),
    Mutant("trailers into tunnels", MAIN, "run->length > 68 && ", "run->length > 72 && "),
    Mutant("bytes with their Ethernet header", "count.h", "traffic->bytes += bytes", "traffic->bytes += bytes + 14"),
    Mutant(
        "IPv6 header, length left out",
        MAIN,
        "ip->version_class >> 4 != 6 || length > run->length - l2",
        "ip->version_class >> 4 != 6",
    ),
    Mutant("slots, last bits", MAIN, "((at & 3) * 16)", "((at & 1) * 16)"),
    Mutant("a SYN is not remembered", PLACE, "pin(q, member_at(g, q->way), PIN_NEW, now)", "pin(q, NOBODY, 0, now)"),
    Mutant("a flow never gets younger", PLACE, "state, age ? now : word)", "state, word)"),
    Mutant("retransmission, a tick too long", PLACE, "age < RETRANSMISSION_TICKS", "age <= RETRANSMISSION_TICKS"),
    Mutant("retransmission of a closed connection", PLACE, "state < PIN_FIN && age <", "state < PIN_RST && age <"),
    Mutant("idle timeout, a tick too short", PLACE, "return !idle || age <= idle", "return !idle || age < idle"),
    Mutant("idle timeout 0 is at once", PLACE, "return !idle || age <= idle", "return age <= idle"),
    Mutant("FIN, a tick too short", PLACE, "return age <= FIN_TICKS", "return age < FIN_TICKS"),
    Mutant("FIN lasts longer than the idle timeout", PLACE, "(!idle || idle > FIN_TICKS)", "1"),
    Mutant("RST, a tick too long", PLACE, "return age <= RST_TICKS", "return age <= RST_TICKS + 1"),
    Mutant("an unknown FIN is forgotten", PLACE, "kind == KIND_UDP || kind == KIND_FIN)", "kind == KIND_UDP)"),
    Mutant("an unknown FIN is open", PLACE, "kind == KIND_FIN ? PIN_FIN : PIN_NEW, now", "PIN_NEW, now"),
    Mutant("an RST behind a FIN is none", PLACE, "if (kind == KIND_RST)", "if (kind == KIND_RST && state < PIN_FIN)"),
    Mutant("a FIN behind an RST is one", PLACE, "kind == KIND_FIN && state < PIN_FIN", "kind == KIND_FIN"),
    Mutant("a closed flow opens again", PLACE, "else if (state < PIN_OPEN)", "else if (kind != KIND_FIN)"),
    Mutant("odd flags count", PLACE, "if (kind == KIND_ODD)", "if (kind == KIND_ODD && !age)"),
    Mutant("the tail is a window", PLACE, "previous == NOBODY ? primary : previous", "previous"),
    Mutant("dead pins live", PLACE, "if (is_live(state, age, policy->idle))", "if (1)"),
    Mutant("young pins are not looked at", PLACE, "state_of(found) == PIN_NEW || age_of(", "age_of("),
    Mutant("recalled without a look at flags", PLACE, "if (flags && (flags & (TCP_SYN", "if (0 && (flags & (TCP_SYN"),
    Mutant("turns, one too many", PLACE, "at + 1 < policy->length ?", "at < policy->length ?"),
    Mutant("turns are not taken", PLACE, "*turn = (struct turn){q->stamp, q->next}", "(void)0"),
    Mutant("new choices go on", PLACE, "turn->stamp != policy->stamp", "!turn->stamp"),
    Mutant("a SYN-ACK opens", PLACE, "flags & (TCP_FIN | TCP_RST | TCP_ACK) ?", "flags & (TCP_FIN | TCP_RST) ?"),
    Mutant("no news of another member", PLACE, "write_down(q, position, row, head);\n\t\t\t*head += 1", "(void)0"),
    Mutant("whose flow, in the wrong order", MAIN, "ip->saddr[0] | (u64)ip->saddr[1] << 32", "ip->saddr[1]"),
    Mutant("ID, a byte too short", QUIC, "length <= config->length)", "length < config->length)"),
    Mutant("ID, told length not that of the header", QUIC, "told != length - 1", "told > length - 1"),
    Mutant("ID, told length is not looked at", QUIC, "told < config->length ||", ""),
    Mutant("ID, two bits of config", QUIC, "cid[0] >> 5", "cid[0] >> 6 << 1"),
    Mutant("long headers are short", QUIC, "if (udp[8] & QUIC_LONG) {", "if (0 && udp[8]) {"),
    Mutant("an ID goes on behind the datagram", QUIC, "length > carried - QUIC_LONG_HEAD", "0"),
    Mutant("encrypted IDs are read as they are", QUIC, "config->kind == QUIC_KEY", "0"),
    Mutant("pins in steady slots of QUIC", MAIN, "!quic || policy->placement != PLACEMENT_HASH", "1"),
    Mutant("nothing is remembered", MAIN, "unlikely(q.keep) && (run->flags", "0 && (run->flags"),
)
"""What can go wrong in a program like this: edges, masks, byte order, carries, checks that were forgotten."""

FEW = (
    "path MTU, off by one",
    "GUE, leftovers as checksum",
    "DF always set outside",
    "a SYN is not remembered",
    "turns are not taken",
)
"""For a quick test."""


def compile_mutant(mutant: Mutant, folder: Path) -> Path:
    """Compile the program with a mistake in it; nothing outside *folder* is written to.

    Raises:
        ValueError: the source has changed, and the mistake's place is not there any more.
    """
    copy = folder / "source"
    copy.mkdir(parents=True)
    for source in SOURCES:
        for path in source.iterdir():
            if path.suffix in (".h", ".c"):
                shutil.copy(path, copy)
    place = copy / mutant.file
    text = place.read_text()
    if mutant.right not in text:
        raise ValueError(f"{mutant.name}: {mutant.file} has no {mutant.right!r} any more; change tests/fuzz/mutants.py")
    place.write_text(text.replace(mutant.right, mutant.wrong))
    target = folder / "balance.bpf.o"
    build = [sys.executable, ROOT / "systemd" / "build_bpf.py", "--only", copy / MAIN, "--to", target]
    subprocess.run(build, check=True, cwd=ROOT, capture_output=True, text=True)
    shutil.rmtree(copy)
    return target


@contextmanager
def mistaken(compiled: Path) -> Iterator[Comparison]:
    """A compiled mutant against the reference."""
    comparison = Comparison(raw=False, compiled=compiled)
    try:
        yield comparison
    finally:
        comparison.close()


def hunt(comparison: Comparison, seed: int, enough: int = ENOUGH) -> tuple[Case, Finding | None, int]:
    """Run case after case until something is found.

    Returns:
        The last case, what was found in it, and how many packets there were in all.
    """
    packets = 0
    while True:
        case = make_case(seed)
        packets += len(case.frames)
        findings = comparison.run(case)
        if findings or packets >= enough:
            return case, findings[0] if findings else None, packets
        seed += 1


def hunt_all(folder: Path, seed: int, say: Callable[[str], None]) -> list[str]:
    """Hunt all mutants and say what came of it.

    Args:
        folder: for compiled programs.
        seed: of the first case.
        say: gets a line for each.

    Returns:
        The names of those that were not found.
    """
    missed = []
    places = [folder / str(number) for number in range(len(MUTANTS))]
    with ThreadPoolExecutor(2) as pool:
        compiled = list(pool.map(compile_mutant, MUTANTS, places))
    for mutant, path in zip(MUTANTS, compiled, strict=True):
        with mistaken(path) as comparison:
            _, finding, packets = hunt(comparison, seed)
        if finding is None:
            missed.append(mutant.name)
            say(f"MISSED  {mutant.name}: not within {packets} packets")
        else:
            first = finding.text.splitlines()[0]
            say(f"found   {mutant.name}: within {packets} packets: {first}")
    return missed
