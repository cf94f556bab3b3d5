"""Objects one by one: how they are shown, and what a change of one makes of the files."""

import difflib
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import appliance.config
from appliance.config.document import Document
from appliance.config.load import parse_parts
from appliance.config.problems import ConfigError
from appliance.objects.canonical import HIDDEN, canonical, etag, hidden
from appliance.objects.catalogue import (
    Catalogue,
    Change,
    Condition,
    InUseError,
    NotThereError,
    StaleError,
    TakenError,
)
from appliance.objects.changes import Made
from appliance.objects.kinds import (
    API,
    BGP,
    BGP_PEERS,
    DIRECTOR,
    FLEET,
    FLEET_DIRECTORS,
    HEALTH_MONITORS,
    KINDS,
    MEMBERS,
    NETWORK_PROFILES,
    POOLS,
    VIRTUAL_SERVICES,
    Kind,
    UnknownKindError,
    kind_of,
)
from appliance.objects.pointers import pointer

EXAMPLE = (Path(appliance.config.__file__).parent / "example.toml").read_text()
PATH = Path("/etc/onward/onward.toml")
MINE = Document(PATH, {"onward.toml": EXAMPLE})
SHOP = """# the shop
[[network_profile]]
name = "shop"     # as others write it
type = "PROTOCOL_TYPE_TCP_FAST_PATH"
dsr = { dsr_type = "DSR_TYPE_L3", dsr_encap_type = "ENCAP_GRE" }

# its members
[[pool]]
name = "shop"
hash = "source_ip"   # carts
[[pool.member]]
address = "203.0.113.81"   # old
[[pool.member]]
name = "shop2"
address = "203.0.113.82"

[[virtual_service]]
name = "shop"
vips = ["198.51.100.80"]
ports = ["8000-8099", 443]
network_profile = "shop"
pool = "shop"

[[bgp.peer]]
address = "2001:db8:0:0::1"
remote_as = 65001
password = "opensesame"
"""
TWO = Document(PATH, {"onward.toml": EXAMPLE, "conf.d/shop.toml": SHOP})


def lines(before: Document, change: Change | Made) -> list[str]:
    """What is different in the files."""
    made = []
    for name, text in change.texts.items():
        old = before.texts.get(name, "").splitlines()
        made += [
            line
            for line in difflib.unified_diff(old, text.splitlines(), n=0, lineterm="")
            if line[0] in "+-" and line[:3] not in ("---", "+++")
        ]
    return made


def checked(document: Document, change: Change | Made) -> Document:
    """The configuration after a change, which has no mistakes."""
    after = document.having(change.texts)
    parse_parts(after.parts, lambda _: bytes(range(32)))
    return after


def test_an_object_is_shown_in_one_form_with_all_its_keys() -> None:
    """The seed system's words are read, ours are shown; defaults are there, also those that follow from other keys."""
    values = Catalogue(TWO).get(NETWORK_PROFILES, "shop").values
    assert values == {
        "name": "shop",
        "type": "tcp_fast_path",
        "session_idle_timeout": 300,
        "per_packet": False,
        "ttl": "router",
        "http": False,
        "dsr": {
            "type": "l3",
            "encapsulation": "gre",
            "outer_df": "copy_inner",
            "outer_ttl": 64,
            "outer_source": "interface",
        },
    }
    service = Catalogue(TWO).get(VIRTUAL_SERVICES, "shop").values
    assert service["ports"] == ["8000-8099", 443]
    assert service["bgp"]["step"].keys() == {"med", "local_preference", "prepend"}
    assert [member["name"] for member in Catalogue(TWO).get(POOLS, "shop").values["member"]] == [
        "203.0.113.81",
        "shop2",
    ]


@pytest.mark.parametrize("document", [MINE, TWO], ids=["one file", "two files"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_what_is_shown_can_be_sent_back_and_nothing_changes(document: Document, kind: Any) -> None:
    """Not a byte of any file: defaults are not written, and what is written stays as it is."""
    catalogue = Catalogue(document)
    for entry in catalogue.all(kind):
        assert catalogue.replace(kind, entry.name, entry.values).texts == document.texts
        assert catalogue.patch(kind, entry.name, {}).texts == document.texts
        assert catalogue.replace(kind, entry.name, hidden(entry.values)).texts == document.texts
        again = kind.table.model_validate(_dense(entry.values))
        assert canonical(again) == entry.values


def _dense(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _dense(value) for key, value in values.items() if value is not None}
    return [_dense(value) for value in values] if isinstance(values, list) else values


def test_the_example_has_one_of_every_kind() -> None:
    """So the test above shows something for each, but for what a configuration of a director rarely has."""
    assert {noun: len(Catalogue(TWO).all(kind)) for noun, kind in KINDS.items() if not Catalogue(TWO).all(kind)} == {
        "fleet-directors": 0,
        "tier2": 0,
    }


def test_a_patch_changes_its_keys_and_leaves_comments() -> None:
    """In the file that has the object; null takes a key out, and unchanged spellings stay."""
    change = Catalogue(TWO).patch(POOLS, "shop", {"hash": "five_tuple", "slow_start": 30})
    assert lines(TWO, change) == ['-hash = "source_ip"   # carts', '+hash = "five_tuple"   # carts', "+slow_start = 30"]
    checked(TWO, change)
    change = Catalogue(TWO).patch(POOLS, "shop", {"hash": None})
    assert lines(TWO, change) == ['-hash = "source_ip"   # carts']
    change = Catalogue(TWO).patch(NETWORK_PROFILES, "shop", {"session_idle_timeout": 60, "dsr": {"outer_ttl": 9}})
    assert lines(TWO, change) == [
        '-dsr = { dsr_type = "DSR_TYPE_L3", dsr_encap_type = "ENCAP_GRE" }',
        '+dsr = { dsr_type = "DSR_TYPE_L3", dsr_encap_type = "ENCAP_GRE", outer_ttl = 9}',
        "+session_idle_timeout = 60",
    ]
    checked(TWO, change)


def test_a_patch_changes_nothing_that_it_does_not_name() -> None:
    """What is written stays so, also where it says what would follow from other keys as they were; null takes a key
    out, also one that says its default; and a key keeps its name and its comment."""
    more = """
[[network_profile]]
name = "pinned"
type = "tcp_fast_path"
session_idle_timeout = 300 # never less
[[health_monitor]]
name = "pinned"
type = "tcp"
receive_timeout = 4 # slow
[[pool]]
name = "pinned"
lb_algorithm_hash = "source_ip" # carts
slow_start = 0 # not yet
[[pool.member]]
address = "203.0.113.9"
[[virtual_service]]
name = "pinned"
vips = ["198.51.100.81"]
ports = [80]
network_profile = "pinned"
pool = "pinned"
protection = { per_vip = { rate = 100, burst = 100 } } # never more than 100 at once
"""
    document = Document(PATH, {"onward.toml": EXAMPLE, "conf.d/shop.toml": SHOP + more})
    catalogue = Catalogue(document)

    def patched(kind: Kind, patch: dict[str, Any]) -> list[str]:
        return lines(document, catalogue.patch(kind, "pinned", patch))

    (_, now) = patched(VIRTUAL_SERVICES, {"protection": {"per_vip": {"rate": 1000}}})
    assert now == "+protection = { per_vip = { rate = 1000, burst = 100 } } # never more than 100 at once"
    assert patched(NETWORK_PROFILES, {"type": "udp_fast_path"}) == [
        '-type = "tcp_fast_path"',
        '+type = "udp_fast_path"',
    ]
    assert patched(HEALTH_MONITORS, {"send_interval": 5}) == ["+send_interval = 5.0"]
    assert patched(HEALTH_MONITORS, {"receive_timeout": None}) == ["-receive_timeout = 4 # slow"]
    assert patched(POOLS, {"slow_start": None}) == ["-slow_start = 0 # not yet"]
    assert patched(POOLS, {"hash": "five_tuple"}) == [
        '-lb_algorithm_hash = "source_ip" # carts',
        '+lb_algorithm_hash = "five_tuple" # carts',
    ]
    (_, now) = patched(VIRTUAL_SERVICES, {"protection": {"per_vip": {"burst": None}}})
    assert "burst" not in now


def test_the_last_peer_of_a_file_goes_as_well() -> None:
    """Whichever way it is taken out: of the list as a whole, or by itself."""
    catalogue = Catalogue(TWO)
    peers = [peer for peer in catalogue.get(BGP).values["peer"] if peer["address"] != "2001:db8::1"]
    whole = catalogue.patch(BGP, "", {"peer": peers})
    assert "bgp" not in whole.texts["conf.d/shop.toml"]
    assert whole.after.data == catalogue.delete(BGP_PEERS, "2001:db8::1").after.data
    checked(TWO, whole)


def test_a_patch_by_the_other_spelling_is_the_same() -> None:
    """There are not two keys afterwards, and what no longer fits goes with null."""
    change = Catalogue(TWO).patch(
        NETWORK_PROFILES, "shop", {"dsr": {"dsr_type": "dsr_type_l2", "dsr_encap_type": None}}
    )
    after = checked(TWO, change)
    assert Catalogue(after).get(NETWORK_PROFILES, "shop").values["dsr"]["type"] == "l2"
    assert Catalogue(after).get(NETWORK_PROFILES, "shop").values["dsr"]["encapsulation"] is None


def test_members_keep_their_comments_when_others_come_and_go() -> None:
    """Lists are given whole, and compared by name or address."""
    members = Catalogue(TWO).get(POOLS, "shop").values["member"]
    change = Catalogue(TWO).patch(POOLS, "shop", {"member": [members[0], {"address": "203.0.113.83", "ratio": 3}]})
    assert lines(TWO, change) == [
        '-name = "shop2"',
        '-address = "203.0.113.82"',
        '+address = "203.0.113.83"',
        "+ratio = 3",
    ]
    assert 'address = "203.0.113.81"   # old' in change.texts["conf.d/shop.toml"]
    checked(TWO, change)


def test_a_new_object_comes_into_the_main_file_without_defaults() -> None:
    """Where it stands is told, for messages about it."""
    values = {"name": "new", "type": "HEALTH_MONITOR_HTTP", "path": "/", "send_interval": 5, "failed_checks": 2}
    change = Catalogue(TWO).create(HEALTH_MONITORS, values)
    assert tomllib.loads(change.texts["onward.toml"])["health_monitor"][-1] == {
        "name": "new",
        "type": "http",
        "send_interval": 5.0,
    }
    assert change.texts["conf.d/shop.toml"] == SHOP
    change = Catalogue(TWO).create(POOLS, {"name": "new", "member": [{"address": "203.0.113.99"}]})
    mine = len(tomllib.loads(EXAMPLE)["pool"])
    assert change.location == ("pool", mine)
    assert Catalogue(checked(TWO, change)).get(POOLS, "new").location == change.location
    assert Catalogue(TWO.having(change.texts)).get(POOLS, "shop").location == ("pool", mine + 1)


def test_objects_within_others_are_objects_too() -> None:
    """Peers and directors of the fleet: in the file that has them, by whatever spelling of the address."""
    catalogue = Catalogue(TWO)
    peer = catalogue.get(BGP_PEERS, "2001:DB8::1")
    assert (peer.name, peer.file) == ("2001:db8::1", "conf.d/shop.toml")
    change = catalogue.patch(BGP_PEERS, "2001:db8::1", {"hold_time": 30})
    assert lines(TWO, change) == ["+hold_time = 30"]
    change = catalogue.create(BGP_PEERS, {"address": "192.0.2.3", "remote_as": 65003})
    assert change.texts["conf.d/shop.toml"] == SHOP
    assert [one.name for one in Catalogue(checked(TWO, change)).all(BGP_PEERS)][-2:] == ["192.0.2.3", "2001:db8::1"]
    change = catalogue.delete(BGP_PEERS, "2001:db8::1")
    assert "opensesame" not in change.texts["conf.d/shop.toml"]
    checked(TWO, change)
    change = catalogue.create(FLEET_DIRECTORS, {"name": "d1", "address": "192.0.2.11"})
    assert Catalogue(checked(TWO, change)).get(FLEET_DIRECTORS, "d1").values["port"] == 7117


def test_what_there_is_one_of_keeps_its_keys_where_they_are() -> None:
    """Also where two files have parts of it."""
    catalogue = Catalogue(TWO)
    assert [peer["address"] for peer in catalogue.get(BGP).values["peer"]][-1] == "2001:db8::1"
    change = catalogue.patch(BGP, "", {"hold_down": 3})
    assert lines(TWO, change) == ["+hold_down = 3"]
    peers = [*catalogue.get(BGP).values["peer"], {"address": "192.0.2.9", "remote_as": 65009}]
    change = catalogue.patch(BGP, "", {"peer": peers})
    assert lines(TWO, change) == ["+[[bgp.peer]]", '+address = "192.0.2.9"', "+remote_as = 65009"]
    assert change.texts["conf.d/shop.toml"] == SHOP
    checked(TWO, change)


def test_the_api_is_there_with_its_defaults_where_nothing_is_written() -> None:
    """A key that changes is the first one that stands there."""
    catalogue = Catalogue(MINE)
    assert catalogue.get(API).values["port"] == 8080
    change = catalogue.patch(API, "", {"port": 8081})
    assert tomllib.loads(checked(MINE, change).texts["onward.toml"])["api"] == {"port": 8081}


def test_members_are_objects_of_their_own() -> None:
    """Found by name or address, in whatever spelling; changed where they stand, with their comments; a new one comes
    last; the name stays out of files where it is the address."""
    catalogue = Catalogue(TWO)
    assert catalogue.get(MEMBERS, "shop/203.0.113.81").values["name"] == "203.0.113.81"
    change = catalogue.patch(MEMBERS, "shop/203.0.113.81", {"ratio": 3})
    assert lines(TWO, change) == ["+ratio = 3"]
    assert change.location is not None
    assert catalogue.get(MEMBERS, "shop/203.0.113.81").location == change.location
    change = catalogue.create(MEMBERS, {"address": "2001:db8:0:0::7"}, owner="shop")
    assert change.name == "shop/2001:db8::7"
    assert lines(TWO, change) == ["+[[pool.member]]", '+address = "2001:db8::7"']
    after = Catalogue(checked(TWO, change))
    assert after.find(MEMBERS, "shop/2001:DB8::0:7") is not None
    assert lines(TWO, after.delete(MEMBERS, "shop/2001:db8::7")) == []
    assert lines(TWO, catalogue.replace(MEMBERS, "shop/new", {"address": "203.0.113.83"})) == [
        "+[[pool.member]]",
        '+name = "new"',
        '+address = "203.0.113.83"',
    ]
    gone = catalogue.delete(MEMBERS, "shop/203.0.113.81")
    assert lines(TWO, gone) == ["-[[pool.member]]", '-address = "203.0.113.81"   # old']
    with pytest.raises(TakenError):
        catalogue.create(MEMBERS, {"name": "shop2", "address": "203.0.113.9"}, owner="shop")
    with pytest.raises(NotThereError, match="there is no member shp/a: there is no pool shp; did you mean `shop`"):
        catalogue.get(MEMBERS, "shp/a")
    with pytest.raises(NotThereError, match=r"there is no member shop/qq; there are: shop/203.0.113.81, shop/shop2$"):
        catalogue.get(MEMBERS, "shop/qq")
    with pytest.raises(NotThereError, match="there is no pool shp"):
        catalogue.replace(MEMBERS, "shp/a", {"address": "203.0.113.9"})
    with pytest.raises(ConfigError, match=r"another member than shop/203.0.113.81"):
        catalogue.replace(MEMBERS, "shop/203.0.113.81", {"address": "203.0.113.9"})
    with pytest.raises(ConfigError, match="say which member it is"):
        catalogue.create(MEMBERS, {"ratio": 2}, owner="shop")


def test_what_others_need_does_not_go() -> None:
    """They are named."""
    catalogue = Catalogue(TWO)
    with pytest.raises(InUseError, match="pool shop is used by virtual-services/shop; take it out there first") as why:
        catalogue.delete(POOLS, "shop")
    assert why.value.users == ("virtual-services/shop",)
    with pytest.raises(InUseError, match="is used by"):
        catalogue.delete(NETWORK_PROFILES, "shop")
    for kind in (DIRECTOR, FLEET):
        with pytest.raises(InUseError, match="no configuration is without"):
            catalogue.delete(kind, "")
    after = checked(TWO, catalogue.delete(VIRTUAL_SERVICES, "shop"))
    after = checked(after, Catalogue(after).delete(POOLS, "shop"))
    assert Catalogue(after).find(POOLS, "shop") is None
    assert "# its members" not in after.texts["conf.d/shop.toml"]


def test_what_is_not_there_is_said_with_what_is() -> None:
    """For names and kinds."""
    with pytest.raises(NotThereError, match="there is no pool shp; did you mean `shop`\\? there are: "):
        Catalogue(TWO).patch(POOLS, "shp", {})
    with pytest.raises(UnknownKindError, match="did you mean `pools`"):
        kind_of("pool")
    empty = Document(PATH, {"onward.toml": EXAMPLE[: EXAMPLE.index("[bgp]")]})
    with pytest.raises(NotThereError, match="nothing is configured for BGP"):
        Catalogue(empty).get(BGP)
    with pytest.raises(ConfigError, match=r"there is no \[bgp\] yet; make bgp first, with its peer"):
        Catalogue(empty).create(BGP_PEERS, {"address": "192.0.2.1", "remote_as": 65000})


def test_a_change_for_another_object_than_there_is_is_not_made() -> None:
    """ETags are of the canonical form: another spelling of the same is the same, a secret is part of it."""
    catalogue = Catalogue(TWO)
    tag = etag(catalogue.get(POOLS, "shop").values)
    assert catalogue.patch(POOLS, "shop", {"slow_start": 9}, Condition(frozenset({tag}))).texts != TWO.texts
    with pytest.raises(StaleError, match="pool shop has changed since") as why:
        catalogue.patch(POOLS, "shop", {"slow_start": 9}, Condition(frozenset({'"old"'})))
    assert why.value.etag == tag
    with pytest.raises(StaleError, match="is not there any more"):
        catalogue.replace(POOLS, "gone", {}, Condition(frozenset({"*"})))
    with pytest.raises(StaleError, match="is there already"):
        catalogue.replace(POOLS, "shop", {}, Condition(absent=True))
    with pytest.raises(TakenError, match="choose another name"):
        catalogue.create(POOLS, {"name": "shop"})
    same = SHOP.replace("DSR_TYPE_L3", "l3").replace(
        'hash = "source_ip"', 'hash = "LB_ALGORITHM_CONSISTENT_HASH_SOURCE_IP_ADDRESS"'
    )
    other = Catalogue(Document(PATH, {"onward.toml": EXAMPLE, "conf.d/shop.toml": same}))
    assert etag(other.get(POOLS, "shop").values) == tag
    peer = catalogue.get(BGP_PEERS, "2001:db8::1").values
    assert etag(peer) != etag({**peer, "password": "other"})
    assert etag(peer, b"key") != etag(peer)


def test_secrets_are_hidden_and_stay_where_they_are_sent_back_hidden() -> None:
    """And nothing can be hidden where nothing is."""
    catalogue = Catalogue(TWO)
    shown = hidden(catalogue.get(BGP).values)
    assert [peer["password"] for peer in shown["peer"]][-1] == HIDDEN
    assert "opensesame" not in str(shown)
    change = catalogue.replace(BGP, "", {**shown, "hold_down": 4})
    assert lines(TWO, change) == ["+hold_down = 4"]
    with pytest.raises(ConfigError, match="no secret is written here"):
        catalogue.patch(BGP_PEERS, "192.0.2.1", {"password": HIDDEN})


def test_what_is_wrong_in_an_object_is_for_the_check_to_say() -> None:
    """At the same paths as in a file; and a pointer leads to it."""
    change = Catalogue(TWO).patch(POOLS, "shop", {"member": [{"address": "203.0.113.81", "ratio": -1}], "hahs": 1})
    with pytest.raises(ConfigError) as why:
        parse_parts(TWO.having(change.texts).parts, lambda _: bytes(range(32)))
    index = change.location[1] if change.location is not None else None
    paths = {problem.path: problem for problem in why.value.problems}
    assert set(paths) == {f"pool[{index}].member[0].ratio", f"pool[{index}].hahs"}
    assert paths[f"pool[{index}].member[0].ratio"].value == -1
    assert paths[f"pool[{index}].member[0].ratio"].source == "/etc/onward/conf.d/shop.toml"
    assert {pointer(path, ("pool", index)) for path in paths} == {"/member/0/ratio", "/hahs"}
    assert pointer("pool[12].name", ("pool", 1)) is None
    assert pointer("pool[1]", ("pool", 1)) == ""


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda all_of: all_of.create(HEALTH_MONITORS, {"name": "x", "type": "tcp", "path": "/x"}), "path"),
        (
            lambda all_of: all_of.create(HEALTH_MONITORS, {"name": "x", "type": "ping", "monitor_port": 7}),
            "monitor_port",
        ),
        (lambda all_of: all_of.patch(HEALTH_MONITORS, "smtp", {"type": "udp", "half_open": True}), "half_open"),
        (lambda all_of: all_of.patch(HEALTH_MONITORS, "dns", {"response_codes": [200]}), "response_codes"),
    ],
)
def test_what_means_nothing_for_a_type_is_not_left_out_without_a_word(
    change: Callable[[Catalogue], Change], path: str
) -> None:
    """It is refused as in a file; defaults that are shown for one type do not keep anybody from choosing another."""
    catalogue = Catalogue(MINE)
    after = catalogue.document.having(change(catalogue).texts)
    with pytest.raises(ConfigError) as why:
        parse_parts(after.parts, lambda _: bytes(range(32)))
    assert [problem.path.rpartition(".")[2] for problem in why.value.problems] == [path]
    plain = Catalogue(MINE).create(HEALTH_MONITORS, {"name": "plain", "type": "http"})
    after = checked(MINE, plain)
    shown = Catalogue(after).get(HEALTH_MONITORS, "plain").values
    other = Catalogue(after).replace(HEALTH_MONITORS, "plain", {**shown, "type": "tcp"})
    assert Catalogue(checked(after, other)).get(HEALTH_MONITORS, "plain").values["type"] == "tcp"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "other", "member": []}, "this is another pool than shop"),
        ({"name": 7}, "this is another pool than shop"),
        ({"member": [None]}, "null in a list"),
    ],
)
def test_what_cannot_be_written_is_refused(values: dict[str, Any], message: str) -> None:
    """With a path."""
    with pytest.raises(ConfigError, match=message) as why:
        Catalogue(TWO).replace(POOLS, "shop", values)
    assert why.value.problems[0].path.startswith("pool[")
