"""From single results to a verdict that does not flutter. Pure."""

from dataclasses import dataclass, replace

from health.spec import Result, Verdict


@dataclass(frozen=True)
class Damper:
    """Rise and fall: a verdict turns only after so many results of the other kind in a row.

    UNKNOWN is left like any other verdict: `rise` good results in a row make it UP, `fall` bad ones DOWN. A member that
    nobody has seen well must not get traffic on the strength of one lucky probe; start-up is fast all the same, since
    the first probes follow each other quickly (`monitor.quick_pace_s`), as the seed system's quick start does.

    A member that says it is worked on is not well, so these results count towards `fall` as well. The last of them says
    which verdict it is; but from MAINTENANCE to DOWN it takes `fall` results without such a word, and from DOWN to
    MAINTENANCE a single one with it.
    """

    rise: int
    fall: int
    verdict: Verdict = Verdict.UNKNOWN
    run: int = 0
    """Results of the latest kind in a row: positive for good ones, negative for others."""

    silent: int = 0
    """Bad results in a row, without a word of maintenance."""

    def after(self, result: Result) -> "Damper":
        """The damper with one more result."""
        if result.good:
            run = max(self.run, 0) + 1
            return replace(self, run=run, silent=0, verdict=Verdict.UP if run >= self.rise else self.verdict)
        run = min(self.run, 0) - 1
        silent = 0 if result.maintenance else self.silent + 1
        return replace(self, run=run, silent=silent, verdict=self._fallen(run, silent))

    def _fallen(self, run: int, silent: int) -> Verdict:
        if -run < self.fall:
            return self.verdict
        if not silent:
            return Verdict.MAINTENANCE
        return self.verdict if self.verdict is Verdict.MAINTENANCE and silent < self.fall else Verdict.DOWN

    @property
    def settled(self) -> bool:
        """Whether the latest results by themselves suffice for the verdict."""
        return self.run >= self.rise or -self.run >= self.fall
