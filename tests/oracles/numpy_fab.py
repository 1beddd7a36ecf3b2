"""FAB once more, in plain numpy and image by image: the oracle of its tests.

Follows algorithm 1 of Croce and Hein (arXiv 1907.02044), towards one rival after another as in
arXiv 2003.01690. Projections are found by bisection.
"""

import numpy as np
from numpy_attacks import _box, uniform_start
from test_projections import by_bisection


def look(net, x, y, rival):
    """By how much the rival is above the label, its gradient by x, class scores, decision."""
    h = np.tanh(net.w1 @ x + net.b1)
    z = (net.w2 @ h + net.b2)[None]
    u, back = net._units(z)
    scores, by_units = net._scores(z, u)
    one = np.eye(scores.shape[1])
    ds = (one[rival] - one[y])[None]
    dz = back(ds @ by_units) if by_units is not None else ds
    gradient = ((dz[0] @ net.w2) * (1 - h**2)) @ net.w1
    return scores[0, rival] - scores[0, y], gradient, scores[0], int(scores[0].argmax())


def size(change, norm):
    return np.linalg.norm(change) if norm == "l2" else np.abs(change).max()


def fab(
    net, x0, y, norm, steps=100, restarts=1, targets=9, eps=0.3, alpha_max=0.1, eta=1.05, beta=0.9,
    clip=(0, 1), seed=0, index=0, search=3,
):  # fmt: skip
    """Attack one image (n,): where gradients are asked for, the result, and its distance."""
    scores = look(net, x0, y, y)[2]
    rivals = [k for k in np.argsort(-scores, kind="stable") if k != y][:targets]
    asked, nearest, distance = [], x0, np.inf

    def note(x, decision):
        nonlocal nearest, distance
        if decision != y and size(x - x0, norm) < distance:
            nearest, distance = x, size(x - x0, norm)

    for run in range(restarts * len(rivals)):
        rival, x = rivals[run % len(rivals)], x0
        if run >= len(rivals):
            away = uniform_start(len(x0), seed, [index], run)[0]
            x = _box(x0 + min(distance, eps) / 2 * away / size(away, norm), clip)
        for _ in range(steps):
            ahead, w, _, decision = look(net, x, y, rival)
            asked.append(x)
            note(x, decision)
            if distance == 0:
                return asked, x0, 0.0
            # The hyperplane where the rival draws level, w.z = b, and the ways there.
            b = w @ x - ahead
            way = by_bisection(x, w, b - w @ x, norm, clip)
            from_image = by_bisection(x0, w, b - w @ x0, norm, clip)
            far, far_from_image = size(way, norm), size(from_image, norm)
            alpha = min(far / (far + far_from_image), alpha_max)
            x = _box((1 - alpha) * (x + eta * way) + alpha * (x0 + eta * from_image), clip)
            decision = look(net, x, y, rival)[3]
            note(x, decision)
            if decision != y:
                x = (1 - beta) * x0 + beta * x
    if np.isfinite(distance):
        nearest = final_search(net, x0, y, nearest, search)
    return asked, nearest, distance


def final_search(net, far, y, near, steps):
    scores_far, (*_, scores_near, rival) = look(net, far, y, y)[2], look(net, near, y, y)
    for _ in range(steps):
        outside = scores_far[y] - scores_far[rival]
        inside = scores_near[rival] - scores_near[y]
        share = max(outside / (outside + inside), 0.05)
        middle = far + share * (near - far)
        *_, scores, decision = look(net, middle, y, y)
        if decision == y:
            far, scores_far = middle, scores
        else:
            near, scores_near, rival = middle, scores, decision
    return near
