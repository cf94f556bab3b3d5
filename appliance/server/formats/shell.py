"""A script for any Linux with iproute2 and nftables. Pure."""

import shlex
from collections.abc import Iterator

from appliance.packet.encap import GUE_PORT
from appliance.server.firewall import FAMILY
from appliance.server.formats.base import (
    ONWARD,
    SCRIPT,
    File,
    Settings,
    about_vip,
    addresses,
    firewall_text,
    head,
    inside,
    modules,
    wrapped,
)
from appliance.server.plan import TABLE, Plan
from appliance.server.points import link_add

COPY = """\
# copy_routes FAMILY MSS TABLE: the routes of the main table once more, with an MSS for clients.
copy_routes() {
	ip "-$1" route flush table "$3" 2>/dev/null || true
	ip "-$1" -oneline route show table main |
		sed 's/\\\\//g; s/ linkdown//g; s/ dead//g; s/ advmss [0-9]*//; s/ expires [0-9]*sec//; s/ nhid [0-9]*//' |
		while read -r route; do
			# shellcheck disable=SC2086 # words are meant
			ip "-$1" route replace table "$3" advmss "$2" $route
		done
}
"""
SET = """\
# set_key KEY VALUE: a setting of the kernel; what it was before is kept for `down`.
set_key() {
	file=/proc/sys/$(echo "$1" | tr . /)
	grep -qs "^$1 " "$KEPT" || echo "$1 $(cat "$file")" >>"$KEPT"
	echo "$2" >"$file"
}
"""
UNSET = """\
# What settings were before; those of devices are gone with them.
unset_keys() {
	[ -e "$KEPT" ] || return 0
	while read -r key value; do
		file=/proc/sys/$(echo "$key" | tr . /)
		[ ! -e "$file" ] || echo "$value" >"$file"
	done <"$KEPT"
	rm "$KEPT"
}
"""
RULE = """\
# rule FAMILY VIP TABLE: what the VIP sends goes by that table.
rule() {
	ip "-$1" rule show priority "$3" | grep -q "from $2 " || ip "-$1" rule add from "$2" lookup "$3" priority "$3"
}
"""


def render(plan: Plan, settings: Settings) -> tuple[File, ...]:
    """One script; `up` may be called again, `down` takes back what `up` has done."""
    return (File(SCRIPT, script(plan), mode=0o755),)


def script(plan: Plan) -> str:
    lines = [
        "#!/bin/sh",
        *head(plan, f"{SCRIPT} up|down"),
        *wrapped("Call it at every start of the machine, when its addresses and routes are there."),
        "set -eu",
        "KEPT=${KEPT:-/run/onward-member.kept}",
        "",
        SET,
        UNSET,
    ]
    if plan.mss:
        lines += [COPY, RULE]
    lines += ["up() {", *_indented(_up(plan)), "}", "", "down() {", *_indented(_down(plan)), "}", ""]
    lines += [
        "case ${1:-up} in",
        "up | down) ${1:-up} ;;",
        '*) echo "usage: $0 up|down" >&2; exit 2 ;;',
        "esac",
    ]
    return "\n".join(lines) + "\n"


def _indented(lines: Iterator[str]) -> Iterator[str]:
    """By a tab, but for what stands between the marks of a here-document."""
    inside_text = False
    for line in lines:
        yield line if inside_text or not line else f"\t{line}"
        inside_text = line.endswith("<<'END'") or (inside_text and line != "END")


def _up(plan: Plan) -> Iterator[str]:
    if text := firewall_text(plan, mss=False):
        yield "# First of all: nobody but directors gets in by the tunnels."
        yield "nft -f - <<'END'"
        yield from text.splitlines()
        yield "END"
    for key, value, why in plan.sysctls():
        yield f"set_key {key} {value} # {why}"
    yield from about_vip(plan)
    for address in addresses(plan):
        yield f"ip address replace {address} dev lo" + (" nodad" if ":" in address else "")
    for module in modules(plan):
        yield f"modprobe {module}"
    for opened in plan.gue:
        family = "-6 " if opened == 6 else ""
        mark = "" if opened == 6 else "-v "
        yield (
            f"ip fou show | grep 'port {GUE_PORT} gue' | grep -q {mark}-e -6 || ip {family}fou add port {GUE_PORT} gue"
        )
    for tunnel in plan.tunnels:
        yield f"# Takes packets to {tunnel.local} out of their encapsulation."
        yield f"[ -e /sys/class/net/{tunnel.device} ] || {' '.join(link_add(tunnel))}"
        if own := inside(tunnel):
            yield from wrapped(
                "The reverse-path filter: loose, since clients are reached by another interface; and it drops "
                "everything by a device without an IPv4 address."
            )
            yield f"ip address replace {own} dev {tunnel.device} scope host"
        yield f"ip link set {tunnel.device} up"
    for key, value, _ in plan.tunnel_sysctls():
        yield f"echo {value} >/proc/sys/{key.replace('.', '/')}"
    if words := plan.decap_arguments():
        yield "# Takes packets out of their encapsulation where they arrive."
        yield f"{ONWARD} decap status --interface {shlex.quote(plan.interface)} >/dev/null 2>&1 ||"
        yield f"\tsetsid --fork {ONWARD} decap run {shlex.join(words)} </dev/null >/run/onward-decap.log 2>&1"
    if plan.mss:
        yield from wrapped(
            "Clients' segments have to fit the tunnel. The answer to their SYN passes no director, so it is said here: "
            "what VIPs send goes by routes with a smaller MSS. Call this script again when routes change."
        )
    for size, table in plan.route_tables.items():
        vips = [vip for vip, wanted in plan.mss.items() if wanted == size]
        for version in sorted({vip.version for vip in vips}):
            yield f"copy_routes {version} {size} {table}"
        for vip in vips:
            yield f"rule {vip.version} {vip} {table}"


def _down(plan: Plan) -> Iterator[str]:
    for size, table in plan.route_tables.items():
        vips = [vip for vip, wanted in plan.mss.items() if wanted == size]
        for vip in vips:
            yield f"ip -{vip.version} rule del from {vip} lookup {table} priority {table} 2>/dev/null || true"
        for version in sorted({vip.version for vip in vips}):
            yield f"ip -{version} route flush table {table} 2>/dev/null || true"
    if plan.decap_arguments():
        yield f"{ONWARD} decap stop --interface {shlex.quote(plan.interface)} || true"
    for tunnel in plan.tunnels:
        yield f"ip link del {tunnel.device} 2>/dev/null || true"
    for opened in plan.gue:
        yield f"ip {'-6 ' if opened == 6 else ''}fou del port {GUE_PORT} 2>/dev/null || true"
    for address in addresses(plan):
        yield f"ip address del {address} dev lo 2>/dev/null || true"
    yield "unset_keys"
    if firewall_text(plan, mss=False):
        yield f"nft delete table {FAMILY} {TABLE} 2>/dev/null || true"
