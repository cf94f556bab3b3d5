"""HAProxy's configuration follows from ours, and HAProxy takes it."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.config.load import load, parse
from appliance.model import Algorithm, Config, Member, MonitorSpec, Proxy
from appliance.tier2 import haproxy
from appliance.tier2.node import NodeError, _orders, plan_of_node, servings
from tests import golden

LAB = Path(__file__).parents[3] / "containerlab" / "tier2"
PATHS = haproxy.Paths("/run/onward/haproxy.sock", "/run/onward/haproxy-master.sock")


def config(folder: Path, who: str = "t1") -> Config:
    """That of the lab, as its nodes have it."""
    (folder / "conf.d").mkdir()
    main = folder / "onward.toml"
    main.write_text((LAB / who / "onward.toml").read_text().replace("/etc/fleet.key", str(LAB / "fleet.key")))
    for file in (LAB / "shared").glob("*.toml"):
        (folder / "conf.d" / file.name).write_text(file.read_text())
    return load(main)


@pytest.fixture
def node(tmp_path: Path) -> Config:
    return config(tmp_path)


def with_members(proxy: Proxy, *members: Member, **pool: object) -> Proxy:
    return replace(proxy, pool=replace(proxy.pool, members=members or proxy.pool.members, **pool))  # type: ignore[arg-type]


def test_text(node: Config, tmp_path: Path) -> None:
    """The file as it was when somebody last read it; HAProxy finds no mistake in it."""
    text = haproxy.text(node.proxies, PATHS)
    golden.check("tier2/haproxy.cfg", text)
    (tmp_path / "haproxy.cfg").write_text(text)
    checked = subprocess.run(
        ["haproxy", "-c", "-f", str(tmp_path / "haproxy.cfg")], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert "warning" not in checked.stderr.lower()


def test_what_back_ends_have_is_said(node: Config) -> None:
    """Ratios, limits, who is disabled, slow start, TLS, the algorithm."""
    back = (
        Member("big", node.proxies[0].pool.members[0].address, 1000, max_connections=7),
        Member("small", node.proxies[0].pool.members[1].address, 1, enabled=False),
    )
    proxy = with_members(node.proxies[0], *back, algorithm=Algorithm.LEAST_CONNECTIONS, slow_start_s=30.0)
    text = haproxy.text((replace(proxy, certificate="/etc/www.pem", server_port=None),), PATHS)
    assert "bind ipv4@198.51.100.10:80 ssl crt /etc/www.pem alpn h2,http/1.1" in text
    assert "balance leastconn" in text
    assert "server big ipv4@203.0.113.105 weight 256 check" in text
    assert "maxconn 7 slowstart 30s" in text
    assert text.splitlines()[-1].endswith("weight 1 check inter 1000ms fall 2 rise 1 port 80 slowstart 30s disabled")


def test_what_it_has_no_words_for_is_refused(node: Config) -> None:
    """All at once: an algorithm that measures, two monitors, and one that asks otherwise."""
    dns = MonitorSpec("names", "dns", 1, 1, 1, 1, None)
    pool = node.proxies[0].pool
    proxy = with_members(node.proxies[0], algorithm=Algorithm.LEAST_LOAD, monitors=(*pool.monitors, dns))
    with pytest.raises(haproxy.ProxyError) as error:
        haproxy.text((proxy,), PATHS)
    assert [problem.partition(";")[0] for problem in error.value.problems] == [
        "pool back-ends: least_load is not for proxies",
        "health monitor names: a proxy asks by tcp or http, not by dns",
        "pool back-ends: a proxy has one health monitor",
    ]


def test_what_monitors_ask_for_is_said_or_refused() -> None:
    """Codes as they are written in the configuration; what HAProxy cannot look at is refused, not left out."""

    def with_monitor(kind: str, keys: str) -> str:
        text = (LAB / "t1" / "onward.toml").read_text().replace("/etc/fleet.key", str(LAB / "fleet.key"))
        services = "".join(file.read_text() for file in sorted((LAB / "shared").glob("*.toml")))
        services = services.replace('health_monitors = ["page"]', 'health_monitors = ["own"]')
        monitor = f'\n[[health_monitor]]\nname = "own"\ntype = "{kind}"\n{keys}\n'
        made = parse(text + services + monitor, "onward.toml", lambda _: b"0" * 32)
        return haproxy.text(made.proxies[:1], PATHS)

    text = with_monitor("http", 'response_codes = ["200-299", 404]\nmethod = "HEAD"\npath = "/up"\nhost = "www"')
    assert "http-check expect status 200-299,404\n" in text
    assert "http-check send meth HEAD uri /up ver HTTP/1.1 hdr Host www\n" in text
    with pytest.raises(haproxy.ProxyError, match="own: a proxy has no words for response, maintenance_codes"):
        with_monitor("http", 'response = "well"\nmaintenance_codes = [503]')
    with pytest.raises(haproxy.ProxyError, match="own: a proxy has no words for request, response"):
        with_monitor("tcp", 'request = "ping"\nresponse = "pong"')


def test_shares_are_told_to_the_process_that_runs(node: Config) -> None:
    """Another ratio is another weight, disabled is drained, and what is as before is not said."""
    one, two = node.proxies[0].pool.members
    before = (with_members(node.proxies[0], replace(one, ratio=2), two),)
    after = (with_members(node.proxies[0], replace(one, ratio=3, enabled=False), two),)
    assert list(_orders(before, after)) == [
        "set server back-web-proxy/b1 weight 3",
        "set server back-web-proxy/b1 state drain",
    ]
    assert list(_orders(after, after)) == []


def test_a_node_needs_what_its_directors_send(node: Config, tmp_path: Path) -> None:
    """VIPs, tunnels of both families by its own addresses, MSS; and a director's configuration is refused."""
    plan = plan_of_node(node)
    assert list(map(str, plan.addresses)) == ["203.0.113.71", "2001:db8:3::71"]
    assert dict(plan.protocols) == {4: (4, 41), 6: (4, 41)}
    assert {str(vip): size for vip, size in plan.mss.items()} == {"198.51.100.10": 1420, "2001:db8:f::10": 1400}
    assert [(one.proxy.name, one.service.name) for one in servings(node)] == [
        ("web-proxy", "web"),
        ("stream-proxy", "stream"),
    ]
    (tmp_path / "director").mkdir()
    with pytest.raises(NodeError, match=r'needs role = "tier2"'):
        plan_of_node(config(tmp_path / "director", "d1"))
