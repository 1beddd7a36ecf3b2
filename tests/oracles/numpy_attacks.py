"""The sign attacks once more, in plain numpy with gradients by hand: the oracle of the tests.

Follows the source of cleverhans v2.1.0 (attacks.py: FastGradientMethod, BasicIterativeMethod,
MomentumIterativeMethod, MadryEtAl) line by line, in float64, one image batch (N, n) at a time.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

import fastrobust as fr
from fastrobust.ops.philox import philox4x32

SHAPE = (1, 3, 4)
CLASSES = 4


@dataclass
class Net:
    """z = W2 tanh(W1 x + b1) + b2, then a head."""

    w1: np.ndarray
    b1: np.ndarray
    w2: np.ndarray
    b2: np.ndarray
    head: str  # ce | mse | codeword | linear
    vectors: np.ndarray  # (K, d)

    @classmethod
    def make(cls, head, seed=0, hidden=8):
        rng = np.random.default_rng(seed)
        book = fr.Codebook.random(CLASSES, 16, key="golden").vectors.double().numpy()
        vectors = book if head == "codeword" else np.eye(CLASSES)
        width, pixels = vectors.shape[1], int(np.prod(SHAPE))
        return cls(
            rng.normal(size=(hidden, pixels)),
            rng.normal(size=hidden),
            rng.normal(size=(width, hidden)),
            rng.normal(size=width),
            head,
            vectors,
        )

    def torch(self):
        """Return the same classifier as the library sees it."""
        pixels, hidden = self.w1.shape[1], self.w1.shape[0]
        first, last = nn.Linear(pixels, hidden), nn.Linear(hidden, self.w2.shape[0])
        net = nn.Sequential(nn.Flatten(), first, nn.Tanh(), last).double()
        weights = zip(net.parameters(), (self.w1, self.b1, self.w2, self.b2), strict=True)
        for parameter, value in weights:
            parameter.data.copy_(torch.from_numpy(value))
        heads = {
            "ce": lambda: fr.heads.Softmax("ce"),
            "mse": lambda: fr.heads.Softmax("mse"),
            "codeword": lambda: fr.heads.Codeword(fr.Codebook.random(CLASSES, 16, key="golden")),
            "linear": lambda: fr.heads.Linear(),
        }
        return fr.Classifier(net, heads[self.head]()).double()

    def judge(self, x, y, loss, target=None):
        """Return loss (N,), its gradient by x (N, n) and the decision (N,)."""
        rows = np.arange(len(x))
        h = np.tanh(x @ self.w1.T + self.b1)
        z = h @ self.w2.T + self.b2
        u, back = self._units(z)
        scores, by_units = self._scores(z, u)
        if loss == "train":
            loss = "ce" if self.head == "ce" else "mse"
        if loss == "mse":
            wanted = self.vectors[y] if target is None else target
            value, dz = np.mean((u - wanted) ** 2, 1), back(2 * (u - wanted) / u.shape[1])
        else:
            value, ds = _score_loss(scores, y, rows, loss)
            dz = back(ds @ by_units) if by_units is not None else ds
        gradient = ((dz @ self.w2) * (1 - h**2)) @ self.w1
        distance = ((u[:, None] - self.vectors) ** 2).sum(2)
        decision = distance.argmin(1) if self.head == "codeword" else z.argmax(1)
        return value, gradient, decision

    def _units(self, z):
        if self.head == "codeword":
            u = np.tanh(z)
            return u, lambda du: (1 - u**2) * du
        if self.head == "linear":
            return z, lambda du: du
        e = np.exp(z - z.max(1, keepdims=True))
        p = e / e.sum(1, keepdims=True)
        return p, lambda du: p * (du - (p * du).sum(1, keepdims=True))

    def _scores(self, z, u):
        """Class scores (N, K) and d scores / d units (K, d), None where the scores are z."""
        if self.head != "codeword":
            return z, None
        temperature = self.vectors.shape[1] / 12
        bias = (self.vectors**2).sum(1) / 2
        return (u @ self.vectors.T - bias) / temperature, self.vectors / temperature


def _score_loss(s, y, rows, loss):
    """Loss (N,) and its gradient by the class scores (N, K)."""
    one = np.eye(s.shape[1])
    rival = np.where(one[y] > 0, -np.inf, s).argmax(1)
    margin, d_margin = s[rows, y] - s[rows, rival], one[y] - one[rival]
    if loss == "ce":
        top = s.max(1, keepdims=True)
        log_sum = top[:, 0] + np.log(np.exp(s - top).sum(1))
        return log_sum - s[rows, y], np.exp(s - log_sum[:, None]) - one[y]
    if loss == "margin":
        return -margin, -d_margin
    order = np.argsort(-s, 1)
    width = (s[rows, order[:, 0]] - s[rows, order[:, 2]] + 1e-12)[:, None]
    d_width = one[order[:, 0]] - one[order[:, 2]]
    return -margin / width[:, 0], -(d_margin * width - margin[:, None] * d_width) / width**2


def _box(x, clip):
    return x if clip is None else np.clip(x, *clip)


def _sum_normalised(net, y):
    wanted = net.vectors[y]
    return wanted / wanted.sum(1, keepdims=True)


def fgsm(net, x, y, loss, eps, clip, targeted, **_):
    gradient = (-1 if targeted else 1) * net.judge(x, y, loss)[1]
    return [x, _box(x + eps * np.sign(gradient), clip)]


def bim(net, x, y, loss, eps, clip, targeted, step_size=0.05, steps=10, **_):
    """Box, then ball; the box once more at the end."""
    eta, trace = np.zeros_like(x), [x]
    for _ in range(steps):
        a = fgsm(net, x + eta, y, loss, step_size, clip, targeted)[1]
        eta = np.clip(_box(a, clip) - x, -eps, eps)
        trace.append(_box(x + eta, clip))
    return trace


def mim(
    net, x, y, loss, eps, clip, targeted, step_size=0.06, steps=10, decay=1.0, label_sum_norm=False
):
    a, momentum, trace = x, np.zeros_like(x), [x]
    wanted = _sum_normalised(net, y) if label_sum_norm else None
    for _ in range(steps):
        g = (-1 if targeted else 1) * net.judge(a, y, loss, wanted)[1]
        momentum = decay * momentum + g / np.maximum(1e-12, np.abs(g).mean(1, keepdims=True))
        a = _box(x + np.clip(a + step_size * np.sign(momentum) - x, -eps, eps), clip)
        trace.append(a)
    return trace


def madry(net, x, y, loss, eps, clip, targeted, step_size=0.01, steps=40, start=None, **_):
    """The start is not moved into the box before its gradient."""
    eta = np.zeros_like(x) if start is None else np.clip(eps * start, -eps, eps)
    trace = [x + eta]
    for _ in range(steps):
        a = fgsm(net, x + eta, y, loss, step_size, None, targeted)[1]
        eta = np.clip(_box(a, clip) - x, -eps, eps)
        trace.append(_box(x + eta, clip))
    return trace


def pgd_l2(net, x, y, loss, eps, clip, targeted, step_size=0.01, steps=40, **_):
    a, trace = x, [x]
    for _ in range(steps):
        g = (-1 if targeted else 1) * net.judge(a, y, loss)[1]
        a = a + step_size * g / np.maximum(1e-12, np.linalg.norm(g, axis=1, keepdims=True))
        length = np.linalg.norm(a - x, axis=1, keepdims=True)
        a = _box(x + (a - x) * np.minimum(1, eps / np.maximum(length, 1e-300)), clip)
        trace.append(a)
    return trace


def best(net, traces, y, loss, targeted):
    """First success over the traces' iterates 1.., else the highest loss; and queries per row."""
    iterates = [x for trace in traces for x in trace[1:]]
    judged = [net.judge(x, y, loss) for x in iterates]
    result, won = iterates[-1].copy(), np.zeros(len(y), bool)
    for row in range(len(y)):
        hits = [(j[2][row] == y[row]) == targeted for j in judged]
        won[row] = any(hits)
        value = [(-1 if targeted else 1) * j[0][row] for j in judged]
        pick = hits.index(True) if won[row] else int(np.argmax(value))
        result[row] = iterates[pick][row]
    return result, won


def uniform_start(pixels, seed, index, restart):
    """Each image's point of [-1, 1)^n, keyed by (seed, index, restart, pixel)."""
    rows = []
    for i in index:
        blocks = np.arange(-(-pixels // 4))
        counter = [[b, i & 0xFFFFFFFF, i >> 32, restart] for b in blocks]
        words = philox4x32(counter, [seed & 0xFFFFFFFF, seed >> 32]).reshape(-1)[:pixels]
        rows.append((words >> 8) * 2.0**-23 - 1)
    return np.array(rows)
