"""What is told of two configurations: everything that is written otherwise, and nothing else."""

import pytest

from appliance.config.document import Document
from appliance.objects.differences import differences
from tests.unit.objects.test_catalogue import EXAMPLE, PATH, SHOP, TWO


def told(shop: str, before: Document = TWO) -> list[str]:
    after = Document(PATH, {**before.texts, "conf.d/shop.toml": shop})
    back = [str(change) for change in differences(after, before)]
    there = [str(change) for change in differences(before, after)]
    assert len(back) == len(there)
    return there


@pytest.mark.parametrize(
    ("was", "now", "lines"),
    [
        ('hash = "source_ip"   # carts', 'hash = "five_tuple"', ["~ pool shop: hash source_ip -> five_tuple"]),
        ('hash = "source_ip"', "", ["~ pool shop: hash source_ip -> (none)"]),
        (
            '[[pool.member]]\nname = "shop2"',
            '[[pool.member]]\nname = "shop3"',
            ["- member shop/shop2", "+ member shop/shop3 203.0.113.82"],
        ),
        ('"203.0.113.82"', '"203.0.113.82"\nratio = 3', ["~ member shop/shop2: ratio 1 -> 3"]),
        ('"DSR_TYPE_L3", dsr_encap_type = "ENCAP_GRE"', '"l3", encapsulation = "gre", outer_ttl = 64', []),
        (
            'ENCAP_GRE" }',
            'ENCAP_GRE", outer_ttl = 9 }',
            ["~ network_profile shop: dsr.outer_ttl 64 -> 9"],
        ),
        ('["8000-8099", 443]', "[443]", ["~ virtual_service shop: ports 8000-8099, 443 -> 443"]),
        (
            'pool = "shop"\n',
            'pool = "shop"\nprotection = { per_vip = { rate = 9 } }\n',
            [
                "~ virtual_service shop: protection.per_vip.rate (none) -> 9",
                "~ virtual_service shop: protection.per_vip.burst (none) -> 9",
            ],
        ),
        ("opensesame", "hush", ["~ bgp.peer 2001:db8::1: password (secret) -> (another secret)"]),
        ("remote_as = 65001", "remote_as = 65002", ["~ bgp.peer 2001:db8::1: remote_as 65001 -> 65002"]),
        ("# its members", '[[pool]]\nname = "unused"\n[[pool.member]]\naddress = "203.0.113.9"\n', None),
        ("# the shop", "[bgp]\nhold_down = 7\n", ["~ bgp: hold_down 10 -> 7"]),
        ("# the shop", "# the new shop\n", []),
        (
            "# the shop",
            '[[health_monitor]]\nname = "own"\ntype = "external"\nmonitor_port = 80\ncommand = ["/bin/a", "b, c"]\n',
            ["+ health_monitor own there"],
        ),
    ],
)
def test_what_is_written_otherwise_is_told_value_by_value(was: str, now: str, lines: list[str] | None) -> None:
    """Whether anything uses it or not; other spellings, defaults that are written out, and comments are no difference;
    secrets are not shown."""
    assert was in SHOP
    found = told(SHOP.replace(was, now, 1))
    if lines is None:
        lines = ["+ pool unused there", "+ member unused/203.0.113.9 203.0.113.9"]
    assert found == lines
    assert "hush" not in str(found)


def test_objects_that_go_take_nothing_else_along() -> None:
    """A pool stays when the virtual service goes that used it."""
    shop = SHOP[: SHOP.index("[[virtual_service]]")] + SHOP[SHOP.index("[[bgp.peer]]") :]
    assert told(shop) == ["- virtual_service shop"]
    assert [str(one) for one in differences(Document(PATH, {"onward.toml": EXAMPLE}), TWO)] == [
        "+ bgp.peer 2001:db8::1 2001:db8::1",
        "+ network_profile shop there",
        "+ pool shop there",
        "+ member shop/203.0.113.81 203.0.113.81",
        "+ member shop/shop2 203.0.113.82",
        "+ virtual_service shop 198.51.100.80 tcp 8000-8099, 443 -> pool shop",
    ]


def test_files_that_are_named_are_a_part_of_it() -> None:
    """Another secret under the same name."""
    (change,) = differences(TWO, TWO, {"fleet.key": "a", "old": "b"}, {"fleet.key": "c", "new": "d"})
    assert str(change) == "~ file fleet.key: content (as it was) -> (another)"


def test_nothing_is_told_that_cannot_be_seen_and_nothing_is_kept_back() -> None:
    """Passwords and environments change without being shown; lists that read the same are told apart; the order of
    directors decides who takes over; and a value fakes no lines."""
    check = (
        '[[health_monitor]]\nname = "own"\ntype = "external"\nmonitor_port = 80\n'
        'command = ["/bin/a", "b, c"]\nenvironment = { KEYX = "hush" }\n'
    )
    one, two = (f'[[fleet.director]]\nname = "d{i}"\naddress = "192.0.2.1{i}"\n' for i in (1, 2))
    base = Document(PATH, {"onward.toml": EXAMPLE, "conf.d/more.toml": check + one + two})

    def changed(old: str, new: str) -> list[str]:
        assert old in base.texts["conf.d/more.toml"]
        text = base.texts["conf.d/more.toml"].replace(old, new, 1)
        return [str(one) for one in differences(base, Document(PATH, {**base.texts, "conf.d/more.toml": text}))]

    assert changed('"hush"', '"other"') == ["~ health_monitor own: environment.KEYX (secret) -> (another secret)"]
    assert changed('"b, c"', '"b", "c"') == ["~ health_monitor own: command /bin/a, b, c -> /bin/a, b, c (otherwise)"]
    assert changed('"b, c"', '"x\\n- pool web"') == [
        "~ health_monitor own: command /bin/a, b, c -> /bin/a, x\\n- pool web"
    ]
    assert changed(one + two, two + one) == ["~ fleet: order of directors d1, d2 -> d2, d1"]
