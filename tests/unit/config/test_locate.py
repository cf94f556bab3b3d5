"""The locator finds the line of every key of a valid TOML text."""

import tomllib
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from appliance.config.locate import Lines
from appliance.config.problems import Location

TORTURE = '''\
# a comment with [brackets] = "quotes"
title = "one # no comment [x]"   # comment ] } "

[a.b] # comment
c.d = 1
c."e f" = 'lit'
literal = 'C:\\'
basic = "escaped \\" quote \\\\"
"quoted \\u0041\\t" = 2

multi = """
key = "inside"
[[no]] \\""" still ""
"""
after_multi = 3
quotes = """x"""""
literal_multi = \'\'\'
it's "fine"
\\\'\'\'
list = [ # comment ]
  1, "two, ]", [ 3,
    4 ],
  { x = 1, y = { z = [ "}" ] } }, # trailing comma
]
date = 1979-05-27 07:32:00Z
float = -inf

[[things]]
name = "first"
  [things.inner]
  deep = true
  [[things.parts]]
  n = 1
  [[things.parts]]
  n = 2

[[things]]
name = "second"
parts = [{n = 3}]
'''


def leaves(value: object, location: Location = ()) -> Iterator[Location]:
    if location:
        yield location
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, (*location, key))
    if isinstance(value, list):
        for i, part in enumerate(value):
            yield from leaves(part, (*location, i))


def line_of(fragment: str) -> int:
    (number,) = [n for n, line in enumerate(TORTURE.splitlines(), 1) if line.strip().startswith(fragment)]
    return number


def test_every_kind_of_key_and_value_is_passed_over_correctly() -> None:
    """Strings of all four kinds, nested lists and inline tables, comments and dates do not lead the scanner astray."""
    tomllib.loads(TORTURE)
    lines = Lines(TORTURE)
    for location, fragment in {
        ("title",): "title",
        ("a",): "[a.b]",
        ("a", "b", "c"): "c.d",
        ("a", "b", "c", "e f"): 'c."e f"',
        ("a", "b", "quoted A\t"): '"quoted',
        ("a", "b", "multi"): "multi",
        ("a", "b", "after_multi"): "after_multi",
        ("a", "b", "literal_multi"): "literal_multi",
        ("a", "b", "list", 1): '1, "two',
        ("a", "b", "list", 2, 1): "4 ]",
        ("a", "b", "list", 3, "y", "z", 0): "{ x = 1",
        ("a", "b", "float"): "float",
        ("things", 0, "name"): 'name = "first"',
        ("things", 0, "inner", "deep"): "deep",
        ("things", 0, "parts", 1, "n"): "n = 2",
        ("things", 1, "name"): 'name = "second"',
        ("things", 1, "parts", 0, "n"): "parts = [{n = 3}]",
    }.items():
        assert lines.of(location) == line_of(fragment), location


def test_what_is_not_there_is_placed_at_the_table_around_it() -> None:
    """A missing key has the line of its table's header; a missing table that of the file's beginning."""
    lines = Lines(TORTURE)
    assert lines.of(("things", 0, "inner", "absent")) == line_of("[things.inner]")
    assert lines.of(("things", 1, "absent", 3)) == 37
    assert lines.of(("absent",)) == 1


def test_windows_line_ends_count_once() -> None:
    """CR LF is one line end."""
    assert Lines("a = 1\r\nb = [\r\n 2,\r\n 3]\r\n").of(("b", 1)) == 4


VALUES = st.sampled_from(
    [
        "1",
        "-0.5e3",
        "true",
        '"plain"',
        '"] } , # \\" ="',
        "'\\'",
        '"""\nx = 1\n""\n\\"""\n"""',
        "'''\n[[pool]]\n'\n'''",
        '""',
        '""""a"""""',
        "1979-05-27 07:32:00",
        "[]",
        "[\n1, # ]\n[2,\n3],\n]",
        "{}",
        '{ a = 1, "b.c" = [1, 2], d.e = "}" }',
    ]
)


@given(
    st.lists(st.tuples(st.sampled_from(["table", "array", "plain", "dotted", "quoted", "blank"]), VALUES), max_size=20)
)
def test_every_key_of_any_text_has_its_own_line(statements: list[tuple[str, str]]) -> None:
    """Whatever stands in a text, each key is found on the line where it was written."""
    text, wanted = "", {}
    table: Location = ()
    arrays = 0
    for i, (kind, value) in enumerate(statements):
        line = text.count("\n") + 1
        if kind == "table":
            table = (f"t{i}",)
            text += f"[t{i}] # [x]\n"
            wanted[table] = line
        elif kind == "array":
            table = ("all", arrays)
            arrays += 1
            text += " [[ all ]]\n"
            wanted[table] = line
        elif kind == "blank":
            text += "\n # x = [\n"
        else:
            written, key = {
                "plain": (f"k{i}", (f"k{i}",)),
                "dotted": (f"k{i} . sub", (f"k{i}", "sub")),
                "quoted": (f'"k. {i}"', (f"k. {i}",)),
            }[kind]
            text += f"{written} = {value}\n"
            wanted[(*table, *key)] = line
    data = tomllib.loads(text)
    lines = Lines(text)
    assert {location: lines.of(location) for location in wanted} == wanted
    assert set(leaves(data)) <= set(lines.offsets)
