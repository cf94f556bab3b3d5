"""From text to a resolved configuration; files come in as arguments."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from appliance.config.files import MAX_BYTES
from appliance.config.load import load, parse
from appliance.config.problems import ConfigError
from appliance.model import (
    Algorithm,
    Bfd,
    Config,
    Delivery,
    DsrType,
    Encapsulation,
    HashMode,
    MonitorSpec,
    PlaneKind,
    PortRange,
    ProfileType,
    Protocol,
    TtlPolicy,
)
from health.checks import CHECKS
from health.secure import Tls

ROOT = Path(__file__).parents[3]
SECRET = b"0123456789abcdef"

BASE = """\
schema_version = 1
[director]
name = "d1"
interfaces = ["eth1"]
[fleet]
secret_file = "fleet.key"
"""

PROFILE = """
[[network_profile]]
name = "tcp"
type = "tcp_fast_path"
"""

POOL = """
[[pool]]
name = "web"
[[pool.member]]
address = "203.0.113.21"
"""

SERVICE = """
[[virtual_service]]
name = "web"
vips = ["198.51.100.7"]
ports = [80]
network_profile = "tcp"
pool = "web"
"""

BGP = """
[bgp]
local_as = 65010
router_id = "192.0.2.11"
[[bgp.peer]]
address = "192.0.2.1"
remote_as = 65000
"""


def files(**contents: bytes) -> Callable[[str], bytes]:
    def read(name: str) -> bytes:
        if name not in contents:
            raise FileNotFoundError(2, "No such file or directory", name)
        return contents[name]

    return read


def parsed(text: str, secret: bytes = SECRET) -> Config:
    return parse(text, "test.toml", files(**{"fleet.key": secret}))


def messages(text: str, secret: bytes = SECRET) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parsed(text, secret)
    return [str(problem).removeprefix("test.toml") for problem in caught.value.problems]


def test_the_smallest_configuration_has_the_documented_defaults() -> None:
    """What is not written down has the defaults of the seed system."""
    config = parsed(BASE + PROFILE + POOL + SERVICE + BGP)
    assert config.director.plane is PlaneKind.AUTO
    assert config.director.runtime_dir == PurePosixPath("/run/onward")
    assert (str(config.director.api.address), config.director.api.port) == ("127.0.0.1", 8080)
    assert config.secret == SECRET
    (service,) = config.services
    assert service.protocol is Protocol.TCP
    assert service.profile.delivery == Delivery(DsrType.L3, Encapsulation.IPIP, TtlPolicy.ROUTER)
    assert service.profile.session_idle_timeout_s == 300
    assert (service.enabled, service.min_members, service.advertise_down) == (True, 1, False)
    assert not service.needs_all
    assert service.hash_mode is HashMode.FIVE_TUPLE
    (pool,) = config.pools
    assert pool.algorithm is Algorithm.CONSISTENT_HASH
    assert pool.monitors == ()
    (member,) = pool.members
    assert (member.name, member.ratio, member.enabled) == ("203.0.113.21", 1, True)
    assert config.bgp is not None
    assert config.bgp.next_hop_v4 is None
    assert config.bgp.peers[0].hold_time_s == 9


def test_bfd_is_off_until_asked_for_and_has_defaults_then() -> None:
    """An empty table is enough: 100 ms, three of them, one hop, active."""
    assert parsed(BASE + BGP).bgp.peers[0].bfd is None  # type: ignore[union-attr]
    config = parsed(BASE + BGP.replace("remote_as = 65000", "remote_as = 65000\nbfd = {}"))
    assert config.bgp is not None
    assert config.bgp.peers[0].bfd == Bfd(0.1, 3, multihop=False, passive=False)
    assert config.bgp.peers[0].bfd.detection_s == pytest.approx(0.3)


def test_without_a_hold_time_bfd_may_be_slow() -> None:
    """Only then nothing else would tell sooner."""
    slow = "remote_as = 65000\nhold_time = 0\nbfd = { interval = 10, multiplier = 255 }"
    assert parsed(BASE + BGP.replace("remote_as = 65000", slow)).bgp is not None


def test_a_director_without_services_and_bgp_is_legal() -> None:
    """It forwards and announces nothing, but it can be started and reloaded."""
    config = parsed(BASE)
    assert config.services == ()
    assert config.bgp is None


def test_references_become_the_things_they_name() -> None:
    """Two virtual services with one pool hold the same pool, with its monitors in the order of the list."""
    monitors = "".join(f'\n[[health_monitor]]\nname = "{name}"\ntype = "tcp"\nmonitor_port = 80\n' for name in "ab")
    pool = POOL.replace('name = "web"', 'name = "web"\nhealth_monitors = ["b", "a"]')
    second = SERVICE.replace('name = "web"', 'name = "more"').replace("[80]", '[81, "90-99", "*"]')
    config = parsed(BASE + PROFILE + monitors + pool + SERVICE + second)
    assert config.services[0].pool is config.services[1].pool
    assert [monitor.name for monitor in config.services[0].pool.monitors] == ["b", "a"]
    assert config.services[1].ports == (PortRange(81, 81), PortRange(90, 99), PortRange(1, 65535))
    assert len(config.pools) == 1


def test_l2_has_neither_encapsulation_nor_a_hop() -> None:
    """L2 DSR leaves the IP packet alone, and hashes the source address by default."""
    config = parsed(BASE + PROFILE + 'dsr = { type = "l2" }\n' + POOL + SERVICE)
    assert config.services[0].profile.delivery == Delivery(DsrType.L2, None, TtlPolicy.TRANSPARENT)
    assert config.services[0].hash_mode is HashMode.SOURCE_IP


def test_the_seed_systems_profile_is_accepted_as_it_is() -> None:
    """Someone who comes from the seed system can copy its words."""
    profile = PROFILE.replace("tcp_fast_path", "PROTOCOL_TYPE_UDP_FAST_PATH")
    config = parsed(
        BASE + profile + 'dsr = { dsr_type = "dsr_type_l3", dsr_encap_type = "encap_ipinip" }\n' + POOL + SERVICE
    )
    assert config.services[0].profile.type is ProfileType.UDP_FAST_PATH
    assert config.services[0].profile.session_idle_timeout_s == 10
    assert config.services[0].profile.delivery.encapsulation is Encapsulation.IPIP


def test_monitor_settings_are_those_given() -> None:
    """Requests and responses are bytes, escapes included; what is not given is not there."""
    monitor = (
        '[[health_monitor]]\nname = "m"\ntype = "udp"\nmonitor_port = 53\nrequest = "a\\r\\nü"\nsend_interval = 1\n'
    )
    pool = POOL.replace('name = "web"', 'name = "web"\nhealth_monitors = ["m"]')
    (spec,) = parsed(BASE + PROFILE + monitor + pool + SERVICE).pools[0].monitors
    assert (spec.kind, spec.monitor_port, spec.rise, spec.fall) == ("udp", 53, 2, 2)
    assert spec.settings == (("request", "a\r\nü".encode()),)
    assert (spec.send_interval_s, spec.receive_timeout_s) == (1.0, 0.8)


def test_the_default_time_limit_of_a_check_is_four_seconds_where_the_interval_allows() -> None:
    """Changing send_interval alone never makes a valid file invalid."""
    monitor = '[[health_monitor]]\nname = "m"\ntype = "tcp"\n'
    pool = POOL.replace('name = "web"', 'name = "web"\nhealth_monitors = ["m"]')
    (spec,) = parsed(BASE + PROFILE + monitor + pool + SERVICE).pools[0].monitors
    assert (spec.send_interval_s, spec.receive_timeout_s) == (10.0, 4.0)


# ---------------------------------------------------------------------------------------------------------------------
# What is legal although it looks like a mistake


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("[80]", '["80-90"]'),
        ('["80-90"]', '["*"]'),
        ("[80]", '["*"]'),
        ('["80-90"]', '["85-100"]'),
        ('["80-90"]', '["91-101"]'),
    ],
)
def test_of_two_that_contain_a_port_the_narrower_wins(first: str, second: str) -> None:
    """Exact beats range beats wildcard, and of two ranges the narrower wins, so all these have one meaning."""
    other = SERVICE.replace('name = "web"', 'name = "more"').replace("[80]", second)
    assert len(parsed(BASE + PROFILE + POOL + SERVICE.replace("[80]", first) + other).services) == 2


def test_tcp_and_udp_share_a_port() -> None:
    """The protocol is part of what a virtual service is."""
    udp = '[[network_profile]]\nname = "udp"\ntype = "udp_fast_path"\n'
    other = SERVICE.replace('name = "web"', 'name = "more"').replace('"tcp"', '"udp"')
    assert len(parsed(BASE + PROFILE + udp + POOL + SERVICE + other).services) == 2


def test_a_virtual_service_that_is_not_enabled_claims_no_port() -> None:
    """So its successor can be prepared beside it."""
    other = SERVICE.replace('name = "web"', 'name = "next"\nenabled = false')
    assert len(parsed(BASE + PROFILE + POOL + SERVICE + other).services) == 2


@pytest.mark.parametrize(
    "bgp",
    [
        BGP.replace('"192.0.2.1"', '"2001:db8::1"').replace("local_as", 'next_hop_v4 = "192.0.2.11"\nlocal_as'),
        BGP + '[[bgp.peer]]\naddress = "2001:db8::1"\nremote_as = 65000\n',
    ],
)
def test_a_vip_has_a_next_hop_by_session_or_by_word(bgp: str) -> None:
    """A session of the VIP's family gives one, and so does the configuration."""
    assert parsed(BASE + PROFILE + POOL + SERVICE + bgp).bgp is not None


def test_an_ipv4_vip_over_ipv6_sessions_needs_a_next_hop_too() -> None:
    """The rule holds for both families."""
    (message,) = messages(BASE + PROFILE + POOL + SERVICE + BGP.replace('"192.0.2.1"', '"2001:db8::1"'))
    assert "over IPv6 sessions only" in message
    assert "set next_hop_v4 in [bgp]" in message


# ---------------------------------------------------------------------------------------------------------------------
# Mistakes that do not fit into a file of bad_configs


def test_one_mistake_does_not_hide_another() -> None:
    """A value that cannot be read, an unknown reference beside it and a contradiction elsewhere come together."""
    text = BASE + PROFILE + POOL + SERVICE.replace("[80]", "[0]").replace('pool = "web"', 'pool = "w"\nmin_members = 0')
    found = messages(text, b"short")
    assert [message.split(": ")[1] for message in found] == [
        "fleet.secret_file",
        "virtual_service[0].ports[0]",
        "virtual_service[0].pool",
        "virtual_service[0].min_members",
    ]


def test_all_mistakes_of_one_list_are_reported() -> None:
    """Every element is judged."""
    found = messages(BASE + PROFILE + POOL + SERVICE.replace('["198.51.100.7"]', '["::", 1, "x", "198.51.100.7/32"]'))
    assert [message.split(": ")[1][-3:] for message in found] == ["[0]", "[1]", "[2]", "[3]"]


@pytest.mark.parametrize("key", ["director", "fleet", "api", "bgp", "network_profile", "pool", "virtual_service"])
@pytest.mark.parametrize("value", ["1", '"x"', "[]", "[1]", "[[]]", "{}", "[{}]", "1979-05-27", "true"])
def test_a_table_of_the_wrong_kind_is_a_mistake_and_no_accident(key: str, value: str) -> None:
    """Whatever stands where a table is wanted, the answer is a message with line and remedy."""
    text = "schema_version = 1\n" + f"{key} = {value}\n"
    with pytest.raises(ConfigError) as caught:
        parsed(text)
    assert all(problem.line in (1, 2) and problem.remedy for problem in caught.value.problems)


def test_secret_is_taken_without_the_white_space_around_it() -> None:
    """Editors and `base64` end files with a line end."""
    assert parsed(BASE, b" 0123456789abcdef\n").secret == SECRET
    assert "has 15 bytes, 16 are needed" in messages(BASE, b"  0123456789abcde\n\n")[0]


def test_an_unreadable_secret_is_reported_with_the_reason() -> None:
    """Permission is not absence."""

    def refuse(name: str) -> bytes:
        raise PermissionError(13, "Permission denied", name)

    with pytest.raises(ConfigError, match=r"fleet\.secret_file: \"fleet\.key\": permission denied; make it readable"):
        parse(BASE, "test.toml", refuse)


def test_another_schema_version_is_the_only_complaint() -> None:
    """The keys of another version would all be wrong here."""
    found = messages(BASE.replace("= 1", "= 7") + "[anything]\nelse = 1\n")
    assert found == [
        ":1: schema_version: schema version 7 is not supported; this version reads schema_version = 1",
    ]


def test_the_digest_changes_with_text_and_secret() -> None:
    """Equal digests mean that a reload has nothing to do, so a new secret must change it."""
    digests = {parsed(BASE).digest, parsed(BASE + "\n").digest, parsed(BASE, SECRET + b"g").digest}
    assert len(digests) == 3
    assert parsed(BASE).digest == parsed(BASE).digest


def test_secrets_stay_out_of_representations() -> None:
    """Configurations are logged."""
    config = parsed(BASE + BGP.replace("remote_as = 65000", 'remote_as = 65000\npassword = "hidden"'))
    assert config.bgp is not None
    assert config.bgp.peers[0].password == "hidden"
    assert "hidden" not in repr(config)
    assert SECRET.decode() not in repr(config)


# ---------------------------------------------------------------------------------------------------------------------
# Files


def written(folder: Path, content: bytes) -> Path:
    (folder / "fleet.key").write_bytes(SECRET)
    path = folder / "onward.toml"
    path.write_bytes(content)
    return path


def test_the_secret_is_looked_up_beside_the_configuration(tmp_path: Path) -> None:
    """The working directory makes no difference; absolute names are taken as they are."""
    assert load(written(tmp_path, BASE.encode())).secret == SECRET
    absolute = BASE.replace("fleet.key", str(tmp_path / "fleet.key"))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "other.toml").write_text(absolute)
    assert load(tmp_path / "sub" / "other.toml").secret == SECRET


def test_windows_files_are_read(tmp_path: Path) -> None:
    """A byte order mark and CR LF are no mistakes, and lines are counted right."""
    content = b"\xef\xbb\xbf" + BASE.replace("\n", "\r\n").encode()
    assert load(written(tmp_path, content)).director.name == "d1"
    with pytest.raises(ConfigError, match=r"onward\.toml:7: fleet\.x: unknown key"):
        load(written(tmp_path, content + b"x = 1\r\n"))


@pytest.mark.parametrize(
    ("content", "place", "message"),
    [
        (b"", "", "the file is empty"),
        (b" \n\t\n", "", "the file is empty"),
        (b"a = 1\n\xff\xfe\n", ":2", "byte 6 is not UTF-8 text"),
        (b"a = 1\n\nb = '\0'\n", ":3", "a NUL byte"),
        (b"a = [1,\n2,\n\n", ":2", "at the end of the file; complete this line"),
        (b"a = " + b"[" * 20000, "", "nested too deeply"),
        (b"a = 1" + b"0" * 5000, "", "not TOML: exceeds the limit"),
        (b"#" * (MAX_BYTES + 1), "", "more than 16 MiB"),
    ],
)
def test_what_is_no_configuration_at_all(tmp_path: Path, content: bytes, place: str, message: str) -> None:
    """Empty files, binary junk and broken TOML are one message with a remedy, not a traceback."""
    path = written(tmp_path, content)
    with pytest.raises(ConfigError) as caught:
        load(path)
    (problem,) = caught.value.problems
    assert str(problem).startswith(f"{path}{place}: ")
    assert message in str(problem)
    assert problem.remedy


def test_a_path_that_leads_nowhere(tmp_path: Path) -> None:
    """Missing files, folders and files as folders are named as what they are."""
    for path, message in (
        (tmp_path / "absent.toml", "no such file"),
        (tmp_path, "this is a folder"),
        (written(tmp_path, b"x") / "below", "cannot be read: Not a directory"),
    ):
        with pytest.raises(ConfigError, match=message):
            load(path)


@pytest.mark.parametrize("name", ["onward.toml", "fleet.key"])
def test_a_fifo_is_refused_at_once(tmp_path: Path, name: str) -> None:
    """Nobody writes into it, so a program that tried to read would wait for ever, and a reload with it."""
    path = written(tmp_path, BASE.encode())
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    command = [sys.executable, "-m", "appliance", "check", str(path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    messages = {
        "onward.toml": f"{path}: this is not a regular file; give the path of a file; `onward check -` reads",
        "fleet.key": f'{path}:6: fleet.secret_file: "fleet.key": not a regular file; keep the key in a file; make one',
    }
    assert run.stderr.startswith(messages[name])
    assert run.returncode == 4


def test_a_device_is_no_configuration() -> None:
    """It may have no end, or do something when it is opened."""
    with pytest.raises(ConfigError, match=r"^/dev/null: this is not a regular file; "):
        load(Path("/dev/null"))


def test_links_to_files_are_followed(tmp_path: Path) -> None:
    """Configurations are often kept elsewhere and linked to."""
    path = written(tmp_path, BASE.encode())
    (tmp_path / "fleet.key").rename(tmp_path / "key")
    (tmp_path / "fleet.key").symlink_to("key")
    (tmp_path / "link.toml").symlink_to(path)
    assert load(tmp_path / "link.toml").secret == SECRET


# ---------------------------------------------------------------------------------------------------------------------
# Properties

WHOLE = (BASE + BGP + PROFILE + 'dsr = { type = "l3", encapsulation = "ipip" }\n' + POOL + SERVICE).splitlines()
LITERALS = st.one_of(
    st.integers(-1, 70000).map(str),
    st.sampled_from(
        [
            "true",
            "nan",
            "-inf",
            "0.5",
            '""',
            '"x"',
            '"*"',
            '"192.0.2.1"',
            '"2001:db8::1"',
            '"l2"',
            "[]",
            "{}",
            "[[]]",
            "[{}]",
            '["198.51.100.7", 1]',
            "{ type = [] }",
            "1979-05-27",
            "07:32:00",
            '"80-90"',
            '["web"]',
            '"""\n\n"""',
        ]
    ),
)


@given(
    st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), LITERALS), min_size=1, max_size=4), st.sets(st.integers(0, 40))
)
def test_any_mutilated_file_is_used_or_refused_with_places(changes: list[tuple[int, str]], cut: set[int]) -> None:
    """Wrong values and missing lines anywhere give a configuration or problems with line and remedy; nothing else."""
    lines = list(WHOLE)
    for number, literal in changes:
        key, equals, _ = lines[number].partition(" = ")
        if equals:
            lines[number] = f"{key} = {literal}"
    text = "\n".join(line for number, line in enumerate(lines) if number not in cut)
    try:
        config = parsed(text)
    except ConfigError as error:
        problems = error.problems
    else:
        assert config.director.name
        return
    last = text.count("\n") + 1
    assert problems
    for problem in problems:
        assert problem.message
        assert problem.remedy
        assert problem.line is None or 1 <= problem.line <= last


def monitors(text: str) -> list[MonitorSpec]:
    """The health monitors of a file, in order, all used by one pool."""
    names = re.findall('name = "(m[0-9]*)"', text)
    pool = POOL.replace('name = "web"', f'name = "web"\nhealth_monitors = {json.dumps(names)}')
    return list(parsed(BASE + PROFILE + text + pool + SERVICE).pools[0].monitors)


def test_health_monitors_of_every_kind() -> None:
    """What stands in the file is what the check is told, and what does not is left to the check."""
    specs = monitors(
        """
[[health_monitor]]
name = "m1"
type = "tcp"
half_open = true
quick_start = false
[[health_monitor]]
name = "m2"
type = "https"
host = "www.example.com:8443"
response_codes = ["2xx", 404, "300-302", "any"]
maintenance_codes = [503]
response = "fine"
maintenance_response = "soon"
tls_verify = false
[[health_monitor]]
name = "m3"
type = "dns"
query_name = "www.example.com"
record_type = "aaaa"
rcode = "any"
transport = "TCP"
qtype = "DNS_ANY_TYPE"
[[health_monitor]]
name = "m4"
type = "external"
command = ["/bin/check", "a b"]
environment = { B = "2", A = "1" }
exit_status = 3
[[health_monitor]]
name = "m5"
type = "grpc"
service = "shop.Cart"
[[health_monitor]]
name = "m6"
type = "grpc"
tls = true
server_name = "shop.example.com"
[[health_monitor]]
name = "m7"
type = "tls"
expiry_warning_days = 14
[[health_monitor]]
name = "m8"
type = "HEALTH_MONITOR_PING"
[[health_monitor]]
name = "m9"
type = "https"
host = "192.0.2.7"
"""
    )
    assert [spec.kind for spec in specs] == ["tcp", "https", "dns", "external", "grpc", "grpc", "tls", "ping", "https"]
    assert [spec.quick_start for spec in specs] == [False] + [True] * 8
    assert [dict(spec.settings) for spec in specs] == [
        {"half_open": True},
        {
            "host": "www.example.com:8443",
            "codes": ((200, 299), (404, 404), (300, 302), (100, 599)),
            "maintenance_codes": ((503, 503),),
            "response": b"fine",
            "maintenance_response": b"soon",
            "tls": Tls(verify=False, server_name="www.example.com"),
        },
        {
            "query_name": "www.example.com",
            "record_type": "AAAA",
            "rcode": "ANY",
            "transport": "tcp",
            "qtype": "any_type",
        },
        {"command": ("/bin/check", "a b"), "environment": (("A", "1"), ("B", "2")), "exit_status": 3},
        {"service": "shop.Cart"},
        {"tls": Tls(server_name="shop.example.com")},
        {"tls": Tls(), "expiry_warning_days": 14},
        {},
        {"host": "192.0.2.7", "tls": Tls()},
    ]
    for spec in specs:
        check = CHECKS[spec.kind](timeout_s=spec.receive_timeout_s, **dict(spec.settings))
        assert hash(spec.settings), check


def test_ping_needs_no_port() -> None:
    """A virtual service on every port leaves all monitors but ping without one to ask."""
    wildcard = SERVICE.replace("ports = [80]", 'ports = ["*"]')
    pool = POOL.replace('name = "web"', 'name = "web"\nhealth_monitors = ["m"]')
    for kind, wrong in (("ping", False), ("tcp", True)):
        text = BASE + PROFILE + f'[[health_monitor]]\nname = "m"\ntype = "{kind}"\n' + pool + wildcard
        if wrong:
            assert "without a port to ask" in messages(text)[0]
        else:
            assert parsed(text).pools


def test_certificates_that_cannot_be_used(tmp_path: Path) -> None:
    """A running director must not stumble over them: content, pairs of certificate and key, and missing files."""
    authority = trustme.CA()
    one, two = authority.issue_cert("one.example.com"), authority.issue_cert("two.example.com")
    ca, cert, key, other = (tmp_path / name for name in ("ca.pem", "cert.pem", "key.pem", "other.pem"))
    authority.cert_pem.write_to_path(str(ca))
    one.cert_chain_pems[0].write_to_path(str(cert))
    one.private_key_pem.write_to_path(str(key))
    two.private_key_pem.write_to_path(str(other))

    def monitor(**names: Path) -> str:
        keys = "".join(f"{name} = {json.dumps(str(path))}\n" for name, path in names.items())
        return BASE + f'[[health_monitor]]\nname = "m"\ntype = "tls"\n{keys}'

    parsed(monitor(ca_file=ca, cert_file=cert, key_file=key))
    (message,) = messages(monitor(ca_file=key))
    assert "health_monitor[0].ca_file: " in message
    assert " cannot be used: no certificate or crl found; " in message
    assert message.endswith("; use PEM files, the key without a password")
    (message,) = messages(monitor(ca_file=ca, cert_file=cert, key_file=other))
    assert "health_monitor[0].cert_file: " in message
    assert " cannot be used: key values mismatch; " in message
    (message,) = messages(monitor(ca_file=ca, cert_file=cert, key_file=tmp_path / "none.pem"))
    assert message.endswith(": no such file or directory; name a file that can be read")


def test_who_only_checks_may_be_kept_from_a_key(tmp_path: Path) -> None:
    """A key that this user may not read is told instead of complained about; the daemon will read it."""
    key = tmp_path / "key.pem"
    key.write_text("secret")
    key.chmod(0)
    text = BASE + f'[[health_monitor]]\nname = "m"\ntype = "tls"\ncert_file = "{key}"\n'
    program = (
        "import sys; from appliance.config.load import parse\n"
        "kept = []\n"
        "parse(sys.argv[1], 'test.toml', lambda name: b'0123456789abcdef', kept.append)\n"
        "print(kept)\n"
    )
    command = [sys.executable, "-c", program, text]
    if os.geteuid() == 0:
        command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"['{key}']"
