"""What the paper concludes in its section 5.6 on norms of convolutions, and whether ours agree."""

from collections.abc import Mapping

from ...paper.columns import CE, MSE
from ...spectral.bounds import LipschitzReport
from .comparisons import Conclusion

CAVEAT = (
    "A batch norm after a convolution undoes its scale: multiplying the weights by any number "
    "changes these norms but not the classifier. So they depend on weight decay and on the size of "
    "the loss's gradients as much as on robustness. The scale-free norm goes from one normalised "
    "signal to the next and does not depend on such a factor."
)


def conclusion(reports: Mapping[str, LipschitzReport]) -> Conclusion | None:
    """Return the sentence on section 5.6, "consistently smaller ... up to a factor of three".

    None unless both classifiers are there with the same convolutions.
    """
    if CE not in reports or MSE not in reports:
        return None
    ours, theirs = reports[CE].convolutions, reports[MSE].convolutions
    if not ours or [layer.name for layer in ours] != [layer.name for layer in theirs]:
        return None
    layers = list(zip(ours, theirs, strict=True))
    raw, free = (
        {one.name: getattr(one, norm) / getattr(other, norm) for one, other in layers}
        for norm in ("raw", "scale_free")
    )
    agrees, free_agrees = (all(ratio > 1 for ratio in ratios.values()) for ratios in (raw, free))
    return Conclusion(
        "5.6",
        f"The paper: the bounds of {MSE}'s convolutions are consistently smaller than those of "
        f"{CE}, by up to a factor of three. Here: {_words(raw)}; "
        f"{'this agrees' if agrees else 'this disagrees'}. Scale-free norms: {_words(free)}; "
        f"{'this agrees' if free_agrees else 'this disagrees'}.",
    )


def _words(ratios: Mapping[str, float]) -> str:
    """Return how many ratios by layer are above 1, and the largest."""
    smaller = sum(ratio > 1 for ratio in ratios.values())
    layer = max(ratios, key=lambda name: ratios[name])
    return (
        f"smaller in {smaller} of {len(ratios)} convolutions, by a factor of up to "
        f"{ratios[layer]:.2f} ({layer.removeprefix('net.')})"
    )


def sentences(reports: Mapping[str, LipschitzReport]) -> list[str]:
    """Return the sentence on section 5.6, and the caveat."""
    claim = conclusion(reports)
    return [claim.sentence, CAVEAT] if claim else [CAVEAT]
