"""Defences that only look like one: what checks must flag, and a strong evaluation break."""

import torch
from torch import nn


class Wrapped(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model


class Rounded(Wrapped):
    """Images of nine grey levels: the gradient is zero everywhere."""

    def forward(self, x):
        return self.model((x * 8).round() / 8)


class Saturated(Wrapped):
    """Logits so large that the cross-entropy is zero in float32."""

    def forward(self, x):
        return self.model(x) * 1000


class Noisy(Wrapped):
    """Images with fresh noise at each look."""

    def forward(self, x):
        return self.model(x + 0.1 * torch.randn_like(x))


class DropoutLeftOn(Wrapped):
    def forward(self, x):
        return self.model(nn.functional.dropout(x, 0.2, training=True))


class Probabilities(Wrapped):
    def forward(self, x):
        return self.model(x).softmax(1)


class Unsteady(Wrapped):
    """|x| as the root of x^2: right, but its slope at black pixels is NaN."""

    def forward(self, x):
        return self.model((x * x).sqrt())


class WrongSlope(Wrapped):
    """A straight-through estimator of the wrong thing: scores are right, gradients turned."""

    def forward(self, x):
        scores = self.model(x)
        return scores.detach() - (scores - scores.detach())


class LogClamp(nn.Module):
    """Decodes tanh units by log(max(u.Y, 0) + 1e-6), as Verma and Swami's robust-ecoc does.

    https://github.com/Gunjan108/robust-ecoc, Model.py: a class with a correlation below zero has no
    gradient.
    """

    def __init__(self, classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, x):
        units = self.classifier.units(x)
        return (units @ self.classifier.head.vectors.T).clamp_min(0).add(1e-6).log()
