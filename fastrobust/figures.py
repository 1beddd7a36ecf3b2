"""Pictures of a run: accuracy against epsilon, and galleries of adversarial images.

Curves are drawn by matplotlib's object interface, so that no global setting is touched, and leave
as SVG whose ink follows the page's colour; images leave as PNG at one pixel per pixel.
"""

import base64
import io
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import MaxNLocator

from .layout import VIEW_NAMES
from .results import Result, Run, robust_at, smallest_breaks

# Colours that stay apart for colour-blind readers, on light and dark ground: M. Okabe, K. Ito,
# Color Universal Design, https://jfly.uni-koeln.de/color/
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
_INK = "#010203"  # stands for the page's own text colour until the SVG is written
TOP, BOTTOM = "O:SOFTMAX:CE", "R:TANH:MSE"  # the rows of the paper's galleries


@dataclass(frozen=True)
class Picture:
    """One image of a gallery: its PNG as a data address, and what it shows."""

    address: str
    label: str
    decision: str
    hit: bool


@dataclass(frozen=True)
class Strip:
    """One row of a gallery: the images of one classifier under one attack."""

    result: Result
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Gallery:
    """Two rows of the same images, as in the paper's Figures 1 and 2."""

    number: int
    title: str
    strips: tuple[Strip, ...]


def curves(run: Run, *, targeted: bool) -> str | None:
    """Return an SVG of the attacks' rates against eps, a panel per classifier; None without any."""
    results = list(run.select(targeted=targeted, parameter="eps"))
    models = [m for m in run.plan.models if any(r.cell.model == m for r in results)]
    if not models:
        return None
    figure = Figure(figsize=(3.4 * len(models) + 0.4, 3.3), layout="constrained")
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    colours = _colours(run)
    for axes, model in zip(panels, models, strict=True):
        own = [result for result in results if result.cell.model == model]
        for (column, view), colour in colours.items():
            points = [r for r in own if (r.cell.column, r.cell.view) == (column, view)]
            if points:
                label = f"{column} ({VIEW_NAMES[view]})"
                _line(axes, points, label, colour, thick=view == "class")
        if not targeted:
            _worst_case(axes, own)
        _dress(axes, model)
    panels[0].set_ylabel("targeted success" if targeted else "accuracy", color=_INK)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=3, frameon=False, labelcolor=_INK
    )
    return _svg(figure)


def _colours(run: Run) -> dict[tuple[str, str], str]:
    """Give every attack of the plan its colour, the same one in all figures."""
    names = dict.fromkeys((c.column, c.view) for c in run.plan.cells if c.parameter == "eps")
    return dict(zip(names, cycle(COLOURS), strict=False))


def _line(axes: Axes, points: list[Result], label: str, colour: str, *, thick: bool) -> None:
    points = sorted(points, key=lambda result: result.value)
    eps = [result.value for result in points]
    rates = [result.rate.value for result in points]
    bounds = np.array([result.rate.interval for result in points]).reshape(-1, 2)
    axes.plot(
        eps, rates, marker="o", markersize=3.5, label=label, color=colour,
        linewidth=2.4 if thick else 1.3,
    )  # fmt: skip
    axes.fill_between(eps, bounds[:, 0], bounds[:, 1], color=colour, alpha=0.13, linewidth=0)


def _worst_case(axes: Axes, results: list[Result]) -> None:
    """Draw the accuracy left at every eps of any grid, and without attack at 0."""
    radius = smallest_breaks(results)
    eps = [0.0, *sorted({result.value for result in results})]
    left = [robust_at(radius, value).value for value in eps]
    axes.plot(eps, left, color=_INK, linestyle=(0, (4, 2)), linewidth=1.3, label="worst case")


def _dress(axes: Axes, title: str) -> None:
    axes.set_title(title, color=_INK, fontsize=10)
    axes.set_xlabel("eps", color=_INK)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(colors=_INK, labelsize=8)
    axes.grid(color=_INK, alpha=0.12, linewidth=0.6)
    axes.set_facecolor("none")
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_edgecolor(_INK)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.patch.set_alpha(0)
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :].replace(_INK, "currentColor")


def galleries(run: Run) -> list[Gallery]:
    """Return the paper's Figures 1 and 2 from the first images of the stored cells.

    Figure 1 takes targeted Madry at the smallest eps of the grid that always succeeds, else the
    largest; Figure 2 targeted MIM at eps = 0.1.
    """
    found = []
    for number, title, column in (
        (1, "Targeted attack of Madry et al.", "Madry"),
        (2, "Targeted Momentum Iterative Method", "MIM"),
    ):
        strips = []
        for model in (TOP, BOTTOM):
            own = list(run.select(targeted=True, column=column, model=model))
            shown = _always_succeeds(own) if number == 1 else _at(own, 0.1)
            if shown is not None:
                strips.append(Strip(shown, _pictures(run, shown)))
        if strips:
            found.append(Gallery(number, title, tuple(strips)))
    return found


def _always_succeeds(results: list[Result]) -> Result | None:
    ordered = sorted(results, key=lambda result: result.value)
    whole = (result for result in ordered if result.rate.hits == result.rate.count)
    return next(whole, ordered[-1] if ordered else None)


def _at(results: list[Result], eps: float) -> Result | None:
    return next((result for result in results if result.cell.value == eps), None)


def _pictures(run: Run, result: Result) -> tuple[Picture, ...]:
    """Return the first stored image of every class."""
    images = run.folder.read_images(result.key)["adversarial"]
    names = run.facts["data"]["class_names"]
    labels = result.rows["label"][: len(images)]
    places = [int(np.flatnonzero(labels == label)[0]) for label in np.unique(labels)]
    return tuple(
        Picture(
            _png(images[place]),
            names[labels[place]],
            names[result.rows["decision"][place]],
            bool(result.rows["success"][place]),
        )
        for place in places[:10]
    )


def _png(image: np.ndarray) -> str:
    """Return an image (C, H, W) with pixels in [0, 1] as a data address."""
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    buffer = io.BytesIO()
    imsave(buffer, np.ascontiguousarray(pixels), format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
