"""GoBGP takes our routes with all their attributes, and takes them back. It has no way into the kernel here."""

import json
import subprocess
import time

import pytest

from tests.netns import namespaces, until, veth
from tests.root.bgp_lab import EBGP, V4, V6, Lab, Speaker, kill_exabgp

pytestmark = pytest.mark.root

CONFIG = """
[global.config]
as = 65000
router-id = "192.0.2.1"

[[neighbors]]
[neighbors.config]
neighbor-address = "192.0.2.11"
peer-as = 65010
[neighbors.transport.config]
passive-mode = true
[[neighbors.afi-safis]]
[neighbors.afi-safis.config]
afi-safi-name = "ipv4-unicast"
[[neighbors.afi-safis]]
[neighbors.afi-safis.config]
afi-safi-name = "ipv6-unicast"
"""

PEER = {"address": "192.0.2.1", "remote_as": 65000}
WISHES = {
    "med": 110,
    "as_path": [65010, 65010],
    "communities": ["65010:7", "65535:0"],
    "large_communities": ["65010:1:7"],
}


@pytest.fixture
def router(tmp_path):
    """GoBGP beside a director's namespace; what it knows comes out of `rib`."""
    (tmp_path / "gobgp.toml").write_text(CONFIG)
    with namespaces("d", "r", prefix="owgo") as (director, space):
        veth(director, "eth1", space, "eth1")
        for where, host in ((director, "11"), (space, "1")):
            where.ip(f"addr add 192.0.2.{host}/24 dev eth1")
            where.ip(f"addr add 2001:db8:1::{host}/64 dev eth1 nodad")
        command = ["gobgpd", "-f", str(tmp_path / "gobgp.toml"), "--pprof-disable", "--api-hosts", "127.0.0.1:50051"]
        with (tmp_path / "gobgpd.log").open("w") as output:
            process = subprocess.Popen(space.command(*command), stdout=output, stderr=output)
        try:
            until(lambda: space.run("ss", "-Hltn", "sport", "=", ":179"), "GoBGP listens", 30.0)
            yield Lab("gobgp", director, space, EBGP | {"neighbors": [PEER]})
        finally:
            process.kill()
            process.wait()


def rib(where, family):
    """By prefix, the attributes of the best path, by their type numbers."""
    found = json.loads(where.router.run("gobgp", "-j", "global", "rib", "-a", family) or "{}")
    return {prefix: {attr["type"]: attr for attr in paths[0]["attrs"]} for prefix, paths in found.items()}


def test_attributes_arrive_and_routes_go(router, tmp_path):
    """MED, path, both kinds of communities, in both families; other attributes replace these; then nothing is left."""
    speaker = Speaker(router, tmp_path / "run")
    try:
        speaker.is_up()
        addresses = [prefix.partition("/")[0] for prefix in (V4, V6)]
        until(lambda: not speaker.refusal("set", *({"vip": vip, **WISHES} for vip in addresses)), "set", 30.0)
        began = time.monotonic()
        for family, prefix in (("ipv4", V4), ("ipv6", V6)):
            known = until(lambda family=family, prefix=prefix: rib(router, family).get(prefix), prefix)
            assert known[2]["as_paths"][0]["asns"] == [65010, 65010]
            assert known[4]["metric"] == 110
            assert sorted(known[8]["communities"]) == [65010 << 16 | 7, 0xFFFF0000]
            assert known[32]["value"] == [{"ASN": 65010, "LocalData1": 1, "LocalData2": 7}]
        print(f"\nset -> GoBGP's RIB {time.monotonic() - began:.3f} s")
        speaker.sets(*addresses)
        for family, prefix in (("ipv4", V4), ("ipv6", V6)):
            until(lambda family=family, prefix=prefix: set(rib(router, family)[prefix]).isdisjoint({4, 8, 32}), "plain")
        speaker.sets()
        until(lambda: not rib(router, "ipv4") and not rib(router, "ipv6"), "withdrawn")
    finally:
        speaker.end()
        kill_exabgp(tmp_path / "run")
