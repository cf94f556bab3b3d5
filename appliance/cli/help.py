"""How `--help` looks: aligned columns without boxes, like every other table of ours."""

import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cyclopts import App
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions

VERBS = {
    "show": "Show [{}] of the configuration: all keys, defaults too.",
    "set": "Change some keys of [{}]; what no option is given for stays.",
    "delete": "Remove [{}], with all that it says.",
}
"""Of what there is one of in a configuration."""

_WIDEST_LABEL = 24
_WIDEST_LINE = 100


def with_object(app: "App", noun: str) -> None:
    """A command also has those of the configuration's object of that name."""
    for verb, text in VERBS.items():
        app.command(f"appliance.cli.nouns:{noun}_{verb}", name=verb, help=text.format(noun))


class HelpFormatter:
    """A help formatter for cyclopts (cyclopts.help.protocols.HelpFormatter)."""

    def __call__(self, console: "Console", options: "ConsoleOptions", panel: "HelpPanel") -> None:
        rows = [(_label(entry), _description(console, entry)) for entry in panel.entries]
        if not rows:
            return
        column = min(max(len(label) for label, _ in rows), _WIDEST_LABEL) + 4
        width = min(console.width, _WIDEST_LINE)
        lines = [f"{_plain(console, panel.title)}:"] if panel.title else []
        for label, text in rows:
            wrapped = textwrap.wrap(text, max(width - column, 20)) or [""]
            if len(label) + 4 > column:
                lines.append(f"  {label}")
            else:
                lines.append(f"  {label}".ljust(column) + wrapped.pop(0))
            lines += [" " * column + line for line in wrapped]
        _print(console, "\n".join(line.rstrip() for line in lines) + "\n")

    def render_usage(self, console: "Console", options: "ConsoleOptions", usage: Any) -> None:
        _print(console, f"Usage: {_plain(console, usage)}\n")

    def render_description(self, console: "Console", options: "ConsoleOptions", description: Any) -> None:
        width = min(console.width, _WIDEST_LINE)
        paragraphs = _plain(console, description).split("\n\n")
        _print(console, "\n\n".join(textwrap.fill(paragraph, width) for paragraph in paragraphs) + "\n")


def _label(entry: "HelpEntry") -> str:
    names = ", ".join((*entry.positive_shorts, *entry.positive_names))
    label = entry.positional_label or names
    return f"{label} {entry.metavar}" if entry.metavar and names and not entry.positional_label else label


def _description(console: "Console", entry: "HelpEntry") -> str:
    text = _plain(console, entry.description)
    facts = []
    if entry.choices:
        facts.append(f"one of {', '.join(entry.choices)}")
    if entry.default is not None:
        facts.append(f"default {entry.default}")
    if entry.required:
        facts.append("required")
    return f"{text} [{'; '.join(facts)}]" if facts else text


def _plain(console: "Console", renderable: Any) -> str:
    """The text of whatever cyclopts hands over, on one line per paragraph."""
    if renderable is None:
        return ""
    if isinstance(renderable, str):
        return renderable.strip()
    plain = getattr(renderable, "plain", None)
    if isinstance(plain, str):
        return plain.strip()
    with console.capture() as captured:
        console.print(renderable, highlight=False, no_wrap=True, soft_wrap=True, style="not bold")
    return captured.get().strip()


def _print(console: "Console", text: str) -> None:
    console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)
