"""Whatever objects somebody makes: what is written says what was meant, and what is shown makes the same again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.config.document import Document
from appliance.config.load import parse_parts
from appliance.model import Config
from appliance.objects.canonical import canonical
from appliance.objects.catalogue import Catalogue
from appliance.objects.kinds import (
    BGP,
    BGP_PEERS,
    FLEET_DIRECTORS,
    HEALTH_MONITORS,
    KINDS,
    NETWORK_PROFILES,
    POOLS,
    VIRTUAL_SERVICES,
    Kind,
)

PATH = Path("/etc/onward/onward.toml")
MAIN = """# who we are
schema_version = 1

[director]
name = "d1"
interfaces = ["eth1"]   # towards the routers

[fleet]
secret_file = "fleet.key"
"""

names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,12}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=20)


def some(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(required, optional=optional)


l3 = some(
    {},
    {
        "type": st.sampled_from(["l3", "DSR_TYPE_L3", "dsr_type_l3"]),
        "dsr_encap_type": st.sampled_from(["ipip", "ENCAP_IPINIP", "gre", "encap_gre", "gue"]),
        "outer_ttl": st.integers(1, 255),
        "outer_df": st.sampled_from(["copy_inner", "clear"]),
        "outer_source": st.just("interface"),
    },
)
l2 = st.just({"dsr_type": "DSR_TYPE_L2"})
profiles = some(
    {"type": st.sampled_from(["tcp_fast_path", "PROTOCOL_TYPE_TCP_FAST_PATH"])},
    {"session_idle_timeout": st.sampled_from([0, 5, 300, 14400]), "dsr": l3 | l2, "per_packet": st.just(False)},
)
monitors = st.one_of(
    some(
        {"type": st.sampled_from(["tcp", "HEALTH_MONITOR_TCP"]), "monitor_port": st.integers(1, 65535)},
        {"request": texts, "response": texts, "send_interval": st.floats(5, 3600)},
    ),
    some(
        {"type": st.just("http"), "monitor_port": st.integers(1, 65535)},
        {
            "response_codes": st.lists(st.sampled_from([200, "2xx", "200-204", "any", "3XX"]), min_size=1, max_size=3),
            "response": texts,
            "successful_checks": st.integers(1, 50),
        },
    ),
    some(
        {
            "type": st.just("external"),
            "monitor_port": st.just(80),
            "command": st.lists(texts, max_size=3).map(lambda words: ["/bin/check", *words]),
        },
        {"environment": st.dictionaries(st.from_regex(r"[A-Z_]{1,6}X", fullmatch=True), texts, max_size=3)},
    ),
)
addresses = st.integers(1, 250).map(lambda last: f"203.0.113.{last}") | st.integers(1, 250).map(
    lambda last: f"2001:db8:0:0::{last:x}"
)
members = st.lists(
    some(
        {"address": addresses},
        {"ratio": st.integers(1, 1000), "enabled": st.booleans(), "max_connections": st.integers(0, 9)},
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda member: member["address"],
)
pools = some(
    {"member": members},
    {
        "hash": st.sampled_from(["source_ip", "five_tuple", "LB_ALGORITHM_CONSISTENT_HASH_SOURCE_IP_ADDRESS"]),
        "transition_window": st.integers(300, 86400),
        "slow_start": st.integers(0, 18000),
    },
)
services = some(
    {"ports": st.sampled_from([[80], ["*"], ["8000-8099", 443], [1, 65535, "2-9"]])},
    {
        "min_members": st.just(1),
        "bgp": some({}, {"med": st.integers(0, 4294967295), "communities": st.just(["65010:7"])}),
        "protection": some({}, {"deny": st.just(["192.0.2.7", "2001:db8::/32"]), "per_vip": st.just({"rate": 9})}),
        "enabled": st.booleans(),
    },
)
peers = some(
    {"remote_as": st.integers(1, 20000)},
    {"hold_time": st.just(0), "password": st.just("md5-key"), "labels": st.just(["edge"])},
)


@st.composite
def configurations(draw: st.DrawFn) -> list[tuple[Kind, dict[str, Any]]]:
    """Objects in an order in which they can be made."""
    made: list[tuple[Kind, dict[str, Any]]] = [(FLEET_DIRECTORS, {"name": "d1", "address": "192.0.2.11"})]
    local = {"local_as": 65010, "router_id": "192.0.2.11", "next_hop_v6": "2001:db8:9::1"}
    made.append((BGP, {**local, "peer": [{"address": "192.0.2.1", **draw(peers)}]}))
    if draw(st.booleans()):
        made.append((BGP_PEERS, {"address": "2001:db8:9:0::2", **draw(peers)}))
    some_names = st.lists(names, min_size=1, max_size=2, unique=True)
    known: dict[str, list[str]] = {}
    for kind, strategy in ((NETWORK_PROFILES, profiles), (HEALTH_MONITORS, monitors)):
        known[kind.noun] = draw(some_names)
        made += [(kind, {"name": name, **draw(strategy)}) for name in known[kind.noun]]
    for number, name in enumerate(draw(some_names), 1):
        watched = draw(st.lists(st.sampled_from(known[HEALTH_MONITORS.noun]), max_size=2, unique=True))
        made.append((POOLS, {"name": name, "health_monitors": watched, **draw(pools)}))
        vip = draw(st.sampled_from([f"198.51.100.{number}", f"2001:DB8:7::{number}"]))
        profile = draw(st.sampled_from(known[NETWORK_PROFILES.noun]))
        service = {"name": name, "vips": [vip], "pool": name, "network_profile": profile}
        made.append((VIRTUAL_SERVICES, {**service, **draw(services)}))
    return made


def parsed(document: Document) -> Config:
    config = parse_parts(document.parts, lambda _: bytes(range(32)))
    return replace(config, source="", digest="")


def made_of(objects: list[tuple[Kind, dict[str, Any]]], main: str = MAIN) -> Document:
    document = Document(PATH, {"onward.toml": main})
    for kind, values in objects:
        catalogue = Catalogue(document)
        change = catalogue.create(kind, values) if kind.key is not None else catalogue.replace(kind, "", values)
        document = document.having(change.texts)
    return document


@settings(max_examples=25)
@given(configurations())
def test_what_is_written_is_what_was_meant_and_what_is_shown_makes_the_same(
    objects: list[tuple[Kind, dict[str, Any]]],
) -> None:
    """From objects to TOML to a configuration; its canonical objects make the same configuration; and written once more
    they change no byte. Objects with the same values have the same canonical form, however they are spelled."""
    document = made_of(objects)
    config = parsed(document)
    catalogue = Catalogue(document)
    for kind, values in objects:
        if kind.key is not None:
            meant = canonical(kind.table.model_validate(values))
            assert catalogue.get(kind, values[kind.key]).values == meant
    shown = [
        (kind, entry.values)
        for kind in KINDS.values()
        if len(kind.place) == 1 and kind.noun != "director"
        for entry in sorted(catalogue.all(kind), key=lambda entry: entry.location)
        if kind.noun != "api"
    ]
    order = [NETWORK_PROFILES, HEALTH_MONITORS, POOLS, VIRTUAL_SERVICES]
    shown.sort(key=lambda pair: order.index(pair[0]) if pair[0] in order else -1)
    again = made_of(shown)
    assert parsed(again) == config
    for kind in KINDS.values():
        for entry in Catalogue(again).all(kind):
            assert Catalogue(again).replace(kind, entry.name, entry.values).texts == again.texts
    assert document.texts["onward.toml"].startswith("# who we are\n")
    assert '["eth1"]   # towards the routers\n' in document.texts["onward.toml"]


@settings(max_examples=25)
@given(configurations())
def test_removing_what_was_made_leaves_what_was_there(objects: list[tuple[Kind, dict[str, Any]]]) -> None:
    """In the opposite order; the main file says again what it said before, and nothing is left behind."""
    document = made_of(objects)
    for kind, values in reversed(objects):
        name = values[kind.key] if kind.key is not None else ""
        document = document.having(Catalogue(document).delete(kind, name).texts)
    before = Catalogue(Document(PATH, {"onward.toml": MAIN}))
    for kind in KINDS.values():
        assert [entry.values for entry in Catalogue(document).all(kind)] == [entry.values for entry in before.all(kind)]
