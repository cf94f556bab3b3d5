"""Single values are read strictly, in the project's words and in the seed system's."""

import ssl
from collections.abc import Callable
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.config import monitors, values
from appliance.config.problems import BadValueError
from appliance.config.schema import MonitorTable
from appliance.model import Algorithm, DfPolicy, DsrType, Encapsulation, HashMode, OuterSource, PortRange, ProfileType
from health.checks import CHECKS, tcp, udp
from health.checks.external import OUTPUT_BYTES


@pytest.mark.parametrize(
    ("parse", "written", "meant"),
    [
        (values.profile_type, "PROTOCOL_TYPE_TCP_FAST_PATH", ProfileType.TCP_FAST_PATH),
        (values.profile_type, "protocol_type_udp_fast_path", ProfileType.UDP_FAST_PATH),
        (values.profile_type, "udp_fast_path", ProfileType.UDP_FAST_PATH),
        (values.dsr_type, "DSR_TYPE_L3", DsrType.L3),
        (values.dsr_type, "dsr_type_l2", DsrType.L2),
        (values.dsr_type, "l2", DsrType.L2),
        (values.encapsulation, "ENCAP_IPINIP", Encapsulation.IPIP),
        (values.encapsulation, "encap_ipinip", Encapsulation.IPIP),
        (values.encapsulation, "ipip", Encapsulation.IPIP),
        (values.encapsulation, "ENCAP_GRE", Encapsulation.GRE),
        (values.encapsulation, "gue", Encapsulation.GUE),
        (values.outer_df, "clear", DfPolicy.CLEAR),
        (values.outer_source, "prefix", OuterSource.PREFIX),
        (values.algorithm, "LB_ALGORITHM_CONSISTENT_HASH", Algorithm.CONSISTENT_HASH),
        (values.hash_mode, "LB_ALGORITHM_CONSISTENT_HASH_SOURCE_IP_ADDRESS", HashMode.SOURCE_IP),
        (values.hash_mode, "LB_ALGORITHM_CONSISTENT_HASH_SOURCE_IP_ADDRESS_AND_PORT", HashMode.SOURCE_IP_PORT),
        (values.hash_mode, "five_tuple", HashMode.FIVE_TUPLE),
        (monitors.kind, "HEALTH_MONITOR_TCP", monitors.Kind.TCP),
    ],
)
def test_the_seed_systems_words_are_understood(parse: Callable[[object], object], written: str, meant: object) -> None:
    """Upper and lower case, with and without the seed system's prefix, mean the same."""
    assert parse(written) is meant


@pytest.mark.parametrize(
    ("parse", "word"),
    [
        (values.encapsulation, "ENCAP_GENEVE"),
        (values.encapsulation, "vxlan"),
        (values.algorithm, "topology"),
        (values.algorithm, "LB_ALGORITHM_NEAREST_SERVER"),
        (monitors.kind, "HEALTH_MONITOR_SMTP"),
        (values.profile_type, "PROTOCOL_TYPE_SCTP_FAST_PATH"),
    ],
)
def test_what_is_not_built_yet_is_named_as_such(parse: Callable[[object], object], word: str) -> None:
    """A word that the field knows but this version does not is no typing error, and what works is named."""
    with pytest.raises(BadValueError) as caught:
        parse(word)
    assert "not supported in this version" in caught.value.message
    assert caught.value.remedy.startswith('supported: "')


@pytest.mark.parametrize(
    ("written", "ports"),
    [
        (1, PortRange(1, 1)),
        (65535, PortRange(65535, 65535)),
        ("80-80", PortRange(80, 80)),
        ("1 - 1023", PortRange(1, 1023)),
        ("*", PortRange(1, 65535)),
    ],
)
def test_ports(written: object, ports: PortRange) -> None:
    """A number, a range and the wildcard."""
    assert values.port_range(written) == ports


@pytest.mark.parametrize(
    "written", [0, -1, 65536, True, 80.0, "", "80", "0-80", "80-", "-80", "80-65536", "9-8", "**", None, [80]]
)
def test_not_ports(written: object) -> None:
    """Zero, booleans, numbers in quotes and reversed ranges are refused."""
    with pytest.raises(BadValueError):
        values.port_range(written)


@pytest.mark.parametrize(
    "written",
    [
        "0.0.0.0",
        "::",
        "127.0.0.1",
        "127.255.0.1",
        "::1",
        "224.0.0.1",
        "ff02::1",
        "169.254.1.1",
        "fe80::1",
        "255.255.255.255",
        "0.1.2.3",
        "240.0.0.1",
        "192.0.2.1/32",
        "2001:db8::/64",
        "fe80::1%eth0",
        "::ffff:192.0.2.1",
        "192.0.2.01",
        "192.0.2",
        "example.com",
        "",
        " 192.0.2.1",
        3221225985,
        True,
        None,
    ],
)
def test_addresses_that_nothing_can_be_sent_to(written: object) -> None:
    """Unspecified, loopback, multicast, link-local and reserved addresses, prefixes, zones and names are refused."""
    with pytest.raises(BadValueError) as caught:
        values.unicast_address(written)
    assert caught.value.remedy


@pytest.mark.parametrize("written", ["192.0.2.1", "10.0.0.1", "2001:db8::1", "fd00::1", "223.255.255.255"])
def test_addresses(written: str) -> None:
    """Global, private and unique local addresses are taken."""
    assert values.unicast_address(written) == ip_address(written)


@pytest.mark.parametrize(
    ("parse", "good", "bad"),
    [
        (values.hold_time, [0, 3, 65535], [1, 2, -1, 65536, "9", True]),
        (values.as_number, [1, 64512, 65536, 4294967294], [0, 23456, 65535, 4294967295, 4294967296, -1, "1", True]),
        (
            values.interface,
            ["eth1", "bond0.100", "a" * 15],
            ["", ".", "..", "a" * 16, "a/b", "a b", "a:b", "ä" * 8, "lo", 1],
        ),
        (
            values.name,
            ["web", "_x", "2001:db8::1", "a.b-c", "x" * 64],
            ["", "a/b", "-a", "a b", "x" * 65, "ä", "a\n", 1],
        ),
        (values.seconds(0.1, 10), [0.1, 1, 10], [0, 0.09, 11, float("nan"), float("inf"), "1", True]),
        (values.runtime_dir, ["/run/onward", "/x"], ["run", "", "/run/../x", "/" + "x" * 80, 1, "/a\0b"]),
        (values.password, ["secret", "a!b$c%"], ["", "two words", 'quo"te', "x;y", "ü", "x" * 81, 1]),
        (values.boolean, [True, False], [0, 1, "true", None]),
        (values.integer(0, 1000, "a ratio"), [0, 1000], [-1, 1001, False, 1.0, "1"]),
    ],
)
def test_limits(parse: Callable[[object], object], good: list[object], bad: list[object]) -> None:
    """Both ends of every range are in, the next values are out, and no type is bent into another."""
    for value in good:
        parse(value)
    for value in bad:
        with pytest.raises(BadValueError):
            parse(value)


def test_a_password_never_stands_in_a_message() -> None:
    """Messages end up in logs."""
    with pytest.raises(BadValueError) as caught:
        values.password("two words")
    assert "two words" not in str(caught.value)


def test_every_kind_of_check_can_be_configured() -> None:
    """The words of the configuration are the kinds that exist."""
    assert {kind.value for kind in monitors.Kind} == set(CHECKS)


@given(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers()), st.datetimes())
)
def test_no_value_breaks_a_parser(value: object) -> None:
    """Whatever TOML can hold is read or refused with a remedy; nothing else is raised."""
    parsers = [
        values.name,
        values.interface,
        values.any_address,
        values.unicast_address,
        values.ipv4_address,
        values.ipv6_address,
        values.port,
        values.seconds(1, 2),
        values.boolean,
        values.text,
        values.path,
        values.runtime_dir,
        values.port_range,
        values.as_number,
        values.hold_time,
        values.password,
        values.schema_version,
        values.plane,
        values.profile_type,
        values.dsr_type,
        values.encapsulation,
        values.outer_df,
        values.outer_source,
        values.source_prefix,
        values.ttl,
        values.algorithm,
        values.hash_mode,
        values.ha_mode,
        monitors.kind,
        monitors.transport,
        monitors.wanted,
        monitors.record_type,
        monitors.rcode,
        monitors.dns_name,
        monitors.method,
        monitors.http_path,
        monitors.host,
        monitors.server_name,
        monitors.http_codes,
        monitors.absolute_path,
        monitors.service_name,
        monitors.command,
        monitors.environment,
    ]
    refusals: list[BadValueError] = []
    for parse in parsers:
        try:
            parse(value)
        except BadValueError as error:
            refusals.append(error)
    assert all(refusal.message and refusal.remedy for refusal in refusals)


@given(
    st.from_regex(r"[A-Za-z0-9._-]{1,80}(:[0-9]{1,5})?", fullmatch=True) | st.sampled_from(["a" * 63, "a" * 64 + ".b"])
)
def test_a_host_that_is_taken_can_be_asked_for_its_certificate(value: str) -> None:
    """No name that passes is one that TLS raises on: the first check would find it out."""
    try:
        taken = monitors.host(value)
    except BadValueError:
        return
    name = monitors.tls_of(MonitorTable.model_construct(type=monitors.Kind.HTTPS, host=taken))
    assert name is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=name.server_name or "192.0.2.1")


@pytest.mark.parametrize("value", ["a..b", ".a", "a" * 64, ".".join(["a" * 63] * 4), "a b", "", "a:b", "a:123456", "ü"])
def test_what_is_no_host(value: str) -> None:
    """Labels have 1 to 63 bytes, names 253 at most; a port is a number."""
    with pytest.raises(BadValueError, match="is not a host"):
        monitors.host(value)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("www.example.com:8443", "www.example.com"),
        ("www.example.com.", "www.example.com"),
        ("192.0.2.7", None),
        ("[2001:db8::7]:80", None),
    ],
)
def test_whose_certificate_a_host_has(value: str, name: str | None) -> None:
    """That of the name, without the dot at its end; of an address, that of the member."""
    tls = monitors.tls_of(MonitorTable.model_construct(type=monitors.Kind.HTTPS, host=monitors.host(value)))
    assert tls is not None
    assert tls.server_name == name


def test_words_are_looked_for_where_checks_look_for_them() -> None:
    """What is refused as too long could never be found."""
    windows = {monitors.Kind.TCP: tcp.WINDOW, monitors.Kind.UDP: udp.WINDOW, monitors.Kind.EXTERNAL: OUTPUT_BYTES}
    assert windows == monitors.WINDOWS
    assert CHECKS["http"](timeout_s=1.0).response_size == monitors.RESPONSE_SIZES[0]  # type: ignore[attr-defined]
