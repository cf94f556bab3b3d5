"""From single results to a verdict that does not flutter. Pure."""

from dataclasses import dataclass, replace

from health.spec import Verdict


@dataclass(frozen=True)
class Damper:
    """Rise and fall: a verdict turns only after so many results of the other kind in a row.

    UNKNOWN is left like any other verdict: `rise` good results in a row make it UP, `fall` bad ones DOWN. A member that
    nobody has seen well must not get traffic on the strength of one lucky probe; start-up is fast all the same, since
    the first probes follow each other quickly (`monitor.quick_pace_s`), as the seed system's quick start does.
    """

    rise: int
    fall: int
    verdict: Verdict = Verdict.UNKNOWN
    run: int = 0
    """Results of the latest kind in a row: positive for good ones, negative for bad ones."""

    def after(self, good: bool) -> "Damper":
        """The damper with one more result."""
        if good:
            run = max(self.run, 0) + 1
            return replace(self, run=run, verdict=Verdict.UP if run >= self.rise else self.verdict)
        run = min(self.run, 0) - 1
        return replace(self, run=run, verdict=Verdict.DOWN if -run >= self.fall else self.verdict)

    @property
    def settled(self) -> bool:
        """Whether the latest results by themselves suffice for the verdict."""
        return self.run >= self.rise or -self.run >= self.fall
