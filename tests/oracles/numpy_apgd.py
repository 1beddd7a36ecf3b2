"""Auto-PGD once more, in plain numpy, row by row: the oracle of the tests.

Follows algorithm 1 of Croce and Hein (arXiv 2003.01690) in the order of its published code: the
iterate is judged, progress is looked at where a window ends, then the step is taken.
"""

import numpy as np
import numpy_attacks


def checkpoints(steps):
    """Section 3, "step size selection": p_0 = 0, p_1 = 0.22, windows shrink by 0.03 to 0.06."""
    share, window, found = 0.22, 0.22, []
    while share <= 1 + 1e-9:
        found.append(int(np.ceil(round(share * steps, 6))))
        window = max(window - 0.03, 0.06)
        share += window
    return found


def project(a, x, eps, norm, clip):
    if norm == "linf":
        return numpy_attacks._box(x + np.clip(a - x, -eps, eps), clip)
    length = max(np.linalg.norm(a - x), 1e-300)
    return numpy_attacks._box(x + (a - x) * min(1, eps / length), clip)


def run(judge, x, start, eps, norm, clip, steps, rho=0.75):
    """Return the iterates, x_0 .. x_steps, of one row; `judge` gives loss and gradient (n,)."""
    a, before, size = start, start, 2 * eps
    best, prior, rises = -np.inf, np.inf, 0
    best_then, halved_then, last_end = -np.inf, True, 0
    ends, iterates = checkpoints(steps), []
    for k in range(steps + 1):
        loss, g = judge(a)
        iterates.append(a)
        rises += loss > prior
        prior = loss
        if loss > best:
            best, best_a, best_g = loss, a, g
        if k in ends:
            few = rises < rho * (k - last_end)  # condition 1
            idle = not halved_then and best <= best_then  # condition 2
            halved_then, best_then, last_end, rises = few or idle, best, k, 0
            if few or idle:
                size, a, g, prior = size / 2, best_a, best_g, best
        step = np.sign(g) if norm == "linf" else g / max(1e-12, np.linalg.norm(g))
        new = project(a + size * step, x, eps, norm, clip)
        if k > 0:  # equation 3, alpha = 0.75
            new = project(a + 0.75 * (new - a) + 0.25 * (a - before), x, eps, norm, clip)
        before, a = a, new
    return iterates


def attack(net, x, y, loss, eps, norm, clip, steps, starts):
    """Best row each over runs from `starts` (runs, N, n), and whether it was won."""
    result, won = x.copy(), np.zeros(len(x), bool)
    for row in range(len(x)):
        best = -np.inf

        def judge(a, row=row):
            value, gradient, _ = net.judge(a[None], y[row : row + 1], loss)
            return value[0], gradient[0]

        for start in starts:
            for a in run(judge, x[row], start[row], eps, norm, clip, steps):
                value, _, decision = net.judge(a[None], y[row : row + 1], loss)
                if decision[0] != y[row]:
                    result[row], won[row] = a, True
                    break
                if value[0] > best:
                    best, result[row] = value[0], a
            if won[row]:
                break
    return result, won
