"""Figure 4 and section 5.6 of the paper: norms of convolutions, compared between classifiers."""

from collections.abc import Mapping
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

from . import checkpoint, trained
from .columns import CE, CODED, MSE
from .conclusions import Conclusion
from .figures import COLOURS, as_svg, dress, name_lines, side_by_side
from .lipschitz import Layer, LipschitzReport, lipschitz
from .results import Run
from .tables import TextTable

Reports = Mapping[str, LipschitzReport]

CAVEAT = (
    "A batch norm behind a convolution undoes its scale: multiplying the weights by any number "
    "changes these norms and not the classifier, so that they say as much of weight decay and of "
    "the size of the loss's gradients as of robustness. The scale-free norm goes from one "
    "normalised signal to the next, which such a factor leaves alone."
)
LEGEND = (
    "Norm: as in Figure 4, with circular padding. Log chain: logarithm of the paper's Lambda^l, "
    "the product of the norms up to here. Folded: with what scales its input, a batch norm or "
    "1 / std of the images, multiplied in. Scale-free: from one normalised signal to the next. "
    "Bound: folded, for zero padding."
)
_ALWAYS = ("conv", "linear", "codewords")  # the other layers are named where they count
_SHOWN = {CE: COLOURS[0], MSE: COLOURS[1], CODED: COLOURS[2]}


def of_run(run: Run) -> Reports:
    """Return the reports of the classifiers that a run folder holds, by name.

    None are there before images are stored, whose size it takes.

    Raises:
        CheckpointError: A checkpoint is damaged or foreign.
    """
    stored = (r for r in run.results if run.folder.images_path(r.key).exists())
    first = next(stored, None)
    paths = {name: trained.checkpoint_path(run.folder.root, name) for name in run.plan.models}
    paths = {name: path for name, path in paths.items() if path.exists()}
    if first is None or not paths:
        return {}
    high, wide = run.folder.read_images(first.key)["adversarial"].shape[2:]
    found = {name: lipschitz(checkpoint.load(path), (high, wide)) for name, path in paths.items()}
    return in_order(found)


def in_order(reports: Reports) -> dict[str, LipschitzReport]:
    """Return the reports with the paper's three classifiers first."""
    first = [name for name in _SHOWN if name in reports]
    return {name: reports[name] for name in dict.fromkeys([*first, *reports])}


def picture(reports: Reports) -> str | None:
    """Return Figure 4 as SVG: as printed, with R:TANH:MSE added, and free of scale.

    Of the paper's three classifiers those that are there, else all; None without any.
    """
    named = {name: found for name, found in reports.items() if name in _SHOWN} or dict(reports)
    named = {name: found for name, found in named.items() if found.convolutions}
    if not named:
        return None
    printed = {name: found for name, found in named.items() if name != CODED}
    panels = [("norm", printed, "raw")] if printed else []
    if CODED in named:
        panels.append((f"norm, with {CODED}", named, "raw"))
    panels.append(("scale-free norm", named, "scale_free"))
    figure, places = side_by_side(len(panels))
    others = iter(COLOURS[3:] * len(named))
    colours = {name: _SHOWN.get(name) or next(others) for name in named}
    for axes, (title, shown, column) in zip(places, panels, strict=True):
        for name, found in shown.items():
            values = [getattr(layer, column) for layer in found.convolutions]
            axes.plot(
                range(1, len(values) + 1), values, marker="o", markersize=3, linewidth=1.3,
                label=name, color=colours[name],
            )  # fmt: skip
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        dress(axes, title, "convolution")
    name_lines(figure)
    return as_svg(figure)


@dataclass(frozen=True)
class _Ratios:
    """How much larger the norms of O:SOFTMAX:CE are than those of O:SOFTMAX:MSE."""

    values: tuple[float, ...]
    names: tuple[str, ...]

    @property
    def larger(self) -> int:
        return sum(value > 1 for value in self.values)

    @property
    def text(self) -> str:
        most = max(self.values)
        where = self.names[self.values.index(most)].removeprefix("net.")
        return (
            f"smaller in {self.larger} of {len(self.values)} convolutions, by a factor of up to "
            f"{most:.2f} ({where})"
        )


def conclusion(reports: Reports) -> Conclusion | None:
    """Say what becomes of section 5.6, "consistently smaller ... up to a factor of three".

    None unless both classifiers are there with the same convolutions.
    """
    if CE not in reports or MSE not in reports:
        return None
    ours, theirs = reports[CE].convolutions, reports[MSE].convolutions
    if not ours or [layer.name for layer in ours] != [layer.name for layer in theirs]:
        return None
    raw, free = (_ratios(ours, theirs, column) for column in ("raw", "scale_free"))
    agrees = raw.larger == len(raw.values)
    held = free.larger == len(free.values)
    return Conclusion(
        "5.6",
        f"The paper: the bounds of {MSE}'s convolutions are consistently smaller than those of "
        f"{CE}, by up to a factor of three. Here: {raw.text}; "
        f"{'this agrees' if agrees else 'this disagrees'}. With the scale taken out that the next "
        f"batch norm undoes: {free.text}; {'it stays' if held else 'nothing consistent is left'}.",
    )


def _ratios(ours: tuple[Layer, ...], theirs: tuple[Layer, ...], column: str) -> _Ratios:
    pairs = zip(ours, theirs, strict=True)
    values = (getattr(one, column) / getattr(other, column) for one, other in pairs)
    return _Ratios(tuple(values), tuple(layer.name for layer in ours))


def layer_table(name: str, report: LipschitzReport) -> TextTable:
    """Return what every layer of a classifier contributes."""
    rows = []
    for layer in report.layers:
        if layer.kind not in _ALWAYS and layer.bound == 1:
            continue
        chain = "" if layer.log_chain is None else f"{layer.log_chain:.2f}"
        free = "" if layer.scale_free is None else f"{layer.scale_free:.4f}"
        place = layer.name.removeprefix("net.")
        kind = layer.kind if layer.part != "units" else f"{layer.kind}, to the units"
        rows.append(
            (place, kind, f"{layer.raw:.4f}", chain, f"{layer.folded:.4f}", free,
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
        numbers = (f"{own[number].raw:.3f} / {own[number].scale_free:.3f}" for own in same.values())
        rows.append((str(number + 1), layer.name.removeprefix("net."), *numbers))
    return TextTable(
        "Figure 4 in numbers",
        "Norm / scale-free norm of every convolution.",
        ("", "convolution", *same),
        tuple(rows),
    )


def totals(reports: Reports) -> TextTable:
    """Return the bounds of whole classifiers, and what images say beside them if there were any."""
    seen = any(report.lower_bound is not None for report in reports.values())
    rows = []
    for name, report in reports.items():
        norms = [layer.raw for layer in report.convolutions]
        row = [name, f"{max(norms):.3f}" if norms else "-"]
        row += [f"{report.bound:.3g}", f"{report.log_bound:.2f}"]
        if seen:
            row += _seen(report)
        rows.append(tuple(row))
    caption = (
        "In the L2 norm, over pixels in [0, 1]. The bound is the product over all layers, a dense "
        "layer counting sqrt(1 + L^2)."
    )
    if seen:
        caption += (
            " The largest stretch is that of the Jacobian at the images that were given: no bound "
            "lies below it. An image keeps its decision within the certified radius, margin / "
            "(sqrt(2) bound)."
        )
    head = ("model", "largest norm", "bound", "log bound")
    return TextTable(
        "Lipschitz bounds of the class scores",
        caption,
        (*head, "largest stretch", "median radius") if seen else head,
        tuple(rows),
    )


def _seen(report: LipschitzReport) -> list[str]:
    """Return the largest stretch and the median radius, dashes without images."""
    if report.images is None or report.lower_bound is None:
        return ["-", "-"]
    return [f"{report.lower_bound:.3g}", f"{float(report.images.radius.median()):.3g}"]


def inequality_table(reports: Reports) -> TextTable:
    """Return both sides of the inequality of section 3.4."""
    rows = tuple(
        (name, f"{one.eps:g}", f"{one.loss:.4g}", f"{one.adversarial_loss:.4g}",
         f"{one.log_right:.2f}", "yes" if one.holds else "no")
        for name, report in reports.items() for one in report.inequalities
    )  # fmt: skip
    return TextTable(
        "E[J_adv] <= E[J] + lambda Lambda eps",
        "Section 3.4, in the L2 norm: the mean training loss without attack and under PGD, and the "
        "logarithm of the right side.",
        ("model", "eps", "E[J]", "E[J_adv]", "log of the right side", "holds"),
        rows,
    )


def tables(reports: Reports) -> list[TextTable]:
    """Return all tables: per layer, of the whole, and the inequality where it was measured."""
    found = [layer_table(name, report) for name, report in reports.items()]
    found.append(totals(reports))
    if any(report.inequalities for report in reports.values()):
        found.append(inequality_table(reports))
    return found


def sentences(reports: Reports) -> list[str]:
    """Return what becomes of the paper's claim, and the caveat."""
    drawn = conclusion(reports)
    return [drawn.sentence, CAVEAT] if drawn else [CAVEAT]
