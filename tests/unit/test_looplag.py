"""The recorder of how late the event loop is."""

from appliance.looplag import BOUNDS_S, LagSummary, LoopLag


def test_nothing_yet() -> None:
    """Without samples everything is zero."""
    assert LoopLag().summary() == LagSummary()


def test_quantiles_and_buckets() -> None:
    """Median, 99 % and maximum come from the samples; each sample is in the bucket of the next bound."""
    lag = LoopLag()
    for number in range(100):
        lag.add(0.002 if number == 99 else 0.0001 * (number >= 50), float(number) / 10)
    summary = lag.summary()
    assert (summary.p50_s, summary.p99_s, summary.max_s) == (0.0001, 0.002, 0.002)
    assert summary.buckets[0] == 99
    assert summary.buckets[BOUNDS_S.index(0.0025)] == 1
    assert abs(summary.sum_s - (49 * 0.0001 + 0.002)) < 1e-9


def test_a_bound_belongs_to_its_bucket() -> None:
    """Prometheus counts "less or equal": a sample on a bound is below it, one above all is in the last bucket."""
    lag = LoopLag()
    lag.add(BOUNDS_S[0], 0.0)
    lag.add(BOUNDS_S[-1] * 2, 0.0)
    assert lag.summary().buckets == (1, *[0] * (len(BOUNDS_S) - 1), 1)


def test_quantiles_forget_buckets_do_not() -> None:
    """After a minute a sample is out of the quantiles, while the histogram only grows."""
    lag = LoopLag()
    lag.add(0.3, 0.0)
    lag.add(0.001, 61.0)
    summary = lag.summary()
    assert summary.max_s == 0.001
    assert sum(summary.buckets) == 2
