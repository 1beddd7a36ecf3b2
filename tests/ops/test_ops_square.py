"""A step of the Square attack by a plain loop over pixels, from the published generator."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fastrobust.ops import SquareRows, square_, square_ref_
from fastrobust.ops.philox import philox4x32, split
from fastrobust.ops.square_op import launch_square

DTYPES = [torch.float32, torch.float64]
SEED = 2**63 + 12345
SHAPES = [(0, 3), (1, 1), (2, 31), (31, 2), (5, 6, 7), (9, 2, 9, 5), (3, 129), (4, 3, 2, 3, 4)]
QUERIES = 6
WRITTEN = ("x", "held", "held_loss", "won", "iteration")


def batch(shape, dtype=torch.float32, device="cpu", seed=0):
    """Rows of every kind, pixels at the ends of their balls and inside; what was answered."""
    g = torch.Generator().manual_seed(seed)
    count, (height, width) = shape[0], (1, shape[1]) if len(shape) == 2 else shape[-2:]
    x0 = torch.rand(shape, generator=g, dtype=torch.float64)
    eps = torch.linspace(0, 0.4, count, dtype=torch.float64)
    ball = eps.view(-1, *[1] * (len(shape) - 1))
    x, held = (x0 + ball * torch.randint(-1, 2, shape, generator=g) for _ in range(2))

    def number(most):
        return torch.randint(most, (count,), generator=g)

    rows = SquareRows(
        x=x, held=held, held_loss=torch.randn(count, generator=g).double(), won=number(4) == 0,
        iteration=number(QUERIES), x0=x0, run=number(3), eps=eps,
        index=torch.arange(count) + 2**33, seed=SEED,
    )  # fmt: skip
    rows.held_loss[::5] = -torch.inf
    loss = torch.randn(count, generator=g).double()
    loss[1::7] = torch.nan
    loss[2::7] = rows.held_loss[2::7]
    told = {"loss": loss, "hit": number(4) == 0, "valid": number(4) > 0, "live": number(4) > 0}
    rows.iteration[~told["live"]] += 99  # is not looked at
    sides = [torch.randint(1, n + 1, (QUERIES,), generator=g) for n in (height, width)]
    told["sides"] = torch.stack(sides, 1)
    for name, value in vars(rows).items():
        if isinstance(value, torch.Tensor):
            kind = dtype if name in ("x", "held", "x0", "eps") else None
            setattr(rows, name, value.to(device, kind))
    return rows, {name: value.to(device) for name, value in told.items()}


def copy(rows):
    own = {k: v.clone() for k, v in vars(rows).items() if isinstance(v, torch.Tensor)}
    return replace(rows, **own)


def assert_same(ours, theirs):
    for name in WRITTEN:
        a, b = getattr(ours, name), getattr(theirs, name)
        assert torch.equal(a.nan_to_num(), b.nan_to_num()), name
        assert torch.equal(a.isnan(), b.isnan()), name


def by_hand(rows, told, lo, hi):
    """Return what `rows` become, pixel by pixel."""
    new = copy(rows)
    shape = new.x.shape
    image, best, clean = (t.cpu().numpy() for t in (new.x, new.held, new.x0))  # views on a CPU
    kind = image.dtype.type
    height, width = (1, shape[1]) if len(shape) == 2 else shape[-2:]
    lo, hi = kind(-np.inf if lo is None else lo), kind(np.inf if hi is None else hi)
    for row in range(shape[0]):
        if not told["live"][row]:
            continue
        loss, valid = float(told["loss"][row]), bool(told["valid"][row])
        hit = valid and bool(told["hit"][row])
        if hit or (valid and loss > float(new.held_loss[row])):
            best[row] = image[row]
            new.held_loss[row] = loss
        if hit:
            new.won[row] = True
        tall, wide = told["sides"][int(new.iteration[row])].tolist()
        new.iteration[row] += 1
        query = int(new.run[row]) * len(told["sides"]) + int(new.iteration[row])
        e = kind(new.eps[row])
        changed, old, centre = (a[row].reshape(-1, height, width) for a in (image, best, clean))
        count = 5 + len(old)
        counter = [[block, *split(int(new.index[row])), query] for block in range(count)]
        bits = philox4x32(counter, split(new.seed)).reshape(-1)[:count] >> 8
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
        square = np.s_[:, top : top + tall, left : left + wide]
        if np.abs(made - old)[square].max() < min(e, hi - lo) / 2:
            made = painted(-1)
        changed[:] = made
    return replace(new, x=torch.from_numpy(image), held=torch.from_numpy(best))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("box", [(0.0, 1.0), (None, None), (0.45, 0.55)])
def test_pixel_by_pixel(shape, dtype, box, device):
    for seed in range(6):
        rows, told = batch(shape, dtype, device, seed)
        wanted = by_hand(rows, told, *box)
        square_(rows, **told, lo=box[0], hi=box[1])
        own = {name: getattr(rows, name).cpu() for name in WRITTEN}
        assert_same(replace(wanted, **own), replace(wanted, held_loss=wanted.held_loss.cpu(),
                    won=wanted.won.cpu(), iteration=wanted.iteration.cpu()))  # fmt: skip


def test_what_is_held_after_an_answer():
    """One row for every answer; the loss that is held is 1."""
    answers = [
        # live, valid, hit, loss: held?, won?
        (True, True, False, 2.0, True, False),
        (True, True, False, 1.0, False, False),
        (True, True, False, torch.nan, False, False),
        (True, True, True, 0.0, True, True),
        (True, True, True, torch.nan, True, True),
        (True, False, True, 2.0, False, False),
        (False, True, True, 2.0, False, False),
    ]
    columns = map(torch.tensor, zip(*answers, strict=True))
    live, valid, hit, loss, held, won = columns
    x0 = torch.rand(7, 2, 3, 4)
    rows = SquareRows.fresh(x0, torch.full((7,), 0.1))
    rows.x += 0.05
    rows.held_loss.fill_(1)
    before = copy(rows)
    square_(rows, loss.double(), hit, valid, live, torch.ones(2, 2).long(), None, None)
    assert torch.equal((rows.held == before.x).flatten(1).all(1), held)
    assert torch.equal((rows.held == before.held).flatten(1).all(1), ~held)
    assert torch.equal(rows.won, won) and torch.equal(rows.iteration, live.long())
    assert torch.equal(rows.held_loss.nan_to_num(9), torch.where(held, loss, 1).nan_to_num(9))
    assert torch.equal(rows.x[~live], before.x[~live])
    changed = (rows.x != rows.held).flatten(2).sum(2)[live]
    assert (changed == 1).all()  # one pixel of each channel


def test_both_signs_of_the_second_look_are_met():
    """The tests above see squares that change something at once, and squares that do not."""
    x0 = torch.rand(64, 3, 4).double()
    rows = SquareRows.fresh(x0, torch.full((64,), 0.1).double())
    yes, sides = torch.ones(64, dtype=torch.bool), torch.tensor([[3, 4]] * 2)

    def ask(hit):
        square_(rows, torch.zeros(64).double(), hit, yes, yes, sides, None, None)
        return (rows.x - rows.held).flatten(1).abs().amax(1)

    assert (ask(~yes) > 0.099).all()
    up = rows.x > x0
    away = ask(yes)  # the whole image once more, in the colour of the next number or the other one
    assert (away > 0.199).all() and torch.equal(rows.x > x0, ~up)
    bits = philox4x32([[1, i, 0, 2] for i in range(64)], split(0))[:, 1] >> 31
    again = torch.from_numpy((bits == 1) == up[:, 0, 0].numpy())
    assert 10 < again.sum() < 54


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_against_the_reference(shape, dtype, device):
    for seed in range(4):
        ours, told = batch(shape, dtype, device, seed)
        theirs = copy(ours)
        launch_square(ours, **told, lo=0.1, hi=0.9)
        square_ref_(theirs, **told, lo=0.1, hi=0.9)
        assert_same(ours, theirs)


def test_a_row_depends_on_itself_alone():
    whole, told = batch((9, 2, 9, 5))
    parts = copy(whole)
    square_(whole, **told)
    for row in range(9):
        own = {k: v[row : row + 1] for k, v in vars(parts).items() if isinstance(v, torch.Tensor)}
        one = copy(replace(parts, **own))
        square_(one, **{k: v if k == "sides" else v[row : row + 1] for k, v in told.items()})
        assert all(torch.equal(getattr(one, n)[0], getattr(whole, n)[row]) for n in WRITTEN)


def test_opcheck(device):
    rows, told = batch((5, 2, 4, 5), device=device)
    written = [getattr(rows, name) for name in WRITTEN]
    arguments = (*written, rows.x0, *told.values(), rows.eps, SEED - 2**64, rows.index, rows.run,
                 0.0, 1.0)  # fmt: skip
    torch.library.opcheck(torch.ops.fastrobust.square_.default, arguments)
    versions = [t._version for t in written]
    launch_square(rows, **told)
    assert all(t._version > v for t, v in zip(written, versions, strict=True))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": torch.rand(4)}, ValueError, r"x must have shape \(N, \.\.\.\)"),
        ({"x": torch.rand(5, 7, 6).transpose(1, 2)}, ValueError, "x must be contiguous"),
        ({"held": torch.rand(5, 7, 6).transpose(1, 2)}, ValueError, "held must be contiguous"),
        ({"x": torch.rand(5, 6, 7).half()}, TypeError, "x must be float32 or float64, got float16"),
        ({"held": torch.rand(5, 6, 8)}, ValueError, "held must have shape"),
        ({"held": torch.rand(5, 6, 7).double()}, TypeError, "held must be float32, got float64"),
        ({"x0": torch.rand(5, 6, 7).double()}, TypeError, "x0 must be float32 like x, got float64"),
        ({"held_loss": torch.zeros(5)}, TypeError, "held_loss must be float64, got float32"),
        ({"won": torch.zeros(5)}, TypeError, "won must be bool, got float32"),
        ({"iteration": torch.zeros(5)}, TypeError, "iteration must be int64, got float32"),
        ({"loss": torch.zeros(5)}, TypeError, "loss must be float64 like held_loss, got float32"),
        ({"loss": torch.zeros(4).double()}, ValueError, "loss must have shape"),
        ({"hit": torch.zeros(5)}, TypeError, "hit must be bool, got float32"),
        ({"valid": torch.zeros(4).bool()}, ValueError, "valid must have shape"),
        ({"live": torch.zeros(5).long()}, TypeError, "live must be bool, got int64"),
        ({"sides": torch.ones(5, 3).long()}, ValueError, "sides must have shape"),
        ({"sides": torch.ones(5).long()}, ValueError, r"sides must have shape \(Q, 2\)"),
        ({"sides": torch.ones(5, 2)}, TypeError, "sides must be int64, got float32"),
        ({"sides": torch.tensor([[6, 7]] * 3 + [[7, 7]])}, ValueError,
         "sides must lie within 1x1 and 6x7, got 7x7 in row 3"),
        ({"sides": torch.tensor([[0, 1]] * 4)}, ValueError, "got 0x1 in row 0"),
        ({"sides": torch.ones(0, 2).long()}, ValueError, r"iteration must lie in \[0, 0\)"),
        ({"iteration": torch.tensor([0, 1, 2, 3, 4])}, ValueError,
         r"iteration must lie in \[0, 4\) in live rows, got 4 in row 4"),
        ({"run": torch.tensor([0, 0, 2**29, 0, 0])}, ValueError, r"run must lie in \[0, 2\^31 / 4"),
        ({"index": torch.arange(4)}, ValueError, "index must have shape"),
        ({"seed": -1}, ValueError, r"seed must lie in \[0, 2\^64\), got -1"),
        ({"eps": torch.full((5,), -0.1)}, ValueError, "eps must"),
        ({"lo": 1.0, "hi": 0.0}, ValueError, "lo must be <= hi"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(changes, error, message):
    rows = SquareRows.fresh(torch.rand(5, 6, 7), torch.full((5,), 0.1))
    rows.iteration += torch.arange(5) % 4
    yes = torch.ones(5, dtype=torch.bool)
    told = {"loss": torch.zeros(5).double(), "hit": yes, "valid": yes, "live": yes,
            "sides": torch.ones(4, 2).long(), "lo": 0.0, "hi": 1.0}  # fmt: skip
    own = {name: value for name, value in changes.items() if name not in told}
    with pytest.raises(error, match=message):
        square_(replace(rows, **own), **{**told, **{k: changes[k] for k in changes.keys() - own}})


def test_shared_memory_is_refused():
    rows, told = batch((5, 6, 7))
    for name in ("held", "x0"):
        with pytest.raises(ValueError, match=f"x must not share memory with {name}"):
            square_(replace(rows, **{name: rows.x}), **told)
