"""The log of changes, kept for the process that follows."""

from appliance import history
from appliance.decide import decide
from appliance.model import AdminState, Order
from appliance.state import LogEntry, LoggedMember
from tests.builders import L2, L3, member, snapshot


def test_what_is_kept_is_what_comes_back(tmp_path):
    """Rings of both deliveries, members that leave, windows that were closed: nothing is lost."""
    path = tmp_path / "history.json"
    state = LoggedMember("web1", member(1).address, 3, True, True, 0.5)
    leaving = LoggedMember("web2@203.0.113.2", member(2).address, 1, False, True, leaving=True)
    log = (LogEntry(10.0, (state,)), LogEntry(20.5, (state, leaving), settled=True))
    kept = {("web", L3): log, ("web", L2): log[:1]}
    history.save(path, kept)
    assert history.load(path) == kept
    assert not path.with_name(f"{path.name}.new").exists()


def test_what_is_kept_makes_the_same_decision(tmp_path):
    """A drain before the process ends is a window for the one that follows, and no news for its log."""
    path = tmp_path / "history.json"
    drained = snapshot(orders={"web/web1": Order(AdminState.DRAIN, 100.0)})
    before = decide(drained, decide(snapshot(), now=100.0), 101.0)
    history.save(path, before.log)
    again = decide(snapshot(orders=drained.orders, history=history.load(path)), None, 110.0)
    assert (again.tables.services[0].slots == before.tables.services[0].slots).all()
    assert {ring: len(log) for ring, log in again.log.items()} == {ring: len(log) for ring, log in before.log.items()}


def test_a_file_that_cannot_be_read_is_no_history(tmp_path):
    """Nothing there, no JSON, another format, a ring that nobody can read: the director starts without."""
    path = tmp_path / "history.json"
    assert history.load(path) == {}
    for text in ("", "[]", '{"format": 1, "rings": []}', '{"format": 2, "rings": {"web/l3.ipip.router": "?"}}'):
        path.write_text(text)
        assert history.load(path) == {}
