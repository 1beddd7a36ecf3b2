"""Carlini and Wagner's attack once more, in plain numpy, one image at a time: an oracle of tests.

Follows cleverhans v2.1.0 (attacks_tf.py, CarliniWagnerL2) line by line in float64, batch_size 1, on
the two-layer nets of numpy_attacks.py; f of the modified attack is that of arXiv 1812.00181, 3.3.
"""

import numpy as np


def outputs(net, x):
    """Pre-activations z (d,), units u (d,), and how gradients go from u, and from z, to x."""
    h = np.tanh(x @ net.w1.T + net.b1)
    z = h @ net.w2.T + net.b2
    if net.head == "codeword":
        u = np.tanh(z)
        back = lambda du: (1 - u**2) * du  # noqa: E731
    elif net.head == "linear":
        u, back = z, lambda du: du
    else:
        u = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        back = lambda du: u * (du - (u * du).sum())  # noqa: E731
    return z, u, back, lambda dz: ((dz @ net.w2) * (1 - h**2)) @ net.w1


def decide(net, x):
    z, u, _, _ = outputs(net, x)
    return int(((u - net.vectors) ** 2).sum(1).argmin()) if net.head == "codeword" else z.argmax()


def scores(net, z, u):
    """Class scores (K,) and their derivative by u (K, d), None where they are z."""
    if net.head != "codeword":
        return z, None
    t = net.vectors.shape[1] / 12
    return (net.vectors @ u - (net.vectors**2).sum(1) / 2) / t, net.vectors / t


def hinge(v, label, targeted, confidence):
    """f of CarliniWagnerL2 and its gradient by v, for a label vector of any kind."""
    real = (label * v).sum()
    masked = (1 - label) * v - label * 10000
    other, j = masked.max(), masked.argmax()
    d_real, d_other = label, np.eye(len(v))[j] * (1 - label)
    sign = 1 if targeted else -1
    f = sign * (other - real) + confidence
    return max(f, 0), sign * (d_other - d_real) * (f > 0)


def believes(v, label, targeted, confidence):
    """The literal success test."""
    v, own = v.copy(), label.argmax()
    v[own] += -confidence if targeted else confidence
    return (v.argmax() == own) == targeted


class Scores:
    """Class view: class scores, one-hot labels."""

    def __init__(self, net, x0, y, targeted):
        self.net, self.targeted = net, targeted
        self.label = np.eye(len(net.vectors))[y]

    def __call__(self, x, confidence):
        z, u, back, pull = outputs(self.net, x)
        v, by_u = scores(self.net, z, u)
        f, df = hinge(v, self.label, self.targeted, confidence)
        dz = df if by_u is None else back(df @ by_u)
        return f, pull(dz), believes(v, self.label, self.targeted, confidence)


class Units:
    """The paper's view: output units, the target vector or a guessed largest unit as label."""

    def __init__(self, net, x0, y, targeted):
        self.net, self.targeted = net, targeted
        self.label = net.vectors[y].copy()
        if not targeted and net.head == "codeword":
            _, u, _, _ = outputs(net, x0)
            self.label = np.eye(len(u))[u.argmax()]

    def __call__(self, x, confidence):
        z, u, back, pull = outputs(self.net, x)
        v, dv = (z, lambda d: d) if self.net.head == "ce" else (u, back)
        f, df = hinge(v, self.label, self.targeted, confidence)
        return f, pull(dv(df)), believes(v, self.label, self.targeted, confidence)


class Distances:
    """The modified attack: D(v, Y_t) - min D(v, Y_i)."""

    def __init__(self, net, x0, y, targeted, power=1, probabilities=False):
        self.net, self.targeted, self.y, self.power = net, targeted, y, power
        self.probabilities = probabilities

    def __call__(self, x, confidence):
        z, u, back, pull = outputs(self.net, x)
        softmax = self.net.head in ("ce", "mse")
        v, dv = (z, lambda d: d) if softmax and not self.probabilities else (u, back)
        gap = v - self.net.vectors
        d = np.sqrt((gap**2).sum(1))
        others = np.where(np.arange(len(d)) == self.y, np.inf, d)
        j, sign = others.argmin(), 1 if self.targeted else -1
        if self.power == 1:
            f, df = d[self.y] - d[j], gap[self.y] / d[self.y] - gap[j] / d[j]
        else:
            f, df = d[self.y] ** 2 - d[j] ** 2, 2 * (gap[self.y] - gap[j])
        f = sign * f + confidence
        hit = (d.argmin() == self.y) == self.targeted
        if confidence:
            hit = hit and f <= 0
        return max(f, 0), pull(dv(sign * df * (f > 0))), hit


def search(
    loss, x0, *, initial_const=1e-2, binary_search_steps=5, max_steps=1000, learning_rate=5e-3,
    confidence=0.0, abort_early=True, abort_from=np.inf, lo=0.0, hi=1.0,
):  # fmt: skip
    """Return every image asked about, every c, the best image (None without success), least f's."""
    w0 = np.arctanh(0.999999 * (2 * np.clip((x0 - lo) / (hi - lo), 0, 1) - 1))
    image = lambda w: (np.tanh(w) + 1) / 2 * (hi - lo) + lo  # noqa: E731
    origin = image(w0)
    lower, upper, const = 0.0, 1e10, initial_const
    asked, consts, best, best_l2, least = [], [], None, np.inf, (np.inf, np.inf, x0)
    for outer in range(binary_search_steps):
        if binary_search_steps >= 10 and outer == binary_search_steps - 1:
            const = upper
        consts.append(const)
        modifier, m, v, prev, success = np.zeros_like(x0), 0.0, 0.0, abort_from, False
        for iteration in range(max_steps):
            x = image(w0 + modifier)
            asked.append(x)
            f, df, hit = loss(x, confidence)
            l2 = ((x - origin) ** 2).sum()
            total = l2 + const * f
            if abort_early and iteration % max(1, max_steps // 10) == 0:
                if total > prev * 0.9999:
                    break
                prev = total
            least = min(least, (f, l2, x), key=lambda entry: entry[:2])
            if hit:
                success = True
                if l2 < best_l2:
                    best, best_l2 = x, l2
            slope = (hi - lo) / 2 / np.cosh(w0 + modifier) ** 2
            g = (2 * (x - origin) + const * df) * slope
            t = iteration + 1
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            rate = learning_rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            modifier = modifier - rate * m / (np.sqrt(v) + 1e-8)
        if success:
            upper = min(upper, const)
            if upper < 1e9:
                const = (lower + upper) / 2
        else:
            lower = max(lower, const)
            const = (lower + upper) / 2 if upper < 1e9 else const * 10
    return asked, consts, best, least[2]
