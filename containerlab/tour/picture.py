"""The demo's picture: answers a second from each member over time, with what was done to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

COLOURS = ("#2a78c2", "#5fb0e5", "#e08a1e", "#f4c06a")
SMOOTH = 4
"""Samples (of a quarter of a second) in the moving average."""


@dataclass(frozen=True)
class Sample:
    at: float
    """Seconds since the start."""

    by_member: dict[str, float]
    """Answers a second."""

    failed: float
    """Failures a second."""


@dataclass(frozen=True)
class Event:
    at: float
    text: str


def draw(samples: Sequence[Sample], events: Sequence[Event], members: Sequence[str], path: Path) -> None:
    """Write the picture; the suffix decides its format."""
    times = [sample.at for sample in samples]
    rows = [_smooth([sample.by_member.get(member, 0.0) for sample in samples]) for member in members]
    failed = _smooth([sample.failed for sample in samples])
    figure, axes = plt.subplots(figsize=(11, 4.8), layout="constrained")
    axes.stackplot(times, rows, labels=members, colors=COLOURS, linewidth=0)
    if any(failed):
        axes.plot(times, failed, color="#c0261c", linewidth=1.5, label="failed")
    top = max(map(sum, zip(*rows, strict=True)), default=1.0)
    for number, event in enumerate(events):
        axes.axvline(event.at, color="#333333", linewidth=0.8, linestyle=":")
        axes.text(event.at, top * (1.13 - 0.06 * (number % 2)), f" {event.text}", fontsize=8, color="#333333")
    axes.set(
        xlabel="seconds", ylabel="answers a second at the client", xlim=(0, max(times, default=1)), ylim=(0, top * 1.2)
    )
    axes.set_title("Who answered: HTTP and UDP through every VIP", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(members) + 1, frameon=False, fontsize=9)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _smooth(values: Sequence[float]) -> list[float]:
    out = []
    for index in range(len(values)):
        window = values[max(0, index - SMOOTH + 1) : index + 1]
        out.append(sum(window) / len(window))
    return out
