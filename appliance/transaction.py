"""The one way to another configuration, whoever wants it: SIGHUP, `onward reload`, a change by the API.

    parse ─▶ validate ─▶ diff ─▶ (a dry run ends here) ─▶ program ─▶ persist ─▶ event

* *parse*: what is written, to a `Config` or to every mistake in it.
* *validate*: what this process can take on without a restart.
* *diff*: what will happen (consequences.py).
* *program*: the store, then the data plane, which has to prove that it follows. Whatever fails puts the configuration
  from before back into force. From its beginning on a transaction is finished, whatever becomes of who has asked.
* *persist*: the files, where a change did not come from there, and a revision. It counts from one moment on, that of
  `document.decide_on`; a process that ends before starts anew with the old configuration, one that ends after with the
  new one, and either is whole. What cannot be persisted is not kept in force either.
* *event*: log, status, metrics.

One transaction at a time is put into force. What comes before takes long for large texts, touches nothing and is done
by each for itself; if something else is in force or written by the time that it is ready, it begins anew. A dry run
waits for nobody.

A change may be meant for the next start (`at_restart`), where it takes one: it goes through all steps but *program*,
and then the files say it, and what is in force is what it was. It is `Transactions.staged` until it is overtaken.

Effects come in as arguments, and so does `at`, which is told of every step: that is where a test ends the process.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from appliance.aside import aside
from appliance.config.document import Document, DocumentError, Pending, decide_on, finish, forget, pending
from appliance.config.load import Loaded
from appliance.config.merge import merge
from appliance.config.problems import ConfigError, Problem
from appliance.consequences import Consequences
from appliance.consequences import as_document as consequences_document
from appliance.revisions import Author, Revision, RevisionError, Revisions
from appliance.wiring import needs_restart


class Step(StrEnum):
    """Where a transaction is."""

    PARSE = "parse"
    VALIDATE = "validate"
    DIFF = "diff"
    PROGRAM = "program"
    PROGRAMMED = "programmed"
    PERSIST = "persist"
    DECIDED = "decided"
    """From here on the new configuration is the one that counts."""
    FILE = "file"
    """Once for each file that is about to be replaced or removed."""
    REVISION = "revision"
    FORGET = "forget"
    EVENT = "event"


BEFORE = (Step.PARSE, Step.VALIDATE, Step.DIFF)
"""Nothing has been touched yet."""


class MeanwhileError(ConfigError):
    """Something else is in force, or written, than whoever wants a change has seen."""


class WithdrawnError(ConfigError):
    """Nobody wants it any more."""


class ProgramError(Exception):
    """A configuration cannot be put into force; the one before is again."""

    def __init__(self, text: str, *, restored: bool = True) -> None:
        """
        Args:
            text: why.
            restored: whether the one before is in force again.
        """
        super().__init__(text)
        self.restored = restored


class NotPutBackError(DocumentError):
    """A change cannot be kept, and the files cannot be put back."""


@dataclass(frozen=True)
class Staged:
    """What the files say since somebody has changed them for the next start."""

    loaded: Loaded
    revision: Revision
    why: tuple[str, ...]
    """What of it takes a restart."""


@dataclass(frozen=True)
class Outcome:
    """What became of a transaction."""

    ok: bool
    step: Step
    """Where it ended."""

    author: Author
    dry_run: bool = False
    unchanged: bool = False
    """Nothing was to be done: everything that is written is what is in force."""

    problems: tuple[Problem, ...] = ()
    """Why it was refused."""

    conflict: bool = False
    """Whether it was refused since something else is in force, or written, than its author has seen."""

    withdrawn: bool = False
    """Whether nothing was done since who has asked is gone, or the process ends."""

    at_restart: bool = False
    """Whether it was about the files alone, for the next start."""

    written: bool = False
    """Whether files were written."""

    asked: bool = False
    """Somebody had asked for a change, who is told what became of it; else it was about what the files say."""

    consequences: Consequences = field(default_factory=Consequences)
    revision: Revision | None = None
    """Of what is in force now, where that was kept."""

    staged: Staged | None = None
    """What waits for the next start now."""

    digest: str = ""
    """Of the document that the transaction was about; empty when it could not be read."""

    seconds: float = 0.0

    @property
    def leaves_no_trace(self) -> bool:
        """Whether all is as if nobody had tried: files and what is in force say what they said, and who has asked for
        something else knows that it was refused."""
        return self.dry_run or self.withdrawn or (self.asked and not self.ok and self.step in BEFORE)


@dataclass(frozen=True)
class Effects:
    """What a transaction does to the world."""

    read: Callable[[], Document]
    """What is written now; raises ConfigError."""

    parse: Callable[[Document], Loaded]
    """Raises ConfigError."""

    foresee: Callable[[Loaded], Awaitable[Consequences]]
    program: Callable[[Loaded, Loaded], Awaitable[None]]
    """Put the first one into force; the second one was until now. Raises ProgramError when that is in force again."""

    done: Callable[[Outcome], None]
    """Told of every transaction at its end."""

    wall: Callable[[], float]
    """Seconds since 1970, for people."""

    clock: Callable[[], float]
    """Seconds, for durations."""


TRIES = 3
"""So often a transaction begins anew because others were faster; then the others wait for it."""

AT_ONCE = 4
"""Changes and dry runs that are prepared at the same time: each takes a core, and the memory of a configuration."""

END_S = 30.0
"""How long the end of a process waits for a transaction that has begun to be put into force."""

WAITING = "at_restart (--at-restart) has it wait for one"

Edit = Callable[[Document], Mapping[str, str]]
Wanted = Callable[[], bool]


def _always() -> bool:
    return True


class Transactions:
    """Takes changes, and puts one after the other into force."""

    def __init__(
        self,
        effects: Effects,
        revisions: Revisions,
        in_force: Loaded,
        at: Callable[[Step], None] = lambda _: None,
    ) -> None:
        """
        Args:
            effects: what to work with.
            revisions: where configurations are kept.
            in_force: the one to begin with.
            at: is told of every step as it begins.
        """
        self._effects = effects
        self._revisions = revisions
        self._at = at
        self._one_at_a_time = asyncio.Lock()
        self._prepared_at_once = asyncio.Semaphore(AT_ONCE)
        self._going: dict[asyncio.Task[Any], _Progress] = {}
        self._ending = False
        self.in_force = in_force
        """As it was read: members that are leaving are not in it."""

        self.revision: Revision | None = None
        """Of what is in force; None when it could not be kept."""

        self.staged: Staged | None = None
        """What the files say for the next start; None: they say what is in force, as far as this process knows."""

    @property
    def revisions(self) -> Revisions:
        return self._revisions

    def parse(self, document: Document) -> Loaded:
        """What a document says; nothing comes of it.

        Raises:
            ConfigError: every mistake in it.
        """
        return self._effects.parse(document)

    async def begin(self, author: Author) -> Revision | None:
        """The configuration that the process has begun with becomes a revision, unless it is the latest already; and a
        change that a process before this one has not finished is finished.

        Returns:
            The revision of what is in force.

        Raises:
            RevisionError: it cannot be kept.
            DocumentError: the change cannot be finished. Files are read as they will be all the same.
        """
        path = self.in_force.document.path
        change = await aside(pending, path)
        if change is not None:
            note = {key: str(change.note.get(key, "")) for key in ("who", "via", "why")}
            author = Author(**note) if note["who"] else author
            if not change.overtaken:
                await aside(finish, change)
        known = await aside(self._revisions.latest)
        if known is None or known.digest != self.in_force.document.digest:
            known = await aside(self._keep, self.in_force, author, "")
        self.revision = known
        if change is not None:
            await aside(forget, path)
        return known

    async def end(self, limit_s: float = END_S) -> None:
        """Take no more changes: those that have not begun to be put into force end at once, with nothing done; one that
        has is waited for.

        Args:
            limit_s: how long at most; whatever it has come to then, the next process begins with all of the old
                configuration or all of the new.
        """
        self._ending = True
        for task, run in self._going.items():
            if not run.is_decided:
                task.cancel()
        if self._going:
            await asyncio.wait(list(self._going), timeout=limit_s)

    async def reload(self, author: Author, *, dry_run: bool = False, wanted: Wanted = _always) -> Outcome:
        """What the files say now.

        Args:
            author: who, and why.
            dry_run: say what would happen.
            wanted: whether somebody still waits for it; asked until it begins to be put into force.
        """

        def read(_: Loaded, __: Staged | None) -> _Read:
            document = self._effects.read()
            return _Read(document, document.digest)

        return await self._whole(_Progress(author, dry_run, wanted, write=False), read)

    async def change(
        self,
        edit: Edit,
        author: Author,
        *,
        base: str | None = None,
        dry_run: bool = False,
        force: bool = False,
        at_restart: bool = False,
        back: bool = False,
        wanted: Wanted = _always,
    ) -> Outcome:
        """Another document than the one in force, which is then written to the files.

        Args:
            edit: from the document in force (with *at_restart*, from the one that waits, if one does) to the texts that
                there shall be, by name as in `Document.texts`
                (`edit.py` changes single objects and leaves comments alone). Called in a thread, and again where others
                were faster. Raises ConfigError.
            author: who, and why.
            base: the digest of the document that the change was made for; if *edit* would get another one, it is
                refused.
            dry_run: say what would happen.
            force: also where the files say something else than what is in force, which is lost then.
            at_restart: only write it, for the next start; together with what waits for that already.
            back: what is in force is to be written, in the place of what waits.
            wanted: as for `reload`.
        """

        def read(in_force: Loaded, staged: Staged | None) -> _Read:
            now = in_force.document
            written = None if force else self._effects.read().digest
            waiting = staged if staged is not None and written in (None, staged.loaded.document.digest) else None
            if written not in (None, now.digest) and waiting is None:
                raise _refused(
                    now,
                    "the files say something else than what is in force, which this change would overwrite",
                    "reload them first, or force it",
                )
            about = waiting.loaded.document if waiting is not None and at_restart else now
            if base is not None and base != about.digest:
                raise _refused(about, "the configuration has changed meanwhile", "read it again, and try again")
            document = about.having(edit(about))
            if waiting is not None and not (at_restart or force) and document.digest != now.digest:
                raise _waits(now, waiting)
            return _Read(document, written)

        run = _Progress(author, dry_run, wanted, write=True, at_restart=at_restart, back=back or force or at_restart)
        return await self._whole(run, read)

    async def rollback(
        self,
        number: int,
        author: Author,
        check: Callable[[], None] = lambda: None,
        *,
        dry_run: bool = False,
        force: bool = False,
        at_restart: bool = False,
        wanted: Wanted = _always,
    ) -> Outcome:
        """The texts of an earlier revision; those of the one in force take back what waits for the next start.

        Args:
            number: of the revision.
            author: who, and why.
            check: raises whatever it wants where what is in force now is not to be changed so.
            dry_run, force, at_restart, wanted: as for `change`.

        Raises:
            RevisionError: there is none of that number, or it cannot be read.
        """
        _, texts = await aside(self._revisions.read, number)

        def edit(_: Document) -> Mapping[str, str]:
            check()
            return texts

        return await self.change(
            edit, author, dry_run=dry_run, force=force, at_restart=at_restart, back=True, wanted=wanted
        )

    async def _whole(self, run: "_Progress", read: "_Reading") -> Outcome:
        """All of a transaction. It goes on where its caller is cancelled: to the next step before it begins to be put
        into force, else to its end."""
        try:
            return await asyncio.shield(self._told(run, read))
        except asyncio.CancelledError:
            run.wanted = lambda: False
            raise

    async def _told(self, run: "_Progress", read: "_Reading") -> Outcome:
        started, task = self._effects.clock(), asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type
        self._going[task] = run
        try:
            await self._through(run, read)
            if not run.dry_run:
                self._enter(run, Step.EVENT)
        except asyncio.CancelledError:
            if not self._ending or run.is_decided:
                raise
            task.uncancel()
            run.problems, run.withdrawn = self._ends(), True
        except ConfigError as error:
            run.problems = error.problems
            run.conflict, run.withdrawn = isinstance(error, MeanwhileError), isinstance(error, WithdrawnError)
        except (ProgramError, DocumentError, RevisionError) as error:
            run.problems = (await self._failed(error),)
        except OSError as error:
            if run.is_decided:
                raise
            run.problems = (_problem(self.in_force.document, str(error), "nothing was done; try again"),)
        finally:
            del self._going[task]
        looked = not (run.write or run.dry_run or run.withdrawn) and run.digest != ""
        waiting = self.staged if self.staged is run.seen else None
        if looked and waiting is not None and run.digest != waiting.loaded.document.digest:
            self.staged = None  # whatever became of it: the files say something else
        outcome = Outcome(
            ok=not run.problems,
            step=run.step,
            author=run.author,
            dry_run=run.dry_run,
            unchanged=run.unchanged,
            problems=run.problems,
            conflict=run.conflict,
            withdrawn=run.withdrawn,
            at_restart=run.at_restart,
            written=run.written,
            asked=run.write,
            consequences=run.consequences,
            revision=self.revision,
            staged=self.staged,
            digest=run.digest,
            seconds=self._effects.clock() - started,
        )
        self._effects.done(outcome)
        return outcome

    async def _failed(self, error: ProgramError | DocumentError | RevisionError) -> Problem:
        """What is in force now, and what the files say, where it is not what one would think."""
        document, remedy = self.in_force.document, "the configuration from before is in force"
        if isinstance(error, ProgramError) and not error.restored:
            remedy = (
                "see what the status says of the data plane: the configuration from before is not in force again yet"
            )
        if isinstance(error, NotPutBackError):
            number = f" {self.revision.number}" if self.revision is not None else " REVISION"
            start = "that one" if await aside(self._counts, document) else "another one"
            remedy = (
                f"the configuration from before is in force, and a director that starts now would take {start}: see to "
                f"the disk first, then `onward config rollback{number} --force` writes what is in force"
            )
        return _problem(document, str(error), remedy)

    def _ends(self) -> tuple[Problem, ...]:
        return (_problem(self.in_force.document, "the director ends, and nothing was done", "try again when it runs"),)

    async def _through(self, run: "_Progress", read: "_Reading") -> None:
        """All steps but the last."""
        if run.dry_run:
            async with self._prepared_at_once:
                await self._prepare(run, await self._read(run, read))
            return
        for _ in range(TRIES):
            async with self._among_few(run):
                known = await self._read(run, read)
                prepared = await self._prepare(run, known)
            async with self._one_at_a_time:
                same = self.in_force is known.in_force and self.staged is known.staged
                if same and await aside(self._holds, run, prepared):
                    await self._put(run, prepared)
                    return
        async with self._one_at_a_time:
            await self._put(run, await self._prepare(run, await self._look(run, read)))

    async def _read(self, run: "_Progress", read: "_Reading") -> "_Known":
        """What it is about.

        Raises:
            ConfigError: it is refused. That files and what is in force differ is believed while nobody is writing only:
                the files of a change are there a moment before it is in force.
        """
        try:
            return await self._look(run, read)
        except MeanwhileError:
            async with self._one_at_a_time:
                return await self._look(run, read)

    async def _look(self, run: "_Progress", read: "_Reading") -> "_Known":
        self._check(run)
        self._enter(run, Step.PARSE)
        now, staged = self.in_force, self.staged
        run.seen = staged
        got = await aside(read, now, staged)
        run.digest = got.document.digest
        return _Known(now, staged, got)

    @asynccontextmanager
    async def _among_few(self, run: "_Progress") -> AsyncIterator[None]:
        """A reload waits for no change."""
        if not run.write:
            yield
            return
        async with self._prepared_at_once:
            yield

    def _holds(self, run: "_Progress", prepared: "_Prepared") -> bool:
        """Whether the files are still what they were as it was prepared."""
        if prepared.written is None:
            return True
        said = self._written_now()
        return said is not None and said.digest == prepared.written and (run.write or prepared.loaded.still(said))

    async def _prepare(self, run: "_Progress", known: "_Known") -> "_Prepared":
        """Whatever comes before anything is touched.

        Raises:
            ConfigError: it is refused.
        """
        now, staged, got = known.in_force, known.staged, known.read
        run.problems, run.consequences = (), Consequences()
        document = got.document
        run.unchanged = await aside(now.still, document)
        if run.unchanged:
            return _Prepared(now, got.written)
        if run.at_restart and staged is not None and await aside(staged.loaded.still, document):
            run.unchanged = True
            return _Prepared(staged.loaded, got.written)
        self._check(run)
        loaded = await aside(self._effects.parse, document)
        self._check(run)
        self._enter(run, Step.VALIDATE)
        fixed = await aside(self._fixed, run, now, loaded)
        if run.at_restart and not fixed:
            raise ConfigError(
                [
                    _problem(
                        document, "nothing of this takes a restart", "leave at_restart out: then it is in force at once"
                    )
                ]
            )
        if fixed and not run.dry_run and not run.at_restart:
            raise ConfigError(fixed)
        self._enter(run, Step.DIFF)
        run.consequences = await self._effects.foresee(loaded)
        if not run.at_restart:
            run.problems = fixed
        self._check(run)
        return _Prepared(loaded, got.written, tuple(map(_brief, fixed)))

    def _fixed(self, run: "_Progress", now: Loaded, loaded: Loaded) -> tuple[Problem, ...]:
        """What takes a restart, with its place in the files."""
        findings = list(needs_restart(now.config, loaded.config))
        if not findings:
            return ()
        document = loaded.document
        problems = merge(document.parts, list(document.data.values())).problems(findings)
        if not run.write:
            return tuple(problems)
        return tuple(replace(one, remedy=f"{one.remedy}; {WAITING}") for one in problems)

    def _check(self, run: "_Progress") -> None:
        """
        Raises:
            WithdrawnError: nobody wants it any more.
        """
        if self._ending:
            raise WithdrawnError(self._ends())
        if not run.wanted():
            text = "who has asked for this is gone, and nothing was done"
            raise WithdrawnError([_problem(self.in_force.document, text, "ask again")])

    async def _put(self, run: "_Progress", prepared: "_Prepared") -> None:
        """For who has the lock.

        Raises:
            ProgramError, DocumentError, RevisionError: what was in force is, unless they say otherwise.
        """
        self._check(run)
        run.is_decided = True
        if run.unchanged:
            # Who changes nothing leaves alone what waits for the next start.
            if run.back and not await aside(self._is_written, prepared.loaded.document):
                await self._persist(run, prepared)
            if prepared.loaded is self.in_force and (run.back or not run.write):
                self.staged = None
            return
        if run.at_restart:
            revision = await self._persist(run, prepared)
            self.staged = Staged(prepared.loaded, revision, prepared.fixed)
            return
        loaded, before = prepared.loaded, self.in_force
        self._enter(run, Step.PROGRAM)
        await self._effects.program(loaded, before)
        self._enter(run, Step.PROGRAMMED)
        try:
            await self._persist(run, prepared)
        except Exception as error:
            try:
                await self._effects.program(before, loaded)
            except ProgramError as other:
                raise ProgramError(f"{error}; and {other}", restored=False) from error
            raise
        self.in_force, self.staged = loaded, None

    async def _persist(self, run: "_Progress", prepared: "_Prepared") -> Revision:
        """From now on a process that starts anew begins with this configuration.

        Raises:
            DocumentError, RevisionError: it cannot be kept, and what the files said counts.
            MeanwhileError: somebody has written to the files while it was put into force.
        """
        self._enter(run, Step.PERSIST)
        loaded, write, decided = prepared.loaded, run.write, False
        document = loaded.document
        said = await aside(self._written_now) if write else None
        if write and prepared.written is not None and (said is None or said.digest != prepared.written):
            raise _refused(
                document,
                "somebody has written to the files while this was put into force, and it would overwrite that",
                "look at the files; reload them, or try again",
            )
        try:
            if write:
                decided = True
                note = {"who": run.author.who, "via": run.author.via, "why": run.author.why}
                await aside(decide_on, document, note)
                self._enter(run, Step.DECIDED)
                await aside(finish, Pending(document, note), lambda _: self._enter(run, Step.FILE))
            self._enter(run, Step.REVISION)
            ahead = "for the next start: " if run.at_restart and loaded is not self.in_force else ""
            revision = await aside(self._keep, loaded, run.author, ahead + run.consequences.summary)
            if write:
                self._enter(run, Step.FORGET)
                await aside(forget, document.path)
                run.written = True
        except Exception as error:
            if decided:
                await aside(self._take_back, said, error)
            raise
        if not ahead:
            self.revision = revision
        return revision

    def _written_now(self) -> Document | None:
        """What the files say; None where they cannot be read."""
        try:
            return self._effects.read()
        except ConfigError:
            return None

    def _take_back(self, said: Document | None, why: Exception) -> None:
        """The files say again what they said.

        Args:
            said: that; None where they could not be read.
            why: they have to.

        Raises:
            NotPutBackError: they cannot be written.
        """
        waiting = self.in_force.document if self.staged is None else self.staged.loaded.document
        before = said if said is not None else waiting
        try:
            decide_on(before, {})
            finish(Pending(before, {}))
            forget(before.path)
        except DocumentError as error:
            raise NotPutBackError(f"{why}; and the files cannot be put back ({error})") from error

    def _is_written(self, document: Document) -> bool:
        """Whether nothing is left to be written."""
        try:
            return pending(document.path) is None and self._counts(document)
        except ConfigError:
            return False

    def _counts(self, document: Document) -> bool:
        """Whether a process that starts now begins with it."""
        said = self._written_now()
        return said is not None and said.digest == document.digest

    def _keep(self, loaded: Loaded, author: Author, summary: str) -> Revision:
        document = loaded.document
        waiting = self.staged.revision if self.staged is not None else None
        needed = [one.number for one in (self.revision, waiting) if one is not None]
        return self._revisions.add(document.texts, document.digest, author, self._effects.wall(), summary, needed)

    def _enter(self, run: "_Progress", step: Step) -> None:
        run.step = step
        self._at(step)


@dataclass
class _Progress:
    """A transaction on its way."""

    author: Author
    dry_run: bool
    wanted: Wanted
    write: bool
    """Whether it is to be written to the files; else it comes from there."""

    at_restart: bool = False
    back: bool = False
    """Whether files that say something else get what is in force, if that is what is wanted."""

    seen: Staged | None = None
    """What waited for the next start as it was read."""

    step: Step = Step.PARSE
    problems: tuple[Problem, ...] = ()
    conflict: bool = False
    withdrawn: bool = False
    consequences: Consequences = field(default_factory=Consequences)
    unchanged: bool = False
    written: bool = False
    digest: str = ""
    is_decided: bool = False
    """It is being put into force, or written, and nobody can call it off any more."""


@dataclass(frozen=True)
class _Read:
    """What a transaction is about."""

    document: Document
    written: str | None
    """The digest of what the files say, where that matters."""


_Reading = Callable[[Loaded, Staged | None], _Read]
"""From what is in force, and what waits for the next start."""


@dataclass(frozen=True)
class _Known:
    """What was in force, and waited, as it was read what a transaction is about."""

    in_force: Loaded
    staged: Staged | None
    read: _Read


@dataclass(frozen=True)
class _Prepared:
    """What is ready to be put into force."""

    loaded: Loaded
    written: str | None
    """As in `_Read`."""

    fixed: tuple[str, ...] = ()
    """What of it takes a restart."""


def _problem(document: Document, message: str, remedy: str) -> Problem:
    return Problem(str(document.path), None, "", message, remedy)


def _refused(document: Document, message: str, remedy: str) -> MeanwhileError:
    return MeanwhileError([_problem(document, message, remedy)])


def _brief(problem: Problem) -> str:
    return f"{problem.path}: {problem.message}"


def _waits(document: Document, staged: Staged) -> MeanwhileError:
    revision = staged.revision
    by = ", ".join(filter(None, (revision.author.who or "somebody", revision.author.why)))
    return _refused(
        document,
        f"the files are ahead of what is in force: revision {revision.number} ({by}) waits for a restart of the "
        f"director ({'; '.join(staged.why)})",
        "restart it, or have this change wait as well (--at-restart), or take the other one back (roll back to what is "
        "in force)",
    )


def staged_document(staged: Staged | None) -> dict[str, Any] | None:
    """What waits for the next start, as plain values, for JSON."""
    if staged is None:
        return None
    revision = staged.revision
    author = revision.author
    return {
        "revision": revision.number,
        "at": revision.at,
        "who": author.who,
        "via": author.via,
        "why": author.why,
        "takes_restart": list(staged.why),
    }


def as_document(outcome: Outcome) -> dict[str, Any]:
    """As plain values, for JSON."""
    revision = outcome.revision
    return {
        "ok": outcome.ok,
        "step": str(outcome.step),
        "dry_run": outcome.dry_run,
        "at_restart": outcome.at_restart,
        "unchanged": outcome.unchanged,
        "written": outcome.written,
        "problems": [{**asdict(problem), "text": str(problem)} for problem in outcome.problems],
        "consequences": consequences_document(outcome.consequences),
        "revision": revision.number if revision is not None else None,
        "staged": staged_document(outcome.staged),
        "digest": outcome.digest,
        "seconds": round(outcome.seconds, 3),
    }
