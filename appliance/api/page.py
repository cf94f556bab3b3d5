"""The live page, rendered here and nowhere else: the browser only puts newer renderings in place of older ones. Pure.

So it works without JavaScript, and there is one place where text is escaped: `h` escapes everything that is not `Html`.
"""

import html
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from string import Template
from typing import Any

from appliance.api.views import MEANT, Document, because, bfd_text, probe_text, waiting

_PAGE = Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))

Item = Mapping[str, Any]


class Html(str):
    """Markup that is safe to send."""

    __slots__ = ()


def h(name: str, *children: str | Iterable[str], **attributes: object) -> Html:
    """An element. Children and attribute values are text and get escaped, but for `Html`.

    Args:
        name: of the element.
        children: text, `Html`, or iterables of them.
        attributes: `class_` is class, `data_key` is data-key; None and False leave the attribute out.
    """
    inner = "".join(_text(child) if isinstance(child, str) else "".join(map(_text, child)) for child in children)
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(f"<{name}{given}>{inner}</{name}>")


def _text(child: str) -> str:
    return child if isinstance(child, Html) else html.escape(child)


def render_page(document: Document) -> str:
    """The whole page."""
    name = document["director"]["name"]
    title = f"{name} · {document['health']['state']} · Onward"
    return _PAGE.substitute(title=html.escape(title), main=render_main(document))


def render_main(document: Document) -> Html:
    """The part that changes: one `main` element."""
    disabled = {service["name"] for service in document["services"] if service["state"] == "disabled"}
    return h(
        "main",
        _header(document),
        _problems(document),
        _tiles(document),
        (_service(service, document["pools"][service["pool_key"]]) for service in document["services"]),
        (_pool(key, pool, disabled) for key, pool in document["pools"].items() if _is_shared(pool)),
        h("div", _bgp(document), _fleet(document), _drops(document), _director(document), class_="panels"),
        _packets(document),
        h(
            "p",
            "All packet and flow numbers count client to member. Replies go from the member straight to the client: ",
            h("em", str(document["replies"])),
            ".",
            class_="note",
        ),
        data_state=document["health"]["state"],
    )


# ---------------------------------------------------------------------------------------------------------------------
# Parts

_GOOD, _WARN, _BAD, _OFF = "good", "warn", "bad", "off"
_SIGNS = {_GOOD: "●", _WARN: "▲", _BAD: "■", _OFF: "○"}  # shape as well as colour
_TONES = {
    "healthy": _GOOD,
    "degraded": _WARN,
    "down": _BAD,
    "up": _GOOD,
    "connected": _WARN,
    "disabled": _OFF,
    "in_rotation": _GOOD,
    "draining": _WARN,
    "out": _BAD,
    "unknown": _WARN,
    "maintenance": _WARN,
}


def _badge(tone: str, text: str, title: str | None = None) -> Html:
    return h("span", h("i", _SIGNS[tone], aria_hidden="true"), text, class_=f"badge {tone}", title=title)


def _words(name: str | None) -> str:
    return (name or "").replace("_", " ")


def _header(document: Document) -> Html:
    director, state = document["director"], document["health"]["state"]
    plane = document["plane"]
    facts: list[str] = [
        f"up {duration(director['uptime_s'])}",
        h("span", plane["name"], title="; ".join(plane["notes"]) or None),
        f"version {director['version']}",
        f"hash key {director['hash_key']}",
    ]
    return h(
        "header",
        h("img", src="/favicon.svg", alt="", width=34, height=34),
        h("div", h("h1", "Onward", h("span", f" {director['name']}")), h("p", _joined(facts)), class_="title"),
        h("span", "", class_="live", id="live", title="the page follows the director every second"),
        _badge(_TONES[state], state),
    )


def _joined(facts: Iterable[str]) -> Html:
    return Html(" · ".join(map(_text, facts)))


def _problems(document: Document) -> Html:
    problems = document["health"]["problems"]
    if not problems:
        return Html("")
    tone = _TONES[document["health"]["state"]]
    return h("ul", (h("li", text) for text in problems), class_=f"problems {tone}", aria_label="problems")


def _tiles(document: Document) -> Html:
    wanted = [service for service in document["services"] if service["state"] != "disabled"]
    keys = {service["pool_key"] for service in wanted}
    vips = {vip["vip"]: vip["announced"] for service in wanted for vip in service["vips"]}
    members = {
        member["id"]: member["state"] == "in_rotation"
        for key, pool in document["pools"].items()
        if key in keys
        for member in pool["members"]
        if member["reason"] not in MEANT
    }
    peers = document["bgp"]["peers"] if document["bgp"] else []
    traffic = [vip["traffic"] for service in document["services"] for vip in service["vips"]]
    packets, octets, flows = (
        _sum(count[key] for count in traffic) for key in ("packets_per_s", "bytes_per_s", "new_flows_per_s")
    )
    tiles = [
        _ratio_tile("VIPs announced", vips.values()),
        _ratio_tile("members in rotation", members.values()),
        _ratio_tile("BGP sessions up", [peer["session"] == "up" for peer in peers]) if document["bgp"] else None,
        _tile("packets per second", si(packets), spark("packets", packets)),
        _tile("bits per second", si(None if octets is None else octets * 8), spark("bits", octets)),
        _tile("new flows per second", si(flows), spark("flows", flows)),
    ]
    return h("div", (tile for tile in tiles if tile is not None), class_="tiles")


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _ratio_tile(label: str, values: Iterable[bool]) -> Html:
    values = list(values)
    tone = _OFF if not values else _GOOD if all(values) else _WARN if any(values) else _BAD
    return _tile(label, f"{sum(values)}", h("small", f"of {len(values)}"), tone)


def _tile(label: str, value: str, beside: Html, tone: str = "") -> Html:
    return h("div", h("b", value), beside, h("span", label), class_=f"tile {tone}".strip())


def _service(service: Item, pool: Item) -> Html:
    facts = (
        (service["protocol"].upper() + " " + ", ".join(service["ports"]), "protocol and ports"),
        (service["delivery"].upper() + " DSR", f"network profile {service['network_profile']}"),
        (f"hash {_words(service['hash_mode'])}", f"algorithm {_words(service['algorithm'])}"),
        (f"pool {service['pool']}", f"at least {service['min_members']} in rotation, or the VIPs are withdrawn"),
    )
    name = service["name"]
    return h(
        "section",
        h(
            "div",
            h("h2", name),
            _badge(_TONES[service["state"]], service["state"], because(service) if service["reason"] else None),
            h("ul", (h("li", text, title=title) for text, title in facts), class_="facts"),
            class_="head",
        ),
        h("p", f"Changing hands: {_moving(service)}", class_="note") if _moving(service) else "",
        h("div", (_vip(name, vip) for vip in service["vips"]), class_="vips"),
        h(
            "p",
            f"{service['in_rotation']} of {len(pool['members'])} members in rotation; "
            f"pool {pool['name']} is shared, and stands below.",
            class_="note",
        )
        if _is_shared(pool)
        else _members(service["pool_key"], pool, service["state"] == "disabled"),
        class_="card",
        data_key=f"service/{name}",
    )


def _moving(service: Item) -> str:
    moving = service["transition"]
    if service["panic"]:
        return f"nothing, {service['panic']}"
    if not moving["window"] and not moving["tail"]:
        return ""
    return f"{moving['window']} slots in a window, {moving['tail']} in the tail. Their flows are remembered."


def _is_shared(pool: Item) -> bool:
    """Several virtual services use it: its members stand once, and their counters are of no single service."""
    return len(pool["traffic_of"]) > 1


def _pool(key: str, pool: Item, disabled: Set[str]) -> Html:
    users, others = pool["services"], len(pool["traffic_of"]) - len(pool["services"])
    facts = (
        (pool["delivery"].upper() + " DSR", f"TTL as a {pool['ttl']} treats it" if pool["delivery"] != "l2" else None),
        (f"{pool['in_rotation']} of {len(pool['members'])} in rotation", None),
        (f"{len(users)} virtual service{'s' if len(users) != 1 else ''}", ", ".join(users)),
        (
            f"numbers are the pool's, of all {len(pool['traffic_of'])} virtual services together",
            f"{others} of them by another delivery" if others else None,
        ),
    )
    return h(
        "section",
        h(
            "div",
            h("h2", f"Pool {pool['name']}"),
            h("ul", (h("li", text, title=title) for text, title in facts), class_="facts"),
            class_="head",
        ),
        _members(key, pool, disabled >= set(users)),
        class_="card",
        data_key=f"pool/{key}",
    )


def _members(key: str, pool: Item, off: bool) -> Html:
    return h(
        "div",
        h(
            "table",
            h(
                "thead",
                h(
                    "tr",
                    h("th", "Member", scope="col"),
                    h("th", "State", scope="col"),
                    h("th", "Last probe", scope="col"),
                    h("th", "Share of slots", scope="col"),
                    h("th", "Packets/s", scope="col", class_="number"),
                    h("th", "Packets", scope="col", class_="number"),
                    h("th", "New flows", scope="col", class_="number"),
                    h("th", "Next hop", scope="col"),
                ),
            ),
            h("tbody", (_member(key, off, member) for member in pool["members"])),
            class_="members",
        ),
        class_="scroll",
    )


def _vip(service: str, vip: Item) -> Html:
    traffic = vip["traffic"]
    if vip["announced"]:
        to = f"sent to {', '.join(vip['sent_to'])}" if vip["sent_to"] else "announced"
        badge = _badge(_GOOD, "announced", to)
        words = f"to {', '.join(vip['sent_to'])}" if vip["sent_to"] else ""
    else:
        tone = _OFF if vip["reason"] in ("no_bgp", "service_disabled") else _BAD
        badge = _badge(tone, "not announced")
        words = f"{_words(vip['reason'])}" + (f": {vip['detail']}" if vip["detail"] else "")
    rate = f"{si(traffic['packets_per_s'])} pkt/s" if traffic["packets_per_s"] is not None else ""
    return h(
        "div",
        h("code", vip["vip"]),
        badge,
        h("span", words, class_="why"),
        h("span", rate, class_="rate"),
        spark(f"vip/{service}/{vip['vip']}", traffic["packets_per_s"]),
        class_="vip",
        data_key=f"vip/{service}/{vip['vip']}",
    )


def _member(pool: str, off: bool, member: Item) -> Html:
    traffic, state = member["traffic"], member["state"]
    meant = off or member["reason"] in MEANT
    tone = _OFF if meant and state == "out" else _TONES[state]
    why = (
        because(member) if member["reason"] and not member["reason"].startswith("health_") else _words(member["reason"])
    )
    return h(
        "tr",
        h("th", member["name"], h("code", member["address"]), scope="row"),
        h("td", _badge(tone, _words(state)), (h("small", text) for text in (_words(why), _left(member)) if text)),
        h("td", _probes(member)),
        h(
            "td",
            _bar(member["share"]),
            h("span", f"{member['share']:.1%}", class_="percent"),
            h("small", f"ratio {member['ratio']}"),
            class_="share",
        ),
        h(
            "td",
            spark(f"member/{pool}/{member['name']}", traffic["packets_per_s"]),
            si(traffic["packets_per_s"]),
            class_="number",
        ),
        h("td", si(traffic["packets"]), class_="number", title=_exact(traffic["packets"])),
        h("td", si(traffic["new_flows"]), class_="number", title=_exact(traffic["new_flows"])),
        h("td", _next_hop(member["next_hop"])),
        data_key=f"member/{pool}/{member['name']}",
        class_="" if state == "in_rotation" else "out",
    )


def _left(member: Item) -> str:
    """What is left of a member's flows, as far as it is remembered."""
    if member["state"] == "draining" and member["drained"]:
        return "nothing is left"
    known = member["flows_remembered"]
    if member["state"] == "in_rotation":
        return f"starts slowly, {member['ramp']:.0%}" if member["ramp"] < 1 else member["remark"] or ""
    if member["state"] == "draining":
        return "silent flows may be there" if not known else f"{known} flows, and silent ones"
    return ""


def _probes(member: Item) -> Iterable[Html]:
    yield from _checks(member)
    for one in member["dsr"]:
        if one["dsr_capable"] == "no":
            yield h("small", f"not DSR-capable for {one['service']}: {one['reasons'][0]}")
    yield from (h("small", found["note"]) for found in member["segments"] if found["note"])


def _checks(member: Item) -> Iterable[Html]:
    if not member["checks"]:
        return [h("small", "not monitored" if member["health"] == "up" else _words(member["health"]))]
    return [
        h(
            "div",
            _badge(_TONES[check["verdict"]], check["verdict"]),
            h("small", f"{check['monitor']}: {probe_text(check)}"),
            title=f"{check['good']} good, {check['bad'] + check['maintenance']} bad probes of "
            + (check["path"] or f"port {check['port']}"),
        )
        for check in member["checks"]
    ]


def _next_hop(hop: Item | None) -> Html:
    if hop is None:
        return h("small", "none")
    way = "on the segment" if hop["direct"] else "behind a router"
    return h(
        "span", hop["interface"], h("small", hop["mac"]), title=f"{way}, MTU {hop['mtu']}, our address {hop['source']}"
    )


def _bar(fraction: float) -> Html:
    """An SVG, since the content security policy allows no style attributes."""
    return h(
        "svg",
        h("rect", width="100%", height="100%", rx=3, class_="back"),
        h("rect", width=f"{fraction * 100:.1f}%", height="100%", rx=3, class_="front"),
        class_="bar",
        role="img",
        aria_label=f"{fraction:.1%}",
    )


def spark(key: str, value: float | None) -> Html:
    """A place for the last minute's curve; the browser remembers and draws it."""
    return h(
        "svg",
        h("polyline"),
        class_="spark",
        data_spark=key,
        data_value=None if value is None else f"{value:.3f}",
        viewBox="0 0 60 20",
        preserveAspectRatio="none",
        aria_hidden="true",
    )


def _panel(title: str, *children: str | Iterable[str]) -> Html:
    return h("section", h("h2", title), *children, class_="card panel", data_key=f"panel/{title}")


def _fleet(document: Document) -> Html | str:
    fleet = document["fleet"]
    if fleet is None:
        return ""
    pins, store = document["pins"], fleet["store"]
    if store is None:
        agreement: Html | str = h("p", "No store: every director judges members for itself.")
    else:
        tone, text = (_GOOD, "connected") if store["connected"] else (_WARN, "not reached")
        source = h("small", f"{_words(store['source'])} verdicts count")
        agreement = h("p", "Store ", h("code", store["endpoint"]), " ", _badge(tone, text, store["error"]), source)
    return _panel(
        "Fleet",
        agreement,
        h("table", h("tbody", (_director_of_fleet(peer) for peer in fleet["peers"]))),
        h("p", f"{pins['live']} flows remembered here, of {pins['capacity']} at most.", class_="note"),
    )


def _director_of_fleet(peer: Item) -> Html:
    joined = peer["state"] == "joined"
    why = peer["trouble"] or "; ".join(f"other table for {name}" for name in peer["tables_differ"])
    return h(
        "tr",
        h("th", peer["name"], h("small", peer["address"]), scope="row"),
        h("td", _badge(_BAD if peer["tables_differ"] else _GOOD if joined else _WARN, peer["state"])),
        h("td", h("small", why or f"flows told {si(peer['sent'])}, heard {si(peer['received'])}")),
        data_key=f"director/{peer['name']}",
    )


def _bgp(document: Document) -> Html:
    bgp = document["bgp"]
    if bgp is None:
        return _panel("BGP", h("p", "No [bgp] is configured: the network is told the way to the VIPs by hand."))
    peers = h(
        "table",
        h("tbody", (_peer(peer, document["time"]) for peer in bgp["peers"])),
    )
    routes = h(
        "table",
        h(
            "tbody",
            (
                h(
                    "tr",
                    h("th", h("code", route["prefix"]), h("small", f"next hop {route['next_hop']}"), scope="row"),
                    h("td", _route_badge(route)),
                    data_key=f"route/{route['prefix']}",
                )
                for route in document["routes"]
            ),
        ),
    )
    return _panel(
        "BGP",
        h("p", f"AS {bgp['local_as']}, router id {bgp['router_id']}" + (f", {bgp['detail']}" if bgp["detail"] else "")),
        "" if bgp["running"] else h("p", _badge(_BAD, "the speaker is not running")),
        peers,
        h("h3", "Routes"),
        routes if document["routes"] else h("p", "none"),
    )


def _route_badge(route: Item) -> Html:
    if route["wanted"] and route["acknowledged"]:
        count = len(route["sent_to"])
        return _badge(_GOOD, f"sent to {count} peer{'s' if count != 1 else ''}" if count else "acknowledged")
    return _badge(_WARN, "being announced" if route["wanted"] else "being withdrawn")


def _peer(peer: Item, now: float) -> Html:
    since = f" for {duration(now - peer['since'])}" if peer["since"] else ""
    remote = f"AS {peer['remote_as']}" if peer["remote_as"] else ""
    bfd = peer["bfd"]
    return h(
        "tr",
        h("th", h("code", peer["address"]), h("small", remote), scope="row"),
        h(
            "td",
            _badge(_TONES[peer["session"]], peer["session"] + since),
            h("small", peer["detail"] or f"routes sent: {len(peer['routes_sent'])}"),
        ),
        h("td", _badge(_GOOD if bfd["state"] == "up" else _WARN, f"BFD {bfd_text(bfd)}") if bfd else ""),
        data_key=f"peer/{peer['address']}",
    )


def _drops(document: Document) -> Html:
    counters = document["counters"]
    if counters is None:
        return _panel("Drops", h("p", "The data plane does not answer: no counters."))
    drops = {reason: count for reason, count in counters["drops"].items() if count}
    most = max(drops.values(), default=1)
    rows = [
        h(
            "tr",
            h("th", _words(reason), scope="row"),
            h("td", _bar(count / most)),
            h("td", si(count), class_="number", title=_exact(count)),
            data_key=f"drop/{reason}",
        )
        for reason, count in sorted(drops.items(), key=lambda item: -item[1])
    ]
    others = counters["replies_sent"] | counters["passes"]
    return _panel(
        "Drops",
        h("table", h("tbody", rows)) if rows else h("p", "None."),
        h("h3", "ICMP sent, frames left to the kernel"),
        _facts((_words(name), si(count)) for name, count in others.items() if count)
        if any(others.values())
        else "none",
    )


_PACKET_TONES = {"new_flow": _GOOD, "drop": _WARN}


def _packets(document: Document) -> Html:
    rows = [
        h(
            "tr",
            h("td", f"{duration(document['time'] - sample['at'])} ago", class_="number"),
            h(
                "td",
                _badge(_PACKET_TONES.get(sample["what"], _OFF), _words(sample["what"])),
                " ",
                _words(sample["reason"]),
            ),
            h("td", sample["interface"]),
            h("td", h("code", sample["source"]), " → ", h("code", sample["destination"])),
            h("td", sample["protocol"] or ""),
            h("td", f"{sample['length']} bytes", class_="number"),
        )
        for sample in reversed(document["samples"])
    ]
    return h(
        "section",
        h("h2", "Latest packets"),
        h("div", h("table", h("tbody", rows)), class_="scroll") if rows else h("p", "No samples yet."),
        h("p", "Samples: some of what happens, never all of it.", class_="note") if rows else "",
        class_="card packets",
        data_key="packets",
    )


def _director(document: Document) -> Html:
    lag, config, plane = document["loop_lag"], document["config"], document["plane"]
    reload = config["last_reload"]
    facts = {"interfaces": ", ".join(document["director"]["interfaces"])} | plane["facts"]
    parts = [
        h("li", _badge(_GOOD if part["ok"] else _BAD, _words(part["name"])), h("small", part["detail"]))
        for part in document["ready"]["parts"]
    ]
    return _panel(
        "Director",
        h("ul", parts, class_="parts"),
        _facts(
            [
                *((_words(key), value) for key, value in facts.items()),
                (
                    "event loop late by",
                    f"{milliseconds(lag['p50_s'])} median, {milliseconds(lag['max_s'])} at most in the last minute",
                ),
                ("configuration", f"{config['source']} ({config['digest'][:12]})"),
                (
                    "last reload",
                    "; ".join(("taken", *reload["warnings"]))
                    if reload["ok"]
                    else f"rejected: {'; '.join(reload['problems'])}",
                ),
                *(("waits for a restart", waiting(config["staged"])) for _ in (1,) if config["staged"] is not None),
            ]
        ),
        h("h3", "The data plane counts"),
        _facts(
            (_words(name), si(count)) for name, count in ((document["counters"] or {}).get("details") or {}).items()
        ),
    )


def _facts(facts: Iterable[tuple[str, str]]) -> Html:
    return h("dl", ((h("div", h("dt", key), h("dd", value))) for key, value in facts))


# ---------------------------------------------------------------------------------------------------------------------
# Numbers for people


def si(value: float | None) -> str:
    """Three digits or so, with k, M, G, T; a dash for what is not known."""
    if value is None:
        return "–"
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor * 0.9995:
            scaled = value / factor
            return f"{scaled:.0f} {unit}" if scaled >= 99.95 else f"{scaled:.1f} {unit}"
    return f"{value:.0f}" if value >= 9.95 or value == int(value) else f"{value:.1f}"


def _exact(value: int | None) -> str | None:
    return None if value is None else f"{value:,}".replace(",", " ")


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def duration(seconds: float) -> str:
    """The two largest units."""
    seconds = max(0, int(seconds))
    for (size, unit), (small, small_unit) in (
        ((86400, "d"), (3600, "h")),
        ((3600, "h"), (60, "min")),
        ((60, "min"), (1, "s")),
    ):
        if seconds >= size:
            rest = seconds % size // small
            return f"{seconds // size} {unit} {rest} {small_unit}" if rest else f"{seconds // size} {unit}"
    return f"{seconds} s"
