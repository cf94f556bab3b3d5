"""A member's configuration in every format, for every delivery: the text, and what the real programs make of it."""

import json
import re
import shlex
import subprocess
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
import yaml

from appliance.model import Decapsulator
from appliance.server.formats import FORMATS
from appliance.server.formats.base import File, FormatError, Settings
from tests import golden
from tests.debs import libraries, unpacked
from tests.unit.server.plans import DELIVERIES, plan

CANNOT = {
    **{("windows", delivery): "takes nothing out of tunnels" for delivery in DELIVERIES if delivery != "l2"},
    ("nmcli", "mixed"): "no device for both IPv4 and IPv6 inside of IPv6",
    ("nmcli", "gue"): "cannot open GUE",
    ("nmcli", "all"): "cannot open GUE",
}
"""What a format has no words for, by the reason that it gives."""

CASES = [(name, delivery) for name in FORMATS for delivery in DELIVERIES if (name, delivery) not in CANNOT]
LATER = Settings(
    release=(1, 1),
    gateways=(ip_address("203.0.113.1"), ip_address("2001:db8:2::1")),
    networks=(ip_network("203.0.113.0/29"), ip_network("2001:db8:2::/64")),
)


def files(form: str, delivery: str, settings: Settings | None = None, **how: object) -> dict[str, File]:
    """By path."""
    return {file.path: file for file in FORMATS[form](plan(delivery, **how), settings or Settings())}


def write(folder: Path, made: dict[str, File]) -> Path:
    for file in made.values():
        path = folder / file.path.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text)
        path.chmod(file.mode)
    return folder


def run(*command: str | Path, **more: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return str(done.stdout + done.stderr)


@pytest.mark.parametrize(("form", "delivery"), CASES)
def test_text(form: str, delivery: str) -> None:
    """Every file as it was when somebody last read it."""
    made = files(form, delivery)
    golden.check(f"server/{form}-{delivery}.txt", "".join(f"==== {path}\n{file.text}" for path, file in made.items()))


@pytest.mark.parametrize(("form", "delivery"), CANNOT)
def test_what_cannot_be_said_is_refused(form: str, delivery: str) -> None:
    """With the reason and another way; with our own decapsulator there is nothing left to refuse but Windows."""
    with pytest.raises(FormatError, match=CANNOT[form, delivery]):
        files(form, delivery)
    if form != "windows":
        assert "/etc/systemd/system/onward-decap.service" in files(form, delivery, decapsulator=Decapsulator.ONWARD)


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_netplan_takes_it(tmp_path: Path, delivery: str) -> None:
    """netplan's generator makes files of networkd out of it with every VIP, and every tunnel with `Independent`."""
    made = files("netplan", delivery)
    write(tmp_path, made)
    _netplan(tmp_path)
    loopback = (tmp_path / "run/systemd/network/10-netplan-lo.network").read_text()
    wanted = plan(delivery)
    assert re.findall(r"(?m)^Address=(.*)/", loopback) == [str(vip) for vip in wanted.vips]
    for tunnel in wanted.tunnels:
        device = tmp_path / f"run/systemd/network/10-netplan-{tunnel.device}.netdev"
        if not device.exists():
            assert tunnel.mode == "any"
            device = tmp_path / f"etc/systemd/network/10-{tunnel.device}.netdev"
        text = device.read_text()
        assert f"Kind={tunnel.kind}\n" in text
        assert f"Local={tunnel.local}\n" in text
        assert re.search(r"(?m)^Independent=(true|yes)$", text)
        if tunnel.mode:
            assert f"Mode={tunnel.mode}\n" in text


def _netplan(root: Path) -> str:
    place = unpacked("netplan")
    return run(next(place.rglob("libexec/netplan/generate")), "--root-dir", root, env=libraries(place))


def test_netplan_of_another_release(tmp_path: Path) -> None:
    """From 1.1 on the MSS stands at routes; generators of older releases refuse that, so they do not get it."""
    later = files("netplan", "mixed", LATER)
    tree = yaml.safe_load(later["/etc/netplan/60-onward.yaml"].text)["network"]["ethernets"]["eth0"]
    assert {
        rule["from"]: route["advertised-mss"]
        for rule in tree["routing-policy"]
        for route in tree["routes"]
        if route["table"] == rule["table"]
    } == {f"{vip}/{vip.max_prefixlen}": size for vip, size in plan("mixed").mss.items()}
    assert {route["to"] for route in tree["routes"]} == {"203.0.113.0/29", "0.0.0.0/0", "2001:db8:2::/64", "::/0"}
    assert "maxseg" not in later["/etc/onward/member.nft"].text
    assert "maxseg" in files("netplan", "mixed")["/etc/onward/member.nft"].text
    write(tmp_path, later)
    if b"advertised-mss" in next(unpacked("netplan").rglob("libnetplan.so.*")).read_bytes():
        _netplan(tmp_path)
    else:
        with pytest.raises(AssertionError, match="unknown key 'advertised-mss'"):
            _netplan(tmp_path)


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_ifupdown_takes_it(tmp_path: Path, delivery: str) -> None:
    """ifup, told to do nothing, names every command: beside the usual stanza of `lo`, and each of our devices."""
    write(tmp_path, files("ifupdown", delivery))
    main = tmp_path / "interfaces"
    main.write_text(f"auto lo\niface lo inet loopback\nsource {tmp_path}/etc/network/interfaces.d/*\n")
    ifup = next(unpacked("ifupdown").rglob("sbin/ifup"))
    state = tmp_path / "state"
    said = run(ifup, "-a", "-i", main, "--state-dir", state, "--no-act", "--force", "--no-scripts")
    wanted = plan(delivery)
    for vip in wanted.vips:
        assert f"ip address replace {vip}/{vip.max_prefixlen} dev lo" in said
    for tunnel in wanted.tunnels:
        assert f"ip link add {tunnel.device} type {tunnel.kind}" in said
    if wanted.tunnels:
        assert said.index("nft -f") < said.index("ip link add")


@pytest.mark.parametrize("delivery", [delivery for delivery in DELIVERIES if ("nmcli", delivery) not in CANNOT])
def test_nmcli_takes_it(tmp_path: Path, delivery: str) -> None:
    """nmcli makes a key file out of every command, with all VIPs."""
    script = write(tmp_path, files("nmcli", delivery)) / "usr/local/sbin/onward-member-nmcli"
    place = unpacked("nmcli")
    stub = tmp_path / "bin"
    stub.mkdir()
    (stub / "nmcli").write_text(f'#!/bin/sh\nexec {shlex.quote(str(place / "usr/bin/nmcli"))} --offline "$@"\n')
    (stub / "nmcli").chmod(0o755)
    environment = libraries(place)
    said = run("sh", "-e", script, env={**environment, "PATH": f"{stub}:{environment['PATH']}"})
    found = set(re.findall(r"(?m)^address\d+=(.*)/\d+", said))
    wanted = plan(delivery)
    assert found - {"127.0.0.42"} == {str(vip) for vip in wanted.vips}
    assert said.count("type=ip-tunnel") == len(wanted.tunnels)


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_cloud_init_takes_it(tmp_path: Path, delivery: str) -> None:
    """It is right by cloud-init's schema, and the script in it is that of the format `shell`."""
    (user_data,) = files("cloud-init", delivery).values()
    assert user_data.text.startswith("#cloud-config\n")
    document = yaml.safe_load(user_data.text)
    by_path = {entry["path"]: entry["content"] for entry in document["write_files"]}
    (script,) = files("shell", delivery).values()
    assert by_path[script.path] == script.text
    place = unpacked("cloud-init")
    packages = place / "usr/lib/python3/dist-packages"
    (tmp_path / "document").write_text(json.dumps(document))
    check = (
        "import json, sys, jsonschema\n"
        "schema, document = (json.load(open(path)) for path in sys.argv[1:])\n"
        "jsonschema.Draft4Validator(schema).validate(document)\n"
    )
    schema = packages / "cloudinit/config/schemas/schema-cloud-config-v1.json"
    run(
        "/usr/bin/python3",
        "-W",
        "ignore",
        "-c",
        check,
        schema,
        tmp_path / "document",
        env={"PYTHONPATH": str(packages)},
    )


@pytest.mark.parametrize("how", Decapsulator)
@pytest.mark.parametrize("delivery", DELIVERIES)
def test_scripts_are_clean(tmp_path: Path, delivery: str, how: Decapsulator) -> None:
    """shellcheck has nothing to say of the scripts."""
    for form in ("shell", "nmcli"):
        if (form, delivery) in CANNOT and how is Decapsulator.KERNEL:
            continue
        made = files(form, delivery, decapsulator=how)
        write(tmp_path / form, made)
        run("shellcheck", *(tmp_path / form / path.lstrip("/") for path, file in made.items() if file.mode & 0o111))


@pytest.mark.parametrize("how", Decapsulator)
@pytest.mark.parametrize("delivery", DELIVERIES)
def test_units_are_right(tmp_path: Path, delivery: str, how: Decapsulator) -> None:
    """systemd finds no mistake in the units, but that what they start is not here."""
    made = files("networkd", delivery, decapsulator=how)
    units = [path for path in made if path.endswith(".service")]
    assert bool(units) is (delivery != "l2")
    for path in units:
        text = re.sub(r"(?m)^(Exec\w+)=/\S+", r"\1=/bin/true", made[path].text)
        (tmp_path / Path(path).name).write_text(text)
        said = run("systemd-analyze", "verify", "--man=no", tmp_path / Path(path).name)
        assert str(tmp_path) not in said, said
