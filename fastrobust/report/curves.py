"""Curves of a run: the attacks' rates against the parameter that varies.

They are drawn by matplotlib's object interface, so that no global setting changes.
"""

from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .results import Result, Run, robust_at, smallest_breaks
from .svg import COLOURS, INK, add_legend, as_svg, side_by_side, style_axes
from .tables import VIEW_NAMES


def all_curves(run: Run) -> dict[str, str]:
    """Return an SVG for every parameter that varies, untargeted and targeted, by its name."""
    varied = dict.fromkeys(c.parameter for c in run.plan.cells if c.parameter)
    pairs = ((name, targeted) for name in varied for targeted in (False, True))
    return {
        f"{'success' if targeted else 'accuracy'}-{name}": svg
        for name, targeted in pairs
        if (svg := curves(run, targeted=targeted, parameter=name)) is not None
    }


def curves(run: Run, *, targeted: bool, parameter: str = "eps") -> str | None:
    """Return an SVG of rates against a parameter, a panel per classifier; None without any."""
    results = list(run.white_box(targeted=targeted, parameter=parameter))
    models = [m for m in run.plan.models if any(r.cell.model == m for r in results)]
    if not models:
        return None
    figure, panels = side_by_side(len(models), sharey=True)
    colours = _colours(run, parameter)
    for axes, model in zip(panels, models, strict=True):
        of_model = [result for result in results if result.cell.model == model]
        for (column, view), colour in colours.items():
            # Two tables may share a point.
            points = {
                r.value: r for r in of_model if (r.cell.column, r.cell.view) == (column, view)
            }
            if points:
                label = f"{column} ({VIEW_NAMES[view]})"
                _line(axes, list(points.values()), label, colour, thick=view == "class")
        if not targeted and parameter == "eps":
            _worst_case(axes, of_model)
        _finish(axes, model, parameter)
    panels[0].set_ylabel("targeted success" if targeted else "accuracy", color=INK)
    add_legend(figure)
    return as_svg(figure)


def _colours(run: Run, parameter: str) -> dict[tuple[str, str], str]:
    """Return the colour of every attack, the same one in all figures of a parameter."""
    names = dict.fromkeys((c.column, c.view) for c in run.plan.cells if c.parameter == parameter)
    return dict(zip(names, cycle(COLOURS), strict=False))


def _line(axes: Axes, points: list[Result], label: str, colour: str, *, thick: bool) -> None:
    points = sorted(points, key=lambda result: result.value)
    values = [result.value for result in points]
    rates = [result.rate.value for result in points]
    bounds = np.array([result.rate.interval for result in points]).reshape(-1, 2)
    axes.plot(
        values, rates, marker="o", markersize=3.5, label=label, color=colour,
        linewidth=2.4 if thick else 1.3,
    )  # fmt: skip
    axes.fill_between(values, bounds[:, 0], bounds[:, 1], color=colour, alpha=0.13, linewidth=0)


def _worst_case(axes: Axes, results: list[Result]) -> None:
    """Draw the worst-case accuracy at every eps of any grid, and the clean accuracy at 0."""
    radius = smallest_breaks(results)
    eps = [0.0, *sorted({result.value for result in results})]
    left = [robust_at(radius, value).value for value in eps]
    axes.plot(eps, left, color=INK, linestyle=(0, (4, 2)), linewidth=1.3, label="worst case")


def _finish(axes: Axes, title: str, parameter: str) -> None:
    axes.set_ylim(-0.03, 1.03)
    if parameter == "initial_const":  # the paper's grid goes by powers of ten
        axes.set_xscale("log")
    else:
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    style_axes(axes, title, parameter)
