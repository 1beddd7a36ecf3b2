"""The look of every chart: colours, panels, legends, and SVG that follows the page."""

import io

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Colours that stay apart for colour-blind readers, on light and dark ground: M. Okabe, K. Ito,
# Color Universal Design, https://jfly.uni-koeln.de/color/
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8c8c8c")
INK = "#010203"  # stands for the page's own text colour until the SVG is written


def side_by_side(count: int, *, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """Return a figure of `count` panels."""
    figure = Figure(figsize=(3.4 * count + 0.4, 3.3), layout="constrained")
    return figure, list(figure.subplots(1, count, sharey=sharey, squeeze=False)[0])


def name_lines(figure: Figure) -> None:
    """Name every line once, below the panels."""
    lines = {str(line.get_label()): line for axes in figure.axes for line in axes.get_lines()}
    figure.legend(
        list(lines.values()), list(lines), loc="outside lower center", ncols=3, frameon=False,
        labelcolor=INK,
    )  # fmt: skip


def dress(axes: Axes, title: str, below: str) -> None:
    """Give a panel its title, the words below it, and the look of all."""
    axes.set_title(title, color=INK, fontsize=10)
    axes.set_xlabel(below, color=INK)
    axes.tick_params(colors=INK, labelsize=8)
    axes.grid(color=INK, alpha=0.12, linewidth=0.6)
    axes.set_facecolor("none")
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_edgecolor(INK)


def as_svg(figure: Figure) -> str:
    """Return a figure as SVG whose ink is the page's."""
    buffer = io.StringIO()
    figure.patch.set_alpha(0)
    with rc_context({"svg.hashsalt": "fastrobust"}):  # ids that do not change from run to run
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :].replace(INK, "currentColor")


def on_paper(svg: str) -> str:
    """Return an SVG as it can stand in a file of its own: dark ink on white."""
    return svg.replace("<svg ", '<svg style="color: #222; background: #fff" ', 1)
