import pytest

from fastrobust.runs.bisection import next_probe, outcome

GRID = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)


def search(values, rate):
    """Follow `next_probe` to its end; return the rates measured, in order."""
    known = {}
    while (value := next_probe(values, known)) is not None:
        assert value in values and value not in known
        known[value] = rate(value)
    return known


def scan(values, rate):
    """The oracle: measure every value, from the smallest on."""
    return next((value for value in sorted(values) if rate(value) >= 1), max(values))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 24])
def test_it_finds_what_a_scan_finds(size):
    values = [round(0.05 * n, 9) for n in range(1, size + 1)]
    for first in range(size + 1):  # index of the first value with rate 1; size if there is none

        def rate(value, first=first):
            return 1.0 if first < size and value >= values[first] else 0.98

        known = search(values, rate)
        assert outcome(values, known) == scan(values, rate)
        assert len(known) <= size.bit_length()  # bisection: no scan


def test_the_order_of_values_does_not_matter():
    def rate(value):
        return float(value >= 0.3)

    assert search(GRID[::-1], rate) == search(GRID, rate)


def test_values_off_the_grid_are_ignored():
    assert next_probe(GRID, {0.15: 1.0}) == next_probe(GRID, {})
    assert outcome(GRID, {0.15: 1.0}) is None


def test_a_rate_that_is_not_monotone_still_ends():
    for bits in range(2 ** len(GRID)):
        rates = {value: float(bits >> n & 1) for n, value in enumerate(GRID)}
        known = search(GRID, rates.__getitem__)
        value = outcome(GRID, known)
        assert known[value] == 1.0 or (value == 1.0 and not any(known.values()))


def test_a_search_that_was_stopped_goes_on():
    def rate(value):
        return float(value >= 0.5)

    whole = search(GRID, rate)
    for count in range(len(whole)):
        first = dict(list(whole.items())[:count])
        assert next_probe(GRID, first) == list(whole)[count]


def test_no_values():
    assert next_probe([], {}) is None
    assert outcome([], {}) is None
    assert outcome(GRID, {}) is None
