"""Tables of norms and Lipschitz bounds, layer by layer and of whole classifiers."""

import math
from collections.abc import Mapping

from ..spectral.bounds import LipschitzReport
from ..utils.text import TextTable

Reports = Mapping[str, LipschitzReport]  # by the classifier's name

LEGEND = (
    "Norm: as in Figure 4, with circular padding. Log chain: logarithm of the paper's Lambda^l, "
    "the product of the norms up to this layer. Folded: including the scale of its input, from a "
    "batch norm or 1 / std of the images. Scale-free: from one normalised signal to the next. "
    "Bound: folded, for zero padding."
)
_ALWAYS = ("conv", "linear", "codewords")  # other layers are listed if their bound is not 1


def layer_table(name: str, report: LipschitzReport) -> TextTable:
    """Return what every layer of a classifier contributes."""
    rows = []
    for layer in report.layers:
        if layer.kind not in _ALWAYS and layer.bound == 1:
            continue
        chain = "" if layer.log_chain is None else f"{layer.log_chain:.2f}"
        free = "" if layer.scale_free is None else f"{layer.scale_free:.4f}"
        name = layer.name.removeprefix("net.")
        kind = layer.kind if layer.part != "units" else f"{layer.kind}, to the units"
        rows.append(
            (name, kind, f"{layer.raw:.4f}", chain, f"{layer.folded:.4f}", free,
             f"{layer.bound:.4f}")
        )  # fmt: skip
    return TextTable(
        f"Lipschitz constants of the layers of {name}",
        LEGEND,
        ("layer", "kind", "norm", "log chain", "folded", "scale-free", "bound"),
        tuple(rows),
    )


def convolution_table(reports: Reports) -> TextTable:
    """Return the numbers behind Figure 4, for the classifiers that have the same convolutions."""
    first = next(iter(reports.values())).convolutions
    names = [layer.name for layer in first]
    same = {
        name: report.convolutions
        for name, report in reports.items()
        if [layer.name for layer in report.convolutions] == names
    }
    rows = []
    for number, layer in enumerate(first):
        layers = (convolutions[number] for convolutions in same.values())
        numbers = (f"{layer.raw:.3f} / {layer.scale_free:.3f}" for layer in layers)
        rows.append((str(number + 1), layer.name.removeprefix("net."), *numbers))
    return TextTable(
        "Figure 4 in numbers",
        "Norm / scale-free norm of every convolution.",
        ("", "convolution", *same),
        tuple(rows),
    )


def totals(reports: Reports) -> TextTable:
    """Return the bounds of whole classifiers, with lower bounds and radii if images were given."""
    seen = any(report.lower_bound is not None for report in reports.values())
    rows = []
    for name, report in reports.items():
        norms = [layer.raw for layer in report.convolutions]
        row = [name, f"{max(norms):.3f}" if norms else "-"]
        row += [f"{report.bound:.3g}", _log10(report.log_bound)]
        if seen:
            row += _seen(report)
        rows.append(tuple(row))
    caption = (
        "In the L2 norm, over pixels in [0, 1]. The bound is the product over all layers, a dense "
        "layer counting sqrt(1 + L^2)."
    )
    if seen:
        caption += (
            " The largest Jacobian norm is measured at the images and is a lower bound. An image "
            "keeps its decision within the certified radius, margin / (sqrt(2) bound)."
        )
    head = ("model", "largest norm", "bound", "log10 bound")
    return TextTable(
        "Lipschitz bounds of the class scores",
        caption,
        (*head, "largest Jacobian norm", "median radius") if seen else head,
        tuple(rows),
    )


def _seen(report: LipschitzReport) -> list[str]:
    """Return the largest Jacobian norm and the median radius, dashes without images."""
    if report.images is None or report.lower_bound is None:
        return ["-", "-"]
    return [f"{report.lower_bound:.3g}", f"{float(report.images.radius.median()):.3g}"]


def inequality_table(reports: Reports) -> TextTable:
    """Return both sides of the inequality of section 3.4."""
    rows = tuple(
        (name, f"{one.eps:g}", f"{one.loss:.4g}", f"{one.adversarial_loss:.4g}",
         _log10(one.log_right), "yes" if one.holds else "no")
        for name, report in reports.items() for one in report.inequalities
    )  # fmt: skip
    return TextTable(
        "E[J_adv] <= E[J] + lambda Lambda eps",
        "Section 3.4, in the L2 norm: the mean training loss without attack and under PGD, and the "
        "decimal logarithm of the right side.",
        ("model", "eps", "E[J]", "E[J_adv]", "log10 right side", "holds"),
        rows,
    )


def _log10(log: float) -> str:
    return f"{log / math.log(10):.2f}"


def summary(reports: Reports) -> list[TextTable]:
    """Return the tables of whole classifiers; that of the inequality only if it was measured."""
    measured = any(report.inequalities for report in reports.values())
    return [totals(reports), *([inequality_table(reports)] if measured else [])]


def tables(reports: Reports) -> list[TextTable]:
    """Return all tables: per layer, then of the whole."""
    return [*(layer_table(name, report) for name, report in reports.items()), *summary(reports)]
