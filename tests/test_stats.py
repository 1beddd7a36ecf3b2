import pytest
from scipy.stats import binomtest

from fastrobust.stats import wilson


@pytest.mark.parametrize("count", [1, 2, 31, 200, 10_000])
def test_wilson_is_scipys(count):
    for hits in sorted({0, 1, count // 3, count - 1, count}):
        expected = binomtest(hits, count).proportion_ci(0.95, method="wilson")
        assert wilson(hits, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_ends_are_exact():
    assert wilson(0, 7)[0] == 0.0
    assert wilson(7, 7)[1] == 1.0


@pytest.mark.parametrize(("hits", "count"), [(0, 0), (-1, 3), (4, 3)])
def test_bad_counts(hits, count):
    with pytest.raises(ValueError, match="count|hits"):
        wilson(hits, count)
