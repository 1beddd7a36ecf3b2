"""A proposal of the Square attack by a plain loop over pixels, from the published generator."""

import numpy as np
import pytest
import torch

from fastrobust.ops import square_, square_ref_
from fastrobust.ops.square import launch_square
from fastrobust.philox import philox4x32, split

DTYPES = [torch.float32, torch.float64]
SEED = 2**63 + 12345
SHAPES = [(0, 3), (1, 1), (2, 31), (5, 6, 7), (5, 2, 9, 5), (3, 129), (4, 3, 2, 3, 4)]


def rows(shape, dtype=torch.float32, device="cpu", seed=0):
    """Random rows: some better, pixels at the ends of their balls and inside, any windows."""
    g = torch.Generator().manual_seed(seed)
    count, (height, width) = shape[0], (1, shape[1]) if len(shape) == 2 else shape[-2:]
    x0 = torch.rand(shape, generator=g, dtype=torch.float64)
    eps = torch.linspace(0, 0.4, count, dtype=torch.float64)
    ball = eps.view(-1, *[1] * (len(shape) - 1))
    x, held = (x0 + ball * torch.randint(-1, 2, shape, generator=g) for _ in range(2))
    sides = torch.stack(
        [torch.randint(1, n + 1, (count,), generator=g) for n in (height, width)], 1
    )
    found = {
        "x": x, "held": held, "x0": x0, "better": torch.arange(count) % 2 == 1, "sides": sides,
        "eps": eps, "seed": SEED, "index": torch.arange(count) + 2**33,
        "query": torch.arange(count) * 3,
    }  # fmt: skip
    return {
        name: value.to(device, dtype if value.is_floating_point() else None)
        if isinstance(value, torch.Tensor)
        else value
        for name, value in found.items()
    }


def by_hand(x, held, x0, better, sides, eps, seed, index, query, lo, hi):
    """Return x and held as NumPy arrays, pixel by pixel."""
    shape = x.shape
    x, held, x0 = (t.cpu().numpy().copy() for t in (x, held, x0))
    kind = x.dtype.type
    height, width = (1, shape[1]) if len(shape) == 2 else shape[-2:]
    lo, hi = kind(-np.inf if lo is None else lo), kind(np.inf if hi is None else hi)
    for row in range(shape[0]):
        if better[row]:
            held[row] = x[row]
        e, (tall, wide) = kind(eps[row]), sides[row].tolist()
        planes = [array[row].reshape(-1, height, width) for array in (x, held, x0)]
        new, old, centre = planes
        count = 5 + len(new)
        counter = [[block, *split(int(index[row])), int(query[row])] for block in range(count)]
        bits = philox4x32(counter, split(seed)).reshape(-1)[:count] >> 8
        top = int(bits[0] * 2.0**-24 * (height - tall + 1))
        left = int(bits[1] * 2.0**-24 * (width - wide + 1))

        def painted(way, old=old, centre=centre, bits=bits, top=top, left=left, e=e, tall=tall,
                    wide=wide):  # fmt: skip
            made = old.copy()
            for c in range(len(old)):
                up = way * (1 if bits[5 + c] >= 2**23 else -1)
                for i in range(height):
                    for j in range(width):
                        inside = top <= i < top + tall and left <= j < left + wide
                        v = old[c, i, j] + kind(2 * up * inside) * e
                        v = min(max(v, centre[c, i, j] - e), centre[c, i, j] + e)
                        made[c, i, j] = min(max(v, lo), hi)
            return made

        made = painted(1)
        if np.abs(made - old).max() < min(e, hi - lo) / 2:
            made = painted(-1)
        new[:] = made
    return x, held


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("box", [(0.0, 1.0), (None, None), (0.45, 0.55)])
def test_pixel_by_pixel(shape, dtype, box, device):
    for seed in range(4):
        given = rows(shape, dtype, device, seed)
        x, held = by_hand(**given, lo=box[0], hi=box[1])
        assert square_(**given, lo=box[0], hi=box[1]) is given["x"]
        assert np.array_equal(given["x"].cpu().numpy(), x)
        assert np.array_equal(given["held"].cpu().numpy(), held)


def test_both_signs_of_the_second_look_are_met():
    """The tests above see squares that change something at once, and squares that do not."""
    given = rows((64, 3, 4), torch.float64)
    first = {name: v.clone() if isinstance(v, torch.Tensor) else v for name, v in given.items()}
    square_(**first)
    away = (first["x"] - first["held"]).flatten(1).abs().amax(1)
    assert (away[1:] >= first["eps"][1:] / 2 * 0.999).all()
    again = {**first, "better": torch.ones(64, dtype=torch.bool)}
    square_(**again)  # the same window once more: it can only go back
    away = (again["x"] - again["held"]).flatten(1).abs().amax(1)
    assert (away[1:] >= again["eps"][1:] / 2 * 0.999).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_against_the_reference(shape, dtype, device):
    given, other = rows(shape, dtype, device), rows(shape, dtype, device)
    launch_square(**given, lo=0.1, hi=0.9)
    square_ref_(**other, lo=0.1, hi=0.9)
    assert torch.equal(given["x"], other["x"]) and torch.equal(given["held"], other["held"])


def test_a_row_depends_on_itself_alone():
    whole = rows((6, 2, 9, 5))
    parts = rows((6, 2, 9, 5))
    square_(**whole)
    for row in range(6):
        one = {
            name: value[row : row + 1].clone() if isinstance(value, torch.Tensor) else value
            for name, value in parts.items()
        }
        square_(**one)
        assert torch.equal(one["x"][0], whole["x"][row])


def test_opcheck(device):
    given = rows((3, 2, 4, 5), device=device)
    seed = given["seed"] - 2**64
    arguments = (*[given[n] for n in ("x", "held", "x0", "better", "sides", "eps")], seed,
                 given["index"], given["query"], 0.0, 1.0)  # fmt: skip
    torch.library.opcheck(torch.ops.fastrobust.square_.default, arguments)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": torch.rand(4).reshape(4)}, ValueError, r"x must have shape \(N, \.\.\.\)"),
        ({"x": torch.rand(5, 7, 6).transpose(1, 2)}, ValueError, "x must be contiguous"),
        ({"held": torch.rand(5, 7, 6).transpose(1, 2)}, ValueError, "held must be contiguous"),
        ({"x": torch.rand(5, 6, 7).half()}, TypeError, "x must be float32 or float64, got float16"),
        ({"held": torch.rand(5, 6, 8)}, ValueError, "held must have shape"),
        ({"x0": torch.rand(5, 6, 7).double()}, TypeError, "x0 must be float32 like x, got float64"),
        ({"better": torch.zeros(5)}, TypeError, "better must be bool, got float32"),
        ({"sides": torch.ones(5, 3).long()}, ValueError, "sides must have shape"),
        ({"sides": torch.ones(5, 2)}, TypeError, "sides must be int64, got float32"),
        ({"sides": torch.tensor([[6, 7]] * 4 + [[7, 7]])}, ValueError,
         "sides must lie within 1x1 and 6x7, got 7x7 in row 4"),
        ({"sides": torch.tensor([[0, 1]] * 5)}, ValueError, "got 0x1 in row 0"),
        ({"query": torch.tensor([0, 1, 2, 3, 2**31])}, ValueError, r"query must lie in \[0, 2\^31"),
        ({"index": torch.arange(4)}, ValueError, "index must have shape"),
        ({"seed": -1}, ValueError, r"seed must lie in \[0, 2\^64\), got -1"),
        ({"eps": -0.1}, ValueError, "eps must"),
        ({"lo": 1.0, "hi": 0.0}, ValueError, "lo must be <= hi"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(changes, error, message):
    given = {**rows((5, 6, 7)), "lo": 0.0, "hi": 1.0}
    with pytest.raises(error, match=message):
        square_(**{**given, **changes})


def test_shared_memory_is_refused():
    given = rows((5, 6, 7))
    with pytest.raises(ValueError, match="x must not share memory with held"):
        square_(**{**given, "held": given["x"]})
