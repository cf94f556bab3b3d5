"""A member's own words: reports are read strictly, and sysctl files as systemd reads them."""

import json
from pathlib import Path

import pytest

from appliance.doctor.member import ReportError, read_report
from appliance.doctor.observe import last_words, observe
from tests.unit.doctor.evidence import VIP, report

RP = "net.ipv4.conf.all.rp_filter"


def test_the_result_of_a_check_of_the_set_up_is_taken() -> None:
    """It has points and no more, so nothing else follows from it."""
    points = [
        {"name": "vip", "subject": str(VIP), "verdict": "fail", "evidence": "no interface has it", "fix": "add it"}
    ]
    found = read_report(json.dumps({"apiVersion": "v1", "member": "web/web1", "ok": False, "points": points}))
    assert (found.observed, found.points[0].subject, found.points[0].verdict) == (False, str(VIP), "fail")


def test_a_report_survives_its_way() -> None:
    """What an agent says is what the doctor reads."""
    made = report(conntrack=(1, 2), hairpins=("a",))
    assert read_report(json.dumps(made.document())) == made


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "the report"),
        ("{}", "neither"),
        ("[]", "the report"),
        ('{"addresses": 3}', "addresses"),
        ('{"addresses": [{"address": "nowhere", "device": "lo"}]}', "addresses"),
        ('{"sysctls": {"ipv4.ip_forward": "yes please"}}', "sysctls.ipv4.ip_forward"),
        ('{"version": 9, "observed": true}', "version 9"),
        (" " * (1 << 21), "bytes"),
    ],
)
def test_what_is_no_report_says_where(text: str, place: str) -> None:
    """One error that names the place."""
    with pytest.raises(ReportError, match=place):
        read_report(text)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([("50", f"{RP} = 1"), ("90", f"{RP} = 0")], "0 90"),
        ([("50", "net.ipv4.conf.*.rp_filter = 2"), ("90", f"{RP} = 0")], "0 90"),
        ([("50", f"{RP} = 0"), ("90", "net.ipv4.conf.*.rp_filter = 2")], "0 50"),
        ([("50", f"net.ipv4.conf.*.rp_filter = 2\n-{RP}")], None),
        ([("50", "net/ipv4/conf/all/rp_filter=1 \n# no = 1\n; nor this")], "1 50"),
        ([("50", f"-{RP} = 1")], "1 50"),
        ([("50", "net.ipv4.conf.default.rp_filter = 1")], None),
    ],
)
def test_the_last_word_of_sysctl_files(files: list[tuple[str, str]], said: str | None) -> None:
    """Later files count more, names more than patterns, and what is excluded from patterns is left alone."""
    assert last_words(files).get(RP) == said


def test_this_machine_can_be_observed(tmp_path: Path) -> None:
    """Whatever it is: the loopback interface is there, files are read from the root that was given."""
    (tmp_path / "etc/netplan").mkdir(parents=True)
    (tmp_path / "etc/netplan/90.yaml").write_text(f"addresses: [{VIP}/32, {VIP}1/32]\n")
    (tmp_path / "etc/os-release").write_text('ID=ubuntu\nVERSION_ID="22.04"\n')
    found = observe([VIP], None, tmp_path)
    assert "lo" in found.devices
    assert (found.platform.manager, found.platform.system) == ("netplan", "ubuntu 22.04")
    assert found.persisted.vips == {str(VIP): str(tmp_path / "etc/netplan/90.yaml")}
    (tmp_path / "etc/netplan/90.yaml").write_text(f"addresses: [1{VIP}/32, {VIP}1/32]\n")
    assert observe([VIP], None, tmp_path).persisted.vips == {}
