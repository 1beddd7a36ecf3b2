"""Figure 4 and section 5.6 of the paper: norms of convolutions, compared between classifiers."""

from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.ticker import MaxNLocator

from ..models import checkpoint
from ..paper.columns import CE, CODED, MSE
from ..spectral.bounds import Layer, LipschitzReport, lipschitz
from ..train import missing
from .claims.claims import Conclusion
from .norm_tables import Reports
from .results import Run
from .svg import COLOURS, as_svg, dress, name_lines, side_by_side

CAVEAT = (
    "A batch norm behind a convolution undoes its scale: multiplying the weights by any number "
    "changes these norms and not the classifier, so that they say as much of weight decay and of "
    "the size of the loss's gradients as of robustness. The scale-free norm goes from one "
    "normalised signal to the next, which such a factor leaves alone."
)
IMAGES = 32  # clean images of a run that are looked at: the report stays a matter of seconds
EPS = (0.5,)  # L2 radius of the inequality's attack: the usual one for images of this size
_SHOWN = {CE: COLOURS[0], MSE: COLOURS[1], CODED: COLOURS[2]}


def of_run(run: Run) -> Reports:
    """Return the reports of the classifiers that a run folder holds, by name.

    None are there before images are stored, whose size it takes; what images say comes from the
    clean ones.

    Raises:
        CheckpointError: A checkpoint is damaged or foreign.
        StoreError: Images are.
    """
    stored = [r for r in run.results if run.folder.images_path(r.key).exists()]
    paths = {name: missing.checkpoint_path(run.folder.root, name) for name in run.plan.models}
    paths = {name: path for name, path in paths.items() if path.exists()}
    if not stored or not paths:
        return {}
    clean = [result for result in stored if result.cell.attack is None]
    first = (clean or stored)[0]
    images = run.folder.read_images(first.key)["adversarial"][:IMAGES]
    x, y = torch.tensor(images), torch.tensor(first.rows["label"][: len(images)])
    seen: dict[str, Any] = {"x": x, "y": y, "eps": EPS} if clean else {}
    size = x.shape[2], x.shape[3]
    found = {name: lipschitz(checkpoint.load(path), size, **seen) for name, path in paths.items()}
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


def sentences(reports: Reports) -> list[str]:
    """Return what becomes of the paper's claim, and the caveat."""
    drawn = conclusion(reports)
    return [drawn.sentence, CAVEAT] if drawn else [CAVEAT]
