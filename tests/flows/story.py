"""What happens to the fleet while flows run through it, and who was where when it did."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from tests.flows.fleet import CLIENTS, DIRECTORS, ROUTERS, TARGETS, Fleet, member_number, with_ratio, without
from tests.flows.report import Account, Happening, Outage, account
from tests.flows.workload import Census, Client, Load

LOOK_S = 1.0


@dataclass(frozen=True)
class Note:
    """Something that was seen at a director or router."""

    at: float
    text: str


class Story:
    """Flows, and what is done meanwhile.

    As a context manager it begins with the flows, and ends them at the end of the block.
    """

    def __init__(self, fleet: Fleet, loads: Mapping[str, Load], say: Callable[[str], None] = print) -> None:
        """
        Args:
            fleet: that is up.
            loads: by client.
            say: is told what happens, as it happens.
        """
        self.fleet = fleet
        self.happenings: list[Happening] = []
        self.outages: list[Outage] = []
        self.notes: list[Note] = []
        self._say = say
        self._loads = loads
        self._clients: list[Client] = []
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._known: dict[str, object] = {}
        self._error: Exception | None = None

    def __enter__(self) -> "Story":
        self._clients = [
            Client(self.fleet.node(name).popen, self.fleet.program, load.arguments(CLIENTS[name], TARGETS, hops=1))
            for name, load in self._loads.items()
        ]
        self.happenings.append(Happening("beginning", time.time(), 0))
        self._watcher.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._stop.set()
        self._watcher.join()
        for client in self._clients:
            client.kill()

    # ---- telling it

    def happens(self, text: str) -> None:
        """From now on flows that break are put down to this."""
        census = self.census()
        self.happenings.append(Happening(text, time.time(), census.tcp + census.udp))
        self._say(
            f"{time.time() - self.happenings[0].at:6.1f} s  {text}; {census.tcp} TCP and {census.udp} UDP flows, "
            f"{census.begun} so far, {census.broken} broken or lost"
        )

    def passes(self, seconds: float) -> None:
        """Time, in which flows go on.

        Raises:
            FleetError, RuntimeError: a director or a flows' program ended, or nobody could watch any more.
        """
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.5))
            self._check()

    def until_begun(self, flows: int, deadline_s: float = 600) -> None:
        """Wait until so many flows have begun."""
        end = time.monotonic() + deadline_s
        while self.census().begun < flows:
            if time.monotonic() > end:
                raise RuntimeError(f"only {self.census().begun} of {flows} flows within {deadline_s:g} s")
            time.sleep(0.2)
            self._check()

    def _check(self) -> None:
        self.fleet.check()
        if self._error is not None:
            raise RuntimeError(f"the fleet cannot be watched any more: {self._error!r}") from self._error
        self.census()

    def census(self) -> Census:
        """All clients' flows as they are now."""
        return sum((client.look() for client in self._clients), Census())

    @contextmanager
    def outage(self, member: str) -> Iterator[None]:
        """In this block the member is dead, and what it had is lost.

        The block ends when its servers are there again, not when directors send it flows again.
        """
        outage = Outage(member_number(member), time.time())
        self.outages.append(outage)
        yield
        outage.until = time.time()

    def finish(self) -> Account:
        """Let the flows end, and give account of them all."""
        self.happens("end")
        for client in self._clients:
            client.finish()
        broken = [flow for client in self._clients for flow in client.broken]
        return account(self.census().begun, self.happenings, broken, self.outages)

    # ---- watching

    def _watch(self) -> None:
        try:
            while not self._stop.wait(LOOK_S):
                happening = self.happenings[-1]
                happening.slowest_s = max(happening.slowest_s, self.census().slowest_s)
                for director in DIRECTORS:
                    document = self.fleet.status(director)
                    self._note(director, "answers", document is not None)
                    if document is None:
                        continue
                    happening.pins[director] = max(document["pins"]["live"], happening.pins.get(director, 0))
                    for pool, view in document["pools"].items():
                        for member in view["members"]:
                            self._note(director, f"{pool}/{member['name']}", member["state"])
                    for service in document["services"]:
                        slots = [kind for kind in ("window", "tail") if service["transition"][kind]]
                        self._note(director, f"slots of {service['name']}", " and ".join(slots) or "steady")
                    for peer in document["fleet"]["peers"]:
                        self._note(director, f"peer {peer['name']}", peer["state"])
                        self._note(director, f"other tables than {peer['name']}", sorted(peer["tables_differ"]))
                for router in ROUTERS:
                    self._note(router, "sends to", " ".join(sorted(self.fleet.next_hops(router))))
        except Exception as error:  # told by the one who waits
            self._error = error

    def _note(self, who: str, what: str, value: object) -> None:
        key = f"{who} {what}"
        if self._known.get(key, value) != value:
            self.notes.append(Note(time.time(), f"{who}: {what} {value}, was {self._known[key]}"))
        self._known[key] = value


# ---- what can happen; each leaves the fleet as it found it


def drained(story: Story, member: str, pause_s: float) -> None:
    """An operator drains a member and takes it back."""
    story.happens(f"drain {member}")
    story.fleet.member("drain", member)
    story.fleet.until(lambda: story.fleet.in_rotation(member, False), f"{member} drains everywhere")
    story.passes(pause_s)
    story.happens(f"ready {member}")
    story.fleet.member("ready", member)
    story.fleet.until(lambda: story.fleet.in_rotation(member, True), f"{member} is in rotation everywhere")
    story.passes(pause_s)


def weighed(story: Story, member: str, ratio: int, pause_s: float) -> None:
    """A reload gives a member another weight, and another one the old weight."""
    story.happens(f"weight {member} = {ratio}")
    story.fleet.reload({"weight": with_ratio(member, ratio)})
    story.passes(pause_s)
    story.happens(f"weight {member} = 1")
    story.fleet.undo("weight")
    story.passes(pause_s)


def reloaded(story: Story, pause_s: float) -> None:
    """A reload of the same file."""
    story.happens("reload without change")
    story.fleet.reload({})
    story.passes(pause_s)


def removed(story: Story, member: str, pause_s: float) -> None:
    """A reload without a member that has flows, and one that adds it again."""
    story.happens(f"remove {member}")
    story.fleet.reload({"removal": without(member)})
    story.fleet.until(lambda: story.fleet.in_rotation(member, False), f"{member} has left everywhere")
    story.passes(pause_s)
    story.happens(f"add {member}")
    story.fleet.undo("removal")
    story.fleet.until(lambda: story.fleet.in_rotation(member, True), f"{member} is in rotation everywhere")
    story.passes(pause_s)


def crashed(story: Story, member: str, pause_s: float) -> None:
    """A member's servers are killed, and started again."""
    _dies(story, member, "servers killed", story.fleet.kill_servers, story.fleet.start_servers, pause_s)


def cut_off(story: Story, member: str, pause_s: float) -> None:
    """A member's link goes down, and comes back."""
    _dies(story, member, "link down", story.fleet.unplug, story.fleet.plug_in, pause_s)


def _dies(
    story: Story,
    member: str,
    how: str,
    end: Callable[[str], object],
    begin: Callable[[str], object],
    pause_s: float,
) -> None:
    story.happens(f"crash {member} ({how})")
    with story.outage(member):
        end(member)
        story.fleet.until(lambda: story.fleet.in_rotation(member, False), f"{member} is out everywhere")
        story.passes(pause_s)
        story.happens(f"recover {member}")
        begin(member)
    story.fleet.until(lambda: story.fleet.in_rotation(member, True), f"{member} is in rotation everywhere")
    story.passes(pause_s)


def director_lost(story: Story, director: str, pause_s: float) -> None:
    """A director's process is killed, and started again."""
    story.happens(f"lose {director} (killed)")
    story.fleet.kill_director(director)
    story.fleet.until(lambda: unrouted(story, director), f"{director} has no routes")
    story.passes(pause_s)
    story.happens(f"return {director}")
    story.fleet.start_director(director)
    story.fleet.until(lambda: routed(story, director), f"{director} has its routes back")
    story.passes(pause_s)


def director_unplugged(story: Story, director: str, pause_s: float) -> None:
    """A director's link goes down, and comes back. BGP's hold time decides when routers notice."""
    story.happens(f"lose {director} (link down)")
    story.fleet.unplug(director)
    story.fleet.until(lambda: unrouted(story, director), f"{director} has no routes")
    story.passes(pause_s)
    story.happens(f"return {director}")
    story.fleet.plug_in(director)
    story.fleet.until(lambda: routed(story, director), f"{director} has its routes back")
    story.passes(pause_s)


def all_at_once(story: Story, pause_s: float) -> None:
    """A drain, a removal, a crash and the loss of a director on top of each other, and all of it undone likewise."""
    fleet = story.fleet
    story.happens("drain m6")
    fleet.member("drain", "m6")
    story.happens("remove m1")
    fleet.reload({"removal": without("m1")})
    story.happens("crash m9 (servers killed)")
    with story.outage("m9"):
        fleet.kill_servers("m9")
        story.passes(1)
        story.happens("lose d1 (killed)")
        fleet.kill_director("d1")
        fleet.until(lambda: unrouted(story, "d1"), "d1 has no routes")
        fleet.until(lambda: fleet.in_rotation("m9", False, ("d2", "d3")), "m9 is out")
        story.passes(pause_s)
        story.happens("return d1")
        fleet.start_director("d1")
        story.happens("recover m9")
        fleet.start_servers("m9")
    fleet.until(lambda: fleet.in_rotation("m9", True), "m9 is in rotation everywhere")
    story.happens("ready m6")
    fleet.member("ready", "m6")
    story.happens("add m1")
    fleet.undo("removal")
    story.happens("lose d3 (killed)")
    fleet.kill_director("d3")
    fleet.until(lambda: unrouted(story, "d3"), "d3 has no routes")
    story.passes(pause_s)
    story.happens("return d3")
    fleet.start_director("d3")
    fleet.until(lambda: routed(story, "d3"), "d3 has its routes back")
    fleet.until(fleet.all_in_rotation, "every member in rotation everywhere")
    story.passes(pause_s)


def routed(story: Story, director: str) -> bool:
    """Both routers send packets to it."""
    return all(director in story.fleet.next_hops(router) for router in ROUTERS)


def unrouted(story: Story, director: str) -> bool:
    """No router sends packets to it."""
    return not any(director in story.fleet.next_hops(router) for router in ROUTERS)


def whole(story: Story, pause_s: float) -> None:
    """Everything."""
    story.passes(pause_s)
    drained(story, "m2", pause_s)
    weighed(story, "m5", 3, pause_s)
    reloaded(story, pause_s / 2)
    crashed(story, "m3", pause_s)
    removed(story, "m4", pause_s)
    director_lost(story, "d2", pause_s)
    cut_off(story, "m8", pause_s)
    # What is remembered of flows is needed most when routers send them to another director in the middle of a change.
    story.happens("drain m10")
    story.fleet.member("drain", "m10")
    director_unplugged(story, "d3", pause_s)
    story.happens("ready m10")
    story.fleet.member("ready", "m10")
    director_lost(story, "d2", pause_s)
    all_at_once(story, pause_s)


def short(story: Story, pause_s: float) -> None:
    """The most important part: every kind of change once, and directors lost and found in the middle of it."""
    story.passes(pause_s)
    story.happens("drain m2")
    story.fleet.member("drain", "m2")
    story.happens("remove m4")
    story.fleet.reload({"removal": without("m4"), "weight": with_ratio("m5", 3)})
    story.passes(pause_s)
    story.happens("crash m8 (servers killed)")
    with story.outage("m8"):
        story.fleet.kill_servers("m8")
        story.happens("lose d2 (killed)")
        story.fleet.kill_director("d2")
        story.fleet.until(lambda: unrouted(story, "d2"), "d2 has no routes")
        story.fleet.until(lambda: story.fleet.in_rotation("m8", False, ("d1", "d3")), "m8 is out")
        story.passes(pause_s)
        story.happens("return d2")
        story.fleet.start_director("d2")
        story.happens("recover m8")
        story.fleet.start_servers("m8")
    story.fleet.until(lambda: routed(story, "d2"), "d2 has its routes back")
    story.fleet.until(lambda: story.fleet.in_rotation("m8", True), "m8 is in rotation everywhere")
    story.happens("ready m2")
    story.fleet.member("ready", "m2")
    story.happens("add m4")
    story.fleet.undo("removal", "weight")
    story.fleet.until(story.fleet.all_in_rotation, "every member in rotation everywhere")
    story.passes(pause_s)
