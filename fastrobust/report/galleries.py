"""Galleries of adversarial images, as in the paper's Figures 1 to 3."""

from dataclasses import dataclass

import numpy as np

from ..paper.columns import CE, CODED
from ..runs import bisection
from .pictures import Picture, png
from .results import Result, Run


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
    both = (CE, CODED)  # the rows of the paper's galleries
    shown = (
        (1, "Targeted attack of Madry et al.", [found_by_search(run, model) for model in both]),
        (2, "Targeted Momentum Iterative Method", [_at(run, "MIM", model) for model in both]),
        (3, "Targeted modified CWL2", [_at(run, "modified CWL2", CODED)]),
    )
    figures = []
    for number, title, results in shown:
        strips = (Strip(result, _pictures(run, result)) for result in results if result)
        figures.append(Gallery(number, title, tuple(strips)))
    return [figure for figure in figures if figure.strips]


def found_by_search(run: Run, model: str) -> Result | None:
    """Return the targeted Madry cell of the smallest eps that always succeeds, else the largest.

    Those of Figure 1's search if there are any, else of the grid of Table 5.
    """
    madry = list(run.select(targeted=True, column="Madry", model=model, source=None))
    by_value = {r.value: r for r in madry if r.cell.probe} or {r.value: r for r in madry}
    eps = bisection.outcome(by_value, {value: r.rate.value for value, r in by_value.items()})
    return None if eps is None else by_value[eps]


def _at(run: Run, column: str, model: str, value: float = 0.1) -> Result | None:
    return next(run.select(targeted=True, column=column, model=model, value=value), None)


def _pictures(run: Run, result: Result) -> tuple[Picture, ...]:
    """Return the first stored image of every class."""
    images = run.folder.read_images(result.key)["adversarial"]
    names = run.facts["data"]["class_names"]
    labels = result.rows["label"][: len(images)]
    rows = [int(np.flatnonzero(labels == label)[0]) for label in np.unique(labels)]
    return tuple(
        Picture(
            png(images[row]),
            names[labels[row]],
            names[result.rows["decision"][row]],
            bool(result.rows["success"][row]),
        )
        for row in rows[:10]
    )
