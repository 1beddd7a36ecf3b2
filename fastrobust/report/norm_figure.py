"""Figure 4 of the paper: norms of convolutions, compared between classifiers."""

from matplotlib.ticker import MaxNLocator

from ..paper.columns import CE, CODED, MSE
from .norm_tables import Reports
from .svg import COLOURS, add_legend, as_svg, side_by_side, style_axes

_SHOWN = {CE: COLOURS[0], MSE: COLOURS[1], CODED: COLOURS[2]}


def draw(reports: Reports) -> str | None:
    """Return Figure 4 as SVG: as printed, with R:TANH:MSE added, and free of scale.

    It shows those of the paper's three classifiers that are measured, else all; None without any.
    """
    named = {name: report for name, report in reports.items() if name in _SHOWN} or dict(reports)
    named = {name: report for name, report in named.items() if report.convolutions}
    if not named:
        return None
    printed = {name: report for name, report in named.items() if name != CODED}
    panels = [("norm", printed, "raw")] if printed else []
    if CODED in named:
        panels.append((f"norm, with {CODED}", named, "raw"))
    panels.append(("scale-free norm", named, "scale_free"))
    figure, all_axes = side_by_side(len(panels))
    others = iter(COLOURS[3:] * len(named))
    colours = {name: _SHOWN.get(name) or next(others) for name in named}
    for axes, (title, shown, column) in zip(all_axes, panels, strict=True):
        for name, report in shown.items():
            values = [getattr(layer, column) for layer in report.convolutions]
            axes.plot(
                range(1, len(values) + 1), values, marker="o", markersize=3, linewidth=1.3,
                label=name, color=colours[name],
            )  # fmt: skip
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        style_axes(axes, title, "convolution")
    add_legend(figure)
    return as_svg(figure)
