"""An iteration of CWL2 in PyTorch at its best: gradient by hand, images allocated once.

What it does for each row is :func:`fastrobust.ops.cw_step_`'s; three things are cheaper. A row that
is done drifts on, since nobody reads it; only rows that start anew are written again, which takes a
look at whether there are any; and tanh(w) is kept from the step before.
"""

import torch
from torch import Tensor

from fastrobust.attacks.const_search import bisect
from fastrobust.ops.cw_step_op import CwRows


class TorchCW:
    """N rows of the attack and, beside them, every temporary of an image's size.

    Args:
        rows: fresh rows with fewer than ten steps of the search to come; they are placed at
            iteration 0.
        iterations, searches, patience, learning_rate, lo, hi: as for `cw_step_`.
    """

    def __init__(
        self,
        rows: CwRows,
        iterations: int = 1000,
        searches: int = 5,
        patience: int = 100,
        learning_rate: float = 5e-3,
        lo: float = 0.0,
        hi: float = 1.0,
    ) -> None:
        self.rows, self.iterations, self.searches = rows, iterations, searches
        self.patience, self.learning_rate, self.lo, self.span = patience, learning_rate, lo, hi - lo
        self.beside = (-1, *[1] * (rows.x.dim() - 1))
        self.dims = tuple(range(1, rows.x.dim()))
        self.start = 0.999999 * (2 * (rows.x0 - lo) / self.span - 1)
        self.units, self.gap, self.buffer = (torch.empty_like(rows.x) for _ in range(3))
        self.slope_at_0 = rows.x.new_tensor(self.span)
        self.l2 = rows.x.new_empty(len(rows.x))
        torch.add(lo + self.span / 2, self.start, alpha=self.span / 2, out=rows.origin)
        self._place(torch.arange(len(rows.x), device=rows.x.device))
        rows.search.zero_()

    def __call__(self, grad: Tensor, f: Tensor, hit: Tensor) -> None:
        """Judge the images and move every row; f and grad without NaN."""
        r = self.rows
        torch.sub(r.x, r.origin, out=self.gap)
        torch.linalg.vector_norm(self.gap, dim=self.dims, out=self.l2).square_()
        hinge = f.clamp(min=0)
        better, aborted, live, hit = self._judge(hinge, hit)
        torch.where(better.view(self.beside), r.x, r.best, out=r.best)
        self._descend(grad, torch.where(hinge > 0, r.const.to(f.dtype), 0))
        r.t += live & ~aborted
        ended = live & (aborted | (r.t >= self.iterations) | (hit & r.first_success))
        if ended.any():
            self._search(ended)

    def _judge(self, hinge: Tensor, hit: Tensor) -> tuple[Tensor, ...]:
        r, l2 = self.rows, self.l2
        live = (r.search < self.searches) & ~(r.first_success & r.won)
        aborted = torch.zeros_like(live)
        if self.patience:
            objective = l2 + r.const.to(l2.dtype) * hinge
            look = live & (r.t % self.patience == 0)
            aborted = look & (objective > 0.9999 * r.loss)
            torch.where(look, objective, r.loss, out=r.loss)
        judged = live & ~aborted
        hit = hit & judged
        closer = l2 < r.best_l2
        lesser = (hinge < r.best_f) | ((hinge == r.best_f) & closer)
        better = torch.where(hit, ~r.won | closer, judged & ~r.won & lesser)
        torch.where(better, l2, r.best_l2, out=r.best_l2)
        torch.where(better, hinge, r.best_f, out=r.best_f)
        r.found |= hit
        r.won |= hit
        return better, aborted, live, hit

    def _descend(self, grad: Tensor, push: Tensor) -> None:
        """Take Adam's step on w, in nine visits of the images."""
        r, buffer, dw = self.rows, self.buffer, self.gap
        step = (r.t + 1).double()
        rate = self.learning_rate * (1 - 0.999**step).sqrt() / (1 - 0.9**step)
        inverse = rate.reciprocal().to(r.x.dtype).view(self.beside)
        # dx/dw = (hi - lo) / 2 (1 - tanh^2), and twice that times gap + push / 2 grad.
        dw.addcmul_(grad, push.view(self.beside), value=0.5)
        torch.addcmul(self.slope_at_0, self.units, self.units, value=-self.span, out=buffer)
        dw.mul_(buffer)
        r.m.lerp_(dw, 0.1)
        r.v.mul_(0.999).addcmul_(dw, dw, value=0.001)
        torch.sqrt(r.v, out=buffer)
        torch.addcmul(1e-8 * inverse, buffer, inverse, out=buffer)
        r.w.addcdiv_(r.m, buffer, value=-1)
        torch.tanh(r.w, out=self.units)
        torch.add(self.lo + self.span / 2, self.units, alpha=self.span / 2, out=r.x)

    def _search(self, ended: Tensor) -> None:
        """Go on to the next c where a step of the search has ended, and start anew from x0."""
        r = self.rows
        following = bisect(r.found, r.const, r.lower, r.upper)
        for own, value in zip((r.const, r.lower, r.upper), following, strict=True):
            torch.where(ended, value, own, out=own)
        r.search += ended
        r.t.masked_fill_(ended, 0)
        r.found.masked_fill_(ended, False)
        r.loss.masked_fill_(ended, torch.inf)
        self._place(ended.nonzero().flatten())

    def _place(self, places: Tensor) -> None:
        """Put rows at iteration 0."""
        r = self.rows
        start = self.start[places]
        self.units[places] = start
        r.w[places] = start.atanh()
        r.x[places] = r.origin[places]
        r.m[places] = r.v[places] = 0
