"""The one way to another configuration, whoever wants it: SIGHUP, `onward reload`, a change by the API.

    parse ─▶ validate ─▶ diff ─▶ (a dry run ends here) ─▶ program ─▶ persist ─▶ event

* *parse*: what is written, to a `Config` or to every mistake in it.
* *validate*: what this process can take on without a restart.
* *diff*: what will happen (consequences.py).
* *program*: the store, then the data plane, which has to prove that it follows. Whatever fails puts the configuration
  from before back into force.
* *persist*: the files, where a change did not come from there, and a revision. It counts from one moment on, that of
  `document.decide_on`; a process that ends before starts anew with the old configuration, one that ends after with the
  new one, and either is whole. What cannot be persisted is not kept in force either.
* *event*: log, status, metrics.

One transaction at a time. Effects come in as arguments, and so does `at`, which is told of every step: that is where a
test ends the process.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from appliance.config.document import Document, DocumentError, Pending, decide_on, finish, forget, pending
from appliance.config.load import Loaded
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


class ProgramError(Exception):
    """A configuration cannot be put into force; the one before is again."""


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

    asked: bool = False
    """Somebody had asked for a change, who is told what became of it; else it was about what the files say."""

    consequences: Consequences = field(default_factory=Consequences)
    revision: Revision | None = None
    """Of what is in force now, where that was kept."""

    digest: str = ""
    """Of the document that the transaction was about; empty when it could not be read."""

    seconds: float = 0.0

    @property
    def leaves_no_trace(self) -> bool:
        """Whether all is as if nobody had tried: files and what is in force say what they said, and who has asked for
        something else knows that it was refused."""
        return self.dry_run or (self.asked and not self.ok and self.step in BEFORE)


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


class Transactions:
    """Takes changes, one after the other."""

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
        self.in_force = in_force
        """As it was read: members that are leaving are not in it."""

        self.revision: Revision | None = None
        """Of what is in force; None when it could not be kept."""

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
        change = await asyncio.to_thread(pending, path)
        if change is not None:
            note = {key: str(change.note.get(key, "")) for key in ("who", "via", "why")}
            author = Author(**note) if note["who"] else author
            if not change.overtaken:
                await asyncio.to_thread(finish, change)
        known = await asyncio.to_thread(self._revisions.latest)
        if known is None or known.digest != self.in_force.document.digest:
            known = await asyncio.to_thread(self._keep, self.in_force, author, "")
        self.revision = known
        if change is not None:
            await asyncio.to_thread(forget, path)
        return known

    async def reload(self, author: Author, *, dry_run: bool = False) -> Outcome:
        """What the files say now."""
        async with self._one_at_a_time:
            return await self._run(self._effects.read, author, dry_run=dry_run, write=False)

    async def change(
        self,
        edit: Callable[[Document], Mapping[str, str]],
        author: Author,
        *,
        base: str | None = None,
        dry_run: bool = False,
        force: bool = False,
    ) -> Outcome:
        """Another document than the one in force, which is then written to the files.

        Args:
            edit: from the document in force to the texts that there shall be, by name as in `Document.texts`
                (`edit.py` changes single objects and leaves comments alone). Raises ConfigError.
            author: who, and why.
            base: the digest of the document that the change was made for; with another one in force it is refused.
            dry_run: say what would happen.
            force: also where the files say something else than what is in force, which is lost then.
        """
        async with self._one_at_a_time:
            document = self.in_force.document

            def read() -> Document:
                if base is not None and base != document.digest:
                    raise _refused(document, "the configuration has changed meanwhile", "read it again, and try again")
                if not force and not dry_run and self._effects.read().digest != document.digest:
                    raise _refused(
                        document,
                        "the files say something else than what is in force, which this change would overwrite",
                        "reload them first, or force it",
                    )
                return document.having(edit(document))

            return await self._run(read, author, dry_run=dry_run, write=True)

    async def rollback(self, number: int, author: Author, *, dry_run: bool = False, force: bool = False) -> Outcome:
        """The texts of an earlier revision.

        Raises:
            RevisionError: there is none of that number, or it cannot be read.
        """
        _, texts = await asyncio.to_thread(self._revisions.read, number)
        return await self.change(lambda _: texts, author, dry_run=dry_run, force=force)

    async def _run(self, read: Callable[[], Document], author: Author, *, dry_run: bool, write: bool) -> Outcome:
        started = self._effects.clock()
        run = _Progress(author, dry_run)
        try:
            await self._through(run, read, write=write)
            if not dry_run:
                self._enter(run, Step.EVENT)
        except ConfigError as error:
            run.problems = error.problems
            run.conflict = isinstance(error, MeanwhileError)
        except (ProgramError, DocumentError, RevisionError) as error:
            run.problems = (_problem(self.in_force.document, str(error), "the configuration from before is in force"),)
        outcome = Outcome(
            ok=not run.problems,
            step=run.step,
            author=author,
            dry_run=dry_run,
            unchanged=run.unchanged,
            problems=run.problems,
            conflict=run.conflict,
            asked=write,
            consequences=run.consequences,
            revision=self.revision,
            digest=run.digest,
            seconds=self._effects.clock() - started,
        )
        self._effects.done(outcome)
        return outcome

    async def _through(self, run: "_Progress", read: Callable[[], Document], *, write: bool) -> None:
        """All steps but the last."""
        self._enter(run, Step.PARSE)
        document = await asyncio.to_thread(read)
        run.digest = document.digest
        run.unchanged = await asyncio.to_thread(self.in_force.still, document)
        if run.unchanged:
            if write and not run.dry_run and not await asyncio.to_thread(self._is_written, document):
                await self._persist(run, self.in_force, write=True)
            return
        loaded = await asyncio.to_thread(self._effects.parse, document)
        self._enter(run, Step.VALIDATE)
        fixed = tuple(needs_restart(self.in_force.config, loaded.config))
        if fixed and not run.dry_run:
            raise ConfigError(fixed)
        self._enter(run, Step.DIFF)
        run.consequences = await self._effects.foresee(loaded)
        if run.dry_run:
            run.problems = fixed
            return
        self._enter(run, Step.PROGRAM)
        await self._effects.program(loaded, self.in_force)
        self._enter(run, Step.PROGRAMMED)
        try:
            await self._persist(run, loaded, write=write)
        except (DocumentError, RevisionError):
            await self._effects.program(self.in_force, loaded)
            raise
        self.in_force = loaded

    async def _persist(self, run: "_Progress", loaded: Loaded, *, write: bool) -> None:
        """From now on a process that starts anew begins with this configuration.

        Raises:
            DocumentError, RevisionError: it cannot be kept, and the one before counts.
        """
        self._enter(run, Step.PERSIST)
        document = loaded.document
        try:
            if write:
                note = {"who": run.author.who, "via": run.author.via, "why": run.author.why}
                await asyncio.to_thread(decide_on, document, note)
                self._enter(run, Step.DECIDED)
                await asyncio.to_thread(finish, Pending(document, note), lambda _: self._enter(run, Step.FILE))
            self._enter(run, Step.REVISION)
            revision = await asyncio.to_thread(self._keep, loaded, run.author, run.consequences.summary)
            if write:
                self._enter(run, Step.FORGET)
                await asyncio.to_thread(forget, document.path)
        except (DocumentError, RevisionError) as error:
            if write:
                await asyncio.to_thread(self._take_back, error)
            raise
        self.revision = revision

    def _take_back(self, why: Exception) -> None:
        """The files say again what is in force.

        Raises:
            DocumentError: they cannot be written.
        """
        before = self.in_force.document
        try:
            decide_on(before, {})
            finish(Pending(before, {}))
            forget(before.path)
        except DocumentError as error:
            raise DocumentError(
                f"{why}; and the files cannot be put back ({error}): see to them before the director starts anew"
            ) from error

    def _is_written(self, document: Document) -> bool:
        try:
            return self._effects.read().digest == document.digest
        except ConfigError:
            return False

    def _keep(self, loaded: Loaded, author: Author, summary: str) -> Revision:
        document = loaded.document
        return self._revisions.add(document.texts, document.digest, author, self._effects.wall(), summary)

    def _enter(self, run: "_Progress", step: Step) -> None:
        run.step = step
        self._at(step)


@dataclass
class _Progress:
    """A transaction on its way."""

    author: Author
    dry_run: bool
    step: Step = Step.PARSE
    problems: tuple[Problem, ...] = ()
    conflict: bool = False
    consequences: Consequences = field(default_factory=Consequences)
    unchanged: bool = False
    digest: str = ""


def _problem(document: Document, message: str, remedy: str) -> Problem:
    return Problem(str(document.path), None, "", message, remedy)


def _refused(document: Document, message: str, remedy: str) -> MeanwhileError:
    return MeanwhileError([_problem(document, message, remedy)])


def as_document(outcome: Outcome) -> dict[str, Any]:
    """As plain values, for JSON."""
    revision = outcome.revision
    return {
        "ok": outcome.ok,
        "step": str(outcome.step),
        "dry_run": outcome.dry_run,
        "unchanged": outcome.unchanged,
        "problems": [{**asdict(problem), "text": str(problem)} for problem in outcome.problems],
        "consequences": consequences_document(outcome.consequences),
        "revision": revision.number if revision is not None else None,
        "digest": outcome.digest,
        "seconds": round(outcome.seconds, 3),
    }
