"""Topology files: what is accepted, and what is said about the rest."""

from ipaddress import ip_interface
from pathlib import Path

import pytest

from appliance.config.problems import ConfigError
from appliance.lab import topology

ROOT = Path(__file__).resolve().parents[3]


def load(folder: Path, text: str) -> topology.Topology:
    file = folder / "test.clab.yml"
    file.write_text(text)
    return topology.load(file)


def problems(folder: Path, text: str) -> list[str]:
    """What is wrong, without the file's name: `LINE: PATH: MESSAGE; REMEDY`."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    return [str(problem).removeprefix(f"{folder}/test.clab.yml:") for problem in caught.value.problems]


def test_quickstart_file_is_good() -> None:
    """The quickstart topology is read without problems and without warnings."""
    quickstart = topology.load(ROOT / "containerlab" / "quickstart.clab.yml")
    assert quickstart.warnings == ()
    assert {link.mtu for link in quickstart.links} == {1500}
    assert [node.name for node in quickstart.nodes if node.image == "onward" and not node.cmd] == [
        "client",
        "tor",
        "d1",
        "d2",
    ]


def test_layers_merge_like_in_containerlab(tmp_path: Path) -> None:
    """Defaults, kind, group and node apply in this order: maps merge, lists join, a bind to the same "
    "target replaces."""
    for name in ("one", "two"):
        (tmp_path / name).touch()
    found = load(
        tmp_path,
        """
name: t
topology:
  defaults: {env: {A: defaults, B: defaults}, exec: ["first"], image: default}
  kinds: {linux: {env: {B: kind, C: kind}, binds: ["one:/etc/x"], exec: ["second"]}}
  groups: {g: {image: group, env: {C: group, D: true}, exec: ["third 'in one'"]}}
  nodes:
    n: {group: g, exec: ["fourth"], binds: ["two:/etc/x:ro", "one:/etc/y"], env: {E: 5}}
""",
    )
    (node,) = found.nodes
    assert node.env == {"A": "defaults", "B": "kind", "C": "group", "D": "true", "E": "5"}
    assert node.exec == (("first",), ("second",), ("third", "in one"), ("fourth",))
    assert node.image == "group"
    assert {str(bind.target): (bind.source.name, bind.read_only) for bind in node.binds} == {
        "/etc/x": ("two", True),
        "/etc/y": ("one", False),
    }


def test_links_in_both_forms(tmp_path: Path) -> None:
    """Brief and typed links give the same; MAC addresses stay texts; the MTU is 1500 where none is given."""
    found = load(
        tmp_path,
        """
name: t
topology:
  nodes: {a: , b: , sw: , "br0|sw": {kind: bridge, network-mode: "container:sw"}}
  links:
    - {endpoints: ["a:eth1", "b:eth1"], ipv4: [192.0.2.1/24, 192.0.2.2/24], ipv6: ["2001:db8::1/64"]}
    - type: veth
      mtu: 9000
      endpoints:
        - {node: a, interface: eth2, mac: 10:20:30:40:50:51, ipv4: 198.51.100.1/24}
        - {node: "br0|sw", interface: p1}
""",
    )
    brief, typed = found.links
    assert brief.mtu == 1500
    assert brief.a.addresses == (ip_interface("192.0.2.1/24"), ip_interface("2001:db8::1/64"))
    assert brief.b.addresses == (ip_interface("192.0.2.2/24"),)
    assert (typed.mtu, typed.a.mac) == (9000, "10:20:30:40:50:51")
    assert (typed.b.node, typed.b.bridge) == ("sw", "br0")
    assert found.bridges == (topology.Bridge("br0", "sw"),)


def test_every_mistake_is_told_with_line_and_remedy(tmp_path: Path) -> None:
    """One reading tells all mistakes of a file's shape, in the order of lines, each with what to do."""
    assert problems(
        tmp_path,
        """name: t
mgmt: {network: x}
topology:
  nodes:
    a: {kind: nokia_srlinux, licence: x, startup-config: y}
    b: {exce: ["x"]}
  links:
    - endpoints: ["a:eth1"]
    - {endpoints: ["a:eth2", "b:eth2"], type: vxlan, mtu: 20}
    - {endpoints: ["a:eth3", {node: b, interface: eth3, ipv4: 1.2.3.4.5, ipv9: x}]}
""",
    ) == [
        "2: mgmt: not supported by the lab; the lab has no management network; reach nodes with `onward lab exec`",
        (
            '5: topology.nodes.a.kind: nodes of kind "nokia_srlinux" cannot be realised here; use `linux` with '
            "an image, or a "
            "namespaced `bridge`"
        ),
        '5: topology.nodes.a.licence: there is no such key "licence" here; take it out',
        (
            "5: topology.nodes.a.startup-config: not supported by the lab; bind the file to the place where its "
            "program looks "
            "for it"
        ),
        '6: topology.nodes.b.exce: there is no such key "exce" here; did you mean `exec`?',
        (
            "8: topology.links[0].endpoints: a list will not do: List should have at least 2 items after "
            "validation, not 1; "
            "correct it"
        ),
        '9: topology.links[1].type: links of type "vxlan" cannot be realised here; use `veth`, or leave it out',
        "9: topology.links[1].mtu: 20 will not do: greater than or equal to 68; correct it",
        (
            '10: topology.links[2].endpoints[1].ipv4: "1.2.3.4.5" will not do: Input is not a valid IPv4 '
            "interface; correct it"
        ),
        '10: topology.links[2].endpoints[1].ipv9: there is no such key "ipv9" here; did you mean `ipv6`?',
    ]


def test_every_contradiction_is_told(tmp_path: Path) -> None:
    """What needs more than one place to judge: names that lead nowhere, interfaces twice, bad binds and commands."""
    assert problems(
        tmp_path,
        """name: t
topology:
  groups: {member: {}}
  nodes:
    a:
      binds: ["absent:/etc/x", "test.clab.yml:etc/x", "test.clab.yml:/etc/x:rx"]
      exec: ["sh -c 'open"]
      sysctls: {kernel.panic: 1}
      network-mode: host
    b: {group: membre}
    br0: {kind: bridge}
    br1|nobody: {kind: bridge, network-mode: "container:nobody"}
    br2|b: {kind: bridge}
  links:
    - endpoints: ["a:eth1", "b:eth1"]
    - endpoints: ["a:eth1", "c:eth1"]
    - endpoints: ["a:eth2", "no colon"]
    - {endpoints: ["br2|b:p", "b:lo"], ipv4: [192.0.2.1/24]}
""",
    ) == [
        f"6: topology.nodes.a.binds: {tmp_path}/absent does not exist; paths are relative to the topology file",
        (
            '6: topology.nodes.a.binds: "test.clab.yml:etc/x" is no bind; write `SOURCE:/absolute/target` or '
            "`SOURCE:/absolute/target:ro`"
        ),
        '6: topology.nodes.a.binds: "rx" is no option of a bind; use `ro`, or nothing',
        '7: topology.nodes.a.exec: "sh -c \'open" is no command: no closing quotation; close the quotation',
        (
            "8: topology.nodes.a.sysctls.kernel.panic: not a setting of a network namespace; only net.* can be "
            "set for a node"
        ),
        "9: topology.nodes.a.network-mode: only bridges may live in another node's namespace; take it out",
        '10: topology.nodes.b.group: there is no group "membre"; did you mean `member`?',
        (
            "11: topology.nodes.br0: bridges of this machine itself are not touched; call it `br0|NODE` with "
            "`network-mode: "
            "container:NODE`; NODE's namespace then holds the bridge"
        ),
        (
            '12: topology.nodes.br1|nobody: there is no node "nobody" to hold the bridge; call it `br1|NODE` with '
            "`network-mode: container:NODE`; NODE's namespace then holds the bridge"
        ),
        (
            '13: topology.nodes.br2|b.network-mode: "" does not name the bridge\'s node; call it `br2|NODE` with '
            "`network-mode: container:NODE`; NODE's namespace then holds the bridge"
        ),
        '16: topology.links[1].endpoints[1]: there is no node "c"; list it under `nodes`',
        "16: topology.links[1].endpoints[0]: a has an interface eth1 already; rename one",
        (
            '17: topology.links[2].endpoints[1]: "no colon" is no endpoint; write `NODE:INTERFACE`, the '
            "interface at most 15 long"
        ),
        "18: topology.links[3].endpoints[0]: the port of a bridge has no address; leave it empty on this side",
        "18: topology.links[3].endpoints[1]: b has an interface lo already; rename one",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "1: the file is empty; write `name` and `topology`"),
        ("name: [", "1: not YAML: "),
        ("name: t\nname: u\ntopology: {nodes: {a: }}", "2: name: written twice; keep one"),
        ("name: t\ntopology: {nodes: {a: {image: '${X}'}}}", "2: "),
        ("name: t", "1: topology: missing; add it"),
        ("name: t\ntopology: {nodes: {}}", "2: topology.nodes: "),
        ("name: a/b\ntopology: {nodes: {a: }}", '1: name: "a/b" will not do: '),
    ],
)
def test_files_that_are_none(tmp_path: Path, text: str, said: str) -> None:
    """Files without the wanted shape at all give one problem that says so."""
    (problem,) = problems(tmp_path, text)
    assert problem.startswith(said)


def test_missing_file(tmp_path: Path) -> None:
    """A file that is not there is a problem with a place, not a traceback."""
    with pytest.raises(ConfigError, match=r"absent: cannot be read: No such file or directory; name a topology file"):
        topology.load(tmp_path / "absent")


def test_keys_without_meaning_give_warnings(tmp_path: Path) -> None:
    """Keys that a namespace cannot honour but does not need are named in a warning."""
    found = load(tmp_path, "name: t\ntopology: {nodes: {a: {cpu: 2, ports: ['80:80']}}}")
    assert [warning.partition(": ")[2] for warning in found.warnings] == [
        "topology.nodes.a.ports has no meaning for a namespace; ignored",
        "topology.nodes.a.cpu has no meaning for a namespace; ignored",
    ]
