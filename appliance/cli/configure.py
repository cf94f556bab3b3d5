"""`onward configure`: a shell for the objects of the configuration, as users of the seed system know it.

    configure networkprofile web
      tcp_fast_path_profile
        dsr_profile dsr_type dsr_type_l2
        save
      save

Nothing is in force before the outermost `save`, which is one change of the configuration like any other.
"""

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from appliance.cli.nouns import NOUNS, ConfigOption, show_change, shown
from appliance.cli.objects import AS_USUAL, How, Objects, RefusedChangeError, Shown, objects_at
from appliance.cli.orders import AtRestartOption, ForceOption, OrderError, ReasonOption, SocketOption, refused
from appliance.cli.output import Exit, complain, paint, table
from appliance.cli.tree import InputError, Level
from appliance.config.problems import did_you_mean
from appliance.objects.kinds import KINDS as ALL
from appliance.objects.kinds import Kind, references_of

if TYPE_CHECKING:
    from appliance.cli.options import Option

KINDS: dict[str, Kind] = {
    **{noun: kind for noun, (kind, _) in NOUNS.items()},
    **{noun: kind for noun, kind in ALL.items() if kind.key is None},
}
OUTSIDE = {
    "configure": "configure KIND NAME: change an object, or make it",
    "show": "show KIND [NAME]: what there is",
    "delete": "delete KIND NAME: remove an object that nothing uses",
    "help": "help, or ?: this",
    "exit": "exit: leave (so does Ctrl-D)",
}
INSIDE = {
    "show": "what is here; * has been changed",
    "no": "no KEY: back to its default; no KEY VALUE: out of a list",
    "save": "keep what was changed here; in the outermost level, put it into force",
    "cancel": "leave, and forget what was changed here",
    "exit": "exit, or quit: leave; where something was changed here that is not saved, only after a question",
    "preview": "say what the outermost save would do",
    "help": "help, or ?: this; help KEY: all about it",
}


def configure(
    noun: str | None = None,
    name: str | None = None,
    /,
    *,
    force: ForceOption = False,
    at_restart: AtRestartOption = False,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    socket: SocketOption = None,
) -> int:
    """Change objects of the configuration in a shell: levels within each other, with save and cancel.

    In it, ? or `help` says what can be typed, and Tab completes it. Lines can come from a pipe; then the first mistake
    ends it. Words of the seed system are understood: `configure networkprofile web`, `tcp_fast_path_profile`,
    `dsr_profile dsr_type dsr_type_l2`, `save`, `save`.

    Exit codes: 0 done; 1 something was refused, or there were unsaved changes at the end of piped lines; 2 a line made
    no sense; 3 nobody answers; 4 the configuration would have mistakes; 8 no answer came, and `onward config history`
    says whether it was saved.

    Parameters
    ----------
    noun
        Kind of the object to begin with.
    name
        Its name.
    """
    try:
        objects = objects_at(socket, config, staged=at_restart)
        shell = Shell(objects, How(reason=reason, force=force, at_restart=at_restart))
        if noun is not None:
            shell.run(["configure", noun, *([name] if name is not None else [])])
    except InputError as error:
        complain(str(error))
        return Exit.USAGE
    except OrderError as error:
        return refused(error)
    return _interactive(shell) if sys.stdin.isatty() else _script(shell)


def _script(shell: "Shell") -> int:
    """Lines from a pipe: the first that fails is the last."""
    for number, line in enumerate(sys.stdin, 1):
        try:
            shell.line(line)
        except InputError as error:
            complain(f"line {number}: {error}")
            return Exit.USAGE
        except OrderError as error:
            for text in shell.said(error):
                complain(f"line {number}: {text}")
            return error.code
        if shell.over:
            return Exit.OK
    if shell.levels:
        complain(f"the lines end within {shell.path}; nothing of it was saved")
        return Exit.FAILED
    return Exit.OK


def _interactive(shell: "Shell") -> int:
    import readline

    found: list[str] = []

    def complete(_: str, state: int) -> str | None:
        if state == 0:
            before = readline.get_line_buffer()[: readline.get_endidx()]
            found[:] = [f"{word} " for word in shell.complete(before)]
        return found[state] if state < len(found) else None

    readline.set_completer(complete)
    readline.set_completer_delims(" \t")
    readline.parse_and_bind("tab: complete")
    shell.may_lose = _asked
    print(f"Objects of {shell.objects.where}. ? says what can be typed.")
    while not shell.over:
        try:
            shell.line(input(f"{shell.prompt}> "))
        except (InputError, OrderError) as error:
            for text in shell.said(error):
                print(paint(text, "31", sys.stdout))
        except KeyboardInterrupt:
            print()
        except EOFError:
            print()
            if not shell.levels:
                break
            print(shell.unsaved)
            shell.levels.clear()
    return Exit.OK


def _asked(text: str) -> bool:
    """Whether somebody at a terminal wants to lose what was changed."""
    try:
        return input(f"{text}; leave all the same? [y/N] ").strip().casefold() in ("y", "yes")
    except (EOFError, KeyboardInterrupt):
        print()
        return False


def _refuse(text: str) -> bool:
    """Nobody is there who could be asked."""
    raise OrderError(f"{text}; `save` keeps it, `cancel` forgets it", Exit.FAILED)


class Shell:
    """Where somebody is, and what has been typed so far."""

    def __init__(self, objects: Objects, how: How = AS_USUAL, say: Callable[[str], None] = print) -> None:
        """
        Args:
            objects: to change.
            how: changes are to be made.
            say: prints lines.
        """
        self.objects = objects
        self.levels: list[Level] = []
        """The outermost first; empty outside of objects."""
        self.over = False
        self.may_lose: Callable[[str], bool] = _refuse
        """Whether one leaves with changes that are not saved; is told where. Raises OrderError."""
        self._how = how
        self._say = say
        self._kind: Kind | None = None
        self._before: Shown | None = None
        """The object as it was; None for a new one."""
        self._names: dict[str, list[str]] = {}

    @property
    def path(self) -> str:
        """Where it is, for people."""
        return ":".join(level.label for level in self.levels)

    @property
    def unsaved(self) -> str:
        """What is said when changes get lost."""
        return f"{self.path}: not saved"

    @property
    def prompt(self) -> str:
        return self.path or "onward"

    def line(self, text: str) -> None:
        """Do what a line says.

        Raises:
            InputError: it makes no sense.
            OrderError: it cannot be done.
        """
        try:
            words = shlex.split(text, comments=True)
        except ValueError as error:
            raise InputError(f"{error}".lower().replace("no closing quotation", "a quote is not closed")) from None
        if words:
            self.run(words)

    def run(self, words: Sequence[str]) -> None:
        """Do what words say. Raises: as `line`."""
        if words[0] in ("?", "help") or words[-1] == "?":
            self._help([word for word in words if word not in ("?", "help")])
        elif self.levels:
            self._inside(words)
        else:
            self._outside(words)

    def said(self, error: Exception) -> list[str]:
        """What an error says, mistakes at the keys that they are about."""
        if not isinstance(error, RefusedChangeError):
            return [str(error)]
        return [f"{'.'.join(one.keys) if one.keys else one.place}: {one.text}" for one in error.mistakes]

    # -----------------------------------------------------------------------------------------------------------------

    def _outside(self, words: Sequence[str]) -> None:
        match words:
            case ["exit" | "quit"]:
                self.over = True
            case ["configure", noun, *rest]:
                kind = _kind(noun)
                self._open(noun, kind, _only(rest, kind))
            case ["show", noun]:
                kind = _kind(noun)
                for one in self.objects.all(kind.noun):
                    self._say(one.name or shown(kind, one, "table"))
            case ["show", noun, name]:
                kind = _kind(noun)
                self._say(shown(kind, self._find(kind, name), "table"))
            case ["delete", noun, *rest]:
                kind = _kind(noun)
                name = _only(rest, kind)
                outcome = self.objects.change("DELETE", kind.noun, name, None, how=self._how)
                show_change(self.objects, outcome, f"{kind.one} {name} removed", as_json=False)
                self._names.clear()
            case _:
                known = ", ".join(OUTSIDE)
                raise InputError(
                    f"there is no {' '.join(words)} here; {did_you_mean(words[0], OUTSIDE)}there are: {known}"
                )

    def _open(self, noun: str, kind: Kind, name: str) -> None:
        wanted = kind.name_of(name)
        there = self.objects.all(kind.noun)
        self._kind, self._before = kind, next((one for one in there if one.name == wanted), None)
        values = dict(self._before.values) if self._before is not None else {}
        if kind.key is not None:
            values.setdefault(kind.key, name)
        before = self._before.values if self._before is not None else {}
        self.levels = [Level(f"{noun} {name}".rstrip(), kind.table, values, before)]
        if self._before is None:
            self._say(f"a new {kind.one}; `save` makes it")

    def _find(self, kind: Kind, name: str) -> Shown:
        from appliance.cli.objects import find

        return find(self.objects, kind.noun, name)

    def _inside(self, words: Sequence[str]) -> None:
        level = self.levels[-1]
        match words:
            case ["save"]:
                self._save()
            case ["cancel"]:
                self.levels.pop()
            case ["exit" | "quit"]:
                if not level.changed or self.may_lose(self.unsaved):
                    self.levels.pop()
            case ["preview"]:
                self._apply(self._whole(), dry_run=True)
            case ["show" | "where"]:
                for key, value, changed in level.lines():
                    self._say(f"{'*' if changed else ' '} {key}: {value}")
            case ["no", word, *given]:
                level.take_back(word, given)
            case ["no"]:
                raise InputError("no what? Give a key")
            case [word] if word in level.same or level.inner(level.key_of(word)) is not None:
                self.levels.append(level.enter(word))
            case [word, name] if word not in level.same and level.is_list_of_tables(level.key_of(word)):
                self.levels.append(level.enter(word, name))
            case [word]:
                option = level.options[level.key_of(word)]
                raise InputError(f"{word} takes a value{_words(option)}")
            case [word, *given]:
                level.put(word, given)

    def _whole(self) -> Level:
        """The object with what was changed in all levels so far."""
        levels = [Level(one.label, one.table, dict(one.values), one.before) for one in self.levels]
        while len(levels) > 1:
            inner = levels.pop()
            levels[-1].leave(inner)
        return levels[0]

    def _save(self) -> None:
        if len(self.levels) > 1:
            inner = self.levels.pop()
            self.levels[-1].leave(inner)
            return
        self._apply(self.levels[0], dry_run=False)
        self.levels.clear()
        self._names.clear()

    def _apply(self, level: Level, *, dry_run: bool) -> None:
        kind, before = self._kind, self._before
        if kind is None:
            return
        # Only what was changed: what follows from other keys then follows from them as they are now.
        if before is not None:
            method, name, values, match = "PATCH", before.name, level.patch(), before.etag
        else:
            method, name, values, match = "POST" if kind.key else "PUT", "", level.values, None
        how = replace(self._how, dry_run=dry_run)
        outcome = self.objects.change(method, kind.noun, name, values, match=match, how=how)
        what = " ".join(filter(None, (kind.one, str(level.values.get(kind.key or "", "")))))
        show_change(self.objects, outcome, f"{what} saved", as_json=False)

    # -----------------------------------------------------------------------------------------------------------------

    def _help(self, words: Sequence[str]) -> None:
        if not self.levels:
            for text in OUTSIDE.values():
                self._say(text)
            self._say(f"kinds: {', '.join(KINDS)}")
            return
        level = self.levels[-1]
        if words:
            key = level.key_of(words[0])
            option = level.options.get(key)
            about = option.help if option is not None else str(level.table.model_fields[key].description or "a level")
            self._say(f"{key}: {about}")
            for word in self._values(level, key):
                self._say(f"  {word}")
            return
        rows = list(INSIDE.items())
        rows += [(word, "a level of the seed system: the same as here") for word in level.same]
        for key in level.keys:
            option = level.options.get(key)
            about = option.help if option is not None else str(level.table.model_fields[key].description or "")
            rows.append((key, f"{about.partition('. ')[0]}{_words(option)}" + ("" if option else " [a level]")))
        self._say(table(("WORD", "WHAT"), rows))

    def complete(self, text: str) -> list[str]:
        """What the last word of a line can become."""
        words = text.split()
        last = "" if not words or text[-1].isspace() else words.pop()
        return sorted({word for word in self._candidates(words) if word.startswith(last)})

    def _candidates(self, words: list[str]) -> Iterator[str]:
        try:
            yield from self._inside_candidates(words) if self.levels else self._outside_candidates(words)
        except (InputError, OrderError):
            return

    def _outside_candidates(self, words: list[str]) -> Iterator[str]:
        match words:
            case []:
                yield from OUTSIDE
            case ["configure" | "show" | "delete"]:
                yield from KINDS
            case ["configure" | "show" | "delete", noun]:
                yield from self._there(_kind(noun))

    def _inside_candidates(self, words: list[str]) -> Iterator[str]:
        level = self.levels[-1]
        if words and words[0] in level.same:
            word, *words = words
            level = level.enter(word)
            words = words[2 * (len(words) // 2) :]
        elif words and words[0] != "no" and len(words) > 1:
            key = level.key_of(words[0])
            if level.is_list_of_tables(key) or level.inner(key) is not None:
                listed = level.is_list_of_tables(key)
                level = level.enter(words[0], words[1] if listed else "")
                words = words[1 + listed :]
                words = words[2 * (len(words) // 2) :]
        elif len(words) == 1 and words[0] not in ("no", "help") and level.inner(level.key_of(words[0])) is not None:
            key = level.key_of(words[0])
            yield from (
                level.elements(key)
                if level.is_list_of_tables(key)
                else Level("", level.inner(key) or level.table, {}).keys
            )
            return
        match words:
            case []:
                yield from level.keys
                if level is self.levels[-1]:
                    yield from (*INSIDE, *level.same)
            case ["no"] | ["help"]:
                yield from level.keys
            case ["no", word]:
                yield from level.elements(level.key_of(word))
            case [word, *_]:
                yield from self._values(level, level.key_of(word))

    def _values(self, level: Level, key: str) -> Iterator[str]:
        """What a key can be: words of a choice, or names of objects."""
        option = level.options.get(key)
        if option is not None:
            yield from option.words
            if option.form == "boolean":
                yield from ("true", "false")
        if self._kind is not None and level.table is self._kind.table:
            for refers, to in references_of(self._kind):
                if refers == key:
                    yield from self._there(to)

    def _there(self, kind: Kind) -> list[str]:
        if kind.noun not in self._names:
            self._names[kind.noun] = [one.name for one in self.objects.all(kind.noun)]
        return self._names[kind.noun]


def _kind(noun: str) -> Kind:
    """
    Raises:
        InputError: there is none.
    """
    if noun not in KINDS:
        raise InputError(f"there is no kind {noun}; {did_you_mean(noun, KINDS)}there are: {', '.join(KINDS)}")
    return KINDS[noun]


def _only(words: Sequence[str], kind: Kind) -> str:
    """The name of an object.

    Raises:
        InputError: none, several, or one where there is only one object.
    """
    if kind.key is None:
        if words:
            raise InputError(f"there is one {kind.one} only, and it has no name")
        return ""
    if len(words) != 1:
        raise InputError(f"which {kind.one}? Give its {kind.key}")
    return words[0]


def _words(option: "Option | None") -> str:
    return f": {', '.join(option.words)}" if option is not None and option.words else ""
