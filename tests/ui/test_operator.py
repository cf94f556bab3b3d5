"""What an operator does with the web application, in a browser, in front of a director with real traffic."""

import re
import signal
import time
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.netns import until
from tests.ui.rig import FAR_VIP, MEMBERS, NEW_VIP, PORT, SIZES, VIP, Lab, Seat

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

PAGES = {
    "dashboard": "", "service": "virtual-services/www", "tunnel": "virtual-services/far",
    "pools": "pools", "monitors": "health-monitors",
    "profiles": "network-profiles", "profile": "edit/network-profiles/tcp-l2", "pool": "edit/pools/web",
    "service-form": "edit/virtual-services/www", "bgp": "bgp", "events": "events",
    "explain": f"explain?protocol=tcp&client=192.0.2.2:40000&vip={VIP}:{PORT}", "doctor": "doctor",
    "configuration": "configuration", "login": "login",
}  # fmt: skip


def apply(page: Page) -> None:
    """What the dialog shows is applied."""
    page.get_by_role("dialog").get_by_role("button", name="Apply").click()
    page.get_by_role("dialog").wait_for(state="detached")


@pytest.mark.parametrize(("size", "scheme"), [("wide", "light"), ("narrow", "dark")])
def test_every_page_is_whole(director: Lab, browser: Browser, size: str, scheme: str) -> None:
    """No error, nothing asked elsewhere, nothing that axe-core finds, no page wider than the screen."""
    director.answered(20)
    seat = Seat(browser, SIZES[size], scheme)
    page = seat.log_in()
    page.wait_for_timeout(2500)  # so that charts have something to draw
    wrong: list[str] = []
    for name, place in PAGES.items():
        seat.open(place)
        page.locator("main h1").first.wait_for()
        if name == "explain":
            page.get_by_role("button", name="Explain").click()
            page.locator("[data-answer=member]").wait_for()
        if name in ("service", "tunnel"):
            page.locator("figure.ring svg").wait_for()
            page.locator(".uplot canvas").first.wait_for()
        seat.look(f"{name}-{size}-{scheme}")
        if name in ("service", "tunnel"):
            page.locator("figure.path").scroll_into_view_if_needed()
            seat.look(f"{name}-pictures-{size}-{scheme}")
        wrong += [f"{name}: {text}" for text in seat.axe()]
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            wrong.append(f"{name} is wider than the screen")
    assert wrong == []
    seat.close()


def test_forms_with_mistakes_and_dialogs_are_whole(director: Lab, seat: Seat) -> None:
    """New forms, forms with mistakes at their fields, and every dialog, in both sizes and colour schemes."""
    seat.open("login")
    page = seat.page
    wrong: list[str] = []
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill("not that one")
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("alert").wait_for()
    wrong += seat.faults("login-refused")
    seat.log_in()
    for kind in ("virtual-services", "pools", "network-profiles", "health-monitors"):
        seat.open(f"new/{kind}")
        page.get_by_label("Name", exact=True).fill("not a name")
        wrong += seat.faults(f"new-{kind}")
        if kind == "pools":
            page.get_by_label("Address of member 1").fill("not an address")
        page.get_by_role("button", name="Save").click()
        page.locator(".wrong").first.wait_for()
        assert page.locator("[aria-invalid=true]").count() > 0, kind
        wrong += seat.faults(f"mistakes-{kind}")
    seat.open("new/network-profiles")
    page.get_by_label("Enable DSR").uncheck()
    page.locator(".wrong").wait_for()
    wrong += seat.faults("no-dsr")

    def dialog(name: str) -> None:
        shown = page.get_by_role("dialog")
        shown.get_by_text("Asking the director").wait_for(state="detached")
        wrong.extend(seat.faults(f"dialog-{name}"))
        shown.get_by_role("button", name="Cancel").click()
        shown.wait_for(state="detached")

    seat.open("virtual-services/www")
    for order in ("drain", "maint", "ready", "weight"):
        page.get_by_role("button", name=f"{order} web/m1").click()
        page.locator(".predicted li").first.wait_for()
        dialog(order)
    page.get_by_role("button", name="Delete").click()
    dialog("delete-service")
    seat.open("network-profiles")
    page.get_by_role("button", name="Delete tcp-l2").click()
    page.get_by_role("alert").wait_for()
    dialog("in-use")
    before = director.get("/status")["config"]["revision"]
    seat.open("edit/pools/web")
    page.get_by_label("Slow start").fill("3")
    page.get_by_role("button", name="Save").click()
    dialog("save")
    page.get_by_role("button", name="Save").click()
    apply(page)
    seat.open("configuration")
    back = page.get_by_role("button", name=f"Roll back to revision {before}", exact=True)
    back.click()
    dialog("roll-back")
    back.click()
    apply(page)
    seat.open("explain?protocol=tcp&client=nobody&vip=nowhere")
    page.get_by_role("button", name="Explain").click()
    page.get_by_role("alert").wait_for()
    wrong += seat.faults("explain-refused")
    assert wrong == []


def test_from_forms_to_a_packet(director: Lab, seat: Seat) -> None:
    """A profile, a pool and a virtual service are made through the forms, and a client's request goes through them."""
    page = seat.log_in()
    page.get_by_role("navigation").get_by_role("link", name="TCP/UDP profiles").click()
    page.get_by_role("button", name="New profile").click()
    page.get_by_label("Name", exact=True).fill("fresh")
    expect(page.get_by_label("Enable DSR")).to_be_checked()
    expect(page.get_by_label("DSR encapsulation")).to_be_visible()
    expect(page.locator(".consequence")).to_contain_text("1440")
    page.get_by_label("DSR type").select_option("l2")
    expect(page.get_by_label("DSR encapsulation")).to_have_count(0)
    expect(page.locator(".consequence")).to_contain_text("nothing is added")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("dialog").locator(".diff")).to_contain_text('+name = "fresh"')
    apply(page)
    expect(page.get_by_role("rowheader", name="fresh")).to_be_visible()

    seat.open("new/pools")
    page.get_by_label("Name", exact=True).fill("fresh")
    page.get_by_label("page", exact=True).check()
    page.get_by_label("Address of member 1").fill("not an address")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_label("Address of member 1")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("td .wrong")).to_contain_text("address")
    page.get_by_label("Address of member 1").fill(MEMBERS["m1"])
    page.get_by_role("button", name="Add a member").click()
    page.get_by_label("Address of member 2").fill(MEMBERS["m2"])
    page.get_by_role("button", name="Save").click()
    apply(page)

    seat.open("new/virtual-services")
    page.get_by_label("Name", exact=True).fill("fresh")
    expect(page.get_by_label("Traffic enabled")).to_be_checked()
    page.get_by_label("VIPs").fill(NEW_VIP)
    page.get_by_label("Ports").fill(str(PORT))
    page.get_by_label("TCP/UDP profile").select_option("fresh")
    page.get_by_label("Pool").select_option("fresh")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("dialog")).to_contain_text("virtual_service fresh")
    seat.look("review")
    apply(page)
    until(lambda: len(director.in_rotation("fresh")) == 2, "the new members are in rotation", 20)
    assert director.who_answers(NEW_VIP) in ("m1", "m2")

    seat.open("network-profiles")
    page.get_by_role("button", name="Delete fresh").click()
    expect(page.get_by_role("alert")).to_contain_text("virtual-services/fresh")
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()


def test_charts_begin_with_the_past(director: Lab, seat: Seat) -> None:
    """Whoever opens a virtual service's page sees what has come before that, as the director has kept it."""
    page = seat.log_in()
    until(lambda: len(director.get("/services/www/traffic")["times"]) > 30, "the director has a past", 60)
    began = time.monotonic()
    seat.open("virtual-services/www")
    for name in ("Throughput", "Packets", "New flows", "Flows remembered", "Drops"):
        page.get_by_role("figure", name=re.compile(f"^{name}.*, the last ([3-9][0-9] s|[1-9] min)")).wait_for()
    assert time.monotonic() - began < 30, "it cannot have seen that itself"


def test_a_drained_member_gets_no_new_flows(director: Lab, seat: Seat) -> None:
    """Drain with the predicted share: new flows stop, as the page and the traffic say; ready brings it back."""
    page = seat.log_in()
    seat.open("virtual-services/www")
    page.get_by_role("button", name="drain web/m2").click()
    expect(page.locator(".predicted")).to_contain_text(
        re.compile(r"www: about 3\d\.\d % of new flows move; m2 gets 0 %")
    )
    page.get_by_role("button", name="Give the order").click()
    expect(page.locator('tr[data-member="web/m2"]')).to_contain_text(re.compile("draining|out"))
    until(lambda: "m2" not in director.in_rotation(), "it is out of rotation")
    # In a window, the previous owner keeps flows that may be from before; a SYN is not one of these.
    assert "m2" not in director.answered(30)
    expect(page.locator('tr[data-member="web/m2"]').get_by_role("cell").nth(5)).to_have_text("0")
    seat.look("drained")
    page.get_by_role("button", name="ready web/m2").click()
    page.get_by_role("button", name="Give the order").click()
    until(lambda: "m2" in director.in_rotation(), "it is back", 20)


def test_a_killed_member_turns_red_with_the_reason(director: Lab, seat: Seat) -> None:
    """A member's server ends: its row, the path and the dashboard say so, and why; and all is well when it is back."""
    page = seat.log_in()
    seat.open("virtual-services/www")
    page.locator('tr[data-member="web/m3"]').wait_for()
    director.stop("m3")
    row = page.locator('tr[data-member="web/m3"].down')
    expect(row).to_contain_text("health down")
    expect(row).to_contain_text("refused")
    expect(page.locator("figure.path .bad")).not_to_have_count(0)
    seat.look("broken")
    seat.open("")
    expect(page.get_by_label("Virtual services").get_by_role("row", name=re.compile("www"))).to_contain_text("m3 out")
    seat.look("dashboard-broken")
    assert "m3" not in director.answered(20)
    director.serve("m3")
    until(lambda: "m3" in director.in_rotation(), "it is back", 20)


def test_explain_agrees_with_traffic(director: Lab, seat: Seat, tmp_path: Path) -> None:
    """The member that the page names for a five-tuple, and for a captured packet, is the one that answers it."""
    page = seat.log_in()
    for port in range(41000, 41005):
        seat.open(f"explain?protocol=tcp&client=192.0.2.2:{port}&vip={VIP}:{PORT}")
        page.reload()
        page.get_by_role("button", name="Explain").click()
        named = page.locator("[data-answer=member]").inner_text()
        assert named == f"web/{director.who_answers(port=port)}", port
    from scapy.layers.inet import IP, TCP
    from scapy.layers.l2 import Ether
    from scapy.utils import wrpcap

    wrpcap(
        str(tmp_path / "one.pcap"), [Ether() / IP(src="192.0.2.2", dst=VIP) / TCP(sport=41004, dport=PORT, flags="S")]
    )
    page.locator("input[type=file]").set_input_files(tmp_path / "one.pcap")
    expect(page.locator("[data-answer=member]")).to_have_text(named)


@pytest.mark.parametrize(("vip", "port"), [(VIP, 42001), (FAR_VIP, 42002)])
def test_explain_agrees_with_the_capture(director: Lab, seat: Seat, tmp_path: Path, vip: str, port: int) -> None:
    """Of a captured packet, the page shows each header as the member has got it, tunnel and all."""
    from scapy.layers.inet import IP, TCP
    from scapy.layers.l2 import Ether
    from scapy.utils import wrpcap

    before, after = (Ether(frame) for frame in director.captured(vip, port))
    wrpcap(str(tmp_path / "one.pcap"), [before])
    page = seat.log_in()
    seat.open("explain")
    page.locator("input[type=file]").set_input_files(tmp_path / "one.pcap")
    page.locator("[data-answer=member]").wait_for()
    shown = [" ".join(text.split()) for text in page.locator("ol.headers").last.locator("li").all_inner_texts()]
    expected = [f"ethernet source {after.src} destination {after.dst}"]
    layer = after[IP]
    while isinstance(layer, IP):
        expected.append(
            f"ipv4 source {layer.src} destination {layer.dst} protocol {layer.proto} length {layer.len} "
            f"ttl {layer.ttl} dscp {layer.tos >> 2} ecn {layer.tos & 3} ident {layer.id} "
            f"dont fragment {str(bool(layer.flags.DF)).lower()} more fragments false offset 0"
        )
        layer = layer.payload
    expected.append(
        f"tcp source port {port} destination port {PORT} flags syn sequence {after[TCP].seq} acknowledged 0"
    )
    assert shown == expected
    assert len(expected) == (3 if vip == VIP else 4)


def test_the_doctor_turns_the_path_red(director: Lab, seat: Seat) -> None:
    """What no monitor sees, a tunnel that nobody takes packets out of, is red in the picture, with the doctor's words,
    and the fix can be copied where the browser has no clipboard for us."""
    page = seat.page
    page.add_init_script("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    page = seat.log_in()
    seat.open("doctor")
    broken = page.locator(".finding.fail").filter(has_text="far/m1").first
    broken.get_by_role("button", name="Copy").click(timeout=60_000)
    expect(broken.get_by_role("status")).to_have_text("Copied.")
    seat.open("virtual-services/far")
    expect(page.locator('tr[data-member="far/m1"]')).to_contain_text("doctor:")
    expect(page.locator("figure.path .box.bad")).not_to_have_count(0)
    expect(page.locator(".breaks")).to_contain_text("far/m1")
    expect(page.locator("figure.path")).to_contain_text("ipip, +20 bytes")


def test_who_is_told(director: Lab, seat: Seat) -> None:
    """The router's session and routes, and each VIP with what it is told of it."""
    page = seat.log_in()
    expect(page.get_by_label("Virtual services").get_by_role("row", name=re.compile("www"))).to_contain_text("here")
    seat.open("bgp")
    row = page.get_by_label("Routers").get_by_role("row", name=re.compile("192.0.2.2"))
    expect(row).to_contain_text("up")
    expect(row).to_contain_text(f"{VIP}/32")
    expect(page.get_by_label("VIPs").get_by_role("row", name=re.compile(f"^{re.escape(VIP)}"))).to_contain_text(
        "192.0.2.2 told"
    )


def test_what_is_predicted_follows_what_is_typed(director: Lab, seat: Seat) -> None:
    """The director itself says what moves, for each weight; also from 0, and with none, which is the configured one."""
    page = seat.log_in()
    seat.open("virtual-services/www")
    page.get_by_role("button", name="weight web/m1").click()
    said = page.locator(".predicted")
    expect(said).to_contain_text("no slot changes hands")
    for ratio, share in (("2", "50 %|50.0 %"), ("0", "0 %"), ("", None)):
        page.get_by_role("dialog").get_by_label("Weight").fill(ratio)
        expect(said).to_contain_text(re.compile(f"m1 gets ({share})") if share else "no slot changes hands")
        if not share:
            break
        expect(said).to_contain_text("new flows move")
    page.get_by_role("dialog").get_by_label("Weight").fill("0")
    page.get_by_role("button", name="Give the order").click()
    until(lambda: "m1" not in director.in_rotation(), "it is out of rotation")
    page.get_by_role("button", name="weight web/m1").click()
    page.get_by_role("dialog").get_by_label("Weight").fill("")
    expect(said).to_contain_text("m1 gets 33.3 %")
    assert seat.axe() == []
    page.get_by_role("button", name="Give the order").click()
    until(lambda: "m1" in director.in_rotation(), "it is back", 20)


def test_a_director_that_hangs_is_not_shown_as_well(director: Lab, seat: Seat) -> None:
    """Its connections stay open and say nothing: the page says so, and goes on when the director does."""
    page = seat.log_in()
    state = page.locator("header .state")
    expect(state).not_to_contain_text("connection lost")
    process = director.processes["director"]
    process.send_signal(signal.SIGSTOP)
    try:
        expect(state).to_contain_text("connection lost", timeout=30_000)
    finally:
        process.send_signal(signal.SIGCONT)
    expect(state).not_to_contain_text("connection lost", timeout=30_000)


def test_odd_places(seat: Seat) -> None:
    """An address that is no encoding is a page that does not exist."""
    page = seat.log_in()
    seat.open("%zz")
    expect(page.get_by_text("There is no such page")).to_be_visible()


def test_two_edit_at_once_and_one_rolls_back(director: Lab, browser: Browser, seat: Seat) -> None:
    """Who is second is told who was first, and loses nothing; the history has both, and rolls back."""
    first, other = seat.log_in(), Seat(browser)
    second = other.log_in("bob")
    for page in (first, second):
        page.goto(page.url.split("#")[0] + "#/edit/pools/web")
        page.get_by_label("Weight of member 1").wait_for()
    before = director.get("/status")["config"]["revision"]
    first.get_by_label("Weight of member 1").fill("2")
    first.get_by_role("button", name="Save").click()
    expect(first.get_by_role("dialog")).to_contain_text("www")
    apply(first)
    second.get_by_label("Slow start").fill("7")
    second.get_by_role("button", name="Save").click()
    expect(second.get_by_role("alert")).to_contain_text("Somebody else has changed this meanwhile: ada")
    other.look("conflict")
    second.get_by_role("button", name="Keep my edits, on top of theirs").click()
    expect(second.get_by_label("Weight of member 1")).to_have_value("2")
    expect(second.get_by_label("Slow start")).to_have_value("7")
    second.get_by_role("button", name="Save").click()
    apply(second)
    seat.open("configuration")
    first.get_by_role("button", name=f"Roll back to revision {before}", exact=True).click()
    first.get_by_role("dialog").locator(".diff").wait_for()
    second.goto(second.url.split("#")[0] + "#/edit/pools/web")
    second.get_by_label("Slow start").fill("8")
    second.get_by_role("button", name="Save").click()
    apply(second)
    other.close()
    first.get_by_role("dialog").get_by_role("button", name="Apply").click()
    expect(first.get_by_role("alert")).to_contain_text("Somebody else has changed this meanwhile: bob")
    assert seat.axe() == []
    first.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(first.locator("tr[data-revision]").first).to_contain_text(re.compile("bob.*in force"))
    first.get_by_role("button", name=f"Compare revision {before}", exact=True).click()
    expect(first.locator(".diff")).to_contain_text("slow_start")
    first.get_by_role("button", name=f"Roll back to revision {before}", exact=True).click()
    expect(first.get_by_role("dialog").locator(".diff")).to_contain_text("ratio")
    apply(first)
    until(lambda: director.get("/objects/pools/web")["slow_start"] == 0, "the earlier revision is in force")
    assert director.get("/objects/pools/web")["member"][0]["ratio"] == 1


def test_viewers_have_no_buttons(seat: Seat) -> None:
    """A viewer sees everything and is offered nothing that is not for viewers."""
    page = seat.log_in("vic")
    seat.open("virtual-services/www")
    page.locator('tr[data-member="web/m1"]').wait_for()
    expect(page.get_by_role("button", name="drain web/m1")).to_have_count(0)
    seat.open("pools")
    page.get_by_role("rowheader", name="web").wait_for()
    expect(page.get_by_role("button", name="New pool")).to_have_count(0)
