"""Breaks one thing after the other, and compares what the doctor names with what was broken."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.doctor.faults import Fault, Named
from tests.doctor.lab import Lab, calm


@dataclass(frozen=True)
class Outcome:
    """Of one fault."""

    fault: Fault
    found: Named
    """On the first run."""
    after: Named
    """When it was mended again."""
    seconds: float
    """That the run took."""
    texts: tuple[str, ...]
    """Of the failures."""

    @property
    def right(self) -> bool:
        return self.found >= self.fault.named

    @property
    def false_alarms(self) -> int:
        return len(self.found - self.fault.named) + len(self.after)


def failures(document: dict[str, Any]) -> Named:
    return frozenset((one["check"], one["member"] or "") for one in document["findings"] if one["outcome"] == "fail")


def run(made: Lab, faults: Iterable[Fault], *, afterwards: bool = True) -> Iterator[Outcome]:
    """One fault after the other; each is mended before the next.

    Args:
        made: the lab.
        faults: what to break.
        afterwards: whether the doctor looks again when a fault is mended.
    """
    for fault in faults:
        if fault.other and not made.with_other:
            continue
        with fault.breaks(made):
            document = made.doctor()
        calm(made)
        after = failures(made.doctor()) if afterwards else frozenset()
        texts = tuple(f"{one['check']}: {one['text']}" for one in document["findings"] if one["outcome"] == "fail")
        yield Outcome(fault, failures(document), after, document["seconds"], texts)
