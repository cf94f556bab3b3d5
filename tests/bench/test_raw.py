"""The benchmark's own arithmetic."""

import pytest

from tests.bench.raw import Histogram
from tests.bench.rig import BenchError

METRICS = """\
# TYPE lag_seconds histogram
lag_seconds_bucket{le="0.001"} 10.0
lag_seconds_bucket{le="0.005"} 90.0
lag_seconds_bucket{le="0.01"} 100.0
lag_seconds_bucket{le="+Inf"} 100.0
lag_seconds_count 100.0
lag_seconds_sum 0.3
"""


def test_a_quantile_is_interpolated_within_its_bucket() -> None:
    """The samples of a bucket count as spread evenly over it; the first one begins at 0."""
    lag = Histogram.parse(METRICS, "lag_seconds")
    assert lag.total == 100
    assert lag.quantile(0.05) == pytest.approx(0.0005)
    assert lag.quantile(0.5) == pytest.approx(0.003)
    assert lag.quantile(0.9) == pytest.approx(0.005)
    assert lag.quantile(0.99) == pytest.approx(0.0095)


def test_what_was_counted_before_makes_no_difference() -> None:
    """The program counts since its start; a run is the difference of two readings."""
    lag = Histogram((0.001, 0.005, float("inf")), (500, 600, 610)).since(
        Histogram((0.001, 0.005, float("inf")), (500, 500, 500))
    )
    assert (lag.counts, lag.quantile(0.5)) == ((0, 100, 110), pytest.approx(0.0032))
    assert lag.quantile(0.99) == float("inf")


def test_nothing_measured_is_not_a_good_result() -> None:
    """Neither a missing histogram nor an empty one counts as no lag."""
    with pytest.raises(BenchError, match="no histogram other_seconds"):
        Histogram.parse(METRICS, "other_seconds")
    with pytest.raises(BenchError, match="no samples"):
        Histogram((float("inf"),), (0,)).quantile(0.99)
