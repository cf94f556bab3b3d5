"""The benchmark's own arithmetic."""

from pathlib import Path

import pytest

from tests.bench.raw import Figure, Histogram, print_table, read_json, write_json
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


def test_before_and_after(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Figures of an earlier run stand beside those of the same name: ratios where there are any, else values."""
    file = tmp_path / "before.json"
    write_json([Figure("rate", 900.0, "kpps", 600.0, 1.5, 1.1, True), Figure("lag", 2.0, "ms", note="old")], file)
    now = [Figure("rate", 700.0, "kpps", 500.0, 1.4, 1.1, True), Figure("lag", 3.0, "ms"), Figure("new", 1.0, "ms")]
    print_table(now, read_json(file))
    head, rate, lag, new = (line.split() for line in capsys.readouterr().out.splitlines())
    assert head[-2:] == ["before", "now/before"]
    assert rate[-2:] == ["1.50", "0.93"]
    assert lag[-3:] == ["2.0", "ms", "1.50"]
    assert new == ["new", "1.0", "ms"]
    for text in ("", "[1]", '[{"name": "rate"}]', '{"name": 1}'):
        file.write_text(text)
        with pytest.raises(BenchError, match="no file of figures"):
            read_json(file)
    with pytest.raises(BenchError, match="no file of figures"):
        read_json(tmp_path / "missing.json")
