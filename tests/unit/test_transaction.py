"""The one way to another configuration: every step, and what is in force when one of them fails. A real store, a real
reconciler and real files; a data plane in memory that refuses when it is told to."""

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import pytest

from appliance import app, transaction
from appliance.config.document import Document, DocumentError, read_document
from appliance.config.load import Loaded
from appliance.consequences import Consequences, consequences
from appliance.dataplane.base import DataPlaneError
from appliance.dataplane.fake import FakeDataPlane
from appliance.objects.differences import differences
from appliance.reconcile import Reconciler
from appliance.revisions import Author, RevisionError, Revisions
from appliance.state import State
from appliance.transaction import Effects, Outcome, ProgramError, Step, Transactions
from bgp.speaker import RecordingSpeaker
from tests.builders import To, hop
from tests.unit.config.test_document import MAIN, web

ME = Author("me", "reload", "because")


BGP = """[bgp]
local_as = 65010
router_id = "192.0.2.11"
[[bgp.peer]]
address = "192.0.2.1"
remote_as = 65000
"""


class Director:
    """What `app.py` puts together, as far as configurations go."""

    def __init__(self, folder: Path, bgp: str = BGP) -> None:
        self.folder = folder
        self.path = folder / "onward.toml"
        (folder / "conf.d").mkdir()
        (folder / "fleet.key").write_bytes(bytes(range(32)))
        self.path.write_text(MAIN + bgp)
        self.write("a", web("a", 1))
        parse = partial(app.parsed, plane=None)
        loaded = parse(read_document(self.path))
        self.changed = asyncio.Event()
        self.state = State(loaded.config, self.changed.set)
        self.plane, self.speaker = FakeDataPlane(), RecordingSpeaker()
        self.told: list[set[str]] = []
        """VIPs that routers were told of, one set after the other."""
        self.heard = asyncio.Condition()
        inner = self.speaker.set

        async def speak(routes) -> None:
            await inner(routes)
            async with self.heard:
                self.told.append({str(route.vip) for route in routes})
                self.heard.notify_all()

        self.speaker.set = speak  # type: ignore[method-assign]
        self.reconciler = Reconciler(self.state, self.plane, self.speaker, self.changed)
        self.outcomes: list[Outcome] = []
        self.steps: list[Step] = []
        self.revisions = Revisions(folder / "revisions")
        self.parsing: threading.Event | None = None
        """Where there is one, texts are parsed when it is set, and not before."""
        self.programming: asyncio.Event | None = None
        """The same for a new configuration that is to be put into force."""
        self.entered = threading.Event()
        """Somebody waits there."""

        def parse_when_wanted(document: Document) -> Loaded:
            if self.parsing is not None:
                self.entered.set()
                assert self.parsing.wait(60)
            return parse(document)

        effects = Effects(
            read=partial(read_document, self.path),
            parse=parse_when_wanted,
            foresee=self.foresee,
            program=self.program,
            done=self.outcomes.append,
            wall=lambda: 1000.0,
            clock=lambda: 0.0,
        )
        self.transactions = Transactions(effects, self.revisions, loaded, self.steps.append)

    def write(self, name: str, text: str) -> None:
        (self.folder / "conf.d" / f"{name}.toml").write_text(text)

    def find_members(self) -> None:
        addresses = [member.address for pool in self.state.config.pools for member in pool.members]
        self.state.set_next_hops({address: hop() for address in addresses})

    async def foresee(self, loaded) -> Consequences:
        old = self.transactions.in_force
        changes = differences(old.document, loaded.document, old.named, loaded.named)
        twin = self.state.twin()
        return consequences(twin, self.reconciler.applied, old.config, loaded.config, To, 1000.0, changes=changes)

    async def program(self, loaded, before) -> None:
        if self.programming is not None:
            self.entered.set()
            await self.programming.wait()
        for config, last in ((loaded.config, False), (before.config, True)):
            self.state.set_config(config, 1000.0)
            self.find_members()
            try:
                await self.reconciler.follows(self.state.generation)
            except DataPlaneError as error:
                if last:
                    raise ProgramError("neither") from error
                why = error
                self.plane.fail(self.heals)
            else:
                if last:
                    raise ProgramError(str(why))
                return

    heals: str | None = None

    @property
    def in_force(self) -> list[str]:
        return sorted(service.name for service in self.plane.tables.services)

    def revision(self) -> int:
        latest = self.revisions.latest()
        return latest.number if latest is not None else 0


@pytest.fixture
async def director(tmp_path: Path) -> AsyncIterator[Director]:
    made = Director(tmp_path)
    made.find_members()
    await made.plane.start()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(made.reconciler.run())
        await made.transactions.begin(Author("", "start"))
        async with made.heard:
            await made.heard.wait_for(lambda: {"198.51.100.1"} in made.told)
        yield made
        running.cancel()


async def test_a_reload_takes_every_step_in_order(director: Director) -> None:
    """And becomes a revision, with who and why; files that came from an editor are not written."""
    director.write("b", web("b", 2))
    outcome = await director.transactions.reload(ME)
    assert outcome.ok
    expected = ["parse", "validate", "diff", "program", "programmed", "persist", "revision", "event"]
    assert director.steps == expected
    assert director.in_force == ["a", "b"]
    assert outcome.consequences.added == ("b",)
    revision, texts = director.revisions.read(2)
    assert (revision.author, revision.summary) == (ME, "1 virtual service added, 2 other changes")
    assert texts == dict(read_document(director.path).texts)
    assert director.outcomes == [outcome]


async def test_the_same_again_is_nothing(director: Director) -> None:
    """No revision, no new tables; comments alone are a revision, since the text is what is kept."""
    sets = director.plane.sets
    outcome = await director.transactions.reload(ME)
    assert (outcome.ok, outcome.unchanged, director.revision()) == (True, True, 1)
    assert director.steps == ["parse", "event"]
    assert director.plane.sets == sets
    director.write("a", "# a comment\n" + web("a", 1))
    outcome = await director.transactions.reload(ME)
    assert (outcome.ok, outcome.unchanged, director.revision()) == (True, False, 2)
    assert outcome.consequences == Consequences()


async def test_a_dry_run_ends_after_the_diff(director: Director) -> None:
    """Nothing is changed, and what would happen is told, also when it would be refused."""
    director.write("b", web("b", 2))
    outcome = await director.transactions.reload(ME, dry_run=True)
    assert (outcome.ok, outcome.step, director.in_force) == (True, Step.DIFF, ["a"])
    assert outcome.consequences.added == ("b",)
    director.path.write_text(director.path.read_text().replace("eth1", "eth2"))
    outcome = await director.transactions.reload(ME, dry_run=True)
    assert not outcome.ok
    problem = outcome.problems[0]
    assert (problem.path, problem.message, problem.line) == ("director.interfaces", "eth1 -> eth2", 5)
    assert outcome.consequences.added == ("b",)
    assert director.revision() == 1


def break_parse(director: Director) -> None:
    director.write("b", "[[pol]]")


def break_validate(director: Director) -> None:
    director.path.write_text(director.path.read_text().replace("eth1", "eth2"))


def break_program(director: Director) -> None:
    director.plane.fail("no room")


def break_revision(director: Director) -> None:
    shutil.rmtree(director.folder / "revisions")
    (director.folder / "revisions").write_text("")


@pytest.mark.parametrize(
    ("spoil", "step", "text"),
    [
        (break_parse, Step.PARSE, "unknown key"),
        (break_validate, Step.VALIDATE, "takes a restart"),
        (break_program, Step.PROGRAM, "no room"),
        (break_revision, Step.REVISION, "Not a directory"),
    ],
)
async def test_a_step_that_fails_leaves_what_was_in_force(
    director: Director, spoil: Callable[[Director], None], step: Step, text: str
) -> None:
    """It is told which one it was and why; routers are told of the old VIP all the time, and later changes work."""
    director.write("b", web("b", 2))
    good = dict(read_document(director.path).texts)
    spoil(director)
    before = len(director.told)
    outcome = await director.transactions.reload(ME)
    assert (outcome.ok, outcome.step) == (False, step)
    assert text in str(outcome.problems[0])
    assert not outcome.leaves_no_trace, "the files say something else than what is in force"
    assert director.in_force == ["a"]
    assert all("198.51.100.1" in vips for vips in director.told[before:])
    assert director.transactions.in_force.config.digest == director.state.config.digest
    assert director.state.plane_error is None

    if (director.folder / "revisions").is_file():
        (director.folder / "revisions").unlink()
    for name, content in good.items():
        (director.folder / name).write_text(content)
    assert (await director.transactions.reload(ME)).ok
    assert director.in_force == ["a", "b"]


async def test_a_change_is_written_to_the_files(director: Director) -> None:
    """All of them, and those that are not wanted any more are removed."""
    main = director.path.read_text()
    texts = {"onward.toml": main + "# later\n", "conf.d/b.toml": web("b", 2)}
    outcome = await director.transactions.change(lambda _: texts, ME)
    assert outcome.ok
    assert dict(read_document(director.path).texts) == texts
    assert not (director.folder / "conf.d" / "a.toml").exists()
    assert not (director.folder / ".onward.toml.pending").exists()
    assert director.in_force == ["b"]
    assert director.steps.count(Step.FILE) == 3


async def test_a_change_for_another_document_is_refused(director: Director) -> None:
    """Somebody else was faster; or has written to the files, and nobody has looked at that yet."""
    base = director.transactions.in_force.document.digest
    texts = {**director.transactions.in_force.document.texts, "conf.d/b.toml": web("b", 2)}
    assert (await director.transactions.change(lambda _: texts, ME, base=base)).ok
    outcome = await director.transactions.change(lambda _: texts, ME, base=base)
    assert "changed meanwhile" in str(outcome.problems[0])
    assert outcome.leaves_no_trace
    director.write("a", "# mine\n" + web("a", 1))
    outcome = await director.transactions.change(lambda _: {**texts, "conf.d/c.toml": web("c", 3)}, ME)
    assert "the files say something else" in str(outcome.problems[0])
    assert (director.folder / "conf.d" / "a.toml").read_text().startswith("# mine")


@pytest.mark.parametrize("where", [".onward.toml.pending.new", "onward.toml.new", "conf.d/b.toml.new"])
async def test_files_that_cannot_be_written_are_put_back(director: Director, where: str) -> None:
    """Wherever that is noticed: the old texts stand on the disk, and the old configuration is in force."""
    before = dict(read_document(director.path).texts)
    (director.folder / where).mkdir()
    texts = {"onward.toml": before["onward.toml"] + "# later\n", "conf.d/b.toml": web("b", 2)}
    outcome = await director.transactions.change(lambda _: texts, ME)
    assert not outcome.ok
    assert "cannot write" in str(outcome.problems[0])
    assert not outcome.leaves_no_trace, "somebody has to look after the disk"
    assert dict(read_document(director.path).texts) == before
    assert director.in_force == ["a"]
    (director.folder / where).rmdir()
    assert (await director.transactions.change(lambda _: texts, ME)).ok
    assert director.in_force == ["b"]


async def test_the_way_back(director: Director) -> None:
    """A rollback is a change to the texts of a revision, and a revision itself; forced, it also mends broken files."""
    director.write("b", web("b", 2))
    await director.transactions.reload(ME)
    director.write("b", "[[pol")
    outcome = await director.transactions.rollback(1, ME)
    assert not outcome.ok
    outcome = await director.transactions.rollback(2, ME, force=True)
    assert (outcome.ok, outcome.unchanged) == (True, True)
    assert "[[pol" not in (director.folder / "conf.d" / "b.toml").read_text()
    outcome = await director.transactions.rollback(1, ME)
    assert outcome.ok
    assert director.in_force == ["a"]
    assert not (director.folder / "conf.d" / "b.toml").exists()
    assert director.revision() == 4
    with pytest.raises(RevisionError):
        await director.transactions.rollback(9, ME)


async def test_changes_wait_for_each_other(director: Director) -> None:
    """Two at once are two, one after the other, and both are in force."""

    def adding(name: str, number: int):
        return lambda document: {**document.texts, f"conf.d/{name}.toml": web(name, number)}

    outcomes = await asyncio.gather(
        director.transactions.change(adding("b", 2), ME), director.transactions.change(adding("c", 3), ME)
    )
    # The second one was made for what was in force when its turn came.
    assert [outcome.ok for outcome in outcomes] == [True, True]
    assert director.in_force == ["a", "b", "c"]


def adding(name: str, number: int):
    """A change that adds a virtual service."""
    return lambda document: {**document.texts, f"conf.d/{name}.toml": web(name, number)}


async def test_a_reload_does_not_wait_for_a_change_that_is_parsed(director: Director) -> None:
    """Nor does a dry run. The change finds something else in force, and is made anew for that: nothing gets lost."""
    director.parsing = threading.Event()
    async with asyncio.TaskGroup() as tasks:
        slow = tasks.create_task(director.transactions.change(adding("b", 2), ME))
        await asyncio.to_thread(director.entered.wait, 60)
        held, director.parsing = director.parsing, None
        assert (await director.transactions.change(adding("d", 4), ME, dry_run=True)).ok
        director.write("c", web("c", 3))
        assert (await director.transactions.reload(ME)).ok
        assert (director.in_force, slow.done()) == (["a", "c"], False)
        held.set()
    assert slow.result().ok
    assert director.in_force == ["a", "b", "c"]
    assert [outcome.consequences.added for outcome in director.outcomes] == [("d",), ("c",), ("b",)]
    assert director.revision() == 3


async def test_a_dry_run_does_not_wait_for_what_is_put_into_force(director: Director) -> None:
    """It is about what is in force as it begins."""
    director.programming = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        slow = tasks.create_task(director.transactions.change(adding("b", 2), ME))
        await asyncio.to_thread(director.entered.wait, 60)
        outcome = await director.transactions.change(adding("c", 3), ME, dry_run=True)
        assert (outcome.ok, outcome.consequences.added, slow.done()) == (True, ("c",), False)
        director.programming.set()
    assert director.in_force == ["a", "b"]


async def test_others_that_are_always_faster_wait_in_the_end(director: Director) -> None:
    """A change that was overtaken three times is prepared while nobody else is let in."""
    loop, others, late = asyncio.get_running_loop(), list[str](), list[Future[Outcome]]()

    def edit(document: Document):
        name = f"x{len(others) + 1}"
        others.append(name)
        director.write(name, web(name, 10 + len(others)))
        faster = asyncio.run_coroutine_threadsafe(director.transactions.reload(ME), loop)
        if len(others) <= transaction.TRIES:
            assert faster.result(60).ok
        else:
            late.append(faster)
        return {**document.texts, "conf.d/b.toml": web("b", 2)}

    outcome = await director.transactions.change(edit, ME, force=True)
    assert outcome.ok
    assert director.in_force == ["a", "b", "x1", "x2", "x3"]
    (last,) = late
    assert (await asyncio.wrap_future(last)).ok, "it has waited, and finds the files as they are now"
    assert director.in_force == ["a", "b", "x1", "x2", "x3"]


async def test_files_that_change_meanwhile_are_read_again(director: Director) -> None:
    """What is put into force is what the files say then, and not what they said as it was prepared; a change finds that
    they are not what is in force."""
    director.write("b", web("b", 2))
    director.parsing = threading.Event()
    async with asyncio.TaskGroup() as tasks:
        reload = tasks.create_task(director.transactions.reload(ME))
        await asyncio.to_thread(director.entered.wait, 60)
        director.write("b", web("c", 3))
        director.parsing.set()
    assert reload.result().ok
    assert director.in_force == ["a", "c"]
    director.parsing.clear()
    director.entered.clear()
    async with asyncio.TaskGroup() as tasks:
        change = tasks.create_task(director.transactions.change(adding("d", 4), ME))
        await asyncio.to_thread(director.entered.wait, 60)
        director.write("b", "# mine\n" + web("c", 3))
        director.parsing.set()
    assert (change.result().ok, change.result().conflict) == (False, True)
    assert (director.folder / "conf.d" / "b.toml").read_text().startswith("# mine")


async def test_what_nobody_waits_for_any_more_is_not_made(director: Director) -> None:
    """Until it begins to be put into force; files, history and status are as they were."""
    before, waits = dict(read_document(director.path).texts), True
    director.parsing = threading.Event()
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(director.transactions.change(adding("b", 2), ME, wanted=lambda: waits))
        await asyncio.to_thread(director.entered.wait, 60)
        waits = False
        director.parsing.set()
    outcome = asked.result()
    assert (outcome.ok, outcome.withdrawn, outcome.step) == (False, True, Step.PARSE)
    assert outcome.leaves_no_trace
    assert Step.PROGRAM not in director.steps
    assert dict(read_document(director.path).texts) == before
    assert (director.in_force, director.revision()) == (["a"], 1)
    director.write("b", web("b", 2))
    outcome = await director.transactions.reload(ME, wanted=lambda: False)
    assert (outcome.withdrawn, outcome.leaves_no_trace) == (True, True)


async def test_what_has_begun_to_be_put_into_force_is_finished(director: Director) -> None:
    """Also where its caller is cancelled: in force, in the files, a revision, and told."""
    director.programming = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(director.transactions.change(adding("b", 2), ME, wanted=lambda: "b" not in told))
        told: list[str] = []
        await asyncio.to_thread(director.entered.wait, 60)
        asked.cancel()
        await asyncio.wait([asked])
        assert asked.cancelled()
        director.programming.set()
        await director.transactions.end()
    assert director.in_force == ["a", "b"]
    assert "conf.d/b.toml" in read_document(director.path).texts
    assert director.revision() == 2
    assert [outcome.ok for outcome in director.outcomes] == [True]


async def test_the_end_waits_for_no_parser(director: Director) -> None:
    """Who is parsed for is told that nothing was done, while the thread is still at it; and nothing begins any more."""
    director.parsing = threading.Event()
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(director.transactions.change(adding("b", 2), ME))
        await asyncio.to_thread(director.entered.wait, 60)
        await director.transactions.end()
        assert asked.done(), "and the parser is not"
        director.parsing.set()
    outcome = asked.result()
    assert (outcome.ok, outcome.withdrawn) == (False, True)
    assert "the director ends" in str(outcome.problems[0])
    assert (await director.transactions.reload(ME)).withdrawn
    assert Step.PROGRAM not in director.steps


async def test_a_dry_run_says_what_would_refuse_the_change(director: Director) -> None:
    """Files that say something else, at the same step and in the same words; with force neither of them minds."""
    director.write("a", "# mine\n" + web("a", 1))
    would = await director.transactions.change(adding("b", 2), ME, dry_run=True)
    real = await director.transactions.change(adding("b", 2), ME)
    assert (would.ok, would.conflict, would.step, would.problems) == (False, True, real.step, real.problems)
    would = await director.transactions.change(adding("b", 2), ME, dry_run=True, force=True)
    assert (would.ok, would.consequences.added) == (True, ("b",))
    assert (await director.transactions.change(adding("b", 2), ME, force=True)).ok


async def test_files_that_cannot_be_put_back_are_told(director: Director, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in force, what a start would take, and the way out, which works once the disk does."""
    real, calls = transaction.finish, list[str]()

    def no_room(change, at=lambda _: None) -> None:
        calls.append(change.document.digest)
        raise DocumentError("cannot write: No space left on device")

    before = director.transactions.in_force.document
    monkeypatch.setattr(transaction, "finish", no_room)
    outcome = await director.transactions.change(adding("b", 2), ME)
    assert (outcome.ok, len(calls), director.in_force) == (False, 2, ["a"])
    text = str(outcome.problems[0])
    assert "the files cannot be put back" in text
    assert "the configuration from before is in force, and a director that starts now would take that one" in text
    assert read_document(director.path).digest == before.digest, "it is true"
    assert not outcome.leaves_no_trace, "the status shows it"
    monkeypatch.setattr(transaction, "decide_on", no_room_for_a_note)
    outcome = await director.transactions.change(adding("b", 2), ME, force=True)
    assert not outcome.ok
    monkeypatch.undo()
    assert real is transaction.finish
    assert (await director.transactions.rollback(1, ME, force=True)).ok
    assert not (director.folder / ".onward.toml.pending").exists()
    assert read_document(director.path).digest == before.digest


def no_room_for_a_note(document, note) -> None:
    raise DocumentError("cannot write beside it: No space left on device")


# ---------------------------------------------------------------------------------------------------------------------
# For the next start


def other_interface(document: Document):
    """A change that takes a restart."""
    return {**document.texts, "onward.toml": document.texts["onward.toml"].replace("eth1", "eth2")}


def fewer_pins(document: Document):
    """Another one."""
    text = document.texts["onward.toml"].replace("[director]", "[director]\npins = 64")
    return {**document.texts, "onward.toml": text}


async def test_a_change_for_the_next_start(director: Director) -> None:
    """The files have it, what is in force stays, and it is said what waits, why, and by whom; a second one comes to
    it; and the next process begins with both, as the revision that they are."""
    refused = await director.transactions.change(other_interface, ME)
    assert (refused.ok, refused.step) == (False, Step.VALIDATE)
    would = await director.transactions.change(other_interface, ME, at_restart=True, dry_run=True)
    assert (would.ok, director.transactions.staged) == (True, None)
    before = len(director.steps)
    outcome = await director.transactions.change(other_interface, ME, at_restart=True)
    assert outcome.ok
    assert Step.PROGRAM not in director.steps[before:]
    assert outcome.staged is not None
    assert outcome.staged.why == ("director.interfaces: eth1 -> eth2",)
    assert (outcome.staged.revision.number, outcome.revision and outcome.revision.number) == (2, 1)
    assert 'interfaces = ["eth2"]' in director.path.read_text()
    assert director.state.config.director.interfaces == ("eth1",)

    assert (await director.transactions.change(fewer_pins, ME, at_restart=True)).ok
    staged = director.transactions.staged
    assert staged is not None
    assert staged.why == ("director.pins: 131072 -> 64", "director.interfaces: eth1 -> eth2")
    again = await director.transactions.change(lambda _: staged.loaded.document.texts, ME, at_restart=True)
    assert (again.ok, again.unchanged, director.revision()) == (True, True, 3)

    reload = await director.transactions.reload(ME)
    assert (reload.ok, [problem.path for problem in reload.problems]) == (
        False,
        ["director.pins", "director.interfaces"],
    )
    assert director.transactions.staged is staged

    parse = partial(app.parsed, plane=None)
    next_one = Transactions(
        director.transactions._effects, director.revisions, parse(read_document(director.path)), lambda _: None
    )
    begun = await next_one.begin(Author("", "start"))
    assert begun is not None
    assert (begun.number, begun.author) == (3, ME)


async def test_other_changes_while_one_waits(director: Director) -> None:
    """They are refused with what waits and why, may wait as well, or win by force; a rollback to what is in force takes
    it back, and everything is as before."""
    assert (await director.transactions.change(other_interface, ME, at_restart=True)).ok
    for dry_run in (True, False):
        outcome = await director.transactions.change(adding("b", 2), ME, dry_run=dry_run)
        text = str(outcome.problems[0])
        assert (outcome.ok, outcome.conflict) == (False, True)
        assert "revision 2 (me, because) waits for a restart" in text
        assert "director.interfaces: eth1 -> eth2" in text
    assert (await director.transactions.change(adding("b", 2), ME, at_restart=True)).ok
    assert 'interfaces = ["eth2"]' in director.path.read_text()
    assert (director.folder / "conf.d" / "b.toml").exists()
    assert director.in_force == ["a"]

    assert (await director.transactions.rollback(1, ME)).ok
    assert director.transactions.staged is None
    assert read_document(director.path).digest == director.transactions.in_force.document.digest
    assert (await director.transactions.change(adding("b", 2), ME)).ok
    assert director.in_force == ["a", "b"]

    assert (await director.transactions.change(other_interface, ME, at_restart=True)).ok
    assert (await director.transactions.change(adding("c", 3), ME, force=True)).ok
    assert (director.in_force, director.transactions.staged) == (["a", "b", "c"], None)
    assert 'interfaces = ["eth1"]' in director.path.read_text()


async def test_what_takes_no_restart_does_not_wait_for_one(director: Director) -> None:
    """It is said so; files that somebody edits instead of what waits are what counts."""
    outcome = await director.transactions.change(adding("b", 2), ME, at_restart=True)
    assert (outcome.ok, "takes a restart" in str(outcome.problems[0])) == (False, True)
    good = director.path.read_text()
    assert (await director.transactions.change(other_interface, ME, at_restart=True)).ok
    director.path.write_text(good)
    assert (await director.transactions.reload(ME)).ok
    assert director.transactions.staged is None
    assert (await director.transactions.change(adding("b", 2), ME)).ok


async def test_many_at_once_do_not_see_each_other_in_the_files(director: Director) -> None:
    """The files of a change are there before it is in force; nobody takes that for an edit. Dry runs neither."""
    changes = [director.transactions.change(adding(f"n{i}", 10 + i), ME) for i in range(12)]
    dry_runs = [director.transactions.change(adding(f"d{i}", 40 + i), ME, dry_run=True) for i in range(6)]
    outcomes = await asyncio.gather(*changes, *dry_runs)
    assert [str(problem) for outcome in outcomes for problem in outcome.problems] == []
    assert director.in_force == sorted(["a", *(f"n{i}" for i in range(12))])


async def test_who_changes_nothing_takes_nothing_back(director: Director) -> None:
    """What waits for the next start stays where it is."""
    assert (await director.transactions.change(other_interface, ME, at_restart=True)).ok
    staged = director.transactions.staged
    outcome = await director.transactions.change(lambda document: document.texts, ME)
    assert (outcome.ok, outcome.unchanged, outcome.written) == (True, True, False)
    assert director.transactions.staged is staged
    assert 'interfaces = ["eth2"]' in director.path.read_text()


async def test_what_waits_is_changed_by_who_has_seen_it(director: Director) -> None:
    """A base is that of what would be changed."""
    base = director.transactions.in_force.document.digest
    first = await director.transactions.change(other_interface, ME, base=base, at_restart=True)
    second = await director.transactions.change(fewer_pins, ME, base=base, at_restart=True)
    assert (first.ok, second.ok, second.conflict) == (True, False, True)
    third = await director.transactions.change(fewer_pins, ME, base=first.digest, at_restart=True)
    assert third.ok
    assert 'interfaces = ["eth2"]' in director.path.read_text()


async def test_an_edit_while_a_change_is_put_into_force_is_not_lost(director: Director) -> None:
    """The change is taken back, and says why."""
    director.programming = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        change = tasks.create_task(director.transactions.change(adding("b", 2), ME))
        await asyncio.to_thread(director.entered.wait, 60)
        director.write("a", "# mine\n" + web("a", 1))
        director.programming.set()
    assert (change.result().ok, change.result().conflict, director.in_force) == (False, True, ["a"])
    assert (director.folder / "conf.d" / "a.toml").read_text().startswith("# mine")
    assert not (director.folder / "conf.d" / "b.toml").exists()


async def test_force_that_fails_leaves_an_edit_alone(director: Director, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files say again what they said, and not what is in force."""
    director.write("a", "# mine\n" + web("a", 1))

    def full(*_: object) -> None:
        raise RevisionError("No space left on device")

    monkeypatch.setattr(director.revisions, "add", full)
    outcome = await director.transactions.change(adding("b", 2), ME, force=True)
    assert (outcome.ok, director.in_force) == (False, ["a"])
    assert (director.folder / "conf.d" / "a.toml").read_text().startswith("# mine")
    assert not (director.folder / "conf.d" / "b.toml").exists()


async def test_what_is_in_force_is_never_forgotten(director: Director) -> None:
    """However many revisions are staged after it."""
    for i in range(60):
        assert (await director.transactions.change(adding_and_other(i), ME, at_restart=True)).ok
    assert (await director.transactions.rollback(1, ME)).ok


def adding_and_other(i: int):
    return lambda document: {**other_interface(document), "conf.d/z.toml": f"# {i}\n" + web("z", 9)}
