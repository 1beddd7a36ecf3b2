"""The style of every chart: colours, panels, legends, and SVG in the text colour of the page."""

import io

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Colours for colour-blind readers, on light and dark backgrounds: M. Okabe, K. Ito,
# Color Universal Design, https://jfly.uni-koeln.de/color/
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8c8c8c")
INK = "#010203"  # placeholder for the text colour of the page


def side_by_side(count: int, *, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """Return a figure of `count` panels."""
    figure = Figure(figsize=(3.4 * count + 0.4, 3.3), layout="constrained")
    return figure, list(figure.subplots(1, count, sharey=sharey, squeeze=False)[0])


def add_legend(figure: Figure) -> None:
    """Add a legend below the panels, each line once."""
    lines = {str(line.get_label()): line for axes in figure.axes for line in axes.get_lines()}
    figure.legend(
        list(lines.values()), list(lines), loc="outside lower center", ncols=3, frameon=False,
        labelcolor=INK,
    )  # fmt: skip


def style_axes(axes: Axes, title: str, x_label: str) -> None:
    """Set the title, the label of the x axis and the style of a panel."""
    axes.set_title(title, color=INK, fontsize=10)
    axes.set_xlabel(x_label, color=INK)
    axes.tick_params(colors=INK, labelsize=8)
    axes.grid(color=INK, alpha=0.12, linewidth=0.6)
    axes.set_facecolor("none")
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_edgecolor(INK)


def as_svg(figure: Figure) -> str:
    """Return a figure as SVG in the text colour of the page."""
    buffer = io.StringIO()
    figure.patch.set_alpha(0)
    with rc_context({"svg.hashsalt": "fastrobust"}):  # ids that do not change from run to run
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :].replace(INK, "currentColor")


def on_paper(svg: str) -> str:
    """Return an SVG for a file of its own: dark on white."""
    return svg.replace("<svg ", '<svg style="color: #222; background: #fff" ', 1)
