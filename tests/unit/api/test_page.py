"""The live page's markup."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import appliance.api
from appliance.api.page import Html, duration, h, render_main, render_page, si
from appliance.api.sources import Observed, ReloadStatus
from appliance.api.views import status_document
from tests.unit.api.samples import NOW, XDP, healthy, observed, sample_counters, sample_packets, sample_speaker, shared

FOLDER = Path(appliance.api.__file__).parent
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


class Checker(HTMLParser):
    """Balanced tags; no inline script or style; collects what is loaded and what is said."""

    VOID = frozenset({"meta", "link", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.keys: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            assert name != "style"
            assert not name.startswith("on")
            if name in ("src", "href"):
                self.loaded.append(value or "")
            if name == "data-key":
                self.keys.append(value or "")
        if tag == "script":
            assert dict(attrs)["src"]

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def checked(markup: str) -> Checker:
    checker = Checker()
    checker.feed(markup)
    checker.close()
    assert checker.open == []
    return checker


STARTING = observed(applied=None, counters=None, speaker=None, health=(), plane={})


@pytest.mark.parametrize(
    "seen", [observed(), healthy(), STARTING, shared()], ids=["sample", "healthy", "starting", "shared"]
)
def test_well_formed_and_self_contained(seen: Observed) -> None:
    """Tags balance, nothing is inline, and everything comes from this server."""
    page = checked(render_page(status_document(seen)))
    assert set(page.loaded) <= {
        "/favicon.svg",
        "/page.css",
        "/page.js",
        "/metrics",
        "/readyz",
        "/api/v1/status",
        "/api/v1/samples",
    }
    assert page.tags.count("main") == 1
    assert len(page.keys) == len(set(page.keys))


def test_assets_name_no_other_place() -> None:
    """No style sheet, script or picture refers to another origin."""
    for name in ("page.html", "page.css", "page.js", "favicon.svg"):
        text = (FOLDER / name).read_text(encoding="utf-8")
        assert set(re.findall(r"https?://[^\"')\s]+", text)) <= {"http://www.w3.org/2000/svg"}


def test_shows_what_matters() -> None:
    """VIPs with why they are not announced, members with state and reason, peers, drops and the DSR note are there."""
    text = " ".join(checked(render_page(status_document(observed(), (2.0, sample_counters(0))))).text)
    for expected in (
        "198.51.100.7",
        "below min members: 1 in rotation, 2 wanted",
        "ping80: connection_refused, connect: connection refused",
        "neighbour unresolved eth1",
        "hold timer expired",
        "no service",
        "not visible (DSR)",
        "60.0 k pkt/s",
        "up for 1 h 1 min",
        "/etc/onward/onward.toml (0123456789ab)",
    ):
        assert expected in text


def test_a_shared_pool_stands_once() -> None:
    """Its members are one table for each way of delivery; services refer to it, and numbers are called the pool's."""
    markup = render_page(status_document(shared(services=20, members=5)))
    page = checked(markup)
    assert page.keys.count("pool/web+ipip") == page.keys.count("pool/web+l2") == 1
    assert sum(key.startswith("member/") for key in page.keys) == 2 * 5
    text = " ".join(page.text)
    assert text.count("pool web is shared, and stands below") == 20
    assert text.count("numbers are the pool's, of all 20 virtual services together") == 2


def test_shows_the_hash_key() -> None:
    """Two directors can be compared by eye."""
    document = status_document(observed())
    assert f"hash key {document['director']['hash_key']}" in render_page(document)


def test_shows_the_plane_and_why_it_is_not_faster() -> None:
    """The header names the plane with its modes; what holds it up is the title there, and a fact of the director."""
    markup = render_page(status_document(observed(plane=XDP)))
    assert ">xdp plane (eth1 native, eth2 generic)</span>" in markup
    assert 'title="eth2: generic XDP: the driver xyz runs no XDP programs; packets out of eth3: slow path' in markup
    assert "<dd>the driver xyz runs no XDP programs</dd>" in markup
    assert "<span>raw plane</span>" in render_page(status_document(observed()))


def test_shows_the_latest_packets() -> None:
    """Samples are a table with the newest first, and where there are none that is said."""
    text = " ".join(checked(render_page(status_document(observed()))).text)
    table = text[text.index("Latest packets") :]
    assert "9 s ago" in table
    assert "192.0.2.7:40000" in table
    places = [table.index(words) for words in ("malformed", "icmp too big", "slow path", "no service", "new flow")]
    assert places == sorted(places)
    assert "No samples yet." in render_page(status_document(observed(samples=())))


def test_everything_foreign_is_escaped() -> None:
    """Whatever members, routers, files and kernels say cannot become markup."""
    seen = observed(
        plane={EVIL: EVIL, "kind": EVIL, f"mode_{EVIL}": EVIL, f"why_{EVIL}": EVIL, "why_not_xdp": EVIL},
        samples=[replace(sample_packets()[0], what=EVIL, reason=EVIL, interface=EVIL, source=EVIL, destination=EVIL)],
        reload=ReloadStatus(False, NOW, EVIL, EVIL, (EVIL,)),
        ready=((EVIL, False, EVIL),),
        speaker=replace(sample_speaker(), detail=EVIL),
        counters=replace(sample_counters(), details={EVIL: 1}, reasons={EVIL: 1}, replies={EVIL: 1}),
    )
    seen = replace(seen, snapshot=replace(seen.snapshot, plane_error=EVIL))
    page = checked(render_page(status_document(seen)))
    assert page.tags.count("script") == 1
    assert page.tags.count("img") == 1
    assert sum(EVIL in text for text in page.text) >= 8


@settings(deadline=None)
@given(st.text(), st.text())
def test_h_escapes(text: str, value: str) -> None:
    """Children and attribute values come out of a parser as they went in."""
    seen: list[object] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            seen.append((tag, attrs))

    Reader().feed(h("p", text, title=value))
    assert len(seen) == 1
    assert "<" not in h("p", text)[3:-4]


def test_h_attributes_and_nesting() -> None:
    """Attributes that are None or False are left out; underscores become hyphens; markup is not escaped twice."""
    inner = h("b", "a<b", data_key="k", class_="c", title=None, hidden=False)
    assert inner == '<b data-key="k" class="c">a&lt;b</b>'
    assert h("p", inner, ["x", Html("<br>")]) == f"<p>{inner}x<br></p>"


def test_main_alone_is_what_the_stream_sends() -> None:
    """The stream's rendering is the page's own main element."""
    document = status_document(observed())
    assert render_main(document) in render_page(document)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0"),
        (0.25, "0.2"),
        (7, "7"),
        (999, "999"),
        (999.6, "1.0 k"),
        (1000, "1.0 k"),
        (99_940, "99.9 k"),
        (99_960, "100 k"),
        (999_600, "1.0 M"),
        (12_345_678, "12.3 M"),
        (5e15, "5000 T"),
    ],
)
def test_si(value: float | None, text: str) -> None:
    """Large numbers are short, small ones exact, unknown ones a dash."""
    assert si(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (7260, "2 h 1 min"),
        (90000, "1 d 1 h"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    """The two largest units are enough."""
    assert duration(seconds) == text
