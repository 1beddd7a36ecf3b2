"""Galleries of adversarial images, as in the paper's Figures 1 to 3; PNG at one pixel per pixel."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from matplotlib.image import imsave

from ..runs import bisection
from .results import Result, Run

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
    """Rows of the same images, one per classifier."""

    number: int
    title: str
    strips: tuple[Strip, ...]


def galleries(run: Run) -> list[Gallery]:
    """Return the paper's Figures 1 to 3 from the first images of the stored cells."""
    both = (TOP, BOTTOM)
    shown = (
        (1, "Targeted attack of Madry et al.", [found_by_search(run, model) for model in both]),
        (2, "Targeted Momentum Iterative Method", [_at(run, "MIM", model) for model in both]),
        (3, "Targeted modified CWL2", [_at(run, "modified CWL2", BOTTOM)]),
    )
    found = []
    for number, title, results in shown:
        strips = (Strip(result, _pictures(run, result)) for result in results if result)
        found.append(Gallery(number, title, tuple(strips)))
    return [gallery for gallery in found if gallery.strips]


def found_by_search(run: Run, model: str) -> Result | None:
    """Return the targeted Madry cell of the smallest eps that always succeeds, else the largest.

    Those of Figure 1's search if there are any, else of the grid of Table 5.
    """
    own = list(run.select(targeted=True, column="Madry", model=model, source=None))
    by_value = {r.value: r for r in own if r.cell.probe} or {r.value: r for r in own}
    eps = bisection.outcome(by_value, {value: r.rate.value for value, r in by_value.items()})
    return None if eps is None else by_value[eps]


def _at(run: Run, column: str, model: str, value: float = 0.1) -> Result | None:
    return next(run.select(targeted=True, column=column, model=model, value=value), None)


def _pictures(run: Run, result: Result) -> tuple[Picture, ...]:
    """Return the first stored image of every class."""
    images = run.folder.read_images(result.key)["adversarial"]
    names = run.facts["data"]["class_names"]
    labels = result.rows["label"][: len(images)]
    places = [int(np.flatnonzero(labels == label)[0]) for label in np.unique(labels)]
    return tuple(
        Picture(
            png(images[place]),
            names[labels[place]],
            names[result.rows["decision"][place]],
            bool(result.rows["success"][place]),
        )
        for place in places[:10]
    )


def png(image: np.ndarray) -> str:
    """Return an image (C, H, W) with pixels in [0, 1] as a data address."""
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    buffer = io.BytesIO()
    imsave(buffer, np.ascontiguousarray(pixels), format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
