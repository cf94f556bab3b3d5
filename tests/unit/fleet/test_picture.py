"""What a director knows of the store, change by change."""

from appliance.fleet import entries
from appliance.fleet.client import Change, Entry
from appliance.fleet.entries import Logged
from appliance.fleet.picture import Picture
from appliance.model import Health
from appliance.state import LogEntry
from tests.builders import L3

RING = ("web", L3)
LOG = f"log/{entries.log_place(RING)}"


class Told(Picture):
    def __init__(self) -> None:
        self.unreadable: list[str] = []
        super().__init__(lambda key, _why: self.unreadable.append(key))


def test_tells_which_pools_are_concerned() -> None:
    """A verdict, or what was agreed, concerns its pool; nothing else does."""
    picture = Told()
    changes = [
        Change("verdicts/d1/web", '{"a":["up",1]}', 2),
        Change("agreed/dns", '{"b":"down"}', 3),
        Change("directors/d1", '{"address":"192.0.2.1","port":1,"boot":"","version":"","digest":""}', 4),
        Change("something/else", "", 6),
    ]
    assert picture.take(changes) == {"web", "dns"}
    assert picture.views["web"] == {"d1": {"web/a": Health.UP}}
    assert picture.settled == {"dns": {"dns/b": Health.DOWN}}
    assert list(picture.directors) == ["d1"]
    assert picture.revision("something/else") == 6


def test_what_is_known_already_makes_no_difference() -> None:
    """A watch that is behind what a swap has told does not turn time back."""
    picture = Told()
    picture.take([Change("agreed/web", '{"a":"down"}', 9)])
    assert picture.take([Change("agreed/web", '{"a":"up"}', 8), Change("agreed/web", None, 7)]) == set()
    assert picture.settled == {"web": {"web/a": Health.DOWN}}
    assert picture.revision("agreed/web") == 9


def test_what_was_deleted_stays_so() -> None:
    """What a swap has found before the watch told of the deletion does not bring it back; what comes later does."""
    picture = Told()
    picture.take([Change("agreed/web", '{"a":"up"}', 5), Change("agreed/web", None, 11)])
    assert picture.take([Change("agreed/web", '{"a":"down"}', 10)]) == set()
    assert (picture.settled, picture.revision("agreed/web")) == ({}, 0)
    picture.take([Change("agreed/web", '{"a":"down"}', 12)])
    assert picture.settled == {"web": {"web/a": Health.DOWN}}


def test_deletion() -> None:
    """What is deleted is not known any more, whichever kind it is."""
    picture = Told()
    log = entries.encode_log([Logged("d1", LogEntry(1.0, ()))])
    texts = {"verdicts/d1/web": "{}", "agreed/web": "{}", LOG: log}
    picture.replace({key: Entry(text, 2) for key, text in texts.items()})
    assert picture.logs() == {RING: (LogEntry(1.0, ()),)}
    assert picture.take(Change(key, None, 3) for key in texts) == {"web"}
    assert (picture.views["web"], picture.settled, picture.logs()) == ({}, {}, {})
    picture.take([Change(LOG, log, 4)])
    picture.forget(LOG)
    assert (picture.logged(RING), picture.revision(LOG)) == ((), 0)


def test_unreadable_is_as_if_it_was_not_there() -> None:
    """A value that cannot be read replaces one that could, and its revision is known: it can be overwritten."""
    picture = Told()
    picture.take([Change("verdicts/d1/web", '{"a":["up",1]}', 2)])
    assert picture.take([Change("verdicts/d1/web", "", 3)]) == {"web"}
    assert picture.views["web"] == {}
    assert picture.unreadable == ["verdicts/d1/web"]
    assert picture.revision("verdicts/d1/web") == 3


def test_beginning_anew_forgets() -> None:
    """What is not in the store when it is read is not known."""
    picture = Told()
    picture.take([Change("orders/web/a", '{"state":"drain","since":1,"until":null,"ratio":null}', 2)])
    assert list(picture.orders) == ["web/a"]
    picture.replace({})
    assert picture.orders == {}
    assert picture.revision("orders/web/a") == 0
