"""The Square attack once more, in plain numpy and image by image: the oracle of its tests.

Follows algorithms 1 to 3 and equation 2 of Andriushchenko et al. (arXiv 1912.00049), pixel by
pixel.
"""

import numpy as np
from numpy_attacks import uniform_start

NOTHING = 256 * np.finfo(float).eps  # what rounding leaves


def numbers(count, seed, index, query):
    """Numbers of [-1, 1) of one query."""
    return uniform_start(count, seed, [index], query)[0]


def place(number, room):
    """One of the places 0..room - 1, each as likely."""
    return int((number + 1) / 2 * room)


def shrunk(p, step, queries):
    marks = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
    return p / 2 ** sum(int(step / queries * 10000 + 1e-9) > mark for mark in marks)


def window(p, height, width, bumpy):
    """Height and width of a window: a square, or as many pixels in a narrower image."""
    side = max(round(np.sqrt(p * height * width)), 3 if bumpy else 1)
    side += bumpy and side % 2 == 0
    tall = round(side**2 / min(side, width))
    wide = round(side**2 / min(side, height))
    return min(tall, height), min(wide, width)


def bump(height, width):
    """Equation 2, its indices from 1."""
    n = max(height, width) // 2
    eta = np.zeros((height, width))
    for r in range(1, height + 1):
        for s in range(1, width + 1):
            m = n - max(abs(r - height // 2 - 1), abs(s - width // 2 - 1))
            eta[r - 1, s - 1] = sum(1 / (n + 1 - k) ** 2 for k in range(m + 1))
    return eta


def bumps(height, width, turned):
    """Two of opposite sign, one above the other or, turned, one beside the other."""
    if turned:
        return bumps(width, height, False).T
    eta = np.concatenate([bump(height // 2, width), -bump(height - height // 2, width)])
    return eta / np.linalg.norm(eta)


def colour(number):
    return -1 if number < 0 else 1


def start(x0, norm, eps, draw):
    """Stripes of random colours, or tiles of bumps."""
    channels, height, width = x0.shape
    change = np.zeros_like(x0)
    if norm == "linf":
        u = draw(channels * width)
        for c in range(channels):
            for column in range(width):
                change[c, :, column] = eps * colour(u[c * width + column])
        return change
    side = max(min(height, width) // 5, 1)
    down, across = height // side, width // side
    top, left = (height - down * side) // 2, (width - across * side) // 2
    u = draw(down * across * (1 + channels)).reshape(down, across, -1)
    for i in range(down):
        for j in range(across):
            rows = slice(top + i * side, top + (i + 1) * side)
            columns = slice(left + j * side, left + (j + 1) * side)
            for c in range(channels):
                tile = bumps(side, side, u[i, j, 0] < 0)
                change[c, rows, columns] = colour(u[i, j, 1 + c]) * tile
    return change


def propose(x0, held, norm, eps, p, draw):
    """What is held with another square, from x0; in linf also the same with the other colours."""
    channels, height, width = x0.shape
    h, w = window(p, height, width, norm == "l2")
    u = draw(5 + channels)
    r, s = place(u[0], height - h + 1), place(u[1], width - w + 1)
    first = np.s_[r : r + h, s : s + w]
    nu = held - x0
    if norm == "linf":
        delta = np.zeros_like(x0)
        for c in range(channels):
            delta[c][first] = 2 * eps * colour(u[5 + c])
        return nu + delta, nu - delta
    r, s = place(u[2], height - h + 1), place(u[3], width - w + 1)
    second = np.s_[r : r + h, s : s + w]
    both = np.zeros((height, width), bool)
    both[first] = both[second] = True
    unused = eps**2 - (nu**2).sum()
    unused = 0 if unused <= NOTHING * eps**2 else unused
    for c in range(channels):
        new = colour(u[5 + c]) * bumps(h, w, u[4] < 0) + unit(nu[c][first], eps)
        available = np.sqrt((nu[c][both] ** 2).sum() + unused / channels)
        nu[c][second] = 0
        nu[c][first] = unit(new) * available
    return nu, nu


def unit(change, scale=1.0):
    """Over its norm, unless that is rounding."""
    norm = np.linalg.norm(change)
    return change / norm if norm > NOTHING * scale else 0 * change


def inside(x0, change, norm, eps, clip):
    """Back into ball and box; in L2 the change has the norm eps."""
    if norm == "linf":
        change = np.clip(change, -eps, eps)
    else:
        change = change * eps / max(np.linalg.norm(change), 1e-12)
    return x0 + change if clip is None else np.clip(x0 + change, *clip)


def square(judge, x0, y, eps, norm, queries, p_init=0.8, restarts=1, clip=(0, 1), seed=0, index=0):
    """Attack one image (C, H, W): the images asked about, the result, whether it is a success.

    `judge` returns the margin, to be raised, and the decision at an image.
    """
    asked, best, highest = [], x0, -np.inf
    for run in range(restarts):
        held, loss = x0, -np.inf
        for query in range(queries):

            def draw(count, number=run * queries + query):
                return numbers(count, seed, index, number)

            if query == 0:
                x = inside(x0, start(x0, norm, eps, draw), norm, eps, clip)
            else:
                p = shrunk(p_init, query - 1, queries)
                for change in propose(x0, held, norm, eps, p, draw):
                    x = inside(x0, change, norm, eps, clip)
                    if not np.allclose(x, held, rtol=0, atol=1e-12):
                        break
            asked.append(x)
            margin, decision = judge(x)
            if decision != y:
                return asked, x, True
            if margin > loss:
                held, loss = x, margin
        if loss > highest:
            best, highest = held, loss
    return asked, best, False
