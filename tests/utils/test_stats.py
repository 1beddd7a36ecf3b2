import pytest
from scipy.stats import binomtest, chi2_contingency

from fastrobust.utils.stats import difference, wilson


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


@pytest.mark.parametrize("counts", [(31, 31), (200, 1000), (10_000, 10_000)])
@pytest.mark.parametrize(("one", "other"), [(0.1, 0.2), (0.5, 0.49), (1.0, 0.9), (0.0, 0.3)])
def test_difference_is_scipys_chi_squared_test(one, other, counts):
    table = [(rate * n, (1 - rate) * n) for rate, n in zip((one, other), counts, strict=True)]
    expected = chi2_contingency(table, correction=False).pvalue
    assert difference(one, other, counts) == pytest.approx(expected, rel=1e-9, abs=1e-300)
    assert difference(other, one, counts[::-1]) == difference(one, other, counts)


def test_equal_rates_do_not_differ():
    assert difference(0.3, 0.3, (10, 20)) == difference(1.0, 1.0, (5, 5)) == 1.0


@pytest.mark.parametrize(
    ("one", "other", "counts"), [(1.1, 0, (1, 1)), (0, -0.1, (1, 1)), (0, 0, (1, 0))]
)
def test_bad_rates(one, other, counts):
    with pytest.raises(ValueError, match="rates|counts"):
        difference(one, other, counts)
